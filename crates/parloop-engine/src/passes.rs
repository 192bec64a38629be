//! How tokens go through a model.

use crate::{Error, Result};
use parloop_model::Recipe;
use std::fmt;
use std::str::FromStr;

/// How tokens go through a model. All ways give the same numbers to the last bit; what differs is how often the
/// weights are read.
///
/// In words: `auto`, `one`, `sequential`, `chunked:K`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passes {
    /// A text that is known goes through in pieces of the usual size; a token that is written takes one pass for all
    /// loops where the recipe allows it, otherwise one pass a loop.
    #[default]
    Auto,
    /// Token by token, all loops in one pass; needs a recipe with `shift`.
    One,
    /// Token by token, loop after loop, one pass each: what every recipe can do.
    Sequential,
    /// As `Auto`, with a text that is known in pieces of this many tokens, at least 1.
    Chunked(usize),
}

impl Passes {
    /// Whether a token that is written takes one pass for all its loops.
    ///
    /// # Errors
    /// One pass is asked for and the recipe does not allow it.
    pub fn in_one_pass(self, recipe: &Recipe) -> Result<bool> {
        match (self, recipe.why_not_one_pass()) {
            (Self::One, Some(reason)) => Err(Error::OnePass(reason)),
            (Self::Sequential, _) => Ok(false),
            (_, reason) => Ok(reason.is_none()),
        }
    }
}

impl FromStr for Passes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("chunked:").map(str::parse::<usize>)) {
            // The second of each pair is how it was called before there was one type.
            ("auto" | "whole", _) => Ok(Self::Auto),
            ("one" | "one-pass", _) => Ok(Self::One),
            ("sequential", _) => Ok(Self::Sequential),
            (_, Some(Ok(tokens))) if tokens > 0 => Ok(Self::Chunked(tokens)),
            _ => {
                Err(format!("\"{text}\" is no way to pass; expected auto, one, sequential or chunked:K, K at least 1"))
            }
        }
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::One => f.write_str("one"),
            Self::Sequential => f.write_str("sequential"),
            Self::Chunked(tokens) => write!(f, "chunked:{tokens}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_written_is_read_as_the_same_way() {
        for passes in [Passes::Auto, Passes::One, Passes::Sequential, Passes::Chunked(7)] {
            assert_eq!(passes.to_string().parse(), Ok(passes));
        }
        for (old, passes) in [("whole", Passes::Auto), ("one-pass", Passes::One)] {
            assert_eq!(old.parse(), Ok(passes));
        }
        for wrong in ["", "two", "chunked", "chunked:0", "chunked:-1", "One"] {
            assert!(wrong.parse::<Passes>().unwrap_err().contains("chunked:K"), "{wrong}");
        }
    }

    #[test]
    fn only_what_a_recipe_cannot_do_is_refused() {
        let (plt, looped) = (Recipe::plt(2), Recipe::vanilla_loop(2));
        assert!(Passes::Auto.in_one_pass(&plt).unwrap() && Passes::One.in_one_pass(&plt).unwrap());
        assert!(!Passes::Sequential.in_one_pass(&plt).unwrap() && !Passes::Auto.in_one_pass(&looped).unwrap());
        assert!(Passes::One.in_one_pass(&looped).is_err());
    }
}
