//! Attention of many rows: each row has its own query and its own keys to look at.
//!
//! Per head (`docs/model.md`): `y_global = softmax(q . K) V` over a cache; rows of later loops may add
//! `y_local`, the same over their own ring, and mix `y = g y_global + (1 - g) y_local`.
//!
//! Softmax runs over blocks of 64 positions that start at multiples of 64, with a running maximum, and begins anew at
//! multiples of 1024; the parts of such spans are merged in order. So a long cache can be shared among the workers, and
//! still which blocks a row visits, and in which order it sums, depends on its own position and window only.

mod part;

use crate::SharedMut;
use crate::isa::{Isa, kernel};
use crate::kv::{Element, KvTiles, KvType, TILE};
use crate::profile::Op;
use crate::project::Projector;
use crate::simd::Simd;
use part::Part;
use std::cell::RefCell;

/// Positions of a softmax block.
const BLOCK: usize = 64;
/// Positions after which sums begin anew; a multiple of [`BLOCK`].
const SPAN: usize = 1024;
/// Queries (rows x heads of a group) of a task at most; bounds its scratch space.
const QUERIES: usize = 64;

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
    let mut runs: Vec<(usize, usize)> = Vec::with_capacity(rows.len().div_ceil(per_task));
    for i in 0..rows.len() {
        match runs.last_mut() {
            Some((start, end)) if same(&rows[*start].global, &rows[i].global) && *end - *start < per_task => *end += 1,
            _ => runs.push((i, i + 1)),
        }
    }
    let isa = on.isa();
    let out = SharedMut::new(out);
    let task = |i: usize| {
        let (start, end) = runs[i / groups];
        Task { isa, q, rows, start, end, head: i % groups, heads, groups, dim, out }
    };
    let tasks = runs.len() * groups;
    let (spans, threads) = (rows.iter().map(|r| r.global.last / SPAN + 1).max().unwrap_or(1), on.pool.threads());
    let size = Part::size(QUERIES.max(heads / groups), dim);
    let mut parts = Vec::new();
    if spans > 1 && tasks < 4 * threads && !tasks.is_multiple_of(threads) {
        // Too few tasks to keep all workers busy: first the spans of every task, each by itself.
        parts.resize(tasks * spans * size, 0.0);
        let parts = SharedMut::new(&mut parts);
        // SAFETY: as below; each span of a task has a part of its own.
        on.pool.run(tasks * spans, |i| unsafe { span(&task(i / spans), i % spans, parts.slice(i * size, size)) });
    }
    let run = |i: usize| {
        let ready = parts.get(i * spans * size..(i + 1) * spans * size).unwrap_or_default();
        // SAFETY: `isa` is available; ranges were checked above; tasks write disjoint (row, head) parts of `out`.
        unsafe { run(isa, &task(i), ready, size) }
    };
    // A short context is not worth waking the workers: the queries' dot products cost less than the wake-up.
    let keys: usize = rows.iter().map(|r| r.global.last - r.global.first + 1).sum();
    if keys * heads * dim < 1 << 14 {
        (0..tasks).for_each(run);
    } else {
        on.pool.run(tasks, run);
    }
    on.profile.add(Op::Attend, began, 0);
}

fn same(a: &Branch<'_>, b: &Branch<'_>) -> bool {
    std::ptr::eq(a.kv, b.kv)
}

/// Some rows, one group of heads.
struct Task<'a> {
    isa: Isa,
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
    /// Computes a task. `ready` holds the parts of the causal branch, `size` numbers each, or nothing.
    fn run(task: &Task<'_>, ready: &[f32], size: usize) = run_generic
}

impl Task<'_> {
    /// Queries of a row.
    fn per_row(&self) -> usize {
        self.heads / self.groups
    }

    /// Scratch space that is taken and given back, not borrowed in a closure: a closure would not take on the
    /// instruction set. The first part holds the task's queries, scaled; the second scores; the rest is free.
    #[inline(always)]
    fn prepare<'a>(&self, scratch: &'a mut Vec<f32>, free: usize) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
        let queries = (self.end - self.start) * self.per_row();
        let total = queries * (self.dim + BLOCK) + free;
        if scratch.len() < total {
            scratch.resize(total, 0.0);
        }
        let (q, rest) = scratch[..total].split_at_mut(queries * self.dim);
        let (scores, rest) = rest.split_at_mut(queries * BLOCK);
        let (scale, width) = (1.0 / (self.dim as f32).sqrt(), self.per_row() * self.dim);
        for (to, row) in q.chunks_exact_mut(width).zip(self.start..self.end) {
            let from = &self.q[(row * self.groups + self.head) * width..][..width];
            to.iter_mut().zip(from).for_each(|(t, f)| *t = f * scale);
        }
        (q, scores, rest)
    }
}

/// Computes a span of a task's causal branch.
///
/// # Safety
/// As [`run`].
unsafe fn span(task: &Task<'_>, index: usize, part: &mut [f32]) {
    let mut scratch = SCRATCH.take();
    let (q, scores, _) = task.prepare(&mut scratch, 0);
    let rows = &task.rows[task.start..task.end];
    let mut part = Part::new(rows.len() * task.per_row(), task.dim, part);
    // SAFETY: the caller's promise.
    unsafe { branch(task.isa, task, q, rows, false, index, &mut part, scores) };
    SCRATCH.set(scratch);
}

#[inline(always)]
unsafe fn run_generic<S: Simd>(task: &Task<'_>, ready: &[f32], size: usize) {
    let mut scratch = SCRATCH.take();
    let (per_row, dim) = (task.per_row(), task.dim);
    let rows = &task.rows[task.start..task.end];
    let queries = rows.len() * per_row;
    let own_size = Part::size(queries, dim);
    let (q, scores, free) = task.prepare(&mut scratch, 3 * own_size);
    let (global, free) = free.split_at_mut(own_size);
    let (local, later) = free.split_at_mut(own_size);
    let mut global = Part::new(queries, dim, global);
    // SAFETY: the caller's promise.
    unsafe {
        if ready.is_empty() {
            spans::<S>(task, q, rows, false, &mut global, later, scores);
        } else {
            global.clear();
            ready.chunks_exact(size).for_each(|part| global.merge::<S>(part));
        }
        global.divide::<S>();
    }
    let place = |i: usize, j: usize| ((task.start + i) * task.heads + task.head * per_row + j) * dim;
    let mut i = 0;
    while i < rows.len() {
        let Some((ring, _)) = rows[i].local else {
            for j in 0..per_row {
                // SAFETY: this (row, head) belongs to this task alone.
                unsafe { task.out.slice(place(i, j), dim) }.copy_from_slice(&global.of(i * per_row + j)[..dim]);
            }
            i += 1;
            continue;
        };
        // Neighbouring rows of one loop share a ring.
        let shares = |r: &&Attend<'_>| r.local.is_some_and(|(b, _)| same(&b, &ring));
        let n = rows[i..].iter().take_while(shares).count();
        let mut near = Part::new(n * per_row, dim, local);
        // SAFETY: the caller's promise.
        unsafe {
            spans::<S>(task, &q[i * per_row * dim..], &rows[i..i + n], true, &mut near, later, scores);
            near.divide::<S>();
        }
        for (k, row) in rows[i..i + n].iter().enumerate() {
            for j in 0..per_row {
                let g = row.local.map_or(1.0, |(_, gate)| gate[task.head * per_row + j]);
                // SAFETY: as above.
                let out = unsafe { task.out.slice(place(i + k, j), dim) };
                let (y, near) = (global.of((i + k) * per_row + j), near.of(k * per_row + j));
                for ((out, y), near) in out.iter_mut().zip(y).zip(near) {
                    *out = g * y + (1.0 - g) * near;
                }
            }
        }
        i += n;
    }
    SCRATCH.set(scratch);
}

/// First and last position that any of the rows attends.
#[inline(always)]
fn bounds(rows: &[Attend<'_>], local: bool) -> (usize, usize) {
    let (mut first, mut last) = (usize::MAX, 0);
    for row in rows {
        let own = row.branch(local);
        (first, last) = (first.min(own.first), last.max(own.last));
    }
    (first, last)
}

/// All spans of a branch, in order, into `part`; `later` is room for one more.
#[inline(always)]
unsafe fn spans<S: Simd>(
    task: &Task<'_>,
    q: &[f32],
    rows: &[Attend<'_>],
    local: bool,
    part: &mut Part<'_>,
    later: &mut [f32],
    scores: &mut [f32],
) {
    let (first, last) = bounds(rows, local);
    // SAFETY: the caller's promise.
    unsafe {
        branch(task.isa, task, q, rows, local, first / SPAN, part, scores);
        for index in first / SPAN + 1..=last / SPAN {
            let mut next = Part::new(rows.len() * task.per_row(), task.dim, later);
            branch(task.isa, task, q, rows, local, index, &mut next, scores);
            part.merge::<S>(later);
        }
    }
}

kernel! {
    /// One span of a branch of attention, for rows over the same keys; `scores` is room for `[queries][BLOCK]`. A
    /// function of its own: made part of each of its callers it would be most of this crate.
    fn branch(
        task: &Task<'_>,
        q: &[f32],
        rows: &[Attend<'_>],
        local: bool,
        index: usize,
        part: &mut Part<'_>,
        scores: &mut [f32],
    ) = branch_generic
}

#[inline(always)]
unsafe fn branch_generic<S: Simd>(
    task: &Task<'_>,
    q: &[f32],
    rows: &[Attend<'_>],
    local: bool,
    index: usize,
    part: &mut Part<'_>,
    scores: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows[0].branch(local).kv.kind() {
            KvType::F32 => branch_of::<S, f32>(task, q, rows, local, index, part, scores),
            KvType::Bf16 => branch_of::<S, u16>(task, q, rows, local, index, part, scores),
            KvType::Q8 => branch_of::<S, i8>(task, q, rows, local, index, part, scores),
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
    index: usize,
    part: &mut Part<'_>,
    all_scores: &mut [f32],
) {
    let (dim, padded, per_row) = (task.dim, task.dim.next_multiple_of(TILE), task.per_row());
    let queries = rows.len() * per_row;
    let kv = rows[0].branch(local).kv;
    let (first, last) = bounds(rows, local);
    let (first, last) = (first.max(index * SPAN), last.min(index * SPAN + SPAN - 1));
    part.clear();
    if first > last {
        return;
    }
    for block in first / BLOCK..=last / BLOCK {
        let (low, high) = (first.max(block * BLOCK), last.min(block * BLOCK + BLOCK - 1));
        // SAFETY: the instruction set is the caller's promise; slices below cover every pointer used.
        unsafe {
            // Vectors of keys, two at a time: a query's number then serves both.
            let per_tile = TILE / S::LANES;
            let (mut vector, end) = (low / TILE * per_tile, (high / TILE + 1) * per_tile);
            while vector < end {
                let count = 2.min(end - vector);
                let mut keys = [Keys { at: std::ptr::null(), scales: &[], to: 0 }; 2];
                for (i, keys) in keys.iter_mut().take(count).enumerate() {
                    let (tile, lane) = ((vector + i) / per_tile, (vector + i) % per_tile * S::LANES);
                    let at = kv.keys::<E>(tile, task.head)[lane..].as_ptr();
                    let scales = kv.scales(tile, task.head).get(lane..).unwrap_or_default();
                    *keys = Keys { at, scales, to: tile * TILE % BLOCK + lane };
                }
                let mut i = 0;
                while i < queries {
                    let (q, s) = (q[i * dim..].as_ptr(), all_scores[i * BLOCK..].as_mut_ptr());
                    i += match (queries - i, count) {
                        (1, 2) => scores::<S, E, 1, 2>(q, dim, &keys, s),
                        (2, 2) => scores::<S, E, 2, 2>(q, dim, &keys, s),
                        (3, 2) => scores::<S, E, 3, 2>(q, dim, &keys, s),
                        (4, 2) => scores::<S, E, 4, 2>(q, dim, &keys, s),
                        (5, 2) => scores::<S, E, 5, 2>(q, dim, &keys, s),
                        (_, 2) => scores::<S, E, 6, 2>(q, dim, &keys, s),
                        (1, _) => scores::<S, E, 1, 1>(q, dim, &keys, s),
                        (2 | 3, _) => scores::<S, E, 2, 1>(q, dim, &keys, s),
                        (4 | 5, _) => scores::<S, E, 4, 1>(q, dim, &keys, s),
                        _ => scores::<S, E, 6, 1>(q, dim, &keys, s),
                    };
                }
                vector += count;
            }
            let (from, to) = (low / TILE * TILE % BLOCK, high % BLOCK / TILE * TILE + TILE);
            for i in 0..queries {
                let own = rows[i / per_row].branch(local);
                let scores = &mut all_scores[i * BLOCK + from..i * BLOCK + to];
                let base = block * BLOCK + from;
                if own.first > base {
                    let n = scores.len().min(own.first - base);
                    scores[..n].fill(f32::NEG_INFINITY);
                }
                if own.last + 1 < base + scores.len() {
                    let n = (own.last + 1).saturating_sub(base);
                    scores[n..].fill(f32::NEG_INFINITY);
                }
                let (sums, max) = (&mut part.sums[i * TILE..][..TILE], &mut part.maxima[i]);
                exponentials::<S>(scores, sums, max, &mut part.o[i * padded..][..padded]);
            }
            let mut i = 0;
            while i < queries {
                let (o, p) = (part.o[i * padded..].as_mut_ptr(), all_scores[i * BLOCK..].as_ptr());
                let mix = Mix { kv, head: task.head, low, high, padded, o, p };
                i += match queries - i {
                    1 => values::<S, E, 1>(&mix),
                    2 => values::<S, E, 2>(&mix),
                    3 => values::<S, E, 3>(&mix),
                    4 => values::<S, E, 4>(&mix),
                    5 => values::<S, E, 5>(&mix),
                    _ => values::<S, E, 6>(&mix),
                };
            }
        }
    }
}

/// As many keys as a vector has lanes.
#[derive(Clone, Copy)]
struct Keys<'a, E> {
    /// `[dim][TILE]`, from the first of these keys on.
    at: *const E,
    /// Their scales, for types that have them.
    scales: &'a [f32],
    /// Their place among the scores of a block.
    to: usize,
}

/// Scores of Q queries (`[Q][dim]`, already scaled) against V vectors of keys, into rows BLOCK apart. Returns Q.
#[inline(always)]
unsafe fn scores<S: Simd, E: Element, const Q: usize, const V: usize>(
    q: *const f32,
    dim: usize,
    keys: &[Keys<'_, E>; 2],
    s: *mut f32,
) -> usize {
    // SAFETY: keys are [dim][TILE]; `q` holds Q x dim floats; `s` has BLOCK floats in each of Q rows.
    unsafe {
        let mut acc = [[S::zero(); V]; Q];
        for d in 0..dim {
            let mut k = [S::zero(); V];
            for v in 0..V {
                k[v] = E::load::<S>(keys[v].at.add(d * TILE));
            }
            for i in 0..Q {
                let q = S::splat(*q.add(i * dim + d));
                for v in 0..V {
                    acc[i][v] = S::fma(q, k[v], acc[i][v]);
                }
            }
        }
        for i in 0..Q {
            for v in 0..V {
                if E::SCALED {
                    acc[i][v] = S::mul(acc[i][v], S::load(keys[v].scales[..S::LANES].as_ptr()));
                }
                S::store(s.add(i * BLOCK + keys[v].to), acc[i][v]);
            }
        }
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
