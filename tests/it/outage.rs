//! The database of a gateway goes away in every way that databases do. Senders hear 503 and never
//! 2xx, nothing that was accepted is lost or sent twice, and all of it heals by itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::header;
use serde_json::json;
use tempfile::TempDir;
use tidegate::{
    app::{App, Parts},
    clock::SystemClock,
    config::Config,
    crypto::SystemRandom,
    destinations::egress::SystemResolver,
    model::Secret,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::harness::{
    PATIENCE,
    caller::{Answer, Caller},
    gateway::{ADMIN_KEY, file},
    postgres::Postgres,
    sink::{self, Sink},
    wire::Wire,
};

/// All is well again after so long, whatever happened.
const HEALED: Duration = Duration::from_secs(10);
/// Nobody waits longer for an answer.
const BOUND: Duration = Duration::from_secs(10);

pub struct World {
    pub app: App,
    pub caller: Caller,
    pub sink: Sink,
    pub folder: TempDir,
}

impl World {
    pub async fn on(database: &str, sink: Sink) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), Some(database), sink).await
    }

    /// With the embedded store, where there is no database.
    pub async fn in_folder(folder: TempDir, database: Option<&str>, sink: Sink) -> Self {
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().to_owned(),
            database: database.map(|it| it.parse().unwrap()),
            ..Config::default()
        };
        config.egress.allow_nets.push("127.0.0.0/8".parse().unwrap());
        config.postgres.shards = 16;
        let parts = Parts {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            resolver: Arc::new(SystemResolver::default()),
            admin_key: Some(Secret::new(ADMIN_KEY)),
            master_key: None,
        };
        let resources = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
             destinations: [{ name: sink, kind: webhook, url: \"${URL}\", secret: \"${SECRET}\" }]\n\
             pipelines: [{ name: all, routes: [{ to: sink }] }]\n";
        let resources = file(resources, &sink.url("/"));
        let app = App::start(config, parts, Some(&resources)).await.unwrap();
        let caller = Caller::at(app.address, Some(ADMIN_KEY));
        Self { app, caller, sink, folder }
    }

    pub async fn post(&self, key: &str) -> Answer {
        post(&self.caller, key).await
    }

    /// Everything that people and machines ask says that the store is unavailable, and soon.
    async fn says_503_everywhere(&self) {
        let begun = Instant::now();
        let answer = self.post("never").await.expect(503);
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert_eq!(answer.problem(), "unavailable");
        for path in [
            "/api/v1/events?project=acme",
            "/api/v1/deliveries?project=acme&state=pending",
            "/api/v1/attempts?project=acme",
            "/api/v1/destinations/sink/stats?project=acme",
            "/api/v1/pipelines/all/counts?project=acme",
            "/api/v1/directory/people?project=acme",
            "/api/v1/events/evt_01h455vb4pex5vsknk084sn02q?project=acme",
            "/readyz",
        ] {
            let begun = Instant::now();
            let answer = self.caller.get(path).await.expect(503);
            assert!(begun.elapsed() < BOUND, "{path} {:?}", begun.elapsed());
            assert_eq!(answer.problem(), "unavailable", "{path}");
            assert!(answer.headers.contains_key(header::RETRY_AFTER), "{path}");
        }
        // What needs no database goes on
        self.caller.get("/healthz").await.expect(200);
        self.caller.get("/api/v1/destinations?project=acme").await.expect(200);
        let metrics = self.caller.get("/metrics").await.expect(200).text;
        assert!(metrics.contains("tidegate_store_reachable"), "{metrics}");
    }

    async fn heals(&self) {
        let begun = Instant::now();
        while self.caller.get("/readyz").await.status != 200 {
            assert!(begun.elapsed() < HEALED, "it does not heal");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while self.post("healed").await.status != 202 {
            assert!(begun.elapsed() < HEALED, "it does not heal");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.caller.get("/api/v1/events?project=acme").await.expect(200);
    }

    /// Everything that was accepted arrives, with all of it on disk, and each just once.
    async fn delivers_each_once(&self, accepted: &BTreeMap<String, String>) {
        let begun = Instant::now();
        loop {
            let received = self.received();
            let missing = accepted.keys().filter(|it| !received.contains_key(*it)).count();
            let open = self.count("pending").await + self.count("retrying").await;
            if missing == 0 && open == 0 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{missing} are missing, {open} are open");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (key, ids) in self.received() {
            assert_eq!(ids.len(), 1, "{key} was sent as {ids:?}");
        }
        for (key, id) in accepted {
            let again = self.post(key).await.json();
            assert_eq!(again["id"], id.as_str(), "the key counts once");
        }
    }

    /// The message ids of each request, by the key of its event.
    pub fn received(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for it in self.sink.received() {
            let key = it.json()["data"]["key"].as_str().unwrap().to_owned();
            all.entry(key).or_default().push(it.header("webhook-id").to_owned());
        }
        all
    }

    async fn count(&self, state: &str) -> usize {
        let path = format!("/api/v1/deliveries?project=acme&state={state}");
        let answer = self.caller.get(&path).await.expect(200).json();
        answer["data"].as_array().unwrap().len()
    }

    /// Senders that offer each event until it is accepted; they end when the switch is turned.
    fn senders(&self) -> (watch::Sender<bool>, Vec<JoinHandle<BTreeMap<String, String>>>) {
        let (stop, stopped) = watch::channel(false);
        let senders = (0..4).map(|sender| {
            let (caller, stopped) = (self.caller.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut accepted = BTreeMap::new();
                for number in 0.. {
                    let key = format!("{sender}-{number}");
                    loop {
                        let answer = post(&caller, &key).await;
                        if answer.status.is_success() {
                            accepted.insert(key, answer.json()["id"].as_str().unwrap().to_owned());
                            break;
                        }
                        assert!(matches!(answer.status.as_u16(), 503 | 429), "{answer:?}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    if *stopped.borrow() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                accepted
            })
        });
        (stop, senders.collect())
    }
}

async fn post(caller: &Caller, key: &str) -> Answer {
    let body = json!({"type": "a.b", "payload": {"key": key}, "idempotency_key": key});
    caller.post("/api/v1/events?project=acme", &body).await
}

async fn joined(
    (stop, senders): (watch::Sender<bool>, Vec<JoinHandle<BTreeMap<String, String>>>),
) -> BTreeMap<String, String> {
    stop.send_replace(true);
    let mut accepted = BTreeMap::new();
    for sender in senders {
        accepted.extend(sender.await.unwrap());
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_senders_hear_503_and_what_is_in_flight_ends_once() {
    // Given a gateway whose database ends while an attempt is under way
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let world = World::on(&database, Sink::holding(|_| sink::Answer::status(200)).await).await;
    let id = world.post("in flight").await.expect(202).json()["id"].as_str().unwrap().to_owned();
    world.sink.received_at_least(1).await;
    postgres.stop("QUIT");
    // Then everybody is told, whether or not the gateway has had to do with the database since
    world.says_503_everywhere().await;
    // And what the endpoint answers meanwhile counts, when the database is back
    world.sink.release(1000);
    postgres.start();
    world.heals().await;
    world.delivers_each_once(&BTreeMap::from([("in flight".to_owned(), id)])).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_traffic_knows_whether_its_database_is_there() {
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let world = World::on(&database, Sink::new().await).await;
    for _ in 0..2 {
        postgres.stop("KILL");
        let begun = Instant::now();
        while world.caller.get("/readyz").await.status != 503 {
            assert!(begun.elapsed() < HEALED, "it does not notice");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        postgres.start();
        let begun = Instant::now();
        while world.caller.get("/readyz").await.status != 200 {
            assert!(begun.elapsed() < HEALED, "it does not heal");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_terminated_under_load_lose_nothing_and_send_nothing_twice() {
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let world = World::on(&database, Sink::new().await).await;
    let senders = world.senders();
    for round in 1..=8 {
        world.sink.received_at_least(round * 20).await;
        postgres.terminate_sessions().await;
    }
    world.heals().await;
    world.delivers_each_once(&joined(senders).await).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_restarted_under_load_loses_nothing_and_sends_nothing_twice() {
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let world = World::on(&database, Sink::new().await).await;
    let senders = world.senders();
    for (round, signal) in (1..).zip(["QUIT", "INT", "QUIT"]) {
        world.sink.received_at_least(round * 20).await;
        postgres.stop(signal);
        postgres.start();
    }
    world.heals().await;
    world.delivers_each_once(&joined(senders).await).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_accepts_connections_and_hangs_is_away_too() {
    let postgres = Postgres::new();
    let wire = Wire::to(postgres.port()).await;
    let database = postgres.database().await;
    let database = database.replace(&postgres.port().to_string(), &wire.port().to_string());
    let world = World::on(&database, Sink::new().await).await;
    let senders = world.senders();
    world.sink.received_at_least(20).await;

    wire.hold(true);
    world.says_503_everywhere().await;
    wire.hold(false);

    world.heals().await;
    world.delivers_each_once(&joined(senders).await).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_follows_a_promoted_standby() {
    // Given a server, and one that has whatever is committed there
    let first = Postgres::with(|_| vec!["synchronous_standby_names=*".to_owned()]);
    let second = first.standby();
    let database = first.database().await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", second.port(), first.port());
    let database = database.replace(&format!("127.0.0.1:{}", first.port()), &hosts);
    let database = format!("{database}&target_session_attrs=read-write");
    let world = World::on(&database, Sink::new().await).await;
    let senders = world.senders();
    world.sink.received_at_least(20).await;
    // When the first is gone, Then nothing is accepted before the other one may be written
    first.stop("KILL");
    world.says_503_everywhere().await;
    let before = world.sink.received().len();
    second.promote();
    world.heals().await;
    world.sink.received_at_least(before + 20).await;
    world.delivers_each_once(&joined(senders).await).await;
    world.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_written_any_more_is_left() {
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let world = World::on(&database, Sink::new().await).await;
    let senders = world.senders();
    world.sink.received_at_least(20).await;
    let read_only =
        |is_on: &str| format!("ALTER SYSTEM SET default_transaction_read_only = {is_on}");
    postgres.run("postgres", &read_only("on")).await;
    postgres.run("postgres", "SELECT pg_reload_conf()").await;
    let begun = Instant::now();
    while world.caller.get("/readyz").await.status != 503 {
        assert!(begun.elapsed() < HEALED, "it does not notice");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.says_503_everywhere().await;
    // And used again when it can
    postgres.run("postgres", &read_only("off")).await;
    postgres.run("postgres", "SELECT pg_reload_conf()").await;
    world.heals().await;
    world.delivers_each_once(&joined(senders).await).await;
    world.app.stop().await;
}
