//! SentencePiece's BPE (`bpe_model.cc`): of all neighbours that make a piece together, the pair with the highest score
//! is joined, the leftmost of equals first.

use super::Vocabulary;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

/// A stretch of the text, linked to its neighbours. An empty one was joined to its left neighbour.
struct Symbol {
    at: Range<usize>,
    before: Option<usize>,
    after: Option<usize>,
    /// A user-defined piece, never joined.
    frozen: bool,
}

/// Two neighbours that could be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of both together; another length later means that one of them has changed since.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// Hands the pieces of a normalised text to `each(piece, id)`; no id means unknown.
pub(super) fn encode(vocabulary: &Vocabulary, text: &str, mut each: impl FnMut(&str, Option<u32>)) {
    let mut symbols = split(vocabulary, text);
    let mut agenda = BinaryHeap::new();
    // What pieces that are not to be used were joined from.
    let mut parts: HashMap<&str, usize> = HashMap::new();
    let mut propose = |symbols: &[Symbol], agenda: &mut BinaryHeap<Pair>, left: usize, right: usize| {
        let (a, b) = (&symbols[left], &symbols[right]);
        let joined = &text[a.at.start..b.at.end];
        if a.frozen || b.frozen || joined.len() > vocabulary.longest {
            return;
        }
        if let Some(id) = vocabulary.usable(joined) {
            agenda.push(Pair { score: vocabulary.scores[id as usize], left, right, length: joined.len() });
            if vocabulary.is_unused(id) {
                parts.insert(joined, a.at.len());
            }
        }
    };
    for right in 1..symbols.len() {
        propose(&symbols, &mut agenda, right - 1, right);
    }
    while let Some(pair) = agenda.pop() {
        let (a, b) = (symbols[pair.left].at.clone(), symbols[pair.right].at.clone());
        if a.is_empty() || b.is_empty() || a.len() + b.len() != pair.length {
            continue;
        }
        let after = symbols[pair.right].after;
        symbols[pair.right].at = b.start..b.start;
        symbols[pair.left].at = a.start..b.end;
        symbols[pair.left].after = after;
        if let Some(before) = symbols[pair.left].before {
            propose(&symbols, &mut agenda, before, pair.left);
        }
        if let Some(after) = after {
            symbols[after].before = Some(pair.left);
            propose(&symbols, &mut agenda, pair.left, after);
        }
    }
    for symbol in symbols.iter().filter(|s| !s.at.is_empty()) {
        // Unused pieces fall back into what they were joined from.
        let mut waiting = vec![&text[symbol.at.clone()]];
        while let Some(piece) = waiting.pop() {
            let id = vocabulary.id(piece);
            match parts.get(piece).filter(|_| id.is_some_and(|id| vocabulary.is_unused(id))) {
                Some(length) => waiting.extend([&piece[*length..], &piece[..*length]]),
                None => each(piece, id),
            }
        }
    }
}

/// Characters and user-defined pieces.
fn split(vocabulary: &Vocabulary, text: &str) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    let mut start = 0;
    while let Some(character) = text[start..].chars().next() {
        let symbol = vocabulary.symbols.longest(&text.as_bytes()[start..]);
        let end = start + symbol.map_or(character.len_utf8(), |(length, _)| length);
        let index = symbols.len();
        let after = (end < text.len()).then_some(index + 1);
        symbols.push(Symbol { at: start..end, before: index.checked_sub(1), after, frozen: symbol.is_some() });
        start = end;
    }
    symbols
}
