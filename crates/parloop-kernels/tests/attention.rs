//! Attention against the plainest loop, over caches and rings, and independent of company.

use parloop_kernels::{Attend, Branch, Isa, KvPool, KvTiles, KvType, Projector, Spares, attend};
use parloop_testing::{Rng, assert_close};

fn spares() -> Spares {
    Spares::new(&KvPool::unlimited())
}

struct Case {
    kind: KvType,
    heads: usize,
    groups: usize,
    dim: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Case {
    fn new(rng: &mut Rng, kind: KvType, heads: usize, groups: usize, dim: usize, length: usize) -> Self {
        // Numbers that bf16 holds exactly, so that one expectation serves both types. 8 bits round them, so for those
        // the numbers are -127, 0 and 127 sixty-fourths, which they hold too.
        let mut number = || match kind {
            KvType::Q8 => (rng.range(0, 2) as f32 - 1.0) * 127.0 / 64.0,
            _ => half::bf16::from_f32(rng.normal()).to_f32(),
        };
        let mut rows = |n| (0..length).map(|_| (0..n).map(|_| number()).collect()).collect();
        Self { kind, heads, groups, dim, keys: rows(groups * dim), values: rows(groups * dim) }
    }

    fn cache(&self) -> KvTiles {
        let mut kv = KvTiles::cache(self.kind, self.groups, self.dim);
        kv.reserve(0, self.keys.len(), &mut spares()).unwrap();
        (0..self.keys.len()).for_each(|t| kv.write(t, &self.keys[t], &self.values[t]));
        kv
    }

    /// A ring after all positions were written one by one.
    fn ring(&self, left: usize) -> KvTiles {
        let mut kv = KvTiles::ring(self.kind, self.groups, self.dim, left);
        for t in 0..self.keys.len() {
            kv.reserve(t, 1, &mut spares()).unwrap();
            kv.write(t, &self.keys[t], &self.values[t]);
        }
        kv
    }

    fn expected(&self, q: &[f32], first: usize, last: usize) -> Vec<f32> {
        let d = self.dim;
        let mut out = Vec::new();
        for h in 0..self.heads {
            let g = h / (self.heads / self.groups);
            let dot = |t: usize| -> f64 {
                let k = &self.keys[t][g * d..(g + 1) * d];
                q[h * d..(h + 1) * d].iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (d as f64).sqrt()
            };
            let max = (first..=last).map(dot).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = (first..=last).map(|t| (dot(t) - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for i in 0..d {
                let y = weights.iter().zip(first..).map(|(w, t)| w * f64::from(self.values[t][g * d + i])).sum::<f64>();
                out.push((y / sum) as f32);
            }
        }
        out
    }
}

#[test]
fn causal_and_windowed_attention_with_gates_agree_with_the_plain_loop() {
    let mut rng = Rng(5);
    for isa in Isa::available() {
        for (threads, kind) in [(1, KvType::F32), (3, KvType::F32), (2, KvType::Bf16), (2, KvType::Q8)] {
            let mut on = Projector::new(isa, threads);
            for (heads, groups, dim, length, left) in [
                (1, 1, 2, 1, 0),
                (4, 2, 8, 20, 3),
                (6, 2, 32, 70, 9),
                (3, 3, 10, 129, 64),
                (5, 1, 40, 300, 16),
                (2, 1, 128, 65, 15),
                (40, 1, 6, 33, 5),
                // Past the ends of spans, with windows across them, and too few heads for the workers.
                (3, 1, 16, 2060, 64),
                (6, 3, 8, 1030, 9),
            ] {
                let case = Case::new(&mut rng, kind, heads, groups, dim, length);
                let (cache, ring) = (case.cache(), case.ring(left));
                let last = length - 1;
                let gate: Vec<f32> = (0..heads).map(|_| rng.unit()).collect();
                // Rows: causal at several positions, then rows of a later loop at the last position.
                let mut rows: Vec<Attend<'_>> = [0, last / 2, last]
                    .iter()
                    .map(|t| Attend { global: Branch { kv: &cache, first: 0, last: *t }, local: None })
                    .collect();
                let own = Branch { kv: &ring, first: last.saturating_sub(left), last };
                for _ in 0..2 {
                    rows.push(Attend { global: Branch { kv: &cache, first: 0, last }, local: Some((own, &gate)) });
                }
                let q: Vec<f32> = (0..rows.len() * heads * dim).map(|_| 2.0 * rng.normal()).collect();
                let mut out = vec![f32::NAN; q.len()];
                attend(&mut on, heads, &q, &rows, &mut out);
                let mut single = vec![f32::NAN; q.len()];
                attend(&mut Projector::new(isa, 1), heads, &q, &rows, &mut single);
                assert!(single == out, "{} {heads}/{groups}x{dim}: {threads} threads", isa.name());
                for (r, row) in rows.iter().enumerate() {
                    let q = &q[r * heads * dim..][..heads * dim];
                    let mut expected = case.expected(q, row.global.first, row.global.last);
                    if let Some((b, gate)) = row.local {
                        let near = case.expected(q, b.first, b.last);
                        for (i, (y, near)) in expected.iter_mut().zip(near).enumerate() {
                            *y = gate[i / dim] * *y + (1.0 - gate[i / dim]) * near;
                        }
                    }
                    let what = format!("{} {heads}/{groups}x{dim}, {length} keys, row {r}", isa.name());
                    assert_close(&what, &out[r * heads * dim..][..heads * dim], &expected, 2e-5);
                    // Alone, the row gives the same bits.
                    let mut alone = vec![f32::NAN; heads * dim];
                    attend(&mut on, heads, q, &rows[r..=r], &mut alone);
                    assert!(alone == out[r * heads * dim..][..heads * dim], "{what}: alone");
                }
            }
        }
    }
}

#[test]
fn a_ring_of_any_size_gives_the_same_bits() {
    let mut rng = Rng(6);
    for isa in Isa::available() {
        let mut on = Projector::new(isa, 1);
        let case = Case::new(&mut rng, KvType::F32, 4, 2, 16, 150);
        for (left, last) in [(3, 149), (9, 149), (64, 149), (64, 30)] {
            let mut cut = Case {
                kind: KvType::F32,
                keys: case.keys[..=last].to_vec(),
                values: case.values[..=last].to_vec(),
                heads: 4,
                groups: 2,
                dim: 16,
            };
            let (small, large) = (cut.ring(left), cut.cache());
            cut.keys.clear();
            let q: Vec<f32> = (0..64).map(|_| rng.normal()).collect();
            let first = last - left.min(last);
            let mut of = |kv| {
                let mut out = vec![0.0; 64];
                attend(&mut on, 4, &q, &[Attend { global: Branch { kv, first, last }, local: None }], &mut out);
                out
            };
            assert!(of(&small) == of(&large));
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    for isa in Isa::available() {
        let mut on = Projector::new(isa, 1);
        let mut kv = KvTiles::cache(KvType::F32, 1, 2);
        kv.reserve(0, 100, &mut spares()).unwrap();
        (0..100).for_each(|t| kv.write(t, &[if t == 50 { 1e4 } else { -1e4 }, 0.0], &[t as f32, 1.0]));
        let mut out = vec![0.0; 2];
        let row = Attend { global: Branch { kv: &kv, first: 0, last: 99 }, local: None };
        attend(&mut on, 1, &[1e4, 0.0], &[row], &mut out);
        assert_eq!(out, [50.0, 1.0]);
    }
}
