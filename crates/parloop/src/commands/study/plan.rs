//! The runs of a study as a job of a cluster.

use super::Place;
use super::file::Study;
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::path::Path;

/// What starts the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// A script for `sbatch`: an array, a task a run
    Slurm,
    /// A job file for `hq job submit-file`
    Hyperqueue,
    /// One command a line, for `xargs -P` or GNU parallel
    List,
}

pub fn plan(study: &Study, place: &Place, system: System) -> Result<()> {
    Ok(std::io::Write::write_all(&mut std::io::stdout().lock(), text(study, place, system)?.as_bytes())?)
}

fn text(study: &Study, place: &Place, system: System) -> Result<String> {
    let whole = |path: &Path| std::path::absolute(path).with_context(|| format!("cannot follow {}", path.display()));
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut words = vec![program.display().to_string(), "study".into(), "arm".into()];
    words.extend([whole(&place.file)?.display().to_string(), "--out".into(), whole(&place.out)?.display().to_string()]);
    if let Some(data) = &place.data {
        words.extend(["--data".into(), whole(data)?.display().to_string()]);
    }
    if place.quick {
        words.push("--quick".into());
    }
    words.push("--run".into());
    let shell: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let shell = shell.join(" ");
    let last = study.runs.len() - 1;
    Ok(match system {
        System::List => {
            let line = |name: &str| format!("RAYON_NUM_THREADS=1 PARLOOP_THREADS=1 {shell} {name}\n");
            study.runs.iter().map(|run| line(&run.name)).collect()
        }
        System::Slurm => format!(
            "#!/bin/bash\n#SBATCH --job-name={}\n#SBATCH --array=0-{last}\n#SBATCH --cpus-per-task=1\n#SBATCH --requeue\n\
             # {} runs. Each goes on from its last checkpoint when it is started again. When all are done, `parloop study`\n\
             # with the same file and folder gathers the results and writes the report.\n\
             export RAYON_NUM_THREADS=1 PARLOOP_THREADS=1\n{shell} \"$SLURM_ARRAY_TASK_ID\"\n",
            job_name(&study.name),
            study.runs.len()
        ),
        System::Hyperqueue => {
            let mut text = format!("name = {}\n", toml::Value::from(job_name(&study.name)));
            for (id, run) in study.runs.iter().enumerate() {
                let command: Vec<toml::Value> =
                    words.iter().chain([&run.name]).map(|word| toml::Value::from(word.as_str())).collect();
                text += &format!(
                    "\n[[task]]\nid = {id}\ncommand = {}\nenv = {{ RAYON_NUM_THREADS = \"1\", PARLOOP_THREADS = \"1\" }}\n\
                     crash_limit = 5\n[[task.request]]\nresources = {{ \"cpus\" = 1 }}\n",
                    toml::Value::Array(command)
                );
            }
            text
        }
    })
}

/// A job's name without what a scheduler could take for something else.
fn job_name(name: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    format!("parloop-{}", name.chars().map(good).collect::<String>())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
