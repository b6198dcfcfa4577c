//! Scripts that want to do harm, through a running gateway beside a pipeline that does its work: each
//! is stopped in its limits, says why, and costs nobody else an event.

use http::Method;
use serde_json::{Value, json};
use tidegate::{
    model::EventId,
    pipeline::{self, Compiled},
};

use crate::harness::{
    caller::Caller,
    gateway::{Gateway, PROJECT},
    sink::Sink,
};

/// What stands in the function, and what people read of it.
const HOSTILE: [(&str, &str); 23] = [
    ("for (;;);", "takes too long"),
    ("try { for (;;); } finally { for (;;); }", "takes too long"),
    ("const a = []; for (;;) a.push('x'.repeat(100000) + a.length);", "memory"),
    ("let s = 'x'; for (;;) s += s;", ""),
    ("return { payload: 'x'.repeat(2 ** 29) };", ""),
    ("return { payload: Array(2 ** 20).fill('x') };", "too large"),
    ("return Array(1e6).fill(e);", "at most 1024"),
    ("const f = () => f() + 1; f();", "stack"),
    ("let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return { payload: a };", ""),
    ("return { get payload() { for (;;); } };", "takes too long"),
    ("return { payload: { toJSON() { for (;;); } } };", "takes too long"),
    ("return { payload: { toString() { return this + '' } } + '' };", "stack"),
    ("return new Proxy({}, { get() { for (;;); } });", "Proxy"),
    ("Object.prototype.toJSON = () => 'mine'; return e;", "TypeError"),
    ("Object.setPrototypeOf(Object.prototype, { payload: 1 }); return {};", "TypeError"),
    ("Object.defineProperty(Array.prototype, 'length', { get() { for (;;); } });", "TypeError"),
    ("/^(a+)+$/.test('a'.repeat(40) + 'b');", "takes too long"),
    ("'x'.repeat(1e6).replace(/(x+x+)+y/g, '');", ""),
    ("(async () => { for (;;) await null; })(); return e;", ""),
    ("return { payload: 1, then() {} };", "asynchronous"),
    ("function* g() { for (;;) yield 'x'; } return { payload: [...g()] };", ""),
    ("return (() => {}).constructor('return this')();", "made of a text"),
    // One call that no engine can stop, for some seconds; the thread that makes it is left behind.
    ("'a'.repeat(2e5).indexOf('a'.repeat(1e5) + 'b');", STUCK),
];

/// Such a script's events are dead letters, and not dropped.
const STUCK: &str = "stuck";

/// One pipeline for each script, and one that has nothing to do with them.
fn resources(sink: &Sink) -> String {
    let pipelines = HOSTILE.iter().enumerate().map(|(number, (source, _))| {
        let source = json!(format!("export default function (e) {{ {source} }}"));
        format!(
            "  - {{ name: hostile-{number}, on: [\"bad.n{number}\"], \
             steps: [ {{ transform.js: {source} }} ], routes: [ {{ to: hostile }} ] }}\n"
        )
    });
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\ndestinations:\n  \
         - {{ name: healthy, kind: webhook, url: \"{}\", signed: false }}\n  \
         - {{ name: hostile, kind: webhook, url: \"{}\", signed: false }}\npipelines:\n  \
         - {{ name: healthy, steps: [ {{ transform.js: \"export default (e) => e\" }} ], \
         routes: [ {{ to: healthy }} ] }}\n{}",
        sink.url("/healthy"),
        sink.url("/hostile"),
        pipelines.collect::<String>(),
    )
}

async fn post(gateway: &Gateway, event_type: String, n: usize) -> EventId {
    let event = json!({ "type": event_type, "payload": { "n": n } });
    let answer = gateway.post("/api/v1/events", event).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_scripts_are_stopped_while_other_pipelines_keep_their_pace() {
    // Given a pipeline that gets every event, and one for each of the hostile scripts,
    let sink = Sink::new().await;
    let gateway = Gateway::start(&resources(&sink), "http://127.0.0.1:9/").await;

    // when each of these gets events, three times in turn, with ordinary events in between,
    let (mut hostile, mut count) = (Vec::new(), 0);
    for _ in 0..3 {
        for number in 0..HOSTILE.len() {
            hostile.push((number, post(&gateway, format!("bad.n{number}"), count).await));
            post(&gateway, "good".to_owned(), count + 1).await;
            count += 2;
        }
    }

    // then every event arrives where no hostile script stands before it,
    let arrived = sink.received_at_least(count).await;
    let mut numbers: Vec<u64> =
        arrived.iter().map(|it| it.json()["data"]["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count as u64).collect::<Vec<_>>());
    assert!(arrived.iter().all(|it| it.path == "/healthy"), "a hostile script sent something");

    // and each hostile script says what became of it.
    for (place, (number, id)) in hostile.into_iter().enumerate() {
        gateway.planned(id).await;
        let event = gateway.get(&format!("/api/v1/events/{id}")).await.body;
        let (source, expected) = HOSTILE[number];
        if expected == STUCK {
            let mut all = event["deliveries"].as_array().unwrap().iter();
            let dead = all.find(|it| it["state"] == "dead").unwrap_or_else(|| panic!("{event}"));
            let id = dead["id"].as_str().unwrap();
            let delivery = gateway.get(&format!("/api/v1/deliveries/{id}")).await.body.to_string();
            let is_first = place < HOSTILE.len();
            assert!(delivery.contains("could not be stopped") || !is_first, "{delivery}");
            assert!(delivery.contains("transform.js: could not be evaluated: "), "{delivery}");
            continue;
        }
        let stopped = event["skipped"].as_array().unwrap().iter();
        let stopped: Vec<&Value> = stopped.filter(|it| it["by"] == "transform.js").collect();
        assert_eq!(stopped.len(), 1, "{source}: {event}");
        let reason = stopped[0]["reason"].as_str().unwrap();
        assert!(reason.contains(expected), "{source}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_never_ends_soon_costs_other_pipelines_next_to_nothing() {
    // Given hundreds of events for a script that never ends, which would have 50 ms for each,
    const EVENTS: usize = 400;
    let sink = Sink::new().await;
    let gateway = Gateway::start(&resources(&sink), "http://127.0.0.1:9/").await;
    let events: Vec<Value> = (0..EVENTS)
        .map(|n| json!({ "type": if n % 2 == 0 { "bad.n0" } else { "good" }, "payload": { "n": n } }))
        .collect();

    // when they come at once,
    let begun = std::time::Instant::now();
    let answer = gateway.post("/api/v1/events/batch", json!(events)).await;
    assert_eq!(answer.body["accepted"], EVENTS, "{}", answer.body);

    // then all of them go through the other pipeline before it could have had its time for each.
    assert_eq!(sink.received_at_least(EVENTS).await.len(), EVENTS);
    let all_of_its_time = std::time::Duration::from_millis(50) * (EVENTS / 2) as u32;
    assert!(begun.elapsed() < all_of_its_time, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn deliveries_over_the_limit_are_dead_letters() {
    // Given more pipelines, each with a destination of its own, than an event has deliveries,
    const MANY: usize = 1_600;
    let destinations: String = (0..MANY)
        .map(|n| format!("  - {{ name: d{n}, kind: webhook, url: \"http://127.0.0.1:9/\" }}\n"))
        .collect();
    let pipelines: String =
        (0..MANY).map(|n| format!("  - {{ name: p{n}, routes: [{{ to: d{n} }}] }}\n")).collect();
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n{destinations}pipelines:\n{pipelines}"
    );
    let catalog = super::catalog(&resources);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &super::tools());

    // which the plan of the file says,
    let gateway = Gateway::start("version: 1\nproject: acme\n", "http://127.0.0.1:9/").await;
    let yaml = [("content-type", "application/yaml")];
    let planned =
        Caller::admin(&gateway).send(Method::POST, "/api/v1/plan", &yaml, resources).await;
    let planned = planned.expect(200).json();
    let warning = planned["warnings"][0].as_str().unwrap_or_else(|| panic!("{planned}"));
    assert!(
        warning.contains("any event from the source `app` could make 1600 deliveries"),
        "{warning}"
    );

    // when an event is planned,
    let event = super::plan::event(&catalog, "app", "order.paid", json!({}));
    let plan = pipeline::plan(&event, &compiled);

    // then those beyond it are dead letters that say so, as many as can be replayed; the rest is named.
    let (dead, owed): (Vec<_>, Vec<_>) = plan.deliveries.iter().partition(|it| it.dead.is_some());
    assert_eq!((owed.len(), dead.len(), plan.skipped.len()), (1_024, 512, MANY - 1_536));
    let reason = dead[0].dead.as_deref().unwrap();
    assert!(reason.contains("at most 1024 deliveries"), "{reason}");
    assert!(plan.skipped[0].reason.contains("at most 1536"), "{}", plan.skipped[0].reason);
}

#[tokio::test]
async fn expressions_of_one_event_share_a_budget() {
    // Given a hundred routes whose conditions are dear for this event,
    let when = r#"(payload.l | select("in", payload.l) | list | length) == 1"#;
    let route = format!("      - {{ to: d, when: {} }}\n", json!(when));
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations: [{{ name: d, kind: webhook, url: \"http://127.0.0.1:9/\" }}]\n\
         pipelines:\n  - name: dear\n    routes:\n{}",
        route.repeat(100)
    );
    let catalog = super::catalog(&resources);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &super::tools());
    let list: Vec<u32> = (0..20_000).collect();

    // when it is planned,
    let event = super::plan::event(&catalog, "app", "dear", json!({ "l": list }));
    let plan = pipeline::plan(&event, &compiled);

    // then every route says that it took too long, and a small event is not concerned.
    assert_eq!(plan.deliveries.len(), 0);
    assert_eq!(plan.skipped.len(), 100);
    assert!(plan.skipped.iter().all(|it| it.reason.contains("takes too long")));
    let event = super::plan::event(&catalog, "app", "dear", json!({ "l": [7] }));
    assert_eq!(pipeline::plan(&event, &compiled).deliveries.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_that_are_planned_apart_share_a_budget() {
    // Given forty pipelines, each with a condition that does 10 MiB of work for this event, and another
    // project, because of which most of them are set aside,
    const PIPELINES: usize = 40;
    let when = json!(r#"(payload.l | select("in", payload.l) | list | length) > 1"#);
    let pipelines: String = (0..PIPELINES)
        .map(|n| format!("  - {{ name: p{n}, routes: [{{ to: d{n}, when: {when} }}] }}\n"))
        .collect();
    let destinations: String = (0..PIPELINES)
        .map(|n| format!("  - {{ name: d{n}, kind: webhook, url: \"http://127.0.0.1:9/\" }}\n"))
        .collect();
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations:\n{destinations}pipelines:\n{pipelines}"
    );
    let other = "version: 1\nproject: other\nsources: [{ name: app, kind: api }]\n";
    let gateway = Gateway::start(&resources, "http://127.0.0.1:9/").await;
    gateway.apply(other, "http://127.0.0.1:9/").await;
    let list: Vec<u32> = (0..800).collect();

    // when an event comes,
    let answer =
        gateway.post("/api/v1/events", json!({ "type": "dear", "payload": { "l": list } }));
    let id = answer.await.body["id"].as_str().unwrap().to_owned();

    // then it is planned to its end, as far as its budget goes; the others say that it takes too long.
    let is_planned = |event: &Value| {
        let (planned, skipped) = (event["deliveries"].as_array(), event["skipped"].as_array());
        let all = planned.map_or(0, Vec::len) + skipped.map_or(0, Vec::len);
        all == PIPELINES && !event["skipped"].to_string().contains("it waits")
    };
    let begun = std::time::Instant::now();
    let event = loop {
        let event = gateway.get(&format!("/api/v1/events/{id}")).await.body;
        if is_planned(&event) {
            break event;
        }
        assert!(begun.elapsed() < crate::harness::PATIENCE, "it is never planned: {event}");
        tokio::task::yield_now().await;
    };
    let planned = event["deliveries"].as_array().unwrap().len();
    let catalog = super::catalog(&resources);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &super::tools());
    let at_once = pipeline::plan(
        &super::plan::event(&catalog, "app", "dear", json!({ "l": list })),
        &compiled,
    );
    assert_eq!(planned, at_once.deliveries.len(), "as many as when nothing is set aside");
    assert!((1..PIPELINES).contains(&planned), "{planned} of {PIPELINES} were paid for");
    assert_eq!(event["skipped"].to_string().matches("takes too long").count(), PIPELINES - planned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_makes_too_many_parts_leaves_dead_letters() {
    // Given two scripts behind each other that make forty parts of one, each: 1,600 of one event,
    let many = json!("export default (e) => Array(40).fill(e)");
    let resources = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations: [{{ name: d, kind: webhook, url: \"http://127.0.0.1:9/\" }}]\n\
         pipelines:\n  - name: many\n    steps: [{{ transform.js: {many} }}, {{ transform.js: {many} }}]\n    \
         routes: [{{ to: d }}]\n"
    );
    let catalog = super::catalog(&resources);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &super::tools());

    // when an event is planned,
    let event = super::plan::event(&catalog, "app", "order.paid", json!({}));
    let plan = pipeline::plan(&event, &compiled);

    // then the parts beyond the limit are dead letters that say so, and of those beyond these there is a reason.
    let (dead, owed): (Vec<_>, Vec<_>) = plan.deliveries.iter().partition(|it| it.dead.is_some());
    assert_eq!((owed.len(), dead.len()), (1_024, 512));
    let reason = dead[0].dead.as_deref().unwrap();
    assert!(reason.contains("at most 1024 parts"), "{reason}");
    assert!(plan.skipped[0].reason.contains("at most 1536 parts"), "{}", plan.skipped[0].reason);
}

/// A project of this name whose pipelines make events wait for a script that takes about 20 ms, each.
fn slow_scripts(project: &str, pipelines: usize, sink: &Sink) -> String {
    let script = json!("export default (e) => { for (let i = 0; i < 200000; i++); return e }");
    let pipelines: String = (0..pipelines)
        .map(|n| {
            format!(
                "  - {{ name: p{n}, steps: [{{ transform.js: {{ source: {script}, timeout: 1s }} }}], \
                 routes: [{{ to: d }}] }}\n"
            )
        })
        .collect();
    format!(
        "version: 1\nproject: {project}\nsources: [{{ name: app, kind: api }}]\ndestinations: \
         [{{ name: d, kind: webhook, signed: false, url: \"{}\" }}]\npipelines:\n{pipelines}",
        sink.url(&format!("/{project}"))
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_one_project_hold_no_other_project_up() {
    // Given a project with twenty scripts that each take a while, and another with one that takes no time,
    const EVENTS: usize = 30;
    const SCRIPTS: usize = 20;
    let sink = Sink::new().await;
    let gateway =
        Gateway::start(&slow_scripts("acme", SCRIPTS, &sink), "http://127.0.0.1:9/").await;
    let other = slow_scripts("other", 1, &sink).replace("200000", "2");
    gateway.apply(&other, "http://127.0.0.1:9/").await;
    let event = json!({ "type": "a.b", "payload": {} });

    // when the first gets events, and behind them the other gets one,
    let events: Vec<&Value> = vec![&event; EVENTS];
    let answer = gateway.post("/api/v1/events/batch", json!(events)).await;
    assert_eq!(answer.body["accepted"], EVENTS, "{}", answer.body);
    let path = "/api/v1/events";
    let answer = gateway.send("POST", path, &[(PROJECT, "other")], Some(event)).await;
    assert_eq!(answer.status, 202, "{}", answer.body);

    // then that one has arrived long before all of the first project's scripts have run.
    let begun = std::time::Instant::now();
    let (mut came, mut count) = (None, 0);
    while count < EVENTS * SCRIPTS + 1 {
        let arrived = sink.received_at_least(count + 1).await;
        count = arrived.len();
        if came.is_none() && arrived.iter().any(|it| it.path == "/other") {
            came = Some(begun.elapsed());
        }
    }
    let (came, all) = (came.unwrap(), begun.elapsed());
    assert!(came * 3 < all, "it came after {came:?}, and all after {all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_names_the_scripts_that_are_stuck() {
    // Given a script that is stuck with each event,
    let sink = Sink::new().await;
    let gateway = Gateway::start(&resources(&sink), "http://127.0.0.1:9/").await;
    let status = gateway.get("/api/v1/status").await.body;
    assert_eq!(status["stuck_scripts"], json!([]), "{status}");

    // when events come, the third while it waits for its next try,
    let number = HOSTILE.iter().position(|it| it.1 == STUCK).unwrap();
    for n in 0..3 {
        let id = post(&gateway, format!("bad.n{number}"), n).await;
        gateway.planned(id).await;
    }

    // then the status says where it stands, what it has lost and when it is tried again; of no other project.
    let status = gateway.get("/api/v1/status").await.body;
    let stuck = &status["stuck_scripts"][0];
    let expected =
        json!({ "pipeline": format!("hostile-{number}"), "step": "steps[0]", "events": 3 });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&stuck[name], value, "{status}");
    }
    let [since, last, now] =
        [&stuck["since"], &stuck["last"], &status["now"]].map(|it| it.as_str().unwrap().to_owned());
    assert!(since < last && last <= now, "{status}");
    assert!(stuck["retry_at"].is_string() || stuck["blocked"].is_string(), "{status}");
    assert_eq!(status["stuck_scripts"].as_array().unwrap().len(), 1, "{status}");
    gateway.apply("version: 1\nproject: other\n", "http://127.0.0.1:9/").await;
    let other = gateway.send("GET", "/api/v1/status", &[(PROJECT, "other")], None).await.body;
    assert_eq!(other["stuck_scripts"], json!([]), "{other}");
}
