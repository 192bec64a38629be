//! Which strings of a set does a text start with?

use crate::{Error, Result};

/// A set of strings, each with an id, searched by the beginning of a text.
#[derive(Clone, Debug)]
pub(in crate::tokenizer) struct Prefixes {
    /// Sorted, so that all strings with a common beginning stand together.
    entries: Vec<(Box<[u8]>, u32)>,
    /// Where the entries that start with each byte begin.
    first: Vec<usize>,
}

impl Prefixes {
    /// A set of non-empty strings.
    ///
    /// # Errors
    /// A string stands in the set twice.
    pub fn new<'a>(strings: impl Iterator<Item = (&'a str, u32)>) -> Result<Self> {
        let mut entries: Vec<(Box<[u8]>, u32)> = strings.map(|(text, id)| (text.as_bytes().into(), id)).collect();
        entries.sort_unstable();
        if let Some(twice) = entries.windows(2).find(|two| two[0].0 == two[1].0) {
            let text = String::from_utf8_lossy(&twice[0].0).into_owned();
            return Err(Error::Input(format!("lists {text:?} twice, with ids {} and {}", twice[0].1, twice[1].1)));
        }
        let first = (0..=256).map(|byte| entries.partition_point(|(key, _)| usize::from(key[0]) < byte)).collect();
        Ok(Self { entries, first })
    }

    /// Hands every string that `text` starts with to `found(length, id)`, shortest first.
    pub fn each(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(byte) = text.first() else { return };
        let (mut start, mut end) = (self.first[usize::from(*byte)], self.first[usize::from(*byte) + 1]);
        for (depth, byte) in text.iter().enumerate() {
            // All of start..end agree with the text before `depth`, and are longer than that.
            let range = &self.entries[start..end];
            let less = range.partition_point(|(key, _)| key[depth] < *byte);
            let same = range[less..].partition_point(|(key, _)| key[depth] == *byte);
            (start, end) = (start + less, start + less + same);
            if let Some((key, id)) = self.entries[start..end].first()
                && key.len() == depth + 1
            {
                found(depth + 1, *id);
                start += 1;
            }
            if start == end {
                return;
            }
        }
    }

    /// The longest string that `text` starts with.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut longest = None;
        self.each(text, |length, id| longest = Some((length, id)));
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_found_and_nothing_else() {
        let words = ["a", "ab", "abcd", "b", "é", "éa"];
        let set = Prefixes::new(words.iter().copied().zip(0..)).unwrap();
        for text in ["abcde", "abc", "a", "éab", "\u{e8}", "c", "", "ba"] {
            let mut found = Vec::new();
            set.each(text.as_bytes(), |length, id| found.push((length, id)));
            let mut expected: Vec<(usize, u32)> =
                words.iter().zip(0..).filter(|(w, _)| text.starts_with(**w)).map(|(w, id)| (w.len(), id)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
            assert_eq!(set.longest(text.as_bytes()), expected.last().copied());
        }
        assert!(Prefixes::new([("x", 0), ("x", 1)].into_iter()).is_err());
    }
}
