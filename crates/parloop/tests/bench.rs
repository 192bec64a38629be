//! `parloop bench` as a program reads it: JSON as the last line of standard output.

use assert_cmd::Command;

/// The report of a command.
fn report(arguments: &[&str]) -> serde_json::Value {
    let mut command = Command::cargo_bin("parloop").unwrap();
    let output = command.arg("bench").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn every_test_ends_in_a_line_of_json() {
    let quick = ["--rounds", "1", "--json", "--threads", "1"];
    for (arguments, rows) in [
        (&["decode"][..], 2),
        (&["decode", "--shape", "tiny", "--loops", "1,2,3", "--weights", "bf16,q8"], 6),
        (&["decode", "--shape", "tiny", "--batch", "1,2", "--depth", "0,64"], 4),
        (&["prefill", "--shape", "tiny", "--prompt-tokens", "16,32"], 2),
        (&["mixed", "--shape", "tiny", "--prompt-tokens", "8", "--steps", "2"], 1),
    ] {
        let report = report(&[arguments, &quick].concat());
        let results = report["results"].as_array().unwrap();
        assert_eq!(results.len() % rows, 0, "{arguments:?}: {report}");
        for row in results {
            assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
            assert!(row["loops"].as_u64().unwrap() >= 1 && row["weights"].is_string(), "{row}");
        }
    }
}

#[test]
fn a_bench_of_nothing_says_what_there_is() {
    let output = Command::cargo_bin("parloop").unwrap().arg("bench").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("<TEST>"), "{text}");
}
