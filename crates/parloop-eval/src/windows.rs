//! A text that is longer than the context, in windows that overlap.

/// A part of a text that goes through the model at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    /// First token.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// Log-probabilities of this window, from its start, that an earlier one gave with more before them.
    pub known: usize,
}

/// Windows of at most `context` tokens, each `stride` after the one before it, that give every token but the first its
/// log-probability once.
pub fn windows(tokens: usize, context: usize, stride: usize) -> Vec<Window> {
    // The first token that a window scores is given at least the one before it.
    let stride = stride.clamp(1, context.max(2) - 1);
    let mut windows = vec![Window { start: 0, end: tokens.min(context), known: 0 }];
    while let Some(before) = windows.last().map(|w| w.end).filter(|end| *end < tokens) {
        let end = (before + stride).min(tokens);
        let start = end.saturating_sub(context);
        windows.push(Window { start, end, known: before - start - 1 });
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once_with_enough_before_it() {
        for tokens in [1, 2, 9, 10, 11, 15, 16, 99, 100] {
            for (context, stride) in [(10, 5), (10, 10), (10, 1), (16, 7), (2, 1), (2, 2), (100, 50)] {
                let windows = windows(tokens, context, stride);
                let mut scored = 1;
                for w in &windows {
                    assert!(w.end - w.start <= context && w.start < w.end);
                    assert_eq!(w.start + w.known + 1, scored.max(w.start + 1), "{tokens} {context} {stride} {w:?}");
                    scored = w.end;
                }
                assert_eq!(scored, tokens.max(1));
                assert_eq!(windows.len() == 1, tokens <= context);
            }
        }
        assert_eq!(windows(12, 10, 5)[1], Window { start: 2, end: 12, known: 7 });
    }
}
