//! SentencePiece's unigram model (`unigram_model.cc`, `EncodeOptimized`): the pieces whose scores have the largest sum.

use super::Vocabulary;

/// How far below the lowest score an unknown character lies.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to reach a place of the text.
#[derive(Clone, Copy)]
struct Step {
    /// The piece that ends here; none is the unknown one.
    id: Option<u32>,
    score: f32,
    start: usize,
}

/// Hands the pieces of a normalised text to `each(piece, id)`; no id means unknown.
pub(super) fn encode(vocabulary: &Vocabulary, text: &str, mut each: impl FnMut(&str, Option<u32>)) {
    let unknown = vocabulary.lowest - UNKNOWN_PENALTY;
    let mut best: Vec<Option<Step>> = vec![None; text.len() + 1];
    for (start, character) in text.char_indices() {
        let here = best[start].map_or(0.0, |step| step.score);
        // Sums are rounded before they are compared, so that the first of nearly equal ways stays, as in the library.
        let mut offer = |end: usize, score: f32, id: Option<u32>| {
            let sum = here + score;
            if best[end].is_none_or(|step| sum > step.score) {
                best[end] = Some(Step { id, score: sum, start });
            }
        };
        let mut whole_character = false;
        vocabulary.pieces.each(&text.as_bytes()[start..], |length, id| {
            if vocabulary.is_unused(id) {
                return;
            }
            // A user-defined piece is worth more than whatever it could be cut into.
            let score = if vocabulary.is_symbol(id) {
                length as f32 * vocabulary.highest - 0.1
            } else {
                vocabulary.scores[id as usize]
            };
            offer(start + length, score, Some(id));
            whole_character |= length == character.len_utf8();
        });
        if !whole_character {
            offer(start + character.len_utf8(), unknown, None);
        }
    }
    let (mut end, mut path) = (text.len(), Vec::new());
    while let Some(step) = best[end].filter(|_| end > 0) {
        path.push((step.start..end, step.id));
        end = step.start;
    }
    path.into_iter().rev().for_each(|(at, id)| each(&text[at], id));
}
