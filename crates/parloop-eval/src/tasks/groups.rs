//! Products in groups of permutations.

use super::{Problem, Sizes};
use crate::rng::Rng;
use std::sync::LazyLock;

pub(super) static S3: LazyLock<Group> = LazyLock::new(|| Group::symmetric(3));
pub(super) static A5: LazyLock<Group> = LazyLock::new(|| Group::alternating(5));
pub(super) static S5: LazyLock<Group> = LazyLock::new(|| Group::symmetric(5));

/// A group of permutations with its table of products.
pub struct Group {
    /// The elements, each as where it sends 0, 1, ...; in lexicographic order, so that the identity is the first.
    pub elements: Vec<Vec<u8>>,
    /// `[first][second]`: the element that does `first`, then `second`.
    table: Vec<Vec<u32>>,
}

impl Group {
    /// All permutations of `n` things.
    pub fn symmetric(n: u8) -> Self {
        Self::of(permutations(n))
    }

    /// All even permutations of `n` things.
    pub fn alternating(n: u8) -> Self {
        let even = |p: &Vec<u8>| {
            let inversions = (0..p.len()).flat_map(|i| (i + 1..p.len()).map(move |j| (i, j)));
            inversions.filter(|(i, j)| p[*i] > p[*j]).count() % 2 == 0
        };
        Self::of(permutations(n).into_iter().filter(even).collect())
    }

    fn of(elements: Vec<Vec<u8>>) -> Self {
        let index = |p: &Vec<u8>| elements.binary_search(p).unwrap_or(0) as u32;
        let then = |a: &Vec<u8>, b: &Vec<u8>| index(&a.iter().map(|i| b[usize::from(*i)]).collect());
        let table = elements.iter().map(|a| elements.iter().map(|b| then(a, b)).collect()).collect();
        Self { elements, table }
    }

    fn then(&self, first: u32, second: u32) -> u32 {
        self.table[first as usize][second as usize]
    }
}

/// In lexicographic order.
fn permutations(n: u8) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for _ in 0..n {
        let longer =
            |p: Vec<u8>| (0..n).filter(|i| !p.contains(i)).map(|i| [&p[..], &[i]].concat()).collect::<Vec<_>>();
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// The product so far, or (single) of the last two.
pub(super) fn draw(group: &Group, sizes: Sizes, rng: &mut Rng) -> Problem {
    let mut problem = Problem::default();
    let (mut product, mut before) = (0, 0);
    for t in 0..sizes.length {
        let element = rng.below(group.elements.len()) as u32;
        product = group.then(product, element);
        match (sizes.single, t) {
            (true, 0) => problem.tell(element),
            (true, _) => problem.ask(element, group.then(before, element), 1),
            (false, _) => problem.ask(element, product, t + 1),
        }
        before = element;
    }
    problem
}
