//! The `parloop` command.
#![forbid(unsafe_code)]
// They panic where nobody reads any more: `put!` and `say!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod terminal;

mod args;
mod cache;
#[cfg(feature = "client")]
mod client;
mod commands;
mod hints;
mod interrupt;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::given();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<commands::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            terminal::tell(&format!("error: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each said once: many errors already end with their cause.
fn sentence(error: &anyhow::Error) -> String {
    // Errors of our files say which file; a bare one comes from printing.
    let is_bare = |e: &(dyn std::error::Error + 'static)| e.is::<std::io::Error>() || e.is::<serde_json::Error>();
    if error.chain().next().is_some_and(is_bare) {
        return format!("cannot write standard output: {error}");
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    match hints::hint(error) {
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

/// Whoever read our output (`head`, a pager) has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(closed)
            || e.downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}
