//! Three nodes on a PostgreSQL with a standby, and whatever can happen to them: nothing that was
//! accepted is lost, nothing comes twice that was not in flight, no order is broken, and deliveries
//! go on within ten seconds of each fault.
//!
//! Each fault once; `make chaos` goes on for half an hour. The judge is a separate program, `tests/checker`.

#[path = "../chaos/pair.rs"]
mod pair;
#[path = "../chaos/nodes.rs"]
mod nodes;
#[path = "../chaos/traffic.rs"]
mod traffic;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::block_in_place};

use crate::crash::{
    folder,
    logs::{Bounds, Fault, Judged, Log, judge, now_ns},
    random::Random,
    receiver::Receiver,
};
use nodes::Nodes;
use pair::Pair;
use traffic::Lane;

const NODES: usize = 3;
/// The lease of a node, by default.
const LEASE: Duration = Duration::from_secs(6);

/// How long before a fault a delivery may have arrived without having been settled: generous, since
/// the tests of a whole machine may be running beside this one. The count is what is strict.
const BOUNDS: Bounds =
    Bounds { unsettled: Duration::from_secs(5), resumed: Some(Duration::from_secs(10)) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    /// `kill -9` of a node, which is started again.
    Kill,
    /// A node stands still for longer than its leases last, and then goes on.
    Freeze,
    /// The server that takes writes crashes and comes back.
    Restart,
    /// All sessions with the database are ended.
    Terminate,
    /// The server that takes writes is gone, and the standby takes its place.
    Promote,
}

impl Strike {
    const ALL: [Self; 5] =
        [Self::Kill, Self::Freeze, Self::Restart, Self::Terminate, Self::Promote];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Restart => "restart",
            Self::Terminate => "terminate",
            Self::Promote => "promote",
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn three_nodes_lose_and_repeat_nothing_and_keep_every_order_whatever_dies() {
    let minutes: Option<u64> = std::env::var("CHAOS_MINUTES").ok().map(|it| it.parse().unwrap());
    let seed = Random::seed("CHAOS_SEED");
    let told = minutes.map_or(String::new(), |it| format!(" CHAOS_MINUTES={it}"));
    eprintln!("chaos: CHAOS_SEED={seed}{told}");

    // Given senders that post to any of three nodes, and a receiver
    let mut run = Run::start(seed).await;

    // When each thing that can happen does
    match minutes {
        None => {
            for strike in run.shuffled() {
                run.strike(strike, LEASE + Duration::from_secs(4)).await;
            }
        }
        Some(minutes) => {
            let end = Duration::from_secs(minutes * 60);
            let mut strikes = Vec::new();
            while run.begun.elapsed() < end {
                if strikes.is_empty() {
                    strikes = run.shuffled();
                }
                let strike = strikes.pop().unwrap();
                run.strike(strike, Duration::from_secs(60)).await;
            }
        }
    }

    // Then everything arrives, and the judge finds nothing
    run.end().await;
}

struct Run {
    seed: u64,
    random: Random,
    folder: PathBuf,
    pair: Pair,
    nodes: Nodes,
    receiver: Receiver,
    endpoints: Vec<Judged>,
    sent: Arc<Log>,
    lanes: Vec<Lane>,
    stop: watch::Sender<bool>,
    faults: Vec<Fault>,
    begun: Instant,
}

impl Run {
    async fn start(seed: u64) -> Self {
        let folder = folder("chaos", seed);
        let mut random = Random::new(seed);
        let pair = block_in_place(Pair::start);
        let receiver = Receiver::start(&folder.join("received.ndjson"), random.next(), || 0).await;
        traffic::behave(&receiver);
        let [first, rest @ ..] = traffic::resources(&receiver);
        let resources = folder.join("resources.yaml");
        std::fs::write(&resources, first).unwrap();
        let nodes = Nodes::start(NODES, &folder, &resources, &pair.url()).await;
        let gateways = nodes.addresses();
        let addresses = gateways.borrow().clone();
        traffic::apply(addresses[0], &rest).await;
        for node in addresses {
            traffic::knows_all(node).await;
        }
        let sent = Arc::new(Log::create(&folder.join("sent.ndjson")));
        let (stop, stopped) = watch::channel(false);
        let lanes = traffic::send(seed, &mut random, &sent, &gateways, &stopped);
        let mut run = Self {
            seed,
            random,
            folder,
            pair,
            nodes,
            receiver,
            endpoints: traffic::endpoints(),
            sent,
            lanes,
            stop,
            faults: Vec::new(),
            begun: Instant::now(),
        };
        run.resumed().await;
        run
    }

    fn shuffled(&mut self) -> Vec<Strike> {
        let mut left = Strike::ALL.to_vec();
        let mut order = Vec::new();
        while !left.is_empty() {
            order.push(left.swap_remove(self.random.below(left.len() as u64) as usize));
        }
        order
    }

    /// One fault, and then peace until deliveries go on everywhere.
    async fn strike(&mut self, strike: Strike, frozen: Duration) {
        /// What is under way may still be read, sent or undone for so long after a fault is over: a
        /// node that wakes sends what it had begun; one that lost its database looks for it every two
        /// seconds, and may find that its leases are gone.
        const AFTERMATH: Duration = Duration::from_secs(5);
        let node = self.random.below(NODES as u64) as usize;
        let from = now_ns();
        let begun = Instant::now();
        let mut resumed = None;
        match strike {
            Strike::Kill => {
                block_in_place(|| self.nodes.kill(node));
            }
            Strike::Freeze => {
                self.nodes.freeze(node);
                resumed = Some(self.resumed().await);
                tokio::time::sleep(frozen.saturating_sub(begun.elapsed())).await;
                self.nodes.wake(node);
            }
            Strike::Restart => block_in_place(|| self.pair.restart()),
            Strike::Terminate => block_in_place(|| self.pair.terminate()),
            Strike::Promote => block_in_place(|| self.pair.promote()),
        }
        let until = now_ns() + AFTERMATH.as_nanos() as u64;
        self.faults.push(Fault { name: strike.name(), from, until });
        let resumed = match resumed {
            Some(resumed) => resumed,
            None => self.resumed().await,
        };
        match strike {
            // Some come back before their leases are over, some long after.
            Strike::Kill => {
                tokio::time::sleep(Duration::from_millis(self.random.below(4000))).await;
                self.nodes.revive(node).await;
            }
            Strike::Promote => block_in_place(|| self.pair.join()),
            Strike::Freeze | Strike::Restart | Strike::Terminate => (),
        }
        // Faults do not overlap, or nobody could say which of them explains what; and what moves
        // between nodes in times of peace must not come twice, either.
        tokio::time::sleep(AFTERMATH + Duration::from_millis(self.random.below(3000))).await;
        self.resumed().await;
        assert!(
            self.nodes.are_alive(),
            "a node has ended by itself, see {}",
            self.folder.display()
        );
        self.progress(strike, node, resumed);
    }

    /// Waits until every endpoint has got something new, or for longer than that may take: the judge
    /// knows better. Returns how long it took.
    async fn resumed(&mut self) -> Duration {
        const LONG: Duration = Duration::from_secs(20);
        let begun = Instant::now();
        let taken: Vec<_> = self.endpoints.iter().map(|it| self.receiver.taken(it.name)).collect();
        let is_behind = |(it, before): (&Judged, &usize)| self.receiver.taken(it.name) <= *before;
        while begun.elapsed() < LONG && self.endpoints.iter().zip(&taken).any(is_behind) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    fn progress(&self, strike: Strike, node: usize, resumed: Duration) {
        let seconds = self.begun.elapsed().as_secs();
        let whom = match strike {
            Strike::Kill | Strike::Freeze => format!("{} node-{node}", strike.name()),
            Strike::Restart | Strike::Terminate | Strike::Promote => strike.name().to_owned(),
        };
        let delivered: usize = self.endpoints.iter().map(|it| self.receiver.taken(it.name)).sum();
        eprintln!(
            "{:>3}:{:02}  {whom:<14} everywhere again after {:>4.1} s  {delivered:>8} delivered",
            seconds / 60,
            seconds % 60,
            resumed.as_secs_f64(),
        );
    }

    /// Lets everything arrive, and asks the judge.
    async fn end(self) {
        self.stop.send_replace(true);
        let mut accepted = Vec::new();
        for lane in self.lanes {
            accepted.push((lane.name, lane.task.await.unwrap() as usize));
        }
        let expected = |endpoint: &Judged| -> usize {
            let here = accepted.iter().filter(|(lane, _)| lane.starts_with(endpoint.lanes));
            here.map(|(_, count)| count).sum()
        };
        let expected: Vec<_> = self.endpoints.iter().map(|it| (it.name, expected(it))).collect();
        let all = || expected.iter().all(|(name, count)| self.receiver.taken(name) >= *count);
        let drained = self.receiver.drained(all, Duration::from_secs(20)).await;
        drop(self.nodes);
        self.receiver.flush();
        self.sent.flush();
        let verdict = judge(&self.folder, &self.endpoints, &self.faults, &BOUNDS);
        eprintln!("{}", verdict.text);
        let (seed, logs) = (self.seed, self.folder.display());
        assert!(verdict.kept, "CHAOS_SEED={seed}, logs in {logs}\n{}", verdict.text);
        assert!(drained, "not everything arrived; logs in {logs}");
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}
