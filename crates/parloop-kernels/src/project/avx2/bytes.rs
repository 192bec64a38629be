//! Quantised weights: the sums of a block stay integers of 16 bits as long as they fit, and up to four rows share each
//! weight that was unpacked.
//!
//! Values of 0 to 15 times signed bytes leave room to add the eight products of a lane and a block in 16 bits
//! (8 x 2 x 15 x 127 = 30480), so only the sum of a block is widened. Values of 8 bits are multiplied as magnitudes
//! with inputs that take on their signs. Integers are exact whatever the way, so all instruction sets with 256 bits
//! give the same bits.

use crate::memory::{Line, Lines};
use crate::project::form::{Bytes, FormId};
use crate::project::kernel::{Input, Kernel, Shape, Task};
use crate::project::packed::{EIGHT, bits, block_sum};
use crate::project::results::{self, Results, TILE, Tiles};
use crate::quant::{BLOCK, GROUP, SCALES};
use crate::simd::{Avx2, Avx2Vnni, Simd, Target, Work};
use crate::weights::Weights;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, compiler_fence};

/// Groups of four inputs of a block.
const GROUPS: usize = BLOCK / GROUP;
/// Rows in flight: their sums for 16 outputs take half of the registers.
const ROWS: usize = 4;
/// Parts of a tile that are read side by side, each summed by itself: the hardware fetches several streams sooner
/// than one, because it follows each only to the end of its page.
const STREAMS: usize = 2;
/// How far ahead of its use a stream of weights is fetched, in bytes.
const AHEAD: usize = 3 << 10;
/// Rows from which [`Many`] is faster.
pub(in crate::project) const LEAST: usize = 9;
/// Superblocks of a stretch of the inner dimension, and rows of a task ([`Many`]): the inputs of a stretch stay in a
/// core's second-level cache, its weights in the first.
const DEPTH: usize = 16;
const MANY: usize = 128;

/// How sums of products of bytes are formed.
///
/// # Safety
/// The target's instructions must be available.
#[allow(clippy::missing_safety_doc)] // Stated once, above.
pub(in crate::project) trait Sums: 'static {
    /// What it needs.
    type T: Target<S = Avx2>;
    /// 8-bit weights as they are multiplied.
    type W: Copy;
    /// What stays added to 8-bit weights.
    const OFFSET: i32;
    /// As reports name it.
    const NAME: &'static str;

    /// 8-bit weights from bytes that have 128 added.
    unsafe fn ready(raw: __m256i) -> Self::W;
    /// Adds the products of four bytes to 32-bit lanes.
    unsafe fn add_eight(sum: __m256i, w: Self::W, x: __m256i) -> __m256i;
    /// Adds products of values of 0 to 15 to the running sum of a block.
    unsafe fn add_four(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// The sum of a block in 32-bit lanes.
    unsafe fn end_four(sum: __m256i) -> __m256i;
}

impl Sums for Avx2 {
    type T = Self;
    /// Weights and their magnitudes.
    type W = [__m256i; 2];
    const OFFSET: i32 = 0;
    const NAME: &'static str = "products of bytes in 256 bits";

    #[inline(always)]
    unsafe fn ready(raw: __m256i) -> [__m256i; 2] {
        // SAFETY: the trait's contract.
        unsafe {
            let w = _mm256_xor_si256(raw, _mm256_set1_epi8(-128));
            [w, _mm256_abs_epi8(w)]
        }
    }
    #[inline(always)]
    unsafe fn add_eight(sum: __m256i, [w, size]: [__m256i; 2], x: __m256i) -> __m256i {
        // SAFETY: the trait's contract. Pairs stay below 2 x 127 x 127.
        unsafe {
            let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn add_four(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn end_four(sum: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) }
    }
}

impl Sums for Avx2Vnni {
    type T = Self;
    type W = __m256i;
    const OFFSET: i32 = 128;
    const NAME: &'static str = "dot products of bytes in 256 bits";

    #[inline(always)]
    unsafe fn ready(raw: __m256i) -> __m256i {
        raw
    }
    #[inline(always)]
    unsafe fn add_eight(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }
    #[inline(always)]
    unsafe fn add_four(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }
    #[inline(always)]
    unsafe fn end_four(sum: __m256i) -> __m256i {
        sum
    }
}

/// Input rows: values `pitch` bytes apart, and scale and sum of each block of 32.
#[derive(Clone, Copy)]
struct Rows {
    at: *const i8,
    pitch: usize,
    blocks: *const [f32; 2],
}

impl Rows {
    fn new(input: Input, row: usize) -> Self {
        let (at, blocks) = Bytes::row(input, row);
        Self { at, pitch: input.shape.stride, blocks }
    }
}

/// Adds a superblock of 16 outputs, which holds the inputs' blocks `b` and `b + 1`, to the sums of R rows.
///
/// # Safety
/// The instructions must be available, `at` a whole superblock, and the blocks inside the rows.
#[inline(always)]
unsafe fn superblock<D: Sums, const KIND: u8, const R: usize>(
    at: *const u8,
    b: usize,
    rows: Rows,
    acc: &mut [[__m256; 2]; R],
) {
    let bits = bits(KIND);
    let offset = if KIND == EIGHT { D::OFFSET } else { bits.offset() };
    let per_row = rows.pitch / BLOCK;
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            let values = at.add(bits.header() + half * bits.block_bytes());
            let x = rows.at.add((b + half) * BLOCK).cast::<u8>();
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            // For several rows a length that the compiler does not know: with its loop unrolled whole, the loads of all
            // groups came first, and half of the instructions moved registers to memory and back.
            let of_rows = |groups| if R == 1 { groups } else { black_box(groups) };
            if KIND == EIGHT {
                for g in 0..of_rows(GROUPS) {
                    let w = [D::ready(load(values.add(64 * g))), D::ready(load(values.add(64 * g + 32)))];
                    for r in 0..R {
                        let x = broadcast(x.add(r * rows.pitch + GROUP * g));
                        for h in 0..2 {
                            sums[r][h] = D::add_eight(sums[r][h], w[h], x);
                        }
                    }
                }
            } else {
                let mask = _mm256_set1_epi8(0x0F);
                for g in 0..of_rows(GROUPS / 2) {
                    let both = [load(values.add(64 * g)), load(values.add(64 * g + 32))];
                    let low = [_mm256_and_si256(both[0], mask), _mm256_and_si256(both[1], mask)];
                    for r in 0..R {
                        let x = broadcast(x.add(r * rows.pitch + GROUP * g));
                        for h in 0..2 {
                            sums[r][h] = D::add_four(sums[r][h], low[h], x);
                        }
                    }
                    let high = [
                        _mm256_and_si256(_mm256_srli_epi16::<4>(both[0]), mask),
                        _mm256_and_si256(_mm256_srli_epi16::<4>(both[1]), mask),
                    ];
                    for r in 0..R {
                        let x = broadcast(x.add(r * rows.pitch + GROUP * (g + GROUPS / 2)));
                        for h in 0..2 {
                            sums[r][h] = D::add_four(sums[r][h], high[h], x);
                        }
                    }
                }
            }
            let header = at.cast::<u16>().add(half * TILE);
            let scales = [Avx2::load_f16(header), Avx2::load_f16(header.add(8))];
            for r in 0..R {
                let [scale, sum] = *rows.blocks.add(r * per_row + b + half);
                let shift = _mm256_set1_epi32(offset * sum.to_bits() as i32);
                let scale_of_row = _mm256_set1_ps(scale);
                for h in 0..2 {
                    let dot = if KIND == EIGHT { sums[r][h] } else { D::end_four(sums[r][h]) };
                    let dot = if offset == 0 { dot } else { _mm256_sub_epi32(dot, shift) };
                    let product = _mm256_mul_ps(scales[h], scale_of_row);
                    acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), product, acc[r][h]);
                    if bits.has_min() {
                        let minima = Avx2::load_f16(header.add(SCALES / 2 + 8 * h));
                        acc[r][h] = _mm256_fmadd_ps(minima, _mm256_set1_ps(block_sum(scale, sum)), acc[r][h]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn load(p: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// Four bytes in every lane.
#[inline(always)]
unsafe fn broadcast(p: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

/// Asks for a superblock further on.
#[inline(always)]
unsafe fn fetch(at: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        // SAFETY: fetching is harmless at any address; the instruction set is the caller's promise.
        unsafe { Avx2::prefetch(at.wrapping_add(AHEAD + line)) };
        line += 64;
    }
}

/// Few rows: each tile of weights is read once, from one end and from its middle at once.
pub(in crate::project) struct Few<D, const KIND: u8>(PhantomData<fn() -> D>);

/// Many rows: stretches of the inner dimension whose weights and inputs stay in cache; the bits of [`Few`].
pub(in crate::project) struct Many<D, const KIND: u8>(PhantomData<fn() -> D>);

struct RunFew<'a, 'b, D, const KIND: u8>(&'a Task<'b>, PhantomData<D>);
struct RunMany<'a, 'b, D, const KIND: u8>(&'a Task<'b>, PhantomData<D>);

impl<D, const KIND: u8> Few<D, KIND> {
    pub const NEW: Self = Self(PhantomData);
}

impl<D, const KIND: u8> Many<D, KIND> {
    pub const NEW: Self = Self(PhantomData);
}

impl<D: Sums, const KIND: u8> Kernel for Few<D, KIND> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn form(&self) -> FormId {
        FormId::Bytes
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(RunFew::<D, KIND>(task, PhantomData)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { peak::<D>(rounds) }
    }
}

impl<D: Sums, const KIND: u8> Kernel for Many<D, KIND> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn form(&self) -> FormId {
        FormId::Bytes
    }

    fn cut(&self, shape: Shape, outputs: usize) -> (usize, usize) {
        (outputs, shape.rows.div_ceil(shape.rows.div_ceil(MANY)).next_multiple_of(ROWS))
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(RunMany::<D, KIND>(task, PhantomData)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { peak::<D>(rounds) }
    }
}

impl<D: Sums, const KIND: u8> Work for RunFew<'_, '_, D, KIND> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe { results::each_tile::<Few<D, KIND>>(self.0) }
    }
}

impl<D: Sums, const KIND: u8> Tiles for Few<D, KIND> {
    type T = D::T;

    #[inline(always)]
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, _: usize, out: &mut Results) {
        let bytes = TILE * weights.kind().row_bytes(weights.inputs());
        let packed = &weights.data()[first / TILE * bytes..][..bytes];
        let n = task.rows.len();
        // Even blocks: 5 rows go as 3 + 2, not as 4 + 1.
        let size = n.div_ceil(n.div_ceil(ROWS));
        let mut r = 0;
        while r < n {
            let block = size.min(n - r);
            let rows = Rows::new(task.input, task.input_rows().start + r);
            let to = &mut out[r * TILE..];
            // SAFETY: `packed` is a whole tile; input and results have room for `block` rows.
            unsafe {
                match block {
                    1 => few::<D, KIND, 1>(packed, rows, to),
                    2 => few::<D, KIND, 2>(packed, rows, to),
                    3 => few::<D, KIND, 3>(packed, rows, to),
                    _ => few::<D, KIND, 4>(packed, rows, to),
                }
            }
            r += block;
        }
    }
}

/// Sixteen outputs for R rows.
#[inline(always)]
unsafe fn few<D: Sums, const KIND: u8, const R: usize>(packed: &[u8], rows: Rows, out: &mut [MaybeUninit<f32>]) {
    let bytes = bits(KIND).super_bytes();
    let count = packed.len() / bytes;
    let share = count.div_ceil(STREAMS);
    // SAFETY: superblocks cover `pitch` inputs, to which the rows are padded; the tile has 16 outputs.
    unsafe {
        let mut acc = [[[_mm256_setzero_ps(); 2]; R]; STREAMS];
        for s in 0..share {
            for (stream, acc) in acc.iter_mut().enumerate() {
                let s = stream * share + s;
                if s < count {
                    let at = packed.as_ptr().add(s * bytes);
                    fetch(at, bytes);
                    superblock::<D, KIND, R>(at, 2 * s, rows, acc);
                }
            }
        }
        for r in 0..R {
            for h in 0..2 {
                let sum = _mm256_add_ps(acc[0][r][h], acc[1][r][h]);
                _mm256_storeu_ps(out[r * TILE + 8 * h..][..8].as_mut_ptr().cast(), sum);
            }
        }
    }
}

thread_local! {
    /// Sums, kept from task to task.
    static SPACE: RefCell<Lines> = const { RefCell::new(Lines::NONE) };
}

impl<D: Sums, const KIND: u8> Work for RunMany<'_, '_, D, KIND> {
    #[inline(always)]
    unsafe fn run(self) {
        let task = self.0;
        let (n, first_row) = (task.rows.len(), task.input_rows().start);
        let tiles = task.outputs.len().div_ceil(TILE);
        let matrices = task.matrices();
        let held = matrices.iter().flatten().count() * tiles * n;
        let bytes = bits(KIND).super_bytes();
        let mut space = SPACE.take();
        // `[streams][matrices][tiles][rows][16 outputs]`: a line a row.
        let sums = &mut space.at_least(STREAMS * held)[..STREAMS * held];
        sums.fill(Line::ZERO);
        let count = task.input.shape.stride / (2 * BLOCK);
        let share = count.div_ceil(STREAMS);
        for (stream, sums) in sums.chunks_exact_mut(held).enumerate() {
            let (mut s, end) = (stream * share, count.min((stream + 1) * share));
            while s < end {
                let depth = DEPTH.min(end - s);
                for (m, weights) in matrices.iter().flatten().enumerate() {
                    for tile in 0..tiles {
                        let packed = &weights.data()[(task.outputs.start / TILE + tile) * count * bytes..];
                        let packed = &packed[s * bytes..(s + depth) * bytes];
                        let sums = &mut sums[(m * tiles + tile) * n..][..n];
                        let mut r = 0;
                        while r < n {
                            let rows = Rows::new(task.input, first_row + r);
                            // SAFETY: as in `few`; as many rows of sums as of inputs.
                            r += unsafe {
                                match n - r {
                                    1 => stretch::<D, KIND, 1>(packed, 2 * s, rows, &mut sums[r..]),
                                    2 | 3 => stretch::<D, KIND, 2>(packed, 2 * s, rows, &mut sums[r..]),
                                    _ => stretch::<D, KIND, ROWS>(packed, 2 * s, rows, &mut sums[r..]),
                                }
                            };
                        }
                    }
                }
                s += depth;
            }
        }
        let (a, b) = sums.split_at_mut(held);
        // SAFETY: lines are 16 numbers each; the sums of these rows and outputs are the task's.
        unsafe {
            for (a, b) in a.iter_mut().zip(b) {
                let (a, b) = (a.0.as_mut_ptr().cast::<f32>(), b.0.as_ptr().cast::<f32>());
                for h in 0..2 {
                    let sum = _mm256_add_ps(_mm256_loadu_ps(a.add(8 * h)), _mm256_loadu_ps(b.add(8 * h)));
                    _mm256_storeu_ps(a.add(8 * h), sum);
                }
            }
            let (_, sums, _) = a.align_to_mut::<MaybeUninit<f32>>();
            let (a, b) = sums.split_at_mut(tiles * n * TILE);
            for tile in 0..tiles {
                let first = task.outputs.start + tile * TILE;
                let of = tile * n * TILE..(tile + 1) * n * TILE;
                let b = b.get(of.clone()).unwrap_or_default();
                results::take_effect::<Avx2>(task, 0, first, TILE.min(task.outputs.end - first), &mut a[of], b);
            }
        }
        SPACE.set(space);
    }
}

/// Adds a stretch of superblocks, whose first holds the inputs' block `b`, to the sums of R rows. Returns R.
#[inline(always)]
unsafe fn stretch<D: Sums, const KIND: u8, const R: usize>(
    packed: &[u8],
    b: usize,
    rows: Rows,
    sums: &mut [Line],
) -> usize {
    let bytes = bits(KIND).super_bytes();
    // SAFETY: the caller's promise; a line is 16 numbers.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        for r in 0..R {
            let from = sums[r].0.as_ptr().cast::<f32>();
            acc[r] = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))];
        }
        for (s, superblock) in packed.chunks_exact(bytes).enumerate() {
            self::superblock::<D, KIND, R>(superblock.as_ptr(), b + 2 * s, rows, &mut acc);
        }
        for r in 0..R {
            let to = sums[r].0.as_mut_ptr().cast::<f32>();
            _mm256_storeu_ps(to, acc[r][0]);
            _mm256_storeu_ps(to.add(8), acc[r][1]);
        }
    }
    R
}

/// Independent chains of the peak's measurement, enough to hide an instruction's latency.
const CHAINS: usize = 12;

struct Peak<D>(usize, PhantomData<D>);

impl<D: Sums> Work for Peak<D> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let w = _mm256_set1_epi32(black_box(0x0302_0100));
            let x = black_box(&[0u8; 32]).as_ptr();
            let mut acc = [_mm256_setzero_si256(); CHAINS];
            for _ in 0..self.0 {
                for a in &mut acc {
                    // Loaded anew each time: the product of what does not change would be taken out of the loop.
                    compiler_fence(Ordering::SeqCst);
                    *a = D::add_four(*a, w, load(x));
                }
            }
            for a in acc {
                black_box(Avx2::reduce_add(_mm256_cvtepi32_ps(D::end_four(a))));
            }
        }
    }
}

unsafe fn peak<D: Sums>(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { D::T::compiled(Peak::<D>(rounds, PhantomData)) };
    rounds * CHAINS * 32 * 2
}
