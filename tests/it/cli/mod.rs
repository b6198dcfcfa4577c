//! The command line as people run it: the real binary, its output, and its exit codes.

pub mod program;
pub mod gateway;
mod event_types;
mod unsaved;
mod directory;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::Stdio,
};

use self::program::{Running, SECRET, run, stderr, stdout, tidegate};

#[test]
fn of_a_batch_the_first_element_can_be_what_is_signed() {
    let sign = |flags: &[&str], body: &[u8]| {
        let command = ["sign", "--secret", "shared", "--scheme", "segment"];
        let output = run(&mut tidegate(&[&command[..], flags].concat()), body);
        assert_eq!(output.status.code(), Some(0));
        output.stdout
    };
    let element = sign(&[], br#"{"a":1}"#);
    assert_eq!(sign(&["--first-element"], br#"[{"a":1},{"b":2}]"#), element);
    assert_eq!(sign(&["--first-element"], br#"{"a":1}"#), element);
    assert_ne!(sign(&[], br#"[{"a":1},{"b":2}]"#), element);
}

#[test]
fn signatures_verify_only_unchanged_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let headers = folder.path().join("headers.txt");
    let headers_path = headers.to_str().unwrap();
    for scheme in ["standard", "stripe", "github", "segment", "ingestlayer", "admin", "customerio"]
    {
        let signed =
            run(&mut tidegate(&["sign", "--secret", SECRET, "--scheme", scheme]), b"{\"a\":1}");
        assert_eq!(signed.status.code(), Some(0), "{}", stderr(&signed));
        std::fs::write(&headers, &signed.stdout).unwrap();
        let verify = ["verify", "--secret", SECRET, "--scheme", scheme, "--headers", headers_path];
        assert_eq!(run(&mut tidegate(&verify), b"{\"a\":1}").status.code(), Some(0), "{scheme}");
        let changed = run(&mut tidegate(&verify), b"{\"a\": 1}");
        assert_eq!(changed.status.code(), Some(1), "{scheme}");
        assert!(stderr(&changed).contains("no signature matches\nnext: check the secret"));
    }
}

#[test]
fn each_way_of_failing_has_its_exit_code_and_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme.yaml");
    std::fs::write(&file, "version: 1\nsources:\n  - name: [app\n").unwrap();
    let path = file.to_str().unwrap();
    for (words, code, expected) in [
        (&["emit"][..], 2, "Usage: tidegate emit"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
        (&["status"], 2, "next: set TIDEGATE_API_KEY"),
        (
            &["status", "--api-key", "k", "--url", &nobody],
            1,
            "next: start the gateway with `tidegate serve`",
        ),
        (&["plan", path, "--api-key", "k"], 2, "acme.yaml:3:11: "),
        (&["apply", "/nowhere.yaml", "--api-key", "k"], 1, "`/nowhere.yaml` cannot be read"),
        (&["emit", "x", "--data", "{plan}", "--api-key", "k"], 2, "--data is not JSON"),
        (&["events", "show", "evt_1", "--api-key", "k"], 2, "is no id"),
        (&["replay", "--api-key", "k"], 2, "say what to replay"),
        (&["sign", "--secret", "whsec_!"], 2, "the secret cannot be used"),
    ] {
        let output = tidegate(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{words:?}");
        assert!(!stderr(&output).contains('\x1b'), "{words:?}: colours where no terminal is");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    for words in
        [&["--help"][..], &["--version"], &["events", "--help"], &["replay", "cancel", "--help"]]
    {
        let output = tidegate(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut command = tidegate(&["sign", "--secret", SECRET]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It writes only when its input has ended, and then nobody reads.
    drop(child.stdout.take());
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn a_sink_shows_what_it_gets_counts_and_ends() {
    let words = ["sink", "--listen", "127.0.0.1:0", "--count", "2", "--secret", SECRET];
    let sink = Running::start(&mut tidegate(&words));
    let first = sink.note("sink on ");
    let address = first.split_whitespace().find_map(|it| it.strip_prefix("http://")).unwrap();
    let address = address.trim_end_matches('/');

    let body = br#"{"type":"user.signed_up"}"#;
    let signed = run(&mut tidegate(&["sign", "--secret", SECRET, "--id", "evt_1"]), body);
    let headers = stdout(&signed).replace('\n', "\r\n");
    for expected in [
        "user.signed_up  evt_1  attempt 1  ✔ signature verified  200",
        "user.signed_up  evt_1  attempt 2  ✔ signature verified  duplicate  200",
    ] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).unwrap();
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        assert!(sink.line("user.signed_up").ends_with(expected));
    }

    let counted = sink.note("webhooks: ");
    assert_eq!(counted, "2 webhooks: 2 accepted, 1 duplicate · 2 signatures verified, 0 refused");
    assert_eq!(sink.end_of_input().0, Some(0));
}
