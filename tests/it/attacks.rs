//! Senders that want to use the gateway up, each at its worst, and one honest sender beside them.
//!
//! `make test` runs each attack for seconds and holds what it may cost in memory and on disk, and that
//! the honest sender is accepted. `make attacks` runs a release build for longer, and holds the times
//! of its answers as well: they mean nothing in a debug build on a busy machine.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::cli::{
    gateway::{ADMIN_KEY, Serving},
    program::{run, stderr},
};

const MOST_MEMORY: u64 = 512 << 20;
/// What the files of a store take before anything is in them, and what is written ahead.
const DISK_AT_REST: u64 = 64 << 20;
const MEDIAN: Duration = Duration::from_millis(100);
const P99: Duration = Duration::from_secs(1);
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

const HONEST: &str = "version: 1\nproject: honest\nsources: [{ name: app, kind: api }]\n";
/// Twelve routes, as many as the report had, each with a condition that is dear.
const ATTACKED: &str = r#"version: 1
project: acme
sources:
  - { name: app, kind: api }
  - { name: web, kind: segment, write_key: wk_public }
  - { name: gh, kind: webhook, verify: github, secret: "${SECRET}" }
destinations:
  - { name: nowhere, kind: webhook, url: "http://127.0.0.1:9/", secret: "${SECRET}", retry: { preset: never } }
event_types:
  - name: shaped
    validate: flag
    schema:
      items:
        oneOf:
          - { type: object, required: [a], properties: { a: { type: string } } }
          - { type: object, required: [b], properties: { b: { type: string } } }
          - { type: object, required: [c], properties: { c: { type: string } } }
          - { type: object, required: [d], properties: { d: { type: string } } }
          - { type: object, required: [e], properties: { e: { type: string } } }
          - { type: object, required: [f], properties: { f: { type: string } } }
pipelines:
  - name: dear
    on: [dear]
    routes:
ROUTES
"#;

/// A gateway with a project to attack, and one beside it.
struct Target {
    serving: Serving,
    address: SocketAddr,
    /// Bytes that attackers have sent.
    sent: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Target {
    fn start() -> Self {
        let serving = Serving::start();
        let when = r#"(payload.l | select("in", payload.l) | list | length) == 1"#;
        let route = format!("      - {{ to: nowhere, when: {} }}\n", json!(when));
        for text in [HONEST.to_owned(), ATTACKED.replace("ROUTES\n", &route.repeat(12))] {
            let file = serving.file("resources.yaml", &text);
            let mut command = serving.command(&["apply", file.to_str().unwrap(), "--yes"]);
            let project = if text == HONEST { "honest" } else { "acme" };
            let applied = run(command.env("TIDEGATE_PROJECT", project), b"");
            assert!(applied.status.success(), "{}", stderr(&applied));
        }
        let address = serving.url.trim_start_matches("http://").parse().unwrap();
        Self { serving, address, sent: Arc::default(), is_over: Arc::default() }
    }

    /// Posts one body again and again, each on a connection of its own, from so many threads.
    fn attack(&self, threads: usize, path: &'static str, headers: String, body: String) -> Attack {
        let body: Arc<str> = body.into();
        let attackers = (0..threads).map(|_| {
            let (body, headers, address) = (body.clone(), headers.clone(), self.address);
            let (sent, is_over) = (self.sent.clone(), self.is_over.clone());
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    sent.fetch_add(body.len() as u64, Ordering::Relaxed);
                    // Being refused, or cut off, is what an attacker has to expect.
                    let _refused =
                        Client::to(address).and_then(|mut it| it.post(path, &headers, &body));
                }
            })
        });
        Attack { is_over: self.is_over.clone(), attackers: attackers.collect() }
    }

    /// Takes the room for bodies, and keeps it: each body lacks its last byte, which comes drop by drop.
    fn hold_bodies(&self, connections: usize) -> Attack {
        const BYTES: usize = 900_000;
        let (address, is_over, sent) = (self.address, self.is_over.clone(), self.sent.clone());
        let holder = thread::spawn(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                held.retain_mut(|it| it.write_all(b" ").is_ok());
                while held.len() < connections && !is_over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else { break };
                    let path =
                        if held.len().is_multiple_of(2) { "/in/acme/gh" } else { "/v1/batch" };
                    let head = format!(
                        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{{",
                        BYTES + 10_000
                    );
                    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                    let is_held = stream.write_all(head.as_bytes()).is_ok()
                        && stream.write_all(&vec![b' '; BYTES]).is_ok();
                    sent.fetch_add(BYTES as u64, Ordering::Relaxed);
                    if !is_held {
                        break;
                    }
                    held.push(stream);
                }
                // The attacker's own pace, and no wait for anything of the gateway.
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        Attack { is_over: self.is_over.clone(), attackers: vec![holder] }
    }

    /// What the honest sender meets, while the attack goes on.
    fn endures(&self, name: &str, attack: Attack) {
        let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|it| it.parse().ok());
        let is_long = seconds.is_some();
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
        let headers = format!("authorization: Bearer {ADMIN_KEY}\r\ntidegate-project: honest\r\n");
        let body = r#"{"type":"order.paid","payload":{"total":12}}"#;
        let mut times = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            // A new connection each time: one that is kept would have its place already.
            let mut client = Client::to(self.address).expect("the honest sender cannot connect");
            let status = client.post("/api/v1/events", &headers, body);
            assert_eq!(status.ok(), Some(202), "{name}: the honest sender is refused");
            times.push(began.elapsed());
            thread::park_timeout(Duration::from_millis(20));
        }
        drop(attack);
        times.sort();
        let (median, p99) =
            (times[times.len() / 2], times[(times.len() * 99 / 100).min(times.len() - 1)]);
        let (sent, memory) = (self.sent.load(Ordering::Relaxed), self.serving.peak_memory());
        let disk = size_of(&self.serving.data());
        println!(
            "{name}: {} answers, median {median:.1?}, p99 {p99:.1?}; sent {} MB, disk {} MB, memory {} MB",
            times.len(),
            sent >> 20,
            disk >> 20,
            memory >> 20
        );
        assert!(memory <= MOST_MEMORY, "{name}: {} MB of memory", memory >> 20);
        let most = 2 * sent + DISK_AT_REST;
        assert!(disk <= most, "{name}: {} MB on disk, {} MB were sent", disk >> 20, sent >> 20);
        if is_long {
            assert!(median <= MEDIAN, "{name}: the median is {median:?}");
            assert!(p99 <= P99, "{name}: p99 is {p99:?}");
        }
    }
}

/// Attackers that stop when this is dropped.
struct Attack {
    is_over: Arc<AtomicBool>,
    attackers: Vec<thread::JoinHandle<()>>,
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for attacker in self.attackers.drain(..) {
            attacker.thread().unpark();
            attacker.join().expect("an attacker panicked");
        }
    }
}

/// One connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn to(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        stream.set_write_timeout(Some(ANSWERED_WITHIN))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The status of the answer.
    fn post(&mut self, path: &str, headers: &str, body: &str) -> std::io::Result<u16> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        let stream = self.0.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        std::io::copy(&mut self.0.by_ref().take(1 << 20), &mut std::io::sink())?;
        let status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
        status.ok_or_else(|| std::io::Error::other("no status line"))
    }
}

fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(it) if it.is_dir() => size_of(&entry.path()),
            Ok(it) => it.len(),
            // It was removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

fn acme() -> String {
    format!("authorization: Bearer {ADMIN_KEY}\r\ntidegate-project: acme\r\n")
}

#[test]
fn many_fields_without_a_key_hold_up_nobody() {
    let target = Target::start();
    let fields: serde_json::Map<String, Value> =
        (0..45_000).map(|it| (it.to_string(), json!(1))).collect();
    let attack = target.attack(3, "/v1/track", String::new(), Value::Object(fields).to_string());
    target.endures("H1", attack);
}

#[test]
fn shared_context_is_not_multiplied() {
    let target = Target::start();
    let message = json!({ "type": "track", "event": "e", "userId": "u" });
    let batch = json!({
        "writeKey": "wk_public", "context": { "k": "x".repeat(180_000) }, "batch": vec![message; 2_500],
    });
    let attack = target.attack(3, "/v1/batch", String::new(), batch.to_string());
    target.endures("H2, one large value", attack);
}

#[test]
fn shared_context_of_many_keys_is_not_multiplied() {
    let target = Target::start();
    let keys: serde_json::Map<String, Value> =
        (0..6_000).map(|it| (format!("k{it}"), json!(it))).collect();
    let message = json!({ "type": "track", "event": "e", "userId": "u" });
    let batch = json!({ "writeKey": "wk_public", "context": keys, "batch": vec![message; 200] });
    let attack = target.attack(3, "/v1/batch", String::new(), batch.to_string());
    target.endures("H2, many keys", attack);
}

#[test]
fn payload_that_breaks_its_schema_everywhere_is_cheap() {
    let target = Target::start();
    let items = vec![json!({}); 300_000];
    let event = json!({ "type": "shaped", "payload": items });
    let attack = target.attack(4, "/api/v1/events", acme(), event.to_string());
    target.endures("H3", attack);
}

#[test]
fn unverified_bodies_leave_room_for_others() {
    let target = Target::start();
    let attack = target.hold_bodies(80);
    target.endures("M1", attack);
}

#[test]
fn dear_expressions_hold_up_no_other_project() {
    let target = Target::start();
    let list: Vec<u32> = (0..50_000).collect();
    let event = json!({ "type": "dear", "payload": { "l": list } });
    let attack = target.attack(2, "/api/v1/events", acme(), event.to_string());
    target.endures("M2", attack);
}
