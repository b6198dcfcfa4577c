//! What only the embedded store promises: about its files.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use tidegate::{
    model::{Class, DeliverySeq, Event, EventSeq, Owed, Person, Plan},
    store::{Appended, OwedQuery, Refusal, StoreError, sqlite::Options},
};

use crate::harness::small_disk::{SmallDisk, again_with_the_right_to_mount};

use super::home::{
    Home, Open, SqliteHome, attempt, destinations, ended, event, keyed, new_events, note, now,
    on_sqlite, open_sqlite, owe, plan_for, projects, retry, small,
};

fn with_small_segments() -> SqliteHome {
    SqliteHome { options: Options { segment_events: 10, ..small() }, ..on_sqlite() }
}

async fn line(open: &Open) -> Vec<Owed> {
    let query = OwedQuery::Line {
        destination: destinations(1),
        after: None,
        per_lane: usize::MAX,
        limit: usize::MAX,
    };
    open.store.owed(query).await.unwrap()
}

/// Owed, ended and failed deliveries, spread over many segments.
async fn busy(open: &Open) -> Vec<Owed> {
    let mut expected = Vec::new();
    for _ in 0..10 {
        expected.extend(owe(open, 7, &[1]).await);
        let ends: Vec<Owed> = expected.iter().step_by(4).copied().collect();
        expected.retain(|it| !ends.contains(it));
        open.store.settle(ends.iter().map(|it| note(it, ended())).collect()).await.unwrap();
        for owed in expected.iter_mut().step_by(6) {
            let (failed, again) = retry(owed, now());
            open.store.settle(vec![failed]).await.unwrap();
            *owed = again;
        }
    }
    expected
}

fn segments(home: &SqliteHome) -> Vec<String> {
    let names = fs::read_dir(home.folder.path().join("segments")).unwrap();
    let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|it| it.ends_with(".db")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn events_are_found_in_whatever_segment_they_are() {
    let home = with_small_segments();
    let open = home.open().await;
    let offered = (0..10).map(|n| keyed(projects(1), &format!("k{n}"), &format!("[{n}]")));
    for event in offered.clone() {
        let accepted = new_events(&open.store.append(vec![event]).await.unwrap());
        open.store.plan(vec![plan_for(&accepted[0], &[])]).await.unwrap();
    }
    let expected = busy(&open).await;
    assert_eq!(segments(&home)[..2], ["0000000000000001.db", "0000000000000011.db"]);
    assert!(segments(&home).len() >= 7);

    drop(open);
    for reopened in 0..2 {
        let open = home.open().await;
        assert_eq!(line(&open).await, expected, "{reopened}");
        let seqs: Vec<DeliverySeq> = expected.iter().map(|it| it.seq).collect();
        let messages = open.store.messages(&seqs).await.unwrap();
        assert_eq!(messages.iter().map(|it| it.seq).collect::<Vec<_>>(), seqs);
        let again = open.store.append(offered.clone().collect()).await.unwrap();
        let all_same =
            again.iter().all(|it| matches!(it, Appended::Duplicate { same_body: Some(true), .. }));
        assert!(all_same);
    }
}

#[tokio::test]
async fn a_plan_that_waits_is_known_over_many_segments() {
    // Given an event that waits while others fill segments
    let home = with_small_segments();
    let mut open = home.open().await;
    let append = async |open: &Open| {
        let events = (0..7).map(|_| event("1")).collect();
        new_events(&open.store.append(events).await.unwrap())
    };
    let mut waits = Vec::new();
    let mut planned = 0;
    for round in 0..12 {
        let events = append(&open).await;
        let plans = events
            .iter()
            .map(|it| {
                let plan = plan_for(it, &[1]);
                let is_third = it.seq == events[2].seq && round % 4 == 1;
                if is_third { super::waiting::waits(plan) } else { plan }
            })
            .collect();
        if round % 4 == 1 {
            waits.push(events[2].clone());
        }
        planned += open.store.plan(plans).await.unwrap().len() as u64;
        open = home.open_again_after_crash(open).await;
        let expected: Vec<u64> = waits.iter().map(|it| it.seq.0).collect();
        assert_eq!(super::waiting::waiting(&open).await, expected, "{round}");
        assert!(open.store.unplanned(EventSeq(0), 9).await.unwrap().is_empty(), "{round}");
        assert_eq!(open.store.backlog().await.unwrap()[0].owed, planned);
    }
    assert!(segments(&home).len() > 5);
    // When they are decided, one after the other, from new to old
    while let Some(event) = waits.pop() {
        planned += open
            .store
            .plan(vec![super::waiting::rest(plan_for(&event, &[1]))])
            .await
            .unwrap()
            .len() as u64;
        open = home.open_again_after_crash(open).await;
        assert!(open.store.unplanned(EventSeq(0), 9).await.unwrap().is_empty());
        let expected: Vec<u64> = waits.iter().map(|it| it.seq.0).collect();
        assert_eq!(super::waiting::waiting(&open).await, expected);
    }
    // Then plans go on as before
    planned += owe(&open, 25, &[1]).await.len() as u64;
    open = home.open_again_after_crash(open).await;
    assert!(open.store.unplanned(EventSeq(0), 9).await.unwrap().is_empty());
    assert_eq!(open.store.backlog().await.unwrap()[0].owed, planned);
}

#[tokio::test]
async fn work_of_any_kind_agrees_with_a_model_over_many_segments() {
    super::random::work_of_any_kind_agrees_with_a_model(&with_small_segments()).await;
}

#[tokio::test]
async fn backlog_is_rebuilt_without_its_file() {
    for damage in ["missing", "scribbled over"] {
        let home = with_small_segments();
        let open = home.open().await;
        let expected = busy(&open).await;
        assert_eq!(line(&open).await, expected);
        open.store.close().await;
        drop(open);
        let path = home.folder.path().join("owed.db");
        match damage {
            "missing" => fs::remove_file(path).unwrap(),
            _ => fs::write(path, b"this was a database").unwrap(),
        }

        let open = home.open().await;

        let found = line(&open).await;
        let standing = |owed: &[Owed]| -> Vec<_> {
            let of = |it: &Owed| (it.seq, it.place, it.accepted_at, it.standing);
            owed.iter().map(of).collect()
        };
        assert_eq!(standing(&found), standing(&expected), "{damage}");
        // And it goes on from there.
        open.store.settle(found.iter().map(|it| note(it, ended())).collect()).await.unwrap();
        assert_eq!(line(&open).await, []);
    }
}

/// How many redo rows the first segment holds.
fn redo_rows(home: &SqliteHome) -> u64 {
    let path = home.folder.path().join("segments/0000000000000001.db");
    let file = rusqlite::Connection::open(path).unwrap();
    file.query_row("SELECT count(*) FROM redo", [], |row| row.get::<_, i64>(0)).unwrap() as u64
}

#[tokio::test]
async fn redo_rows_go_when_they_are_of_no_more_use() {
    let home = on_sqlite();
    let open = home.open().await;
    let mut rounds = 0;
    // The log of `owed.db` is emptied after 50,000 changes; then the rows go, some at each commit.
    while redo_rows(&home) == rounds {
        rounds += 1;
        owe(&open, 1_000, &[1, 2]).await;
        open.store.backlog().await.unwrap();
        assert!(rounds < 100, "they stay");
    }

    // What is still there is all that is needed.
    let open = home.open_again_after_crash(open).await;
    let backlog = open.store.backlog().await.unwrap();
    assert_eq!(backlog.iter().map(|it| it.owed).collect::<Vec<_>>(), [rounds * 1_000; 2]);
}

fn events_in(home: &SqliteHome, segment: &str) -> i64 {
    let path = home.folder.path().join("segments").join(segment);
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn journal_records_are_recovered_at_a_start() {
    // Given events that were accepted, planned and settled a moment before a crash,
    let home = on_sqlite();
    let open = home.open().await;
    let owed = owe(&open, 20, &[1]).await;
    open.store.settle(owed[..5].iter().map(|it| note(it, ended())).collect()).await.unwrap();
    drop(open);
    let segment = &segments(&home)[0];
    assert!(events_in(&home, segment) < 20, "the segment had everything: this tests nothing");

    // when the store is opened, and again,
    let again = home.open().await;
    let found = line(&again).await;
    let again = home.open_again_after_crash(again).await;

    // then everything is there once.
    assert_eq!(found, owed[5..]);
    assert_eq!(line(&again).await, owed[5..]);
    assert_eq!(events_in(&home, segment), 20);
}

#[tokio::test]
async fn a_journal_that_ends_in_the_middle_of_a_turn_is_read_up_to_there() {
    // Given a turn that was written behind others, of which a power cut left a part,
    let home = on_sqlite();
    let open = home.open().await;
    for number in 0..3 {
        open.store.append(vec![event(&number.to_string())]).await.unwrap();
    }
    let path = home.folder.path().join("journal-0");
    let before = fs::read(&path).unwrap();
    open.store.append(vec![event("3")]).await.unwrap();
    let after = fs::read(&path).unwrap();
    drop(open);
    let turn = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let mut torn = after.clone();
    torn[turn + 40..].fill(0);
    fs::write(&path, torn).unwrap();
    // The cut came before the sync, and so before the mark that says that there was one.
    fs::remove_file(home.folder.path().join("marks")).unwrap();

    // when the store is opened, then what stands before it is there, and more can be added.
    let open = home.open().await;
    assert_eq!(open.store.unplanned(EventSeq(0), 10).await.unwrap().len(), 3);
    let added = new_events(&open.store.append(vec![event("4")]).await.unwrap());
    assert_eq!(added[0].seq, EventSeq(4));
    let open = home.open_again_after_crash(open).await;
    let found = open.store.unplanned(EventSeq(0), 10).await.unwrap();
    let payloads: Vec<&str> = found.iter().map(|it| it.payload.as_str()).collect();
    assert_eq!(payloads, ["0", "1", "2", "4"]);
}

#[tokio::test]
async fn the_journal_goes_on_in_its_other_file_and_nothing_is_missing() {
    // Given more than both files of the journal hold,
    let home = on_sqlite();
    let open = home.open().await;
    let payload = || format!("[{}]", [0; 8].map(|_| noise()).join(","));
    let mut events = Vec::new();
    for _ in 0..100 {
        let offered = (0..60).map(|_| event(&payload())).collect();
        events.extend(new_events(&open.store.append(offered).await.unwrap()));
    }
    let length = |name| fs::metadata(home.folder.path().join(name)).unwrap().len();
    assert!(length("journal-0").max(length("journal-1")) < 16 << 20, "it is never begun anew");
    assert!(length("journal-0").min(length("journal-1")) >= 8 << 20, "one file is not used");

    // when the process is killed, then all of it is there.
    let open = home.open_again_after_crash(open).await;
    let mut found = Vec::new();
    while found.len() < events.len() {
        let after = found.last().map_or(EventSeq(0), |it: &Arc<Event>| it.seq);
        found.extend(open.store.unplanned(after, 500).await.unwrap());
    }
    assert_eq!(found, events);
}

#[tokio::test]
async fn erased_data_is_in_no_file() {
    // Given an event whose body stands in the journal and in a segment, compressed,
    let home = on_sqlite();
    let open = home.open().await;
    let payload = format!(r#"{{"userId":"u-1","text":{}}}"#, noise());
    let events = new_events(&open.store.append(vec![event(&payload)]).await.unwrap());
    open.store.plan(vec![plan_for(&events[0], &[])]).await.unwrap();
    // when it is erased,
    let person = Person { user_id: "u-1".to_owned(), field: None };
    let stretch = open.store.find_person(projects(1), &person, EventSeq(0), EventSeq(1));
    let stretch = stretch.await.unwrap().unwrap();
    let segment = home.folder.path().join("segments").join(&segments(&home)[0]);
    let connection = rusqlite::Connection::open(segment).unwrap();
    let needle: Vec<u8> =
        connection.query_row("SELECT body FROM blocks", [], |row| row.get(0)).unwrap();
    drop(connection);
    let found = files_with(home.folder.path(), &needle);
    assert!(found.iter().any(|it| it.ends_with("journal-0")) && found.len() > 1, "{found:?}");
    assert_eq!(open.store.erase(&stretch).await.unwrap(), 1);

    // then it is in none.
    assert_eq!(files_with(home.folder.path(), &needle), [] as [String; 0]);
}

/// The files below a folder in which these bytes are.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|it| it == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let home = on_sqlite();
    let _open = home.open().await;
    let Err(StoreError::Unavailable(source)) = open_sqlite(home.folder.path(), small()) else {
        panic!("the folder was opened twice");
    };
    assert_eq!(source.to_string(), "another process has the data folder open");
}

#[tokio::test]
async fn a_process_that_is_just_ending_is_waited_for() {
    // Given somebody who still has the folder
    let home = on_sqlite();
    let lock = fs::File::create(home.folder.path().join("lock")).unwrap();
    lock.lock().unwrap();

    // When another opens it
    let path = home.folder.path().to_owned();
    let opening = thread::spawn(move || open_sqlite(&path, small()).map(drop));
    thread::sleep(Duration::from_millis(100));
    assert!(!opening.is_finished());
    drop(lock);

    // Then it does as soon as that one is gone
    opening.join().unwrap().unwrap();
}

#[tokio::test]
async fn files_of_a_newer_version_are_refused() {
    let home = with_small_segments();
    let open = home.open().await;
    busy(&open).await;
    open.store.close().await;
    drop(open);
    // What a stop left is changed here by hand, which would be found first.
    fs::remove_file(home.folder.path().join("manifest")).unwrap();
    let newest = segments(&home).pop().unwrap();
    for file in ["control.db", "owed.db", "segments/0000000000000001.db"]
        .into_iter()
        .chain([format!("segments/{newest}").as_str()])
    {
        let set = |version: u32| -> u32 {
            let file = rusqlite::Connection::open(home.folder.path().join(file)).unwrap();
            let before = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
            file.pragma_update(None, "user_version", version).unwrap();
            before
        };
        let ours = set(99);
        let Some(StoreError::Newer { found: 99, known }) =
            open_sqlite(home.folder.path(), small()).err()
        else {
            panic!("{file}")
        };
        assert_eq!(known, ours, "{file}");
        set(ours);
    }
    assert!(open_sqlite(home.folder.path(), small()).is_ok());
}

#[tokio::test]
async fn a_full_disk_refuses_events_goes_on_delivering_and_heals() {
    let Some(disk) = SmallDisk::mount(6) else {
        return again_with_the_right_to_mount(
            "store::sqlite::a_full_disk_refuses_events_goes_on_delivering_and_heals",
        );
    };
    let folder = disk.0.path().join("data");
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    let open = open_sqlite(&folder, options).unwrap();
    let owed = owe(&open, 200, &[1]).await;

    // Until the disk is full.
    let ballast = disk.0.path().join("ballast");
    let (accepted, refused) = fill(&open, &ballast).await;
    assert!(matches!(refused, StoreError::Full), "{refused}");
    assert_eq!(open.store.health().refuses, Some(Refusal::DiskFull));
    let again = open.store.append(vec![event("1")]).await;
    assert!(matches!(again, Err(StoreError::Full)));

    // Deliveries go on.
    for owed in &owed[..100] {
        open.store.settle(vec![attempt(owed, Class::Accepted, ended())]).await.unwrap();
    }
    open.store.plan(plans(&accepted)).await.unwrap();

    // And it heals by itself.
    fs::remove_file(&ballast).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while open.store.health().refuses.is_some() {
        assert!(std::time::Instant::now() < deadline, "it does not heal");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let healed = new_events(&open.store.append(vec![event("2")]).await.unwrap());
    let last = accepted.last().map_or(200, |it| it.seq.0);
    assert_eq!(healed[0].seq, EventSeq(last + 1));
    assert!(fs::metadata(folder.join("reserve")).is_ok_and(|it| it.len() == 1 << 20));
    assert_eq!(line(&open).await.len(), 100 + accepted.len());
    drop(open);
    let open = open_sqlite(&folder, small()).unwrap();
    assert_eq!(open.store.unplanned(EventSeq(0), 10).await.unwrap(), healed);
    assert_eq!(line(&open).await.len(), 100 + accepted.len());
}

fn plans(events: &[Arc<Event>]) -> Vec<Plan> {
    events.iter().map(|it| plan_for(it, &[1])).collect()
}

/// Takes all room but a little, and appends until the store refuses. Says what it had accepted.
async fn fill(open: &Open, ballast: &Path) -> (Vec<Arc<Event>>, StoreError) {
    use std::io::Write as _;
    let mut file = fs::File::create(ballast).unwrap();
    while file.write_all(&[1; 16 * 1024]).is_ok() {}
    let size = file.metadata().unwrap().len();
    file.set_len(size.saturating_sub(256 * 1024)).unwrap();
    let mut accepted = Vec::new();
    loop {
        match open.store.append((0..10).map(|_| event(&noise())).collect()).await {
            Ok(appended) => accepted.extend(new_events(&appended)),
            Err(error) => return (accepted, error),
        }
        assert!(accepted.len() < 100_000, "the disk does not get full");
    }
}

/// A payload that does not compress.
fn noise() -> String {
    let mut bytes = [0; 400];
    getrandom::fill(&mut bytes).unwrap();
    format!("\"{}\"", hex::encode(bytes))
}
