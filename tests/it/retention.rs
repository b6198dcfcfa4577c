//! Forgetting old events: all that is about them goes with them, and nothing else does.

use std::{collections::BTreeSet, fs, ops::RangeInclusive, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tidegate::{
    model::{DeliverySeq, EventSeq, NewEvent, ProjectId, RawJson},
    store::{Appended, OwedQuery, Page, Records, Store, StoreError, sqlite::SqliteStore},
};

use crate::{
    records::{
        questions::check_everything,
        reader, segment_files,
        world::{PROJECTS, Told, World, step_for},
    },
    store::home::{now, projects},
};

/// The events that the store still lists.
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

fn after(minutes: usize) -> Timestamp {
    now() + SignedDuration::from_mins(minutes as i64)
}

/// Prunes, and checks that what went was allowed to go, and took everything with it.
async fn prune(world: &mut World, horizons: &[(ProjectId, Timestamp)], seed: u64) -> u64 {
    let owed: BTreeSet<EventSeq> = world.open().map(|it| it.event()).collect();
    let count = world.store.prune(horizons).await.unwrap();
    let present = present(&world.store).await;
    let gone = world.events.values().filter(|it| !present.contains(&it.event.seq));
    let mut went = 0;
    for told in gone {
        let event = &told.event;
        let is_old = horizons.iter().any(|it| it.0 == event.project && event.received_at < it.1);
        assert!(is_old && told.plan.is_some() && !owed.contains(&event.seq), "{event:?}");
        went += 1;
    }
    assert_eq!(count, went);
    world.keep_only(&present);
    check_everything(world, seed).await;
    count
}

/// Prunes until so many went. Full segments are sealed in the background, and pruned only then.
async fn prune_all(world: &mut World, horizons: &[(ProjectId, Timestamp)], most: u64, seed: u64) {
    let mut gone = 0;
    for _ in 0..200 {
        gone += prune(world, horizons, seed).await;
        if gone >= most {
            return;
        }
    }
    panic!("only {gone} of {most} went");
}

/// Just behind the last of these events.
fn until_of(world: &World, seqs: RangeInclusive<u64>) -> Timestamp {
    let times = seqs.map(|it| world.events[&EventSeq(it)].event.received_at);
    times.max().unwrap() + SignedDuration::from_micros(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_whole_events_only() {
    for seed in [0xfade, 31, 777] {
        let mut world = World::new(seed);
        world.live(30).await;
        let all = world.events.len();
        let mut gone = 0;
        for part in [3, 5, 8] {
            world.plan(10).await;
            world.end(|event| event.seq.0 % 7 != 0).await;
            let horizons = [(projects(1), after(all * part / 10)), (projects(2), after(all / 5))];
            gone += prune(&mut world, &horizons, seed).await;
            world.live(3).await;
            world = world.crash();
            check_everything(&mut world, seed).await;
        }
        assert!(gone > 0);
        check_files(&world);
    }
}

fn check_files(world: &World) {
    for path in segment_files(world) {
        let check: String =
            reader(&path).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{path:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_keys_outlive_the_retention() {
    let mut world = World::new(8);
    world.live(20).await;
    let unplanned = world.events.len() as u64;
    world.plan(unplanned).await;
    world.end(|_| true).await;
    let before = world.events.clone();
    let horizons =
        PROJECTS.map(|it| (projects(it), world.last_time() + SignedDuration::from_mins(1)));

    prune_all(&mut world, &horizons, before.len() as u64, 8).await;

    assert!(world.events.is_empty());
    // The last segment that told how far things had come waits until a newer one tells it.
    let left = segment_files(&world);
    assert!(left.len() <= 2, "{left:?}");
    for _ in 0..2 {
        check_keys(&world, before.values()).await;
        world = world.crash();
    }
    // Life goes on: the next events are accepted, planned and delivered.
    world.accept(5).await;
    let unplanned = world.store.unplanned(EventSeq(0), 100).await.unwrap();
    assert_eq!(unplanned.len(), 5);
    world.live(5).await;
    world.replay(1).await;
    prune(&mut world, &[], 8).await;
    assert!(!segment_files(&world).contains(&left[0]), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_go_on_behind_events_that_were_forgotten() {
    let mut world = World::new(14);
    world.live(10).await;
    let count = world.events.len() as u64;
    world.plan(count).await;
    world.end(|_| true).await;
    // Two projects of three: the last planned event may be of either.
    let horizons =
        [1, 2].map(|it| (projects(it), world.last_time() + SignedDuration::from_mins(1)));
    while prune(&mut world, &horizons, 14).await > 0 {}

    let mut world = world.crash();
    world.accept(10).await;
    world.plan(10).await;
    check_everything(&mut world, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_event_stays_while_a_delivery_is_owed() {
    let mut world = World::new(15);
    world.live(12).await;
    let count = world.events.len() as u64;
    world.plan(count).await;
    let owed: BTreeSet<EventSeq> = world.open().map(|it| it.event()).collect();
    assert!(!owed.is_empty());
    let horizons =
        PROJECTS.map(|it| (projects(it), world.last_time() + SignedDuration::from_mins(1)));

    while prune(&mut world, &horizons, 15).await > 0 {}
    assert!(owed.iter().all(|it| world.events.contains_key(it)));
    let seqs: Vec<DeliverySeq> = world.open().collect();
    assert_eq!(world.store.messages(&seqs).await.unwrap().len(), seqs.len());

    world.end(|_| true).await;
    let left = world.events.len() as u64;
    prune_all(&mut world, &horizons, left, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_without_a_horizon_keeps_everything() {
    let mut world = World::new(16);
    world.live(15).await;
    world.end(|_| true).await;
    let count = world.events.len() as u64;
    world.plan(count).await;
    let kept = world.events.values().filter(|it| it.event.project == projects(3)).count();
    let horizons =
        [1, 2].map(|it| (projects(it), world.last_time() + SignedDuration::from_mins(1)));
    while prune(&mut world, &horizons, 16).await > 0 {}
    let still = world.events.values().filter(|it| it.event.project == projects(3)).count();
    assert_eq!(still, kept);
    assert_eq!(world.store.prune(&[]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_is_rebuilt_after_retention() {
    let mut world = World::new(17);
    world.live(25).await;
    let horizons = PROJECTS.map(|it| (projects(it), after(300)));
    while prune(&mut world, &horizons, 17).await > 0 {}
    world.store.close().await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(world.home.path().join(format!("owed.db{suffix}")));
    }
    let world = world.crash();

    let mut owed = 0;
    for backlog in world.store.backlog().await.unwrap() {
        owed += backlog.owed;
    }
    let open: Vec<DeliverySeq> = world.open().collect();
    assert_eq!(owed, open.len() as u64);
    let found = world.store.owed(OwedQuery::These(open.clone())).await.unwrap();
    assert_eq!(found.iter().map(|it| it.seq).collect::<Vec<_>>(), open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_goes_on_while_events_are_forgotten() {
    let mut world = World::new(18);
    world.live(30).await;
    let horizons = PROJECTS.map(|it| (projects(it), after(400)));
    let store = world.store.clone();
    let pruning = tokio::spawn(async move {
        let mut gone = 0;
        for _ in 0..5 {
            gone += store.prune(&horizons).await.unwrap();
        }
        gone
    });
    // No replays: their events might go at the same time, which the next test is about.
    while !pruning.is_finished() {
        world.accept(3).await;
        world.plan(3).await;
        world.settle(4).await;
        for project in PROJECTS.map(projects) {
            let page = Page { before: None, limit: 1000 };
            world.store.events(project, &Default::default(), page).await.unwrap();
            world.store.deliveries(project, &Default::default(), page).await.unwrap();
            world.store.activity(project, &Default::default(), page).await.unwrap();
            world.store.count(project, &Default::default()).await.unwrap();
        }
    }
    assert!(pruning.await.unwrap() > 0);
    let present = present(&world.store).await;
    world.keep_only(&present);
    check_everything(&mut world, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_never_owes_an_event_that_is_gone() {
    for seed in [19, 20, 21] {
        let mut world = World::new(seed);
        world.live(12).await;
        let count = world.events.len() as u64;
        world.plan(count).await;
        world.end(|_| true).await;
        let horizons =
            PROJECTS.map(|it| (projects(it), world.last_time() + SignedDuration::from_mins(1)));
        let store: Arc<SqliteStore> = world.store.clone();
        let pruning = tokio::spawn(async move { store.prune(&horizons).await.unwrap() });

        let mut owed = Vec::new();
        'replays: while !pruning.is_finished() {
            for told in world.events.values().step_by(3) {
                let step = step_for(&told.event);
                match world.store.replay(step).await {
                    Ok(made) => owed.extend(made.iter().map(|it| it.seq)),
                    Err(StoreError::Unavailable(_)) => (),
                    Err(StoreError::TooManyDeliveries) => break 'replays,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        pruning.await.unwrap();
        let messages = world.store.messages(&owed).await.unwrap();
        assert_eq!(messages.len(), owed.len(), "seed {seed}");
    }
}

/// Keys whose events are forgotten are known, and who had them first.
async fn check_keys(world: &World, of: impl Iterator<Item = &Told>) {
    for event in of.map(|it| &it.event) {
        let again = NewEvent {
            id: None,
            project: event.project,
            source: event.source,
            event_type: event.event_type.clone(),
            timestamp: None,
            received_at: now(),
            key: event.key.clone(),
            key_counts_for: None,
            metadata: RawJson::NULL,
            payload: RawJson::NULL,
        };
        if event.key.is_none() {
            continue;
        }
        let appended = world.store.append(vec![again]).await.unwrap();
        let is_known = matches!(
            appended[0],
            Appended::Duplicate { id: first, same_body: None, .. } if first == event.id
        );
        assert!(is_known, "{appended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_deleted_segment_are_known_after_a_crash() {
    let mut world = World::new(22);
    // Segments hold 40 events here.
    world.accept_of(vec![1; 40]).await;
    world.plan(40).await;
    world.end(|_| true).await;
    let before = world.events.clone();
    world.accept_of(vec![2; 40]).await;
    world.plan(40).await;
    world.live(3).await;
    world.end(|_| true).await;
    let oldest = segment_files(&world)[0].clone();
    let horizons = [(projects(1), until_of(&world, 1..=40))];
    prune_all(&mut world, &horizons, 40, 22).await;

    let world = world.crash();
    assert!(!oldest.exists());
    check_keys(&world, before.values()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_about_an_older_event_stay_when_all_events_beside_them_go() {
    let mut world = World::new(23);
    world.accept_of(vec![2; 40]).await;
    // What becomes of these events stands in the next segment.
    world.plan(40).await;
    world.end(|_| true).await;
    world.accept_of(vec![1; 40]).await;
    world.plan(40).await;
    world.end(|_| true).await;
    world.live(3).await;
    world.end(|_| true).await;
    let horizons = [(projects(1), until_of(&world, 41..=80))];
    prune_all(&mut world, &horizons, 40, 23).await;
    let world = &mut world.crash();
    check_everything(world, 23).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_was_half_written_anew_is_cleared_away() {
    let mut world = World::new(24);
    world.live(10).await;
    let half = world.home.path().join("segments").join("new-rewritten");
    fs::write(&half, b"half").unwrap();
    let mut world = world.crash();
    assert!(!half.exists());
    check_everything(&mut world, 24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_forgets_nothing() {
    let mut world = World::new(25);
    world.live(15).await;
    world.end(|_| true).await;
    let horizons = PROJECTS.map(|it| (projects(it), world.last_time()));
    world.store.close().await;
    let refused = world.store.prune(&horizons).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    let mut world = world.crash();
    check_everything(&mut world, 25).await;
}
