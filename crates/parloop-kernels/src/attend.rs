//! Attention of many rows: each row has its own query and its own keys to look at.
//!
//! Per head (`docs/model.md`): `y_global = softmax(q . K) V` over a cache; rows of later loops may add
//! `y_local`, the same over their own ring, and mix `y = g y_global + (1 - g) y_local`.
//!
//! Softmax runs over blocks of 64 positions that start at multiples of 64, with a running maximum. Which blocks a row
//! visits, and in which order it sums, depends on its own position and window only.

use crate::SharedMut;
use crate::isa::kernel;
use crate::kv::{Element, KvTiles, KvType, TILE};
use crate::profile::Op;
use crate::project::Projector;
use crate::simd::Simd;
use std::cell::RefCell;

/// Positions of a softmax block.
const BLOCK: usize = 64;
/// Queries (rows x heads of a group) of a task at most; bounds its scratch space.
const QUERIES: usize = 32;

/// Keys and values, and which positions of them a row attends.
#[derive(Clone, Copy)]
pub struct Branch<'a> {
    /// Where they are kept.
    pub kv: &'a KvTiles,
    /// First position attended.
    pub first: usize,
    /// Last position attended.
    pub last: usize,
}

/// What one row attends.
#[derive(Clone, Copy)]
pub struct Attend<'a> {
    /// The causal branch.
    pub global: Branch<'a>,
    /// The window over the row's own loop, with g for each head.
    pub local: Option<(Branch<'a>, &'a [f32])>,
}

impl<'a> Attend<'a> {
    /// The local branch, if asked for and there is one.
    #[inline(always)]
    fn branch(&self, local: bool) -> Branch<'a> {
        match self.local {
            Some((branch, _)) if local => branch,
            _ => self.global,
        }
    }
}

/// Attends with every row's queries `[rows][H * D]` (already rotated) and writes `[rows][H * D]`.
///
/// Neighbouring rows with the same global keys share the read of them.
///
/// # Panics
/// If lengths do not fit, a branch reaches outside the positions held, or a gate has not one value a head.
pub fn attend(on: &mut Projector, heads: usize, q: &[f32], rows: &[Attend<'_>], out: &mut [f32]) {
    let Some(first) = rows.first() else { return };
    let (groups, dim) = first.global.kv.shape();
    assert!(heads.is_multiple_of(groups) && q.len() == rows.len() * heads * dim && out.len() == q.len());
    for row in rows {
        let branches = [Some(row.global), row.local.map(|l| l.0)];
        for branch in branches.into_iter().flatten() {
            let held = branch.kv.range();
            assert!(branch.kv.shape() == (groups, dim), "shape of keys and values");
            assert!(branch.kv.kind() == first.global.kv.kind(), "type of keys and values");
            assert!(branch.first <= branch.last && held.start <= branch.first && branch.last < held.end);
        }
        assert!(row.local.is_none_or(|(_, gate)| gate.len() == heads), "one gate a head");
    }
    let began = on.profile.start();
    let per_task = (QUERIES / (heads / groups)).max(1);
    // Runs of rows over the same cache, cut to the size of a task.
    let mut spans: Vec<(usize, usize)> = Vec::with_capacity(rows.len().div_ceil(per_task));
    for i in 0..rows.len() {
        match spans.last_mut() {
            Some((start, end)) if same(&rows[*start].global, &rows[i].global) && *end - *start < per_task => *end += 1,
            _ => spans.push((i, i + 1)),
        }
    }
    let isa = on.isa();
    let out = SharedMut::new(out);
    let run = |i: usize| {
        let (start, end) = spans[i / groups];
        let task = Task { q, rows, start, end, head: i % groups, heads, groups, dim, out };
        // SAFETY: `isa` is available; ranges were checked above; tasks write disjoint (row, head) parts of `out`.
        unsafe { run(isa, &task) }
    };
    // A short context is not worth waking the workers: the queries' dot products cost less than the wake-up.
    let keys: usize = rows.iter().map(|r| r.global.last - r.global.first + 1).sum();
    if keys * heads * dim < 1 << 14 {
        (0..spans.len() * groups).for_each(run);
    } else {
        on.pool.run(spans.len() * groups, run);
    }
    on.profile.add(Op::Attend, began, 0);
}

fn same(a: &Branch<'_>, b: &Branch<'_>) -> bool {
    std::ptr::eq(a.kv, b.kv)
}

/// Some rows, one group of heads.
struct Task<'a> {
    q: &'a [f32],
    rows: &'a [Attend<'a>],
    start: usize,
    end: usize,
    head: usize,
    heads: usize,
    groups: usize,
    dim: usize,
    out: SharedMut<f32>,
}

thread_local! {
    /// Scratch space, kept from call to call.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

kernel! {
    /// Computes a task.
    fn run(task: &Task<'_>) = run_generic
}

#[inline(always)]
unsafe fn run_generic<S: Simd>(task: &Task<'_>) {
    // Taken and put back, not borrowed in a closure: a closure would not take on the instruction set.
    let mut scratch = SCRATCH.take();
    let per_row = task.heads / task.groups;
    let queries = (task.end - task.start) * per_row;
    let padded = task.dim.next_multiple_of(TILE);
    let sizes = [queries * task.dim, queries * padded, queries * padded, queries * BLOCK, queries * TILE, queries];
    let total: usize = sizes.iter().sum();
    if scratch.len() < total {
        scratch.resize(total, 0.0);
    }
    let (q, rest) = scratch[..total].split_at_mut(sizes[0]);
    let (global, rest) = rest.split_at_mut(sizes[1]);
    let (local, rest) = rest.split_at_mut(sizes[2]);
    let (scores, rest) = rest.split_at_mut(sizes[3]);
    let (sums, maxima) = rest.split_at_mut(sizes[4]);
    let mut space = Space { scores, sums, maxima };

    let scale = 1.0 / (task.dim as f32).sqrt();
    for (i, row) in (task.start..task.end).enumerate() {
        let from = &task.q[(row * task.heads + task.head * per_row) * task.dim..][..per_row * task.dim];
        let to = &mut q[i * per_row * task.dim..][..per_row * task.dim];
        to.iter_mut().zip(from).for_each(|(t, f)| *t = f * scale);
    }
    let rows = &task.rows[task.start..task.end];
    // SAFETY: the caller's promise.
    unsafe {
        branch::<S>(task, q, rows, false, global, &mut space);
        let mut i = 0;
        while i < rows.len() {
            // Neighbouring rows of one loop share a ring.
            let Some((own, _)) = rows[i].local else {
                i += 1;
                continue;
            };
            let shares = |r: &&Attend<'_>| r.local.is_some_and(|(b, _)| same(&b, &own));
            let n = rows[i..].iter().take_while(shares).count();
            let (q, o) = (&q[i * per_row * task.dim..], &mut local[i * per_row * padded..]);
            branch::<S>(task, q, &rows[i..i + n], true, o, &mut space);
            i += n;
        }
    }
    for (i, row) in rows.iter().enumerate() {
        for j in 0..per_row {
            let head = task.head * per_row + j;
            let from = (i * per_row + j) * padded;
            let y = &global[from..from + task.dim];
            // SAFETY: this (row, head) belongs to this task alone.
            let out = unsafe { task.out.slice(((task.start + i) * task.heads + head) * task.dim, task.dim) };
            match row.local {
                None => out.copy_from_slice(y),
                Some((_, gate)) => {
                    let (g, near) = (gate[head], &local[from..from + task.dim]);
                    for ((out, y), near) in out.iter_mut().zip(y).zip(near) {
                        *out = g * y + (1.0 - g) * near;
                    }
                }
            }
        }
    }
    SCRATCH.set(scratch);
}

struct Space<'a> {
    /// `[queries][BLOCK]`
    scores: &'a mut [f32],
    /// `[queries][16]`, running sums of the exponentials by lane.
    sums: &'a mut [f32],
    /// `[queries]`, running maxima.
    maxima: &'a mut [f32],
}

/// One branch of attention for rows over the same keys: `o [queries][Dp]` becomes `softmax(q . K) V`.
#[inline(always)]
unsafe fn branch<S: Simd>(
    task: &Task<'_>,
    q: &[f32],
    rows: &[Attend<'_>],
    local: bool,
    o: &mut [f32],
    space: &mut Space<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows[0].branch(local).kv.kind() {
            KvType::F32 => branch_of::<S, f32>(task, q, rows, local, o, space),
            KvType::Bf16 => branch_of::<S, u16>(task, q, rows, local, o, space),
            KvType::Q8 => branch_of::<S, i8>(task, q, rows, local, o, space),
        }
    }
}

/// [`branch`] for one element type of keys and values.
#[inline(always)]
unsafe fn branch_of<S: Simd, E: Element>(
    task: &Task<'_>,
    q: &[f32],
    rows: &[Attend<'_>],
    local: bool,
    o: &mut [f32],
    space: &mut Space<'_>,
) {
    let (dim, padded, per_row) = (task.dim, task.dim.next_multiple_of(TILE), task.heads / task.groups);
    let queries = rows.len() * per_row;
    let kv = rows[0].branch(local).kv;
    let (mut first, mut last) = (usize::MAX, 0);
    for r in 0..rows.len() {
        let own = rows[r].branch(local);
        (first, last) = (first.min(own.first), last.max(own.last));
    }
    o[..queries * padded].fill(0.0);
    space.sums[..queries * TILE].fill(0.0);
    space.maxima[..queries].fill(f32::NEG_INFINITY);
    for block in first / BLOCK..=last / BLOCK {
        let (low, high) = (first.max(block * BLOCK), last.min(block * BLOCK + BLOCK - 1));
        // SAFETY: the instruction set is the caller's promise; slices below cover every pointer used.
        unsafe {
            for tile in low / TILE..=high / TILE {
                let (keys, scales) = (kv.keys::<E>(tile, task.head), kv.scales(tile, task.head));
                let to = (tile * TILE) % BLOCK;
                let mut i = 0;
                while i < queries {
                    let (q, s) = (q[i * dim..].as_ptr(), space.scores[i * BLOCK + to..].as_mut_ptr());
                    i += match queries - i {
                        1 => scores::<S, E, 1>(q, dim, keys, scales, s),
                        2 => scores::<S, E, 2>(q, dim, keys, scales, s),
                        3 => scores::<S, E, 3>(q, dim, keys, scales, s),
                        4 | 5 => scores::<S, E, 4>(q, dim, keys, scales, s),
                        _ => scores::<S, E, 6>(q, dim, keys, scales, s),
                    };
                }
            }
            let (from, to) = (low / TILE * TILE % BLOCK, high % BLOCK / TILE * TILE + TILE);
            for i in 0..queries {
                let own = rows[i / per_row].branch(local);
                let scores = &mut space.scores[i * BLOCK + from..i * BLOCK + to];
                let base = block * BLOCK + from;
                if own.first > base {
                    let n = scores.len().min(own.first - base);
                    scores[..n].fill(f32::NEG_INFINITY);
                }
                if own.last + 1 < base + scores.len() {
                    let n = (own.last + 1).saturating_sub(base);
                    scores[n..].fill(f32::NEG_INFINITY);
                }
                let (sums, max) = (&mut space.sums[i * TILE..][..TILE], &mut space.maxima[i]);
                exponentials::<S>(scores, sums, max, &mut o[i * padded..][..padded]);
            }
            let mut i = 0;
            while i < queries {
                let (o, p) = (o[i * padded..].as_mut_ptr(), space.scores[i * BLOCK..].as_ptr());
                let mix = Mix { kv, head: task.head, low, high, padded, o, p };
                i += match queries - i {
                    1 => values::<S, E, 1>(&mix),
                    2 => values::<S, E, 2>(&mix),
                    3 => values::<S, E, 3>(&mix),
                    _ => values::<S, E, 4>(&mix),
                };
            }
        }
    }
    for i in 0..queries {
        let sum: f32 = {
            let sums = &space.sums[i * TILE..][..TILE];
            // SAFETY: TILE floats.
            unsafe { lanes::<S>(sums) }
        };
        let factor = 1.0 / sum;
        o[i * padded..][..padded].iter_mut().for_each(|o| *o *= factor);
    }
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

/// Scores of Q queries (`[Q][dim]`, already scaled) against the 16 keys of a tile, into rows BLOCK apart. Returns Q.
#[inline(always)]
unsafe fn scores<S: Simd, E: Element, const Q: usize>(
    q: *const f32,
    dim: usize,
    keys: &[E],
    scales: &[f32],
    s: *mut f32,
) -> usize {
    let mut lane = 0;
    while lane < TILE {
        // SAFETY: `keys` is [dim][16]; `q` holds Q x dim floats; `s` has 16 floats in each of Q rows.
        unsafe {
            let mut acc = [S::zero(); Q];
            for d in 0..dim {
                let k = E::load::<S>(keys.as_ptr().add(d * TILE + lane));
                for i in 0..Q {
                    acc[i] = S::fma(S::splat(*q.add(i * dim + d)), k, acc[i]);
                }
            }
            for i in 0..Q {
                if E::SCALED {
                    acc[i] = S::mul(acc[i], S::load(scales[lane..lane + S::LANES].as_ptr()));
                }
                S::store(s.add(i * BLOCK + lane), acc[i]);
            }
        }
        lane += S::LANES;
    }
    Q
}

/// Turns the scores of one query and block into `exp(score - maximum)`, and brings the running sums and the output
/// so far to the new maximum.
#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: &mut [f32], sums: &mut [f32], max: &mut f32, o: &mut [f32]) {
    // SAFETY: all lengths are multiples of 16, hence of LANES.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i < scores.len() {
            largest = S::max(largest, S::load(scores[i..].as_ptr()));
            i += S::LANES;
        }
        let largest = S::reduce_max(largest).max(*max);
        if largest == f32::NEG_INFINITY {
            // No key of this block is this query's: all weights are zero.
            scores.fill(0.0);
            return;
        }
        if largest > *max {
            let mut factor = [0.0; TILE];
            S::store(factor.as_mut_ptr(), S::exp(S::splat(*max - largest)));
            sums.iter_mut().for_each(|s| *s *= factor[0]);
            o.iter_mut().for_each(|o| *o *= factor[0]);
            *max = largest;
        }
        let shift = S::splat(largest);
        let mut i = 0;
        while i < scores.len() {
            let p = S::exp(S::sub(S::load(scores[i..].as_ptr()), shift));
            S::store(scores[i..].as_mut_ptr(), p);
            let sum = sums[i % TILE..].as_mut_ptr();
            S::store(sum, S::add(S::load(sum), p));
            i += S::LANES;
        }
    }
}

/// Operands of [`values`]: weights `p [queries][BLOCK]` for the positions `low..=high` of one block, and outputs
/// `o [queries][padded]`.
struct Mix<'a> {
    kv: &'a KvTiles,
    head: usize,
    low: usize,
    high: usize,
    padded: usize,
    o: *mut f32,
    p: *const f32,
}

/// `o += sum over positions of p * v`, position by position, for Q queries. Returns Q.
#[inline(always)]
unsafe fn values<S: Simd, E: Element, const Q: usize>(mix: &Mix<'_>) -> usize {
    let mut d = 0;
    while d < mix.padded {
        // SAFETY: `padded` is a multiple of 16; a tile's values are [16][padded]; `o` and `p` as `Mix` says.
        unsafe {
            let mut acc = [[S::zero(); 2]; Q];
            for i in 0..Q {
                acc[i] = [S::load(at::<S>(mix, i, d, 0)), S::load(at::<S>(mix, i, d, 1))];
            }
            let mut position = mix.low;
            while position <= mix.high {
                let tile = mix.kv.values::<E>(position / TILE, mix.head).as_ptr();
                let scales = mix.kv.scales(position / TILE, mix.head);
                let end = (position / TILE * TILE + TILE - 1).min(mix.high);
                while position <= end {
                    let row = tile.add(position % TILE * mix.padded + d);
                    let v = [E::load::<S>(row), E::load::<S>(row.add(second::<S>(mix, d)))];
                    for i in 0..Q {
                        let mut p = *mix.p.add(i * BLOCK + position % BLOCK);
                        if E::SCALED {
                            p *= scales[TILE + position % TILE];
                        }
                        let p = S::splat(p);
                        acc[i][0] = S::fma(p, v[0], acc[i][0]);
                        acc[i][1] = S::fma(p, v[1], acc[i][1]);
                    }
                    position += 1;
                }
            }
            for i in 0..Q {
                // The second vector first: where it repeats the first, the same value is stored twice.
                for j in [1, 0] {
                    S::store(at::<S>(mix, i, d, j).cast_mut(), acc[i][j]);
                }
            }
        }
        d += 2 * S::LANES;
    }
    Q
}

/// Distance of the second vector of a pair; 0 where only one vector is left.
#[inline(always)]
fn second<S: Simd>(mix: &Mix<'_>, d: usize) -> usize {
    if d + S::LANES < mix.padded { S::LANES } else { 0 }
}

#[inline(always)]
fn at<S: Simd>(mix: &Mix<'_>, i: usize, d: usize, j: usize) -> *const f32 {
    mix.o.wrapping_add(i * mix.padded + d + j * second::<S>(mix, d))
}
