//! `parloop study`: many training runs, their results, and a report.

mod arm;
mod file;
mod ladders;
mod measure;
mod plan;
mod queue;

use super::output;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueHint};
use file::{Given, Study as Described};
use parloop_eval::report;
use parloop_eval::results::costs::{self, COSTS};
use parloop_eval::results::{self, RESULTS};
use std::path::{Path, PathBuf};

/// Train many arms over tasks and seeds, and report what each is worth
///
/// A study is a TOML file: arms (recipes and other training options), tasks or a text, seeds. Runs are single-threaded, as many
/// at once as there are cores. Results are appended to FOLDER/results.jsonl as runs finish. Started again, a study goes on where
/// it was stopped: finished runs are not repeated, a killed run goes on from its checkpoint and ends with the same weights. A
/// run that diverges is kept and shown as diverged.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  parloop study docs/results/state.toml --out out/state
  parloop study docs/results/language.toml --data book.txt --out out/language --jobs 4
  parloop study docs/results/state.toml --out out/quick --quick      the same in little: does everything run?
  parloop study measure docs/results/state.toml --out out/state          what each arm costs to run
  parloop study report out/state                                     report.html and report.md from the results
  parloop study plan docs/results/language.toml --data book.txt --out out/language --for slurm > language.sh

A file:
  name = 'mine'
  about = 'Does a third loop help?'
  seeds = [1, 2, 3]
  text = 'Shakespeare'            # with --data; or tables [[task]], with `task` and what `parloop task` takes
  ladder = 'paper'                # arms vanilla, loop2, clp, share, plt2, plt3, twice-layers, equal-latency; or 'reasoning'
  [options]                       # as in a file of `parloop train`
  hidden_size = 64
  [[arm]]                         # more arms; `times` multiplies what the size says
  name = 'deep'
  recipe = 'vanilla'
  times = { layers = 2 }
  [[size]]                        # all of it at several sizes
  name = 'd128'
  hidden_size = 128")]
pub struct Study {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    place: Option<Place>,
    /// Runs at once; as many as cores if left out
    #[arg(long, value_name = "N", value_parser = crate::args::numbers::from_to::<u16, 1, 1024>, allow_negative_numbers = true)]
    jobs: Option<u16>,
}

/// A study and where it goes.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// The study
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder for runs and results; created if needed
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// The text, for studies of one: a UTF-8 file or a folder of such files
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Tiny models, a few steps, two seeds: checks that everything runs, not the science
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write FOLDER/report.html and FOLDER/report.md from the results of a study
    Report {
        /// The study's folder, or files or folders of several to be shown together
        #[arg(value_name = "FOLDER", required = true)]
        results: Vec<PathBuf>,
        /// Folder for the report; the first FOLDER, whose report is made anew, if left out
        #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
        #[command(flatten)]
        replace: output::Replace,
    },
    /// Print the runs as a job of a cluster: each is one task, resumable by itself; results merge when the study is run
    Plan {
        #[command(flatten)]
        place: Place,
        /// slurm: an array script for sbatch; hyperqueue: a job file for `hq job submit-file`; list: one command a line
        #[arg(long = "for", value_name = "SYSTEM", value_enum, default_value_t = plan::System::List)]
        system: plan::System,
    },
    /// Measure what each arm costs to run: decode in one pass and loop by loop, a prompt, memory; all arms in turn
    Measure {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        replace: output::Replace,
        /// Rounds: how often each thing is measured
        #[arg(long, value_name = "N", default_value = "31", value_parser = crate::args::numbers::from_to::<u16, 1, 10_000>, allow_negative_numbers = true)]
        rounds: u16,
        /// Type of the weights
        #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = crate::args::names::named(crate::args::names::WEIGHTS))]
        weights: parloop_kernels::WeightType,
        #[command(flatten)]
        machine: crate::args::machine::Machine,
    },
    /// Do one run of a study: what the study and the jobs of a cluster start
    Arm {
        #[command(flatten)]
        place: Place,
        /// The run, by name or by number from 0
        #[arg(long, value_name = "RUN")]
        run: String,
    },
}

pub fn study(args: &Study) -> Result<()> {
    match (&args.verb, &args.place) {
        (Some(Verb::Report { results, out, replace }), _) => {
            let first = &results[0];
            let beside = || if first.is_dir() { first.clone() } else { first.with_file_name("") };
            if let Some(out) = out {
                output::is_folder(out)?;
                REPORT.iter().try_for_each(|name| replace.file(&out.join(name), &[]))?;
            }
            write_report(results, &out.clone().unwrap_or_else(beside))
        }
        (Some(Verb::Plan { place, system }), _) => plan::plan(&described(place)?, place, *system),
        (Some(Verb::Measure { place, replace, rounds, weights, machine }), _) => {
            measure::measure(&described(place)?, place, *replace, usize::from(*rounds), *weights, machine)
        }
        (Some(Verb::Arm { place, run }), _) => arm::run(&described(place)?, place, run),
        (None, Some(place)) => {
            let study = described(place)?;
            queue::run(&study, place, args.jobs.map(usize::from))?;
            write_report(std::slice::from_ref(&place.out), &place.out)
        }
        (None, None) => anyhow::bail!("name a study file: `parloop study --help` shows one"),
    }
}

fn described(place: &Place) -> Result<Described> {
    output::is_folder(&place.out)?;
    let given = Given { data: place.data.as_deref(), quick: place.quick };
    Described::read(&place.file, given).with_context(|| format!("{} is no study that can be run", place.file.display()))
}

/// The files of a report.
const REPORT: [&str; 2] = ["report.html", "report.md"];

/// Writes the report of all results found.
fn write_report(sources: &[PathBuf], out: &Path) -> Result<()> {
    let (mut rows, mut costs) = (Vec::new(), Vec::new());
    for source in sources {
        let path = if source.is_dir() { source.join(RESULTS) } else { source.clone() };
        let known = results::read(&path)?;
        // Runs that a cluster or a study under way has finished, and that no study has gathered yet.
        let others = queue::finished(source, &known)?;
        ensure!(path.exists() || !others.is_empty(), "{} is not there: run the study first", path.display());
        rows.extend(known.into_iter().chain(others));
        costs.extend(costs::read(&path.with_file_name(COSTS))?);
    }
    ensure!(!rows.is_empty(), "there are no results yet");
    for (name, text) in REPORT.into_iter().zip([report::html(&rows, &costs), report::markdown(&rows, &costs)]) {
        let path = out.join(name);
        output::write(&path, text.as_bytes())?;
        say!("wrote {}", path.display());
    }
    Ok(())
}
