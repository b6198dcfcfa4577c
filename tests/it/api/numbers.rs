//! What clients read as numbers: JavaScript has none above 2^53 that are exact, and places of events and
//! deliveries go far above it on a database with shards.

use serde_json::{Value, json};
use tidegate::store::Page;

use crate::{
    harness::{postgres::Postgres, sink::Sink},
    outage::World,
};

const LARGEST: f64 = 9_007_199_254_740_991.0;

fn check(path: &str, value: &Value) {
    match value {
        Value::Number(number) => {
            assert!(number.as_f64().is_some_and(|it| it.abs() <= LARGEST), "{path}: {number}");
        }
        Value::Array(all) => all.iter().for_each(|it| check(path, it)),
        Value::Object(all) => all.values().for_each(|it| check(path, it)),
        Value::String(_) | Value::Bool(_) | Value::Null => (),
    }
}

/// A gateway whose project is in a shard where the places of deliveries are no numbers of JavaScript.
async fn far_away() -> World {
    for _ in 0..20 {
        let database = Postgres::shared().database().await;
        let world = World::on(&database, Sink::new().await).await;
        for n in 0..3 {
            world.post(&format!("key {n}")).await.expect(202);
        }
        world.sink.received_at_least(3).await;
        let project = *world.app.catalog_writer.current().projects.keys().next().unwrap();
        let page = Page { before: None, limit: 1 };
        let found = world.app.database.deliveries(project, &Default::default(), page).await;
        if found.unwrap()[0].seq.bits() as f64 > LARGEST {
            return world;
        }
        world.app.stop().await;
    }
    panic!("no project is in a shard behind the first four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_larger_than_javascript_can_read_and_pages_go_on_all_the_same() {
    let world = far_away().await;
    let replay = json!({"selection": {"destination": "sink", "state": "delivered"}});
    world.caller.post("/api/v1/replays?project=acme", &replay).await.expect(202);
    world.sink.received_at_least(6).await;
    for (list, count) in [("events", 3), ("deliveries", 6), ("attempts", 6), ("replays", 1)] {
        let (mut seen, mut cursor) = (0, String::new());
        // What is settled last may be listed a moment later.
        while seen < count {
            let path = format!("/api/v1/{list}?project=acme&limit=1&cursor={cursor}");
            let page = world.caller.get(&path).await.expect(200).json();
            check(&path, &page);
            let rows = page["data"].as_array().unwrap();
            for id in rows.iter().filter_map(|it| it["id"].as_str()) {
                let path = format!("/api/v1/{list}/{id}?project=acme");
                if list != "attempts" {
                    check(&path, &world.caller.get(&path).await.expect(200).json());
                }
            }
            seen += rows.len();
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None if seen < count => (seen, cursor) = (0, String::new()),
                None => break,
            }
        }
        assert_eq!(seen, count, "{list}");
    }
    for path in ["/api/v1/status?project=acme", "/api/v1/events/export?project=acme"] {
        for line in world.caller.get(path).await.expect(200).text.lines() {
            check(path, &serde_json::from_str(line).unwrap());
        }
    }
    world.app.stop().await;
}
