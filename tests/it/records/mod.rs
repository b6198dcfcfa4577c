//! What people ask about events, deliveries and attempts: the store's answers against a plain
//! account of the same history.

pub mod world;
pub mod questions;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;
use rusqlite::{Connection, OpenFlags};
use tidegate::{
    model::{DeliverySeq, DeliveryState, Ended, EntryKind, Event, EventSeq, Selection},
    store::{Minute, Page, postgres::PostgresStore, sqlite::SqliteStore},
};

use self::{
    questions::{ALL, check_everything},
    world::{Lived, PROJECTS, World},
};
use crate::store::home::{now, projects};

/// Every test on every database.
macro_rules! on_both {
    ($($test:ident)*) => {
        on!(on_sqlite SqliteStore: $($test)*);
        on!(on_postgres PostgresStore: $($test)*);
    };
}

macro_rules! on {
    ($name:ident $store:ident: $($test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test::<super::$store>().await;
                }
            )*
        }
    };
}

on_both! {
    every_question_is_answered_as_it_was
    deliveries_that_many_segments_have_of_the_same_events_are_listed_in_order
    a_list_goes_on_where_it_stopped_while_new_events_arrive
    nothing_crosses_a_project
    minutes_add_up_over_segments
    ended_deliveries_leave_the_backlog
}

async fn every_question_is_answered_as_it_was<S: Lived>() {
    for seed in [0x5eed, 77, 4242] {
        let mut world = S::begin(seed).await;
        world.live(5).await;
        check_everything(&mut world, seed).await;
        world.live(25).await;
        check_everything(&mut world, seed).await;
        let mut world = S::lose(world).await;
        check_everything(&mut world, seed).await;
        assert!(world.events.len() > 150, "several files or partitions");
    }
}

async fn deliveries_that_many_segments_have_of_the_same_events_are_listed_in_order<S: Lived>() {
    let mut world = S::begin(13).await;
    world.accept_of(vec![1; 30]).await;
    world.plan(30).await;
    for _ in 0..3 {
        for _ in 0..6 {
            for seq in 1..=30 {
                world.replay_one(EventSeq(seq)).await;
            }
        }
        world.settle(200).await;
        world.accept_of(vec![2; 40]).await;
    }
    check_everything(&mut world, 13).await;
}

async fn a_list_goes_on_where_it_stopped_while_new_events_arrive<S: Lived>() {
    let mut world = S::begin(9).await;
    world.live(20).await;
    let expected: Vec<EventSeq> = of_project(&world, 1);

    let mut found: Vec<EventSeq> = Vec::new();
    loop {
        let page = Page { before: found.last().map(|it| (it.0, 0)), limit: 7 };
        let events = world.store.events(projects(1), &Default::default(), page).await.unwrap();
        found.extend(events.iter().map(|it| it.seq));
        if events.is_empty() {
            break;
        }
        world.accept(3).await;
    }
    assert_eq!(found, expected);
}

fn of_project<S: Lived>(world: &World<S>, project: u128) -> Vec<EventSeq> {
    let of = |it: &&Event| it.project == projects(project);
    world.events.values().rev().map(|it| &*it.event).filter(of).map(|it| it.seq).collect()
}

async fn nothing_crosses_a_project<S: Lived>() {
    let mut world = S::begin(3).await;
    world.live(10).await;
    let (store, other) = (&world.store, projects(99));
    for told in world.events.values() {
        assert!(store.event(other, told.event.id).await.unwrap().is_none());
        if let Some(key) = &told.event.key {
            assert!(store.event_by_key(other, key).await.unwrap().is_none());
        }
    }
    for (&seq, due) in &world.deliveries {
        assert!(store.delivery(other, seq).await.unwrap().is_none());
        let theirs = Selection { destination: Some(due.owed.destination), ..ALL };
        for project in PROJECTS.map(projects).into_iter().chain([other]) {
            if project == world.events[&seq.event()].event.project {
                continue;
            }
            for state in [None, Some(due.state())] {
                let selection = Selection { state, ..theirs.clone() };
                assert_eq!(store.count(project, &selection).await.unwrap(), 0);
                let page = Page { before: None, limit: 10 };
                assert!(store.deliveries(project, &selection, page).await.unwrap().is_empty());
            }
        }
    }
}

async fn minutes_add_up_over_segments<S: Lived>() {
    let mut world = S::begin(11).await;
    world.live(25).await;
    let until = now() + SignedDuration::from_hours(24 * 30);
    for project in PROJECTS {
        for number in [0, 1] {
            let destination = crate::store::home::destinations(project * 10 + number);
            let minutes = world.store.stats(destination, now(), until).await.unwrap();
            assert!(minutes.is_sorted_by_key(|it| it.start));
            let sum = |of: fn(&Minute) -> u64| minutes.iter().map(of).sum::<u64>();

            let mut expected = BTreeMap::new();
            for due in world.deliveries.values().filter(|it| it.owed.destination == destination) {
                *expected.entry("planned").or_insert(0) += 1;
                for entry in &due.entries {
                    let is_attempt = matches!(entry.kind, EntryKind::Attempt { .. });
                    let what = match entry.ended {
                        Some(Ended::Delivered) => "delivered",
                        Some(Ended::Dead) => "dead",
                        Some(Ended::Expired | Ended::Cancelled) => "dropped",
                        None => "goes on",
                    };
                    *expected.entry(what).or_insert(0) += 1;
                    *expected.entry("attempts").or_insert(0) += u64::from(is_attempt);
                }
            }
            let expected = |what| expected.get(what).copied().unwrap_or(0);
            assert_eq!(sum(|it| it.planned), expected("planned"));
            assert_eq!(sum(|it| it.delivered), expected("delivered"));
            assert_eq!(sum(|it| it.dead), expected("dead"));
            assert_eq!(sum(|it| it.dropped), expected("dropped"));
            assert_eq!(sum(|it| it.durations.iter().sum()), expected("attempts"));
        }
    }
}

async fn ended_deliveries_leave_the_backlog<S: Lived>() {
    let mut world = S::begin(21).await;
    world.live(10).await;
    let open: Vec<DeliverySeq> = world.open().collect();
    assert!(!open.is_empty());
    world.end(|_| true).await;
    for project in PROJECTS.map(projects) {
        for state in [DeliveryState::Pending, DeliveryState::Retrying] {
            let selection = Selection { state: Some(state), ..ALL };
            assert_eq!(world.store.count(project, &selection).await.unwrap(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_segment_is_sealed_while_the_next_one_is_written() {
    let mut world = World::new(6);
    world.live(25).await;
    let mut segments = segment_files(&world);
    segments.pop();
    assert!(segments.len() > 3);
    while !segments.iter().all(|it| is_sealed(it)) {
        // Sealing goes on by itself; what is asked meanwhile is answered as ever.
        check_everything(&mut world, 6).await;
    }
    check_everything(&mut world, 6).await;
    for path in segments {
        let check: String =
            reader(&path).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{path:?}");
    }
}

/// From old to new.
pub fn segment_files(world: &World) -> Vec<PathBuf> {
    let found = fs::read_dir(world.home.path().join("segments")).unwrap();
    let mut found: Vec<PathBuf> = found.map(|it| it.unwrap().path()).collect();
    found.retain(|it| it.extension().is_some_and(|it| it == "db"));
    found.sort();
    found
}

pub fn reader(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn is_sealed(path: &Path) -> bool {
    let sql = "SELECT count(*) FROM facts WHERE name = 'sealed'";
    let is_marked = reader(path).query_row(sql, [], |row| row.get(0)).unwrap_or(false);
    let log = path.with_extension("db-wal").metadata().map_or(0, |it| it.len());
    is_marked && log == 0
}
