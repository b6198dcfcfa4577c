//! Damage on the disk: each kind of file loses bits, is cut off, or is gone, in folders that were closed and in
//! such that a `kill -9` leaves. Nothing may be lost in silence: either all reads back as it was, or it is told,
//! by the start, by whoever reads, or at the latest by `tidegate check`.
//!
//! A few places of each file; `make damage` tries many.

mod rows;

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use tidegate::{
    model::{EventSeq, Name, NewEvent, RawJson},
    store::{
        Appended, Change, Directory as _, Document, Entity, EventFilter, OwedQuery, Records as _,
        Registry as _, Store as _, StoreError, Upsert,
        sqlite::{self, Options, SqliteStore},
    },
};

use crate::{
    cli::program::{stderr, stdout, tidegate},
    crash::random::Random,
    harness::PATIENCE,
    store::home::{
        Accepted, destinations, ended, event, keyed, new_events, note, now, plan_for, projects,
        small, sqlite,
    },
};

const OLD: u64 = 40;
const EVENTS: u64 = 100;

fn options() -> Options {
    Options { segment_events: 20, ..small() }
}

fn table() -> Name {
    "people".parse().unwrap()
}

fn numbered(number: u64) -> NewEvent {
    let old = SignedDuration::from_hours(24 * 40);
    let payload = format!("{{\"number\":{number},\"name\":\"somebody {number}\"}}");
    let project = if number <= OLD { projects(2) } else { projects(1) };
    let received_at = if number <= OLD { now() - old } else { now() };
    NewEvent { received_at, ..keyed(project, &format!("k{number}"), &payload) }
}

/// A store in which there is something of everything: old events are forgotten but for their keys, and of the
/// others some are delivered and some are pending.
async fn filled(data: &Path) -> (Arc<SqliteStore>, Accepted) {
    let (store, accepted, _) = sqlite(data, options()).unwrap();
    let document = |id: u128| Document {
        kind: "thing".to_owned(),
        id,
        body: RawJson::trusted(format!("{{\"id\":{id}}}")),
    };
    for id in 1..=20 {
        store.change(vec![Change::Put(document(id))]).await.unwrap();
    }
    for n in 1..=20 {
        let fields = RawJson::trusted(format!("{{\"n\":{n}}}"));
        let row = Entity { key: format!("p{n}"), fields, updated_at: now() };
        store.put_entities(projects(1), &table(), vec![row], Upsert::Replace).await.unwrap();
    }
    for number in 1..=EVENTS {
        let appended = store.append(vec![numbered(number)]).await.unwrap();
        let to: &[u128] = if number <= OLD { &[] } else { &[1] };
        let owed = store.plan(vec![plan_for(&new_events(&appended)[0], to)]).await.unwrap();
        if number % 3 == 0 {
            store.settle(owed.iter().map(|it| note(it, ended())).collect()).await.unwrap();
        }
        if number == EVENTS - 10 {
            sealed(data).await;
            assert_eq!(store.prune(&[(projects(2), now())]).await.unwrap(), OLD);
        }
    }
    (store, accepted)
}

/// Waits until all segments but the newest are sealed, and the manifest says so.
async fn sealed(data: &Path) {
    let since = Instant::now();
    loop {
        let manifest = fs::read_to_string(data.join("manifest")).unwrap();
        let (all, sealed) = ("\"first\"", "\"sealed\"");
        if manifest.matches(all).count() == manifest.matches(sealed).count() + 1 {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{manifest}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A folder as `kill -9` leaves it: what stands in files, in an order in which a process writes them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("segments")).unwrap();
    fs::create_dir_all(to.join("keys")).unwrap();
    let mut files = files_of(from);
    files.sort_by_key(|it| (it.starts_with("journal"), *it != *"marks"));
    for file in files {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

/// All but those that hold nothing.
fn files_of(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for part in ["", "segments/", "keys/"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let holds_nothing = ["lock", "reserve", "damaged"].contains(&&*name);
            if entry.file_type().unwrap().is_file() && !holds_nothing && !name.ends_with("-shm") {
                files.push(format!("{part}{name}"));
            }
        }
    }
    files.sort();
    files
}

/// All events behind one, a line for each; or those before the first that cannot be read, and why.
async fn export(store: &SqliteStore, mut after: EventSeq) -> Result<String, (String, StoreError)> {
    let mut text = String::new();
    loop {
        // One at a time, so that what stands before a damaged event is read.
        let page = store.events_behind(projects(1), &EventFilter::default(), after, 1).await;
        let page = match page {
            Ok(page) => page,
            Err(error) => return Err((text, error)),
        };
        let Some(event) = page.first() else { return Ok(text) };
        writeln!(text, "{event:?} {} {}", event.payload.as_str(), event.metadata.as_str()).unwrap();
        after = event.seq;
    }
}

/// All that can be read of a store; an error where something cannot.
async fn read_all(data: &Path) -> Result<String, String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let (store, _accepted, _) = sqlite(data, options()).map_err(|it| told(&it))?;
    let mut text = String::new();
    for document in store.load().await.map_err(|it| told(&it))? {
        writeln!(text, "{document:?}").unwrap();
    }
    let rows = store.list_entities(projects(1), &table(), "", 1_000).await;
    writeln!(text, "{:?}", rows.map_err(|it| told(&it))?).unwrap();
    let exported = export(&store, EventSeq(0)).await.map_err(|it| told(&it.1))?;
    text.push_str(&exported);
    let line = OwedQuery::Line {
        destination: destinations(1),
        after: None,
        per_lane: 1_000,
        limit: 1_000,
    };
    let owed = store.owed(line).await.map_err(|it| told(&it))?;
    writeln!(text, "{owed:?}").unwrap();
    let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
    let messages = store.messages(&seqs).await.map_err(|it| told(&it))?;
    if messages.len() < owed.len() {
        return Err("a dead letter tells".to_owned());
    }
    for number in 1..=EVENTS {
        let again = numbered(number);
        let (project, key) = (again.project, again.key.clone().unwrap());
        let record = store.event_by_key(project, &key).await.map_err(|it| told(&it))?;
        writeln!(text, "{record:?}").unwrap();
        let appended = store.append(vec![again]).await.map_err(|it| told(&it))?;
        match &appended[..] {
            [Appended::Duplicate { id, .. }] => writeln!(text, "{number}: {id}").unwrap(),
            _ => writeln!(text, "{number}: its key is free").unwrap(),
        }
    }
    let unplanned = store.unplanned(EventSeq(0), 1_000).await.map_err(|it| told(&it))?;
    writeln!(text, "{} without a plan", unplanned.len()).unwrap();
    rows::read(&store, &mut text).await.map_err(|it| told(&it))?;
    store.close().await;
    Ok(text)
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Gone,
    CutTo(u64),
    Flip(u64),
}

impl Damage {
    fn apply(self, file: &Path) {
        match self {
            Self::Gone => fs::remove_file(file).unwrap(),
            Self::CutTo(length) => {
                fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
            }
            Self::Flip(bit) => {
                let mut bytes = fs::read(file).unwrap();
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                fs::write(file, bytes).unwrap();
            }
        }
    }

    fn of_each_kind(length: u64, flips: usize, random: &mut Random) -> Vec<Self> {
        let mut all = vec![Self::Gone];
        if length > 0 {
            all.extend([0, length / 2, length - 1].map(Self::CutTo));
            all.extend((0..flips).map(|_| Self::Flip(random.next() % (length * 8))));
        }
        all
    }
}

/// What is warned of while a store is opened.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default, Debug)]
struct Tally {
    harmless: u32,
    by_start_or_reader: u32,
    by_check: u32,
    silent: Vec<String>,
}

/// Damages a copy, and finds out whether that is told.
async fn judge(whole: &Path, expected: &str, file: &str, damage: Damage, tally: &mut Tally) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    copy(whole, &data);
    damage.apply(&data.join(file));
    let checked = scratch.path().join("checked");
    copy(&data, &checked);
    let warnings = Warnings::default();
    let kept = warnings.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || kept.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let read = read_all(&data).await;
    drop(guard);
    let warned = String::from_utf8(warnings.0.lock().unwrap().clone()).unwrap();
    match read {
        Err(_) => tally.by_start_or_reader += 1,
        Ok(read) if read == expected => tally.harmless += 1,
        Ok(_) if warned.contains("the journal is torn") => tally.by_start_or_reader += 1,
        Ok(read) => match sqlite::check(&checked) {
            Ok(found) if found.losses.is_empty() => {
                let differs = read.lines().zip(expected.lines()).find(|(a, b)| a != b);
                tally.silent.push(format!("{file} {damage:?}: {differs:?}"));
            }
            Ok(_) | Err(_) => tally.by_check += 1,
        },
    }
}

/// Folders with something of everything: one that was closed, one that was killed.
async fn folders(scratch: &Path) -> [(&'static str, PathBuf); 2] {
    folders_with(scratch, false).await
}

/// The newest segment of the one that was killed may have a part of what it has in its log alone.
async fn folders_with(scratch: &Path, has_both: bool) -> [(&'static str, PathBuf); 2] {
    let (closed, living) = (scratch.join("closed"), scratch.join("living"));
    let killed = scratch.join("killed");
    let (store, _accepted) = filled(&closed).await;
    store.close().await;
    drop(store);
    let (store, _accepted) = filled(&living).await;
    sealed(&living).await;
    let mut planned = Vec::new();
    for number in 0..5 {
        let appended = store.append(vec![event(&format!("[{number}]"))]).await.unwrap();
        planned.extend(store.plan(vec![plan_for(&new_events(&appended)[0], &[1])]).await.unwrap());
    }
    if has_both {
        store.settle(vec![note(&planned[0], ended())]).await.unwrap();
        rows::bring_into_file(&store, &living).await;
        store.settle(vec![note(&planned[1], ended())]).await.unwrap();
        store.unplanned(EventSeq(0), 1).await.unwrap();
    }
    copy(&living, &killed);
    drop(store);
    [("closed", closed), ("killed", killed)]
}

#[tokio::test(flavor = "current_thread")]
async fn no_damage_loses_anything_in_silence() {
    let seed = Random::seed("DAMAGE_SEED");
    let flips = std::env::var("DAMAGE_FLIPS").map_or(2, |it| it.parse().unwrap());
    eprintln!("damage: DAMAGE_SEED={seed} DAMAGE_FLIPS={flips}");
    let mut random = Random::new(seed);
    let scratch = tempfile::tempdir().unwrap();
    for (name, whole) in folders_with(scratch.path(), true).await {
        let mut tally = Tally::default();
        let copied = scratch.path().join(format!("{name}-whole"));
        copy(&whole, &copied);
        assert_eq!(sqlite::check(&copied).unwrap().losses, [], "{name}");
        let expected = read_all(&copied).await.unwrap();
        for file in files_of(&whole) {
            let length = fs::metadata(whole.join(&file)).unwrap().len();
            for damage in Damage::of_each_kind(length, flips, &mut random) {
                judge(&whole, &expected, &file, damage, &mut tally).await;
            }
        }
        eprintln!("damage: {name}: {tally:#?}");
        assert!(tally.silent.is_empty(), "{name}: {:#?}", tally.silent);
        assert!(tally.by_start_or_reader > 10, "{name}: {tally:?}");
    }
}

#[tokio::test]
async fn a_damaged_body_is_told_and_others_go_on() {
    // Given a pending event whose body is changed on the disk, in the place of another
    let scratch = tempfile::tempdir().unwrap();
    let [_, (_, data)] = folders(scratch.path()).await;
    let segment = data.join("segments/0000000000000041.db");
    let connection = rusqlite::Connection::open(&segment).unwrap();
    let changed = connection.execute("UPDATE events SET digest = digest + 1 WHERE seq = 43", []);
    assert_eq!(changed.unwrap(), 1);
    drop(connection);

    // When pending deliveries are read, then the others are there
    let (store, _accepted, _) = sqlite(&data, options()).unwrap();
    let line = OwedQuery::Line {
        destination: destinations(1),
        after: None,
        per_lane: 1_000,
        limit: 1_000,
    };
    let owed = store.owed(line).await.unwrap();
    let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
    let messages = store.messages(&seqs).await.unwrap();
    let missing: Vec<u64> = seqs
        .iter()
        .filter(|it| !messages.iter().any(|message| message.seq == **it))
        .map(|it| it.event().0)
        .collect();
    assert_eq!(missing, [43]);
    // An export fails there, and has all others when it goes on behind it
    let (before, error) = export(&store, EventSeq(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "the store holds a damaged body");
    let behind = export(&store, EventSeq(43)).await.unwrap();
    assert_eq!((before.lines().count() + behind.lines().count()) as u64, EVENTS - OLD + 4);
    drop(store);
    // And a check finds it, as it finds that the file has changed
    let found = sqlite::check(&data).unwrap().losses;
    let text = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("`segments/0000000000000041.db` is damaged at event 43"), "{text}");
}

#[tokio::test]
async fn the_program_says_what_is_missing_and_how_to_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    let [(_, data), _] = folders(scratch.path()).await;
    // A clean stop leaves nothing in logs, but in that of the file that is derived.
    let logs = files_of(&data).into_iter().filter(|it| it.ends_with("-wal"));
    let lengths = logs.map(|it| (fs::metadata(data.join(&it)).unwrap().len(), it));
    let full: Vec<_> = lengths.filter(|it| it.0 > 0 && it.1 != "owed.db-wal").collect();
    assert_eq!(full, []);
    let path = data.to_str().unwrap();
    let whole = tidegate(&["check", "--data", path]).output().unwrap();
    assert_eq!(whole.status.code(), Some(0), "{}", stderr(&whole));
    assert!(stdout(&whole).contains("all is well"), "{}", stdout(&whole));

    fs::remove_file(data.join("segments/0000000000000061.db")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", path];
    let refused = tidegate(&serve).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    for part in [
        "`segments/0000000000000061.db` is missing",
        "events 61 to 80 are gone",
        "--repair`; nothing was changed",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let found = tidegate(&["check", "--data", path]).output().unwrap();
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout(&found).contains("events 61 to 80 are gone"), "{}", stdout(&found));
    let repaired = tidegate(&["check", "--data", path, "--repair"]).output().unwrap();
    assert_eq!(repaired.status.code(), Some(0), "{}", stderr(&repaired));
    let whole = tidegate(&["check", "--data", path]).output().unwrap();
    assert_eq!(whole.status.code(), Some(0), "{}", stdout(&whole));
}

#[tokio::test]
async fn after_a_repair_the_store_opens_without_what_is_lost() {
    let scratch = tempfile::tempdir().unwrap();
    let [(_, closed), (_, killed)] = folders(scratch.path()).await;
    for (number, (whole, file, damage)) in [
        (&closed, "directory.db", Damage::Gone),
        (&closed, "directory.db", Damage::CutTo(5_000)),
        (&closed, "segments/0000000000000061.db", Damage::Gone),
        (&closed, "segments/0000000000000101.db", Damage::Gone),
        (&closed, "manifest", Damage::CutTo(20)),
        (&killed, "journal-0", Damage::Flip(300)),
        (&killed, "journal-0", Damage::Gone),
        (&killed, "segments/0000000000000061.db", Damage::CutTo(9_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let data = scratch.path().join(format!("repaired-{number}"));
        copy(whole, &data);
        // A power cut may take what a segment has of turns that the journal keeps: then they are needed.
        let log = data.join("segments/0000000000000101.db-wal");
        if file.starts_with("journal") && log.exists() {
            fs::remove_file(log).unwrap();
            assert_eq!(sqlite::check(&data).unwrap().losses, []);
        }
        damage.apply(&data.join(file));
        let Err(error) = sqlite(&data, options()).map(drop) else {
            panic!("{file} {damage:?}: it opens")
        };
        assert!(error.to_string().contains(file.trim_end_matches(".db")), "{error}");
        let found = sqlite::check(&data).unwrap().losses;
        assert!(found.iter().any(|it| it.file == file), "{file} {damage:?}: {found:?}");

        let done = sqlite::repair(&data).unwrap();
        assert!(!done.is_empty());
        let left = sqlite::check(&data).unwrap().losses;
        assert_eq!(left, [], "{file} {damage:?}: {done:?}");
        let (store, accepted, _) = sqlite(&data, options()).unwrap();
        // New events go behind all that there ever was, under keys that stay used.
        let fresh = store.append(vec![keyed(projects(1), "fresh", "1")]).await.unwrap();
        assert!(new_events(&fresh)[0].seq.0 > EVENTS - 20, "{file} {damage:?}: {fresh:?}");
        let again = store.append(vec![keyed(projects(1), "fresh", "1")]).await.unwrap();
        assert!(matches!(again[0], Appended::Duplicate { .. }));
        store.close().await;
        drop((store, accepted));
        let (store, _accepted, _) = sqlite(&data, options()).unwrap();
        let again = store.append(vec![keyed(projects(1), "fresh", "1")]).await.unwrap();
        assert!(matches!(again[0], Appended::Duplicate { .. }), "{file} {damage:?}");
    }
}
