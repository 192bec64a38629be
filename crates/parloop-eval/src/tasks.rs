//! Generators of reasoning tasks: seeded, with splits that cannot overlap, difficulty as a parameter.
//!
//! A problem is a row of symbols and answers at some of them ([`Labelled`] without fillers). Ids are below 256, so that a
//! model over bytes can be trained on any of them. Which split a problem belongs to is a property of its symbols (a hash),
//! so no seed can put one into two.
//!
//! | task | what is asked | what a step is |
//! |---|---|---|
//! | `s3`, `a5`, `s5` | the product of the permutations so far | one more factor |
//! | `sums` | the sum so far modulo m | one more number |
//! | `hops` | p-hop induction: follow "what came after my last occurrence" p times | one hop |
//! | `addition` | the digits of the sum of n numbers, lowest first | one column with its carry |
//! | `mano` | the value of an arithmetic expression in prefix notation modulo 23 | one operation |
//! | `depo` | the k-th successor of a node in a permutation given as edges | one successor |
//! | `facts` | the entity at the end of a path of relations, in a graph given as facts | one relation |
//!
//! Dense problems have an answer at every symbol where there is one to give, sparse ones only at the last; single-step
//! problems ask for one step only and are the control. With `fillers` each symbol that is asked about is followed by so
//! many empty ones, and the answer is due after the last: time to think.

mod arithmetic;
mod groups;
mod hops;
mod paths;
mod sums;

pub use groups::Group;

use crate::items::Labelled;
use crate::rng::Rng;
use crate::{Error, Item, Result};
use serde::{Deserialize, Serialize};

/// The id of a filler: the last byte.
pub const FILLER: u32 = 255;

const PROBLEM: u64 = 0x7a5c;
/// One in so many problems belongs to the test split.
const TEST: u64 = 8;
/// Draws for one problem before the space of problems is called too small.
const TRIES: u64 = 4096;

/// Which problems: those to learn from, those of the same kind to be tested on, or harder ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    #[default]
    Train,
    /// None of which is in `train`.
    Test,
    /// Twice the length.
    Longer,
    /// Twice the steps (hops, operations).
    Deeper,
}

impl Split {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Train, "train"), (Self::Test, "test"), (Self::Longer, "longer"), (Self::Deeper, "deeper")];

    /// The name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What a task is made of; what a task does not use is left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The task's name in [`TASKS`].
    pub task: String,
    /// Symbols, numbers, digits, nodes or entities; 0 takes the task's own.
    #[serde(default)]
    pub length: usize,
    /// Most steps (hops, operations, numbers added); 0 takes the task's own.
    #[serde(default)]
    pub steps: usize,
    /// Answers at the last symbol only.
    #[serde(default)]
    pub sparse: bool,
    /// The single-step control.
    #[serde(default)]
    pub single: bool,
    /// Empty symbols before each answer.
    #[serde(default)]
    pub fillers: usize,
}

/// A problem before fillers: symbols, and for some of them an answer and its level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problem {
    symbols: Vec<u32>,
    answers: Vec<Option<(u32, u32)>>,
}

impl Problem {
    /// Appends a symbol that nothing is asked about.
    fn tell(&mut self, symbol: u32) {
        self.symbols.push(symbol);
        self.answers.push(None);
    }

    /// Appends a symbol after which `answer` is asked for, `level` steps into the problem.
    fn ask(&mut self, symbol: u32, answer: u32, level: usize) {
        self.symbols.push(symbol);
        self.answers.push(Some((answer, level as u32)));
    }
}

/// The sizes of a problem after defaults and split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    length: usize,
    steps: usize,
    single: bool,
}

/// A kind of task.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    /// `length` if it is not given, and its range.
    pub length: (usize, usize, usize),
    /// `steps` if they are not given, and their range; all 1 where length is the only measure.
    pub steps: (usize, usize, usize),
    /// Whether all answers but the last may be left out: not so where the answer has several symbols.
    pub sparse: bool,
    draw: fn(Sizes, &mut Rng) -> Problem,
}

/// Every kind of task.
pub const TASKS: &[Kind] = &[
    Kind {
        name: "s3",
        about: "products of permutations of 3 things (6 elements)",
        length: (24, 2, 4096),
        steps: (1, 1, 1),
        sparse: true,
        draw: |sizes, rng| groups::draw(&groups::S3, sizes, rng),
    },
    Kind {
        name: "a5",
        about: "products of even permutations of 5 things (60 elements, not solvable)",
        length: (16, 2, 4096),
        steps: (1, 1, 1),
        sparse: true,
        draw: |sizes, rng| groups::draw(&groups::A5, sizes, rng),
    },
    Kind {
        name: "s5",
        about: "products of permutations of 5 things (120 elements)",
        length: (16, 2, 4096),
        steps: (1, 1, 1),
        sparse: true,
        draw: |sizes, rng| groups::draw(&groups::S5, sizes, rng),
    },
    Kind {
        name: "sums",
        about: "running sums of numbers below m, modulo m (--steps is m)",
        length: (24, 2, 4096),
        steps: (7, 2, 200),
        sparse: true,
        draw: sums::draw,
    },
    Kind {
        name: "hops",
        about: "p-hop induction over 4 letters (--steps is the largest p, written as so many marks before)",
        length: (48, 4, 4096),
        steps: (4, 1, 64),
        sparse: true,
        draw: hops::draw,
    },
    Kind {
        name: "addition",
        about: "the sum of numbers (--steps of them) of so many digits (--length), lowest digit first",
        length: (4, 1, 512),
        steps: (3, 2, 64),
        sparse: false,
        draw: arithmetic::addition,
    },
    Kind {
        name: "mano",
        about: "arithmetic in prefix notation modulo 23 (--steps is the most operations)",
        length: (1, 1, 1),
        steps: (6, 1, 512),
        sparse: true,
        draw: arithmetic::mano,
    },
    Kind {
        name: "depo",
        about: "the k-th successor in a cycle given as edges (--length nodes, --steps is the most successors)",
        length: (8, 3, 120),
        steps: (4, 1, 64),
        sparse: true,
        draw: paths::successors,
    },
    Kind {
        name: "facts",
        about: "paths of relations in a graph given as facts (--length entities, 2 relations, --steps is the longest path)",
        length: (6, 3, 120),
        steps: (3, 1, 64),
        sparse: true,
        draw: paths::facts,
    },
];

impl Task {
    /// A task of this name with its own sizes: dense, all steps, no fillers.
    pub fn new(name: &str) -> Self {
        Self { task: name.to_owned(), length: 0, steps: 0, sparse: false, single: false, fillers: 0 }
    }

    /// The kind of task.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn kind(&self) -> Result<&'static Kind> {
        TASKS.iter().find(|kind| kind.name == self.task).ok_or_else(|| {
            let names: Vec<&str> = TASKS.iter().map(|kind| kind.name).collect();
            Error::option("task", format!("\"{}\"", self.task), names.join(", "))
        })
    }

    /// A short name for folders and tables: `s3`, `hops-single`, `s3-fill2`, `mano-sparse`.
    pub fn label(&self) -> String {
        let mut label = self.task.clone();
        let mut add = |name: &str, on: bool, value: usize| {
            if on {
                label += &if value > 0 { format!("-{name}{value}") } else { format!("-{name}") };
            }
        };
        add("n", self.length > 0, self.length);
        add("k", self.steps > 0, self.steps);
        add("single", self.single, 0);
        add("sparse", self.sparse, 0);
        add("fill", self.fillers > 0, self.fillers);
        label
    }

    /// The splits that make sense for it.
    ///
    /// # Errors
    /// As [`Task::kind`].
    pub fn splits(&self) -> Result<Vec<Split>> {
        let kind = self.kind()?;
        let mut splits = vec![Split::Train, Split::Test];
        if kind.length.2 > 1 && kind.name != "depo" && kind.name != "facts" {
            splits.push(Split::Longer);
        }
        if kind.steps.2 > 1 && !self.single && kind.name != "sums" {
            splits.push(Split::Deeper);
        }
        Ok(splits)
    }

    fn sizes(&self, split: Split) -> Result<Sizes> {
        let kind = self.kind()?;
        let mut sizes = [(self.length, kind.length, "length"), (self.steps, kind.steps, "steps")].map(
            |(given, (usual, low, high), option)| match given {
                0 => Ok(usual),
                n if (low..=high).contains(&n) => Ok(n),
                n => Err(Error::option(option, n, format!("{low} to {high} for {}", kind.name))),
            },
        );
        if self.sparse && !kind.sparse {
            return Err(Error::option(
                "sparse",
                true,
                format!("false: an answer of {} has several symbols", kind.name),
            ));
        }
        if self.fillers > 64 {
            return Err(Error::option("fillers", self.fillers, "at most 64"));
        }
        if !self.splits()?.contains(&split) {
            let names: Vec<&str> = self.splits()?.into_iter().map(Split::name).collect();
            return Err(Error::option("split", split.name(), format!("{} for {}", names.join(", "), self.label())));
        }
        let at = match split {
            Split::Longer => Some(0),
            Split::Deeper => Some(1),
            _ => None,
        };
        if let Some(at) = at {
            sizes[at] = std::mem::replace(&mut sizes[at], Ok(0)).map(|n| 2 * n);
        }
        let [length, steps] = sizes;
        Ok(Sizes { length: length?, steps: steps?, single: self.single })
    }

    /// The problem of a number, a pure function of the seed and that number.
    ///
    /// # Errors
    /// An option is out of range, or there are too few problems of these sizes to find one of the split.
    pub fn problem(&self, split: Split, seed: u64, number: u64) -> Result<Labelled> {
        let (kind, sizes) = (self.kind()?, self.sizes(split)?);
        for attempt in 0..TRIES {
            let mut rng = Rng::new(seed, PROBLEM + attempt, number);
            let problem = (kind.draw)(sizes, &mut rng);
            let test = belongs_to_test(&problem.symbols);
            let fits = match split {
                Split::Train => !test,
                Split::Test => test,
                Split::Longer | Split::Deeper => true,
            };
            if fits && problem.answers.iter().any(Option::is_some) {
                return Ok(self.laid_out(problem));
            }
        }
        let few = format!("larger: of {TRIES} problems of this size none belongs to the split {}", split.name());
        Err(Error::option("length", sizes.length, few))
    }

    /// With fillers, and without what sparse problems do not ask.
    fn laid_out(&self, mut problem: Problem) -> Labelled {
        if self.sparse
            && let Some(last) = problem.answers.iter().rposition(Option::is_some)
        {
            problem.answers[..last].fill(None);
        }
        let mut item = Labelled::default();
        for (symbol, answer) in problem.symbols.into_iter().zip(problem.answers) {
            item.ids.push(symbol);
            if answer.is_some() {
                item.ids.extend(std::iter::repeat_n(FILLER, self.fillers));
            }
            item.targets.resize(item.ids.len() - 1, None);
            item.levels.resize(item.ids.len() - 1, 0);
            item.targets.push(answer.map(|(target, _)| target));
            item.levels.push(answer.map_or(0, |(_, level)| level));
        }
        item
    }

    /// `count` problems of a split.
    ///
    /// # Errors
    /// As [`Task::problem`].
    pub fn problems(&self, split: Split, seed: u64, count: usize) -> Result<Vec<Item>> {
        (0..count as u64).map(|number| Ok(Item::Labelled(self.problem(split, seed, number)?))).collect()
    }
}

/// Whether a row of symbols is for tests: a hash of it decides (FNV-1a, mixed once more so that its low bits depend on
/// all of it).
fn belongs_to_test(symbols: &[u32]) -> bool {
    let hash =
        symbols.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, s| (h ^ u64::from(*s)).wrapping_mul(0x0000_0100_0000_01b3));
    Rng::new(hash, 0, 0).next_u64().is_multiple_of(TEST)
}
