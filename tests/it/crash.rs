//! `kill -9` at random moments under load: nothing that was accepted is lost, nothing comes twice
//! that was not in flight, and no order is broken.
//!
//! Forty cycles; `make crash` runs a thousand. The judge is a separate program, `tests/checker`.

#[path = "../crash/random.rs"]
pub mod random;
#[path = "../crash/logs.rs"]
pub mod logs;
#[path = "../crash/http.rs"]
pub mod http;
#[path = "../crash/gateway.rs"]
pub mod gateway;
#[path = "../crash/receiver.rs"]
pub mod receiver;
#[path = "../crash/sender.rs"]
pub mod sender;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gateway::{Gateway, Setup};
use indicatif::{ProgressBar, ProgressStyle};
use logs::{Bounds, Fault, Judged, Log, judge, now_ns};
use random::Random;
use receiver::{Manner, Receiver};
use sender::Sender;
use tokio::{sync::watch, task::JoinHandle};

use crate::harness::cluster::Cluster;

const CONCURRENCY: u64 = 16;
/// Settlements that may wait for the disk: what has been delivered and may come twice nonetheless.
pub const UNSETTLED_AT_MOST: u64 = 16;
const PLAIN_LANES: usize = 6;
const ORDERED_LANES: usize = 2;

/// How long before a kill a delivery may have arrived without having been settled: generous, since
/// the tests of a whole machine may be running beside this one. The count is what is strict.
const UNSETTLED_FOR: Duration = Duration::from_secs(5);
const BOUNDS: Bounds = Bounds { unsettled: UNSETTLED_FOR, resumed: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_it_is_killed_at_random_moments() {
    let cycles = std::env::var("CRASH_CYCLES").map_or(40, |text| text.parse().unwrap());
    survives("crash", cycles, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_it_or_its_database_is_killed_at_random_moments() {
    let cycles = std::env::var("CRASH_CYCLES").map_or(12, |text| text.parse().unwrap());
    let cluster = Cluster::start();
    survives("crash-postgres", cycles, Some(&cluster)).await;
}

/// With a database of our own, or with the embedded store.
async fn survives(suite: &str, cycles: u64, cluster: Option<&Cluster>) {
    // Given senders, a receiver, and a gateway that events pass through
    let seed = Random::seed("CRASH_SEED");
    eprintln!("crash: CRASH_SEED={seed} CRASH_CYCLES={cycles}");
    let folder = folder(suite, seed);
    let mut random = Random::new(seed);
    let receiver = Receiver::start(&folder.join("received.ndjson"), random.next(), || 0).await;
    receiver.behave("plain-a", Manner { refuses_percent: 1, holds_back_ms: 0 });
    receiver.behave("plain-b", Manner { refuses_percent: 0, holds_back_ms: 10 });
    receiver.behave("ordered", Manner { refuses_percent: 1, holds_back_ms: 0 });
    let mut setup = setup(&folder, &resources(&receiver), 500);
    if let Some(cluster) = cluster {
        setup.environment.retain(|it| !it.0.starts_with("TIDEGATE_STORE"));
        setup.environment.push(("TIDEGATE_STORE", cluster.url("postgres")));
        setup.environment.push(("TIDEGATE_POSTGRES__PARTITION_EVENTS", "500".to_owned()));
    }
    let sent = Arc::new(Log::create(&folder.join("sent.ndjson")));
    let (at, gateways) = watch::channel(Vec::new());
    let (stop, stopped) = watch::channel(false);
    let senders = senders(seed, &mut random, &sent, &gateways, &stopped);

    // When it is killed again and again
    let kills = kill_again_and_again(cycles, &mut random, &setup, &receiver, &at, cluster).await;

    // Then, once it is left in peace, everything arrives, and the judge finds nothing
    let last = Gateway::start(&setup).await;
    at.send_replace(vec![last.address]);
    stop.send_replace(true);
    let mut accepted = [0, 0];
    for (kind, lanes) in senders.into_iter().enumerate() {
        for lane in lanes {
            accepted[kind] += lane.await.unwrap() as usize;
        }
    }
    let [plain, ordered] = accepted;
    let expected = [("plain-a", plain + ordered), ("plain-b", plain), ("ordered", ordered)];
    let all = || expected.iter().all(|(endpoint, count)| receiver.taken(endpoint) >= *count);
    let drained = receiver.drained(all, Duration::from_secs(20)).await;
    last.kill();
    receiver.flush();
    sent.flush();
    let verdict = judge(&folder, &judged(), &kills, &BOUNDS);
    eprintln!("{}", verdict.text);
    assert!(verdict.kept, "CRASH_SEED={seed}, logs in {}\n{}", folder.display(), verdict.text);
    assert!(drained, "not everything arrived; logs in {}", folder.display());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Returns the kills.
async fn kill_again_and_again(
    cycles: u64,
    random: &mut Random,
    setup: &Setup,
    receiver: &Receiver,
    at: &watch::Sender<Vec<SocketAddr>>,
    cluster: Option<&Cluster>,
) -> Vec<Fault> {
    let template = "{bar:40} {pos}/{len} kills, {eta} left";
    let bar = ProgressBar::new(cycles);
    bar.set_style(ProgressStyle::with_template(template).unwrap());
    let mut kills = Vec::new();
    for _ in 0..cycles {
        let gateway = if random.percent(10) {
            // In the middle of its start, perhaps, where it puts right what the last kill has left.
            let gateway = Gateway::spawn(setup);
            tokio::time::sleep(Duration::from_millis(random.below(150))).await;
            gateway
        } else {
            let gateway = Gateway::start(setup).await;
            at.send_replace(vec![gateway.address]);
            // This is no wait for something: the moment of the kill is what is drawn.
            tokio::time::sleep(Duration::from_millis(50 + random.below(450))).await;
            if let Some(cluster) = cluster
                && random.percent(40)
            {
                // As after a power cut, under a gateway that goes on.
                cluster.stop();
                tokio::time::sleep(Duration::from_millis(random.below(300))).await;
                cluster.resume();
                tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
            }
            gateway
        };
        gateway.kill();
        at.send_replace(Vec::new());
        receiver.quiet().await;
        kills.push(Fault::kill(now_ns()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    kills
}

/// The plain lanes and the ordered ones.
fn senders(
    run: u64,
    random: &mut Random,
    log: &Arc<Log>,
    gateways: &watch::Receiver<Vec<SocketAddr>>,
    stop: &watch::Receiver<bool>,
) -> [Vec<JoinHandle<u64>>; 2] {
    let mut start = |kind: &str, event_type, lane: usize, rest: u64| {
        // One lane of each kind posts in batches.
        let (batch, rest) = if lane == 0 { (16, rest * 8) } else { (1, rest) };
        let sender = Sender {
            lane: format!("{kind}-{lane}"),
            event_type,
            run,
            random: Random::new(random.next()),
            log: log.clone(),
            project: gateway::PROJECT,
            source: "app",
            gateways: gateways.clone(),
            patience: Duration::from_secs(20),
            stop: stop.clone(),
            rest: Duration::from_millis(rest),
            most: u64::MAX,
            batch,
            position: Arc::new(|| 0),
            failed: None,
        };
        tokio::spawn(sender.run())
    };
    let plain = (0..PLAIN_LANES).map(|lane| start("plain", "plain.sent", lane, 4)).collect();
    // One after the other is slow: more would only pile up.
    let ordered =
        (0..ORDERED_LANES).map(|lane| start("ordered", "ordered.sent", lane, 16)).collect();
    [plain, ordered]
}

fn resources(receiver: &Receiver) -> String {
    let retry = "{ exponential: { base: 20ms, factor: 1.5, max: 200ms, attempts: 1000 } }";
    let destination = |name: &str, ordering: &str| {
        let url = receiver.url(name);
        format!(
            "  - {{ name: {name}, kind: webhook, url: \"{url}\", ordering: {ordering}, \
             concurrency: {CONCURRENCY}, retry: {retry} }}\n"
        )
    };
    format!(
        "version: 1\nproject: crash\nsources:\n  - {{ name: app, kind: api }}\ndestinations:\n{}{}{}\
         pipelines:\n\
         \x20 - {{ name: all, on: [\"*\"], routes: [ {{ to: plain-a }} ] }}\n\
         \x20 - {{ name: plain, on: [plain.sent], routes: [ {{ to: plain-b }} ] }}\n\
         \x20 - {{ name: ordered, on: [ordered.sent], routes: [ {{ to: ordered }} ] }}\n",
        destination("plain-a", "none"),
        destination("plain-b", "none"),
        destination("ordered", "fifo"),
    )
}

fn judged() -> [Judged; 3] {
    let in_flight = CONCURRENCY + UNSETTLED_AT_MOST;
    [
        Judged { name: "plain-a", lanes: "", order: "none", in_flight },
        Judged { name: "plain-b", lanes: "plain-", order: "none", in_flight },
        Judged { name: "ordered", lanes: "ordered-", order: "fifo", in_flight: 1 },
    ]
}

/// A new folder for the data and logs of one run. It stays when the run finds something.
pub fn folder(suite: &str, seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{suite}-{seed}"));
    // What is left of an earlier run of the same seed.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// How a gateway is started for these suites: with files that hold so few events that new ones are
/// begun, and old ones sealed, all the time.
pub fn setup(folder: &Path, resources: &str, segment_events: u64) -> Setup {
    let path = folder.join("resources.yaml");
    std::fs::write(&path, resources).unwrap();
    Setup {
        data: folder.join("data"),
        resources: path,
        log: folder.join("gateway.txt"),
        environment: vec![
            ("TIDEGATE_DISPATCH__UNSETTLED_AT_MOST", UNSETTLED_AT_MOST.to_string()),
            ("TIDEGATE_STORE__SEGMENT_EVENTS", segment_events.to_string()),
            // What is held back for a full disk would only be copied about.
            ("TIDEGATE_STORE__RESERVE_BYTES", (64 << 10).to_string()),
        ],
    }
}
