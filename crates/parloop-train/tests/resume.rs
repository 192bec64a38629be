//! A run that was stopped and resumed is the run that was not, bit for bit.

mod common;

use common::{Place, job, names, run, small};
use parloop_train::{Hooks, LogRow, RecipeChoice, TrainOptions, train};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

fn weights(folder: &std::path::Path) -> Vec<Vec<u8>> {
    ["model.safetensors", "optimizer.safetensors", "config.json"].map(|f| fs::read(folder.join(f)).unwrap()).to_vec()
}

#[test]
fn resumed_training_equals_uninterrupted_training() {
    for recipe in ["vanilla", "plt2", "plt3-query", "loop2-clp-share"] {
        let place = Place::new();
        let whole = run(&job(&place, "whole", small(recipe, 7))).unwrap();
        assert_eq!(whole.step, 7);

        // The same run, stopped after four steps by the flag that an interrupt sets, as seen from a sampler.
        let options = TrainOptions { sample_every: 4, ..small(recipe, 7) };
        let stop = AtomicBool::new(false);
        let sampler: parloop_train::trainer::Sampler<'_> = Box::new(|snapshot| {
            assert!(!snapshot.weights.is_empty() && !snapshot.prompt.is_empty());
            stop.store(true, Ordering::Relaxed);
            Some(String::new())
        });
        let first = job(&place, "parts", options.clone());
        let part = train(&first, &mut Hooks { stop: &stop, sampler: Some(sampler), quiet: true }).unwrap();
        assert_eq!((part.step, part.stopped), (4, true));

        let second = parloop_train::TrainJob { resume: true, options: small(recipe, 7), ..first };
        let rest = run(&second).unwrap();
        assert_eq!((rest.step, rest.stopped), (7, false));
        assert_eq!(weights(&whole.checkpoint), weights(&rest.checkpoint), "{recipe}");
        assert_eq!(whole.validation, rest.validation);

        // The log reads as if there had been one run.
        let losses = |out: &str| -> Vec<(usize, f64)> {
            let text = fs::read_to_string(place.path(out).join("train.jsonl")).unwrap();
            text.lines().map(|l| serde_json::from_str::<LogRow>(l).unwrap()).map(|r| (r.step, r.loss)).collect()
        };
        assert_eq!(losses("whole"), losses("parts"));
    }
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let place = Place::new();
    run(&job(&place, "out", small("vanilla", 7))).unwrap();
    let expected = ["checkpoint-000006", "checkpoint-000007", "tokens.bin", "train.jsonl"];
    assert_eq!(names(&place.path("out")), expected);
    let model = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer_config.json", "trainer.json"];
    assert_eq!(names(&place.path("out/checkpoint-000007")), model);
    let options = TrainOptions::of_run(&place.path("out")).unwrap();
    assert_eq!(options, small("vanilla", 7));
}

#[test]
fn a_run_is_not_continued_as_another_one() {
    let place = Place::new();
    let base = small("plt2", 2);
    run(&job(&place, "out", base.clone())).unwrap();
    let again = run(&job(&place, "out", base.clone())).unwrap_err().to_string();
    assert!(again.contains("--out") && again.contains("--resume"), "{again}");

    type Change = fn(&mut TrainOptions);
    let changes: [(&str, Change); 8] = [
        ("--recipe", |o| o.recipe = RecipeChoice::Name("plt3".into())),
        ("--layers", |o| o.layers = 3),
        ("--hidden-size", |o| o.hidden_size = 32),
        ("--tokenizer", |o| o.tokenizer = "bpe".into()),
        ("--tie-embeddings", |o| o.tie_embeddings = true),
        ("--rope-theta", |o| o.rope_theta = 500.0),
        ("--context", |o| o.context = 64),
        ("--val-fraction", |o| o.val_fraction = 0.2),
    ];
    for (flag, change) in changes {
        let mut options = base.clone();
        change(&mut options);
        let job = parloop_train::TrainJob { resume: true, ..job(&place, "out", options) };
        let message = run(&job).unwrap_err().to_string();
        assert!(message.starts_with(flag), "{flag}: {message}");
    }

    // Another text.
    fs::write(place.text(), "quite another text, long enough for a window of the run ".repeat(40)).unwrap();
    let other = parloop_train::TrainJob { resume: true, ..job(&place, "out", base.clone()) };
    assert!(run(&other).unwrap_err().to_string().contains("not the text"));

    let none = parloop_train::TrainJob { resume: true, ..job(&place, "empty", base) };
    assert!(run(&none).unwrap_err().to_string().contains("no checkpoint"));
}

#[test]
fn more_steps_continue_a_finished_run() {
    let place = Place::new();
    run(&job(&place, "out", small("plt2", 3))).unwrap();
    let longer = parloop_train::TrainJob { resume: true, ..job(&place, "out", small("plt2", 5)) };
    assert_eq!(run(&longer).unwrap().step, 5);
}
