//! What attention over some positions leaves behind, so that it can be continued or merged.

use crate::kv::TILE;
use crate::simd::Simd;

/// Outputs, sums and maxima of some queries over some positions.
pub(super) struct Part<'a> {
    /// `[queries][Dp]`, D rounded up to 16; not yet divided by the sums.
    pub o: &'a mut [f32],
    /// `[queries][16]`, running sums of the exponentials by lane.
    pub sums: &'a mut [f32],
    /// `[queries]`, running maxima; minus infinity while a query has seen no position.
    pub maxima: &'a mut [f32],
}

impl<'a> Part<'a> {
    /// Numbers of a part.
    pub fn size(queries: usize, dim: usize) -> usize {
        queries * (dim.next_multiple_of(TILE) + TILE + 1)
    }

    /// The part that `space` holds.
    #[inline(always)]
    pub fn new(queries: usize, dim: usize, space: &'a mut [f32]) -> Self {
        let (o, rest) = space.split_at_mut(queries * dim.next_multiple_of(TILE));
        let (sums, rest) = rest.split_at_mut(queries * TILE);
        Self { o, sums, maxima: &mut rest[..queries] }
    }

    /// Nothing attended yet.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.o.fill(0.0);
        self.sums.fill(0.0);
        self.maxima.fill(f32::NEG_INFINITY);
    }

    /// The output of a query, `[Dp]`.
    #[inline(always)]
    pub fn of(&self, query: usize) -> &[f32] {
        let padded = self.o.len() / self.maxima.len();
        &self.o[query * padded..(query + 1) * padded]
    }

    /// Takes in the part of later positions: both are brought to the larger maximum and added. A query that has no
    /// positions there stays as it is, to the bit.
    #[inline(always)]
    pub unsafe fn merge<S: Simd>(&mut self, later: &[f32]) {
        let queries = self.maxima.len();
        let padded = self.o.len() / queries;
        let (o, rest) = later.split_at(queries * padded);
        let (sums, maxima) = rest.split_at(queries * TILE);
        for i in 0..queries {
            let (own, other) = (self.maxima[i], maxima[i]);
            if other == f32::NEG_INFINITY {
                continue;
            }
            let most = own.max(other);
            // SAFETY: the caller's promise; a buffer for the lanes of any instruction set.
            let (a, b) = unsafe { (exp::<S>(own - most), exp::<S>(other - most)) };
            for (x, y) in self.o[i * padded..(i + 1) * padded].iter_mut().zip(&o[i * padded..]) {
                *x = a * *x + b * y;
            }
            for (x, y) in self.sums[i * TILE..(i + 1) * TILE].iter_mut().zip(&sums[i * TILE..]) {
                *x = a * *x + b * y;
            }
            self.maxima[i] = most;
        }
    }

    /// Divides the outputs by the sums: softmax is done.
    #[inline(always)]
    pub unsafe fn divide<S: Simd>(&mut self) {
        let padded = self.o.len() / self.maxima.len();
        for (o, sums) in self.o.chunks_exact_mut(padded).zip(self.sums.chunks_exact(TILE)) {
            // SAFETY: the caller's promise; TILE sums.
            let factor = 1.0 / unsafe { lanes::<S>(sums) };
            o.iter_mut().for_each(|o| *o *= factor);
        }
    }
}

/// e^x of one number.
#[inline(always)]
unsafe fn exp<S: Simd>(x: f32) -> f32 {
    let mut lanes = [0.0; TILE];
    // SAFETY: the caller's promise; no instruction set has more than TILE lanes.
    unsafe { S::store(lanes.as_mut_ptr(), S::exp(S::splat(x))) };
    lanes[0]
}

/// The sum of 16 running sums.
#[inline(always)]
unsafe fn lanes<S: Simd>(sums: &[f32]) -> f32 {
    // SAFETY: `sums` holds TILE floats, a multiple of LANES.
    unsafe {
        let mut v = S::load(sums.as_ptr());
        let mut i = S::LANES;
        while i < TILE {
            v = S::add(v, S::load(sums[i..].as_ptr()));
            i += S::LANES;
        }
        S::reduce_add(v)
    }
}
