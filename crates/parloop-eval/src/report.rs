//! A study as a page (HTML with SVG inside, nothing fetched) and as markdown.

pub mod groups;
pub mod svg;
pub mod tables;

use crate::results::Row;
use crate::results::costs::Costs;
use groups::{Group, Study, studies};
use std::collections::BTreeMap;
use std::fmt::Write;
use svg::{Category, Series, escaped};

const STYLE: &str = include_str!("report/style.css");

/// How the tables are to be read.
const READING: &str = "Differences are paired by seed: the same initial weights and the same order of the data in both \
    arms as far as their shapes allow. Intervals are percentile bootstraps over seeds (95 %); with five seeds or fewer \
    they are a hint and no more, so the number of seeds with the same sign stands beside them. \"clear\": at least three \
    seeds, all of one sign, and an interval without zero.";

/// The page of some results; `costs` of the same studies, where they were measured.
pub fn html(rows: &[Row], costs: &[Costs]) -> String {
    let studies = studies(rows);
    let title = studies.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut body = String::new();
    for study in &studies {
        let _ = write!(body, "<h1>{}</h1><p>{}</p><dl>", escaped(&study.name), escaped(&study.all(|row| &row.about)));
        for (name, value) in tables::circumstances(study) {
            let _ = write!(body, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
        }
        body += "</dl>";
        for group in &study.groups {
            let _ = write!(body, "<h2>{}</h2>", escaped(&group.title()));
            body += &format!("<div class='wide'>{}</div>", tables::arms(group).html());
            for plot in plots(group) {
                let _ = write!(body, "<figure>{plot}</figure>");
            }
            if let Some(ladder) = tables::ladder(group) {
                body += "<h3>What each part is worth</h3>";
                body += &format!("<div class='wide'>{}</div>", ladder.html());
            }
            if let Some(table) = tables::costs(study, group, costs) {
                body += "<h3>What it costs to run</h3>";
                body += &format!("<div class='wide'>{}</div>", table.html());
                let _ = write!(body, "<figure>{}</figure>", quality_and_time(study, group, costs));
            }
        }
        for plot in across(study) {
            let _ = write!(body, "<figure>{plot}</figure>");
        }
    }
    format!(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width, initial-scale=1'><title>{}</title><style>{STYLE}</style>\
         </head><body><main>{body}<p class='small'>{}</p></main></body></html>\n",
        escaped(&title),
        escaped(READING)
    )
}

/// The markdown of some results.
pub fn markdown(rows: &[Row], costs: &[Costs]) -> String {
    let mut text = String::new();
    for study in &studies(rows) {
        let _ = write!(text, "# {}\n\n{}\n\n", study.name, study.all(|row| &row.about));
        for (name, value) in tables::circumstances(study) {
            let value = if name == "command" { format!("`{value}`") } else { value };
            let _ = writeln!(text, "- {name}: {value}");
        }
        for group in &study.groups {
            let _ = write!(text, "\n## {}\n\n{}", group.title(), tables::arms(group).markdown());
            if let Some(ladder) = tables::ladder(group) {
                let _ = write!(text, "\n{}", ladder.markdown());
            }
            if let Some(table) = tables::costs(study, group, costs) {
                let _ = write!(text, "\n{}", table.markdown());
            }
        }
        text.push('\n');
    }
    text + READING + "\n"
}

/// The plots of one task at one size.
fn plots(group: &Group<'_>) -> Vec<String> {
    let mut plots = Vec::new();
    let Some((measure, less)) = group.measure() else { return plots };
    let direction = if less { "less is better" } else { "more is better" };
    let dots: Vec<Category> = group
        .arms
        .iter()
        .map(|arm| Category {
            name: arm.name.clone(),
            colour: arm.index,
            values: arm.values().into_values().collect(),
            interval: None,
            note: match (arm.spread(), arm.diverged.len()) {
                (Some(spread), 0) => format!("{:.4}", spread.mean),
                (Some(spread), n) => format!("{:.4}, {n} diverged", spread.mean),
                (None, n) => format!("{n} diverged"),
            },
        })
        .collect();
    plots.push(svg::categories(
        &format!("{}: every seed and the mean", group.title()),
        &format!("{measure} ({direction})"),
        &dots,
        None,
    ));
    let rungs: Vec<Category> = tables::rungs(group)
        .into_iter()
        .map(|(name, paired)| Category {
            name: name.to_owned(),
            colour: 1,
            values: Vec::new(),
            interval: Some((paired.low, paired.mean, paired.high)),
            note: format!("{:+.4}", paired.mean),
        })
        .collect();
    if !rungs.is_empty() {
        let title = format!("{}: what each part is worth, paired by seed, 95 %", group.title());
        plots.push(svg::categories(&title, &format!("better by, {measure} (right of 0: it helps)"), &rungs, Some(0.0)));
    }
    let series = |of: &dyn Fn(&Row) -> Vec<(f64, f64)>| -> Vec<Series> {
        group
            .arms
            .iter()
            .map(|arm| Series {
                name: arm.name.clone(),
                colour: arm.index,
                points: mean(arm.rows.values().map(|row| of(row))),
            })
            .filter(|series| series.points.len() > 1)
            .collect()
    };
    let levels = series(&|row| levels_of(row, "test"));
    if !levels.is_empty() {
        let title = format!("{}: accuracy by level, mean over seeds", group.title());
        plots.push(svg::lines(&title, "level (steps into the problem, hops, operations)", "accuracy", &levels, None));
    }
    for (split, about) in [("longer", "twice the length"), ("deeper", "twice the steps")] {
        let levels = series(&|row| levels_of(row, split));
        if !levels.is_empty() {
            let title = format!("{}: accuracy by level at {about}, which training did not show", group.title());
            plots.push(svg::lines(&title, "level", "accuracy", &levels, None));
        }
    }
    let curves = series(&|row| row.curve.iter().map(|(step, loss)| (*step as f64, *loss)).collect());
    if !curves.is_empty() {
        let title = format!("{}: validation loss over training, mean over seeds", group.title());
        plots.push(svg::lines(&title, "steps", "nats", &curves, None));
    }
    plots
}

fn levels_of(row: &Row, split: &str) -> Vec<(f64, f64)> {
    let labels = row.splits.get(split).and_then(|scores| scores.labels.as_ref());
    labels.map_or(Vec::new(), |labels| labels.levels.iter().map(|(k, (_, right))| (f64::from(*k), *right)).collect())
}

/// What arms reach against the time of a decoded token.
fn quality_and_time(study: &Study<'_>, group: &Group<'_>, costs: &[Costs]) -> String {
    let (measure, _) = group.measure().unwrap_or(("-", true));
    let series: Vec<Series> = tables::costs_of(study, group, costs)
        .filter_map(|(arm, cost)| {
            let points = vec![(cost.against_first, arm.spread()?.mean)];
            Some(Series { name: arm.name.clone(), colour: arm.index, points })
        })
        .collect();
    let first = group.arms.first().map_or("", |arm| arm.name.as_str());
    svg::lines(
        &format!("{}: quality and time", group.title()),
        &format!("time of a decoded token, {first} = 1"),
        measure,
        &series,
        None,
    )
}

/// Points of equal x, averaged over those that have them.
fn mean(all: impl Iterator<Item = Vec<(f64, f64)>>) -> Vec<(f64, f64)> {
    let mut sums: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
    for (x, y) in all.flatten() {
        // Levels and steps are whole numbers.
        let (sum, count) = sums.entry(x as u64).or_default();
        *sum += y;
        *count += 1;
    }
    sums.into_iter().map(|(x, (sum, count))| (x as f64, sum / count as f64)).collect()
}

/// What arms reach over the sizes and tasks of a study: lines of the gain over the first arm.
fn across(study: &Study<'_>) -> Vec<String> {
    let mut plots = Vec::new();
    if study.groups.len() < 2 {
        return plots;
    }
    let mut rows = Vec::new();
    for group in &study.groups {
        let Some(base) = group.arms.first() else { continue };
        for arm in group.arms.iter().skip(1) {
            if let Some(paired) = group.gain(&arm.name, &base.name) {
                rows.push(Category {
                    name: format!("{}: {}", group.title(), arm.name),
                    colour: arm.index,
                    values: Vec::new(),
                    interval: Some((paired.low, paired.mean, paired.high)),
                    note: format!("{:+.4}", paired.mean),
                });
            }
        }
    }
    if !rows.is_empty() {
        let base = study.groups[0].arms.first().map_or("", |arm| arm.name.as_str());
        plots.push(svg::categories(
            &format!("{}: better than {base} by, paired by seed, 95 %", study.name),
            "better by",
            &rows,
            Some(0.0),
        ));
    }
    plots
}
