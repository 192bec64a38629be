//! Paths in graphs that the problem itself tells.

use super::{Problem, Sizes};
use crate::rng::Rng;

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i + 1));
    }
}

/// Nodes are ids below `length`; this stands for "and its successor".
pub(super) const STEP: u32 = 250;
/// Begins a question.
pub(super) const ASK: u32 = 251;

/// k-step successor ("Physics of Language Models" 4.1, task Depo): the edges of one cycle through all nodes in random
/// order, then a node and k times "and its successor", with the node reached so far asked for at each.
pub(super) fn successors(sizes: Sizes, rng: &mut Rng) -> Problem {
    let n = sizes.length;
    let mut cycle: Vec<usize> = (0..n).collect();
    shuffle(&mut cycle, rng);
    let mut edges: Vec<(usize, usize)> = (0..n).map(|i| (cycle[i], cycle[(i + 1) % n])).collect();
    shuffle(&mut edges, rng);
    let mut problem = Problem::default();
    for (from, to) in &edges {
        problem.tell(*from as u32);
        problem.tell(*to as u32);
    }
    let steps = if sizes.single { 1 } else { 1 + rng.below(sizes.steps) };
    let start = rng.below(n);
    problem.tell(ASK);
    problem.tell(cycle[start] as u32);
    for k in 1..=steps {
        problem.ask(STEP, cycle[(start + k) % n] as u32, k);
    }
    problem
}

/// Relations are this and the next id.
pub(super) const RELATION: u32 = 200;
const RELATIONS: usize = 2;

/// A fact for every entity and relation, in random order, then an entity and a path of relations, with the entity
/// reached so far asked for at each.
pub(super) fn facts(sizes: Sizes, rng: &mut Rng) -> Problem {
    let n = sizes.length;
    let mut facts: Vec<(usize, usize, usize)> = (0..n).flat_map(|e| (0..RELATIONS).map(move |r| (e, r, 0))).collect();
    facts.iter_mut().for_each(|fact| fact.2 = rng.below(n));
    let graph: Vec<usize> = facts.iter().map(|fact| fact.2).collect();
    shuffle(&mut facts, rng);
    let mut problem = Problem::default();
    for (entity, relation, to) in facts {
        [entity as u32, RELATION + relation as u32, to as u32].into_iter().for_each(|symbol| problem.tell(symbol));
    }
    let steps = if sizes.single { 1 } else { 1 + rng.below(sizes.steps) };
    let mut at = rng.below(n);
    problem.tell(ASK);
    problem.tell(at as u32);
    for k in 1..=steps {
        let relation = rng.below(RELATIONS);
        at = graph[at * RELATIONS + relation];
        problem.ask(RELATION + relation as u32, at as u32, k);
    }
    problem
}
