//! The ordering of a destination is changed while its endpoint is down: each key keeps its order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::json;
use tidegate::model::{Destination, Era};

use crate::{
    cluster::node::eventually,
    crash::gateway::{Gateway as Program, KEY},
    harness::{
        caller::Caller,
        cluster::Cluster,
        gateway::Gateway,
        sink::{Answer, Received, Sink},
    },
};

const KEYS: u64 = 5;
const HALF: u64 = 50;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An endpoint that is down until it is mended, and keeps what it took.
struct Endpoint {
    sink: Sink,
    is_up: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<u64>>>,
}

impl Endpoint {
    /// It says 503, or that this one event is what it does not take.
    async fn refusing(poison: Option<u64>) -> Self {
        let (is_up, taken) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let state: (Arc<AtomicBool>, Arc<Mutex<Vec<u64>>>) = (is_up.clone(), Arc::clone(&taken));
        let script = move |request: &Received| {
            let number = request.json()["data"]["n"].as_u64().unwrap();
            let is_refused = match poison {
                Some(poison) => poison == number,
                None => !state.0.load(SeqCst),
            };
            if is_refused {
                return Answer::status(503);
            }
            state.1.lock().unwrap().push(number);
            Answer::status(200)
        };
        Self { sink: Sink::with(script).await, is_up, taken }
    }

    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }

    /// Everything has come, in the order of each key.
    fn check(&self, case: &str) {
        let mut keys: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for number in self.taken() {
            let of_key = keys.entry(number % KEYS).or_default();
            // What was in flight when the process was killed may come twice.
            if !of_key.contains(&number) {
                of_key.push(number);
            }
        }
        let count: usize = keys.values().map(Vec::len).sum();
        assert_eq!(count as u64, 2 * HALF, "{case}");
        assert!(keys.values().all(|it| it.is_sorted()), "{case}: {keys:?}");
    }
}

fn resources(ordering: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", \
         secret: \"${{SECRET}}\", ordering: {ordering} }}\n\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{{ to: sink }}] }}\n"
    )
}

#[test]
fn a_destination_from_before_eras_is_in_the_first() {
    let destination = crate::harness::outlet::destination("http://127.0.0.1:9/");
    let mut document = serde_json::to_value(&destination).unwrap();
    assert!(document.as_object_mut().unwrap().remove("era").is_some());
    assert_eq!(serde_json::from_value::<Destination>(document).unwrap(), destination);
    assert_eq!(destination.era, Era::FIRST);
}

/// The user is the key; its team is a key that several users share.
fn payload(number: u64) -> serde_json::Value {
    json!({ "n": number, "user": number % KEYS, "team": number % KEYS % 2 })
}

async fn publish(gateway: &Gateway, numbers: std::ops::Range<u64>) {
    for number in numbers {
        gateway.publish("user.changed", payload(number)).await;
    }
}

#[tokio::test]
async fn a_new_ordering_waits_for_what_the_old_one_holds() {
    for (old, new) in [
        ("fifo", "{ key: payload.user }"),
        ("{ key: payload.user }", "fifo"),
        ("{ key: payload.user }", "{ key: payload.team }"),
    ] {
        let case = format!("{old} → {new}");
        // Given an endpoint that is down, and what waits for it
        let endpoint = Endpoint::refusing(None).await;
        let url = endpoint.sink.url("/");
        let gateway = Gateway::start(&resources(old), &url).await;
        publish(&gateway, 0..HALF).await;
        gateway.run_for(Duration::from_secs(30)).await;
        // When the ordering changes, more comes, and it starts again
        gateway.apply(&resources(new), &url).await;
        publish(&gateway, HALF..2 * HALF).await;
        gateway.run_for(Duration::from_secs(30)).await;
        let gateway = gateway.restart().await;
        gateway.run_for(Duration::from_secs(30)).await;
        assert!(endpoint.taken().is_empty(), "{case}");
        endpoint.is_up.store(true, SeqCst);
        gateway.run_for(DAY).await;
        // Then each key has its order
        endpoint.check(&case);
    }
}

#[tokio::test]
async fn a_new_ordering_waits_for_nothing_where_none_was() {
    for (old, new) in [("none", "{ key: payload.user }"), ("{ key: payload.user }", "none")] {
        // Given one that is refused for as long as it is tried
        let endpoint = Endpoint::refusing(Some(0)).await;
        let url = endpoint.sink.url("/");
        let gateway = Gateway::start(&resources(old), &url).await;
        publish(&gateway, 0..KEYS).await;
        gateway.idle().await;
        // When the ordering changes, then what is new goes at once
        gateway.apply(&resources(new), &url).await;
        publish(&gateway, KEYS..2 * KEYS).await;
        gateway.idle().await;
        assert_eq!(endpoint.taken().len() as u64, 2 * KEYS - 1, "{old} → {new}");
    }
}

#[tokio::test]
async fn one_that_is_cancelled_or_dead_holds_no_new_ordering_up() {
    for is_cancelled in [false, true] {
        let endpoint = Endpoint::refusing(Some(0)).await;
        let url = endpoint.sink.url("/");
        let gateway = Gateway::start(&resources("{ key: payload.user }"), &url).await;
        publish(&gateway, 0..KEYS).await;
        gateway.idle().await;
        gateway.apply(&resources("fifo"), &url).await;
        publish(&gateway, KEYS..2 * KEYS).await;
        gateway.idle().await;
        assert_eq!(endpoint.taken().len() as u64, KEYS - 1);
        if is_cancelled {
            let all = gateway.deliveries().await;
            let stuck = all.iter().find(|it| it["state"] == "retrying").unwrap();
            let id = stuck["id"].as_str().unwrap();
            gateway.post(&format!("/api/v1/deliveries/{id}/cancel"), json!({})).await;
            gateway.idle().await;
        } else {
            gateway.run_for(5 * DAY).await;
        }
        assert_eq!(endpoint.taken().len() as u64, 2 * KEYS - 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_ordering_waits_also_after_kills() {
    survives_kills(None).await;
    survives_kills(Some(&Cluster::start())).await;
}

/// The real program on the embedded store, or on a database: killed before and after the change.
async fn survives_kills(cluster: Option<&Cluster>) {
    let endpoint = Endpoint::refusing(None).await;
    let folder = tempfile::tempdir().unwrap();
    let mut setup = crate::crash::setup(folder.path(), "", 500);
    setup.environment.push(("URL", endpoint.sink.url("/")));
    setup.environment.push(("SECRET", crate::harness::gateway::SECRET.to_owned()));
    if let Some(cluster) = cluster {
        setup.environment.retain(|it| !it.0.starts_with("TIDEGATE_STORE"));
        setup.environment.push(("TIDEGATE_STORE", cluster.url("postgres")));
    }
    for (half, ordering) in ["fifo", "{ key: payload.user }"].into_iter().enumerate() {
        std::fs::write(&setup.resources, resources(ordering)).unwrap();
        let program = Program::start(&setup).await;
        let caller = Caller::at(program.address, Some(KEY));
        for number in (half as u64 * HALF)..(half as u64 + 1) * HALF {
            let event = json!({ "type": "user.changed", "payload": payload(number) });
            caller.post("/api/v1/events?project=acme", &event).await.expect(202);
        }
        // The head was tried, so all that is planned by then is in line behind it.
        endpoint.sink.received_at_least(half + 1).await;
        program.kill();
    }
    assert!(endpoint.taken().is_empty());
    endpoint.is_up.store(true, SeqCst);
    let program = Program::start(&setup).await;
    eventually("all have come", async || {
        let mut taken = endpoint.taken();
        taken.sort_unstable();
        taken.dedup();
        taken.len() as u64 == 2 * HALF
    })
    .await;
    program.kill();
    endpoint.check(if cluster.is_some() { "postgres" } else { "sqlite" });
}
