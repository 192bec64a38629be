//! A run that was stopped and resumed is the run that was not, bit for bit.

mod common;

use common::{Place, job, names, run, small, with};
use parloop_train::{Event, Hooks, LogRow, OptimizerChoice, RecipeChoice, TrainOptions, train};
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
        let options = with(small(recipe, 7), |o| o.sample_every = 4);
        let stop = AtomicBool::new(false);
        let first = job(&place, "parts", options.clone());
        let sampler = |snapshot: &parloop_train::Snapshot<'_>| {
            assert!(!snapshot.weights.is_empty() && !snapshot.prompt.is_empty());
            stop.store(true, Ordering::Relaxed);
            Some(String::new())
        };
        let part = train(&first, &mut Hooks::new(&stop).sampler(sampler)).unwrap();
        assert_eq!((part.step, part.stopped), (4, true));

        let second = job(&place, "parts", small(recipe, 7)).resumed();
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
fn a_run_with_muon_learns_and_resumes_exactly() {
    let place = Place::new();
    let muon =
        |steps| with(small("plt2", steps), |o| (o.optimizer, o.lr, o.save_every) = (OptimizerChoice::Muon, 0.01, 0));
    let whole = run(&job(&place, "whole", muon(12))).unwrap();
    run(&job(&place, "parts", with(muon(12), |o| o.save_every = 6))).unwrap();
    fs::remove_dir_all(place.path("parts/checkpoint-000012")).unwrap();
    let rest = run(&job(&place, "parts", muon(12)).resumed()).unwrap();
    assert_eq!(weights(&whole.checkpoint), weights(&rest.checkpoint));
    let text = fs::read_to_string(place.path("whole/train.jsonl")).unwrap();
    let losses: Vec<f64> = text.lines().map(|l| serde_json::from_str::<LogRow>(l).unwrap().loss).collect();
    assert!(losses[11] < 0.8 * losses[0], "{losses:?}");
    // The state of one optimiser is none of the other.
    fs::remove_dir_all(place.path("parts/checkpoint-000012")).unwrap();
    let other = with(muon(12), |o| o.optimizer = OptimizerChoice::AdamW);
    let message = run(&job(&place, "parts", other).resumed()).unwrap_err().to_string();
    assert!(message.contains("optimizer"), "{message}");
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let place = Place::new();
    run(&job(&place, "out", small("vanilla", 7))).unwrap();
    let expected = ["checkpoint-000006", "checkpoint-000007", "run.jsonl", "tokens.bin", "train.jsonl"];
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
    assert!(again.contains("holds a run already") && again.contains("checkpoint-000002"), "{again}");

    type Change = fn(&mut TrainOptions);
    let changes: [(&str, Change); 8] = [
        ("recipe", |o| o.recipe = RecipeChoice::Name("plt3".into())),
        ("layers", |o| o.layers = 3),
        ("hidden_size", |o| o.hidden_size = 32),
        ("tokenizer", |o| o.tokenizer = "bpe".into()),
        ("tie_embeddings", |o| o.tie_embeddings = true),
        ("rope_theta", |o| o.rope_theta = 500.0),
        ("context", |o| o.context = 64),
        ("val_fraction", |o| o.val_fraction = 0.2),
    ];
    for (name, change) in changes {
        let mut options = base.clone();
        change(&mut options);
        let job = job(&place, "out", options).resumed();
        let message = run(&job).unwrap_err().to_string();
        assert!(message.starts_with(name), "{name}: {message}");
    }

    // Another text.
    fs::write(place.text(), "quite another text, long enough for a window of the run ".repeat(40)).unwrap();
    let other = job(&place, "out", base.clone()).resumed();
    assert!(run(&other).unwrap_err().to_string().contains("not the text"));

    let none = job(&place, "empty", base).resumed();
    assert!(run(&none).unwrap_err().to_string().contains("no checkpoint"));
}

#[test]
fn more_steps_continue_a_finished_run() {
    let place = Place::new();
    run(&job(&place, "out", small("plt2", 3))).unwrap();
    let longer = job(&place, "out", small("plt2", 5)).resumed();
    assert_eq!(run(&longer).unwrap().step, 5);
}

#[test]
fn a_run_tells_what_happens_and_prints_nothing() {
    let place = Place::new();
    let options = with(small("plt2", 4), |o| o.sample_every = 3);
    let stop = AtomicBool::new(false);
    let mut told = Vec::new();
    let mut hooks = Hooks::new(&stop).observer(|event| {
        told.push(match event {
            Event::Started { step, config, train_tokens, .. } => {
                assert!(*step == 0 && config.recipe.count == 2 && *train_tokens > 1000);
                "started".into()
            }
            Event::Logged(row) => {
                format!("step {}{}", row.step, if row.val_loss.is_some() { " validated" } else { "" })
            }
            Event::Sampled { step, prompt, .. } => {
                assert!(!prompt.is_empty());
                format!("sample {step}")
            }
            Event::Saved { step, checkpoint, .. } => {
                assert!(checkpoint.join("model.safetensors").exists());
                format!("saved {step}")
            }
            Event::Ended { validation, .. } => format!("ended {}", validation.is_some()),
            _ => "?".into(),
        });
    });
    train(&job(&place, "out", options), &mut hooks).unwrap();
    drop(hooks);
    let expected = [
        "started",
        "step 1",
        "step 2",
        "saved 2",
        "step 3 validated",
        "sample 3",
        "step 4 validated",
        "saved 4",
        "ended true",
    ];
    assert_eq!(told, expected);
}

#[test]
fn one_batch_can_be_learnt_by_heart() {
    let place = Place::new();
    let options = with(small("plt2", 30), |o| {
        (o.overfit_one_batch, o.schedule, o.decay) = (true, parloop_train::ScheduleChoice::Wsd, 0.5);
        (o.step_tokens, o.lr, o.eval_every, o.save_every) = (o.batch * o.context, 1e-2, 0, 0);
    });
    let stop = AtomicBool::new(false);
    let mut rows = Vec::new();
    let mut hooks = Hooks::new(&stop).observer(|event| {
        if let Event::Logged(row) = event {
            rows.push((*row).clone());
        }
    });
    let summary = train(&job(&place, "out", options), &mut hooks).unwrap();
    drop(hooks);
    assert_eq!(summary.tokens, 30 * 3 * 48);
    assert!(rows[29].loss < 0.5 * rows[0].loss, "{} to {}", rows[0].loss, rows[29].loss);
    // Warm-up of 2 steps, then the peak to the middle of the run.
    assert_eq!((rows[0].lr, rows[1].lr, rows[14].lr), (5e-3, 1e-2, 1e-2));
    assert!(rows[20].lr < rows[15].lr);
}

/// Examples of several lengths, so that batches differ in what they ask.
fn examples(place: &Place) -> std::path::PathBuf {
    let path = place.path("examples.jsonl");
    let line = |i: usize| {
        format!("{{\"prompt\":\"{}=\",\"answer\":\"{}\"}}\n", "ab".repeat(1 + i % 5), "ba".repeat(1 + i % 3))
    };
    fs::write(&path, (0..50).map(line).collect::<String>()).unwrap();
    path
}

#[test]
fn a_run_over_examples_resumes_exactly_too() {
    let place = Place::new();
    let data = examples(&place);
    let job = |out: &str, steps| parloop_train::TrainJob::new(&data, place.path(out), small("plt2", steps));
    // Accumulation and a run that ends in the middle of an epoch.
    let whole = run(&job("whole", 9)).unwrap();
    let stop = AtomicBool::new(false);
    let mut hooks = Hooks::new(&stop).observer(|event| {
        if let Event::Saved { step: 4, .. } = event {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let part = train(&job("parts", 9), &mut hooks).unwrap();
    drop(hooks);
    assert_eq!((part.step, part.stopped), (4, true));
    let rest = run(&job("parts", 9).resumed()).unwrap();
    assert_eq!(weights(&whole.checkpoint), weights(&rest.checkpoint));
    assert_eq!(whole.validation, rest.validation);
    assert!(whole.validation.is_some_and(|v| v.bits_per_byte.is_none() && v.nats_per_token.is_finite()));
    // Other examples are another run.
    fs::write(&data, "{\"prompt\":\"a\",\"answer\":\"b\"}\n".repeat(50)).unwrap();
    let message = run(&job("parts", 12).resumed()).unwrap_err().to_string();
    assert!(message.contains("is not the text that the run was started with"), "{message}");
}

#[test]
fn answers_are_learnt() {
    let place = Place::new();
    let data = examples(&place);
    let options = with(small("plt2", 60), |o| (o.lr, o.eval_every, o.save_every) = (1e-2, 0, 0));
    let summary = run(&parloop_train::TrainJob::new(&data, place.path("out"), options)).unwrap();
    // Bytes at random cost ln 256 = 5.5 nats; of these answers only the length is uncertain.
    assert!(summary.validation.unwrap().nats_per_token < 1.0, "{:?}", summary.validation);
}
