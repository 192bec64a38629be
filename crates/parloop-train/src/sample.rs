//! Text from the model in training, by the module itself: one whole forward for each token. Slow and always there; a
//! caller that has an engine passes its own function instead ([`crate::Hooks`]).

use crate::Result;
use crate::host::host;
use crate::model::LoopModel;
use parloop_eval::Rng;

/// Continues `prompt` by `count` ids. Temperature 0 takes the most likely id; a prompt longer than the model's
/// context is seen through its last tokens only.
///
/// # Errors
/// The prompt is empty or holds an id outside the vocabulary.
pub fn continue_ids(model: &LoopModel, prompt: &[u32], count: usize, temperature: f64, seed: u64) -> Result<Vec<u32>> {
    let context = model.config().max_position_embeddings;
    let mut rng = Rng::new(seed, 0x5a3e, 0);
    let mut ids = prompt.to_vec();
    for _ in 0..count {
        let seen = &ids[ids.len().saturating_sub(context)..];
        let logits = model.forward(model.ids(seen, 1, seen.len())?).narrow(1, seen.len() - 1, 1);
        let next = choose(&host(logits), temperature, &mut rng);
        if model.config().eos_ids().contains(&next) {
            break;
        }
        ids.push(next);
    }
    Ok(ids.split_off(prompt.len()))
}

fn choose(logits: &[f32], temperature: f64, rng: &mut Rng) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature == 0.0 {
        return logits.iter().position(|l| *l == best).unwrap_or(0) as u32;
    }
    let weights: Vec<f64> = logits.iter().map(|l| (f64::from(l - best) / temperature).exp()).collect();
    let mut left = rng.unit() * weights.iter().sum::<f64>();
    for (id, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return id as u32;
        }
    }
    weights.len().saturating_sub(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_follows_the_weights() {
        let mut rng = Rng::new(1, 2, 3);
        assert_eq!(choose(&[0.0, 3.0, 1.0], 0.0, &mut rng), 1);
        let ones = (0..4000).filter(|_| choose(&[0.0, 3f32.ln()], 1.0, &mut rng) == 1).count();
        assert!((2850..3150).contains(&ones), "{ones}");
    }
}
