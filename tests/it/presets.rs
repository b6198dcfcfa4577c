//! Every way in which a source of kind `webhook` verifies, over HTTP: what is signed as the service's
//! documentation says is taken, with its type, once; and whatever is altered is refused, for its reason.
//!
//! `tests/clients/presets.mjs` signs, on Node's own crypto. The services' own libraries sign in `inbound.rs`.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use http::Method;
use serde_json::{Value, json};

use crate::harness::{caller::Caller, gateway::Gateway};

const SECRET: &str = "s3cret-of-the-sender";
const OTHER: &str = "another-one-that-is-as-long";
const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_STANDARD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ED25519: &str = "MC4CAQAwBQYDK2VwBCIEII7TiGP1s0JIwyKKMAkZUNdiuqJNiV0cUNVN1wB9T028";
const ED25519_PUBLIC: &str = "whpk_3EA245yRnqAxK4u3KeCCxld4EM00nrMK07L+qq1fxBQ=";
const P256: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrPhk3Q1EbpHvU9opgkTMhTaYsBkchkuoDW4el2ULeZKhRANCAATj6wDoIu/EXKiBP+LJ5XSOTWW0bLzY9K013y1tuj7ffg+A+sKV9mgtIePG8KPhdmRV9/O23jAPBt33JyaxQoAR";
const P256_PUBLIC: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4+sA6CLvxFyogT/iyeV0jk1ltGy82PStNd8tbbo+334PgPrClfZoLSHjxvCj4XZkVffztt4wDwbd9ycmsUKAEQ==";

/// One kind of source, and a request that it takes.
struct Row {
    /// As the script knows it, and the source's name.
    service: &'static str,
    /// The source's fields beside name and kind.
    settings: String,
    /// What the script signs with.
    secret: &'static str,
    /// A secret of the right form that nobody listed; none where no other key can be made here.
    other: Option<&'static str>,
    body: &'static str,
    /// The types of its events.
    types: &'static [&'static str],
    /// It covers the body, and so a byte of it that changes is noticed.
    covers_body: bool,
    /// It has a time, and so an old one is noticed.
    has_time: bool,
}

fn row(
    service: &'static str,
    verify: &str,
    body: &'static str,
    types: &'static [&'static str],
) -> Row {
    Row {
        service,
        settings: format!("verify: {verify}, secret: {SECRET}"),
        secret: SECRET,
        other: Some(OTHER),
        body,
        types,
        covers_body: true,
        has_time: false,
    }
}

fn standard(service: &'static str, verify: &str) -> Row {
    Row {
        settings: format!("verify: {verify}, secret: {STANDARD}"),
        secret: STANDARD,
        other: Some(OTHER_STANDARD),
        has_time: true,
        ..row(service, verify, r#"{"type":"user.created","n":1.50}"#, &["user.created"])
    }
}

fn rows() -> Vec<Row> {
    let timed = |row: Row| Row { has_time: true, ..row };
    let plain = |service, verify: &str, extra: &str| Row {
        settings: format!(
            "verify: {verify}, secret: \"{SECRET}\", type: payload.kind, key: payload.id{extra}"
        ),
        covers_body: false,
        ..row(service, verify, r#"{"kind":"contact","id":7}"#, &["contact"])
    };
    let generic = "{ hmac: { algorithm: sha512, header: X-Acme-Signature, form: { prefix: \"v7=\" }, encoding: base64, \
        signed: \"{time}|{id}|{body}\", time: X-Acme-Time, id: X-Acme-Id } }";
    vec![
        timed(row(
            "stripe",
            "stripe",
            r#"{"id":"evt_9","type":"invoice.paid"}"#,
            &["invoice.paid"],
        )),
        row("shopify", "shopify", r#"{"id":820982911946154500}"#, &["orders.create"]),
        standard("standard-webhooks", "standard-webhooks"),
        standard("svix", "svix"),
        Row {
            settings: format!("verify: standard-webhooks, secret: {ED25519_PUBLIC}"),
            secret: ED25519,
            other: None,
            ..standard("standard-ed25519", "")
        },
        Row {
            covers_body: false,
            ..row("gitlab", "gitlab", r#"{"object_kind":"push"}"#, &["push"])
        },
        Row {
            settings: format!("verify: sendgrid, secret: \"{P256_PUBLIC}\""),
            secret: P256,
            other: None,
            ..row(
                "sendgrid",
                "",
                r#"[{"event":"open","sg_event_id":"a"},{"event":"click","sg_event_id":"b"}]"#,
                &["open", "click"],
            )
        },
        timed(row(
            "paddle",
            "paddle",
            r#"{"event_id":"evt_1","event_type":"transaction.completed"}"#,
            &["transaction.completed"],
        )),
        row("segment", "segment", r#"{"type":"track","messageId":"m1"}"#, &["track"]),
        row("customerio", "customerio", r#"{"type":"identify","messageId":"m1"}"#, &["identify"]),
        Row { covers_body: true, has_time: true, ..plain("hmac", generic, "") },
        Row {
            secret: "ada:s3cret-of-ada",
            settings:
                "verify: basic, secret: \"ada:s3cret-of-ada\", type: payload.kind, key: payload.id"
                    .into(),
            other: Some("ada:guessed-by-eve"),
            ..plain("basic", "basic", "")
        },
        plain("bearer", "bearer", ""),
        plain("api-key", "{ api-key: { header: X-Acme-Key } }", ""),
    ]
}

/// The headers of each `(service, secret, body, time)`.
fn signed(requests: &[(&str, &str, &str, i64)]) -> Vec<BTreeMap<String, String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/presets.mjs");
    let mut node = Command::new("node");
    let node = node.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut node = node.expect("`make setup` installs node");
    let asked: Vec<_> = requests
        .iter()
        .map(|(service, secret, body, time)| {
            json!({ "service": service, "secret": secret, "body": body, "time": time.to_string() })
        })
        .collect();
    node.stdin.take().unwrap().write_all(json!(asked).to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

struct Lab {
    gateway: Gateway,
    sender: Caller,
    reader: Caller,
}

impl Lab {
    async fn new(sources: &str) -> Self {
        let resources = format!("version: 1\nproject: acme\nsources:\n{sources}");
        let gateway = Gateway::start(&resources, "http://127.0.0.1:9/").await;
        let sender = Caller::new(&gateway, None);
        let reader = Caller::with_scopes(&gateway, "acme", &["read", "admin"]).await;
        Self { gateway, sender, reader }
    }

    async fn post(&self, source: &str, headers: &BTreeMap<String, String>, body: &str) -> u16 {
        let headers: Vec<_> =
            headers.iter().map(|(name, it)| (name.as_str(), it.as_str())).collect();
        let headers = [&headers[..], &[("content-type", "application/json")]].concat();
        let path = format!("/in/{source}");
        self.sender.send(Method::POST, &path, &headers, body.to_owned()).await.status.as_u16()
    }

    async fn traffic(&self, source: &str) -> Value {
        self.reader.get(&format!("/api/v1/sources/{source}/traffic")).await.expect(200).json()
    }
}

#[tokio::test]
async fn every_preset_takes_what_is_signed_as_its_service_says_and_refuses_what_was_altered() {
    let rows = rows();
    let sources: String = rows
        .iter()
        .map(|it| format!("  - {{ name: {}, kind: webhook, {} }}\n", it.service, it.settings))
        .collect();
    let lab = Lab::new(&sources).await;
    let now = lab.gateway.now().as_second();
    let good: Vec<_> = rows.iter().map(|it| (it.service, it.secret, it.body, now)).collect();
    let others: Vec<_> =
        rows.iter().map(|it| (it.service, it.other.unwrap_or(it.secret), it.body, now)).collect();
    let old: Vec<_> = rows.iter().map(|it| (it.service, it.secret, it.body, now - 301)).collect();
    let headers = signed(&[good, others, old].concat());
    let (good, rest) = headers.split_at(rows.len());
    let (others, old) = rest.split_at(rows.len());

    let mut expected_types = Vec::new();
    for (place, it) in rows.iter().enumerate() {
        let service = it.service;
        let mut reasons = BTreeMap::new();
        let mut refused =
            async |headers: &BTreeMap<String, String>, body: &str, why: &'static str| {
                assert_eq!(lab.post(service, headers, body).await, 401, "{service}: {why}");
                *reasons.entry(why).or_insert(0) += 1;
            };
        refused(&BTreeMap::new(), it.body, "missing_header").await;
        if it.covers_body {
            let altered = it.body.replacen(|it: char| it.is_ascii_alphabetic(), "X", 1);
            refused(&good[place], &altered, "bad_signature").await;
            refused(&good[place], &format!("{} ", it.body), "bad_signature").await;
        }
        if it.other.is_some() {
            refused(&others[place], it.body, "bad_signature").await;
        }
        if it.has_time {
            refused(&old[place], it.body, "stale_timestamp").await;
        }
        // As it came it is taken, and once.
        for _ in 0..2 {
            assert_eq!(lab.post(service, &good[place], it.body).await, 200, "{service}");
        }
        let traffic = lab.traffic(service).await;
        let events = it.types.len();
        assert_eq!(traffic["accepted"], events, "{service}: {traffic}");
        assert_eq!(traffic["duplicates"], events, "{service}: {traffic}");
        assert_eq!(traffic["rejected"], json!(reasons), "{service}");
        expected_types.extend(it.types.iter().copied());
    }
    let list = lab.reader.get("/api/v1/events?limit=200").await.expect(200).json();
    let rows = list["data"].as_array().unwrap().iter().rev();
    let types: Vec<_> = rows.map(|it| it["type"].as_str().unwrap()).collect();
    assert_eq!(types, expected_types);
}

#[tokio::test]
async fn a_key_that_the_body_does_not_bind_proves_nothing_about_another_source() {
    // The same token at another source, and a token of which only the beginning is right.
    let lab = Lab::new(
        "  - { name: one, kind: webhook, verify: bearer, secret: first-token-of-ours }\n  \
         - { name: two, kind: webhook, verify: bearer, secret: second-token-of-ours }\n",
    )
    .await;
    let bearer =
        |token: &str| BTreeMap::from([("authorization".into(), format!("Bearer {token}"))]);
    assert_eq!(lab.post("one", &bearer("first-token-of-ours"), "{}").await, 200);
    assert_eq!(lab.post("two", &bearer("first-token-of-ours"), "{}").await, 401);
    for wrong in ["first-token-of-our", "first-token-of-ours2", "", "FIRST-TOKEN-OF-OURS"] {
        assert_eq!(lab.post("one", &bearer(wrong), "{}").await, 401, "{wrong}");
    }
}

#[tokio::test]
async fn json_of_twilio_is_believed_by_the_hash_in_its_url_also_behind_a_proxy() {
    let lab = Lab::new(&format!(
        "  - {{ name: behind, kind: webhook, verify: twilio, secret: {SECRET}, type: payload.kind, \
         url: \"https://gw.acme.com/twilio?a=1\" }}\n",
    ))
    .await;
    let body = r#"{"kind":"conference-end"}"#;
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(body));
    let query = format!("a=1&bodySHA256={hash}");
    let url = format!("https://gw.acme.com/twilio?{query}");
    let headers = &signed(&[("twilio-json", SECRET, &url, 0)])[0];
    let there = format!("behind?{query}");
    assert_eq!(lab.post(&there, headers, body).await, 200);
    // The body is another, the hash is another, and there is none.
    assert_eq!(lab.post(&there, headers, r#"{"kind":"conference-enD"}"#).await, 401);
    let other = format!("behind?a=1&bodySHA256={}", hash.replace(&hash[..1], "0"));
    assert_eq!(lab.post(&other, headers, body).await, 401);
    assert_eq!(lab.post("behind", headers, body).await, 401);
    assert_eq!(lab.traffic("behind").await["rejected"], json!({ "bad_signature": 3 }));
}

#[tokio::test]
async fn refusals_keep_no_address_that_their_source_must_never_store_and_can_be_forgotten() {
    let lab = Lab::new(
        "  - { name: open, kind: webhook, verify: gitlab, secret: abcdefgh-abcdefgh }\n  \
         - { name: discreet, kind: webhook, verify: gitlab, secret: abcdefgh-abcdefgh, \
         never_store: { fields: [metadata.ip] } }\n  \
         - { name: web, kind: segment, write_key: wk_demo, never_store: { detect: [ip] } }\n  \
         - { name: app, kind: api, never_store: { fields: [metadata.ip] } }\n",
    )
    .await;
    for source in ["open", "discreet"] {
        assert_eq!(lab.post(source, &BTreeMap::new(), "{}").await, 401);
    }
    let nothing = json!({ "writeKey": "wk_demo" });
    lab.sender.post("/v1/track", &nothing).await.expect(400);
    lab.reader.post("/api/v1/events", &json!({ "type": "a" })).await.expect(400);

    let address = async |source: &str| {
        let traffic = lab.traffic(source).await;
        assert_eq!(traffic["rejections"].as_array().unwrap().len(), 1, "{source}: {traffic}");
        traffic["rejections"][0]["ip"].clone()
    };
    assert_eq!(address("open").await, "127.0.0.1");
    assert_eq!(address("discreet").await, Value::Null);
    assert_eq!(address("app").await, Value::Null);
    assert_eq!(address("web").await, Value::Null);

    lab.reader.delete("/api/v1/sources/open/traffic").await.expect(204);
    let traffic = lab.traffic("open").await;
    assert_eq!((&traffic["rejections"], &traffic["rejected"]), (&json!([]), &json!({})));
    assert_eq!(address("discreet").await, Value::Null);
    // What the file says at the next start is the same.
    let gateway = lab.gateway.restart().await;
    let text = std::fs::read_to_string(gateway.folder().join("traffic.json")).unwrap();
    assert!(!text.contains("127.0.0.1"), "{text}");
    assert!(text.contains("missing_header"), "{text}");
}
