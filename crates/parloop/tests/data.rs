//! `parloop tokenizer` and `parloop data`: from texts to a trained model.
#![cfg(feature = "train")]

use assert_cmd::Command;
use std::fs;
use std::path::Path;

fn parloop(folder: &Path, arguments: &str, input: Option<&str>) -> (bool, String, String) {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.current_dir(folder).args(arguments.split_whitespace());
    if let Some(input) = input {
        command.write_stdin(input);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

const TINY: &str = "--hidden-size 16 --intermediate-size 24 --layers 1 --heads 2 --kv-heads 1 --head-dim 8 --context 32 \
                    --batch 2 --steps 3 --quiet";

#[test]
fn texts_become_a_tokenizer_shards_and_a_model() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    fs::write(folder.join("book.txt"), "so foul and fair a day i have not seen\n".repeat(200)).unwrap();
    let (fine, _, told) = parloop(folder, "tokenizer train book.txt --vocab-size 280 --out t.json", None);
    assert!(fine && told.contains("280 ids"), "{told}");
    assert!(!parloop(folder, "tokenizer train book.txt --vocab-size 280 --out t.json", None).0, "written over");
    let lines: String = (0..99).map(|i| format!("{{\"body\":\"fair is foul {i}\"}}\n")).collect();
    let (fine, _, told) =
        parloop(folder, "data prepare - --format jsonl --text-key body --tokenizer t.json --out lines", Some(&lines));
    assert!(fine && told.contains("99 documents of text"), "{told}");
    let (fine, _, told) = parloop(folder, "data prepare - --tokenizer t.json --out nothing", Some(&lines));
    assert!(!fine && told.contains("--format"), "{told}");
    assert!(parloop(folder, "data prepare book.txt --tokenizer t.json --out book -q", None).0);
    let (fine, text, _) = parloop(folder, "data check book", None);
    assert!(fine && text.contains("in 1 document of text"), "{text}");
    for data in ["lines", "book"] {
        let (fine, _, told) = parloop(folder, &format!("train --data {data} --out run-{data} {TINY}"), None);
        assert!(fine, "{told}");
        assert!(parloop(folder, &format!("run run-{data} -p fair -n 3"), None).0);
    }
    fs::write(folder.join("book.txt"), "another").unwrap();
    let (fine, _, told) = parloop(folder, "data check book", None);
    assert!(!fine && told.contains("book.txt has changed") && told.contains("prepare them again"), "{told}");
    // The model's own tokenizer serves the next data.
    let (fine, _, told) = parloop(folder, "data prepare book.txt --tokenizer run-book --out again", None);
    assert!(fine && told.contains("saved again"), "{told}");
}

#[test]
fn a_dry_run_says_what_a_run_takes_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("book.txt"), "so foul and fair a day\n".repeat(99)).unwrap();
    let (fine, text, told) = parloop(place.path(), &format!("train --data book.txt --out out --dry-run {TINY}"), None);
    assert!(fine, "{told}");
    for row in ["parameters", "operations", "activations", "memory", "measured", "time", "tokenizer"] {
        assert!(text.lines().any(|line| line.starts_with(row)), "{row}: {text}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    assert!(parloop(place.path(), "data prepare book.txt --tokenizer bytes --out d -q", None).0);
    let (fine, text, told) = parloop(place.path(), &format!("train --data d --out out --dry-run {TINY}"), None);
    let tokens = 99 * "so foul and fair a day\n".len();
    assert!(fine && text.contains(&format!("{tokens} tokens: the run goes through them 0.08 times")), "{text}{told}");
    let (fine, _, told) = parloop(place.path(), &format!("train --data nothing --out out --dry-run {TINY}"), None);
    assert!(!fine && told.contains("nothing"), "{told}");
    let arguments = format!("train --data book.txt --out out --dry-run --tune new --recipe vanilla {TINY}");
    let (fine, _, told) = parloop(place.path(), &arguments, None);
    assert!(!fine && told.contains("--tune is \"new\""), "{told}");
}
