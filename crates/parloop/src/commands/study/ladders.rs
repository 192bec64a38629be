//! Arms that belong together, by name.

use anyhow::{Result, bail};

/// One arm: its name, its recipe, and what multiplies the size's options.
type Rung = (&'static str, &'static str, &'static [(&'static str, f64)]);

/// Feed-forward width by which a vanilla model reads as many bytes of weights a token as PLT-2 takes time for in 4-bit
/// weights (1.07 of one loop, `parloop bench decode`): of a Llama block with 3 ff / (3 ff + 4 d) = 0.69 of its weights
/// in the feed-forward, 1 + 0.07 / 0.69.
const EQUAL_LATENCY: f64 = 1.104;

/// The paper's ladder (arXiv 2510.24824, table 2), one more loop, and what the weights or the time of it would buy.
const PAPER: [Rung; 8] = [
    ("vanilla", "vanilla", &[]),
    ("plt2", "plt2", &[]),
    ("loop2", "loop2", &[]),
    ("clp", "loop2-clp", &[]),
    ("share", "loop2-clp-share", &[]),
    ("plt3", "plt3", &[]),
    ("twice-layers", "vanilla", &[("layers", 2.0)]),
    ("equal-latency", "vanilla", &[("intermediate_size", EQUAL_LATENCY)]),
];

/// More loops, in turn and shifted, beside more layers.
const REASONING: [Rung; 10] = [
    ("vanilla", "vanilla", &[]),
    ("plt2", "plt2", &[]),
    ("plt3", "plt3", &[]),
    ("twice-layers", "vanilla", &[("layers", 2.0)]),
    ("loop2", "loop2", &[]),
    ("loop3", "loop3", &[]),
    ("share", "loop2-clp-share", &[]),
    ("clp", "loop2-clp", &[]),
    ("plt4", "plt4", &[]),
    ("thrice-layers", "vanilla", &[("layers", 3.0)]),
];

/// The four that tell whether loops help at a size.
const SHORT: [Rung; 4] = [
    ("vanilla", "vanilla", &[]),
    ("plt2", "plt2", &[]),
    ("plt3", "plt3", &[]),
    ("twice-layers", "vanilla", &[("layers", 2.0)]),
];

/// The arms of a ladder.
pub fn named(name: &str) -> Result<&'static [Rung]> {
    Ok(match name {
        "paper" => &PAPER,
        "reasoning" => &REASONING,
        "short" => &SHORT,
        other => bail!("ladder is \"{other}\", expected paper, reasoning or short"),
    })
}
