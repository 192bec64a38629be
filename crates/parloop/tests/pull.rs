//! `parloop pull` against a hub that does what hubs do, and what they should not.

#[path = "pull/server.rs"]
mod server;

use assert_cmd::Command;
use parloop_testing::Golden;
use serde_json::{Value, json};
use server::{Answer, Request, Server, list};
use std::path::Path;

const WEIGHTS: &str = "model.safetensors";
/// Large enough for several reads.
const LENGTH: usize = 700_000;

fn weights() -> Vec<u8> {
    (0..LENGTH).map(|i| (i * i % 251) as u8).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("config.json", b"{\"loops\": 2}".to_vec()), (WEIGHTS, weights()), ("README.md", b"read me".to_vec())]
}

/// The whole path of every command that is tested.
fn command(endpoint: &str, folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.env_remove("HF_TOKEN").env("HF_ENDPOINT", endpoint);
    command.args(["pull", "owner/model", "--out"]).arg(folder).args(more);
    command
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn fetched(hub: &Server, folder: &Path) -> String {
    said(command(&hub.address, folder, &[]).assert().success().get_output())
}

fn refused(hub: &Server, folder: &Path, more: &[&str], words: &[&str]) {
    let message = said(command(&hub.address, folder, more).assert().failure().get_output());
    let last = message.lines().last().unwrap();
    assert!(last.starts_with("error: ") && words.iter().all(|w| last.contains(w)), "{words:?}: {message}");
    assert!(!folder.join(WEIGHTS).exists(), "{message}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_list(request: &Request) -> bool {
    request.path.starts_with("/api/models/")
}

/// A hub that serves the files as it should, except that `weights` answers for the weights.
fn hub_with(weights: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Server {
    Server::start(move |request, before| match request {
        _ if is_list(request) => Answer::new("200 OK", list(&files()).to_string()),
        _ if request.path.ends_with(WEIGHTS) => weights(request, before),
        _ => Answer::file(&files()[0].1, request),
    })
}

/// A hub that has nothing but a list.
fn hub_listing(list: Value) -> Server {
    Server::start(move |request, _| match is_list(request) {
        true => Answer::new("200 OK", list.to_string()),
        false => Answer::new("404 Not Found", "no such file"),
    })
}

#[test]
fn a_model_is_fetched_from_one_commit_and_runs() {
    let model = Golden::read("plt2").folder;
    let files: Vec<_> = ["config.json", WEIGHTS].map(|name| (name, std::fs::read(model.join(name)).unwrap())).into();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let hub = Server::start(move |request, _| {
        let mut list = list(&files);
        list["sha"] = commit.into();
        list["siblings"].as_array_mut().unwrap().push(json!({ "rfilename": ".gitattributes", "size": 9 }));
        let path = |name: &str| format!("/prefix/owner/model/resolve/{commit}/{name}");
        match files.iter().find(|(name, _)| path(name) == request.path) {
            Some((_, bytes)) => Answer::file(bytes, request),
            None if request.path == "/prefix/api/models/owner/model/revision/refs%2Fpr%2F1?blobs=true" => {
                Answer::new("200 OK", list.to_string())
            }
            None => Answer::new("404 Not Found", ""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("models/plt2");
    let endpoint = format!("{}/prefix/", hub.address);
    let output = command(&endpoint, &out, &["--revision", "refs/pr/1"]).env("HF_TOKEN", "secret").assert().success();
    assert!(said(output.get_output()).contains(commit));
    assert_eq!(names(&out), ["config.json", WEIGHTS]);
    let score = |folder: &Path| {
        let mut command = Command::cargo_bin("parloop").unwrap();
        command.arg("score").arg(folder).args(["--ids", "1,2,3"]).assert().success().get_output().stdout.clone()
    };
    assert_eq!(score(&out), score(&model));
    let asked = hub.asked();
    assert!(asked.len() == 3 && asked.iter().all(|r| r.header("authorization") == Some("Bearer secret")));
}

#[test]
fn without_a_folder_a_model_goes_where_it_is_found_by_its_name() {
    let model = Golden::read("plt2").folder;
    let files: Vec<_> = ["config.json", WEIGHTS].map(|name| (name, std::fs::read(model.join(name)).unwrap())).into();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let hub = Server::start(move |request, _| {
        let mut list = list(&files);
        list["sha"] = commit.into();
        match files.iter().find(|(name, _)| request.path.ends_with(name)) {
            _ if is_list(request) => Answer::new("200 OK", list.to_string()),
            Some((_, bytes)) => Answer::file(bytes, request),
            None => Answer::new("404 Not Found", ""),
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let parloop = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("parloop").unwrap();
        command.env("HF_ENDPOINT", &hub.address).env("HF_HUB_CACHE", cache.path()).env_remove("HF_TOKEN");
        command.args(arguments).assert().success().get_output().clone()
    };
    let message = said(&parloop(&["pull", "owner/model"]));
    assert!(message.contains("parloop run owner/model"), "{message}");
    let held = cache.path().join("models--owner--model");
    assert_eq!(std::fs::read_to_string(held.join("refs/main")).unwrap(), commit);
    assert_eq!(names(&held.join("snapshots").join(commit)), ["config.json", WEIGHTS]);
    let blobs = names(&held.join("blobs"));
    assert!(blobs.len() == 2 && blobs.iter().all(|name| name.len() >= 40), "{blobs:?}");
    assert_eq!(hub.asked().len(), 3);
    assert!(said(&parloop(&["pull", "owner/model"])).contains("model.safetensors is there already"));
    assert_eq!(hub.asked().len(), 4);
    let score = |model: &str| parloop(&["score", model, "--ids", "1,2,3"]).stdout;
    assert_eq!(score("owner/model"), score(model.to_str().unwrap()));
    parloop(&["rm", "owner/model"]);
    assert!(!held.exists());
}

#[test]
fn what_is_there_and_right_is_not_fetched_again() {
    let hub = hub_with(|request, _| Answer::file(&weights(), request));
    let folder = tempfile::tempdir().unwrap();
    fetched(&hub, folder.path());
    assert_eq!(names(folder.path()), ["config.json", WEIGHTS]);
    assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), weights());
    assert_eq!(hub.asked().len(), 3);
    let again = fetched(&hub, folder.path());
    assert!(hub.asked().len() == 4 && again.contains("model.safetensors is there already"), "{again}");
    // The same length is not the same content, in large files and in small ones.
    for (name, right) in [("config.json", b"{\"loops\": 2}".to_vec()), (WEIGHTS, weights())] {
        let mut wrong = right.clone();
        wrong[10] ^= 1;
        std::fs::write(folder.path().join(name), &wrong).unwrap();
        // It may be somebody's.
        let message = said(command(&hub.address, folder.path(), &[]).assert().failure().get_output());
        assert!(message.contains(name) && message.contains("--force"), "{message}");
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), wrong);
        command(&hub.address, folder.path(), &["--force"]).assert().success();
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), right);
    }
    assert_eq!(hub.asked().len(), 10);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let hub = hub_with(|request, before| {
        let whole = Answer::file(&weights(), request);
        match before {
            0 => whole.cut(300_000),
            1 => whole.cut(200_000),
            _ => whole,
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let message = fetched(&hub, folder.path());
    assert!(message.contains("the connection broke after 300000 of 700000 bytes"), "{message}");
    let range = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(hub.headers_of(WEIGHTS, "range"), [None, range(300_000), range(500_000)]);
    assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), weights());
    assert_eq!(names(folder.path()), ["config.json", WEIGHTS]);
}

#[test]
fn an_interrupted_run_is_gone_on_with_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("model.safetensors.part");
    let silent = hub_with(|request, _| {
        Answer::file(&weights(), request).cut(if request.header("range").is_some() { 0 } else { 99_999 })
    });
    refused(&silent, folder.path(), &[], &["99999 of 700000", "tried 5 times", "run the same command again"]);
    assert_eq!(std::fs::read(&part).unwrap(), weights()[..99_999]);
    let hub = hub_with(|request, _| Answer::file(&weights(), request));
    fetched(&hub, folder.path());
    assert_eq!(hub.headers_of(WEIGHTS, "range"), [Some("bytes=99999-".to_owned())]);
    assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), weights());
    assert!(!part.exists());
}

#[test]
fn what_an_earlier_run_left_is_used_only_if_it_is_right() {
    let whole = |request: &Request, _| Answer::file(&weights(), request);
    let deaf = |_: &Request, _| Answer::new("200 OK", weights());
    let stuck = |request: &Request, before| match before {
        0 => Answer::new("416 Range Not Satisfiable", ""),
        _ => Answer::file(&weights(), request),
    };
    let right = weights()[..1234].to_vec();
    let hubs = [
        // A server that ignores Range, and one that refuses it.
        (hub_with(deaf), right.clone(), 1),
        (hub_with(stuck), right, 2),
        // Left of another version; longer than the file; whole but for its name.
        (hub_with(whole), vec![7; 1234], 2),
        (hub_with(whole), vec![7; LENGTH + 1], 1),
        (hub_with(whole), weights(), 0),
    ];
    for (case, (hub, left, requests)) in hubs.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors.part"), left).unwrap();
        fetched(&hub, folder.path());
        assert_eq!(hub.headers_of(WEIGHTS, "range").len(), requests, "case {case}");
        assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), weights(), "case {case}");
        assert_eq!(names(folder.path()), ["config.json", WEIGHTS], "case {case}");
    }
}

#[test]
fn content_that_is_not_what_was_announced_is_not_kept() {
    let other = || weights().into_iter().rev().collect::<Vec<_>>();
    let longer = || [weights(), b"more".to_vec()].concat();
    let part = |range: &'static str| {
        move |request: &Request, _: usize| {
            let mut answer = Answer::file(&weights(), request);
            answer.headers.retain(|(name, _)| *name != "Content-Range");
            answer.headers.push(("Content-Range", range.into()));
            answer
        }
    };
    let encoded = |request: &Request, _| {
        let mut answer = Answer::file(&weights(), request);
        answer.headers.push(("Content-Encoding", "gzip".into()));
        answer
    };
    let cases: [(Server, &[u8], &[&str]); 8] = [
        (hub_with(move |_, _| Answer::new("200 OK", other())), b"", &["SHA-256", "announced"]),
        (hub_with(|_, _| Answer::new("200 OK", &weights()[1..])), b"", &["699999 bytes", "says 700000"]),
        (hub_with(move |_, _| Answer::new("200 OK", longer())), b"", &["700004 bytes", "says 700000"]),
        (
            hub_with(move |_, _| Answer::new("200 OK", longer()).of_unknown_length()),
            b"",
            &["more than the 700000 bytes it announced"],
        ),
        (hub_with(part("bytes 0-699999/700000")), b"\0\x01", &["from byte 0 on, byte 2 was asked for"]),
        (hub_with(part("bytes 2-700000/700001")), b"\0\x01", &["700001 bytes", "says 700000"]),
        (hub_with(part("pages 2-3")), b"\0\x01", &["\"pages 2-3\""]),
        (hub_with(encoded), b"", &["gzip"]),
    ];
    for (hub, left, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("model.safetensors.part");
        if !left.is_empty() {
            std::fs::write(&part, left).unwrap();
        }
        refused(&hub, folder.path(), &[], words);
        assert_eq!(std::fs::read(&part).unwrap_or_default(), left, "{words:?}");
    }
}

#[test]
fn access_is_asked_for_in_words() {
    let answers = |status: &'static str| Server::start(move |_, _| Answer::new(status, "<html>"));
    let folder = tempfile::tempdir().unwrap();
    for status in ["401 Unauthorized", "403 Forbidden"] {
        refused(&answers(status), folder.path(), &[], &["owner/model at main", status, "set HF_TOKEN"]);
    }
    refused(&answers("404 Not Found"), folder.path(), &[], &["404", "--revision"]);
    refused(&answers("418 I'm a teapot"), folder.path(), &[], &["418", "expected 200"]);
    refused(&answers("200 OK"), folder.path(), &[], &["not a list"]);
    let hub = hub_with(|_, _| Answer::new("401 Unauthorized", ""));
    let output = command(&hub.address, folder.path(), &[]).env("HF_TOKEN", "abc123").assert().failure();
    let message = said(output.get_output());
    assert!(message.contains("cannot fetch model.safetensors") && message.contains("token in HF_TOKEN"), "{message}");
    assert!(!message.contains("abc123"), "{message}");
    let output = command(&hub.address, folder.path(), &[]).env("HF_TOKEN", "a\nb").assert().failure();
    assert!(said(output.get_output()).contains("HF_TOKEN holds characters"));
}

#[test]
fn a_busy_hub_is_asked_again() {
    let hub = hub_with(|request, before| {
        let mut busy = Answer::new(if before == 0 { "503 Service Unavailable" } else { "429 Too Many Requests" }, "");
        busy.headers.push(("Retry-After", "0".into()));
        if before < 2 { busy } else { Answer::file(&weights(), request) }
    });
    let folder = tempfile::tempdir().unwrap();
    let message = fetched(&hub, folder.path());
    assert!(
        message.contains("503") && message.contains("429") && message.contains("trying again in 0.0 s"),
        "{message}"
    );
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let above = tempfile::tempdir().unwrap();
    let absolute = above.path().join("absolute.safetensors");
    let absolute = absolute.to_str().unwrap();
    for name in
        ["../evil.safetensors", "a/../../evil.safetensors", absolute, "..\\evil.safetensors", "a//b", "\u{1b}[2J"]
    {
        let mut list = list(&files());
        list["siblings"].as_array_mut().unwrap().push(json!({ "rfilename": name, "size": 12 }));
        // It would serve what it lists.
        let hub = Server::start(move |request, _| match is_list(request) {
            true => Answer::new("200 OK", list.to_string()),
            false => Answer::file(b"{\"loops\": 2}", request),
        });
        refused(&hub, &above.path().join("out"), &["--include", "*"], &[&format!("{name:?}"), "not a path inside"]);
        assert!(names(above.path()).is_empty(), "{name:?}");
        assert_eq!(hub.asked().len(), 1);
    }
    let hub = hub_listing(json!({ "siblings": [{ "rfilename": ".bashrc", "size": 12 }] }));
    refused(&hub, &above.path().join("out"), &["--include", ".bashrc"], &[".bashrc", "begin or end with a dot"]);
}

#[test]
fn the_token_is_never_sent_to_another_host() {
    let store = Server::start(|request, before| match before {
        0 => Answer::file(&weights(), request).cut(5000),
        _ => Answer::file(&weights(), request),
    });
    let address = store.address.clone();
    // First to another place of the same host, then to the store, which is another host by its port.
    let hub = hub_with(move |request, _| match request.path.strip_prefix("/moved/") {
        None => Answer::redirect(format!("/moved/{WEIGHTS}")),
        Some(_) => Answer::redirect(format!("{address}/store/{WEIGHTS}")),
    });
    let folder = tempfile::tempdir().unwrap();
    command(&hub.address, folder.path(), &[]).env("HF_TOKEN", "secret").assert().success();
    assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), weights());
    let bearer = Some("Bearer secret".to_owned());
    assert_eq!(hub.headers_of(WEIGHTS, "authorization"), vec![bearer; 4]);
    assert_eq!(store.headers_of(WEIGHTS, "authorization"), [None, None]);
    assert_eq!(store.headers_of(WEIGHTS, "range"), [None, Some("bytes=5000-".to_owned())]);
}

#[test]
fn redirects_are_bounded_and_go_to_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let circle = hub_with(|request, _| Answer::redirect(request.path.clone()));
    refused(&circle, folder.path(), &[], &["redirected more than 8 times"]);
    assert_eq!(circle.headers_of(WEIGHTS, "range").len(), 9);
    for to in ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "http://a b/", "http://user@127.0.0.1/x"] {
        refused(&hub_with(move |_, _| Answer::redirect(to.into())), folder.path(), &[], &["redirected to an address"]);
    }
}

#[test]
fn more_than_the_disk_holds_is_refused_before_it_begins() {
    let hub = hub_listing(json!({ "siblings": [{ "rfilename": WEIGHTS, "size": 1u64 << 60 }] }));
    let folder = tempfile::tempdir().unwrap();
    refused(&hub, folder.path(), &[], &["1152921504606846976 more bytes", "free"]);
    assert!(hub.asked().len() == 1 && names(folder.path()).is_empty());
}

#[test]
fn a_list_without_end_is_refused() {
    let hub = Server::start(|_, _| Answer::new("200 OK", vec![b' '; (32 << 20) + 1]));
    refused(&hub, tempfile::tempdir().unwrap().path(), &[], &["longer than 33554432 bytes"]);
}

#[test]
fn a_part_that_another_program_writes_is_left_alone() {
    let hub = hub_with(|request, _| Answer::file(&weights(), request));
    let folder = tempfile::tempdir().unwrap();
    let part = std::fs::File::create(folder.path().join("model.safetensors.part")).unwrap();
    part.lock().unwrap();
    refused(&hub, folder.path(), &[], &["model.safetensors.part", "another program"]);
    part.unlock().unwrap();
    fetched(&hub, folder.path());
}

#[test]
fn patterns_choose_what_is_fetched() {
    let quantised =
        || vec![("a-Q4.gguf", b"four".to_vec()), ("a b-Q8.gguf", b"eight".to_vec()), ("config.json", vec![])];
    let hub = Server::start(move |request, _| match is_list(request) {
        true => Answer::new("200 OK", list(&quantised()).to_string()),
        false if request.path.ends_with("a%20b-Q8.gguf") => Answer::file(b"eight", request),
        false => Answer::new("404 Not Found", ""),
    });
    let folder = tempfile::tempdir().unwrap();
    refused(&hub, folder.path(), &[], &["no safetensors file", "--include 'a-Q4.gguf'"]);
    command(&hub.address, folder.path(), &["--include", "*Q8.gguf"]).assert().success();
    assert_eq!(names(folder.path()), ["a b-Q8.gguf"]);
    refused(&hub, folder.path(), &["--include", "*.onnx"], &["no file matches", "a-Q4.gguf"]);
}

#[test]
fn what_is_asked_for_wrongly_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |command: &mut Command, word: &str| {
        let message = said(command.assert().failure().get_output());
        assert!(message.contains(word) && !message.contains("panicked"), "{message}");
    };
    for endpoint in ["ftp://host", "host", "https://", "http://host/?a=b", "http://user:password@host"] {
        refused(&mut command(endpoint, folder.path(), &[]), "HF_ENDPOINT is");
    }
    // Nobody listens there: who asked is told at once, and not after five tries.
    let nobody = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let message = said(command(&nobody, folder.path(), &[]).assert().failure().get_output());
    assert!(message.contains(&nobody) && message.contains("HF_ENDPOINT names another hub"), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    refused(&mut command("http://host", folder.path(), &["--revision", ""]), "--revision");
    refused(&mut command("http://host", folder.path(), &["--include", "a[b"]), "--include");
    for name in ["model", "a/b/c", "../model", "a/..", "/", "a b/c", "owner/model?x"] {
        let mut wrong = Command::cargo_bin("parloop").unwrap();
        refused(wrong.env("HF_ENDPOINT", "http://host").args(["pull", name]), "OWNER/NAME");
    }
}

#[test]
fn without_another_address_the_usual_hub_is_asked_and_its_silence_is_one_sentence() {
    use std::io::{BufRead, BufReader, Write};
    // All that leaves this machine goes through a proxy, which sees where to and lets nothing through.
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
        line
    });
    let folder = tempfile::tempdir().unwrap();
    let mut command = command("", folder.path(), &[]);
    command.env_remove("HF_ENDPOINT").env_remove("NO_PROXY").env_remove("no_proxy").env("HTTPS_PROXY", address);
    let message = said(command.assert().failure().get_output());
    assert!(asked.join().unwrap().starts_with("CONNECT huggingface.co:443 "));
    for part in ["cannot list owner/model", "https://huggingface.co", "HF_ENDPOINT"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}
