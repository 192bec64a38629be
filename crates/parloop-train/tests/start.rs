//! A run that starts from a checkpoint: it begins as the model that it came from, and goes on exactly.

mod common;

use common::{Place, job, run, small, with};
use parloop_model::{Checkpoint, Recipe, tensors};
use parloop_train::{LogRow, RecipeChoice, Settings, TrainOptions};
use std::fs;
use std::path::Path;

/// Options of a run that starts from a checkpoint; `recipe` in words.
fn started(from: &Path, recipe: &str, more: &str) -> TrainOptions {
    let mut settings = Settings::all_of(&small(recipe, 4));
    let sizes = ["layers", "hidden_size", "heads", "kv_heads", "head_dim", "intermediate_size", "vocab_size"];
    for name in sizes.into_iter().chain(["tie_embeddings", "rope_theta", "rms_norm_eps", "tokenizer"]) {
        settings.forget(name);
    }
    settings.add_toml(&format!("init = '{}'\nrecipe = '{recipe}'\n{more}", from.display())).unwrap();
    settings.options().unwrap()
}

fn losses(folder: &Path) -> Vec<f64> {
    let text = fs::read_to_string(folder.join("train.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str::<LogRow>(l).unwrap().loss).collect()
}

#[test]
fn with_closed_windows_and_cold_scales_the_first_loss_is_that_of_the_ordinary_model() {
    let place = Place::new();
    let first = run(&job(&place, "first", with(small("vanilla", 5), |o| o.lr = 0.01))).unwrap();
    // One more step of the ordinary model, at a rate that changes nothing, gives its loss on the first batch.
    let still = "lr = 1e-30\nweight_decay = 0\nlog_every = 1";
    run(&job(&place, "same", started(&first.checkpoint, "vanilla", still))).unwrap();
    let expected = losses(&place.path("same"))[0];
    for recipe in ["plt2", "plt3", "plt2-query", "loop2-clp-share"] {
        // Recipes of the ladder without scales of their own add the carried vector as it is; these have one to begin with.
        let mut options = started(&first.checkpoint, recipe, &format!("{still}\nscale_warmup = 3\ninitial_gate = 1"));
        let mut full = options.recipe.resolve().unwrap();
        full.embedding_scale.get_or_insert(1.0);
        options.recipe = RecipeChoice::Full(full.clone());
        let out = format!("out-{recipe}");
        let summary = run(&job(&place, &out, options)).unwrap();
        let found = losses(&place.path(&out));
        assert!((found[0] - expected).abs() < 1e-5, "{recipe}: {} instead of {expected}", found[0]);
        assert!((found[3] - expected).abs() > 1e-4, "{recipe}: warm scales change the loss");
        let saved = Checkpoint::open(&summary.checkpoint).unwrap();
        assert_eq!(saved.config().recipe, full);
    }
    // A narrow window that is half open sees less than the ordinary model did.
    let mut narrow = Recipe::plt(2);
    narrow.local.as_mut().unwrap().left = 3;
    let mut half = started(&first.checkpoint, "plt2", &format!("{still}\nscale_warmup = 3"));
    half.recipe = RecipeChoice::Full(narrow);
    run(&job(&place, "half", half)).unwrap();
    assert!((losses(&place.path("half"))[0] - expected).abs() > 1e-5, "an open window changes the loss");
}

#[test]
fn layers_are_taken_as_named() {
    let place = Place::new();
    let first = run(&job(&place, "first", with(small("vanilla", 2), |o| o.layers = 3))).unwrap();
    let still = "lr = 1e-30\nweight_decay = 0\ninit_layers = '2,0'";
    let folded = run(&job(&place, "folded", started(&first.checkpoint, "plt2", still))).unwrap();
    let (from, to) = (Checkpoint::open(&first.checkpoint).unwrap(), Checkpoint::open(&folded.checkpoint).unwrap());
    assert_eq!(to.config().num_hidden_layers, 2);
    for spec in tensors::expected(to.config()) {
        let source = spec.name.replace("layers.0.", "layers.2.").replace("layers.1.", "layers.0.");
        let Ok(source) = from.tensor(&source) else { continue };
        assert_eq!(source.to_f32(), to.tensor(&spec.name).unwrap().to_f32(), "{}", spec.name);
    }
}

#[test]
fn a_run_resumes_while_its_scales_warm_up_and_without_the_checkpoint_that_it_came_from() {
    let place = Place::new();
    let first = run(&job(&place, "first", small("vanilla", 2))).unwrap();
    let source = place.path("source");
    fs::rename(&first.checkpoint, &source).unwrap();
    let options = |steps: usize| with(started(&source, "plt2", "scale_warmup = 3"), |o| o.steps = steps);
    let (whole, part) = (options(4), with(options(4), |o| o.save_every = 2));
    let whole = run(&job(&place, "whole", whole)).unwrap();
    run(&job(&place, "parts", part)).unwrap();
    // As if it had been killed after its second step.
    fs::remove_dir_all(place.path("parts/checkpoint-000004")).unwrap();
    fs::remove_dir_all(&source).unwrap();
    let rest = TrainOptions::of_run(&place.path("parts")).unwrap();
    let rest = run(&job(&place, "parts", Settings::all_of(&rest).options().unwrap()).resumed()).unwrap();
    let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&whole.checkpoint) == weights(&rest.checkpoint));
}

#[test]
fn what_cannot_be_started_from_is_named() {
    let place = Place::new();
    let missing = |text: &str| {
        let mut settings = Settings::new();
        settings.add_toml(text).unwrap();
        settings.options().unwrap_err().to_string()
    };
    let message = missing("init = 'no/such/folder'");
    assert!(message.contains("init") && message.contains("no/such/folder"), "{message}");
    let first = run(&job(&place, "first", small("vanilla", 1))).unwrap();
    let message = missing(&format!("init = '{}'\ninit_layers = '0-9'", first.checkpoint.display()));
    assert!(message.contains("init_layers") && message.contains("0 to 1"), "{message}");
    let wide = with(started(&first.checkpoint, "plt2", ""), |o| o.intermediate_size += 8);
    let message = run(&job(&place, "wide", wide)).unwrap_err().to_string();
    assert!(message.contains("proj") && message.contains("shape"), "{message}");
    // A family with parts that training does not know.
    let biased = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/families/qwen2");
    let message = run(&job(&place, "biased", started(&biased, "plt2", "tokenizer = 'bytes'"))).unwrap_err().to_string();
    assert!(message.contains("attention_bias") || message.contains("vocab_size"), "{message}");
}
