//! The study as a file, and the runs that follow from it.

use super::ladders;
use anyhow::{Context, Result, anyhow, bail, ensure};
use parloop_eval::{Split, Task};
use parloop_train::{Settings, TrainOptions};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Bytes of a study file at most.
const MOST_BYTES: u64 = 1 << 20;
/// Runs of a study at most.
const MOST_RUNS: usize = 100_000;
/// Problems of a training file at most; with fewer steps, fewer.
const MOST_PROBLEMS: usize = 200_000;
/// Seed of the problems that models learn from; the tests' is another.
pub const TRAIN_SEED: u64 = 1;
pub const TEST_SEED: u64 = 1_000_003;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    about: String,
    seeds: Vec<u64>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    ladder: Option<String>,
    #[serde(default = "usual_tests")]
    tests: usize,
    #[serde(default)]
    options: Table,
    #[serde(default)]
    task: Vec<Task>,
    #[serde(default)]
    size: Vec<Table>,
    #[serde(default)]
    arm: Vec<Table>,
}

fn usual_tests() -> usize {
    512
}

/// What the command line says of a study.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    pub data: Option<&'a Path>,
    pub quick: bool,
}

/// What a run learns.
#[derive(Clone, Debug)]
pub enum Learns {
    Text { path: PathBuf },
    Task { task: Task, train: usize, tests: usize },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Task, size, arm and seed in one name, which is also its folder's.
    pub name: String,
    pub task: String,
    pub size: String,
    pub arm: String,
    pub seed: u64,
    pub learns: Learns,
    pub options: TrainOptions,
}

/// A study and all its runs, in the order in which they are done: all arms of a seed before the next seed, so that a
/// study that is stopped has whole pairs.
#[derive(Debug)]
pub struct Study {
    pub name: String,
    pub about: String,
    pub runs: Vec<Run>,
    /// What is worth a word although it is allowed.
    pub notes: Vec<String>,
}

/// A named list of options: a size or an arm.
struct Part {
    name: String,
    options: Table,
    times: Vec<(String, f64)>,
}

impl Part {
    fn of(kind: &str, mut table: Table) -> Result<Self> {
        let Some(Value::String(name)) = table.remove("name") else {
            bail!("[[{kind}]] has no name: expected name = \"...\"");
        };
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(good), "{kind} \"{name}\": expected letters, digits, - and _");
        let times = match table.remove("times") {
            None => Vec::new(),
            Some(Value::Table(times)) => times
                .into_iter()
                .map(|(key, value)| {
                    let factor = value.as_float().or(value.as_integer().map(|i| i as f64));
                    let factor = factor.filter(|f| *f > 0.0 && f.is_finite());
                    Ok((
                        key.clone(),
                        factor.with_context(|| {
                            format!("{kind} {name}: times.{key} is {value}, expected a number above 0")
                        })?,
                    ))
                })
                .collect::<Result<_>>()?,
            Some(other) => bail!("{kind} {name}: times is {other}, expected a table such as {{ layers = 2 }}"),
        };
        Ok(Self { name, options: table, times })
    }

    fn apply(&self, kind: &str, settings: &mut Settings) -> Result<()> {
        let wrong = |e: parloop_train::Error| anyhow!("{kind} {}: {e}", self.name);
        for (key, value) in &self.options {
            settings.set(key, value.clone()).map_err(wrong)?;
        }
        for (key, factor) in &self.times {
            let options = settings.options().map_err(wrong)?;
            let option = parloop_train::options::TrainOption::named(key)
                .with_context(|| format!("{kind} {}: there is no training option \"{key}\"", self.name))?;
            let value = match option.get(&options) {
                Value::Integer(value) => Value::Integer((value as f64 * factor).round() as i64),
                Value::Float(value) => Value::Float(value * factor),
                other => bail!("{kind} {}: times.{key} multiplies {other}, which is no number", self.name),
            };
            settings.set(key, value).map_err(wrong)?;
        }
        Ok(())
    }
}

impl Study {
    /// Reads a study and makes its runs; each is checked, so that an arm that cannot run is told before any does.
    pub fn read(path: &Path, given: Given<'_>) -> Result<Self> {
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(size <= MOST_BYTES, "it is {size} bytes long, expected at most {MOST_BYTES}");
        let file: File = toml::from_str(&super::super::read_text(path)?).map_err(|e| anyhow!("{}", e.message()))?;
        // In little a study is refused for whatever it would be refused for in full.
        let whole = Self::of(&file, given.data, false)?;
        if given.quick { Self::of(&file, given.data, true) } else { Ok(whole) }
    }

    fn of(file: &File, data: Option<&Path>, quick: bool) -> Result<Self> {
        ensure!(!file.seeds.is_empty(), "seeds is empty, expected at least one");
        ensure!((1..=1_000_000).contains(&file.tests), "tests is {}, expected 1 to 1000000", file.tests);
        let tests = if quick { file.tests.min(8) } else { file.tests };
        let seeds = if quick { &file.seeds[..file.seeds.len().min(2)] } else { &file.seeds[..] };
        let arms = arms(file)?;
        let sizes = match file.size.len() {
            0 => vec![Part { name: String::new(), options: Table::new(), times: Vec::new() }],
            _ => file.size.iter().map(|table| Part::of("size", table.clone())).collect::<Result<_>>()?,
        };
        let learns = learns(file, data, tests)?;
        let count =
            [seeds.len(), learns.len(), sizes.len(), arms.len()].iter().fold(1usize, |a, b| a.saturating_mul(*b));
        ensure!(count <= MOST_RUNS, "it makes {count} runs, expected at most {MOST_RUNS}");
        let (mut runs, mut notes) = (Vec::new(), Vec::new());
        for seed in seeds {
            for (label, learns) in &learns {
                for size in &sizes {
                    for arm in &arms {
                        let (run, note) = run(&file.options, label, learns, size, arm, *seed, quick)?;
                        notes.extend(note.map(|note| format!("arm {}: {note}", run.arm)));
                        runs.push(run);
                    }
                }
            }
        }
        let mut names = HashSet::new();
        if let Some(twice) = runs.iter().find(|run| !names.insert(run.name.clone())) {
            bail!("two runs are called {}: give arms, sizes, tasks and seeds different names", twice.name);
        }
        notes.sort();
        notes.dedup();
        Ok(Self { name: file.name.clone(), about: file.about.clone(), runs, notes })
    }

    /// The run of a name, or of a number.
    pub fn run(&self, name: &str) -> Result<&Run> {
        let numbered = name.parse::<usize>().ok().and_then(|number| self.runs.get(number));
        self.runs.iter().find(|run| run.name == name).or(numbered).with_context(|| {
            format!("the study has no run \"{name}\": expected a name or a number from 0 to {}", self.runs.len() - 1)
        })
    }
}

fn arms(file: &File) -> Result<Vec<Part>> {
    let mut arms = Vec::new();
    if let Some(ladder) = &file.ladder {
        for (name, recipe, times) in ladders::named(ladder)? {
            arms.push(Part {
                name: (*name).to_owned(),
                options: Table::from_iter([("recipe".to_owned(), Value::from(*recipe))]),
                times: times.iter().map(|(key, factor)| ((*key).to_owned(), *factor)).collect(),
            });
        }
    }
    for table in &file.arm {
        arms.push(Part::of("arm", table.clone())?);
    }
    ensure!(!arms.is_empty(), "it has no arms: give ladder = \"paper\" or tables [[arm]]");
    Ok(arms)
}

fn learns(file: &File, data: Option<&Path>, tests: usize) -> Result<Vec<(String, Learns)>> {
    let mut all = Vec::new();
    match (&file.text, data) {
        (Some(_), Some(path)) if !path.exists() => bail!("--data {} is not there", path.display()),
        (Some(_), Some(path)) => all.push((String::new(), Learns::Text { path: path.to_owned() })),
        (Some(text), None) => bail!("it learns a text ({text}): give it with --data PATH"),
        (None, Some(_)) => bail!("it learns no text: leave out --data"),
        (None, None) => {}
    }
    for task in &file.task {
        // Refuses what cannot be.
        task.problem(Split::Train, TRAIN_SEED, 0).map_err(|e| anyhow!("task {}: {e}", task.label()))?;
        all.push((task.label(), Learns::Task { task: task.clone(), train: MOST_PROBLEMS, tests }));
    }
    ensure!(!all.is_empty(), "it learns nothing: give text or tables [[task]]");
    Ok(all)
}

/// A run, and what is worth a word about it.
fn run(
    common: &Table,
    label: &str,
    learns: &Learns,
    size: &Part,
    arm: &Part,
    seed: u64,
    quick: bool,
) -> Result<(Run, Option<String>)> {
    let mut settings = Settings::new();
    for (key, value) in common {
        settings.set(key, value.clone()).map_err(|e| anyhow!("options: {e}"))?;
    }
    size.apply("size", &mut settings)?;
    arm.apply("arm", &mut settings)?;
    let mut options = settings.options()?;
    options.seed = seed;
    options.keep = 1;
    if quick {
        shrink(&mut options);
    }
    let mut learns = learns.clone();
    if let Learns::Task { task, train, .. } = &mut learns {
        ensure!(options.tokenizer == "bytes", "tasks are ids below 256: set tokenizer = \"bytes\"");
        *train =
            (options.steps.saturating_mul(options.batch).saturating_mul(options.batches_per_step())).min(*train) + 64;
        // Problems have the length they have; the model has room for the longest split.
        let longest = |split| -> Result<usize> {
            let mut longest = 0;
            for number in 0..256 {
                longest = longest.max(task.problem(split, TEST_SEED, number)?.ids.len());
            }
            Ok(longest)
        };
        let all = task.splits()?.into_iter().map(longest).collect::<Result<Vec<_>>>()?;
        // What drawing 256 did not show is covered twice over.
        let slack = if all[0] == all[1] && task.kind()?.steps.2 == 1 { 0 } else { all[0] };
        options.context = all[0] + slack;
        options.max_position = all.iter().copied().max().unwrap_or(0) + slack;
    }
    let parts = [label, &size.name, &arm.name];
    let named: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let name = format!("{}-s{seed}", named.join("."));
    options
        .check()
        .and_then(|()| options.model_config(256, None).map(|_| ()))
        .and_then(|()| options.check_memory())
        .map_err(|e| anyhow!("run {name}: {e}"))?;
    if let Some(local) = options.recipe.resolve()?.local {
        ensure!(
            local.left < options.context || quick || matches!(learns, Learns::Task { .. }),
            "run {name}: its window of {} to the left is as long as the context of {}: the arm would be a full attention; \
             take a smaller recipe.local.left or a longer context",
            local.left,
            options.context
        );
    }
    let run = Run {
        name,
        task: if label.is_empty() { "text".into() } else { label.to_owned() },
        size: size.name.clone(),
        arm: arm.name.clone(),
        seed,
        learns,
        options,
    };
    Ok((run, settings.left_out()))
}

/// The same run in little.
fn shrink(options: &mut TrainOptions) {
    (options.hidden_size, options.intermediate_size) = (16, 32.max(options.intermediate_size / 16));
    (options.heads, options.kv_heads, options.head_dim) = (2, 2, 8);
    options.layers = options.layers.min(4);
    (options.context, options.max_position) = (options.context.min(32), 0);
    (options.batch, options.accumulate, options.step_tokens) = (options.batch.min(4), 1, 0);
    (options.steps, options.warmup) = (options.steps.min(6), 2);
    (options.eval_every, options.eval_batches, options.log_every, options.save_every) = (3, 1, 2, 3);
    options.vocab_size = options.vocab_size.min(300);
}
