//! What a script is given, and what it is not.

use serde_json::{Value, json};

use super::World;

const PIPELINE: &str = r#"
  - name: signups
    steps:
      - transform.js: |
          export default function (event, ctx) {
            const gone = ["fetch", "require", "process", "setTimeout", "setInterval", "queueMicrotask", "Promise",
              "XMLHttpRequest", "WebSocket", "WebAssembly", "performance", "navigator", "eval", "Function", "Deno", "Bun",
              "std", "os", "scriptArgs", "Worker", "crypto", "Intl", "SharedArrayBuffer", "Atomics"];
            const seen = { ctx, now: Date.now(), then: new Date().toISOString(), event: Object.keys(event) };
            seen.there = gone.filter((name) => typeof globalThis[name] !== "undefined");
            seen.random = Math.random();
            return ctx.part === null && event.payload.parts
              ? event.payload.parts.map((it) => ({ payload: { ...seen, it } }))
              : { payload: seen };
          }
      - transform.js: "export default (e, ctx) => ({ payload: { ...e.payload, last: ctx.part } })"
    routes: [{ to: crm }]
"#;

async fn seen(world: &World, event: Value) -> Vec<Value> {
    let kept = world.gateway.post("/api/v1/events", event).await;
    let tried = world.try_it(json!({ "event_id": kept.body["id"] })).await;
    let messages = tried["routes"][0]["messages"].as_array().unwrap().clone();
    let body = |it: &Value| it["requests"][0]["body"].as_str().map(serde_json::from_str::<Value>);
    messages.iter().map(|it| body(it).unwrap().unwrap()["data"].clone()).collect()
}

#[tokio::test]
async fn a_script_sees_its_event_and_what_is_around_it_and_no_world_and_no_clock() {
    let world = World::with(PIPELINE).await;
    let event = json!({
        "type": "a", "payload": {}, "idempotency_key": "k \"1\"", "timestamp": "2025-06-01T12:00:00Z",
    });
    let alone = &seen(&world, event.clone()).await[0];
    let expected = json!({
        "source": "app", "received_at": "2026-01-01T00:00:00Z", "idempotency_key": "k \"1\"", "part": null,
    });
    assert_eq!(alone["ctx"], expected);
    assert_eq!(alone["event"], json!(["id", "type", "timestamp", "payload", "metadata"]));
    assert_eq!(alone["there"], json!([]), "a script has nothing of the world");
    assert_eq!(
        (&alone["now"], &alone["then"]),
        (&json!(1_767_225_600_000_i64), &json!("2026-01-01T00:00:00.000Z"))
    );

    // Of several that it makes, each knows which one it is.
    let mut several = event;
    several["payload"] = json!({ "parts": ["x", "y"] });
    several.as_object_mut().unwrap().remove("idempotency_key");
    let parts = seen(&world, several).await;
    let told: Vec<_> = parts.iter().map(|it| (it["it"].clone(), it["last"].clone())).collect();
    assert_eq!(told, [(json!("x"), json!(1)), (json!("y"), json!(2))]);
    assert_eq!(parts[0]["ctx"]["idempotency_key"], Value::Null);
}
