//! What documents show is what is there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap().replace("\r\n", "\n")
}

/// Every document.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension().and_then(|e| e.to_str()) {
                None => folders.push(path),
                Some("md") => found.push(path),
                Some(_) => {}
            }
        }
    }
    found
}

/// The parts of the example begin with a line `// name`; the document shows each in a block of Rust, in the same order.
#[test]
fn the_library_page_shows_the_example_that_is_compiled() {
    let example = read("crates/parloop/examples/library.rs");
    let parts: Vec<(&str, &str)> = example
        .split("\n// ")
        .skip(1)
        .filter_map(|part| part.split_once('\n'))
        .filter(|(name, _)| name.chars().all(char::is_alphanumeric))
        .collect();
    let page = read("docs/library.md");
    let blocks: Vec<&str> = page.split("```rust\n").skip(1).filter_map(|b| b.split("```").next()).collect();
    assert_eq!(blocks.len(), 6);
    for ((name, part), block) in parts.iter().zip(&blocks) {
        assert_eq!(block.trim(), part.trim(), "docs/library.md does not show `{name}` as the example has it");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let at = path.parent().unwrap().join(file);
            assert!(at.exists(), "{} links to {target}, which is not there", path.display());
            links += 1;
        }
    }
    assert!(links > 10);
}

#[cfg(feature = "train")]
#[test]
fn recipes_in_files_are_read() {
    let mut found = 0;
    for entry in std::fs::read_dir(root().join("docs/recipes")).unwrap() {
        let path = entry.unwrap().path();
        let options = options(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let recipe = options.recipe.resolve().unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert_eq!(recipe, parloop::model::Recipe::preset(name).unwrap(), "{}", path.display());
        found += 1;
    }
    assert!(found > 0);
}

#[cfg(feature = "train")]
#[test]
fn a_recipe_with_half_its_fields_is_refused_by_name() {
    let error = options("[recipe]\ncount = 2\nshift = true\n").unwrap_err().to_string();
    assert!(error.contains("recipe.hidden_scale"), "{error}");
}

/// The options of a TOML text.
#[cfg(feature = "train")]
fn options(text: &str) -> parloop::train::Result<parloop::train::TrainOptions> {
    let mut settings = parloop::train::Settings::new();
    settings.add_toml(text)?;
    settings.options()
}
