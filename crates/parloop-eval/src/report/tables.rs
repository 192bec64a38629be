//! The tables of a report, once, for the page and for markdown.

use super::groups::{Arm, Group, Study};
use crate::results::costs::Costs;
use crate::stats::Paired;

/// A table: heads and rows of cells; the first column is text, the others numbers.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Heads of columns.
    pub heads: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// As markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> = self.heads.iter().map(|_| "---".to_owned()).collect();
        line(&self.heads) + &format!("|{}|\n", rule.join("|")) + &self.rows.iter().map(|r| line(r)).collect::<String>()
    }

    /// As HTML.
    pub fn html(&self) -> String {
        let cells = |tag: &str, cells: &[String]| -> String {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", super::svg::escaped(cell))).collect()
        };
        let rows: String = self.rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
        format!("<table><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table>", cells("th", &self.heads))
    }
}

/// A paired difference as a cell.
pub fn told(paired: Option<Paired>) -> [String; 2] {
    match paired {
        None => ["-".into(), "-".into()],
        Some(p) if p.count == 1 => [format!("{:+.4}", p.mean), "one seed".into()],
        Some(p) => [
            format!("{:+.4} [{:+.4}, {:+.4}]", p.mean, p.low, p.high),
            format!("{}/{}{}", p.agree, p.count, if p.is_clear() { " clear" } else { "" }),
        ],
    }
}

/// What every arm reached, against the first.
pub fn arms(group: &Group<'_>) -> Table {
    let (measure, _) = group.measure().unwrap_or(("-", true));
    let base = group.arms.first().map_or("", |arm| arm.name.as_str());
    let hardest: Vec<&str> = ["longer", "deeper"]
        .into_iter()
        .filter(|split| group.arms.iter().any(|arm| arm.row().is_some_and(|row| row.splits.contains_key(*split))))
        .collect();
    let gain = format!("better than {base} by [95 %]");
    let mut heads =
        vec!["arm", "loops x layers", "weights", "FLOPs a token", "seeds", measure, "deviation", &gain, "same sign"];
    heads.extend(&hardest);
    let mut table = Table::new(&heads);
    for arm in &group.arms {
        let row = arm.row();
        let spread = arm.spread();
        let [gain, agree] = if arm.name == base { ["-".into(), "-".into()] } else { told(group.gain(&arm.name, base)) };
        let diverged =
            if arm.diverged.is_empty() { String::new() } else { format!(" ({} diverged)", arm.diverged.len()) };
        let mut cells = vec![
            arm.name.clone(),
            row.map_or("-".into(), |row| format!("{} x {}", row.loops, row.layers)),
            row.map_or("-".into(), |row| thousands(row.parameters)),
            row.map_or("-".into(), |row| thousands(row.flops_per_token)),
            format!("{}{diverged}", arm.rows.len()),
            spread.map_or("-".into(), |s| format!("{:.4}", s.mean)),
            spread.filter(|s| s.count > 1).map_or("-".into(), |s| format!("{:.4}", s.deviation)),
            gain,
            agree,
        ];
        for split in &hardest {
            let values: Vec<f64> =
                arm.rows.values().filter_map(|row| Some(row.splits.get(*split)?.labels.as_ref()?.accuracy)).collect();
            cells.push(crate::stats::Spread::of(&values).map_or("-".into(), |s| format!("{:.4}", s.mean)));
        }
        table.rows.push(cells);
    }
    table
}

/// The steps of the ladder: an arm, what it is held against, and what the difference is called.
pub const LADDER: [(&str, &str, &str); 9] = [
    ("loop2", "vanilla", "a second loop"),
    ("clp", "loop2", "the shift, scales and norm (CLP)"),
    ("share", "clp", "sharing keys and values"),
    ("plt2", "share", "the gated window"),
    ("plt2", "vanilla", "all of PLT-2"),
    ("plt2", "loop2", "PLT-2 instead of two loops in turn"),
    ("plt3", "plt2", "a third loop"),
    ("plt4", "plt3", "a fourth loop"),
    ("twice-layers", "plt2", "twice the layers instead of PLT-2"),
];

/// What each part is worth: the rungs of which both arms are there.
pub fn rungs<'a>(group: &Group<'_>) -> Vec<(&'a str, Paired)> {
    LADDER.into_iter().filter_map(|(arm, base, name)| Some((name, group.gain(arm, base)?))).collect()
}

/// The rungs as a table.
pub fn ladder(group: &Group<'_>) -> Option<Table> {
    let rungs = rungs(group);
    let mut table = Table::new(&["part", "better by [95 %]", "same sign"]);
    for (name, paired) in &rungs {
        let [gain, agree] = told(Some(*paired));
        table.rows.push(vec![(*name).to_owned(), gain, agree]);
    }
    (!rungs.is_empty()).then_some(table)
}

/// The arms of a group that were measured, with their costs.
pub fn costs_of<'a, 'r>(
    study: &'a Study<'r>,
    group: &'a Group<'r>,
    costs: &'a [Costs],
) -> impl Iterator<Item = (&'a Arm<'r>, &'a Costs)> {
    group.arms.iter().filter_map(move |arm| {
        let is_its =
            |c: &&Costs| c.study == study.name && c.task == group.task && c.size == group.size && c.arm == arm.name;
        Some((arm, costs.iter().rfind(is_its)?))
    })
}

/// Times and memory, if they were measured.
pub fn costs(study: &Study<'_>, group: &Group<'_>, costs: &[Costs]) -> Option<Table> {
    let mut table = Table::new(&[
        "arm",
        "one pass, us a token",
        "loop by loop",
        "against the first arm",
        "prompt, us",
        "against the first arm",
        "weights read, bytes",
        "keys, values, carried, bytes",
    ]);
    for (arm, cost) in costs_of(study, group, costs) {
        table.rows.push(vec![
            arm.name.clone(),
            cost.one_pass.map_or("-".into(), |s| format!("{:.1}", 1e6 * s)),
            format!("{:.1}", 1e6 * cost.sequential),
            format!("{:.2}x", cost.against_first),
            format!("{:.0}", 1e6 * cost.prefill),
            format!("{:.2}x", cost.prefill_against_first),
            thousands(cost.weight_bytes),
            thousands(cost.state_bytes),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}

/// What a study was run with.
pub fn circumstances(study: &Study<'_>) -> Vec<(&'static str, String)> {
    let seeds: Vec<String> = study.seeds().iter().map(ToString::to_string).collect();
    let seconds: f64 = study.rows.iter().map(|row| row.seconds).sum();
    let tokens: u64 = study.rows.iter().map(|row| row.tokens).sum();
    vec![
        ("command", study.all(|row| &row.command)),
        ("runs", format!("{} with seeds {}", study.rows.len(), seeds.join(", "))),
        (
            "training",
            format!(
                "{} tokens, {:.0} minutes in all, on cores shared with other work",
                thousands(tokens),
                seconds / 60.0
            ),
        ),
        ("machine", study.all(|row| &row.machine)),
        ("version", study.all(|row| &row.version)),
    ]
}

/// A number with its thousands set apart.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
