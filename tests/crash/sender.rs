//! The sender: a lane posts its events one after the other, each until its outcome is known.

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::{
    http::{Connection, Failure},
    logs::{Log, now_ns},
    random::Random,
};

/// One lane, over one connection at a time.
pub struct Sender {
    pub lane: String,
    /// The type of its events.
    pub event_type: &'static str,
    /// Sets the keys of one run apart from another's.
    pub run: u64,
    pub random: Random,
    pub log: Arc<Log>,
    /// In which project, and from which source.
    pub project: &'static str,
    pub source: &'static str,
    /// Where gateways are that are up: it stays with one for as long as that answers.
    pub gateways: watch::Receiver<Vec<SocketAddr>>,
    /// How long it waits for an answer before it asks another one.
    pub patience: Duration,
    pub stop: watch::Receiver<bool>,
    /// It rests for up to so long after an event.
    pub rest: Duration,
    /// It ends after so many events, or a few more.
    pub most: u64,
    /// Events in a request, at most; more than one go to the batch route.
    pub batch: u64,
    /// Written beside each outcome: how far something else had come by then.
    pub position: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The gateway that failed last.
    pub failed: Option<SocketAddr>,
}

/// The answer about one event.
#[derive(Deserialize)]
struct Answer {
    id: String,
    #[serde(default)]
    same_body: Option<bool>,
}

/// The answer about a batch, in the order of its events.
#[derive(Deserialize)]
struct Answers {
    results: Vec<Answer>,
}

impl Sender {
    /// Posts until it is told to stop. Returns how many events were acknowledged, which is all of
    /// them: the last are seen through.
    pub async fn run(mut self) -> u64 {
        let mut connection = None;
        let mut n = 0;
        while !*self.stop.borrow() && n < self.most {
            let end = n + 1 + self.random.below(self.batch);
            self.see_through(&mut connection, n..end).await;
            // A sender that forgets what it has sent asks again, at once or much later: it must be
            // told the same.
            if self.random.percent(5) {
                let again = if self.random.percent(50) { n } else { self.random.below(end) };
                self.see_through(&mut connection, again..again + 1).await;
            }
            n = end;
            let rest = self.random.below(self.rest.as_micros() as u64 + 1);
            tokio::time::sleep(Duration::from_micros(rest)).await;
        }
        n
    }

    /// Posts events in one request until they are acknowledged, whatever happens to the gateway.
    async fn see_through(&mut self, connection: &mut Option<Connection>, events: Range<u64>) {
        loop {
            let up = self.gateways.wait_for(|it| !it.is_empty()).await.map(|it| it.clone());
            let Ok(up) = up else { panic!("the driver went away") };
            if connection.as_ref().is_none_or(|it| !up.contains(&it.address)) {
                *connection = self.open(&up).await;
            }
            let Some(open) = connection.as_mut() else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            let address = open.address;
            let (path, body) = self.request(&events);
            let posted = now_ns();
            match open.post(path, body).await {
                Ok((200 | 202, body)) => {
                    self.acknowledged(posted, &events, &body);
                    return;
                }
                Ok((429 | 503 | 507, _)) => {
                    self.write(posted, &events, "failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    // With several, another one may be better off.
                    if up.len() > 1 {
                        (*connection, self.failed) = (None, Some(address));
                    }
                }
                Ok((status, body)) => {
                    panic!("{status}: {}", String::from_utf8_lossy(&body));
                }
                Err(Failure::NotSent) => (*connection, self.failed) = (None, Some(address)),
                Err(Failure::NoAnswer) => {
                    self.write(posted, &events, "unknown");
                    (*connection, self.failed) = (None, Some(address));
                }
            }
        }
    }

    /// Any of those that are up, but not the one that has just failed.
    async fn open(&mut self, up: &[SocketAddr]) -> Option<Connection> {
        let others: Vec<_> = up.iter().filter(|it| Some(**it) != self.failed).collect();
        let address = match others.as_slice() {
            [] => up[0],
            others => *others[self.random.below(others.len() as u64) as usize],
        };
        match Connection::open(address).await {
            Ok(mut connection) => {
                (connection.project, connection.patience) = (self.project, self.patience);
                Some(connection)
            }
            Err(_) => {
                self.failed = Some(address);
                None
            }
        }
    }

    fn request(&self, events: &Range<u64>) -> (&'static str, String) {
        match events.end - events.start {
            1 => ("/api/v1/events", self.body(events.start)),
            _ => {
                let bodies: Vec<_> = events.clone().map(|n| self.body(n)).collect();
                ("/api/v1/events/batch", format!("[{}]", bodies.join(",")))
            }
        }
    }

    fn acknowledged(&self, posted: u64, events: &Range<u64>, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let answers = match events.end - events.start {
            1 => serde_json::from_slice(body).map(|answer| vec![answer]),
            _ => serde_json::from_slice(body).map(|it: Answers| it.results),
        };
        let answers: Vec<Answer> = answers.unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(answers.len() as u64, events.end - events.start, "{text}");
        for (n, answer) in events.clone().zip(answers) {
            assert_ne!(answer.same_body, Some(false), "the same bytes are no other body: {text}");
            self.outcome(posted, n, "acked", Some(&answer.id));
        }
    }

    fn write(&self, posted: u64, events: &Range<u64>, status: &str) {
        for n in events.clone() {
            self.outcome(posted, n, status, None);
        }
    }

    fn outcome(&self, posted: u64, n: u64, status: &str, id: Option<&str>) {
        let position = (self.position)();
        self.log.write(|done| {
            json!({
                "t": posted, "done": done, "key": self.key(n), "id": id, "status": status,
                "lane": self.lane, "n": n, "position": position,
            })
        });
    }

    fn key(&self, n: u64) -> String {
        format!("{:x}-{}-{n}", self.run, self.lane)
    }

    /// The same bytes whenever it is posted: some small, some of several pages.
    fn body(&self, n: u64) -> String {
        let mut random = Random::new(self.run ^ n);
        let size = if random.percent(10) { random.below(20_000) } else { random.below(600) };
        let pad: String = (0..size).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
        json!({
            "type": self.event_type,
            "source": self.source,
            "idempotency_key": self.key(n),
            "payload": { "lane": self.lane, "n": n, "pad": pad },
        })
        .to_string()
    }
}
