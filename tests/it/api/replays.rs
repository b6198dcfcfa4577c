//! No event reaches a destination round its route: a replay plans what was never planned.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::rows;
use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer, Sink},
};

/// Everything goes to `a`; `b` gets what `when` says, without the e-mail.
pub(super) fn resources(b: &str, when: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n  - {{ name: a, kind: webhook, url: \"${{URL}}\" }}\n  \
         - {{ name: b, kind: webhook, url: \"{b}\" }}\n\
         pipelines:\n  - name: all\n    on: [\"*\"]\n    routes:\n      - {{ to: a, when: \"payload.to_a\" }}\n      \
         - to: b\n        when: \"{when}\"\n        steps: [{{ map: {{ plan: \"{{{{ payload.plan }}}}\" }} }}]\n"
    )
}

pub(super) struct Two {
    pub a: Sink,
    pub b: Sink,
    pub gateway: Gateway,
    pub operator: Caller,
}

pub(super) async fn two(when: &str) -> Two {
    let (a, b) = (Sink::new().await, Sink::new().await);
    let gateway = Gateway::start(&resources(&b.url("/"), when), &a.url("/")).await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    Two { a, b, gateway, operator }
}

pub(super) fn person(to_a: bool) -> Value {
    json!({"plan": "pro", "email": "jane@acme.com", "to_a": to_a})
}

#[tokio::test]
async fn a_replay_to_a_new_destination_goes_through_its_route() {
    // Given an event that `b` did not get,
    let Two { a, b, gateway, operator } = two("payload.plan == 'none'").await;
    let event = gateway.publish("a", person(true)).await;
    gateway.idle().await;
    let path = format!("/api/v1/events/{event}/replay");
    let to_b = json!({"destinations": ["b"]});

    // when its route still says no, then it is refused, with the reason,
    let refused = operator.post(&path, &to_b).await.expect(409).json();
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("`b`: all by when") && detail.contains("does not hold"), "{detail}");
    // also together with one that would get it,
    operator.post(&path, &json!({"destinations": ["a", "b"]})).await.expect(409);
    gateway.idle().await;
    assert_eq!((a.received().len(), b.received().len()), (1, 0));
    // and when the route says yes, it comes as the route makes it.
    gateway.apply(&resources(&b.url("/"), "payload.plan == 'pro'"), &a.url("/")).await;
    operator.post(&path, &to_b).await.expect(202);
    let received = b.received_at_least(1).await;
    assert_eq!(received[0].json()["data"], json!({"plan": "pro"}));
    let record = operator.get(&format!("/api/v1/events/{event}")).await.expect(200).json();
    let delivery = &record["deliveries"][1];
    assert_eq!((&delivery["pipeline"], &delivery["pipeline_version"]), (&json!("all"), &json!(2)));
}

#[tokio::test]
async fn a_raw_replay_needs_the_scope_admin() {
    let Two { b, gateway, operator, .. } = two("payload.plan == 'none'").await;
    let event = gateway.publish("a", person(true)).await;
    gateway.idle().await;
    let path = format!("/api/v1/events/{event}/replay");
    let raw = json!({"destinations": ["b"], "raw": true});
    operator.post(&path, &raw).await.expect(403);
    let as_event = json!({"event": event.to_string(), "raw": true});
    operator.post("/api/v1/replays", &as_event).await.expect(403);
    let selection = json!({"selection": {"destination": "b"}, "raw": true});
    operator.post("/api/v1/replays", &selection).await.expect(400);

    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    admin.post(&path, &raw).await.expect(202);

    let received = b.received_at_least(1).await;
    assert_eq!(received[0].json()["data"], person(true));
}

#[tokio::test]
async fn an_event_that_was_filtered_is_planned_again() {
    // Given an event that no route wanted,
    let Two { a, b, gateway, operator } = two("payload.plan == 'none'").await;
    let event = gateway.publish("a", person(false)).await;
    gateway.idle().await;
    assert_eq!(gateway.states(event).await.len(), 0);
    let path = format!("/api/v1/events/{event}/replay");
    let refused = operator.post(&path, &json!({})).await.expect(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("does not hold"), "{refused}");

    // when the pipeline is mended and the event replayed,
    gateway.apply(&resources(&b.url("/"), "payload.plan == 'pro'"), &a.url("/")).await;
    let dry = json!({"event": event.to_string(), "dry_run": true});
    assert_eq!(operator.post("/api/v1/replays", &dry).await.expect(200).json()["total"], 1);
    operator.post(&path, &json!({})).await.expect(202);

    // then it goes where it should have gone.
    let received = b.received_at_least(1).await;
    assert_eq!(received[0].json()["data"], json!({"plan": "pro"}));
    gateway.idle().await;
    assert_eq!(a.received().len(), 0);
}

/// One destination, behind a script that may fail and leaves the e-mail out.
fn scripted(script: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations: [{{ name: a, kind: webhook, url: \"${{URL}}\" }}]\n\
         pipelines:\n  - name: all\n    on: [\"*\"]\n    steps:\n      - transform.js:\n          on_error: dead_letter\n          \
         source: |\n            {script}\n    routes: [{{ to: a }}]\n"
    )
}

const BROKEN: &str = "export default (event) => { throw new Error('broken'); }";
const MENDED: &str =
    "export default (event) => ({ ...event, payload: { plan: event.payload.plan } });";

#[tokio::test]
async fn a_dead_letter_of_a_step_goes_through_the_step_when_it_is_replayed() {
    for by_selection in [false, true] {
        // Given a dead letter that a step has made,
        let a = Sink::new().await;
        let gateway = Gateway::start(&scripted(BROKEN), &a.url("/")).await;
        let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
        let event = gateway.publish("a", person(true)).await;
        gateway.idle().await;
        gateway.clock.advance(jiff::SignedDuration::from_secs(1));
        assert_eq!(gateway.states(event).await, ["dead"]);
        let replay = async || match by_selection {
            true => {
                let selection = json!({"selection": {"state": "dead"}});
                operator.post("/api/v1/replays", &selection).await.expect(202).json()
            }
            false => {
                operator.post(&format!("/api/v1/events/{event}/replay"), &json!({})).await.json()
            }
        };

        // when it is replayed and the step fails still, then nothing goes out,
        let answer = replay().await;
        if by_selection {
            done(&operator, &answer).await;
        } else {
            assert!(answer["detail"].as_str().unwrap().contains("broken"), "{answer}");
        }
        gateway.idle().await;
        assert_eq!((a.received().len(), gateway.states(event).await.len()), (0, 1));
        // and when it is mended, what the step makes of it.
        gateway.apply(&scripted(MENDED), &a.url("/")).await;
        replay().await;
        let received = a.received_at_least(1).await;
        assert_eq!(received[0].json()["data"], json!({"plan": "pro"}), "{by_selection}");
        assert_eq!(rows(&operator.get("/api/v1/dead-letters").await).len(), 0);
    }
}

pub(super) async fn done(caller: &Caller, replay: &Value) -> Value {
    let path = format!("/api/v1/replays/{}", replay["id"].as_str().unwrap());
    let done = async {
        loop {
            let now = caller.get(&path).await.expect(200).json();
            if now["state"] == "done" {
                return now;
            }
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("the replay never ends")
}

#[tokio::test]
async fn dead_letters_are_replayed_once() {
    // Given dead letters of many events, and an endpoint that is well again,
    const MANY: usize = 600;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let sink = Sink::with(move |_| {
        let status = if well.load(Ordering::SeqCst) { 200 } else { 400 };
        Answer::status(status)
    });
    let sink = sink.await;
    let settings = ", retry: { preset: never }, breaker: { open_for: 1ms, open_at_most: 1ms }";
    let gateway = Gateway::delivering_to(&sink.url("/"), settings).await;
    let admin = Caller::admin(&gateway);
    let events: Vec<_> = (0..MANY).map(|it| json!({"type": "a", "payload": it})).collect();
    admin.post("/api/v1/events/batch?project=acme", &json!(events)).await.expect(202);
    while sink.received().len() < MANY {
        gateway.run_for(Duration::from_secs(60)).await;
    }
    is_well.store(true, Ordering::SeqCst);
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let selection = json!({"selection": {"state": "dead"}});

    // when they are replayed twice, the second time while the first may be under way,
    let first = operator.post("/api/v1/replays", &selection).await.expect(202).json();
    let second = operator.post("/api/v1/replays", &selection).await.expect(202).json();
    let made = [done(&operator, &first).await, done(&operator, &second).await];
    gateway.run_for(Duration::from_secs(3600)).await;

    // then each goes out once, and no dead letter is left to be selected.
    let made: u64 = made.iter().map(|it| it["done"].as_u64().unwrap()).sum();
    assert_eq!((made, sink.received().len()), (MANY as u64, 2 * MANY));
    gateway.clock.advance(jiff::SignedDuration::from_secs(1));
    let third = operator.post("/api/v1/replays", &selection).await.expect(202).json();
    assert_eq!((&third["total"], &done(&operator, &third).await["done"]), (&json!(0), &json!(0)));
    assert_eq!(rows(&operator.get("/api/v1/dead-letters").await).len(), 0);
    // What was replayed is not replayed by its id either: the answer names what took its place.
    let delivery = &rows(&operator.get("/api/v1/deliveries?limit=200").await)[0];
    let path = format!("/api/v1/events/{}", delivery["event_id"].as_str().unwrap());
    let old = operator.get(&path).await.json()["deliveries"][0].clone();
    let path = format!("/api/v1/deliveries/{}/replay", old["id"].as_str().unwrap());
    let refused = operator.post(&path, &json!({})).await.expect(409).json();
    assert!(refused["detail"].as_str().unwrap().contains(old["replayed_as"].as_str().unwrap()));
}

#[tokio::test]
async fn dead_letters_have_the_expired_too() {
    let sink = Sink::answering(&[503]).await;
    let settings = ", retry: { waits: [10s, 60s, 3600s] }, expires_after: 1m";
    let gateway = Gateway::delivering_to(&sink.url("/"), settings).await;
    let operator = Caller::with_scopes(&gateway, "acme", &["operate", "read"]).await;
    let event = gateway.publish("a", json!(1)).await;
    gateway.run_for(Duration::from_secs(7200)).await;
    assert_eq!(gateway.states(event).await, ["expired"]);
    for (query, count) in [("", 1), ("?state=expired", 1), ("?state=dead", 0)] {
        let listed = operator.get(&format!("/api/v1/dead-letters{query}")).await.expect(200);
        assert_eq!(rows(&listed).len(), count, "{query}");
    }
    operator.get("/api/v1/dead-letters?state=delivered").await.expect(400);
}
