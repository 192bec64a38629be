//! SentencePiece's normaliser (`normalizer.cc`): rules compiled into a double array, and the handling of spaces.

use super::{Normalizer, prefixes::Prefixes};
use crate::{Error, Result};

/// The mark that stands for a space inside pieces.
pub(super) const SPACE: &str = "\u{2581}";
/// The longest replacement a rule may have, so that a hostile file cannot turn a short text into gigabytes.
const MAX_REPLACEMENT: usize = 4096;

/// A `precompiled_charsmap`: a double-array trie (Darts-clone) over UTF-8 bytes, whose values are offsets into
/// replacements that end with a zero byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    units: Vec<u32>,
    replacements: String,
}

impl Rules {
    /// Layout: u32 size of the trie in bytes, the trie as little-endian u32, the replacements.
    pub fn new(map: &[u8]) -> Result<Self> {
        if map.is_empty() {
            return Ok(Self::default());
        }
        let broken = |what: String| Error::Input(format!("has broken normalisation rules: {what}"));
        let (size, rest) = map.split_first_chunk::<4>().ok_or_else(|| broken("they are cut".into()))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest
            .split_at_checked(size)
            .filter(|_| size.is_multiple_of(4))
            .ok_or_else(|| broken(format!("the trie has {size} bytes, the rules {} in all", map.len())))?;
        let units = trie.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let replacements =
            std::str::from_utf8(replacements).map_err(|_| broken("the replacements are not UTF-8".into()))?;
        match replacements.split('\0').map(str::len).max() {
            Some(longest) if longest > MAX_REPLACEMENT => {
                Err(broken(format!("a replacement has {longest} bytes, expected at most {MAX_REPLACEMENT}")))
            }
            _ => Ok(Self { units, replacements: replacements.to_owned() }),
        }
    }

    /// The longest rule that matches the beginning of `input`: bytes it takes, and what it gives.
    fn longest(&self, input: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (length, byte) in (1..).zip(input) {
            node ^= u32::from(*byte);
            // A trie that points outside of itself ends here, as one without a match.
            let Some(unit) = self.units.get(node as usize).copied() else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(*byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(value) = self.units.get(node as usize)
            {
                found = Some((length, value & !(1 << 31)));
            }
        }
        let (length, value) = found?;
        let text = self.replacements.get(value as usize..)?;
        Some((length, text.split('\0').next().unwrap_or_default()))
    }
}

/// Brings text into the form that pieces are made of.
#[derive(Clone, Debug)]
pub(super) struct Normalize {
    pub spec: Normalizer,
    pub rules: Rules,
    /// User-defined pieces, which are left as they are.
    pub symbols: Prefixes,
    pub space_as_suffix: bool,
}

impl Normalize {
    /// `Normalizer::Normalize`; `dummy` says whether this text gets the dummy space.
    pub fn apply(&self, text: &str, dummy: bool) -> String {
        let mut input = text.as_bytes();
        let trim = self.spec.remove_extra_whitespaces;
        while trim && !input.is_empty() {
            let (given, taken) = self.prefix(input);
            if given != " " {
                break;
            }
            input = &input[taken..];
        }
        let mut out = String::with_capacity(text.len() + SPACE.len());
        if input.is_empty() {
            return out;
        }
        let space = if self.spec.escape_whitespaces { SPACE } else { " " };
        if dummy && !self.space_as_suffix {
            out.push_str(space);
        }
        let mut after_space = trim;
        while !input.is_empty() {
            let (given, taken) = self.prefix(input);
            let given = if after_space { given.trim_start_matches(' ') } else { given };
            for c in given.chars() {
                if c == ' ' { out.push_str(space) } else { out.push(c) }
            }
            if !given.is_empty() {
                after_space = trim && given.ends_with(' ');
            }
            input = &input[taken..];
        }
        while trim && out.ends_with(space) {
            out.truncate(out.len() - space.len());
        }
        if dummy && self.space_as_suffix {
            out.push_str(space);
        }
        out
    }

    /// What the beginning of `input` becomes, and how many bytes of it that takes.
    fn prefix<'a>(&'a self, input: &'a [u8]) -> (&'a str, usize) {
        let whole = |bytes| std::str::from_utf8(bytes).ok();
        if let Some((length, _)) = self.symbols.longest(input)
            && let Some(symbol) = whole(&input[..length])
        {
            return (symbol, length);
        }
        if let Some((length, given)) = self.rules.longest(input) {
            return (given, length);
        }
        // A rule may have taken a part of a character; what is left of it is a byte of no character.
        let length = (1..=input.len().min(4)).find(|n| whole(&input[..*n]).is_some());
        match length.and_then(|n| whole(&input[..n])) {
            Some(character) => (character, character.len()),
            None => ("\u{FFFD}", 1),
        }
    }
}
