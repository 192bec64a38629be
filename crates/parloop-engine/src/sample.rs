//! Choosing the next token from its logits.

use crate::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// How the next token is chosen. The steps run in llama.cpp's order: repetition penalty, top-k, top-p, min-p,
/// temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// 0 takes the most likely token (greedy); 1 samples the model's own distribution.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens until their probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits (multiply negative ones) of recent tokens by this; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Tokens that count as recent.
    pub repetition_window: usize,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SampleOptions {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the option, the value found and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, found: f32, expected: &str| {
            if ok { Ok(()) } else { Err(Error::Input(format!("{name} is {found}, expected {expected}"))) }
        };
        check((0.0..=100.0).contains(&self.temperature), "temperature", self.temperature, "0 to 100")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", self.top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min-p", self.min_p, "0 to 1")?;
        let penalty = self.repetition_penalty;
        check(penalty > 0.0 && penalty <= 100.0, "repetition penalty", penalty, "above 0 and at most 100")
    }
}

/// Chooses tokens; holds the random state and the recent tokens.
pub struct Sampler {
    options: SampleOptions,
    rng: ChaCha8Rng,
    recent: Vec<u32>,
    /// Ids from here on are never chosen: the tokenizer has no text for them.
    limit: usize,
}

impl Sampler {
    /// A sampler for ids below `limit`.
    ///
    /// # Errors
    /// As [`SampleOptions::validate`].
    pub fn new(options: SampleOptions, limit: usize) -> Result<Self> {
        options.validate()?;
        Ok(Self { rng: ChaCha8Rng::seed_from_u64(options.seed), options, recent: Vec::new(), limit })
    }

    /// Tells the sampler of a token of the text, so that its repetition can be penalised.
    pub fn accept(&mut self, token: u32) {
        self.recent.push(token);
        if self.recent.len() > self.options.repetition_window {
            self.recent.remove(0);
        }
    }

    /// Chooses the next token.
    ///
    /// # Errors
    /// The logits are not numbers: the model is broken.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let o = &self.options;
        let mut kept: Vec<(u32, f32)> = (0..).zip(logits[..self.limit.min(logits.len())].iter().copied()).collect();
        // Minus infinity is a token that cannot come; with plus infinity no probability is a number.
        if let Some((token, l)) = kept.iter().find(|(_, l)| l.is_nan() || *l == f32::INFINITY) {
            let what = format!("the model gave token {token} the logit {l}, expected a finite number");
            return Err(Error::Input(format!("{what}; its weights are broken, or too large for their type")));
        }
        if o.repetition_penalty != 1.0 {
            let mut seen = self.recent.clone();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some((_, l)) = kept.get_mut(token as usize) {
                    *l = if *l > 0.0 { *l / o.repetition_penalty } else { *l * o.repetition_penalty };
                }
            }
        }
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if o.temperature == 0.0 {
            let best = kept.iter().min_by(|a, b| order(a, b)).filter(|k| k.1.is_finite());
            return best.map(|k| k.0).ok_or_else(no_tokens);
        }
        if o.top_k > 0 && o.top_k < kept.len() {
            kept.select_nth_unstable_by(o.top_k, order);
            kept.truncate(o.top_k);
        }
        kept.sort_unstable_by(order);
        let best = kept.first().map(|k| k.1).filter(|best| best.is_finite()).ok_or_else(no_tokens)?;
        let total: f64 = kept.iter().map(|k| f64::from(k.1 - best).exp()).sum();
        let mut sum = 0.0;
        let mut n = 0;
        for (_, l) in &kept {
            // The first token always stays.
            if n > 0 && (sum >= f64::from(o.top_p) || f64::from(l - best).exp() < f64::from(o.min_p)) {
                break;
            }
            sum += f64::from(l - best).exp() / total;
            n += 1;
        }
        kept.truncate(n);
        let weight = |l: f32| (f64::from(l - best) / f64::from(o.temperature)).exp();
        let total: f64 = kept.iter().map(|k| weight(k.1)).sum();
        let mut point = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        for (token, l) in &kept {
            point -= weight(*l);
            if point < 0.0 {
                return Ok(*token);
            }
        }
        kept.last().map(|k| k.0).ok_or_else(no_tokens)
    }
}

fn no_tokens() -> Error {
    Error::Input("there is no token to choose from".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.9];

    fn drawn(options: SampleOptions, limit: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options, limit).unwrap();
        let mut counts = vec![0; 5];
        (0..4000).for_each(|_| counts[sampler.sample(&LOGITS).unwrap() as usize] += 1);
        counts
    }

    fn open() -> SampleOptions {
        SampleOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SampleOptions::default() }
    }

    #[test]
    fn greedy_takes_the_largest_and_the_first_of_equals() {
        let mut sampler = Sampler::new(SampleOptions::greedy(), 5).unwrap();
        assert_eq!(sampler.sample(&LOGITS).unwrap(), 1);
        assert_eq!(sampler.sample(&[2.0, 2.0]).unwrap(), 0);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let total: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        for (count, l) in drawn(open(), 5).into_iter().zip(LOGITS) {
            let expected = l.exp() / total;
            assert!((count as f32 / 4000.0 - expected).abs() < 0.03, "{count} for {expected}");
        }
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        let kept = |o, limit| drawn(o, limit).iter().map(|c| *c > 0).collect::<Vec<_>>();
        assert_eq!(kept(SampleOptions { top_k: 2, ..open() }, 5), [false, true, false, false, true]);
        assert_eq!(kept(SampleOptions { top_p: 0.5, ..open() }, 5), [false, true, false, false, true]);
        assert_eq!(kept(SampleOptions { top_p: 0.01, ..open() }, 5), [false, true, false, false, false]);
        assert_eq!(kept(SampleOptions { min_p: 0.3, ..open() }, 5), [false, true, true, false, true]);
        assert_eq!(kept(open(), 3), [true, true, true, false, false]);
    }

    #[test]
    fn the_penalty_lowers_recent_tokens_of_either_sign() {
        let options = SampleOptions { repetition_penalty: 2.0, ..SampleOptions::greedy() };
        let mut sampler = Sampler::new(options, 5).unwrap();
        sampler.accept(1);
        assert_eq!(sampler.sample(&LOGITS).unwrap(), 4);
        assert_eq!(sampler.sample(&[-2.0, -1.5]).unwrap(), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_draws_and_bad_options_are_named() {
        assert_eq!(drawn(open(), 5), drawn(open(), 5));
        assert_ne!(drawn(open(), 5), drawn(SampleOptions { seed: 1, ..open() }, 5));
        for (options, word) in [
            (SampleOptions { temperature: f32::NAN, ..open() }, "temperature"),
            (SampleOptions { top_p: 0.0, ..open() }, "top-p"),
            (SampleOptions { min_p: 2.0, ..open() }, "min-p"),
            (SampleOptions { repetition_penalty: 0.0, ..open() }, "penalty"),
        ] {
            assert!(Sampler::new(options, 5).err().unwrap().to_string().contains(word));
        }
    }

    #[test]
    fn logits_that_are_no_distribution_are_refused() {
        for options in [open(), SampleOptions::greedy(), SampleOptions { repetition_penalty: 1.5, ..open() }] {
            let sample = |logits: &[f32]| Sampler::new(options.clone(), 5).unwrap().sample(logits);
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let message = sample(&[0.0, bad, 1.0]).unwrap_err().to_string();
                assert!(message.contains("token 1") && message.contains("weights"), "{message}");
            }
            // A token that cannot come is none of those; when none can come, there is no choice.
            assert_eq!(sample(&[f32::NEG_INFINITY, 1.0]).unwrap(), 1);
            assert!(sample(&[f32::NEG_INFINITY; 3]).unwrap_err().to_string().contains("no token"));
            assert!(sample(&[]).unwrap_err().to_string().contains("no token"));
        }
    }
}
