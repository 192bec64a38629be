//! What `parloop --version` says beyond the number: the commit and the features of the build.

use std::path::Path;
use std::process::Command;

fn main() {
    let features = ["train", "pull", "serve", "client", "cuda", "wgpu", "metal"]
        .into_iter()
        .filter(|name| std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some());
    let features = features.collect::<Vec<_>>().join(", ");
    let features = if features.is_empty() { String::new() } else { format!(", with {features}") };
    let commit = published().or_else(checked_out).map_or(String::new(), |commit| format!(" ({commit})"));
    println!("cargo::rustc-env=PARLOOP_FEATURES={features}");
    println!("cargo::rustc-env=PARLOOP_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
}

/// The commit that a published package was made from.
fn published() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let commit = text.split("\"sha1\": \"").nth(1)?.split('"').next()?;
    Some(commit.get(..10)?.to_owned())
}

/// The commit that is checked out here.
fn checked_out() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Another repository that this source happens to lie in is not its history.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // Moves with every commit, whatever the branch.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=10", "HEAD"])
}
