//! Steps that remember: over a real store that fails and is killed, they agree with whoever remembers
//! every event.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tidegate::{
    catalog::Catalog,
    hint,
    model::{EventSeq, Message, NewEvent, Owed, Passed},
    pipeline::{self, Options, Parts},
    store::{EventFilter, EventRecord, Page},
};
use tokio::sync::watch;

use super::{
    catalog, project_of,
    run::{Fate, Stumbling, new_event},
};
use crate::{
    harness::PATIENCE,
    simulation::chance::Chance,
    store::home::{Home, Open, SqliteHome, now, on_sqlite},
};

/// A loop over a store, which can be killed and started again.
struct Line {
    home: SqliteHome,
    open: Option<Open>,
    catalog: Arc<Catalog>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
    _handed: hint::Receiver<Vec<(Owed, Message)>, bool>,
    _catalogs: watch::Sender<Arc<Catalog>>,
}

impl Line {
    async fn start(text: &str, fates: &[Fate]) -> Self {
        Self::on(on_sqlite(), Arc::new(catalog(text)), now(), fates).await
    }

    async fn on(home: SqliteHome, catalog: Arc<Catalog>, at: Timestamp, fates: &[Fate]) -> Self {
        let (_, nothing) = hint::channel(1);
        let mut open = home.open().await;
        open.clock.set(at);
        let (catalogs, watched) = watch::channel(catalog.clone());
        let (deliveries, handed) = hint::channel(10_000);
        let (stop, stopped) = watch::channel(false);
        let (runner, _) = pipeline::runner(Parts {
            store: Arc::new(Stumbling::new(open.store.clone(), fates)),
            clock: open.clock.clone(),
            catalog: watched,
            events: std::mem::replace(&mut open.accepted, nothing),
            lookups: Arc::new(pipeline::NoLookups),
            deliveries,
            stop: stopped,
            tools: super::tools(),
            options: Options { batch: 3, in_flight: 3, ..Options::default() },
        });
        let running = tokio::spawn(runner.run());
        let open = Some(open);
        Self { home, open, catalog, stop, running, _handed: handed, _catalogs: catalogs }
    }

    fn open(&self) -> &Open {
        self.open.as_ref().unwrap()
    }

    fn now(&self) -> Timestamp {
        tidegate::clock::Clock::now(self.open().clock.as_ref())
    }

    /// Kills the process in the middle of whatever it does, and starts the next one.
    async fn kill(mut self, fates: &[Fate]) -> Self {
        let at = self.now();
        self.running.abort();
        let _ = (&mut self.running).await;
        drop(self.open.take());
        Self::on(self.home, self.catalog, at, fates).await
    }

    /// Waits until so many events are there and planned. Time passes meanwhile, where it may.
    async fn until_planned(&self, events: usize, pass: SignedDuration) {
        let Open { store, clock, .. } = self.open();
        let waited = tokio::time::timeout(PATIENCE, async {
            while store.last_event().await.unwrap() < EventSeq(events as u64)
                || !store.unplanned(EventSeq(0), 1).await.unwrap().is_empty()
            {
                clock.advance(pass);
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("the events were not planned in time");
    }

    /// All events in the order in which they were accepted.
    async fn records(&self) -> Vec<EventRecord> {
        let (store, project) = (&self.open().store, project_of(&self.catalog));
        let page = Page { before: None, limit: 1000 };
        let events = store.events(project, &EventFilter::default(), page).await.unwrap();
        let mut records = Vec::new();
        for event in events.iter().rev() {
            records.push(store.event(project, event.id).await.unwrap().unwrap());
        }
        records
    }

    fn event(&self, key: u32, at: Timestamp) -> NewEvent {
        let event = new_event(&self.catalog, &json!({"key": format!("k{key}")}).to_string());
        NewEvent { received_at: at, ..event }
    }
}

fn file(steps: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations: [{{ name: sink, kind: webhook, url: \"https://a.co/\" }}]\n\
         pipelines:\n  - {{ name: all, on: [a.b], steps: [ {steps} ], routes: [{{ to: sink }}] }}\n"
    )
}

const SPIKE: &str =
    "{ detect.spike: { key: payload.key, threshold: 3, window: 60s, cool_down: 90s } }";

fn fates(chance: &mut Chance) -> Vec<Fate> {
    let all = [Fate::Fails, Fate::Vanishes, Fate::Works, Fate::Works];
    (0..chance.size(0, 7)).map(|_| *chance.of(&all)).collect()
}

/// Which of these events (their keys, and seconds) fire.
fn naive(events: &[(u32, i64)]) -> Vec<bool> {
    let mut quiet: BTreeMap<u32, i64> = BTreeMap::new();
    let mut fired = Vec::new();
    for (place, &(key, at)) in events.iter().enumerate() {
        // A window of 60 s moves in steps of a second
        let within = events[..=place].iter().filter(|it| it.0 == key && it.1 > at - 60).count();
        let is_fired = within >= 3 && quiet.get(&key).is_none_or(|it| at >= *it);
        if is_fired {
            quiet.insert(key, at + 90);
        }
        fired.push(is_fired);
    }
    fired
}

#[tokio::test]
async fn a_spike_fires_exactly_once_however_the_store_stumbles_and_the_process_is_killed() {
    for seed in 0..12 {
        // Given random events of three keys, whose time stands still or goes on
        let mut chance = Chance::new(seed);
        let mut line = Line::start(&file(SPIKE), &fates(&mut chance)).await;
        let (mut sent, mut at) = (Vec::new(), 0_i64);
        for _ in 0..12 {
            // When they are planned by processes that are killed, over a store that fails
            let mut batch = Vec::new();
            for _ in 0..chance.size(1, 14) {
                at += chance.of(&[0, 0, 1, 7, 30]);
                let key = chance.between(0, 2) as u32;
                sent.push((key, at));
                batch.push(line.event(key, now() + SignedDuration::from_secs(at)));
            }
            line.open().store.append(batch).await.unwrap();
            match chance.between(0, 2) {
                0 => line = line.kill(&fates(&mut chance)).await,
                1 => line.until_planned(sent.len(), SignedDuration::from_secs(1)).await,
                _ => tokio::task::yield_now().await,
            }
        }
        line.until_planned(sent.len(), SignedDuration::from_secs(1)).await;
        // Then exactly those fired that have to, and each event counts once where it came by
        let records = line.records().await;
        let fired: Vec<bool> = records.iter().map(|it| !it.deliveries.is_empty()).collect();
        assert_eq!(fired, naive(&sent), "seed {seed}");
        let pipeline = *line.catalog.pipelines.keys().next().unwrap();
        let (from, until) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let counted = line.open().store.counts(pipeline, from, until).await.unwrap();
        let mut total: BTreeMap<_, Passed> = BTreeMap::new();
        for it in counted {
            *total.entry((it.edge.route, it.edge.step)).or_default() += it.passed;
        }
        let (all, out) = (sent.len() as u64, fired.iter().filter(|it| **it).count() as u64);
        let passed = |arrived, left| Passed { arrived, filtered: arrived - left, errored: 0, left };
        let expected = [((None, None), passed(all, all)), ((None, Some(0)), passed(all, out))];
        let route = ((Some(0), None), passed(out, out));
        let expected = expected.into_iter().chain((out > 0).then_some(route));
        assert_eq!(total, expected.collect(), "seed {seed}");
    }
}

const ABSENCE: &str = "{ detect.absence: { key: payload.key, every: 50s, grace: 10s, keys: [k9], recovery: a.back } }";

/// Who came when, and what has to be told of it: keys that are missed, and keys that are back.
#[derive(Default)]
struct Watch {
    since: BTreeMap<u32, (i64, bool)>,
    missed: Vec<u32>,
    back: Vec<u32>,
}

impl Watch {
    fn seen(&mut self, key: u32, at: i64) {
        if let Some((_, true)) = self.since.insert(key, (at, false)) {
            self.back.push(key);
        }
    }

    fn pass(&mut self, now: i64, began: i64) {
        for (key, (since, is_missed)) in &mut self.since {
            if !*is_missed && now >= (*since + 60).max(began + 10) {
                *is_missed = true;
                self.missed.push(*key);
            }
        }
    }
}

#[tokio::test]
async fn an_absence_is_told_exactly_once_however_often_the_process_is_killed() {
    for seed in 0..6 {
        let mut chance = Chance::new(seed);
        let mut line = Line::start(&file(ABSENCE), &[]).await;
        let (mut watch, mut began, mut events) = (Watch::default(), 0, 0);
        watch.since.insert(9, (0, false));
        // Its memory begins when the loop has read the catalogue
        let memories = async |line: &Line| line.open().store.memories().await.unwrap().len();
        while memories(&line).await == 0 {
            tokio::task::yield_now().await;
        }
        for second in (5..600).step_by(5) {
            // When time passes, some keys come, and now and then the process is killed
            line.open().clock.set(now() + SignedDuration::from_secs(second));
            watch.pass(second, began);
            let told = watch.missed.len();
            line.until_planned(events + told, SignedDuration::ZERO).await;
            if chance.happens(33) {
                let key = chance.between(0, 3) as u32;
                let event = line.event(key, now() + SignedDuration::from_secs(second));
                line.open().store.append(vec![event]).await.unwrap();
                watch.seen(key, second);
                events += 1;
            }
            if chance.happens(12) {
                line = line.kill(&[]).await;
                began = second;
            }
            line.until_planned(events + told, SignedDuration::ZERO).await;
        }
        // Then each absence and each return was told, in the order of time and once
        let records = line.records().await;
        let told = |event_type: &str| -> Vec<u32> {
            let is_told = |it: &&EventRecord| !it.deliveries.is_empty();
            let key = |it: &EventRecord| {
                let key = it.event.payload.to_value()["key"].as_str().unwrap().to_owned();
                key.trim_start_matches('k').parse().unwrap()
            };
            let of_type = records.iter().filter(|it| it.event.event_type.as_str() == event_type);
            of_type.filter(is_told).map(key).collect()
        };
        let (mut missed, mut expected) = (told("absence.detected"), watch.missed.clone());
        assert!(missed.len() > 3, "seed {seed}: nothing was missed");
        missed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(missed, expected, "seed {seed}");
        assert_eq!(told("a.b"), watch.back, "seed {seed}");
        assert_eq!(records.len(), events + watch.missed.len(), "seed {seed}");
        line.stop.send_replace(true);
        line.running.await.unwrap();
    }
}

#[tokio::test]
async fn the_longest_unseen_key_is_forgotten_first() {
    // Given a step that remembers 16 keys, and two events of each of 17
    let step = "{ detect.spike: { key: payload.key, threshold: 3, window: 1h, max_keys: 16 } }";
    let mut line = Line::start(&file(step), &[]).await;
    let mut second = 0;
    let mut events = Vec::new();
    for key in 0..17 {
        for _ in 0..2 {
            second += 1;
            events.push(line.event(key, now() + SignedDuration::from_secs(second)));
        }
    }
    line.open().store.append(events).await.unwrap();
    line.until_planned(34, SignedDuration::ZERO).await;
    // Then the store keeps no more, also after a crash
    line = line.kill(&[]).await;
    let kept = line.open().store.memories().await.unwrap();
    assert!(kept.len() <= 16, "{}", kept.len());
    // When a third comes of the first, which is forgotten, and of the last, which is not
    let at = now() + SignedDuration::from_secs(second + 1);
    let last = vec![line.event(16, at), line.event(0, at)];
    line.open().store.append(last).await.unwrap();
    line.until_planned(36, SignedDuration::ZERO).await;
    let records = line.records().await;
    let reached: Vec<bool> = records[34..].iter().map(|it| !it.deliveries.is_empty()).collect();
    assert_eq!(reached, [true, false]);
    let reason = &records[35].skipped[0].reason;
    assert_eq!(reason, "1 of 3 in 1h");
}
