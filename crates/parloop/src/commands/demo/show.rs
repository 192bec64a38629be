//! What the three lanes wrote, side by side at a common pace, or one below the other where nothing can be redrawn.

use super::lanes::{Lane, Recording};
use crate::commands::plural;
use crate::terminal::Terminal;
use crate::terminal::wrap::{lines, padded, printable};
use anyhow::Result;
use parloop_model::Tokenizer;
use std::io::Write;
use std::time::{Duration, Instant};

/// Seconds for which the slowest lane is shown.
const SECONDS: f64 = 7.0;
const FRAME: Duration = Duration::from_millis(40);
/// Lines of text of a lane at most; more scroll.
const HEIGHT: usize = 14;
/// Columns between two lanes.
const GAP: usize = 2;
/// Columns below which lanes do not stand side by side.
const NARROW: usize = 45;
/// Lines of a terminal below which they do not either.
const LOW: usize = 9;

/// A lane's text after each of its tokens.
struct Story<'a> {
    lane: &'a Lane,
    /// The prompt, and what each token added to it.
    text: String,
    /// Bytes of the text after so many tokens.
    ends: Vec<usize>,
}

impl<'a> Story<'a> {
    fn new(lane: &'a Lane, tokenizer: &Tokenizer, prompt: &str) -> Result<Self> {
        let mut text = printable(prompt);
        let (mut stream, mut ends) = (tokenizer.stream(), vec![text.len()]);
        for id in &lane.ids {
            text += &printable(&stream.push(*id)?);
            ends.push(text.len());
        }
        Ok(Self { lane, text, ends })
    }

    /// Tokens written `seconds` after the start.
    fn tokens(&self, seconds: f64) -> usize {
        ((seconds / self.lane.median()) as usize).min(self.lane.ids.len())
    }
}

pub fn show(
    recording: &Recording,
    tokenizer: &Tokenizer,
    prompt: &str,
    terminal: &Terminal,
    out: &mut impl Write,
) -> Result<()> {
    let stories = recording.lanes.iter().map(|lane| Story::new(lane, tokenizer, prompt)).collect::<Result<Vec<_>>>()?;
    if !side_by_side(terminal) {
        return plain(&stories, terminal, out);
    }
    let slowest = stories.iter().map(|s| s.lane.median()).fold(0.0, f64::max) * recording.steps as f64;
    let slower = (SECONDS / slowest).max(1.0);
    let said = format!("All three by one clock, {slower:.0} times slower than they were just computed:");
    let head = |terminal: &Terminal, out: &mut dyn Write| {
        lines(&said, terminal.width).iter().chain([&String::new()]).try_for_each(|line| writeln!(out, "{line}"))
    };
    head(terminal, out)?;
    let start = Instant::now();
    let (mut now, mut drawn) = (Terminal::of_output(false), 0);
    loop {
        let seconds = start.elapsed().as_secs_f64() / slower;
        let size = (now.width, now.height);
        now = Terminal::of_output(false);
        if (now.width, now.height) != size {
            // Lines that were drawn for another width lie about; the screen begins anew.
            write!(out, "\x1b[H\x1b[J")?;
            if !side_by_side(&now) {
                return plain(&stories, &now, out);
            }
            head(&now, out)?;
            drawn = 0;
        }
        let width = (now.width + GAP) / stories.len() - GAP;
        let height = HEIGHT.min(now.height.saturating_sub(6)).max(3);
        let frame = frame(&stories, seconds, width, height, terminal);
        if drawn > 0 {
            // Back to the first line of the frame.
            write!(out, "\x1b[{drawn}A")?;
        }
        for line in &frame {
            writeln!(out, "\r\x1b[2K{line}")?;
        }
        out.flush()?;
        drawn = frame.len();
        if stories.iter().all(|s| s.tokens(seconds) == s.lane.ids.len()) {
            break;
        }
        std::thread::sleep(FRAME);
    }
    Ok(writeln!(out)?)
}

/// Whether there is room for lanes beside each other that are drawn again and again.
fn side_by_side(terminal: &Terminal) -> bool {
    terminal.live && terminal.width >= NARROW && terminal.height >= LOW
}

/// The lines that are seen after so many seconds; always as many.
fn frame(stories: &[Story<'_>], seconds: f64, width: usize, height: usize, terminal: &Terminal) -> Vec<String> {
    let columns: Vec<Vec<String>> = stories
        .iter()
        .map(|story| {
            let tokens = story.tokens(seconds);
            let mut text = lines(&story.text[..story.ends[tokens]], width);
            text.drain(..text.len().saturating_sub(height));
            text.resize(height, String::new());
            let name: String = story.lane.name.chars().take(width).collect();
            let mut column = vec![terminal.paint(story.lane.colour, &padded(&name, width))];
            column.extend(text.iter().map(|line| padded(line, width)));
            let done = if tokens == story.lane.ids.len() { "done" } else { "" };
            let count: String = format!("{} {done}", plural(tokens, "token", "tokens")).chars().take(width).collect();
            column.push(terminal.paint(story.lane.colour, &padded(&count, width)));
            column
        })
        .collect();
    let line = |i: usize| {
        let cells: Vec<&str> = columns.iter().map(|c| c[i].as_str()).collect();
        cells.join(&" ".repeat(GAP)).trim_end().to_owned()
    };
    (0..height + 2).map(line).collect()
}

/// One below the other: for pipes, files and narrow screens.
fn plain(stories: &[Story<'_>], terminal: &Terminal, out: &mut impl Write) -> Result<()> {
    for story in stories {
        writeln!(out, "{}", terminal.paint(story.lane.colour, story.lane.name))?;
        for line in lines(&story.text, terminal.width.saturating_sub(4)) {
            writeln!(out, "{}", format!("    {line}").trim_end())?;
        }
        writeln!(out)?;
    }
    Ok(())
}
