//! Prompts of a length that the server itself counts.

use anyhow::{Result, ensure};

/// Words that most vocabularies hold whole.
const WORDS: [&str; 48] = [
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were", "all",
    "her", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "no", "more", "if",
];

/// Numbers drawn from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How many words make a prompt.
pub struct Texts {
    prefix: usize,
    rest: usize,
}

impl Texts {
    /// Measures with `count` how many tokens words are, and how many every prompt has besides.
    ///
    /// # Errors
    /// `count` fails, or more words are no more tokens.
    pub fn measured(count: impl Fn(&str) -> Result<u64>, tokens: u32, prefix: u32) -> Result<Self> {
        let (few, many) = (16, 80);
        let (a, b) = (count(&words(1, few))?, count(&words(2, many))?);
        ensure!(b > a, "the server counts {a} tokens in {few} words and {b} in {many}: its counts cannot be used");
        let each = (b - a) as f64 / (many - few) as f64;
        let besides = (a as f64 - each * few as f64).max(0.0);
        let all = ((f64::from(tokens) - besides) / each).round().max(1.0) as usize;
        // At least a word of its own: no prompt is another's.
        let prefix = ((f64::from(prefix) / each).round() as usize).min(all - 1);
        Ok(Self { prefix, rest: all - prefix })
    }

    /// With which all prompts of a round begin.
    pub fn prefix(&self, seed: u64) -> String {
        if self.prefix == 0 { String::new() } else { words(!seed, self.prefix) + " " }
    }

    /// The rest of a prompt.
    pub fn rest(&self, seed: u64) -> String {
        words(seed, self.rest)
    }
}

fn words(seed: u64, count: usize) -> String {
    let mut random = Random(seed);
    let drawn: Vec<&str> = (0..count).map(|_| WORDS[(random.next() % WORDS.len() as u64) as usize]).collect();
    drawn.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_length_that_the_server_counts() {
        // A tokenizer of two tokens a word, and a template of 11.
        let count = |text: &str| Ok(11 + 2 * text.split(' ').count() as u64);
        let texts = Texts::measured(count, 211, 100).unwrap();
        let prompts: Vec<String> = (0..20).map(|i| texts.prefix(7) + &texts.rest(i)).collect();
        for (i, prompt) in prompts.iter().enumerate() {
            assert_eq!(count(prompt).unwrap(), 211);
            assert!(prompt.starts_with(&texts.prefix(7)) && !prompts[..i].contains(prompt));
        }
        assert_eq!(texts.prefix(7).split(' ').count(), 51, "50 words and what follows the last blank");
        // Shorter than what stands around it: still a prompt, and still its own.
        let short = Texts::measured(count, 1, 1).unwrap();
        assert_eq!((short.prefix(1).as_str(), short.rest(3).split(' ').count()), ("", 1));
        assert!(Texts::measured(|_| Ok(5), 10, 0).is_err_and(|e| e.to_string().contains("counts 5")));
    }
}
