//! Answers of generated problems against solvers that are written another way: from the symbols alone, by brute force.

use parloop_eval::tasks::{FILLER, TASKS};
use parloop_eval::{Labelled, Split, Task};
use std::collections::HashSet;

/// Answers by position, recomputed.
type Solver = fn(&Task, &[u32]) -> Vec<Option<u32>>;

fn solver(name: &str) -> Solver {
    match name {
        "s3" => |task, ids| products(task, ids, 3, false),
        "a5" => |task, ids| products(task, ids, 5, true),
        "s5" => |task, ids| products(task, ids, 5, false),
        "sums" => sums,
        "hops" => hops,
        "addition" => addition,
        "mano" => mano,
        "depo" => depo,
        "facts" => facts,
        other => panic!("no solver for {other}"),
    }
}

/// A permutation as a matrix of 0 and 1, and products of matrices: nothing of the generator's tables.
fn products(task: &Task, ids: &[u32], n: usize, even: bool) -> Vec<Option<u32>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    // Numbers in base n whose digits all differ, in order, are the permutations in lexicographic order.
    for code in 0..n.pow(n as u32) {
        let digits: Vec<usize> = (0..n).rev().map(|i| code / n.pow(i as u32) % n).collect();
        if digits.iter().collect::<HashSet<_>>().len() == n && (!even || determinant(&matrix(&digits)) == 1) {
            all.push(digits);
        }
    }
    let matrices: Vec<Vec<Vec<i32>>> = all.iter().map(|p| matrix(p)).collect();
    let find = |m: &Vec<Vec<i32>>| matrices.iter().position(|x| x == m).unwrap() as u32;
    let mut answers = Vec::new();
    for t in 0..ids.len() {
        let first = if task.single { t.saturating_sub(1) } else { 0 };
        let factors = ids[first..=t].iter().map(|id| &matrices[*id as usize]);
        // Row vectors: what is done first stands first.
        let product = factors.fold(matrix(&(0..n).collect::<Vec<_>>()), |a, b| times(&a, b));
        answers.push((!task.single || t > 0).then(|| find(&product)));
    }
    answers
}

fn matrix(p: &[usize]) -> Vec<Vec<i32>> {
    p.iter().map(|to| (0..p.len()).map(|j| i32::from(j == *to)).collect()).collect()
}

fn times(a: &[Vec<i32>], b: &[Vec<i32>]) -> Vec<Vec<i32>> {
    let n = a.len();
    (0..n).map(|i| (0..n).map(|j| (0..n).map(|k| a[i][k] * b[k][j]).sum()).collect()).collect()
}

fn determinant(m: &[Vec<i32>]) -> i32 {
    if m.len() == 1 {
        return m[0][0];
    }
    let minor = |skip: usize| -> Vec<Vec<i32>> {
        m[1..].iter().map(|row| row.iter().enumerate().filter(|(j, _)| *j != skip).map(|(_, x)| *x).collect()).collect()
    };
    (0..m.len()).map(|j| if j % 2 == 0 { 1 } else { -1 } * m[0][j] * determinant(&minor(j))).sum()
}

fn sums(task: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    let m = if task.steps == 0 { 7 } else { task.steps as u32 };
    let from = |t: usize| if task.single { t.saturating_sub(1) } else { 0 };
    (0..ids.len()).map(|t| (!task.single || t > 0).then(|| ids[from(t)..=t].iter().sum::<u32>() % m)).collect()
}

fn hops(_: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    let p = ids.iter().take_while(|id| **id == 4).count();
    let x = &ids[p..];
    let find = |i: usize| (1..=i).rev().find(|j| x[j - 1] == x[i]);
    let answer = |t: usize| {
        let mut at = Some(t);
        for _ in 0..p {
            at = at.and_then(find);
        }
        at.map(|at| x[at])
    };
    (0..ids.len()).map(|t| if t < p { None } else { answer(t - p) }).collect()
}

fn addition(task: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    let equals = ids.iter().position(|id| *id == 11).unwrap();
    let numbers: Vec<&[u32]> = ids[..equals].split(|id| *id == 10).collect();
    let mut answers = vec![None; equals];
    if task.single {
        answers.extend((0..numbers[0].len()).map(|i| Some(numbers.iter().map(|n| n[i]).sum::<u32>() % 10)));
    } else {
        let value = |digits: &&[u32]| digits.iter().rev().fold(0u128, |v, d| 10 * v + u128::from(*d));
        let sum: u128 = numbers.iter().map(value).sum();
        answers.extend((0..numbers[0].len() + 2).map(|i| Some((sum / 10u128.pow(i as u32) % 10) as u32)));
    }
    // Digits are shown after they were asked for.
    for i in 1..answers.len() - equals {
        assert_eq!(ids[equals + i], answers[equals + i - 1].unwrap());
    }
    answers
}

/// Values of the parts of an expression by recursive descent: where a part ends, the largest that ends there.
fn mano(_: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    fn part(ids: &[u32], at: usize, answers: &mut [Option<u32>]) -> (i64, usize) {
        if ids[at] < 23 {
            return (i64::from(ids[at]), at + 1);
        }
        let (left, next) = part(ids, at + 1, answers);
        let (right, end) = part(ids, next, answers);
        let value = match ids[at] - 23 {
            0 => left + right,
            1 => left - right,
            _ => left * right,
        };
        let value = value.rem_euclid(23);
        answers[end - 1] = Some(value as u32);
        (value, end)
    }
    let mut answers = vec![None; ids.len()];
    assert_eq!(part(ids, 0, &mut answers).1, ids.len());
    answers
}

fn depo(_: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    let ask = ids.iter().position(|id| *id == 251).unwrap();
    let next = |node: u32| ids[..ask].chunks(2).find(|edge| edge[0] == node).unwrap()[1];
    let mut answers = vec![None; ask + 2];
    let mut at = ids[ask + 1];
    for id in &ids[ask + 2..] {
        assert_eq!(*id, 250);
        at = next(at);
        answers.push(Some(at));
    }
    answers
}

fn facts(_: &Task, ids: &[u32]) -> Vec<Option<u32>> {
    let ask = ids.iter().position(|id| *id == 251).unwrap();
    let follow = |entity, relation| ids[..ask].chunks(3).find(|f| f[..2] == [entity, relation]).unwrap()[2];
    let mut answers = vec![None; ask + 2];
    let mut at = ids[ask + 1];
    for relation in &ids[ask + 2..] {
        at = follow(at, *relation);
        answers.push(Some(at));
    }
    answers
}

/// Every variant of every task that is worth a look.
fn variants() -> Vec<Task> {
    let mut all = Vec::new();
    for kind in TASKS {
        for single in [false, true] {
            for sparse in [false, true] {
                for fillers in 0..3 {
                    if !sparse || kind.sparse {
                        all.push(Task { single, sparse, fillers, ..Task::new(kind.name) });
                    }
                }
            }
        }
    }
    all
}

/// A problem without its fillers; each answer stands where its symbol does.
fn bare(item: &Labelled) -> (Vec<u32>, Vec<Option<u32>>) {
    let mut problem: (Vec<u32>, Vec<Option<u32>>) = (Vec::new(), Vec::new());
    for (id, target) in item.ids.iter().zip(&item.targets) {
        if *id == FILLER {
            assert!(target.is_none() || problem.1.last().is_some_and(Option::is_none));
            if target.is_some() {
                *problem.1.last_mut().unwrap() = *target;
            }
            continue;
        }
        problem.0.push(*id);
        problem.1.push(*target);
    }
    problem
}

#[test]
fn answers_are_those_of_an_independent_solver() {
    for task in variants() {
        for split in task.splits().unwrap() {
            for number in 0..25 {
                let item = task.problem(split, 3, number).unwrap();
                assert!(item.ids.iter().all(|id| *id < 256));
                let (ids, found) = bare(&item);
                let mut expected = solver(&task.task)(&task, &ids);
                if task.sparse {
                    let last = expected.iter().rposition(Option::is_some).unwrap();
                    expected[..last].fill(None);
                }
                assert_eq!(found, expected, "{} {} {number}", task.label(), split.name());
            }
        }
    }
}

#[test]
fn fillers_come_before_each_answer() {
    for task in variants() {
        let item = task.problem(Split::Test, 1, 0).unwrap();
        for (t, _) in item.targets.iter().enumerate().filter(|(_, target)| target.is_some()) {
            let before = item.ids[..=t].iter().rev().take_while(|id| **id == FILLER).count();
            assert_eq!(before, task.fillers, "{}", task.label());
        }
    }
}

#[test]
fn splits_do_not_overlap_whatever_the_seeds() {
    for task in variants().into_iter().filter(|task| task.fillers == 0) {
        let of = |split, seed| -> HashSet<Vec<u32>> {
            (0..400).map(|n| task.problem(split, seed, n).unwrap().ids).collect()
        };
        let train: HashSet<_> = (1..6).flat_map(|seed| of(Split::Train, seed)).collect();
        let test = of(Split::Test, 6);
        assert!(train.is_disjoint(&test), "{}", task.label());
        assert!(test.len() > 1 && train.len() > 100, "{}", task.label());
    }
    // With fillers a problem stays in its split.
    let plain = Task::new("s3");
    let filled = Task { fillers: 2, ..plain.clone() };
    for n in 0..50 {
        assert_eq!(bare(&filled.problem(Split::Test, 2, n).unwrap()).0, plain.problem(Split::Test, 2, n).unwrap().ids);
    }
}

#[test]
fn harder_splits_are_harder_and_numbers_repeat() {
    let deepest =
        |task: &Task, split| (0..60).map(|n| *task.problem(split, 1, n).unwrap().levels.iter().max().unwrap()).max();
    let longest = |task: &Task, split| (0..60).map(|n| task.problem(split, 1, n).unwrap().ids.len()).max();
    for kind in TASKS {
        let task = Task::new(kind.name);
        for split in task.splits().unwrap() {
            assert_eq!(task.problem(split, 9, 4).unwrap(), task.problem(split, 9, 4).unwrap());
            assert_ne!(task.problem(split, 9, 4).unwrap(), task.problem(split, 9, 5).unwrap());
            assert_ne!(task.problem(split, 9, 4).unwrap(), task.problem(split, 8, 4).unwrap());
            match split {
                Split::Longer => assert!(longest(&task, split) > longest(&task, Split::Test), "{}", kind.name),
                Split::Deeper if kind.name != "addition" => {
                    assert!(deepest(&task, split) > deepest(&task, Split::Test), "{}", kind.name);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn what_a_task_cannot_be_is_refused_by_name() {
    let refused = |task: Task, split| task.problem(split, 1, 0).unwrap_err().to_string();
    assert!(refused(Task::new("s4"), Split::Train).contains("s3, a5, s5"));
    assert!(refused(Task { length: 1, ..Task::new("s3") }, Split::Train).contains("2 to 4096"));
    assert!(refused(Task { steps: 3, ..Task::new("s3") }, Split::Train).contains("steps is 3"));
    assert!(refused(Task { sparse: true, ..Task::new("addition") }, Split::Train).contains("several symbols"));
    assert!(refused(Task { fillers: 65, ..Task::new("s3") }, Split::Train).contains("fillers is 65"));
    assert!(refused(Task::new("s3"), Split::Deeper).contains("train, test, longer"));
    assert!(refused(Task { single: true, ..Task::new("depo") }, Split::Deeper).contains("train, test"));
}
