//! Reads little-endian values from bytes, every length checked before it is used.

use super::value::{Array, DEPTH, Value, kind};

/// What is wrong, as the end of a sentence about the file.
pub(super) type Result<T> = std::result::Result<T, String>;

/// A place in bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes already read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(format!("ends at byte {}, in the middle of its header; fetch it again", self.bytes.len()));
        }
        let bytes = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `least` bytes each, which the rest of the bytes must be able to hold.
    pub fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let found = self.u64()?;
        usize::try_from(found)
            .ok()
            .filter(|n| n.checked_mul(least).is_some_and(|b| b <= self.left()))
            .ok_or_else(|| format!("claims {found} {what}, but only {} bytes follow; it is cut or broken", self.left()))
    }

    /// A text, copied before it is looked at: another process may write the file.
    pub fn string(&mut self) -> Result<String> {
        let length = self.count("bytes of text", 1)?;
        let at = self.at;
        String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| format!("holds a text at byte {at} that is not UTF-8"))
    }

    /// A value of a kind; arrays may nest `depth` times.
    pub fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            kind::U8 => Value::U8(self.array::<1>()?[0]),
            kind::I8 => Value::I8(self.array::<1>()?[0] as i8),
            kind::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            kind::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            kind::U32 => Value::U32(self.u32()?),
            kind::I32 => Value::I32(self.u32()? as i32),
            kind::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            kind::BOOL => Value::Bool(self.bool()?),
            kind::STRING => Value::String(self.string()?),
            kind::ARRAY => {
                let (kind, count, start) = self.walk_array(depth)?;
                Value::Array(Array::checked(kind, count, self.bytes[start..self.at].to_vec()))
            }
            kind::U64 => Value::U64(self.u64()?),
            kind::I64 => Value::I64(self.u64()? as i64),
            kind::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("holds a metadata value of unknown kind {other}; it is broken or newer")),
        })
    }

    fn bool(&mut self) -> Result<bool> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("holds the truth value {other} at byte {}, expected 0 or 1", self.at - 1)),
        }
    }

    /// Passes over an array and checks it: kind and number of its values, and where they start.
    fn walk_array(&mut self, depth: usize) -> Result<(u32, usize, usize)> {
        if depth == 0 {
            return Err(format!("nests arrays more than {DEPTH} deep"));
        }
        let kind = self.u32()?;
        let least = kind::least_bytes(kind).ok_or_else(|| format!("holds an array of unknown kind {kind}"))?;
        let count = self.count("values in an array", least)?;
        let start = self.at;
        match kind {
            kind::STRING => (0..count).try_for_each(|_| self.string().map(|_| ()))?,
            kind::ARRAY => (0..count).try_for_each(|_| self.walk_array(depth - 1).map(|_| ()))?,
            kind::BOOL => (0..count).try_for_each(|_| self.bool().map(|_| ()))?,
            _ => self.take(count * least).map(|_| ())?,
        }
        Ok((kind, count, start))
    }
}
