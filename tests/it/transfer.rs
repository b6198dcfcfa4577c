//! A store is carried over to another database: nothing is missing, nothing is new, and whoever had to
//! do with it before sees no difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use jiff::SignedDuration;
use serde_json::json;
use tempfile::TempDir;
use tidegate::{
    clock::ManualClock,
    model::{EventSeq, NewEvent, Person, RawJson},
    store::{
        Appended, Change, Directory as _, Document, Entity, Eraser as _, OwedQuery, Page,
        Records as _, Registry as _, Store as _, StoreError, Upsert,
        postgres::{self, Address, PostgresStore, intake::IntakeError},
        sqlite::SqliteStore,
        transfer::{TransferError, TransferProgress, TransferReport, TransferRequest, transfer},
    },
};

use crate::{
    harness::{
        PATIENCE,
        cluster::shared,
        postgres::Postgres,
        sink::{Answer, Sink},
    },
    outage,
    records::{
        questions::check_everything,
        world::{PROJECTS, REPLAY, World},
    },
    store::home::{keyed, new_events, now, plan_for, postgres as open, projects, sqlite},
};

const SHARDS: u16 = 4;

async fn carry(from: &Path, to: &Address, batch: usize) -> Result<TransferReport, TransferError> {
    carry_and_stop(from, to, batch, u64::MAX).await.expect("nothing stops it")
}

/// `None`: it was broken off after so many batches, in the middle of the next.
async fn carry_and_stop(
    from: &Path,
    to: &Address,
    batch: usize,
    after: u64,
) -> Option<Result<TransferReport, TransferError>> {
    // Small ones, so that a short history is about several.
    let partition_events = if batch < TransferRequest::BATCH { 64 } else { 1_000_000 };
    let options = postgres::Options { shards: SHARDS, partition_events, ..Default::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (mut stop, mut count) = (Some(stop), 0);
    let mut told = |it: TransferProgress| {
        assert!(it.done <= it.of, "{it:?}");
        count += 1;
        if count > after {
            stop.take().map(|it| it.send(()));
        }
    };
    let request = TransferRequest {
        from,
        to,
        options: &options,
        batch,
        clock: Arc::new(ManualClock::at(now())),
        random: Box::new({
            let number = AtomicU64::new(7);
            move || number.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst)
        }),
    };
    tokio::select! {
        biased;
        Ok(()) = stopped => None,
        report = transfer(request, &mut told) => Some(report),
    }
}

/// The same after a crash of the process that had the folder open. It may take a moment to let go.
async fn carry_when_free(
    from: &Path,
    to: &Address,
    batch: usize,
    after: u64,
) -> Option<TransferReport> {
    let begun = std::time::Instant::now();
    loop {
        match carry_and_stop(from, to, batch, after).await {
            None => return None,
            Some(Ok(report)) => return Some(report),
            Some(Err(
                TransferError::Source(StoreError::Unavailable(_))
                | TransferError::Target(IntakeError::InUse),
            )) => {
                assert!(begun.elapsed() < PATIENCE, "nobody lets go");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Some(Err(error)) => panic!("{error:?}"),
        }
    }
}

fn document(kind: &str, id: u128, project: u128) -> Document {
    let body = RawJson::of(&json!({"project": projects(project), "id": id.to_string()}));
    Document { kind: kind.to_owned(), id, body }
}

/// A long history with old events that are forgotten, rows of the directory, and resources.
async fn lived(seed: u64) -> (World<SqliteStore>, Vec<(NewEvent, tidegate::model::EventId)>) {
    let mut world = World::new(seed);
    world.live(20).await;
    // The oldest of one project are forgotten; their keys go on counting
    world.plan(1000).await;
    let horizon = now() + SignedDuration::from_mins(world.events.len() as i64 / 2);
    let of_first = projects(1);
    world.end(|it| it.project == of_first && it.received_at < horizon).await;
    let old: Vec<_> = world.events.values().map(|it| it.event.clone()).collect();
    let (mut forgotten, begun) = (0, std::time::Instant::now());
    while forgotten < 12 {
        // Full files are sealed in the background, and only then written anew.
        forgotten += world.store.prune(&[(of_first, horizon)]).await.unwrap();
        assert!(begun.elapsed() < PATIENCE, "only {forgotten} of {} went", old.len());
    }
    let present = present(&world.store).await;
    let gone = old.into_iter().filter(|it| !present.contains(&it.seq) && it.key.is_some());
    let gone: Vec<_> = gone
        .map(|it| {
            let key = it.key.clone().unwrap();
            (keyed(it.project, key.as_str(), it.payload.as_str()), it.id)
        })
        .collect();
    world.keep_only(&present);
    assert!(gone.len() > 2);
    world.live(5).await;
    let row = |n: u32| Entity {
        key: format!("key {n}"),
        fields: RawJson::of(&json!({"n": n})),
        updated_at: now(),
    };
    for (project, table) in [(1, "people"), (2, "people"), (1, "plans")] {
        let rows = (0..30).map(row).collect();
        let (project, table) = (projects(project), table.parse().unwrap());
        world.store.put_entities(project, &table, rows, Upsert::Replace).await.unwrap();
    }
    let documents = [document("replay", REPLAY.bits(), 1), document("source", 9, 2)];
    world.store.change(documents.map(Change::Put).to_vec()).await.unwrap();
    (world, gone)
}

async fn present(store: &SqliteStore) -> BTreeSet<EventSeq> {
    let mut found = BTreeSet::new();
    for project in PROJECTS.map(projects) {
        let mut before = None;
        loop {
            let page = Page { before, limit: 1000 };
            let events = store.events(project, &Default::default(), page).await.unwrap();
            let Some(last) = events.last() else { break };
            before = Some((last.seq.0, 0));
            found.extend(events.iter().map(|it| it.seq));
        }
    }
    found
}

/// Broken off at every possible place, it goes on; and every question has the answer that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_carried_over_in_pieces_answers_as_before() {
    let (world, gone) = lived(0x5eed).await;
    let owed_before: usize = world.open().count();
    world.store.close().await;
    let World { home, .. } = &world;
    let folder = home.path().to_owned();
    let to = shared().database();
    // When it is broken off again and again
    let mut broken = 0;
    let report = loop {
        match carry_when_free(&folder, &to, 23, 3 + broken % 5).await {
            Some(report) => break report,
            None => broken += 1,
        }
        let refused = open(&to, SHARDS).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, StoreError::Unfinished), "{refused:?}");
    };
    // Then it is whole in the end, and is not begun again
    assert!(broken > 10, "{broken}");
    assert_eq!(report.events, world.events.len() as u64);
    assert!(!report.was_done);
    assert!(carry_when_free(&folder, &to, 100, u64::MAX).await.unwrap().was_done);
    let (store, _accepts, _) = open(&to, 9).await.unwrap();
    assert_eq!(store.shards(), SHARDS);
    answers_as_before(world, to, store, gone, owed_before).await;
}

async fn answers_as_before(
    world: World<SqliteStore>,
    to: Address,
    store: Arc<PostgresStore>,
    gone: Vec<(NewEvent, tidegate::model::EventId)>,
    owed_before: usize,
) {
    let mut places = BTreeMap::new();
    for (seq, told) in &world.events {
        let (project, id) = (told.event.project, told.event.id);
        let record = store.event(project, id).await.unwrap().expect("it is there");
        places.insert(*seq, record.event.seq);
    }
    let mut world = world.moved(to, store.clone(), &places);
    check_everything(&mut world, 0x5eed).await;
    // What is owed is all there, as it stands
    let owed: u64 = store.backlog().await.unwrap().iter().map(|it| it.owed).sum();
    assert_eq!(owed, owed_before as u64);
    for due in world.open().map(|it| &world.deliveries[&it]) {
        let found = store.owed(OwedQuery::These(vec![due.owed.seq])).await.unwrap();
        assert_eq!(found, [due.owed]);
    }
    // Keys count on, also those of events that are forgotten
    for (event, id) in gone {
        let answer = store.append(vec![event]).await.unwrap().remove(0);
        assert!(matches!(answer, Appended::Duplicate { id: it, same_body: None, .. } if it == id));
    }
    for told in world.events.values().filter(|it| it.event.key.is_some()).take(30) {
        let key = told.event.key.as_ref().unwrap();
        let again = keyed(told.event.project, key.as_str(), told.event.payload.as_str());
        let answer = store.append(vec![again]).await.unwrap().remove(0);
        let id = told.event.id;
        assert!(
            matches!(answer, Appended::Duplicate { id: it, same_body: Some(true), .. } if it == id)
        );
    }
    // The pipelines go on behind the last plan, with what is there and what is new
    let mut unplanned: BTreeSet<EventSeq> =
        world.events.values().filter(|it| it.plan.is_none()).map(|it| it.event.seq).collect();
    for number in PROJECTS {
        let new =
            new_events(&store.append(vec![keyed(projects(number), "new", "1")]).await.unwrap());
        unplanned.insert(new[0].seq);
    }
    for shard in 0..SHARDS {
        let log = store.log(shard);
        let events = log.unplanned(EventSeq(0), 1000).await.unwrap();
        assert!(events.iter().all(|it| unplanned.remove(&it.seq)));
        let plans = events.iter().map(|it| plan_for(it, &[10])).collect();
        assert_eq!(log.plan(plans).await.unwrap().len(), events.len());
    }
    assert!(unplanned.is_empty(), "{unplanned:?}");
    // And the directory and the resources are there
    for (project, table, count) in [(1, "people", 30), (2, "people", 30), (1, "plans", 30)] {
        let (project, table) = (projects(project), table.parse().unwrap());
        let rows = store.list_entities(project, &table, "", 1000).await.unwrap();
        assert_eq!(rows.len(), count);
        assert_eq!(rows[3].fields.as_str(), format!("{{\"n\":{}}}", &rows[3].key[4..]));
    }
    assert_eq!(store.load().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_transfer_says_why_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let options = crate::store::home::small();
    let (store, _, _) = sqlite(folder.path(), options.clone()).unwrap();
    let kept = new_events(&store.append(vec![keyed(projects(1), "k", "1")]).await.unwrap());
    // A gateway has the folder open
    let to = shared().database();
    let refused = carry(folder.path(), &to, 100).await.unwrap_err();
    assert!(matches!(refused, TransferError::Source(_)), "{refused:?}");
    // There is no store at all, and none is made
    let nothing = TempDir::new().unwrap();
    assert!(matches!(carry(nothing.path(), &to, 100).await, Err(TransferError::Source(_))));
    assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0);
    store.close().await;
    drop(store);
    // A gateway uses the database, and then it holds something
    let (other, _, _) = open(&to, SHARDS).await.unwrap();
    other.unplanned(EventSeq(0), 1).await.unwrap();
    let refused = carry(folder.path(), &to, 100).await.unwrap_err();
    assert!(matches!(refused, TransferError::Target(IntakeError::InUse)), "{refused:?}");
    other.append(vec![keyed(projects(5), "k", "1")]).await.unwrap();
    other.close().await;
    drop(other);
    let begun = std::time::Instant::now();
    loop {
        match carry(folder.path(), &to, 100).await.unwrap_err() {
            TransferError::Target(IntakeError::InUse) => {
                assert!(begun.elapsed() < PATIENCE, "its sessions do not end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            TransferError::Target(IntakeError::Foreign) => break,
            other => panic!("{other:?}"),
        }
    }
    // The folder is used again after a transfer has begun
    let to = shared().database();
    assert!(carry_when_free(folder.path(), &to, 1, 2).await.is_none());
    let begun = std::time::Instant::now();
    let store = loop {
        match sqlite(folder.path(), options.clone()) {
            Ok((store, _, _)) => break store,
            Err(_) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    store.append(vec![keyed(projects(1), "other", "1")]).await.unwrap();
    store.plan(vec![plan_for(&kept[0], &[1])]).await.unwrap();
    store.close().await;
    drop(store);
    let changed = loop {
        match carry(folder.path(), &to, 100).await.unwrap_err() {
            TransferError::Target(IntakeError::InUse) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => break other,
        }
    };
    assert!(matches!(changed, TransferError::Target(IntakeError::Changed)), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_events_stay_erased_and_their_keys_count() {
    let folder = TempDir::new().unwrap();
    let (store, _, _) = sqlite(folder.path(), crate::store::home::small()).unwrap();
    let offered = ["ann", "bob"]
        .map(|it| keyed(projects(1), it, &format!("{{\"userId\":\"{it}\"}}")))
        .to_vec();
    let events = new_events(&store.append(offered.clone()).await.unwrap());
    store.plan(events.iter().map(|it| plan_for(it, &[1])).collect()).await.unwrap();
    let ann = Person { user_id: "ann".to_owned(), field: None };
    let until = store.last_event().await.unwrap();
    let found = store.find_person(projects(1), &ann, EventSeq(0), until).await.unwrap().unwrap();
    assert_eq!(store.erase(&found).await.unwrap(), 1);
    store.close().await;
    drop(store);
    let to = shared().database();
    carry(folder.path(), &to, 100).await.unwrap();
    let (store, _, _) = open(&to, SHARDS).await.unwrap();
    let record = store.event(projects(1), events[0].id).await.unwrap().unwrap();
    assert_eq!((record.event.payload.as_str(), &record.event.key), ("null", &None));
    assert!(store.messages(&[record.deliveries[0].seq]).await.unwrap().is_empty());
    let again = store.append(offered).await.unwrap();
    let id = |at: usize| events[at].id;
    assert!(matches!(again[0], Appended::Duplicate { id: it, same_body: None, .. } if it == id(0)));
    assert!(
        matches!(again[1], Appended::Duplicate { id: it, same_body: Some(true), .. } if it == id(1))
    );
}

/// The command itself, killed again and again; then the gateway goes on where the other one was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_move_that_was_killed_a_gateway_delivers_what_was_owed_under_the_same_ids() {
    // Given a gateway with deliveries that failed, and some that wait behind a pause
    let works = Arc::new(AtomicBool::new(false));
    let answers = works.clone();
    let sink =
        Sink::with(move |_| Answer::status(if answers.load(SeqCst) { 200 } else { 503 })).await;
    let folder = TempDir::new().unwrap();
    let world = outage::World::in_folder(folder, None, sink).await;
    let mut ids = BTreeMap::new();
    for n in 0..60 {
        if n == 4 {
            world.sink.received_at_least(4).await;
            let path = "/api/v1/destinations/sink/pause?project=acme";
            world.caller.post(path, &json!({})).await.expect(200);
        }
        let key = format!("key {n}");
        let id = world.post(&key).await.expect(202).json()["id"].as_str().unwrap().to_owned();
        ids.insert(key, id);
    }
    let before = world.received();
    let outage::World { app, folder, sink, .. } = world;
    app.stop().await;
    // When the move is killed several times
    let postgres = Postgres::new();
    let database = postgres.database().await;
    let mut kills = 0;
    loop {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["migrate-store", "--batch", "3", "--from"])
            .arg(folder.path())
            .env("TIDEGATE_STORE", &database)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if kills < 8 {
            tokio::time::sleep(Duration::from_millis(60 + 40 * kills)).await;
            let _ = child.kill();
        }
        let output =
            tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains("tidegate@"), "{text}");
        if output.status.success() {
            assert!(text.contains("next: start the gateway"), "{text}");
            break;
        }
        // A server needs a moment to find out that a session has ended
        assert!(kills < 60, "{text}");
        kills += 1;
    }
    // Then the gateway on the database delivers the rest, under the ids that they had
    works.store(true, SeqCst);
    let world = outage::World::in_folder(folder, Some(&database), sink).await;
    let path = "/api/v1/destinations/sink/resume?project=acme";
    world.caller.post(path, &json!({})).await.expect(200);
    for (key, id) in &ids {
        let again = world.post(key).await.expect(200).json();
        assert_eq!(again["id"], id.as_str());
    }
    let begun = std::time::Instant::now();
    while world.received().len() < ids.len() || !is_all_delivered(&world).await {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.received().len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (key, messages) in world.received() {
        assert!(messages.iter().all(|it| *it == messages[0]), "{key}: {messages:?}");
        if let Some(before) = before.get(&key) {
            assert_eq!((messages.len(), &messages[0]), (before.len() + 1, &before[0]), "{key}");
        }
    }
    world.app.stop().await;
}

async fn is_all_delivered(world: &outage::World) -> bool {
    let path = "/api/v1/deliveries?project=acme&limit=200&state=delivered";
    let listed = world.caller.get(path).await.expect(200).json();
    listed["data"].as_array().unwrap().len() == 60
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn how_fast_a_store_is_carried_over() {
    const EVENTS: usize = 200_000;
    let folder = TempDir::new().unwrap();
    let (store, _, _) = sqlite(folder.path(), Default::default()).unwrap();
    let payload = format!("{{\"text\":\"{}\"}}", "some words of a payload ".repeat(23));
    for batch in 0..EVENTS / 1000 {
        let new = |n| keyed(projects(1), &format!("{batch}-{n}"), &payload);
        let events = new_events(&store.append((0..1000).map(new).collect()).await.unwrap());
        let plans = events.iter().map(|it| plan_for(it, &[1])).collect();
        let owed = store.plan(plans).await.unwrap();
        let end = |it| crate::store::home::note(it, crate::store::home::ended());
        store.settle(owed.iter().skip(batch % 2).map(end).collect()).await.unwrap();
    }
    store.close().await;
    drop(store);
    let cluster = crate::harness::cluster::Cluster::durable();
    let begun = std::time::Instant::now();
    let report = carry(folder.path(), &cluster.database(), TransferRequest::BATCH).await.unwrap();
    let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{report:?} in {:?}: {rate:.0} events/s", begun.elapsed());
}
