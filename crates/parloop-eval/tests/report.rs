//! A report says what the results say.

use parloop_eval::report;
use parloop_eval::results::{Ending, Row};

fn row(arm: &str, seed: u64, nats: f64) -> Row {
    Row {
        format: Row::FORMAT,
        study: "ladder".into(),
        about: "What <is> it worth?".into(),
        command: "parloop study x.toml --out out/x".into(),
        run: format!("{arm}-s{seed}"),
        task: "text".into(),
        arm: arm.into(),
        seed,
        loops: 2,
        layers: 2,
        parameters: 139_584,
        nats: Some(nats),
        curve: vec![(100, 2.0), (200, nats)],
        machine: "a machine".into(),
        version: "0.1.0".into(),
        ..Row::default()
    }
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for seed in 1..=4 {
        let noise = [0.0, 0.011, -0.007, 0.004][seed as usize - 1];
        rows.push(row("vanilla", seed, 1.80 + noise));
        rows.push(row("loop2", seed, 1.78 + noise));
        rows.push(row("plt2", seed, 1.75 + noise));
    }
    rows.push(Row { ending: Ending::Diverged("the loss of step 3 is NaN".into()), nats: None, ..row("plt2", 5, 0.0) });
    rows
}

#[test]
fn tables_have_means_paired_gains_and_what_diverged() {
    let text = report::markdown(&rows(), &[]);
    let line = |name: &str| text.lines().find(|l| l.starts_with(&format!("| {name} "))).unwrap().to_owned();
    assert!(line("vanilla").contains("| 1.8020 |"), "{text}");
    // Lower is better, so the gain is positive; it is the same for every seed, whatever the noise that they share.
    assert!(line("plt2").contains("+0.0500 [+0.0500, +0.0500] | 4/4 clear"), "{text}");
    assert!(line("plt2").contains("4 (1 diverged)"), "{text}");
    assert!(line("a second loop").contains("+0.0200"), "{text}");
    assert!(line("PLT-2 instead of two loops in turn").contains("+0.0300"), "{text}");
    assert!(text.contains("`parloop study x.toml --out out/x`") && text.contains("seeds 1, 2, 3, 4, 5"));
}

#[test]
fn the_page_is_whole_and_fetches_nothing() {
    let page = report::html(&rows(), &[]);
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.matches("<svg").count() >= 3 && page.matches("<svg").count() == page.matches("</svg>").count());
    assert!(page.contains("prefers-color-scheme:dark"));
    for fetched in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    assert!(page.contains("What &lt;is&gt; it worth?") && !page.contains("<is>"));
    assert!(!page.contains("NaN'") && !page.contains("inf"));
    // Nothing to report is a page all the same.
    assert!(report::html(&[], &[]).contains("<!doctype html>"));
}
