//! Webhooks of other services, signed by their own libraries: believed as they are, and refused when
//! anything about them is another.

use std::{path::PathBuf, process::Command};

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

const SECRET: &str = "s3cret-of-the-sender";
const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn resources() -> String {
    format!(
        r#"version: 1
project: acme
sources:
  - {{ name: stripe, kind: webhook, verify: stripe, secret: {SECRET} }}
  - {{ name: github, kind: webhook, verify: github, secrets: [{SECRET}, older-{SECRET}] }}
  - {{ name: twilio, kind: webhook, verify: twilio, secret: {SECRET}, url: "https://gw.acme.com/in/twilio" }}
  - {{ name: svix, kind: webhook, verify: svix, secret: {STANDARD} }}
  - {{ name: slack, kind: webhook, verify: slack, secret: {SECRET} }}
  - {{ name: open, kind: webhook, verify: none, type: '"form." ~ payload.kind', key: payload.id,
      answer: {{ status: 202, content_type: text/plain, body: thanks }} }}
  - {{ name: app, kind: api, key: payload.user_id }}
"#
    )
}

struct Lab {
    gateway: Gateway,
    sender: Caller,
    reader: Caller,
}

/// A request as a library signed it.
#[derive(Clone, Debug)]
struct Signed {
    headers: Vec<(String, String)>,
    body: String,
}

impl Lab {
    async fn new() -> Self {
        let gateway = Gateway::start(&resources(), "http://127.0.0.1:9/").await;
        let sender = Caller::new(&gateway, None);
        let reader = Caller::with_scopes(&gateway, "acme", &["read", "ingest"]).await;
        Self { gateway, sender, reader }
    }

    async fn post(&self, source: &str, signed: &Signed) -> Answer {
        let headers: Vec<_> =
            signed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let path = format!("/in/{source}");
        self.sender.send(Method::POST, &path, &headers, signed.body.clone()).await
    }

    /// Signed by the service's own library, at the gateway's time plus so many seconds.
    fn signed(&self, library: &str, secret: &str, body: &str, later: i64) -> Signed {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let folder = std::path::absolute(target.join("clients")).unwrap();
        let time = self.gateway.now().as_second() + later;
        let output = Command::new("node")
            .arg(folder.join("sign.mjs"))
            .args([library, secret, body, &time.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`make setup` installs the libraries: {said}");
        let headers: serde_json::Map<String, Value> =
            serde_json::from_slice(&output.stdout).unwrap();
        let headers = headers.into_iter();
        let headers = headers.map(|(name, value)| (name, value.as_str().unwrap().to_owned()));
        Signed { headers: headers.collect(), body: body.to_owned() }
    }

    async fn traffic(&self, source: &str) -> Value {
        self.reader.get(&format!("/api/v1/sources/{source}/traffic")).await.expect(200).json()
    }

    /// Oldest first.
    async fn kept(&self) -> Vec<Value> {
        let list = self.reader.get("/api/v1/events?limit=200").await.expect(200).json();
        let mut kept = Vec::new();
        for it in list["data"].as_array().unwrap().iter().rev() {
            let path = format!("/api/v1/events/{}", it["id"].as_str().unwrap());
            kept.push(self.reader.get(&path).await.expect(200).json());
        }
        kept
    }
}

#[tokio::test]
async fn the_services_own_libraries_are_believed_and_forgeries_are_not() {
    let lab = Lab::new().await;
    for (source, secret, body, event_type, has_time) in [
        (
            "stripe",
            SECRET,
            r#"{"id":"evt_1","type":"invoice.paid","n":1.50}"#,
            "invoice.paid",
            true,
        ),
        ("github", SECRET, r#"{"action":"opened"}"#, "issues", false),
        ("twilio", SECRET, "SmsStatus=delivered&From=%2B1", "delivered", false),
        ("svix", STANDARD, r#"{"type":"user.created"}"#, "user.created", true),
    ] {
        let good = lab.signed(source, secret, body, 0);

        // One byte of the body is another.
        let mut forged = good.clone();
        forged.body = body.replacen(['e', 'a'], "o", 1);
        lab.post(source, &forged).await.expect(401);
        // Somebody else's key signed it.
        let other = if secret == STANDARD { "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" } else { "x" };
        lab.post(source, &lab.signed(source, other, body, 0)).await.expect(401);
        // Nobody signed it.
        lab.post(source, &Signed { headers: Vec::new(), body: body.to_owned() }).await.expect(401);
        let mut reasons = vec![("bad_signature", 2), ("missing_header", 1)];
        if has_time {
            lab.post(source, &lab.signed(source, secret, body, -301)).await.expect(401);
            reasons.push(("stale_timestamp", 1));
        }
        let before = lab.kept().await.len();

        // As it is, it is taken; and once, however often it is sent.
        let answer = lab.post(source, &good).await.expect(200);
        lab.post(source, &good).await.expect(200);
        let kept = lab.kept().await;
        assert_eq!((kept.len(), kept[before]["type"].as_str()), (before + 1, Some(event_type)));
        assert!(!answer.text.contains("signature"));

        let traffic = lab.traffic(source).await;
        assert_eq!((&traffic["accepted"], &traffic["duplicates"]), (&json!(1), &json!(1)));
        for (reason, times) in reasons {
            assert_eq!(traffic["rejected"][reason], times, "{source}: {traffic}");
        }
        assert!(traffic["rejections"][0]["reason"].as_str().unwrap().len() > 10);
    }
    // The body is kept as it came, and so are headers that prove nothing.
    let stripe = &lab.kept().await[0];
    assert_eq!(stripe["payload"]["n"], 1.5);
    assert!(stripe["metadata"]["headers"]["stripe-signature"].is_null());
}

#[tokio::test]
async fn an_older_secret_is_believed_for_as_long_as_it_is_listed() {
    let lab = Lab::new().await;
    let older = lab.signed("github", &format!("older-{SECRET}"), r#"{"a":1}"#, 0);
    lab.post("github", &older).await.expect(200);
    let resources = resources()
        .replace(&format!("secrets: [{SECRET}, older-{SECRET}]"), &format!("secret: {SECRET}"));
    lab.gateway.apply(&resources, "http://127.0.0.1:9/").await;
    lab.post("github", &older).await.expect(401);
}

#[tokio::test]
async fn slack_hears_its_own_words_when_it_asks_whether_we_are_there() {
    let lab = Lab::new().await;
    let body = r#"{"type":"url_verification","challenge":"3eZbrw1a"}"#;
    let answer = lab.post("slack", &lab.signed("slack", SECRET, body, 0)).await.expect(200);
    assert_eq!(answer.text, "3eZbrw1a");
    // A stranger who asks hears nothing.
    let forged = Signed { headers: Vec::new(), body: body.to_owned() };
    lab.post("slack", &forged).await.expect(401);
    assert_eq!(lab.kept().await.len(), 0);
}

#[tokio::test]
async fn expressions_give_the_type_and_the_key_and_the_answer_is_the_sources_own() {
    let lab = Lab::new().await;
    let body = r#"{"kind":"contact","id":7}"#.to_owned();
    let signed = Signed { headers: Vec::new(), body };
    for _ in 0..2 {
        let answer = lab.post("open", &signed).await.expect(202);
        assert_eq!(
            (answer.text.as_str(), &answer.headers["content-type"]),
            ("thanks", &"text/plain".parse().unwrap())
        );
    }
    let kept = lab.kept().await;
    assert_eq!((kept.len(), kept[0]["type"].as_str()), (1, Some("form.contact")));
    lab.post("nobody", &signed).await.expect(404);
}

#[tokio::test]
async fn a_source_may_take_the_key_from_the_payload() {
    let lab = Lab::new().await;
    let event = json!({ "type": "user.signed_up", "payload": { "user_id": "u1" } });
    lab.reader.post("/api/v1/events", &event).await.expect(202);
    assert_eq!(
        lab.reader.post("/api/v1/events", &event).await.expect(200).json()["duplicate"],
        true
    );
    // A key that the sender gives counts more, and a payload without the field has none.
    let other = json!({ "type": "a", "payload": { "user_id": "u1" }, "idempotency_key": "k" });
    lab.reader.post("/api/v1/events", &other).await.expect(202);
    let none = json!({ "type": "a", "payload": {} });
    lab.reader.post("/api/v1/events", &none).await.expect(202);
    lab.reader.post("/api/v1/events", &none).await.expect(202);
}
