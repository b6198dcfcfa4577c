//! What passes through the nodes: the events of several projects, from several sources, to endpoints
//! with and without order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::crash::{
    UNSETTLED_AT_MOST,
    http::Connection,
    logs::{Judged, Log},
    random::Random,
    receiver::{Manner, Receiver},
    sender::Sender,
};

const PROJECTS: [&str; 3] = ["acme", "birch", "cedar"];
const CONCURRENCY: u64 = 8;
/// Sender's lanes of each kind in a project.
const KINDS: [(&str, &str, u64); 3] =
    [("plain", "plain.sent", 2), ("fifo", "fifo.sent", 2), ("key", "key.sent", 3)];
/// After each event of a lane, at most.
const REST: Duration = Duration::from_millis(150);
/// A sender that hears nothing for so long asks another node.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every endpoint, as the judge is told of it: of each project one that gets all of its events in any
/// order, one that gets some in the order of their acceptance, and one with a lane for each sender.
pub fn endpoints() -> Vec<Judged> {
    let name = |project: &str, kind: &str| &*String::leak(format!("{project}-{kind}"));
    let of_project = |project: &&'static str| {
        let project = *project;
        let all = name(project, "");
        KINDS.map(|(kind, _, lanes)| match kind {
            "plain" => Judged {
                name: name(project, kind),
                lanes: all,
                order: "none",
                in_flight: CONCURRENCY + UNSETTLED_AT_MOST,
            },
            "fifo" => Judged {
                name: name(project, kind),
                lanes: name(project, "fifo-"),
                order: "fifo",
                in_flight: 1,
            },
            // One of each lane.
            kind => Judged {
                name: name(project, kind),
                lanes: name(project, "key-"),
                order: "key",
                in_flight: lanes,
            },
        })
    };
    PROJECTS.iter().flat_map(of_project).collect()
}

/// How the endpoints answer: some slowly, some with a refusal now and then.
pub fn behave(receiver: &Receiver) {
    for (number, endpoint) in endpoints().into_iter().enumerate() {
        let refuses_percent = if number % 2 == 0 { 1 } else { 0 };
        receiver.behave(endpoint.name, Manner { refuses_percent, holds_back_ms: 10 });
    }
}

/// The resources of each project, as files.
pub fn resources(receiver: &Receiver) -> [String; PROJECTS.len()] {
    PROJECTS.map(|project| {
        let retry = "{ exponential: { base: 20ms, factor: 1.5, max: 200ms, attempts: 1000 } }";
        let destination = |kind: &str, ordering: &str| {
            let url = receiver.url(&format!("{project}-{kind}"));
            format!(
                "  - {{ name: {kind}, kind: webhook, url: \"{url}\", ordering: {ordering}, \
                 concurrency: {CONCURRENCY}, retry: {retry} }}\n"
            )
        };
        format!(
            "version: 1\nproject: {project}\nsources:\n  - {{ name: app, kind: api }}\n  \
             - {{ name: web, kind: api }}\ndestinations:\n{}{}{}pipelines:\n\
             \x20 - {{ name: all, on: [\"*\"], routes: [ {{ to: plain }} ] }}\n\
             \x20 - {{ name: fifo, on: [fifo.sent], routes: [ {{ to: fifo }} ] }}\n\
             \x20 - {{ name: key, on: [key.sent], routes: [ {{ to: key }} ] }}\n",
            destination("plain", "none"),
            destination("fifo", "fifo"),
            destination("key", "{ key: payload.lane }"),
        )
    })
}

/// Makes the projects that the nodes were not started with.
pub async fn apply(node: SocketAddr, files: &[String]) {
    for file in files {
        let mut connection = Connection::open(node).await.unwrap();
        let applied = connection.post_as("application/yaml", "/api/v1/apply", file.clone()).await;
        let (status, body) = applied.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
}

/// Waits until a node knows all projects.
pub async fn knows_all(node: SocketAddr) {
    for project in PROJECTS {
        let begun = std::time::Instant::now();
        loop {
            let mut connection = Connection::open(node).await.unwrap();
            connection.project = project;
            // Two routes at least are there when the last of its resources is.
            if let Ok((200, body)) = connection.read("/api/v1/pipelines/key").await {
                drop(body);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{node} does not know {project}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A lane that posts, which in the end says how many events were acknowledged.
pub struct Lane {
    pub name: String,
    pub task: JoinHandle<u64>,
}

pub fn send(
    run: u64,
    random: &mut Random,
    log: &Arc<Log>,
    gateways: &watch::Receiver<Vec<SocketAddr>>,
    stop: &watch::Receiver<bool>,
) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for project in PROJECTS {
        for (kind, event_type, count) in KINDS {
            for number in 0..count {
                let name = format!("{project}-{kind}-{number}");
                let sender = Sender {
                    lane: name.clone(),
                    event_type,
                    run,
                    random: Random::new(random.next()),
                    log: log.clone(),
                    project,
                    source: if number % 2 == 0 { "app" } else { "web" },
                    gateways: gateways.clone(),
                    patience: PATIENCE,
                    stop: stop.clone(),
                    rest: REST,
                    most: u64::MAX,
                    // One plain lane posts in batches.
                    batch: if (kind, number) == ("plain", 0) { 8 } else { 1 },
                    position: Arc::new(|| 0),
                    failed: None,
                };
                lanes.push(Lane { name, task: tokio::spawn(sender.run()) });
            }
        }
    }
    lanes
}
