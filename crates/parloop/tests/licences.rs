//! Every crate that is built here has a licence that `deny.toml` allows.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Whether an SPDX expression can be met by licences that are allowed. `AND` binds closer than `OR`; `/` is an old
/// spelling of `OR`.
fn is_met(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = text.split_whitespace().rev().collect();
    any(&mut words, allowed) && words.is_empty()
}

fn any(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = all(words, allowed);
    while words.pop_if(|w| *w == "OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(words, allowed);
    while words.pop_if(|w| *w == "AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
    match words.pop() {
        Some("(") => any(words, allowed) && words.pop() == Some(")"),
        Some(name) if words.pop_if(|w| *w == "WITH").is_some() => {
            words.pop().is_some_and(|exception| allowed(&format!("{name} WITH {exception}")))
        }
        Some(name) => allowed(name),
        None => false,
    }
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let allowed = |name: &str| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&name);
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR X) AND ISC",
        "X AND Y OR MIT",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for not in ["", "GPL-3.0", "MIT AND X", "(MIT OR X) AND Y", "MIT WITH LLVM-exception", "MIT MIT", "(MIT"] {
        assert!(!is_met(not, &allowed), "{not}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list: toml::Table = std::fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    let licenses = &list["licenses"];
    let allow: Vec<&str> = licenses["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let clarified = |name: &str| {
        let entries = licenses["clarify"].as_array().unwrap();
        Some(entries.iter().find(|e| e["crate"].as_str() == Some(name))?["expression"].as_str().unwrap().to_owned())
    };
    // Without a network only the crates of one platform are at hand: those of this build.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap().stdout;
    let host = String::from_utf8(host).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host.trim()])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "a list of {} crates is not the whole one", packages.len());
    let wrong: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let name = package["name"].as_str().unwrap();
            let said = package["license"].as_str().map(str::to_owned).or_else(|| clarified(name)).unwrap_or_default();
            (!is_met(&said, &|licence| allow.contains(&licence))).then(|| format!("{name}: {said:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "licences that deny.toml does not allow: {}", wrong.join(", "));
}
