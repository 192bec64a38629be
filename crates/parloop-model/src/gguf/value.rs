//! Metadata values: numbers, truth values, strings, and arrays of these.

use super::reader::Reader;

/// Keys and values in the order in which they are written.
pub(super) type Pairs = Vec<(String, Value)>;

/// Deepest nesting of arrays that is read. Known files use one level.
pub(super) const DEPTH: usize = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// 8 bits without a sign.
    U8(u8),
    /// 8 bits with a sign.
    I8(i8),
    /// 16 bits without a sign.
    U16(u16),
    /// 16 bits with a sign.
    I16(i16),
    /// 32 bits without a sign.
    U32(u32),
    /// 32 bits with a sign.
    I32(i32),
    /// Single precision.
    F32(f32),
    /// A truth value, one byte in the file.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one kind.
    Array(Array),
    /// 64 bits without a sign.
    U64(u64),
    /// 64 bits with a sign.
    I64(i64),
    /// Double precision.
    F64(f64),
}

/// The numbers by which the file names kinds of values, in the order of [`Value`].
pub(super) mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;

    /// Fewest bytes that a value of a kind takes; `None` for an unknown kind.
    pub fn least_bytes(kind: u32) -> Option<usize> {
        Some(match kind {
            U8 | I8 | BOOL => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            STRING | U64 | I64 | F64 => 8,
            ARRAY => 12,
            _ => return None,
        })
    }
}

/// Values of one kind, kept as the file's bytes: a vocabulary of a million strings takes no more room than in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    kind: u32,
    count: usize,
    bytes: Vec<u8>,
}

impl Array {
    /// Takes over bytes that were found to hold `count` values of a kind.
    pub(super) fn checked(kind: u32, count: usize, bytes: Vec<u8>) -> Self {
        Self { kind, count, bytes }
    }

    /// An array of texts.
    pub fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::collect(kind::STRING, texts, put_string)
    }

    /// An array of 32-bit numbers with a sign.
    pub fn i32s(values: impl IntoIterator<Item = i32>) -> Self {
        Self::collect(kind::I32, values, |v, bytes| bytes.extend(v.to_le_bytes()))
    }

    /// An array of single-precision numbers.
    pub fn f32s(values: impl IntoIterator<Item = f32>) -> Self {
        Self::collect(kind::F32, values, |v, bytes| bytes.extend(v.to_le_bytes()))
    }

    /// An array of bytes.
    pub fn u8s(values: impl IntoIterator<Item = u8>) -> Self {
        Self::collect(kind::U8, values, |v, bytes| bytes.push(v))
    }

    fn collect<T>(kind: u32, values: impl IntoIterator<Item = T>, mut put: impl FnMut(T, &mut Vec<u8>)) -> Self {
        let (mut count, mut bytes) = (0, Vec::new());
        for value in values {
            put(value, &mut bytes);
            count += 1;
        }
        Self { kind, count, bytes }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values one by one.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let mut reader = Reader::new(&self.bytes);
        // The bytes were walked through when the array was made, so no value fails to be read here.
        (0..self.count).map_while(move |_| reader.value(self.kind, DEPTH).ok())
    }

    /// The texts of an array of strings; `None` for other kinds.
    pub fn texts(&self) -> Option<Vec<String>> {
        let text = |value| if let Value::String(text) = value { Some(text) } else { None };
        self.values().map(text).collect()
    }

    /// The values as whole numbers; `None` if one is none.
    pub fn integers(&self) -> Option<Vec<i64>> {
        self.values().map(|v| v.integer()).collect()
    }

    /// The values as numbers; `None` if one is none.
    pub fn numbers(&self) -> Option<Vec<f32>> {
        self.values().map(|v| v.number()).collect()
    }

    /// The bytes of an array of bytes; `None` for other kinds.
    pub fn raw(&self) -> Option<&[u8]> {
        matches!(self.kind, kind::U8 | kind::I8).then_some(&self.bytes)
    }
}

impl Value {
    /// The number by which the file names this kind.
    pub(super) fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => kind::U8,
            Self::I8(_) => kind::I8,
            Self::U16(_) => kind::U16,
            Self::I16(_) => kind::I16,
            Self::U32(_) => kind::U32,
            Self::I32(_) => kind::I32,
            Self::F32(_) => kind::F32,
            Self::Bool(_) => kind::BOOL,
            Self::String(_) => kind::STRING,
            Self::Array(_) => kind::ARRAY,
            Self::U64(_) => kind::U64,
            Self::I64(_) => kind::I64,
            Self::F64(_) => kind::F64,
        }
    }

    /// Appends the value as the file holds it, without its kind.
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::U8(v) => bytes.push(*v),
            Self::I8(v) => bytes.push(*v as u8),
            Self::U16(v) => bytes.extend(v.to_le_bytes()),
            Self::I16(v) => bytes.extend(v.to_le_bytes()),
            Self::U32(v) => bytes.extend(v.to_le_bytes()),
            Self::I32(v) => bytes.extend(v.to_le_bytes()),
            Self::F32(v) => bytes.extend(v.to_le_bytes()),
            Self::Bool(v) => bytes.push(u8::from(*v)),
            Self::String(text) => put_string(text, bytes),
            Self::Array(array) => {
                bytes.extend(array.kind.to_le_bytes());
                bytes.extend((array.count as u64).to_le_bytes());
                bytes.extend(&array.bytes);
            }
            Self::U64(v) => bytes.extend(v.to_le_bytes()),
            Self::I64(v) => bytes.extend(v.to_le_bytes()),
            Self::F64(v) => bytes.extend(v.to_le_bytes()),
        }
    }

    /// A whole number of any width; `None` for other kinds, or beyond 63 bits.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::U8(v) => Some((*v).into()),
            Self::I8(v) => Some((*v).into()),
            Self::U16(v) => Some((*v).into()),
            Self::I16(v) => Some((*v).into()),
            Self::U32(v) => Some((*v).into()),
            Self::I32(v) => Some((*v).into()),
            Self::U64(v) => (*v).try_into().ok(),
            Self::I64(v) => Some(*v),
            _ => None,
        }
    }

    /// A number of any kind as f32.
    pub fn number(&self) -> Option<f32> {
        match self {
            Self::F32(v) => Some(*v),
            Self::F64(v) => Some(*v as f32),
            other => other.integer().map(|v| v as f32),
        }
    }
}

pub(super) fn put_string(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
