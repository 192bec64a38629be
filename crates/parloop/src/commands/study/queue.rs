//! The queue: runs as processes of one thread each, some at once; what is done stays done.

use super::Place;
use super::arm::{RESULT, folder};
use super::file::{Run, Study};
use crate::commands::plural;
use crate::interrupt;
use crate::terminal::tell;
use anyhow::{Context, Result, bail};
use parloop_eval::results::{self, Ending, RESULTS, Row};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long runs are given to save a checkpoint when the study is interrupted.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run under way.
struct Going<'a> {
    run: &'a Run,
    child: Child,
    since: Instant,
}

pub fn run(study: &Study, place: &Place, jobs: Option<usize>) -> Result<()> {
    interrupt::watch()?;
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    fs::create_dir_all(&place.out).with_context(|| format!("cannot create {}", place.out.display()))?;
    let _lock = lock(place)?;
    let done = merge(study, place)?;
    let mut waiting = study.runs.iter().filter(|run| !done.contains_key(&run.name));
    let left = waiting.clone().count();
    study.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    let runs = plural(study.runs.len(), "run", "runs");
    say!("{}: {runs}, {} done, {jobs} at once", study.name, study.runs.len() - left);
    let (mut going, mut finished, mut failed) = (Vec::<Going<'_>>::new(), 0, Vec::new());
    let began = Instant::now();
    loop {
        while going.len() < jobs && !interrupt::asked() {
            let Some(run) = waiting.next() else { break };
            going.push(Going { run, child: start(place, run)?, since: Instant::now() });
        }
        if going.is_empty() {
            break;
        }
        if interrupt::asked() {
            end(going);
            say!("stopped; the same command goes on from here");
            return Err(crate::commands::Interrupted.into());
        }
        let Some(at) = going.iter_mut().position(|going| going.child.try_wait().is_ok_and(|status| status.is_some()))
        else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let ended = going.swap_remove(at);
        finished += 1;
        match take(study, place, ended.run)? {
            Some(row) => {
                let spent = began.elapsed().as_secs_f64();
                let rest = spent / f64::from(finished) * (left as f64 - f64::from(finished));
                say!(
                    "[{}/{}] {}: {}, {:.0} s; about {} left",
                    study.runs.len() - left + finished as usize,
                    study.runs.len(),
                    row.run,
                    told(&row),
                    ended.since.elapsed().as_secs_f64(),
                    crate::commands::train::clock(rest)
                );
            }
            None => failed.push(&ended.run.name),
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} failed ({}), see above; the same command tries again",
            failed.len(),
            plural(study.runs.len(), "run", "runs"),
            failed.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

fn told(row: &Row) -> String {
    match (&row.ending, row.measure()) {
        (Ending::Diverged(_), _) => "diverged".into(),
        (_, Some(measured)) => format!("{} {:.4}", measured.name, measured.value),
        (_, None) => "done".into(),
    }
}

/// One study at a time writes results into a folder.
fn lock(place: &Place) -> Result<fs::File> {
    let path = place.out.join("study.lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another study is writing into {}: wait for it or choose another folder", place.out.display())
        }
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// What is done already: results that are written down, and those of runs that something else finished.
fn merge(study: &Study, place: &Place) -> Result<HashMap<String, Row>> {
    let path = place.out.join(RESULTS);
    let mut done: HashMap<String, Row> = results::read(&path)?.into_iter().map(|row| (row.run.clone(), row)).collect();
    for run in &study.runs {
        if !done.contains_key(&run.name)
            && let Some(row) = take(study, place, run)?
        {
            done.insert(row.run.clone(), row);
        }
        if let Some(row) = done.get(&run.name) {
            same(place, run, row)?;
        }
    }
    Ok(done)
}

/// Refuses a folder with results of another study.
fn same(place: &Place, run: &Run, row: &Row) -> Result<()> {
    let now = serde_json::to_value(&run.options)?;
    let differs = row.options.iter().find(|(key, then)| now.get(key.as_str()) != Some(then));
    if let Some((key, then)) = differs {
        bail!(
            "{} holds the result of {} with {key} = {then}, and the study says {}: take another folder",
            place.out.display(),
            run.name,
            now.get(key).map_or("nothing".into(), ToString::to_string)
        );
    }
    Ok(())
}

/// Results in the folders of runs that are not among those `known`, by the runs' names.
pub fn finished(out: &Path, known: &[Row]) -> Result<Vec<Row>> {
    let Ok(entries) = fs::read_dir(out.join("runs")) else { return Ok(Vec::new()) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path().join(RESULT)).collect();
    paths.sort();
    let mut rows = Vec::new();
    for path in paths {
        if let Some(row) = read(&path)?.filter(|row| known.iter().all(|known| known.run != row.run)) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The result in a file, if there is one.
fn read(path: &Path) -> Result<Option<Row>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    let row = serde_json::from_str(&text);
    row.map(Some).with_context(|| format!("{} is no result of this version: remove its folder", path.display()))
}

/// Appends a finished run's result to the study's, if it has one.
fn take(study: &Study, place: &Place, run: &Run) -> Result<Option<Row>> {
    let path = folder(place, run).join(RESULT);
    let Some(row) = read(&path)? else { return Ok(None) };
    if row.study != study.name {
        bail!("{} is a result of the study {}: take another folder", path.display(), row.study);
    }
    results::append(&place.out.join(RESULTS), &row)?;
    Ok(Some(row))
}

fn start(place: &Place, run: &Run) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["study", "arm"]).arg(&place.file).arg("--out").arg(&place.out).args(["--run", &run.name]);
    if let Some(data) = &place.data {
        command.arg("--data").arg(data);
    }
    if place.quick {
        command.arg("--quick");
    }
    // One thread each: results do not depend on it, and no run waits for another's threads.
    command.env("RAYON_NUM_THREADS", "1").env("PARLOOP_THREADS", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {}", run.name))
}

/// Waits for runs to save their checkpoints. Ctrl-C reached them too; who was asked alone (by a signal) passes it on
/// by going away.
fn end(mut going: Vec<Going<'_>>) {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        going.retain_mut(|going| going.child.try_wait().is_ok_and(|status| status.is_none()));
        if going.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut going in going {
        // A run that is killed goes on from its last checkpoint.
        let _ = going.child.kill();
        let _ = going.child.wait();
    }
}
