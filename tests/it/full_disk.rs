//! A disk that fills under load, under the real program: events are refused, everything that was accepted is
//! delivered without a free byte, people can look, a start works, and room heals.
//!
//! A small disk in `make test`; `make fulldisk` has 192 MB and 100,000 pending deliveries.

use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    crash::{
        folder,
        gateway::{Gateway, Setup},
        http::Connection,
        random::Random,
        receiver::Receiver,
        setup,
    },
    harness::small_disk::{SmallDisk, again_with_the_right_to_mount},
};

/// So long after the last arrival, nothing more is expected.
const STALL: Duration = Duration::from_secs(20);

/// R6, R7, R8, R12 of the reliability faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pending_is_delivered_without_a_free_byte() {
    let megabytes: u64 = std::env::var("FULL_DISK_MB").map_or(16, |it| it.parse().unwrap());
    let Some(disk) = SmallDisk::mount(megabytes) else {
        return again_with_the_right_to_mount(
            "full_disk::all_pending_is_delivered_without_a_free_byte",
        );
    };
    // Given a gateway whose destination is paused while its disk fills under load,
    let folder = folder("full-disk", Random::seed("FULL_DISK_SEED"));
    let receiver = Receiver::start(&folder.join("received.ndjson"), 1, || 0).await;
    let setup = on(&disk, &folder, &receiver, megabytes);
    let gateway = Gateway::start(&setup).await;
    let mut connection = Connection::open(gateway.address).await.unwrap();
    done(connection.post("/api/v1/destinations/live/pause", "{}".to_owned()).await.unwrap());
    let accepted = fill(&mut connection).await;
    eprintln!("fulldisk: {} pending on {megabytes} MB", accepted.len());
    assert!(megabytes < 192 || accepted.len() >= 100_000, "only {}", accepted.len());
    // and with another program that takes what is left,
    let ballast = disk.0.path().join("ballast");
    take_the_rest(&ballast);
    assert_eq!(post(&mut connection).await, 507);

    // then people can look, and see what is pending;
    look(&mut connection, accepted.len() as u64).await;
    // an idle gateway writes next to nothing;
    writes_little(&gateway).await;
    // it is delivered, though that other program takes what becomes free,
    done(connection.post("/api/v1/destinations/live/resume", "{}".to_owned()).await.unwrap());
    let half = || receiver.taken("live") >= accepted.len() / 2;
    assert!(receiver.drained(half, STALL).await, "{} arrived", receiver.taken("live"));
    take_the_rest(&ballast);
    look(&mut connection, 0).await;
    // also by a process that is started on the full disk,
    gateway.kill();
    receiver.quiet().await;
    take_the_rest(&ballast);
    let gateway = start(&setup).await;
    let all = || accepted.iter().all(|id| receiver.has_taken("live", id));
    let is_drained = receiver.drained(all, STALL).await;
    assert!(is_drained, "{} of {} arrived", receiver.taken("live"), accepted.len());
    let mut connection = Connection::open(gateway.address).await.unwrap();
    look(&mut connection, 0).await;
    no_longer_pending(&mut connection).await;

    // and where there is room again, events are accepted.
    disk.resize(2 * megabytes);
    let begun = Instant::now();
    while post(&mut connection).await != 202 {
        assert!(begun.elapsed() < STALL, "it does not heal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.kill();
    receiver.quiet().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

fn on(disk: &SmallDisk, folder: &Path, receiver: &Receiver, megabytes: u64) -> Setup {
    let url = receiver.url("live");
    let resources = format!(
        "version: 1\nproject: crash\nsources:\n  - {{ name: app, kind: api }}\ndestinations:\n  \
         - {{ name: live, kind: webhook, url: \"{url}\" }}\npipelines:\n  \
         - {{ name: all, on: [\"*\"], routes: [ {{ to: live }} ] }}\n"
    );
    let mut setup = setup(folder, &resources, 500_000);
    setup.data = disk.0.path().join("data");
    setup.environment.retain(|it| it.0 != "TIDEGATE_STORE__RESERVE_BYTES");
    if megabytes < 192 {
        let reserve = (megabytes << 20) / 8;
        setup.environment.push(("TIDEGATE_STORE__RESERVE_BYTES", reserve.to_string()));
    }
    setup
}

/// It says that it is not ready, since it takes no events.
async fn start(setup: &Setup) -> Gateway {
    let gateway = Gateway::spawn(setup);
    let begun = Instant::now();
    while !matches!(Connection::get(gateway.address, "/healthz").await, Ok(200)) {
        if begun.elapsed() > STALL {
            let log = std::fs::read_to_string(&setup.log).unwrap();
            panic!("it does not start: …{}", &log[log.len().saturating_sub(3000)..]);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway
}

fn done((status, body): (u16, bytes::Bytes)) -> Value {
    assert!(matches!(status, 200..=299), "{status} {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap_or_default()
}

async fn post(connection: &mut Connection) -> u16 {
    let event = json!({"type": "plain.sent", "payload": {"lane": "l", "n": 0}});
    connection.post("/api/v1/events", event.to_string()).await.unwrap().0
}

/// Posts until the disk is full. Returns the ids of what was accepted.
async fn fill(connection: &mut Connection) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let event = |n| {
            let mut noise = [0; 60];
            getrandom::fill(&mut noise).unwrap();
            json!({"type": "plain.sent", "payload": {"lane": "l", "n": n, "noise": hex::encode(noise)}})
        };
        let batch: Vec<_> = (0..200).map(event).collect();
        let body = json!(batch).to_string();
        let (status, body) = connection.post("/api/v1/events/batch", body).await.unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        if status == 507 {
            return ids;
        }
        assert_eq!(status, 202, "{answer}");
        let taken = answer["results"].as_array().unwrap().iter();
        ids.extend(taken.map(|it| it["id"].as_str().unwrap().to_owned()));
    }
}

/// Every byte that is free.
fn take_the_rest(ballast: &Path) {
    let mut file = std::fs::File::options().create(true).append(true).open(ballast).unwrap();
    for size in [64 << 10, 4 << 10, 64] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

/// What people look at answers.
async fn look(connection: &mut Connection, pending: u64) {
    let begun = Instant::now();
    while pending_now(connection).await < pending {
        assert!(begun.elapsed() < STALL, "not all {pending} are pending");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for path in [
        "/api/v1/events?limit=5",
        "/api/v1/deliveries?limit=5",
        "/api/v1/deliveries?state=pending&limit=5",
        "/api/v1/dead-letters",
        "/api/v1/destinations",
    ] {
        let begun = Instant::now();
        done(connection.read(path).await.unwrap());
        assert!(begun.elapsed() < Duration::from_secs(5), "{path} took {:?}", begun.elapsed());
    }
    assert_eq!(Connection::get(connection.address, "/healthz").await.unwrap(), 200);
}

async fn no_longer_pending(connection: &mut Connection) {
    let begun = Instant::now();
    while pending_now(connection).await > 0 {
        assert!(begun.elapsed() < STALL, "something is still pending");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pending_now(connection: &mut Connection) -> u64 {
    let status = done(connection.read("/api/v1/status").await.unwrap());
    status["destinations"][0]["owed"].as_u64().unwrap()
}

/// A gateway that has nothing to do on a full disk asks the file system, and does not fill it.
async fn writes_little(gateway: &Gateway) {
    const WHILE: Duration = Duration::from_secs(2);
    let io = format!("/proc/{}/io", gateway.id());
    let written = || -> u64 {
        let text = std::fs::read_to_string(&io).unwrap();
        let line = text.lines().find_map(|it| it.strip_prefix("wchar: ")).unwrap();
        line.parse().unwrap()
    };
    let before = written();
    // Nothing is waited for: this is how long it is watched.
    tokio::time::sleep(WHILE).await;
    let bytes = written() - before;
    assert!(bytes < 1 << 20, "{bytes} bytes in {WHILE:?}");
}
