//! Recipes as schedules, what is trained of a model, and steps that are skipped: each goes on exactly after a stop.

mod common;

use burn::tensor::Device;
use common::models::ids;
use common::{Place, job, names, run, small, with};
use parloop_model::{Checkpoint, tensors};
use parloop_train::{
    Event, Hooks, LogRow, LoopModel, NamedTensor, ScalesChoice, TrainJob, TrainOptions, TuneChoice, train,
};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

type Change = fn(&mut TrainOptions);

/// Every feature that adds to what a checkpoint must remember.
const FEATURES: [(&str, &str, Change); 10] = [
    ("loops by step", "plt3", |o| o.loops_schedule = "1:0,2:3,3:7".into()),
    ("drawn loops", "loop3", |o| o.random_loops = "1-4".into()),
    ("learned scales", "plt2", |o| (o.scales, o.scales_lr) = (ScalesChoice::Learned, 7.0)),
    ("cold scales", "plt3", |o| (o.scales, o.loop_loss) = (ScalesChoice::Cold, 0.3)),
    ("scales without embedding", "loop2", |o| o.scales = ScalesChoice::Learned),
    ("loss of every loop", "plt3", |o| o.loop_loss = 0.5),
    ("new parameters alone", "plt2", |o| (o.tune, o.scales) = (TuneChoice::New, ScalesChoice::Learned)),
    ("low rank", "plt2", |o| (o.tune, o.lora_rank) = (TuneChoice::Lora, 3)),
    ("low rank of some", "plt2-query", |o| (o.tune, o.lora_targets) = (TuneChoice::Lora, "v_proj, down_proj".into())),
    ("skipped steps", "plt2", |o| (o.spike, o.skips, o.lr) = (0.9, 99, 1e-6)),
];

/// More steps than the guard watches before it judges.
const STEPS: usize = 26;

fn options(recipe: &str, change: Change) -> TrainOptions {
    with(small(recipe, STEPS), |o| {
        (o.hidden_size, o.intermediate_size, o.layers, o.context, o.batch) = (16, 24, 1, 24, 2);
        (o.eval_every, o.save_every) = (9, 0);
        change(o);
    })
}

/// Runs with a number of threads; stops after `stop` steps.
fn run_with(threads: usize, job: &TrainJob, stop: usize) -> parloop_train::Summary {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let flag = AtomicBool::new(false);
        let mut hooks = Hooks::new(&flag).observer(|event| {
            if matches!(event, Event::Logged(row) if row.step >= stop) {
                flag.store(true, Ordering::Relaxed);
            }
        });
        train(job, &mut hooks).unwrap()
    })
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let all = ["model.safetensors", "optimizer.safetensors", "config.json", "adapter/adapter_model.safetensors"];
    all.into_iter().filter_map(|name| Some((name.to_owned(), fs::read(folder.join(name)).ok()?))).collect()
}

fn log(out: &Path) -> Vec<LogRow> {
    let text = fs::read_to_string(out.join("train.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_goes_on_exactly_with_any_number_of_threads() {
    for (name, recipe, change) in FEATURES {
        let place = Place::new();
        let whole = run_with(1, &job(&place, "whole", options(recipe, change)), usize::MAX);
        let part = job(&place, "parts", options(recipe, change));
        for stop in [5, 22] {
            let again = if stop > 5 { part.clone().resumed() } else { part.clone() };
            let summary = run_with(3, &again, stop);
            assert_eq!((summary.step, summary.stopped), (stop, true), "{name}");
        }
        let rest = run_with(2, &part.resumed(), usize::MAX);
        assert!(files(&whole.checkpoint) == files(&rest.checkpoint), "{name}: other weights");
        assert_eq!(whole.validation, rest.validation, "{name}");
        assert_eq!(whole.skipped, rest.skipped, "{name}");
        let facts = |out: &str| {
            let rows = log(&place.path(out));
            rows.into_iter().map(|r| (r.step, r.loss, r.grad_norm, r.skipped, r.loops, r.scales)).collect::<Vec<_>>()
        };
        assert_eq!(facts("whole"), facts("parts"), "{name}");
        assert_eq!(whole.skipped > 0, name == "skipped steps", "{name}");
        // What was written runs.
        Checkpoint::open(&rest.checkpoint).unwrap();
    }
}

#[test]
fn loops_come_in_as_told_and_the_checkpoint_says_how_many() {
    let place = Place::new();
    let options = with(options("plt3", FEATURES[0].2), |o| (o.save_every, o.keep) = (5, 9));
    run(&job(&place, "out", options)).unwrap();
    let loops = |step: usize| {
        let folder = place.path("out").join(format!("checkpoint-{step:06}"));
        Checkpoint::open(&folder).unwrap().config().recipe.count
    };
    assert_eq!([5, 10, 25].map(loops), [2, 3, 3]);
    let rows = log(&place.path("out"));
    assert_eq!([0, 2, 3, 6, 7].map(|i| rows[i].loops), [Some(1), Some(1), Some(2), Some(2), None]);
    let drawn: Vec<_> = {
        run(&job(&place, "drawn", self::options("loop3", FEATURES[1].2))).unwrap();
        log(&place.path("drawn")).into_iter().map(|row| row.loops.unwrap()).collect()
    };
    assert!((1..=4).all(|r| drawn.contains(&r)), "{drawn:?}");
}

#[test]
fn learned_scales_move_and_are_in_the_configuration() {
    let place = Place::new();
    let summary = run(&job(&place, "out", options("plt3", FEATURES[3].2))).unwrap();
    let recipe = Checkpoint::open(&summary.checkpoint).unwrap().config().recipe.clone();
    let rows = log(&place.path("out"));
    assert_eq!(rows.last().unwrap().scales, Some((recipe.hidden_scale, recipe.embedding_scale)));
    assert!(recipe.hidden_scale != 0.0 && recipe.embedding_scale.is_some_and(|scale| scale != 1.0), "{recipe:?}");
}

/// The gradient of a scale by the difference quotient of the recipe's field, and the loss of earlier loops by the models
/// that have only those.
#[test]
fn scales_and_losses_of_loops_are_what_the_recipe_says() {
    let config = with(small("plt3", 1), |o| o.context = 12).model_config(common::models::VOCABULARY, None).unwrap();
    let weights = common::models::weights(&config, 5);
    let device = Device::flex().autodiff();
    let of = |change: &dyn Fn(&mut parloop_model::Recipe)| {
        let mut config = config.clone();
        change(&mut config.recipe);
        LoopModel::from_tensors(&config, &weights, &device).unwrap()
    };
    let text = ids(3, 2 * 12 + 1);
    let losses = |model: &LoopModel, earlier: f64| {
        let (ids, targets) = (&text[..24], &text[1..]);
        let found = model.losses(model.ids(ids, 2, 12).unwrap(), model.targets(targets, 2, 12).unwrap(), earlier);
        [found.0, found.1].map(|loss| f64::from(loss.into_data().iter::<f32>().next().unwrap()))
    };
    let loss = |change: &dyn Fn(&mut parloop_model::Recipe)| losses(&of(change), 0.0)[0];

    let model = of(&|_| {}).with_learned_scales();
    let inputs = (model.ids(&text[..24], 2, 12).unwrap(), model.targets(&text[1..], 2, 12).unwrap());
    let (_, gradients) = model.loss_and_gradients(inputs.0, inputs.1);
    let found = &gradients.iter().find(|tensor| tensor.name == "loop.scales").unwrap().values;
    let h = 1e-2;
    let hidden = (loss(&|r| r.hidden_scale += h) - loss(&|r| r.hidden_scale -= h)) / (2.0 * f64::from(h));
    let up =
        |sign: f32| move |r: &mut parloop_model::Recipe| r.embedding_scale = r.embedding_scale.map(|e| e + sign * h);
    let embedding = (loss(&up(1.0)) - loss(&up(-1.0))) / (2.0 * f64::from(h));
    for (found, expected) in found.iter().zip([hidden, embedding]) {
        assert!((f64::from(*found) - expected).abs() < 2e-2 * expected.abs().max(0.1), "{found} for {expected}");
    }

    let [last, aim] = losses(&of(&|_| {}), 0.8);
    let (one, two) = (loss(&|r| r.count = 1), loss(&|r| r.count = 2));
    assert!((aim - (last + 0.8 * (one + two) / 2.0)).abs() < 1e-5, "{aim}: {last}, {one}, {two}");
}

fn values(folder: &Path, file: &str) -> HashMap<String, NamedTensor> {
    let bytes = fs::read(folder.join(file)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: &safetensors::tensor::TensorView<'_>| {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let named = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name.clone(), NamedTensor { name, shape: view.shape().to_vec(), values: read(&view) })
    };
    tensors.tensors().into_iter().map(named).collect()
}

#[test]
fn low_rank_changes_are_the_product_of_the_adapter_and_nothing_else_moves() {
    let place = Place::new();
    let first = run(&job(&place, "first", options("plt2", |_| {}))).unwrap();
    let start = |out: &str, change: Change| {
        let mut settings = parloop_train::Settings::all_of(&options("plt2", change));
        for name in ["layers", "hidden_size", "heads", "kv_heads", "head_dim", "intermediate_size", "vocab_size"] {
            settings.forget(name);
        }
        settings.add_toml(&format!("init = '{}'\nlog_every = 1", first.checkpoint.display())).unwrap();
        run(&job(&place, out, settings.options().unwrap())).unwrap().checkpoint
    };
    let before = values(&first.checkpoint, "model.safetensors");
    let adapted = start("lora", |o| (o.tune, o.lora_rank, o.lora_alpha) = (TuneChoice::Lora, 3, 12.0));
    let after = values(&adapted, "model.safetensors");
    let adapter = values(&adapted, "adapter/adapter_model.safetensors");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(adapted.join("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&3.into(), &12.0.into(), &"LORA".into()));
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    let mut changed = 0;
    for spec in tensors::expected(Checkpoint::open(&adapted).unwrap().config()) {
        let (old, new) = (&before[&spec.name], &after[&spec.name]);
        let module = spec.name.trim_end_matches(".weight");
        let factor = |which: &str| adapter.get(&format!("base_model.model.{module}.{which}.weight"));
        if let (Some(a), Some(b)) = (factor("lora_A"), factor("lora_B")) {
            let (rank, inputs) = (a.shape[0], a.shape[1]);
            assert_eq!((rank, &b.shape), (3, &vec![spec.shape[0], 3]));
            for (i, (old, new)) in old.values.iter().zip(&new.values).enumerate() {
                let (row, column) = (i / inputs, i % inputs);
                let change: f32 = (0..rank).map(|k| b.values[row * rank + k] * a.values[k * inputs + column]).sum();
                assert!((old + 4.0 * change - new).abs() < 1e-5, "{}", spec.name);
            }
            assert_ne!(old.values, new.values, "{}", spec.name);
            changed += 1;
        } else if !spec.name.contains("plt_gate") {
            assert_eq!(old.values, new.values, "{}", spec.name);
        }
    }
    assert_eq!(changed, 7);
    // A run of new parameters moves gates alone.
    let new = values(&start("new", |o| o.tune = TuneChoice::New), "model.safetensors");
    let moved: Vec<&String> = before.keys().filter(|name| before[*name].values != new[*name].values).collect();
    assert!(!moved.is_empty() && moved.iter().all(|name| name.contains("plt_gate")), "{moved:?}");
    let (a, b) = (log(&place.path("lora")), log(&place.path("new")));
    assert_eq!(a[0].loss, b[0].loss, "both begin as the model that they change");
    let wrong = with(options("plt2", |_| {}), |o| (o.tune, o.lora_targets) = (TuneChoice::Lora, "w_proj".into()));
    let message = run(&job(&place, "wrong", wrong)).unwrap_err().to_string();
    assert!(message.starts_with("lora_targets"), "{message}");
}

#[test]
fn layers_become_means() {
    let place = Place::new();
    let first = run(&job(&place, "first", with(small("vanilla", 2), |o| o.layers = 4))).unwrap();
    let mut settings =
        parloop_train::Settings::all_of(&with(small("plt2", 1), |o| (o.lr, o.weight_decay) = (1e-30, 0.0)));
    ["layers", "vocab_size"].into_iter().for_each(|name| settings.forget(name));
    settings.add_toml(&format!("init = '{}'\ninit_layers = '0-1+2-3'", first.checkpoint.display())).unwrap();
    let folded = run(&job(&place, "folded", settings.options().unwrap())).unwrap();
    let (old, new) = (values(&first.checkpoint, "model.safetensors"), values(&folded.checkpoint, "model.safetensors"));
    for n in 0..2 {
        let name = |n: usize| format!("model.layers.{n}.mlp.up_proj.weight");
        let mean = old[&name(n)].values.iter().zip(&old[&name(n + 2)].values).map(|(a, b)| (a + b) / 2.0);
        assert_eq!(new[&name(n)].values, mean.collect::<Vec<_>>());
    }
}

#[test]
fn what_was_started_is_on_record_and_chosen_checkpoints_stay() {
    let place = Place::new();
    let options = with(options("plt2", |_| {}), |o| (o.save_every, o.keep, o.keep_every) = (3, 1, 9));
    let mut job = job(&place, "out", with(options, |o| o.tensorboard = true));
    job.command = vec!["train".into(), "--steps".into()];
    run(&job).unwrap();
    job.options.steps = STEPS + 1;
    run(&job.resumed()).unwrap();
    let found = names(&place.path("out"));
    let kept: Vec<&str> = found.iter().filter_map(|name| name.strip_prefix("checkpoint-")).collect();
    assert_eq!(kept, ["000009", "000018", "000027"]);
    assert_eq!(found.iter().filter(|name| name.starts_with("events.out.tfevents.")).count(), 2);
    let text = fs::read_to_string(place.path("out/run.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = lines.iter().map(|line| (&line["step"], &line["options"]["steps"])).collect();
    assert_eq!(steps, [(&0.into(), &26.into()), (&26.into(), &27.into())]);
    assert_eq!(lines[0]["command"][1], "--steps");
    assert!(lines[0]["data"]["train_tokens"].as_u64().unwrap() > 1000 && lines[0]["tokenizer"]["ids"] == 256);
}

#[test]
fn a_run_survives_what_is_no_number_until_there_is_too_much_of_it() {
    let place = Place::new();
    // A rate that explodes: the weights are useless after the first step, whatever the data.
    let options = with(small("vanilla", 60), |o| {
        (o.lr, o.warmup, o.clip, o.weight_decay, o.skips, o.save_every) = (1e3, 20, 0.0, 900.0, 4, 1);
    });
    let mut skipped = 0;
    let stop = AtomicBool::new(false);
    let mut hooks = Hooks::new(&stop).observer(|event| skipped += usize::from(matches!(event, Event::Skipped { .. })));
    let message = train(&job(&place, "out", options), &mut hooks).unwrap_err().to_string();
    drop(hooks);
    assert!(message.contains("training stopped") || message.contains("no longer numbers"), "{message}");
    assert!(message.contains("in a row") == (skipped >= 4), "{skipped}: {message}");
    // Every checkpoint that is there opens, and one of them is named.
    let kept: Vec<String> = names(&place.path("out")).into_iter().filter(|n| n.starts_with("checkpoint-")).collect();
    assert!(kept.iter().any(|name| message.contains(name.as_str())), "{kept:?}: {message}");
    kept.iter().for_each(|name| drop(Checkpoint::open(&place.path("out").join(name)).unwrap()));
}
