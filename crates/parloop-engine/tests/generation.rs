//! Generation that is pulled: its text is what the tokens decode to, cut before a stop string and never later.

mod common;

use parloop_engine::{Engine, Filter, Finish, Generation, Generator, Model, SampleOptions, Sequence};
use parloop_kernels::Pool;
use parloop_model::{Checkpoint, Tokenizer};
use parloop_testing::Rng;
use std::path::Path;
use std::sync::Arc;

fn engine() -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parloop/model");
    let model = Model::load(&Checkpoint::open(&folder).unwrap(), None, &mut Pool::new(1), &mut |_, _| ()).unwrap();
    Engine::new(Arc::new(model), Some(1)).unwrap()
}

/// Tokens, text and the reason of a continuation of "ROMEO:".
fn generated(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    options: &Generation,
    stop: &[String],
) -> (Vec<u32>, String, Option<Finish>, Sequence) {
    let prompt = tokenizer.encode("ROMEO:").unwrap();
    let mut sequence = engine.sequence();
    let stream = tokenizer.stream_after(&prompt).unwrap();
    let generator = Generator::new(engine, &mut sequence, &prompt, options).unwrap();
    let mut generator = generator.text(stream).stop(stop.to_vec());
    let (mut ids, mut text) = (Vec::new(), String::new());
    for token in &mut generator {
        let token = token.unwrap();
        ids.push(token.id);
        text += &token.text;
        for stop in stop {
            assert!(!text.contains(stop), "{stop:?} was shown in {text:?}");
        }
    }
    text += &generator.rest();
    assert_eq!(generator.pending(), ids.last().copied());
    let finish = generator.finish();
    drop(generator);
    (ids, text, finish, sequence)
}

#[test]
fn a_text_ends_before_the_first_stop_string_and_nothing_else_is_lost() {
    let mut engine = engine();
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().unwrap();
    let options = Generation { tokens: 120, sampling: SampleOptions::greedy(), ..Generation::default() };
    let (ids, whole, finish, sequence) = generated(&mut engine, tokenizer, &options, &[]);
    assert_eq!((ids.len(), finish), (120, Some(Finish::Length)));
    // The last token is the first of whatever follows.
    let prompt = tokenizer.encode("ROMEO:").unwrap();
    assert_eq!(sequence.tokens(), [&prompt[..], &ids[..119]].concat());
    assert_eq!(format!("ROMEO:{whole}"), tokenizer.decode(&[&prompt[..], &ids].concat()).unwrap());
    let rng = &mut Rng(1);
    for _ in 0..40 {
        // Pieces of the text itself, some of them changed so that they only almost come.
        let mut stop: Vec<String> = Vec::new();
        for _ in 0..rng.range(1, 3) {
            let mut at = || whole.char_indices().nth(rng.range(0, whole.chars().count() - 1)).unwrap().0;
            let (a, b) = (at(), at());
            let mut piece = whole[a.min(b)..a.max(b).min(a.min(b) + 30)].to_owned();
            if rng.flip() {
                piece.push('\u{1}');
            }
            stop.push(piece);
        }
        // The first that is complete ends it, whichever began first; of those that one token completes, the first.
        let so_far =
            |n: usize| tokenizer.decode(&[&prompt[..], &ids[..n]].concat()).unwrap()["ROMEO:".len()..].to_owned();
        let first = |text: &str| stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
        let found = (1..=ids.len()).find_map(|n| first(&so_far(n)));
        let (_, text, finish, _) = generated(&mut engine, tokenizer, &options, &stop);
        assert_eq!(text, whole[..found.unwrap_or(whole.len())], "{stop:?}");
        assert_eq!(finish, Some(if found.is_some() { Finish::Stopped } else { Finish::Length }));
    }
}

#[test]
fn filters_change_what_is_chosen_and_log_probabilities_are_the_models_own() {
    struct Ban(u32, Vec<u32>);
    impl Filter for Ban {
        fn apply(&mut self, logits: &mut [f32]) {
            logits[self.0 as usize] = f32::NEG_INFINITY;
        }
        fn accept(&mut self, token: u32) {
            self.1.push(token);
        }
    }
    let mut engine = engine();
    let options = Generation { tokens: 1, sampling: SampleOptions::greedy(), ..Generation::default() };
    let mut sequence = engine.sequence();
    let mut generator = Generator::new(&mut engine, &mut sequence, &[1, 2, 3], &options).unwrap().logprobs(2);
    let best = generator.next().unwrap().unwrap();
    assert!(generator.next().is_none());
    assert_eq!(best.top.iter().map(|t| t.0).next(), Some(best.id));
    assert_eq!(best.logprob, Some(best.top[0].1));
    drop(generator);
    let mut sequence = engine.sequence();
    let generator = Generator::new(&mut engine, &mut sequence, &[1, 2, 3], &options).unwrap().logprobs(2);
    let mut generator = generator.filter(Box::new(Ban(best.id, Vec::new())));
    let second = generator.next().unwrap().unwrap();
    assert_eq!((second.id, &second.top), (best.top[1].0, &best.top));
    assert_eq!(second.logprob, Some(best.top[1].1));
}

#[test]
fn a_full_context_and_a_bad_prompt_end_it() {
    let mut engine = engine();
    let context = engine.model().config().max_position_embeddings;
    let options = Generation { sampling: SampleOptions::greedy(), ignore_end: true, ..Generation::default() };
    let mut sequence = engine.sequence();
    let prompt = vec![1; context - 3];
    let mut generator = Generator::new(&mut engine, &mut sequence, &prompt, &options).unwrap();
    assert_eq!((&mut generator).count(), 4);
    assert_eq!(generator.finish(), Some(Finish::Context));
    drop(generator);
    assert_eq!(sequence.len(), context);
    let mut sequence = engine.sequence();
    let mut generator = Generator::new(&mut engine, &mut sequence, &[u32::MAX], &options).unwrap();
    assert!(generator.next().unwrap().is_err() && generator.next().is_none());
}
