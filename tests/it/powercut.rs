//! Power cuts: what `kill -9` cannot find, since the page cache outlives a process.
//!
//! A gateway runs under a library that notes down what it does to its files (`record.c`). From the
//! record, the data folder is rebuilt as a power cut would have left it, at the moment of each 202
//! and in between: without what was not synced by then, or with an arbitrary part of it. A gateway
//! is started on what is left, and the judge of the crash suite decides. Forty cuts; `make powercut`
//! makes thousands.

#[path = "../powercut/log.rs"]
mod log;
#[path = "../powercut/disk.rs"]
mod disk;
#[path = "../powercut/reader.rs"]
mod reader;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::watch;

use crate::crash::{
    UNSETTLED_AT_MOST, folder,
    gateway::{Gateway, PROJECT, Setup},
    logs::Log as Diary,
    logs::{Bounds, Fault, Judged, Verdict, judge, now_ns},
    random::Random,
    receiver::{Manner, Receiver},
    sender::Sender,
    setup,
};
use crate::store::home::{open_sqlite, small};
use disk::{Cut, Disk};
use log::Log;
use reader::read_on;

const LANES: usize = 4;
const EVENTS_PER_LANE: u64 = 60;
/// So often the gateway is killed and started again while it is recorded: what it does to files
/// when it starts is on the record too.
const RUNS: u64 = 2;
const CONCURRENCY: u64 = 8;
/// How long the gateway only retries, at the end of a run: `owed.db` is given changes once a second.
const WITHOUT_EVENTS: Duration = Duration::from_millis(2200);
/// After so many cuts, a new recording is made.
const POINTS_PER_RECORDING: usize = 250;

/// A gateway that was recorded, and everything that is needed to cut its power afterwards.
struct Recording {
    folder: PathBuf,
    setup: Setup,
    receiver: Receiver,
    record: PathBuf,
    /// The lines that sender and receiver wrote, each with how far the record had come by then. An event
    /// counts from its answer on, or from when somebody read of it, if that was sooner.
    sent: Vec<Line>,
    received: Vec<Line>,
    /// When the gateway was killed while it was recorded, and how far the record had come.
    kills: Vec<(u64, u64)>,
}

struct Line {
    position: u64,
    value: Value,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let mut points = std::env::var("POWERCUT_POINTS").map_or(40, |text| text.parse().unwrap());
    let seed = Random::seed("POWERCUT_SEED");
    eprintln!("powercut: POWERCUT_SEED={seed} POWERCUT_POINTS={points}");
    let mut random = Random::new(seed);
    while points > 0 {
        let cuts = points.min(POINTS_PER_RECORDING);
        cut_at_many_points(seed, cuts, &mut random).await;
        points -= cuts;
    }
}

async fn cut_at_many_points(seed: u64, points: usize, random: &mut Random) {
    // Given the record of a gateway under load
    let recording = Recording::make("powercut", seed, random).await;

    // When the power is cut, just after an answer or at any moment
    let mut at_risk = 0;
    let mut disk = Disk::default();
    let mut log = Log::read(&recording.record);
    let mut points = recording.points(points, random);
    // And at the end, when the gateway had only retried for a while.
    points.push(log.len());
    let last = points.len() - 1;
    for (n, position) in points.into_iter().enumerate() {
        while let Some(entry) = log.next(position) {
            disk.apply(entry);
        }
        at_risk += disk.at_risk();
        let cuts = [Cut::Nothing, Cut::Some, Cut::Only("owed"), Cut::Some, Cut::Everything];
        let cut = if n == last { Cut::Only("owed") } else { cuts[n % cuts.len()] };
        let verdict = recording.cut_and_judge(&disk, cut, position, random).await;

        // Then a gateway starts on what is left, and everything arrives that was accepted
        assert!(
            verdict.kept,
            "cut {n} of POWERCUT_SEED={seed} at byte {position} of the record, keeping {cut:?}; see {}\n{}",
            recording.folder.display(),
            verdict.text
        );
    }
    assert!(disk.syncs > 0, "nothing was ever synced");
    assert!(at_risk > 0, "the cuts took nothing away: they tested nothing");
    std::fs::remove_dir_all(&recording.folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_not_synced_is_caught() {
    // Given the same, but the syncs of the journal are as if they had never been made
    let seed = Random::seed("POWERCUT_SEED");
    let mut random = Random::new(seed);
    let recording = Recording::make("powercut-planted", seed, &mut random).await;
    let mut disk = Disk::distrusting("journal-0");
    let mut log = Log::read(&recording.record);
    let last = recording.sent.iter().filter(|it| it.value["status"] == "acked");
    let last = last.map(|it| it.position).max().unwrap();
    while let Some(entry) = log.next(last) {
        disk.apply(entry);
    }

    // When the power is cut after the last answer
    let verdict = recording.cut_and_judge(&disk, Cut::Nothing, log.position(), &mut random).await;

    // Then the judge misses something
    assert!(!verdict.kept, "{}", verdict.text);
    let missing = verdict.text.lines().find(|line| line.starts_with("missing")).unwrap();
    assert_ne!(missing.split_whitespace().last(), Some("0"), "{}", verdict.text);
    std::fs::remove_dir_all(&recording.folder).unwrap();
}

impl Recording {
    /// Runs a gateway under load and under the recorder. One endpoint takes what comes; the other
    /// refuses everything, so that what was accepted stands or falls with the disk.
    async fn make(name: &str, seed: u64, random: &mut Random) -> Self {
        let folder = folder(name, seed);
        let record = folder.join("record");
        std::fs::write(&record, "").unwrap();
        let position = {
            let record = record.clone();
            move || record.metadata().unwrap().len()
        };
        let received = folder.join("received.ndjson");
        let receiver = Receiver::start(&received, random.next(), position.clone()).await;
        receiver.behave("late", Manner { refuses_percent: 100, holds_back_ms: 0 });
        let mut setup = setup(&folder, &resources(&receiver), 100);
        let plain = setup.environment.clone();
        setup.environment.extend([
            ("LD_PRELOAD", library("record", &folder).display().to_string()),
            ("RECORD_BELOW", setup.data.display().to_string()),
            ("RECORD_TO", record.display().to_string()),
        ]);

        let sent = Arc::new(Diary::create(&folder.join("sent.ndjson")));
        let (mut kills, mut read) = (Vec::new(), HashMap::new());
        for run in 0..RUNS {
            // On a slow disk turns are made while a sync is on its way.
            setup.environment.push(("RECORD_SLOWLY", (run % 2 * 3000).to_string()));
            let gateway = Gateway::start(&setup).await;
            let (_at, at) = watch::channel(vec![gateway.address]);
            let (_stop, stop) = watch::channel(false);
            let lanes = (0..LANES).map(|lane| {
                let sender = Sender {
                    lane: format!("lane-{run}-{lane}"),
                    event_type: "plain.sent",
                    run: seed,
                    random: Random::new(random.next()),
                    log: sent.clone(),
                    project: PROJECT,
                    source: "app",
                    gateways: at.clone(),
                    patience: Duration::from_secs(20),
                    stop: stop.clone(),
                    rest: Duration::from_millis(4),
                    most: EVENTS_PER_LANE,
                    batch: if lane == 0 { 8 } else { 1 },
                    position: Arc::new(position.clone()),
                    failed: None,
                };
                tokio::spawn(sender.run())
            });
            let (lanes, (stop, stopped)) = (lanes.collect::<Vec<_>>(), watch::channel(()));
            let reading = tokio::spawn(read_on(gateway.address, position.clone(), stopped));
            for lane in lanes {
                lane.await.unwrap();
            }
            drop(stop);
            read.extend(reading.await.unwrap());
            // Without events nothing is promised, and `owed.db` must wait for the syncs all the same.
            tokio::time::sleep(WITHOUT_EVENTS).await;
            gateway.kill();
            receiver.quiet().await;
            kills.push((now_ns(), position()));
        }
        sent.flush();
        receiver.flush();
        receiver.behave("late", Manner::default());
        // What is started after a cut is not recorded.
        setup.environment = plain;
        let lines = |file: &str| lines(&folder.join(file));
        let (mut sent, received) = (lines("sent.ndjson"), lines("received.ndjson"));
        for line in &mut sent {
            let read = line.value["id"].as_str().and_then(|it| read.get(it));
            line.position = line.position.min(read.copied().unwrap_or(u64::MAX));
        }
        Self { folder, setup, receiver, record, sent, received, kills }
    }

    /// Where to cut, in rising order: half of the points right behind an answer, where the most is
    /// promised and the least is synced; the others anywhere.
    fn points(&self, count: usize, random: &mut Random) -> Vec<u64> {
        let acked = self.sent.iter().filter(|it| it.value["status"] == "acked");
        let answers: Vec<_> = acked.map(|it| it.position).collect();
        let end = self.record.metadata().unwrap().len();
        let mut points: Vec<_> = (0..count)
            .map(|n| match n % 2 {
                0 => answers[random.below(answers.len() as u64) as usize],
                _ => random.below(end + 1),
            })
            .collect();
        points.sort_unstable();
        points
    }

    /// Cuts the power, starts a gateway on what is left, and waits until it has delivered.
    async fn cut_and_judge(
        &self,
        disk: &Disk,
        cut: Cut,
        position: u64,
        random: &mut Random,
    ) -> Verdict {
        /// So long after the last arrival, nothing more is expected.
        const STALL: Duration = Duration::from_secs(3);
        let folder = self.folder.join("cut");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        disk.cut(cut, random, &folder.join("data"));
        owed_is_not_ahead(&folder.join("data"), &folder.join("looked-at"));
        let setup = Setup {
            data: folder.join("data"),
            resources: self.setup.resources.clone(),
            log: folder.join("gateway.txt"),
            environment: self.setup.environment.clone(),
        };

        // What had happened by then: an event whose answer came later may be there or not.
        let cut_at = now_ns();
        let (mut sent, mut expected) = (String::new(), Vec::new());
        for Line { position: at, value } in &self.sent {
            let mut value = value.clone();
            if *at > position {
                value["status"] = "unknown".into();
                value["id"] = Value::Null;
            } else if value["status"] == "acked" {
                expected.push(value["id"].as_str().unwrap().to_owned());
            }
            sent.push_str(&format!("{value}\n"));
        }
        if expected.is_empty() {
            // Before the first answer there is no promise that could be broken, except to start.
            Gateway::start(&setup).await.kill();
            self.receiver.quiet().await;
            return Verdict { kept: true, text: String::new() };
        }
        std::fs::write(folder.join("sent.ndjson"), sent).unwrap();
        let after = folder.join("after.ndjson");
        self.receiver.begin(&after);
        let before = self.received.iter().filter(|it| it.position <= position);
        let unsynced = unsynced(before.clone());
        let mut received = String::new();
        for Line { value, .. } in before {
            received.push_str(&format!("{value}\n"));
            if value["status"] == 200 {
                let text = |field: &str| value[field].as_str().unwrap().to_owned();
                self.receiver.remember(&text("endpoint"), &text("id"));
            }
        }

        let gateway = Gateway::start(&setup).await;
        let taken = |endpoint| expected.iter().all(|id| self.receiver.has_taken(endpoint, id));
        self.receiver.drained(|| taken("late") && taken("live"), STALL).await;
        gateway.kill();
        self.receiver.quiet().await;
        self.receiver.flush();
        received.push_str(&std::fs::read_to_string(&after).unwrap());
        std::fs::write(folder.join("received.ndjson"), received).unwrap();
        let before = self.kills.iter().filter(|(_, at)| *at <= position);
        let kills: Vec<_> =
            before.map(|(time, _)| *time).chain([cut_at]).map(Fault::kill).collect();
        let bounds = Bounds { unsettled: Duration::from_secs(3600), resumed: None };
        judge(&folder, &judged(unsynced), &kills, &bounds)
    }
}

/// `unsynced`: outcomes that the store may have had, but not on disk.
fn judged(unsynced: u64) -> [Judged; 2] {
    let in_flight = CONCURRENCY + UNSETTLED_AT_MOST + unsynced;
    let judged = |name| Judged { name, lanes: "", order: "none", in_flight };
    [judged("live"), judged("late")]
}

/// How many deliveries were taken so shortly before the cut that their outcomes need not have been
/// on disk. The last arrival stands for the moment of the cut, and the machine may be busy.
fn unsynced<'a>(before: impl Iterator<Item = &'a Line> + Clone) -> u64 {
    /// Four times what the store allows itself.
    const WINDOW: Duration = Duration::from_millis(200);
    let time = |line: &Line| line.value["t"].as_u64().unwrap();
    let last = before.clone().map(time).max().unwrap_or(0);
    let window = WINDOW.as_nanos() as u64;
    before.filter(|it| it.value["status"] == 200 && time(it) + window >= last).count() as u64
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|it| (it.path(), to.join(it.file_name()))).unwrap();
        if path.is_dir() {
            copy(&path, &to)
        } else {
            let _bytes = std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// What follows the segments must not know more than they do, or it would have to be made anew: the
/// last change that `owed.db` has is one that a segment tells of, once it has what the journal kept.
fn owed_is_not_ahead(data: &Path, looked_at: &Path) {
    if !data.join("owed.db").exists() {
        return;
    }
    // SQLite changes files by looking at them.
    copy(data, looked_at);
    let ask = |path: &Path, sql: &str| -> Option<i64> {
        let file = Connection::open(path).unwrap();
        let version: i64 = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        // A file whose making was cut short has no tables yet.
        if version == 0 { None } else { file.query_row(sql, [], |row| row.get(0)).unwrap() }
    };
    let sql = "SELECT max(value) FROM facts WHERE name = 'applied'";
    let applied = ask(&looked_at.join("owed.db"), sql).unwrap_or(0);
    drop(open_sqlite(looked_at, small()).unwrap());
    let segments = std::fs::read_dir(looked_at.join("segments")).into_iter().flatten();
    let segments = segments.map(|it| it.unwrap().path());
    let segments = segments.filter(|it| it.extension().is_some_and(|it| it == "db"));
    let told = segments.filter_map(|it| ask(&it, "SELECT max(number) FROM redo")).max();
    assert!(applied <= told.unwrap_or(0), "owed.db has change {applied} of {told:?}");
}

fn resources(receiver: &Receiver) -> String {
    let retry = "{ exponential: { base: 20ms, factor: 1.5, max: 100ms, attempts: 1000 } }";
    let breaker = "{ open_for: 20ms, open_at_most: 100ms }";
    let destination = |name: &str| {
        let url = receiver.url(name);
        format!(
            "  - {{ name: {name}, kind: webhook, url: \"{url}\", concurrency: {CONCURRENCY}, \
             retry: {retry}, breaker: {breaker} }}\n"
        )
    };
    format!(
        "version: 1\nproject: crash\nsources:\n  - {{ name: app, kind: api }}\ndestinations:\n{}{}\
         pipelines:\n  - {{ name: all, on: [\"*\"], routes: [ {{ to: live }}, {{ to: late }} ] }}\n",
        destination("live"),
        destination("late"),
    )
}

/// Compiles a library of `tests/powercut` that stands between the gateway and its files.
pub fn library(name: &str, folder: &Path) -> PathBuf {
    let library = folder.join(format!("{name}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/powercut/{name}.c"));
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
    let status = compile.arg(&library).arg(source).arg("-ldl").status();
    assert!(status.expect("`cc` is missing: install a C compiler").success());
    library
}

fn lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        Line { position: value["position"].as_u64().unwrap(), value }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::{
        disk::{Cut, Disk, Entry},
        *,
    };

    /// Opens `f` (and its folder), writes to it, and does what is asked.
    fn disk(and_then: &[Entry]) -> Disk {
        let mut disk = Disk::default();
        let open = |handle, path: &str, create| Entry::Open {
            handle,
            path: path.into(),
            create,
            empty: false,
        };
        disk.apply(open(1, "", false));
        disk.apply(open(2, "f", true));
        disk.apply(Entry::Write { handle: 2, offset: 0, data: b"abc" });
        for entry in and_then {
            disk.apply(match entry {
                Entry::SyncAsked { handle, number } => {
                    Entry::SyncAsked { handle: *handle, number: *number }
                }
                Entry::SyncGranted { number } => Entry::SyncGranted { number: *number },
                Entry::Write { handle, offset, data } => {
                    Entry::Write { handle: *handle, offset: *offset, data }
                }
                Entry::Rename { from, to } => Entry::Rename { from: from.clone(), to: to.clone() },
                other => panic!("{other:?}"),
            });
        }
        disk
    }

    fn left(disk: &Disk, cut: Cut) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        disk.cut(cut, &mut Random::new(1), folder.path());
        let mut files: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|it| it.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn sync(handle: u64, number: u64) -> [Entry<'static>; 2] {
        [Entry::SyncAsked { handle, number }, Entry::SyncGranted { number }]
    }

    fn file(name: &str, content: &str) -> (String, String) {
        (name.to_owned(), content.to_owned())
    }

    #[test]
    fn the_disk_keeps_what_was_synced_and_named() {
        let [asked, granted] = sync(2, 10);
        let [folder_asked, folder_granted] = sync(1, 11);
        let everything = [asked, granted, folder_asked, folder_granted];
        assert_eq!(left(&disk(&everything), Cut::Nothing), [file("f", "abc")]);
        // Without a sync of the folder, the name is lost; without one of the file, its content.
        assert_eq!(left(&disk(&everything[..2]), Cut::Nothing), []);
        assert_eq!(left(&disk(&everything[2..]), Cut::Nothing), [file("f", "")]);
        assert_eq!(left(&disk(&[]), Cut::Everything), [file("f", "abc")]);
    }

    #[test]
    fn a_write_while_a_sync_runs_is_not_covered_by_it() {
        let [asked, granted] = sync(2, 10);
        let [folder_asked, folder_granted] = sync(1, 11);
        let late = Entry::Write { handle: 2, offset: 3, data: b"def" };
        let disk = disk(&[asked, late, granted, folder_asked, folder_granted]);
        assert_eq!(left(&disk, Cut::Nothing), [file("f", "abc")]);
        assert_eq!(left(&disk, Cut::Everything), [file("f", "abcdef")]);
        assert_eq!(disk.at_risk(), 3);
    }

    #[test]
    fn a_rename_is_lost_until_its_folder_is_synced() {
        let [asked, granted] = sync(2, 10);
        let [folder_asked, folder_granted] = sync(1, 11);
        let rename = Entry::Rename { from: "f".into(), to: "g".into() };
        let disk = disk(&[asked, granted, folder_asked, folder_granted, rename]);
        assert_eq!(left(&disk, Cut::Nothing), [file("f", "abc")]);
        assert_eq!(left(&disk, Cut::Everything), [file("g", "abc")]);
    }
}
