//! Outside judges: the Standard Webhooks libraries for Rust, JavaScript and Python verify what
//! arrives. The latter two are installed by `tests/judges/install.sh`, which `make test` runs.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tidegate::{
    clock::{Clock as _, SystemClock},
    destinations::DestinationClient as _,
};

use crate::{
    contracts::judges::folder,
    harness::{
        outlet::{Lab, SECRET, destination, message_with, webhook_of},
        sink::{Received, Sink},
    },
};

const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What a judge is shown: a secret and a request, and whether the two belong together.
struct Case {
    secret: &'static str,
    request: Received,
    is_genuine: bool,
}

/// Webhooks as they arrive, and each again with something wrong.
async fn cases() -> Vec<Case> {
    let (lab, sink) = (Lab::new(), Sink::new().await);
    let mut destination = destination(&sink.url("/"));
    let keys = [SECRET, OTHER].map(|it| lab.signing_key(&destination, it));
    webhook_of(&mut destination).signing_keys = keys.to_vec();
    let outlet = lab.build(&destination);
    let large = format!("\"{}\"", "x".repeat(100_000));
    for payload in ["{}", r#"{ "b":1.50, "a":"ü\u2028\/😀", "n":12345678901234567890 }"#, &large]
    {
        outlet.send(&[message_with(1, "{}", payload)], SystemClock.now()).await;
    }
    let mut cases = Vec::new();
    for request in sink.received() {
        for secret in [SECRET, OTHER] {
            cases.push(Case { secret, request: request.clone(), is_genuine: true });
        }
        let mut wrong = |change: &dyn Fn(&mut Received)| {
            let mut request = request.clone();
            change(&mut request);
            cases.push(Case { secret: SECRET, request, is_genuine: false });
        };
        wrong(&|it| it.body = [&it.body[..], b" "].concat().into());
        wrong(&|it| drop(it.headers.insert("webhook-id", "evt_other".parse().unwrap())));
        wrong(&|it| drop(it.headers.insert("webhook-timestamp", "1614265330".parse().unwrap())));
        wrong(&|it| drop(it.headers.remove("webhook-signature")));
    }
    assert_eq!(cases.len(), 18);
    cases
}

#[tokio::test]
async fn the_rust_library_verifies_what_arrives() {
    for case in cases().await {
        let judge = standardwebhooks::Webhook::new(case.secret).unwrap();
        let verdict = judge.verify(&case.request.body, &case.request.headers);
        assert_eq!(verdict.is_ok(), case.is_genuine, "{verdict:?}");
    }
}

#[tokio::test]
async fn the_javascript_library_verifies_what_arrives() {
    let judges = folder();
    ask(Command::new("node").arg(judges.join("verify.mjs")), &cases().await);
}

#[tokio::test]
async fn the_python_library_verifies_what_arrives() {
    let judges = folder();
    let python = judges.join("python/bin/python");
    ask(Command::new(python).arg(judges.join("verify.py")), &cases().await);
}

/// Gives a judge all cases, one per line, and expects `ok` or `refused` for each.
fn ask(judge: &mut Command, cases: &[Case]) {
    let mut process = judge.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = String::new();
    for Case { secret, request, .. } in cases {
        let headers: BTreeMap<_, _> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let body = STANDARD.encode(&request.body);
        lines += &json!({ "secret": secret, "headers": headers, "body": body }).to_string();
        lines += "\n";
    }
    process.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let verdicts = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<_> = verdicts.lines().collect();
    assert_eq!(verdicts.len(), cases.len(), "{verdicts:?}");
    for (verdict, case) in verdicts.iter().zip(cases) {
        assert_eq!(*verdict == "ok", case.is_genuine, "{verdict}");
    }
}
