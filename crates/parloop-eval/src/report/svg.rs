//! Plots as SVG: lines, dots by category, intervals by category. Colours are classes (`c0` to `c9`), which the page
//! defines for light and dark.

use std::fmt::Write;

/// Colours that the page defines.
pub const COLOURS: usize = 10;

const WIDTH: f64 = 760.0;
const LEGEND: f64 = 150.0;

/// Text in XML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A plot as a file of its own, with the page's colours.
pub fn alone(svg: &str) -> String {
    let style = format!("<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' ");
    let inside = format!("><style>svg{{background:var(--bg)}}{}</style><title>", super::STYLE);
    svg.replacen("<svg ", &style, 1).replacen("><title>", &inside, 1)
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Index of its colour.
    pub colour: usize,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}

/// A category with values, or with an interval.
#[derive(Clone, Debug)]
pub struct Category {
    /// Its name at the axis.
    pub name: String,
    /// Index of its colour.
    pub colour: usize,
    /// One value a seed.
    pub values: Vec<f64>,
    /// Lower end, middle and upper end, if the middle is not just the mean of the values.
    pub interval: Option<(f64, f64, f64)>,
    /// A note behind the values.
    pub note: String,
}

/// Round numbers from about `low` to about `high`, five or so.
pub fn ticks(low: f64, high: f64) -> Vec<f64> {
    if !(low.is_finite() && high.is_finite() && high > low) {
        return vec![low];
    }
    let raw = (high - low) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn shown(value: f64, step: f64) -> String {
    let digits = if step >= 1.0 { 0 } else { (-step.log10().floor()) as usize };
    let text = format!("{value:.digits$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        text.trim_start_matches('-').into()
    } else {
        text
    }
}

/// A range with a margin around values; around one value, something.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|v| v.is_finite()) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return (0.0, 1.0);
    }
    let pad = if high > low { (high - low) * margin } else { (low.abs() * 0.05).max(0.01) };
    (low - pad, high + pad)
}

/// Where values lie in a plot.
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |v: f64, (low, high): (f64, f64)| (v - low) / (high - low);
        (self.left + self.width * share(x, self.x), self.top + self.height * (1.0 - share(y, self.y)))
    }

    /// Vertical grid lines and their numbers below.
    fn x_axis(&self, svg: &mut String, label: &str) {
        let all = ticks(self.x.0, self.x.1);
        let step = if all.len() > 1 { all[1] - all[0] } else { 1.0 };
        let bottom = self.top + self.height;
        for tick in &all {
            let (x, _) = self.at(*tick, self.y.0);
            let _ = write!(svg, "<line class='grid' x1='{x:.1}' y1='{:.1}' x2='{x:.1}' y2='{bottom:.1}'/>", self.top);
            let _ = write!(
                svg,
                "<text class='tick' x='{x:.1}' y='{:.1}' text-anchor='middle'>{}</text>",
                bottom + 16.0,
                shown(*tick, step)
            );
        }
        let middle = self.left + self.width / 2.0;
        let _ = write!(
            svg,
            "<text class='label' x='{middle:.1}' y='{:.1}' text-anchor='middle'>{}</text>",
            bottom + 36.0,
            escaped(label)
        );
    }

    fn y_axis(&self, svg: &mut String, label: &str) {
        let all = ticks(self.y.0, self.y.1);
        let step = if all.len() > 1 { all[1] - all[0] } else { 1.0 };
        let right = self.left + self.width;
        for tick in &all {
            let (_, y) = self.at(self.x.0, *tick);
            let _ = write!(svg, "<line class='grid' x1='{:.1}' y1='{y:.1}' x2='{right:.1}' y2='{y:.1}'/>", self.left);
            let _ = write!(
                svg,
                "<text class='tick' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
                self.left - 6.0,
                y + 4.0,
                shown(*tick, step)
            );
        }
        let (x, y) = (16.0, self.top + self.height / 2.0);
        let _ = write!(
            svg,
            "<text class='label' transform='translate({x},{y:.1}) rotate(-90)' text-anchor='middle'>{}</text>",
            escaped(label)
        );
    }
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height:.0}' role='img' aria-label='{0}'><title>{0}</title>\
         <text class='title' x='0' y='16'>{0}</text>",
        escaped(title).replace('\'', "&#39;")
    )
}

/// Lines with a legend to the right. `reference` is a horizontal line with a name, such as chance.
pub fn lines(title: &str, x: &str, y: &str, series: &[Series], reference: Option<(&str, f64)>) -> String {
    let height = 340f64.max(70.0 + 18.0 * (series.len() + usize::from(reference.is_some())) as f64);
    let all = || series.iter().flat_map(|s| &s.points);
    let values = all().map(|p| p.1).chain(reference.map(|r| r.1));
    let frame = Frame {
        left: 64.0,
        top: 30.0,
        width: WIDTH - 64.0 - LEGEND - 16.0,
        height: height - 30.0 - 46.0,
        x: range(all().map(|p| p.0), 0.02),
        y: range(values, 0.06),
    };
    let mut svg = open(height, title);
    frame.x_axis(&mut svg, x);
    frame.y_axis(&mut svg, y);
    let legend = WIDTH - LEGEND;
    if let Some((name, value)) = reference {
        let (x, y) = frame.at(frame.x.0, value);
        let _ =
            write!(svg, "<line class='reference' x1='{x:.1}' y1='{y:.1}' x2='{:.1}' y2='{y:.1}'/>", x + frame.width);
        let at = 44.0 + 18.0 * series.len() as f64;
        let _ = write!(svg, "<line class='reference' x1='{legend}' y1='{at}' x2='{}' y2='{at}'/>", legend + 18.0);
        let _ = write!(svg, "<text class='tick' x='{}' y='{}'>{}</text>", legend + 24.0, at + 4.0, escaped(name));
    }
    for (i, one) in series.iter().enumerate() {
        let points: Vec<String> = one
            .points
            .iter()
            .filter(|p| p.1.is_finite())
            .map(|p| frame.at(p.0, p.1))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let class = one.colour % COLOURS;
        // The second ten of a plot are dashed.
        let dash = if one.colour >= COLOURS { " dashed" } else { "" };
        let _ = write!(svg, "<polyline class='line c{class}{dash}' points='{}'/>", points.join(" "));
        if points.len() <= 24 {
            for point in &points {
                let (x, y) = point.split_once(',').unwrap_or_default();
                let _ = write!(svg, "<circle class='dot c{class}' cx='{x}' cy='{y}' r='2.5'/>");
            }
        }
        let at = 44.0 + 18.0 * i as f64;
        let _ =
            write!(svg, "<line class='line c{class}{dash}' x1='{legend}' y1='{at}' x2='{}' y2='{at}'/>", legend + 18.0);
        let _ = write!(svg, "<text class='tick' x='{}' y='{}'>{}</text>", legend + 24.0, at + 4.0, escaped(&one.name));
    }
    svg + "</svg>"
}

/// Values by category: a dot a seed, a bar at the mean; or a middle with its interval. `reference` is a vertical line.
pub fn categories(title: &str, x: &str, all: &[Category], reference: Option<f64>) -> String {
    let row = 24.0;
    let height = 30.0 + row * all.len().max(1) as f64 + 46.0;
    let longest = all.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 7.2 + 16.0).min(320.0);
    let values =
        all.iter().flat_map(|c| c.values.iter().copied().chain(c.interval.iter().flat_map(|i| [i.0, i.1, i.2])));
    let frame = Frame {
        left,
        top: 30.0,
        width: WIDTH - left - LEGEND,
        height: row * all.len().max(1) as f64,
        x: range(values.chain(reference), 0.06),
        y: (0.0, 1.0),
    };
    let mut svg = open(height, title);
    frame.x_axis(&mut svg, x);
    if let Some(value) = reference {
        let (x, _) = frame.at(value, 0.0);
        let _ = write!(
            svg,
            "<line class='reference' x1='{x:.1}' y1='{:.1}' x2='{x:.1}' y2='{:.1}'/>",
            frame.top,
            frame.top + frame.height
        );
    }
    for (i, one) in all.iter().enumerate() {
        let y = frame.top + row * (i as f64 + 0.5);
        let class = one.colour % COLOURS;
        let _ = write!(
            svg,
            "<text class='tick' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
            left - 8.0,
            y + 4.0,
            escaped(&one.name)
        );
        for value in &one.values {
            let (x, _) = frame.at(*value, 0.0);
            let _ = write!(svg, "<circle class='dot c{class} faint' cx='{x:.1}' cy='{y:.1}' r='4'/>");
        }
        let mean = (!one.values.is_empty()).then(|| one.values.iter().sum::<f64>() / one.values.len() as f64);
        if let Some((low, middle, high)) = one.interval {
            let ((a, _), (m, _), (b, _)) = (frame.at(low, 0.0), frame.at(middle, 0.0), frame.at(high, 0.0));
            let _ = write!(svg, "<line class='line c{class}' x1='{a:.1}' y1='{y:.1}' x2='{b:.1}' y2='{y:.1}'/>");
            for end in [a, b] {
                let _ = write!(
                    svg,
                    "<line class='line c{class}' x1='{end:.1}' y1='{:.1}' x2='{end:.1}' y2='{:.1}'/>",
                    y - 5.0,
                    y + 5.0
                );
            }
            let _ = write!(svg, "<circle class='dot c{class}' cx='{m:.1}' cy='{y:.1}' r='4'/>");
        } else if let Some(mean) = mean {
            let (x, _) = frame.at(mean, 0.0);
            let _ = write!(
                svg,
                "<line class='mean c{class}' x1='{x:.1}' y1='{:.1}' x2='{x:.1}' y2='{:.1}'/>",
                y - 8.0,
                y + 8.0
            );
        }
        let _ = write!(
            svg,
            "<text class='tick' x='{:.1}' y='{:.1}'>{}</text>",
            WIDTH - LEGEND + 10.0,
            y + 4.0,
            escaped(&one.note)
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high) in [(0.0, 1.0), (1.71, 1.84), (-0.03, 0.007), (0.0, 900.0), (5.0, 5.0), (-1e6, 3e6)] {
            let all = ticks(low, high);
            assert!(!all.is_empty() && all.len() <= 11, "{low} {high} {all:?}");
            assert!(
                all.iter().all(|t| *t >= low - 1e-9 * low.abs() && *t <= high + 1e-9 * high.abs()),
                "{low} {high} {all:?}"
            );
        }
        assert_eq!(shown(-0.0, 0.01), "0.00");
        assert_eq!(shown(1.7, 0.02), "1.70");
    }

    #[test]
    fn plots_of_nothing_and_of_one_value_are_plots() {
        for svg in [
            lines("a < b", "x", "y", &[], None),
            lines(
                "t",
                "x",
                "y",
                &[Series { name: "a&b".into(), colour: 0, points: vec![(1.0, 2.0)] }],
                Some(("chance", 0.1)),
            ),
            categories("t", "x", &[], None),
            categories(
                "t",
                "x",
                &[Category { name: "n".into(), colour: 3, values: vec![1.0], interval: None, note: String::new() }],
                Some(0.0),
            ),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"));
            assert!(!svg.contains("a < b") && !svg.contains("a&b"));
        }
    }
}
