//! Input rows in the forms that kernels take them: normed once, then brought into each form that a call needs, and
//! padded with zeros.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::kernel::{Input, Shape};
use super::{Norm, PADDING};
use crate::SharedMut;
use crate::isa::{Isa, kernel};
use crate::memory::{Line, Lines};
use crate::pool::Pool;
use crate::quant::{self, BLOCK};
use crate::simd::{Simd, f32_to_bf16};

/// Rows above which preparing them is shared among the workers.
pub(super) const SHARED: usize = 16;
/// Columns that are normed before the forms take them: few enough to stay in the first-level cache.
const STRETCH: usize = 8 * PADDING;

/// A form of input rows. The lines of memory that it asks for belong to it alone.
pub(super) trait Form: Sync {
    /// Lines of memory for all rows.
    fn lines(&self, shape: Shape) -> usize;

    /// Puts the columns from `first` on of a row in their place: `part`, a multiple of [`PADDING`] long.
    ///
    /// # Safety
    /// `isa` must be available; `out` has [`Form::lines`], and no one else writes this row.
    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>);

    /// Groups of rows to be packed once all rows are in their place.
    fn groups(&self, _: Shape) -> usize {
        0
    }

    /// Packs a group.
    ///
    /// # Safety
    /// As [`Form::put`], for the group.
    unsafe fn pack(&self, _: Shape, _group: usize, _: SharedMut<Line>) {}
}

/// The forms, by their place in [`FORMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormId {
    Floats,
    Halves,
    Bytes,
    #[cfg(target_arch = "x86_64")]
    FloatPairs,
    #[cfg(target_arch = "x86_64")]
    HalfTiles,
    #[cfg(target_arch = "x86_64")]
    ByteTiles,
}

/// All forms, in the order of [`FormId`].
const FORMS: &[(FormId, &dyn Form)] = &[
    (FormId::Floats, &Floats),
    (FormId::Halves, &Halves),
    (FormId::Bytes, &Bytes),
    #[cfg(target_arch = "x86_64")]
    (FormId::FloatPairs, &FloatPairs),
    #[cfg(target_arch = "x86_64")]
    (FormId::HalfTiles, &amx::HalfTiles),
    #[cfg(target_arch = "x86_64")]
    (FormId::ByteTiles, &amx::integer::ByteTiles),
];

/// f32, row by row.
pub(super) struct Floats;

impl Floats {
    /// Where a row begins, and the bytes from one row to the next.
    pub fn row(input: Input, row: usize) -> (*const u8, usize) {
        let pitch = 4 * input.shape.stride;
        (input.at.wrapping_add(row * pitch), pitch)
    }
}

impl Form for Floats {
    fn lines(&self, shape: Shape) -> usize {
        shape.rows * shape.stride / 16
    }

    unsafe fn put(&self, _: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        let rows = out.cast::<f32>();
        // SAFETY: the caller's promise.
        unsafe { rows.slice(row * shape.stride + first, part.len()) }.copy_from_slice(part);
    }
}

/// f32, row by row; of every 16 columns first the even ones, then the odd ones.
#[cfg(target_arch = "x86_64")]
pub(super) struct FloatPairs;

#[cfg(target_arch = "x86_64")]
impl FloatPairs {
    /// Where a row begins, and the bytes from one row to the next.
    pub fn row(input: Input, row: usize) -> (*const u8, usize) {
        Floats::row(input, row)
    }
}

#[cfg(target_arch = "x86_64")]
impl Form for FloatPairs {
    fn lines(&self, shape: Shape) -> usize {
        Floats.lines(shape)
    }

    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        // SAFETY: the caller's promise.
        unsafe { pairs(isa, part, out.cast::<f32>().slice(row * shape.stride + first, part.len())) };
    }
}

#[cfg(target_arch = "x86_64")]
kernel! {
    /// Even columns before odd ones, 16 at a time.
    fn pairs(part: &[f32], to: &mut [f32]) = pairs_generic
}

// Plain code: what the kernel adds is the compiler's leave to use the instruction set.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn pairs_generic<S: Simd>(part: &[f32], to: &mut [f32]) {
    for (to, part) in to.chunks_exact_mut(16).zip(part.chunks_exact(16)) {
        for i in 0..8 {
            to[i] = part[2 * i];
            to[8 + i] = part[2 * i + 1];
        }
    }
}

/// bf16, row by row.
pub(super) struct Halves;

impl Halves {
    /// Where a row begins, and the bytes from one row to the next.
    pub fn row(input: Input, row: usize) -> (*const u8, usize) {
        let pitch = 2 * input.shape.stride;
        (input.at.wrapping_add(row * pitch), pitch)
    }
}

impl Form for Halves {
    fn lines(&self, shape: Shape) -> usize {
        shape.rows * shape.stride / 32
    }

    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        // SAFETY: the caller's promise.
        unsafe { halves(isa, part, out.cast::<u16>().slice(row * shape.stride + first, part.len())) };
    }
}

kernel! {
    /// f32 to bf16.
    pub(super) fn halves(part: &[f32], to: &mut [u16]) = halves_generic
}

// Plain code: what the kernel adds is the compiler's leave to use the instruction set.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn halves_generic<S: Simd>(part: &[f32], to: &mut [u16]) {
    to.iter_mut().zip(part).for_each(|(h, v)| *h = f32_to_bf16(*v));
}

/// 8 bits, row by row; after all rows, for each block of 32 of each row its scale and sum ([`quant::quantize_row`]).
pub(super) struct Bytes;

impl Bytes {
    /// Where a row of values begins (rows are [`Shape::stride`] bytes apart), and the scales and sums of its blocks.
    pub fn row(input: Input, row: usize) -> (*const i8, *const [f32; 2]) {
        let Shape { rows, stride } = input.shape;
        let blocks = input.at.wrapping_add(rows * stride).cast::<[f32; 2]>();
        (input.at.wrapping_add(row * stride).cast(), blocks.wrapping_add(row * (stride / BLOCK)))
    }
}

impl Form for Bytes {
    fn lines(&self, shape: Shape) -> usize {
        (shape.rows * shape.stride + shape.rows * (shape.stride / BLOCK) * 8).div_ceil(64)
    }

    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        let Shape { rows, stride } = shape;
        let block = rows * stride / 8 + row * (stride / BLOCK) + first / BLOCK;
        // SAFETY: the caller's promise; a line holds 64 bytes or 8 pairs of scale and sum.
        unsafe {
            let (values, blocks) = (out.cast::<i8>(), out.cast::<[f32; 2]>());
            let values = values.slice(row * stride + first, part.len());
            quantize(isa, part, values, blocks.slice(block, part.len() / BLOCK));
        }
    }
}

kernel! {
    /// A stretch of a row in 8 bits.
    pub(super) fn quantize(part: &[f32], values: &mut [i8], blocks: &mut [[f32; 2]]) = quantize_generic
}

// Plain code, as above.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn quantize_generic<S: Simd>(part: &[f32], values: &mut [i8], blocks: &mut [[f32; 2]]) {
    // Lengths that the compiler knows, so that no loop has a remainder.
    let (parts, values) = (part.as_chunks::<PADDING>().0, values.as_chunks_mut::<PADDING>().0);
    let blocks = blocks.as_chunks_mut::<{ PADDING / BLOCK }>().0;
    for ((part, values), blocks) in parts.iter().zip(values).zip(blocks) {
        quant::quantize_row(part, values, blocks);
    }
}

/// Input rows of a call: all of `x`, or picked ones.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub x: &'a [f32],
    /// Numbers of a row.
    pub width: usize,
    pub picked: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub fn count(self) -> usize {
        self.picked.map_or(self.x.len() / self.width, <[u32]>::len)
    }

    fn row(self, i: usize) -> &'a [f32] {
        let i = self.picked.map_or(i, |picked| picked[i] as usize);
        &self.x[i * self.width..(i + 1) * self.width]
    }
}

/// The rows of a call in every form that its kernels need; the memory is kept from call to call.
#[derive(Default)]
pub(super) struct Prepared {
    lines: [Lines; FORMS.len()],
}

impl Prepared {
    /// Norms the rows of `x` and brings them into the forms.
    pub fn fill(&mut self, pool: &mut Pool, isa: Isa, x: Rows<'_>, norm: Option<Norm<'_>>, needed: &[FormId]) {
        let shape = Shape { rows: x.count(), stride: x.width.next_multiple_of(PADDING) };
        if let Some(norm) = norm {
            assert_eq!(norm.weight.len(), x.width, "length of the norm's weight");
        }
        let mut forms: [Option<(&dyn Form, SharedMut<Line>)>; FORMS.len()] = [None; FORMS.len()];
        for ((slot, (id, form)), lines) in forms.iter_mut().zip(FORMS).zip(&mut self.lines) {
            if needed.contains(id) {
                *slot = Some((*form, SharedMut::new(lines.at_least(form.lines(shape)))));
            }
        }
        let one = |r: usize| {
            // SAFETY: each row is prepared by one task only; `isa` is available.
            unsafe { row(isa, isa, x.row(r), norm, shape, r, &forms) };
        };
        if shape.rows <= SHARED {
            (0..shape.rows).for_each(one);
        } else {
            pool.run(shape.rows, one);
        }
        for (form, out) in forms.iter().flatten() {
            // SAFETY: each group is packed by one task only. A single one, as in decode, runs here without waking a
            // worker.
            pool.run(form.groups(shape), |group| unsafe { form.pack(shape, group, *out) });
        }
    }

    /// The rows in a form.
    pub fn input(&mut self, form: FormId, shape: Shape) -> Input {
        Input { at: self.lines[form as usize].at_least(0).as_ptr().cast(), shape, first: 0 }
    }
}

kernel! {
    /// Norms a row and hands it to its forms, stretch by stretch.
    fn row(
        chosen: Isa,
        x: &[f32],
        norm: Option<Norm<'_>>,
        shape: Shape,
        r: usize,
        forms: &[Option<(&dyn Form, SharedMut<Line>)>],
    ) = row_generic
}

#[inline(always)]
unsafe fn row_generic<S: Simd>(
    isa: Isa,
    x: &[f32],
    norm: Option<Norm<'_>>,
    shape: Shape,
    r: usize,
    forms: &[Option<(&dyn Form, SharedMut<Line>)>],
) {
    let scale = match norm {
        // SAFETY: the caller's promise.
        Some(norm) => unsafe { crate::ops::rms_scale::<S>(x, norm.eps) },
        None => 1.0,
    };
    let mut space = [0.0; STRETCH];
    for (i, x) in x.chunks(STRETCH).enumerate() {
        let first = i * STRETCH;
        let part = &mut space[..x.len().next_multiple_of(PADDING)];
        part[x.len()..].fill(0.0);
        match norm {
            Some(norm) => {
                let weight = &norm.weight[first..][..x.len()];
                for ((part, x), w) in part.iter_mut().zip(x).zip(weight) {
                    *part = x * scale * w;
                }
            }
            None => part[..x.len()].copy_from_slice(x),
        }
        for (form, out) in forms.iter().flatten() {
            // SAFETY: the caller's promise.
            unsafe { form.put(isa, shape, r, first, part, *out) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_stand_in_the_order_of_their_names() {
        for (i, (id, _)) in FORMS.iter().enumerate() {
            assert_eq!(*id as usize, i);
        }
    }
}
