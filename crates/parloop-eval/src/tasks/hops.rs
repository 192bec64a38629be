//! p-hop induction (Sanford, Hsu, Telgarsky 2024, arXiv 2402.09268).
//!
//! One hop leads from a position i to the position after the last earlier occurrence of its letter:
//! `find(i) = max { j <= i : x[j-1] = x[i] }`. p hops lead to `find(find(... i))`, and the letter there is the answer.

use super::{Problem, Sizes};
use crate::rng::Rng;

/// Letters are 0 to 3; the mark that is written p times before them is 4.
pub(super) const LETTERS: usize = 4;

pub(super) fn draw(sizes: Sizes, rng: &mut Rng) -> Problem {
    let hops = if sizes.single { 1 } else { 1 + rng.below(sizes.steps) };
    let mut problem = Problem::default();
    (0..hops).for_each(|_| problem.tell(LETTERS as u32));
    let mut letters: Vec<usize> = Vec::new();
    // Where one hop leads from each position, if anywhere, and after each letter the next position.
    let mut find: Vec<Option<usize>> = Vec::new();
    let mut after = [None; LETTERS];
    for t in 0..sizes.length {
        let letter = rng.below(LETTERS);
        letters.push(letter);
        find.push(after[letter]);
        after[letter] = Some(t + 1);
        let end = (0..hops).try_fold(t, |at, _| find[at]);
        match end {
            Some(end) => problem.ask(letter as u32, letters[end] as u32, hops),
            None => problem.tell(letter as u32),
        }
    }
    problem
}
