//! What the gateway really sends, in every profile, in front of the SDK's `verify` and of its receivers
//! for frameworks.

use std::{collections::BTreeMap, io::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tidegate::crypto::{SystemRandom, signature::standard};

use super::{World, command, consumer};
use crate::{
    cli::program::{Running, SECRET},
    harness::sink::{Received, Sink},
};

/// Of every scheme that knows no form for its secret.
const PLAIN: &str = "shared, and long enough";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A destination, and how its receiver verifies.
struct Kind {
    name: &'static str,
    /// Its fields beside name, URL and secret.
    settings: &'static str,
    /// What it signs with.
    secret: String,
    /// What its receiver has.
    key: String,
    options: Value,
    scheme: &'static str,
    is_stamped: bool,
}

fn kind(name: &'static str, settings: &'static str, scheme: &'static str, options: Value) -> Kind {
    let secret = if scheme == "standard" { SECRET } else { PLAIN }.to_owned();
    let is_stamped = ["standard", "stamped"].contains(&scheme);
    Kind { name, settings, key: secret.clone(), secret, options, scheme, is_stamped }
}

fn kinds() -> Vec<Kind> {
    let private = standard::new_private_key(&SystemRandom);
    let public = standard::Key::signing(&private).unwrap().public_text().unwrap();
    let ed25519 = Kind {
        secret: private.expose().to_owned(),
        key: public,
        ..kind("ed25519", "", "standard", json!({}))
    };
    let first = json!({ "over": "first-element" });
    vec![
        kind("standard", ", profile: standard", "standard", json!({})),
        ed25519,
        kind("ingestlayer", ", profile: ingestlayer", "stamped", json!({})),
        kind("admin", ", profile: admin, https_only: false, verify: false", "prefixed", json!({})),
        kind("segment", ", profile: segment", "sha1", json!({})),
        kind("actions", ", profile: segment-actions", "sha1", json!({ "scheme": "sha1" })),
        kind("customerio", ", profile: customerio", "sha1", json!({})),
        kind("batches", ", profile: customerio, batch: true", "sha1", first),
        kind(
            "whole-batches",
            ", profile: customerio, batch: true, signature: { over: body }",
            "sha1",
            json!({}),
        ),
        kind(
            "elsewhere",
            ", profile: ingestlayer, signature: { header: x-acme-signature }",
            "stamped",
            json!({ "header": "x-acme-signature" }),
        ),
        kind(
            "other-scheme",
            ", profile: customerio, signature: { scheme: stamped }",
            "stamped",
            json!({}),
        ),
    ]
}

/// A gateway whose events all go to these, as `(name, settings, secret, URL)`.
async fn gateway(destinations: &[(&str, &str, &str, String)]) -> World {
    let mut yaml = String::from("destinations:\n");
    let mut routes = Vec::new();
    for (name, settings, secret, url) in destinations {
        let secret = json!(secret);
        yaml += &format!(
            "  - {{ name: {name}, kind: webhook, url: \"{url}\", secret: {secret}{settings} }}\n"
        );
        routes.push(format!("{{ to: {name} }}"));
    }
    let routes = routes.join(", ");
    World::start(&format!("{yaml}pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{routes}] }}"))
        .await
}

/// What `verify` is asked, and what it should find.
struct Case {
    question: Value,
    expected: String,
    what: String,
}

fn cases(kind: &Kind, request: &Received) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what: &str, request: &Received, key: &str, later: i64, is_believed: bool| {
        let headers: BTreeMap<_, _> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let body = STANDARD.encode(&request.body);
        cases.push(Case {
            question: json!({
                "secret": key, "headers": headers, "body": body, "options": kind.options, "later": later,
            }),
            expected: match is_believed {
                true => format!("ok {}", kind.scheme),
                false => "refused ".to_owned(),
            },
            what: format!("{}: {what}", kind.name),
        });
    };
    add("as it came", request, &kind.key, 0, true);
    let stranger = if kind.scheme == "standard" { OTHER } else { "another" };
    add("another secret", request, stranger, 0, false);
    add("after 299 s", request, &kind.key, 299 - 30, true);
    add("after 301 s", request, &kind.key, 301 + 30, !kind.is_stamped);
    add("before its time", request, &kind.key, -331, !kind.is_stamped);

    let mut altered = |what: &str, change: &dyn Fn(&mut Received)| {
        let mut request = request.clone();
        change(&mut request);
        add(what, &request, &kind.key, 0, false);
    };
    altered("a byte of the body is another", &|it| {
        let mut body = it.body.to_vec();
        // Of the first element, where there are several: nothing protects the others.
        let place = body.iter().position(|it| *it == b'5').unwrap();
        body[place] = b'6';
        it.body = body.into();
    });
    altered("the body is cut", &|it| it.body = it.body.slice(..it.body.len() - 1));
    let signature = request
        .headers
        .keys()
        .find(|it| it.as_str().ends_with("signature"))
        .unwrap_or_else(|| panic!("{}: {:?}", kind.name, request.headers));
    altered("no signature", &|it| drop(it.headers.remove(signature)));
    altered("the signature is another", &|it| {
        let text = it.header(signature.as_str());
        let place = text.len() - 9;
        let letter = if &text[place..=place] == "a" { "b" } else { "a" };
        let text = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
        it.headers.insert(signature, text.parse().unwrap());
    });
    cases
}

#[tokio::test]
async fn every_delivery_of_every_profile_is_believed_and_nothing_that_was_altered() {
    let sink = Sink::new().await;
    let kinds = kinds();
    let destinations: Vec<_> = kinds
        .iter()
        .map(|it| (it.name, it.settings, it.secret.as_str(), sink.url(&format!("/{}", it.name))))
        .collect();
    let world = gateway(&destinations).await;
    for n in 1..3 {
        let payload =
            json!({ "n": 5, "name": "Adé 😀 \u{2028}", "price": 1.50, "10": n, "2": [null] });
        world.publish("user.signed_up", payload).await;
        sink.received_at_least(n * kinds.len()).await;
    }

    let mut all = Vec::new();
    for request in sink.received() {
        let kind = kinds.iter().find(|it| request.path == format!("/{}", it.name)).unwrap();
        all.extend(cases(kind, &request));
    }
    let lines: String = all.iter().map(|it| it.question.to_string() + "\n").collect();
    let mut command = command("node", &["run/verify.mjs"], "");
    let mut process = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    // Besides reading: either pipe alone would be full at some time.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let verdicts = String::from_utf8(output.stdout).unwrap();
    assert_eq!(verdicts.lines().count(), all.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (verdict, case) in verdicts.lines().zip(&all) {
        assert!(verdict.starts_with(&case.expected), "{}: {verdict}", case.what);
    }
}

#[tokio::test]
async fn receivers_in_each_framework_take_deliveries_and_nothing_else() {
    let mut program = command("node", &["run/frameworks.mjs"], "");
    let receivers = Running::start(program.current_dir(consumer()).env("SECRET", SECRET));
    let line = receivers.line("listening");
    let ports: BTreeMap<String, u16> =
        serde_json::from_str(line.strip_prefix("listening ").unwrap()).unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["express", "fastify", "hono", "next"]);
    let mut urls: Vec<_> = ports
        .iter()
        .map(|(name, port)| (name.clone(), format!("http://127.0.0.1:{port}/hooks")))
        .collect();
    urls.push(("express-raw".to_owned(), format!("http://127.0.0.1:{}/raw", ports["express"])));
    let destinations: Vec<_> =
        urls.iter().map(|(name, url)| (name.as_str(), "", SECRET, url.clone())).collect();
    let world = gateway(&destinations).await;

    world.publish("user.signed_up", json!({ "name": "Adé 😀" })).await;
    let mut ids = std::collections::BTreeSet::new();
    let mut frameworks: Vec<String> = Vec::new();
    for _ in &urls {
        let line = receivers.line("delivery");
        let it: Value = serde_json::from_str(line.strip_prefix("delivery ").unwrap()).unwrap();
        assert_eq!((&it["scheme"], &it["type"]), (&json!("standard"), &json!("user.signed_up")));
        assert_eq!(it["same"], true, "the handler's body is another: {it}");
        frameworks.push(it["framework"].as_str().unwrap().to_owned());
        ids.insert(it["id"].as_str().unwrap().to_owned());
    }
    frameworks.sort();
    assert_eq!(frameworks, ["express", "express-raw", "fastify", "hono", "next"]);
    assert_eq!(ids.len(), 1, "one event has one id: {ids:?}");

    let client = Client::builder(TokioExecutor::new()).build_http();
    for (name, url) in &urls {
        let request = Request::post(url)
            .header("content-type", "application/json")
            .header("webhook-id", "evt_1")
            .header("webhook-timestamp", "1700000000")
            .header("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let body = Full::new(Bytes::from_static(b"{\"type\":\"forged\"}"));
        let answer = client.request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 401, "{name}");
    }
    assert_eq!(receivers.end_of_input().0, Some(0));
}
