//! What happens when a run cannot go on.

mod common;

use burn::tensor::Device;
use common::{Place, job, names, run, small, with};
use parloop_model::ModelConfig;
use parloop_train::LoopModel;
use std::fs;

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones() {
    let place = Place::new();
    let options = with(small("plt2", 6), |o| o.keep = 9);
    // A file in the way of checkpoint-000004's temporary folder stands for a full or read-only disk (which a test
    // that may run as root cannot make).
    let out = place.path("out");
    fs::create_dir_all(&out).unwrap();
    let blocked = out.join(format!(".checkpoint-000004.{}.tmp", std::process::id()));
    fs::write(&blocked, "in the way").unwrap();
    let message = run(&job(&place, "out", options.clone())).unwrap_err().to_string();
    assert!(message.contains("checkpoint-000004") && message.contains("earlier checkpoints"), "{message}");
    fs::remove_file(&blocked).unwrap();
    assert_eq!(names(&out), ["checkpoint-000002", "run.jsonl", "tokens.bin", "train.jsonl"]);
    // And the run can be continued.
    let rest = run(&job(&place, "out", options).resumed()).unwrap();
    assert_eq!(rest.step, 6);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let place = Place::new();
    let options = with(small("vanilla", 60), |o| (o.lr, o.warmup, o.clip, o.weight_decay) = (1e3, 0, 0.0, 900.0));
    let message = run(&job(&place, "out", options)).unwrap_err().to_string();
    assert!(message.contains("training stopped") && message.contains("`lr`"), "{message}");
    let kept = names(&place.path("out"));
    assert!(kept.iter().all(|name| !name.starts_with('.')), "{kept:?}");
    for name in kept.iter().filter(|name| name.starts_with("checkpoint-")) {
        parloop_model::Checkpoint::open(&place.path("out").join(name)).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_without_a_crash() {
    let place = Place::new();
    run(&job(&place, "out", small("plt2", 2))).unwrap();
    let folder = place.path("out/checkpoint-000002");
    for file in ["trainer.json", "optimizer.safetensors", "model.safetensors", "config.json", "tokenizer_config.json"] {
        let good = fs::read(folder.join(file)).unwrap();
        for bad in [Vec::new(), good[..good.len() / 2].to_vec(), b"{}".to_vec()] {
            fs::write(folder.join(file), bad).unwrap();
            let again = job(&place, "out", small("plt2", 4)).resumed();
            assert!(run(&again).is_err(), "{file}");
        }
        fs::write(folder.join(file), good).unwrap();
    }
}

#[test]
fn models_with_parts_that_training_does_not_know_are_refused_by_name() {
    type Change = fn(&mut ModelConfig);
    let cases: [(&str, Change); 5] = [
        ("attention_bias", |c| c.extras.attention_bias = true),
        ("mlp_bias", |c| c.extras.mlp_bias = true),
        ("qk_norms", |c| c.extras.qk_norms = parloop_model::QkNorms::Head),
        ("sandwich_norms", |c| c.extras.sandwich_norms = true),
        ("loop.exit", |c| c.recipe.exit = Some(parloop_model::Exit { threshold: 0.5 })),
    ];
    for (name, change) in cases {
        let mut config = small("plt2", 1).model_config(300, None).unwrap();
        LoopModel::init(&config, 0.02, 0.0, 1, &Device::flex()).unwrap();
        change(&mut config);
        let message = LoopModel::init(&config, 0.02, 0.0, 1, &Device::flex()).err().unwrap().to_string();
        assert!(message.contains(name) && message.contains("not trained"), "{message}");
    }
}
