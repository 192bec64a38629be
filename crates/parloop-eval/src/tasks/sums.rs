//! Running sums.

use super::{Problem, Sizes};
use crate::rng::Rng;

/// Numbers below m; the sum so far modulo m, or (single) of the last two.
pub(super) fn draw(sizes: Sizes, rng: &mut Rng) -> Problem {
    let m = sizes.steps;
    let mut problem = Problem::default();
    let (mut sum, mut before) = (0, 0);
    for t in 0..sizes.length {
        let number = rng.below(m);
        sum = (sum + number) % m;
        match (sizes.single, t) {
            (true, 0) => problem.tell(number as u32),
            (true, _) => problem.ask(number as u32, ((before + number) % m) as u32, 1),
            (false, _) => problem.ask(number as u32, sum as u32, t + 1),
        }
        before = number;
    }
    problem
}
