//! What steps remember goes with the work: they count, and tell once, whichever node does it.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    database,
    node::{Node, eventually},
};
use crate::harness::sink::Sink;

/// So many that each of two nodes plans for some.
const PROJECTS: usize = 8;

fn name(project: usize) -> String {
    format!("project-{project}")
}

/// A project for each number, whose one pipeline has this step.
async fn apply(node: &Node, step: &str, sink: &Sink) {
    for project in (0..PROJECTS).map(name) {
        let resources = format!(
            "version: 1\nproject: {project}\nsources: [{{ name: app, kind: api }}]\n\
             destinations: [{{ name: sink, kind: webhook, url: \"${{URL}}\", signed: false }}]\n\
             pipelines: [{{ name: watch, steps: [{step}], routes: [{{ to: sink }}] }}]\n"
        );
        node.apply(&resources, &sink.url(&format!("/{project}"))).await;
    }
}

async fn post(node: &Node, project: usize, number: usize) {
    let event = json!({"type": "login.failed", "payload": {"user": "ann", "n": number}});
    let path = format!("/api/v1/events?project={}", name(project));
    node.caller.post(&path, &event).await.expect(202);
}

/// How often each project told something.
fn told(sink: &Sink) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for it in sink.received() {
        *told.entry(it.path.clone()).or_default() += 1;
    }
    told
}

fn each_once() -> BTreeMap<String, usize> {
    (0..PROJECTS).map(|it| (format!("/{}", name(it)), 1)).collect()
}

async fn nothing_is_left(node: &Node) {
    eventually("everything is done", async || {
        let view = node.cluster().await;
        view["unheld"] == 0 && view["unplanned"] == 0 && view["owed"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spike_is_told_once_although_a_node_that_counted_is_killed() {
    // Given watches on ten failed logins, for which two nodes plan
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    one.holds(16).await;
    apply(&one, "{ detect.spike: { key: payload.user, threshold: 10, window: 1h } }", &sink).await;
    let two = Node::start("two", &database).await;
    two.holds(8).await;

    // When some come, one node is killed, and more come than are needed
    for number in 0..6 {
        for project in 0..PROJECTS {
            post(if number % 2 == 0 { &one } else { &two }, project, number).await;
        }
    }
    two.kill();
    for number in 6..14 {
        for project in 0..PROJECTS {
            post(&one, project, number).await;
        }
    }
    // Then each has told once, with its tenth event
    nothing_is_left(&one).await;
    assert_eq!(told(&sink), each_once());
    for it in sink.received() {
        assert_eq!(it.json()["data"]["spike"]["count"], 10, "{}", it.json());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absence_is_told_once_although_nodes_come_and_go() {
    // Given jobs that never report, for which two nodes plan
    let (database, sink) = (database(), Sink::new().await);
    let one = Node::start("one", &database).await;
    one.holds(16).await;
    let two = Node::start("two", &database).await;
    two.holds(8).await;
    let step = "{ detect.absence: { key: payload.job, every: 2s, grace: 0s, keys: [backup] } }";
    apply(&one, step, &sink).await;
    // When one node is killed before their time is over, and another comes
    two.kill();
    let three = Node::start("three", &database).await;
    eventually("all have been told", async || told(&sink).len() == PROJECTS).await;
    three.holds(8).await;
    one.stop().await;
    three.holds(16).await;
    // Then each is told once
    nothing_is_left(&three).await;
    assert_eq!(told(&sink), each_once());
}
