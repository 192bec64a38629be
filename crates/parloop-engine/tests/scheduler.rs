//! Requests in company: whoever comes, goes, is put back or cancelled, each gets what it gets alone.

use parloop_engine::scheduler::{Answer, Limits};
use parloop_engine::{
    Engine, Error, Event, Finish, Generation, Generator, Model, Passes, Prefill, Request, RequestId, SampleOptions,
    Scheduler, Sequence, score,
};
use parloop_kernels::{Isa, KvPool, KvType};
use parloop_testing::{Rng, any_config, checkpoint};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// What a request gave.
#[derive(Default)]
struct Given {
    tokens: Vec<(u32, Option<f32>)>,
    answer: Option<Answer>,
}

/// Token ids and log-probabilities of a request that is alone.
fn alone(engine: &mut Engine, request: &Request) -> (Vec<(u32, Option<f32>)>, Finish) {
    let mut sequence = engine.sequence();
    let generator = Generator::new(engine, &mut sequence, &request.prompt, &request.options).unwrap();
    let mut generator = generator.logprobs(request.logprobs.unwrap_or(0));
    let tokens = (&mut generator).map(|t| t.unwrap()).map(|t| (t.id, t.logprob)).collect();
    (tokens, generator.finish().unwrap())
}

fn request(rng: &mut Rng, vocabulary: usize, earlier: &[Request]) -> Request {
    let mut prompt: Vec<u32> = Vec::new();
    if let Some(other) = earlier.get(rng.range(0, 2 * earlier.len())) {
        let n = rng.range(0, other.prompt.len().min(60));
        prompt.extend(&other.prompt[..n]);
    }
    let more = [rng.range(1, 8), rng.range(1, 200)][rng.range(0, 1)];
    prompt.extend((0..more).map(|_| rng.range(0, vocabulary - 1) as u32));
    let sampling = SampleOptions { temperature: rng.range(0, 1) as f32, seed: rng.bits(), ..SampleOptions::default() };
    let prefill = Prefill { chunk: rng.range(1, 100), ..Prefill::default() };
    let options = Generation { tokens: rng.range(0, 30), sampling, prefill, ignore_end: true, ..Generation::default() };
    Request {
        prompt,
        options,
        logprobs: Some(1),
        prompt_logprobs: (rng.range(0, 4) == 0).then_some(2),
        owner: rng.range(0, 1) as u64,
        uncached: rng.range(0, 4) == 0,
        ..Request::default()
    }
}

fn crowd(seed: u64) -> u64 {
    let rng = &mut Rng(seed);
    let config = any_config(rng);
    let model = Arc::new(Model::new(&checkpoint(&config, rng)).unwrap());
    let sets = Isa::available();
    let (isa, kind) = (sets[rng.range(0, sets.len() - 1)], [KvType::F32, KvType::Bf16, KvType::Q8][rng.range(0, 2)]);
    let new = |threads| {
        let mut engine = Engine::with_isa(model.clone(), threads, isa);
        engine.set_kv_type(kind);
        engine
    };
    let (mut engine, mut other) = (new(rng.range(1, 3)), new(1));
    // Enough for the longest request alone, with the tiles that a piece of its prompt needs for a while.
    let one = Sequence::for_measurement(&config, kind, 300).unwrap().bytes();
    let pool = KvPool::new(one * rng.range(9, 16) / 4);
    engine.set_kv_pool(pool.clone());
    let limits =
        Limits { rows: rng.range(1, 150), running: rng.range(1, 12), cache: [0, pool.budget() / 2][rng.range(0, 1)] };
    let mut scheduler = Scheduler::new(engine, &model, limits).unwrap();
    let mut requests: Vec<Request> = Vec::new();
    let mut given: HashMap<RequestId, (usize, Given)> = HashMap::new();
    while requests.len() < 20 || !scheduler.is_idle() {
        if requests.len() < 20 && (scheduler.is_idle() || rng.range(0, 2) == 0) {
            let request = request(rng, config.vocab_size, &requests);
            let id = scheduler.submit(request.clone()).unwrap();
            given.insert(id, (requests.len(), Given::default()));
            requests.push(request);
        }
        if rng.range(0, 40) == 0 && !given.is_empty() {
            let id = *given.keys().max().unwrap();
            if scheduler.cancel(id) {
                given.remove(&id);
            }
        }
        for (id, event) in scheduler.turn() {
            let given = &mut given.get_mut(&id).expect("nothing comes of what was cancelled").1;
            assert!(given.answer.is_none(), "nothing comes after the end");
            match event {
                Event::Token(token) => given.tokens.push((token.id, token.logprob)),
                Event::Finished(answer) => given.answer = Some(answer),
                Event::Failed(error) => panic!("{error}"),
                Event::Prompt { done, total } => assert!(done <= total),
            }
        }
        assert!(pool.used() <= pool.budget());
    }
    for (i, given) in given.into_values() {
        let (tokens, finish) = alone(&mut other, &requests[i]);
        let answer = given.answer.expect("everything ends");
        assert_eq!((given.tokens.len(), answer.written), (tokens.len(), tokens.len()));
        assert!(given.tokens == tokens && answer.finish == finish, "{config:?}");
        if requests[i].prompt_logprobs.is_some() {
            let expected = score(&mut other, &requests[i].prompt, Passes::Auto, false, None).unwrap().logprobs;
            let found: Vec<Option<f32>> = answer.prompt_logprobs.iter().map(|l| l.as_ref().map(|l| l.0)).collect();
            assert_eq!(found[0], None);
            assert_eq!(found[1..], expected.iter().map(|l| Some(*l)).collect::<Vec<_>>());
        }
    }
    let put_back = scheduler.load().put_back;
    drop(scheduler);
    assert_eq!(pool.used(), 0);
    put_back
}

proptest! {
    #![proptest_config(parloop_testing::cases(24))]

    #[test]
    fn everyone_gets_what_he_gets_alone(seed: u64) {
        crowd(seed);
    }
}

/// Fixed seeds, of which some put requests back.
#[test]
fn requests_that_are_put_back_give_the_same_answers() {
    let put_back: u64 = (0..12).map(crowd).sum();
    assert!(put_back > 0, "nobody had to give way");
}

#[test]
fn what_cannot_be_served_is_refused_or_fails_alone() {
    let rng = &mut Rng(5);
    let mut config = any_config(rng);
    config.max_position_embeddings = 300;
    let model = Arc::new(Model::new(&checkpoint(&config, rng)).unwrap());
    let mut engine = Engine::new(model.clone(), Some(1)).unwrap();
    let small = Sequence::for_measurement(&config, KvType::F32, 10).unwrap().bytes();
    engine.set_kv_pool(KvPool::new(small + small / 2));
    let limits = Limits { cache: 0, ..Limits::default() };
    assert!(
        Scheduler::new(Engine::new(model.clone(), Some(1)).unwrap(), &model, Limits { rows: 0, ..limits }).is_err()
    );
    let mut scheduler = Scheduler::new(engine, &model, limits).unwrap();
    for (prompt, word) in [(vec![], "no tokens"), (vec![u32::MAX], "vocabulary"), (vec![1; 301], "context")] {
        let refusal = scheduler.submit(Request { prompt, ..Request::default() }).unwrap_err().to_string();
        assert!(refusal.contains(word), "{refusal}");
    }
    let options = Generation { tokens: 3, ignore_end: true, ..Generation::default() };
    let large = Request { prompt: vec![1; 299], options: options.clone(), ..Request::default() };
    let fine = Request { prompt: vec![1; 5], options, ..Request::default() };
    let (large, fine) = (scheduler.submit(large).unwrap(), scheduler.submit(fine).unwrap());
    let (mut failed, mut finished) = (Vec::new(), Vec::new());
    while !scheduler.is_idle() {
        for (id, event) in scheduler.turn() {
            match event {
                Event::Failed(error) => failed.push((id, matches!(error, Error::Spent(_)))),
                Event::Finished(_) => finished.push(id),
                _ => (),
            }
        }
    }
    assert_eq!((failed, finished), (vec![(large, true)], vec![fine]));
}
