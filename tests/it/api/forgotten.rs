//! Nothing of a user goes out from the moment at which a deletion is accepted.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tidegate::{
    catalog::{Edit, Resource},
    model::{Deletion, DeletionId, DeletionState, Person, Then},
    store::StoreError,
};

use super::rows;
use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer, Sink},
};

async fn forget(admin: &Caller, then: &str) -> (Value, Value) {
    let spec = json!({"user_id": "u-1", "then": then});
    let begun = admin.post("/api/v1/deletions", &spec).await.expect(202).json();
    let path = format!("/api/v1/deletions/{}", begun["id"].as_str().unwrap());
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = admin.get(&path).await.expect(200).json();
            if now["ended_at"] != Value::Null {
                return now;
            }
        }
    });
    (begun, done.await.expect("the deletion never ends"))
}

/// How many requests were about the user, other than the one that tells of the deletion.
fn about_user(sink: &Sink) -> usize {
    let is_about = |it: &&crate::harness::sink::Received| {
        let text = it.json().to_string();
        text.contains("u-1") && !text.contains("\"delete\"")
    };
    sink.received().iter().filter(is_about).count()
}

#[tokio::test]
async fn a_retry_that_waits_is_cancelled_by_every_deletion() {
    for then in ["keep", "suppress", "erase", "suppress_and_erase"] {
        let sink = Sink::answering(&[503, 200]).await;
        let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
        let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
        let event = gateway.publish("a", json!({"userId": "u-1"})).await;
        gateway.idle().await;
        let other = gateway.publish("a", json!({"userId": "u-2"})).await;
        gateway.idle().await;

        let (_, done) = forget(&admin, then).await;

        assert_eq!(done["cancelled_deliveries"], 1, "{then}");
        gateway.run_for(Duration::from_secs(86_400)).await;
        assert_eq!(about_user(&sink), 1, "{then}");
        assert_eq!(gateway.states(event).await, ["cancelled"], "{then}");
        assert_eq!(gateway.states(other).await, ["delivered"], "{then}");
    }
}

#[tokio::test]
async fn a_deletion_tells_how_many_attempts_were_under_way() {
    // Given an attempt whose answer does not come,
    let sink = Sink::holding(|_| Answer::status(503)).await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let event = gateway.publish("a", json!({"userId": "u-1"})).await;
    sink.received_at_least(1).await;

    // when its user is to be forgotten, then the answer counts it,
    let spec = json!({"user_id": "u-1", "then": "suppress"});
    let begun = admin.post("/api/v1/deletions", &spec).await.expect(202).json();
    assert_eq!(begun["in_flight_deliveries"], 1);
    sink.release(100);
    // and there is no second attempt.
    gateway.run_for(Duration::from_secs(86_400)).await;
    assert_eq!(about_user(&sink), 1);
    assert_eq!(gateway.states(event).await, ["cancelled"]);
    let path = format!("/api/v1/deletions/{}", begun["id"].as_str().unwrap());
    assert_eq!(admin.get(&path).await.expect(200).json()["in_flight_deliveries"], 1);
}

/// A deletion that is kept, and of which nothing else has happened yet: what a crash may leave.
async fn keep_deletion(gateway: &Gateway, state: DeletionState) {
    let project = *gateway.app.catalog_writer.current().projects.keys().next().unwrap();
    let deletion = Deletion {
        id: DeletionId::from_bits(7),
        project,
        person: Person { user_id: "u-1".to_owned(), field: None },
        then: Then::Suppress,
        state,
        notified: 0,
        erased: 0,
        cancelled: 0,
        in_flight: 0,
        cursor: 0,
        until: 0,
        created_at: gateway.now(),
        ended_at: None,
    };
    let edit = vec![Edit::Put(Resource::Deletion(deletion))];
    gateway.app.catalog_writer.edit(|_| Ok::<_, StoreError>((edit, ()))).await.unwrap();
}

#[tokio::test]
async fn the_rule_holds_by_itself_alone_and_in_batches() {
    for settings in ["", ", batch: { events: 10, linger: 1s }", ", ordering: fifo"] {
        // Given events that wait for a destination that is paused,
        let sink = Sink::new().await;
        let gateway = Gateway::delivering_to(&sink.url("/"), settings).await;
        let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
        admin.post("/api/v1/destinations/sink/pause", &json!({})).await.expect(200);
        let mut events = Vec::new();
        for user in ["u-2", "u-1", "u-3"] {
            events.push(gateway.publish("a", json!({"userId": user})).await);
        }
        gateway.idle().await;

        // when a deletion is in the catalogue and nobody has swept behind it,
        keep_deletion(&gateway, DeletionState::Done).await;
        let gateway = gateway.restart().await;
        let admin = Caller::admin(&gateway);
        admin.post("/api/v1/destinations/sink/resume", &json!({})).await.expect(200);
        gateway.run_for(Duration::from_secs(60)).await;

        // then its user's event is left out, and the others arrive.
        let all: Vec<String> = sink.received().iter().map(|it| it.json().to_string()).collect();
        let all = all.concat();
        assert!(all.contains("u-2") && all.contains("u-3"), "{settings}: {all}");
        assert!(!all.contains("u-1"), "{settings}: {all}");
        assert_eq!(gateway.states(events[1]).await, ["cancelled"], "{settings}");
        assert_eq!(gateway.states(events[2]).await, ["delivered"], "{settings}");
    }
}

#[tokio::test]
async fn a_replay_sends_nothing_of_a_forgotten_user() {
    let sink = Sink::new().await;
    let gateway = Gateway::delivering_to(&sink.url("/"), "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let event = gateway.publish("a", json!({"userId": "u-1"})).await;
    gateway.idle().await;
    forget(&admin, "keep").await;

    let path = format!("/api/v1/events/{event}/replay");
    admin.send(Method::POST, &path, &[], "{}").await.expect(202);
    gateway.run_for(Duration::from_secs(60)).await;

    assert_eq!(about_user(&sink), 1);
    assert_eq!(gateway.states(event).await, ["delivered", "cancelled"]);
    assert_eq!(rows(&admin.get("/api/v1/deletions").await).len(), 1);
}
