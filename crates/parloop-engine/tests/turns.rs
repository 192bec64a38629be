//! Turns: whatever shares a pass, whatever is waited for, refused, forked, cut or dropped, every sequence gets the bits
//! that it gets alone, and memory comes back.

mod common;

use common::{engine, length, tokens};
use parloop_engine::{Engine, Error, Model, Outcome, Passes, Prefill, PrefixCache, Prompt, Sequence, Want, Work};
use parloop_kernels::{Isa, KvPool, KvType};
use parloop_model::{ModelConfig, Recipe};
use parloop_testing::{Rng, any_config, checkpoint, config_with};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// Logits after a text, by an engine that does nothing else.
struct Alone {
    engine: Engine,
    known: HashMap<Vec<u32>, Vec<f32>>,
}

impl Alone {
    fn logits(&mut self, text: &[u32]) -> &[f32] {
        let Self { engine, known } = self;
        known.entry(text.to_vec()).or_insert_with(|| {
            let mut sequence = engine.sequence();
            let full = Prefill { truncate: false, ..Prefill::default() };
            engine.prefill(&mut sequence, text, &full).unwrap().to_vec()
        })
    }
}

/// One who uses the engine: a sequence, and a prompt that is on its way.
struct Client {
    sequence: Sequence,
    prompt: Option<Prompt>,
    /// The tokens of the sequence and of the prompt.
    text: Vec<u32>,
}

/// Random turns over random clients under a budget of a few sequences. Returns how often it was spent.
fn random_turns(seed: u64, turns: usize) -> usize {
    let rng = &mut Rng(seed);
    let config = any_config(rng);
    let source = checkpoint(&config, rng);
    let model = Arc::new(Model::new(&source).unwrap());
    let sets = Isa::available();
    let isa = sets[rng.range(0, sets.len() - 1)];
    let kind = [KvType::F32, KvType::Bf16, KvType::Q8][rng.range(0, 2)];
    let new = |threads| {
        let mut engine = Engine::with_isa(model.clone(), threads, isa);
        engine.set_kv_type(kind);
        engine
    };
    let (mut engine, mut alone) = (new(rng.range(1, 3)), Alone { engine: new(1), known: HashMap::new() });
    let pool = KvPool::new(rng.range(2, 6) * Sequence::bytes_at(&config, kind, 100).max(40_000));
    engine.set_kv_pool(pool.clone());
    let mut cache = PrefixCache::new(&config, kind, pool.budget() / 2).unwrap();
    let mut clients: Vec<Client> = Vec::new();
    let mut spent = 0;
    for _ in 0..turns {
        // Someone comes: with something new, from the cache, or as a fork of another.
        if clients.len() < 6 && rng.range(0, 3) == 0 {
            let n = length(rng, &config).min(150);
            let mut text = tokens(rng, &config, n);
            let sequence = match rng.range(0, 3) {
                0 if !clients.is_empty() => {
                    let other = &clients[rng.range(0, clients.len() - 1)];
                    let sequence = other.sequence.clone();
                    text.splice(0..0, sequence.tokens().iter().copied());
                    sequence
                }
                1 => {
                    if let Some(client) = clients.first() {
                        let n = rng.range(0, client.text.len());
                        text.splice(0..0, client.text[..n].iter().copied());
                    }
                    match cache.lookup(&text[..text.len() - 1]) {
                        Some((sequence, _)) => sequence,
                        None => engine.sequence(),
                    }
                }
                _ => engine.sequence(),
            };
            let prompt = Prompt::new(text[sequence.len()..].to_vec(), Want::Last)
                .options(Prefill { chunk: rng.range(1, 90), ..Prefill::default() });
            clients.push(Client { sequence, prompt: Some(prompt), text });
        }
        // Someone goes, is cut, or gives up in the middle of a prompt.
        if !clients.is_empty() {
            let i = rng.range(0, clients.len() - 1);
            match rng.range(0, 14) {
                0 => _ = clients.swap_remove(i),
                1 => {
                    let client = &mut clients[i];
                    client.prompt = None;
                    let len = rng.range(0, client.sequence.len());
                    client.sequence.truncate(len);
                    client.text = client.sequence.tokens().to_vec();
                }
                2 => {
                    let client = &mut clients[i];
                    client.prompt = None;
                    client.text = client.sequence.tokens().to_vec();
                }
                _ => (),
            }
        }
        // Those who are between prompts go on by a token, now and then by more.
        for client in clients.iter_mut().filter(|c| c.prompt.is_none()) {
            let more = if rng.range(0, 9) == 0 { rng.range(2, 40) } else { 1 };
            let more = tokens(rng, &config, more);
            client.text.extend(&more);
            let passes = if rng.flip() { Passes::Auto } else { Passes::Sequential };
            client.prompt = Some(Prompt::new(more, Want::Last).passes(passes));
        }
        let mut work: Vec<Work<'_>> = clients
            .iter_mut()
            .filter_map(|c| Some(Work { sequence: &mut c.sequence, prompt: c.prompt.as_mut()? }))
            .collect();
        let budget = rng.range(0, 120);
        let outcomes = engine.turn(&mut work, budget, None);
        let mut refused = false;
        for (client, outcome) in clients.iter_mut().zip(outcomes) {
            match outcome {
                Outcome::Done(logits) => {
                    client.prompt = None;
                    assert_eq!(client.sequence.tokens(), client.text);
                    let found = engine.turn_logits(logits.unwrap());
                    assert!(found == alone.logits(&client.text), "{} tokens of {config:?}", client.text.len());
                    if rng.range(0, 4) == 0 {
                        cache.insert(&client.sequence);
                    }
                }
                Outcome::Refused(Error::Spent(_)) => refused = true,
                Outcome::Refused(error) => panic!("{error}"),
                Outcome::Goes | Outcome::Waits => (),
            }
        }
        assert!(pool.used() <= pool.budget());
        if refused {
            spent += 1;
            clients.swap_remove(rng.range(0, clients.len() - 1));
            if rng.flip() {
                cache = PrefixCache::new(&config, kind, pool.budget() / 2).unwrap();
            }
        }
    }
    drop((clients, cache));
    assert_eq!(pool.used(), 0);
    spent
}

proptest! {
    #![proptest_config(parloop_testing::cases(40))]

    #[test]
    fn every_sequence_gets_the_bits_that_it_gets_alone(seed: u64) {
        random_turns(seed, 25);
    }

    #[test]
    fn a_prompt_in_pieces_costs_the_rows_of_the_whole(seed: u64) {
        let rng = &mut Rng(seed);
        let config = any_config(rng);
        let mut engine = engine(&config, rng);
        let n = length(rng, &config) + rng.range(0, 200);
        let text = tokens(rng, &config, n);
        let mut whole = engine.sequence();
        let expected = engine.prefill(&mut whole, &text, &Prefill { chunk: 10_000, ..Prefill::default() }).unwrap().to_vec();
        let rows = engine.layer_rows();
        let mut sequence = engine.sequence();
        let mut prompt = Prompt::new(text, Want::Last);
        let mut others: Vec<Sequence> = (0..rng.range(0, 3)).map(|_| engine.sequence()).collect();
        let per_step = (config.num_hidden_layers * config.recipe.count) as u64;
        let mut decoded = 0;
        loop {
            let mut steps: Vec<Prompt> = others.iter().map(|_| Prompt::new(vec![1], Want::Last)).collect();
            let mut done = vec![false; others.len()];
            let piece = rng.range(1, 90);
            // Those who decode go first; a loop model without shift takes a turn for each loop.
            let mut finished = false;
            while !finished && (others.is_empty() || !done.iter().all(|d| *d)) {
                let mut work: Vec<Work<'_>> = Vec::new();
                let mut indices = Vec::new();
                for (i, (sequence, prompt)) in others.iter_mut().zip(&mut steps).enumerate().filter(|(i, _)| !done[*i]) {
                    indices.push(i);
                    work.push(Work { sequence, prompt });
                }
                work.push(Work { sequence: &mut sequence, prompt: &mut prompt });
                let budget = piece + config.recipe.count * indices.len();
                let outcomes = engine.turn(&mut work, budget, None);
                for (k, outcome) in outcomes.iter().enumerate() {
                    match outcome {
                        Outcome::Done(logits) if k < indices.len() => {
                            done[indices[k]] = true;
                            decoded += 1;
                            assert!(logits.is_some());
                        }
                        Outcome::Done(logits) => {
                            finished = true;
                            prop_assert!(engine.turn_logits(logits.unwrap()) == expected);
                        }
                        Outcome::Refused(error) => panic!("{error}"),
                        _ => (),
                    }
                }
            }
            if finished {
                // Steps that are under way are not counted below.
                if !done.iter().all(|d| *d) && config.recipe.one_pass() {
                    panic!("a step takes one turn");
                }
                break;
            }
        }
        prop_assert_eq!(sequence.tokens(), whole.tokens());
        if config.recipe.one_pass() {
            prop_assert_eq!(engine.layer_rows() - rows - decoded * per_step, rows, "{:?}", config.recipe);
        } else if others.is_empty() {
            prop_assert_eq!(engine.layer_rows() - rows, rows);
        }
    }
}

/// Fixed seeds, long runs: each meets a spent budget many times.
#[test]
fn a_thousand_turns_under_a_small_budget() {
    let spent: usize = (0..3).map(|seed| random_turns(1000 + seed, 1000)).sum();
    assert!(spent > 20, "the budget was spent only {spent} times");
}

#[test]
fn a_sequence_of_another_model_is_refused() {
    let rng = &mut Rng(3);
    let one = config_with(rng, Recipe::plt(2));
    let two = ModelConfig { num_hidden_layers: one.num_hidden_layers + 1, ..one.clone() };
    let (first, mut second) = (engine(&one, rng), engine(&two, rng));
    let mut sequence = first.sequence();
    let refusal = second.prefill(&mut sequence, &[1, 2], &Prefill::default()).unwrap_err().to_string();
    assert!(refusal.contains("made for") && refusal.contains("layers"), "{refusal}");
    second.set_kv_type(KvType::Q8);
    let mut fine = second.sequence();
    second.prefill(&mut fine, &[1, 2], &Prefill::default()).unwrap();
    second.set_kv_type(KvType::F32);
    let refusal = second.step(&mut [&mut fine], &[1], Passes::One).unwrap_err().to_string();
    assert!(refusal.contains("q8") && refusal.contains("f32"), "{refusal}");
}

#[test]
fn a_prompt_goes_on_only_with_its_own_sequence() {
    let rng = &mut Rng(4);
    let config = config_with(rng, Recipe::plt(2));
    let mut engine = engine(&config, rng);
    let (mut a, mut b) = (engine.sequence(), engine.sequence());
    let mut prompt = Prompt::new(vec![1; 50], Want::Last);
    let mut turn = |sequence: &mut Sequence, prompt: &mut Prompt| {
        let mut outcomes = engine.turn(&mut [Work { sequence, prompt }], 10, None);
        outcomes.remove(0)
    };
    assert!(matches!(turn(&mut a, &mut prompt), Outcome::Goes));
    assert!(matches!(turn(&mut b, &mut prompt), Outcome::Refused(_)));
    while let Outcome::Goes = turn(&mut a, &mut prompt) {}
    assert_eq!((a.len(), b.len()), (50, 0));
    assert!(matches!(turn(&mut a, &mut prompt), Outcome::Refused(_)));
}

/// A piece begun while there was room goes on when others take it all: it is done after as many turns as it has loops.
#[test]
fn a_piece_that_has_begun_does_not_wait_for_those_that_write() {
    let rng = &mut Rng(3);
    let mut config = config_with(rng, Recipe::plt(3));
    config.vocab_size = 20;
    let mut engine = engine(&config, rng);
    let (mut writers, mut late) = (vec![engine.sequence(), engine.sequence(), engine.sequence()], engine.sequence());
    for writer in &mut writers {
        engine.prefill(writer, &[1, 2, 3], &Prefill::default()).unwrap();
    }
    let mut long = Prompt::new(vec![4; 40], Want::Last);
    let mut turns = 0;
    let done = loop {
        // Nobody else at first; then three whose rows are all of the budget but one.
        let count = if turns == 0 { 0 } else { 3 };
        let mut steps: Vec<Prompt> = (0..count).map(|_| Prompt::new(vec![5], Want::Last)).collect();
        let mut work: Vec<Work<'_>> =
            writers.iter_mut().zip(&mut steps).map(|(sequence, prompt)| Work { sequence, prompt }).collect();
        work.push(Work { sequence: &mut late, prompt: &mut long });
        let outcomes = engine.turn(&mut work, 10, None);
        turns += 1;
        match outcomes.last() {
            Some(Outcome::Done(_)) => break true,
            Some(Outcome::Goes) if turns < 200 => {}
            Some(Outcome::Waits) => break false,
            other => panic!("{other:?}"),
        }
    };
    assert!(done, "it waits after {turns} turns");
}
