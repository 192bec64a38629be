//! What to compute with, and in which types.

use super::names::{KV, WEIGHTS, named};
use super::numbers::{byte_count, from_to};
use clap::Args;
use parloop_kernels::{KvType, Pool, WeightType};

/// In which types to run a model.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct Weights {
    /// Convert the matrices while loading: f32, bf16, q8 (8.5 bits a weight), q4_1 (5 bits), q4 (4.5 bits); the file's own type if left out
    #[arg(long, value_name = "TYPE", value_parser = named(WEIGHTS))]
    pub weights: Option<WeightType>,
    /// Keep keys and values as f32, bf16 (half the memory) or q8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = named(KV))]
    pub kv: KvType,
}

/// What to compute with.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Threads; PARLOOP_THREADS, or the physical cores, if left out
    #[arg(long, value_name = "N", value_parser = from_to::<u16, 1, 1024>, allow_negative_numbers = true)]
    pub threads: Option<u16>,
}

impl Machine {
    /// What to use of the machine, by these flags and the environment.
    pub fn chosen(&self) -> anyhow::Result<parloop_kernels::Machine> {
        parloop_kernels::Machine::chosen(Some(self.threads()?)).map_err(anyhow::Error::msg)
    }

    /// The number of threads to use; says so where they are more than the machine runs at once.
    pub fn threads(&self) -> anyhow::Result<usize> {
        let Some(threads) = self.threads.map(usize::from) else {
            return Pool::default_threads().map_err(anyhow::Error::msg);
        };
        if let Ok(cores) = std::thread::available_parallelism().map(usize::from)
            && threads > cores
        {
            say!("warning: --threads {threads} on a machine that runs {cores} at once: they will wait for each other");
        }
        Ok(threads)
    }
}

/// How much memory a text may take.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct Budget {
    /// Refuse to start if the keys and values of the whole text may take more bytes than this (such as 2GB); without
    /// it, more than the memory available
    #[arg(long, alias = "cache-bytes", value_name = "BYTES", value_parser = byte_count, allow_negative_numbers = true)]
    pub kv_budget: Option<usize>,
}
