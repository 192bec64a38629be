//! A tensor of a checkpoint: a window into shared bytes, whatever its element type.

use crate::DType;
use crate::bytes::SharedBytes;
use crate::dtype::codec;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A tensor inside a checkpoint: a window into shared bytes, nothing copied.
#[derive(Clone)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
    source: SharedBytes,
    start: usize,
    end: usize,
    /// D if the rows of each head of D are stored in pairs ([`stored_row`]), otherwise 0.
    paired: usize,
}

/// Where row `i` of a query or key projection stands when heads of `head` rows are stored for rotary embedding of
/// neighbours: first half and second half alternate. Row h D + s D/2 + j stands at h D + 2 j + s, s in {0, 1}.
pub fn stored_row(i: usize, head: usize) -> usize {
    let (first, within, half) = (i / head * head, i % head, head / 2);
    first + 2 * (within % half) + within / half
}

impl Tensor {
    /// The tensor that lies in `source` at `range`; `None` unless the range lies inside it and holds exactly the
    /// bytes of that shape, with whole blocks in every row.
    pub fn new(dtype: DType, shape: Vec<usize>, source: SharedBytes, range: Range<usize>) -> Option<Self> {
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, s| n.checked_mul(*s))?;
        let bytes = dtype.row_bytes(shape.last().copied().unwrap_or(1))?.checked_mul(rows)?;
        let found = (*source).as_ref().get(range.clone())?.len();
        (bytes == found).then_some(Self { dtype, shape, source, start: range.start, end: range.end, paired: 0 })
    }

    /// A tensor of f32 values in memory; `None` if the shape does not hold exactly these.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Option<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self::new(DType::F32, shape, Arc::new(bytes), range)
    }

    /// The same tensor, its rows read as those of heads of `head` rows that are stored in pairs ([`stored_row`]).
    /// `None` unless the heads are of even size and fill the tensor.
    pub(crate) fn paired(self, head: usize) -> Option<Self> {
        (head > 0 && head.is_multiple_of(2) && self.rows().is_multiple_of(head))
            .then_some(Self { paired: head, ..self })
    }

    /// Rows `first ..` of this tensor in place, as one of this shape; `None` unless there are as many.
    pub(crate) fn part(&self, first: usize, shape: Vec<usize>) -> Option<Self> {
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, s| n.checked_mul(*s))?;
        let fits = self.paired == 0 && shape.last() == self.shape.last() && first.checked_add(rows)? <= self.rows();
        let size = self.byte_len() / self.rows().max(1);
        let (start, end) = (self.start + first * size, self.start + (first + rows) * size);
        fits.then(|| Self { shape, start, end, source: self.source.clone(), ..*self })
    }

    /// The rows of several tensors of one type, one after the other, copied; `None` if types or sizes differ.
    pub(crate) fn stacked(parts: &[&Self], shape: Vec<usize>) -> Option<Self> {
        let dtype = parts.first()?.dtype;
        let same = parts.iter().all(|part| part.dtype == dtype && part.width() == parts[0].width());
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().into_owned()).collect();
        let range = 0..bytes.len();
        same.then(|| Self::new(dtype, shape, Arc::new(bytes), range)).flatten()
    }

    /// A vector as a matrix of one row.
    pub(crate) fn into_row(self) -> Self {
        match self.shape[..] {
            [width] => Self { shape: vec![1, width], ..self },
            _ => self,
        }
    }

    /// Rows of the tensor; a vector is one row.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of the whole tensor.
    pub fn byte_len(&self) -> usize {
        self.end - self.start
    }

    fn stored(&self) -> &[u8] {
        &(*self.source).as_ref()[self.start..self.end]
    }

    /// The stored bytes of row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Tensor::rows`].
    pub fn row_bytes(&self, i: usize) -> &[u8] {
        let size = self.byte_len() / self.rows();
        let i = if self.paired > 0 { stored_row(i, self.paired) } else { i };
        &self.stored()[i * size..(i + 1) * size]
    }

    /// Writes row `i` as f32 to `out`.
    ///
    /// # Panics
    /// If `i` is not below [`Tensor::rows`] or `out` is not [`Tensor::width`] long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.width(), "length of a row");
        codec::decode(self.dtype, self.row_bytes(i), out);
    }

    /// The bytes of all rows in order, copied only if the file has them in another order.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.paired {
            0 => Cow::Borrowed(self.stored()),
            _ => Cow::Owned((0..self.rows()).flat_map(|i| self.row_bytes(i)).copied().collect()),
        }
    }

    /// The bytes' owner and the place of this tensor in it, for in-place use; copied only if the file has the rows in
    /// another order.
    pub fn shared(&self) -> (Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>) {
        match self.bytes() {
            Cow::Borrowed(_) => (self.source.clone(), self.start..self.end),
            Cow::Owned(bytes) => {
                let range = 0..bytes.len();
                (Arc::new(bytes), range)
            }
        }
    }

    /// Says that the tensor was taken over and will hardly be read again: what a mapped file holds of it may leave
    /// memory until then.
    pub fn release(&self) {
        self.source.release(self.start..self.end);
    }

    /// The elements as f32, copied.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows() * self.width()];
        if self.width() > 0 {
            values.chunks_exact_mut(self.width()).enumerate().for_each(|(i, row)| self.row(i, row));
        }
        values
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype.name(), self.shape)
    }
}
