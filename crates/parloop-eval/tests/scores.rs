//! Scores against what the reference forward says.

use parloop_engine::{Engine, Model};
use parloop_eval::perplexity::perplexity;
use parloop_eval::{Item, Labelled, score};
use parloop_model::reference::Reference;
use parloop_testing::Golden;
use std::path::Path;
use std::sync::Arc;

fn engine(golden: &Golden) -> Engine {
    Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

fn logprob(logits: &[f32], id: u32) -> f64 {
    let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    f64::from(logits[id as usize]) - sum.ln()
}

#[test]
fn labelled_items_are_scored_as_the_reference_would() {
    for name in ["plt3", "loop2"] {
        let golden = Golden::read(name);
        let logits = Reference::new(&golden.checkpoint).unwrap().forward(&golden.ids).unwrap().logits;
        let mut item = Labelled { ids: golden.ids.clone(), ..Labelled::default() };
        // Right at every third position, wrong at the next, not asked at the last of three.
        for (t, row) in logits.iter().enumerate() {
            item.targets.push([Some(best(row)), Some((best(row) + 1) % 61), None][t % 3]);
            item.levels.push([1, 2, 0][t % 3]);
        }
        let asked = item.targets.iter().flatten().count();
        let right = (0..logits.len()).step_by(3).count();
        let loss: f64 = item.targets.iter().zip(&logits).filter_map(|(t, row)| Some(-logprob(row, (*t)?))).sum::<f64>()
            / asked as f64;
        let scores = score::score(&mut engine(&golden), Path::new("x"), &[Item::Labelled(item)]).unwrap();
        let labels = scores.labels.unwrap();
        assert_eq!((labels.items, labels.targets, labels.exact), (1, asked, 0.0));
        assert!((labels.accuracy - right as f64 / asked as f64).abs() < 1e-12);
        assert_eq!((labels.levels[&1].1, labels.levels[&2].1), (1.0, 0.0));
        assert!((labels.loss - loss).abs() < 1e-4, "{} {loss}", labels.loss);
        assert!(scores.choices.is_none());
    }
}

#[test]
fn what_does_not_fit_the_model_is_told_with_its_item() {
    let golden = Golden::read("plt2");
    let mut engine = engine(&golden);
    let mut of = |item: &str| {
        let items = [Item::parse(r#"{"ids":[1],"targets":[1]}"#).unwrap(), Item::parse(item).unwrap()];
        score::score(&mut engine, Path::new("task.jsonl"), &items).unwrap_err().to_string()
    };
    for (item, words) in [
        (r#"{"ids":[61],"targets":[1]}"#, "61"),
        (r#"{"ids":[1],"targets":[61]}"#, "target 61"),
        (r#"{"prompt":"a","answer":"b"}"#, "no tokenizer"),
        (r#"{"prompt":"a","choices":["b","c"],"label":0}"#, "no tokenizer"),
    ] {
        let message = of(item);
        assert!(message.contains("task.jsonl: item 2") && message.contains(words), "{message}");
    }
}

#[test]
fn perplexity_of_one_window_is_the_goldens_loss_and_of_many_each_token_once() {
    for name in ["plt2", "vanilla"] {
        let golden = Golden::read(name);
        let mut engine = engine(&golden);
        let n = golden.ids.len();
        let whole = perplexity(&mut engine, &golden.ids, n, n, n, None).unwrap();
        assert_eq!((whole.tokens, whole.predicted), (n, n - 1));
        assert!((whole.nats_per_token - f64::from(golden.loss)).abs() < 1e-3);
        assert!((whole.bits_per_byte * std::f64::consts::LN_2 - whole.nats_per_token).abs() < 1e-12);
        let parts = perplexity(&mut engine, &golden.ids, n, 6, 3, None).unwrap();
        assert_eq!(parts.predicted, n - 1);
        assert!(parts.nats_per_token != whole.nats_per_token);
        // A model is no distance from itself, and some distance from another.
        let mut same = self::engine(&golden);
        let against = perplexity(&mut engine, &golden.ids, n, 6, 3, Some(&mut same)).unwrap();
        assert_eq!((against.kl, against.same_choice), (Some(0.0), Some(1.0)));
        let mut other = self::engine(&Golden::read("loop2-clp"));
        let against = perplexity(&mut engine, &golden.ids, n, n, n, Some(&mut other)).unwrap();
        assert!(against.kl.unwrap() > 1e-3 && against.same_choice.unwrap() < 1.0);
    }
}
