//! Which pass over the weights computed which loop of which token.

use super::lanes::Recording;
use crate::commands::plural;
use crate::terminal::Terminal;
use crate::terminal::wrap::{flowing, lines, padded};
use anyhow::Result;
use console::measure_text_width;
use parloop_model::Tokenizer;
use std::io::Write;

/// Tokens shown at most.
const TOKENS: usize = 8;
/// Columns before the first token.
const MARGIN: usize = 9;

pub fn draw(recording: &Recording, tokenizer: &Tokenizer, terminal: &Terminal, out: &mut impl Write) -> Result<()> {
    let names = names(&recording.lanes[1].ids, tokenizer, terminal.width)?;
    if names.is_empty() {
        return Ok(());
    }
    let (loops, n) = (recording.loops, names.len());
    let [_, plt, turn] = &recording.lanes;
    let (passes, tokens) = (|n| plural(n, "pass", "passes"), plural(n, "token", "tokens"));
    let mut text = vec![
        terminal.bold("Which pass over the weights computed what"),
        terminal.paint(plt.colour, &format!("in one pass: {} for {tokens}", passes(n))),
    ];
    text.push(row("token", &names, |t| names[t].clone()));
    for r in 0..loops {
        if r > 0 {
            text.push(arrows(&names));
        }
        text.push(row(&format!("loop {}", r + 1), &names, |t| (t + 1).to_string()));
    }
    text.push(terminal.paint(turn.colour, &format!("in turn: {} for {tokens}", passes(n * loops))));
    for r in 0..loops {
        if r > 0 {
            text.push(row("", &names, |_| "|".into()));
        }
        text.push(row(&format!("loop {}", r + 1), &names, |t| (t * loops + r + 1).to_string()));
    }
    // Rows of the grid fit; what else there is flows.
    text.iter().flat_map(|line| flowing(line, terminal.width, 0)).try_for_each(|line| writeln!(out, "{line}"))?;
    let why = "A loop that reads what the loop before it made of the token BEFORE (\\) finds it ready and runs in the same \
               pass; one that reads the same token (|) has to wait.";
    lines(why, terminal.width).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(writeln!(out)?)
}

/// The first tokens, as far as they fit.
fn names(ids: &[u32], tokenizer: &Tokenizer, width: usize) -> Result<Vec<String>> {
    let mut stream = tokenizer.stream();
    let (mut names, mut used) = (Vec::new(), MARGIN);
    for id in ids.iter().take(TOKENS) {
        let name: String = stream.push(*id)?.trim_matches(' ').escape_debug().take(10).collect();
        // Two columns at least, for the numbers.
        let name = padded(if name.is_empty() { "_" } else { &name }, 2);
        used += measure_text_width(&name) + 2;
        if used > width {
            break;
        }
        names.push(name);
    }
    Ok(names)
}

/// A line of the grid; the last column of each cell is where arrows start.
fn row(head: &str, names: &[String], cell: impl Fn(usize) -> String) -> String {
    let mut line = padded(&format!("  {head}"), MARGIN);
    for (t, name) in names.iter().enumerate() {
        line += &padded(&cell(t), measure_text_width(name) + 2);
    }
    line.trim_end().to_owned()
}

/// From a loop at a token to the next loop at the next token.
fn arrows(names: &[String]) -> String {
    let mut line = " ".repeat(MARGIN);
    for name in &names[..names.len() - 1] {
        line += &format!("{:>w$}", "\\", w = measure_text_width(name) + 1);
        line.push(' ');
    }
    line.trim_end().to_owned()
}
