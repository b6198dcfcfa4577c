//! Detection through a whole gateway: failed logins, usage limits, and cron jobs that do not report.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    gateway::Gateway,
    sink::{Received, Sink},
};

struct World {
    gateway: Gateway,
    sink: Sink,
}

impl World {
    async fn new(steps: &str) -> Self {
        Self::with(&format!("steps: [ {steps} ], routes: [{{ to: sink }}]")).await
    }

    /// `pipeline` says what the one pipeline does.
    async fn with(pipeline: &str) -> Self {
        let sink = Sink::new().await;
        let resources = format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", signed: false }}\n\
             pipelines:\n  - {{ name: watch, {pipeline} }}\n"
        );
        let gateway = Gateway::start(&resources, &sink.url("/")).await;
        Self { gateway, sink }
    }

    async fn restart(self) -> Self {
        let Self { gateway, sink } = self;
        Self { gateway: gateway.restart().await, sink }
    }

    /// Publishes an event, and says why it went no further.
    async fn publish(&self, event_type: &str, payload: Value) -> Option<String> {
        let id = self.gateway.publish(event_type, payload).await;
        let record = self.gateway.get(&format!("/api/v1/events/{id}")).await.body;
        record["skipped"][0]["reason"].as_str().map(str::to_owned)
    }

    /// Waits until the steps remember so many keys.
    async fn remembers(&self, keys: usize) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while self.gateway.app.database.memories().await.unwrap().len() != keys {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("the keys are not remembered");
    }

    fn pass(&self, seconds: i64) {
        self.gateway.clock.advance(SignedDuration::from_secs(seconds));
    }

    async fn arrived(&self, count: usize) -> Vec<Value> {
        self.sink.received_at_least(count).await.iter().map(Received::json).collect()
    }
}

#[tokio::test]
async fn failed_logins_of_one_user_are_told_once_also_over_a_restart() {
    // Given a watch on three failed logins of a user within five minutes
    let step = "{ detect.spike: { key: payload.user, threshold: 3, window: 5m, cool_down: 1h } }";
    let mut world = World::new(step).await;
    let failed = |user: &str| json!({"user": user, "ip": "203.0.113.9"});
    // When two come, the process starts anew, and a third comes
    for expected in ["1 of 3 in 5m", "2 of 3 in 5m"] {
        world.pass(60);
        assert_eq!(world.publish("login.failed", failed("ann")).await.unwrap(), expected);
    }
    assert_eq!(world.publish("login.failed", failed("bob")).await.unwrap(), "1 of 3 in 5m");
    world = world.restart().await;
    world.pass(60);
    assert_eq!(world.publish("login.failed", failed("ann")).await, None);
    // Then it goes on, with what was found out
    let arrived = world.arrived(1).await;
    let spike = json!({"key": "ann", "count": 3, "threshold": 3, "window": "5m",
                       "since": "2026-01-01T00:01:00Z"});
    let expected = json!({"user": "ann", "ip": "203.0.113.9", "spike": spike});
    assert_eq!((&arrived[0]["type"], &arrived[0]["data"]), (&json!("login.failed"), &expected));
    // And it is quiet for an hour, also over another restart
    world = world.restart().await;
    let reason = world.publish("login.failed", failed("ann")).await.unwrap();
    assert_eq!(reason, "4 of 3 in 5m; it fired, and is quiet until 2026-01-01T01:03:00Z");
    assert_eq!(
        world.publish("login.failed", json!({})).await.unwrap(),
        "its key is missing or too long"
    );
    world.pass(3600);
    for fired in [false, false, true, false] {
        assert_eq!(world.publish("login.failed", failed("ann")).await.is_none(), fired);
    }
    assert_eq!(world.arrived(2).await.len(), 2);
}

#[tokio::test]
async fn a_usage_limit_is_told_once_a_month_and_a_route_may_have_its_own() {
    let pipeline = "steps: [ { map: { account: \"{{ payload.account }}\" } } ], routes: [ { to: sink, steps: [ \
         { detect.spike: { key: payload.account, threshold: 2, window: month, into: usage, payload: false } }, \
         { map: { text: \"{{ usage.key }} used {{ usage.count }}\" } } ] } ]";
    let world = World::with(pipeline).await;
    let call = || world.publish("api.called", json!({"account": "a1", "secret": 1}));
    assert_eq!(call().await.unwrap(), "1 of 2 in this month");
    assert_eq!(call().await, None);
    assert!(call().await.unwrap().ends_with("quiet until 2026-02-01T00:00:00Z"));
    world.pass(40 * 24 * 3600);
    assert_eq!(call().await.unwrap(), "1 of 2 in this month");
    assert_eq!(call().await, None);
    let texts: Vec<Value> = world.arrived(2).await.iter().map(|it| it["data"].clone()).collect();
    assert_eq!(texts, [json!({"text": "a1 used 2"}), json!({"text": "a1 used 2"})]);
}

const CRON: &str = "{ detect.absence: { key: payload.job, every: 1h, grace: 5m, keys: [backup, report], \
                    type: job.missing, recovery: job.back } }, \
                    { filter.match: absence.key != 'unimportant' }";

#[tokio::test]
async fn a_job_that_does_not_report_is_told_once_and_so_is_its_return() {
    let mut world = World::new(CRON).await;
    world.remembers(2).await;
    // Given a job that reports in time, one that was declared and never does, and one that nobody declared
    for _ in 0..2 {
        world.pass(1800);
        let reason = world.publish("job.done", json!({"job": "backup"})).await.unwrap();
        assert!(reason.starts_with("it is there; the next is due until 2026-01-01T0"), "{reason}");
    }
    world.publish("job.done", json!({"job": "unimportant"})).await;
    // When the hour and the grace are over
    world.pass(600);
    let arrived = world.arrived(1).await;
    // Then the one is missing that never came
    let expected = json!({"key": "report", "status": "absent", "last_seen": null,
                          "due": "2026-01-01T01:05:00Z", "pipeline": "watch"});
    assert_eq!((&arrived[0]["type"], &arrived[0]["data"]), (&json!("job.missing"), &expected));
    assert_eq!(arrived[0]["timestamp"], "2026-01-01T01:05:00Z");
    // And nothing more is told of it, also after a restart, while the other ones are missed in their turn
    world = world.restart().await;
    world.pass(3600);
    let keys: Vec<Value> =
        world.arrived(2).await.iter().map(|it| it["data"]["key"].clone()).collect();
    assert_eq!(keys, ["report", "backup"]);
    // When it is back
    world.publish("job.done", json!({"job": "report"})).await;
    let arrived = world.arrived(3).await;
    let expected = json!({"key": "report", "status": "back", "last_seen": null,
                          "due": "2026-01-01T01:05:00Z", "back_at": "2026-01-01T02:10:00Z"});
    assert_eq!((&arrived[2]["type"], &arrived[2]["data"]), (&json!("job.back"), &expected));
    // Then it may be missed again
    world.pass(4000);
    let last = &world.arrived(4).await[3]["data"];
    assert_eq!(
        (&last["key"], &last["last_seen"]),
        (&json!("report"), &json!("2026-01-01T02:10:00Z"))
    );
    // And the events of the absences say where they come from, and who stopped them
    let events = world.gateway.get("/api/v1/events?type=job.missing").await.body;
    let events = events["data"].as_array().unwrap();
    let mut stopped = 0;
    for event in events {
        let path = format!("/api/v1/events/{}", event["id"].as_str().unwrap());
        let record = world.gateway.get(&path).await.body;
        stopped += usize::from(record["skipped"][0]["by"] == "filter.match");
    }
    assert_eq!((events.len(), stopped), (4, 1));
}

#[tokio::test]
async fn after_a_pause_of_the_gateway_jobs_have_the_grace_to_report() {
    let step = "{ detect.absence: { key: payload.job, every: 1h, grace: 5m } }";
    let mut world = World::new(step).await;
    for job in ["a", "b"] {
        world.publish("job.done", json!({"job": job})).await;
    }
    // Given a gateway that was not there when they wanted to report
    let World { gateway, sink } = world;
    world = World { gateway: gateway.pause(SignedDuration::from_secs(7200)).await, sink };
    world.pass(60);
    world.publish("job.done", json!({"job": "a"})).await;
    world.pass(240);
    let arrived = world.arrived(1).await;
    assert_eq!((arrived.len(), &arrived[0]["data"]["key"]), (1, &json!("b")));
}

#[tokio::test]
async fn a_pipeline_that_changes_keeps_what_its_steps_remember_unless_it_is_another_step() {
    let file = |step: &str| {
        format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             destinations:\n  - {{ name: sink, kind: webhook, url: \"http://127.0.0.1:9/\", signed: false }}\n\
             pipelines:\n  - {{ name: watch, steps: [ {step} ], routes: [{{ to: sink }}] }}\n"
        )
    };
    let gateway = Gateway::start(&file("{ detect.spike: { threshold: 9, window: 5m } }"), "").await;
    let reason = async || {
        let id = gateway.publish("a.b", json!({})).await;
        let record = gateway.get(&format!("/api/v1/events/{id}")).await.body;
        record["skipped"][0]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason().await, "1 of 9 in 5m");
    gateway
        .apply(&file("{ map: { a: b } }, { detect.spike: { threshold: 8, window: 5m } }"), "")
        .await;
    assert_eq!(reason().await, "2 of 8 in 5m");
    gateway.apply(&file("{ detect.spike: { threshold: 8, window: 6m } }"), "").await;
    assert_eq!(reason().await, "1 of 8 in 6m");
    assert_eq!(gateway.app.database.memories().await.unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_step_settings_are_refused_when_saved() {
    let world = World::new("{ map: { a: b } }").await;
    for (step, path) in [
        (json!({"detect.spike": {"window": "5m"}}), "detect.spike.threshold"),
        (json!({"detect.spike": {"threshold": 0, "window": "5m"}}), "detect.spike.threshold"),
        (json!({"detect.spike": {"threshold": 3}}), "detect.spike.window"),
        (json!({"detect.spike": {"threshold": 3, "window": "5ms"}}), "detect.spike.window"),
        (
            json!({"detect.spike": {"threshold": 3, "window": "month", "mode": "sliding"}}),
            "detect.spike.mode",
        ),
        (
            json!({"detect.spike": {"threshold": 3, "window": "5m", "into": "payload"}}),
            "detect.spike.into",
        ),
        (
            json!({"detect.spike": {"threshold": 3, "window": "5m", "key": "payload."}}),
            "detect.spike.key",
        ),
        (json!({"detect.absence": {}}), "detect.absence.every"),
        (json!({"detect.absence": {"every": "1h", "keys": ["a"]}}), "detect.absence"),
        (json!({"detect.absence": {"every": "1h", "type": "?"}}), "detect.absence.type"),
        (
            json!({"transform.js": {"source": "export default (it) => it", "on_error": "retry"}}),
            "transform.js.on_error",
        ),
    ] {
        let body = json!({"name": "other", "steps": [step], "routes": [{"to": "sink"}]});
        let answer = world.gateway.post("/api/v1/pipelines", body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(
            answer.body["errors"][0]["field"],
            format!("steps[0].{path}"),
            "{}",
            answer.body
        );
    }
}

const BROKEN: &str =
    "export default (event) => { if (event.payload.n > 1) throw Error('no'); return event; }";

#[tokio::test]
async fn a_script_that_fails_does_with_its_event_what_its_step_says() {
    for (on_error, went_on) in [("drop", 1), ("dead_letter", 1), ("continue", 2)] {
        let step = format!("{{ transform.js: {{ source: \"{BROKEN}\", on_error: {on_error} }} }}");
        let mark = "{ map: { n: \"{{ payload.n }}\", failed: \"{{ transform.status }}\" } }";
        let steps = if on_error == "continue" { format!("{step}, {mark}") } else { step };
        let world = World::new(&steps).await;
        for n in [1, 2] {
            world.gateway.publish("a.b", json!({"n": n})).await;
        }
        let arrived = world.arrived(went_on).await;
        world.gateway.idle().await;
        let states: Vec<Value> =
            world.gateway.deliveries().await.iter().map(|it| it["state"].clone()).collect();
        let counts = world
            .gateway
            .get("/api/v1/pipelines/watch/counts?until=2026-01-01T00:01:00Z")
            .await
            .body;
        let step = &counts["edges"][1];
        assert_eq!((&step["kind"], &step["total"]["in"]), (&json!("transform.js"), &json!(2)));
        assert_eq!(step["total"]["errored"], 1, "{counts}");
        match on_error {
            "drop" => assert_eq!(
                (states, &step["total"]["filtered"]),
                (vec![json!("delivered")], &json!(1))
            ),
            "dead_letter" => {
                assert_eq!(states, ["dead", "delivered"]);
                let dead = world.gateway.get("/api/v1/dead-letters").await.body;
                assert_eq!(dead["data"].as_array().unwrap().len(), 1);
            }
            _ => assert_eq!(arrived[1]["data"], json!({"n": 2, "failed": "failed"})),
        }
    }
}

#[tokio::test]
async fn a_pipeline_counts_what_passes_each_place_also_over_a_restart() {
    // Given a pipeline with steps of its own and of a route
    let pipeline = "when: payload.n != 0, steps: [ { filter.match: payload.n != 1 } ], routes: [ \
         { to: sink, when: payload.n != 2 }, { to: sink, steps: [ { filter.match: payload.n == 4 } ] } ]";
    let mut world = World::with(pipeline).await;
    // When events come in two minutes, with a restart in the first
    for n in 0..5 {
        world.gateway.publish("a.b", json!({"n": n})).await;
        if n == 2 {
            world = world.restart().await;
        }
    }
    world.pass(60);
    world.gateway.publish("a.b", json!({"n": 4})).await;
    world.pass(60);
    // Then each counts once at each place
    let counts =
        world.gateway.get("/api/v1/pipelines/watch/counts?since=2026-01-01T00:00:00Z").await;
    let found: Vec<Value> = counts.body["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let total = &it["total"];
            json!([
                it["route"],
                it["step"],
                total["in"],
                total["filtered"],
                total["errored"],
                total["out"]
            ])
        })
        .collect();
    let expected = [
        json!([null, null, 6, 1, 0, 5]),
        json!([null, 0, 5, 1, 0, 4]),
        json!([0, null, 4, 1, 0, 3]),
        json!([1, null, 4, 0, 0, 2]),
        json!([1, 0, 4, 2, 0, 2]),
    ];
    assert_eq!(found, expected, "{}", counts.body);
    let step = &counts.body["edges"][4];
    assert_eq!(
        (&step["to"], &step["kind"], &step["version"]),
        (&json!("sink"), &json!("filter.match"), &json!(1))
    );
    let points = [
        json!({"start": "2026-01-01T00:00:00Z", "in": 3, "filtered": 2, "errored": 0, "out": 1}),
        json!({"start": "2026-01-01T00:01:00Z", "in": 1, "filtered": 0, "errored": 0, "out": 1}),
    ];
    assert_eq!(step["points"], json!(points));
    let wrong = world.gateway.get("/api/v1/pipelines/watch/counts?step=0.5").await;
    assert_eq!(wrong.status, 400);
}
