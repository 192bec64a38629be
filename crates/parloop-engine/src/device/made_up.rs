//! Made-up routing, for measurements: random weights choose experts in no way that trained ones would, and what a pass reads
//! depends on the choice alone.

/// Experts drawn evenly for every token and layer; later loops take a share of loop 1's for the same token.
#[derive(Clone, Copy, Debug)]
pub struct MadeUp {
    /// The share of a later loop's experts that are among loop 1's, on average.
    pub overlap: f32,
}

/// A small generator (SplitMix64).
struct Rng(u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Fills `chosen` from `from` on with different experts, none of them in `not`.
    fn fill(&mut self, experts: usize, not: &[u16], chosen: &mut [u16], from: usize) {
        let mut i = from;
        while i < chosen.len() {
            let e = self.below(experts) as u16;
            if !chosen[..i].contains(&e) && !not.contains(&e) {
                chosen[i] = e;
                i += 1;
            }
        }
    }
}

impl MadeUp {
    /// The experts of loop `r` for a token in layer `n`, in ascending order.
    pub fn choose(self, (sequence, position, n, r): (usize, usize, usize, usize), experts: usize, chosen: &mut [u16]) {
        let token = (sequence as u64) << 40 ^ (position as u64) << 16 ^ n as u64;
        let mut rng = Rng(token);
        rng.fill(experts, &[], chosen, 0);
        // Where there are too few others, loops must agree.
        if r > 0 && experts >= 2 * chosen.len() {
            let first = chosen.to_vec();
            let mut rng = Rng(token ^ (r as u64) << 56);
            let mut kept = 0;
            for e in &first {
                if rng.unit() < self.overlap {
                    chosen[kept] = *e;
                    kept += 1;
                }
            }
            rng.fill(experts, &first, chosen, kept);
        }
        chosen.sort_unstable();
    }

    /// How many experts a layer reads on average for the given loops of a batch of tokens.
    pub fn expected(self, experts: usize, top_k: usize, loops: usize, batch: usize) -> f64 {
        let (e, k) = (experts as f64, top_k as f64);
        let overlap = if experts >= 2 * top_k { f64::from(self.overlap) } else { 1.0 };
        // Of those that loop 1 did not take, each later loop takes some, independently of one another.
        let others = (e - k) * (1.0 - (1.0 - k * (1.0 - overlap) / (e - k).max(1.0)).powi(loops as i32 - 1));
        let one = k + others.max(0.0);
        e * (1.0 - (1.0 - one / e).powi(batch as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_drawn_is_what_the_formula_expects() {
        let (experts, k) = (64, 8);
        for (overlap, loops, batch) in [(0.6, 2, 1), (0.6, 2, 4), (0.0, 3, 2), (1.0, 2, 16), (0.3, 3, 1)] {
            let made_up = MadeUp { overlap };
            let mut all = 0;
            for n in 0..400 {
                let mut read = BTreeSet::new();
                for sequence in 0..batch {
                    for r in 0..loops {
                        let mut chosen = vec![0; k];
                        made_up.choose((sequence, 7, n, r), experts, &mut chosen);
                        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
                        read.extend(chosen);
                    }
                }
                all += read.len();
            }
            let (found, expected) = (all as f64 / 400.0, made_up.expected(experts, k, loops, batch));
            assert!((found / expected - 1.0).abs() < 0.02, "{overlap} {loops} {batch}: {found} {expected}");
        }
    }
}
