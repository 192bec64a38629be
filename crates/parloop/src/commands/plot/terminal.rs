//! Curves in letters.

use parloop_eval::report::svg::{Series, ticks};
use std::fmt::Write;

/// Lines of the plot.
const HEIGHT: usize = 16;
/// Columns of the numbers at its left.
const NUMBERS: usize = 9;
/// One for each curve; more of them repeat.
const MARKS: [char; 8] = ['*', 'o', '+', 'x', '#', '@', '%', '='];

/// The least and the largest of some numbers, apart by something.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if high > low { (low, high) } else { (low - 0.5 * low.abs().max(1e-9), low + 0.5 * low.abs().max(1e-9)) }
}

/// A number in at most eight letters.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.1}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// A plot of `width` columns; each series has at least one point.
pub fn draw(title: &str, x: &str, all: &[Series], width: usize) -> String {
    let columns = width.clamp(30, 120) - NUMBERS - 1;
    let points = || all.iter().flat_map(|s| &s.points);
    let (across, up) = (range(points().map(|p| p.0)), range(points().map(|p| p.1)));
    let place = |v: f64, (low, high): (f64, f64), cells: usize| {
        (((v - low) / (high - low) * (cells - 1) as f64).round() as usize).min(cells - 1)
    };
    let mut grid = vec![vec![' '; columns]; HEIGHT];
    for (i, series) in all.iter().enumerate() {
        for (x, y) in &series.points {
            let row = HEIGHT - 1 - place(*y, up, HEIGHT);
            grid[row][place(*x, across, columns)] = MARKS[i % MARKS.len()];
        }
    }
    let mut labels = vec![String::new(); HEIGHT];
    for tick in ticks(up.0, up.1) {
        labels[HEIGHT - 1 - place(tick, up, HEIGHT)] = short(tick);
    }
    let mut text = format!("{title}\n");
    for (label, row) in labels.iter().zip(grid) {
        let row: String = row.into_iter().collect();
        let _ = writeln!(text, "{label:>NUMBERS$}|{}", row.trim_end());
    }
    let (first, last) = (short(across.0), short(across.1));
    let middle = columns.saturating_sub(first.len() + last.len());
    let _ = writeln!(text, "{:>NUMBERS$}+{}", "", "-".repeat(columns));
    let _ = writeln!(text, "{:>NUMBERS$} {first}{x:^middle$}{last}", "");
    for (i, series) in all.iter().enumerate() {
        let last = series.points.last().map_or(0.0, |p| p.1);
        let _ = writeln!(text, "{:>NUMBERS$} {} {}, last {}", "", MARKS[i % MARKS.len()], series.name, short(last));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_fall_where_their_numbers_do_and_fit_the_width() {
        let points = |from: f64| (0..50).map(|i| (f64::from(i), from / f64::from(i + 1))).collect();
        let series = |name: &str, from| Series { name: name.into(), colour: 0, points: points(from) };
        for width in [20, 60, 80, 500] {
            let text = draw("loss", "step", &[series("a", 4.0), series("b", 2.0)], width);
            assert!(text.lines().all(|line| line.chars().count() <= width.clamp(30, 120)), "{width}:\n{text}");
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines[1].contains('*') && !lines[1].contains('o'), "{text}");
            assert!(lines[HEIGHT].contains('o') && text.contains("* a, last 0.080"), "{text}");
        }
        // One point, and a constant, have a place too.
        let flat = Series { name: "c".into(), colour: 0, points: vec![(1.0, 0.0)] };
        assert!(draw("x", "step", &[flat], 80).contains('*'));
    }
}
