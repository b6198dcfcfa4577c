//! Leases, as the database gives them.

use std::{sync::Arc, time::Duration};

use tidegate::{
    clock::SystemClock,
    hint,
    model::{EventSeq, ReplayId},
    store::{
        Duty, Epoch, Member, MemberId, OwedQuery, ReplayItem, ReplayStep, Role, Share, Store as _,
        StoreError,
        postgres::{self, PostgresStore},
    },
};

use crate::{
    harness::cluster::shared,
    store::home::{destinations, ended, event, new_events, note, now, plan_for},
};

const LEASE: Duration = Duration::from_millis(300);

async fn node(database: &postgres::Address, id: u128) -> (Arc<PostgresStore>, Member) {
    let options = postgres::Options { shards: 1, ..postgres::Options::default() };
    let roles = vec![];
    let node =
        postgres::NodeIdentity { id, name: String::new(), roles, address: None, is_alone: false };
    let random = Box::new(move || id as u64);
    let accept = |_| hint::channel(10).0;
    let store =
        PostgresStore::open(database, options, node, Arc::new(SystemClock), random, accept).await;
    let name = format!("node-{id}");
    let me = Member { id: MemberId(id), name, roles: Role::ALL.to_vec(), ..Member::default() };
    (Arc::new(store.unwrap()), me)
}

fn all() -> Vec<Share> {
    Duty::ALL.into_iter().map(|duty| Share { duty, shard: 0 }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_frozen_writes_nothing_with_what_it_held() {
    // Given a node that holds everything, and falls silent in the middle of its work
    let database = shared().prepared();
    let ((old, me), (new, other)) = (node(&database, 1).await, node(&database, 2).await);
    old.beat(&me, LEASE).await.unwrap();
    let held = old.claim(me.id, &all()).await.unwrap();
    assert_eq!(held.len(), 3);
    let events = new_events(&old.append(vec![event("1"), event("2")]).await.unwrap());
    let owed = old.plan(vec![plan_for(&events[0], &[1])]).await.unwrap();
    // Nobody takes what it holds before its time is over
    new.beat(&other, LEASE).await.unwrap();
    assert_eq!(new.claim(other.id, &all()).await.unwrap(), []);
    tokio::time::sleep(LEASE * 2).await;
    let view = new.beat(&other, LEASE * 100).await.unwrap();
    assert_eq!(view.members.iter().map(|it| it.id).collect::<Vec<_>>(), [other.id]);
    assert!(view.leases.iter().all(|it| it.holder.is_none()));
    let taken = new.claim(other.id, &all()).await.unwrap();
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().all(|(share, epoch)| {
        held.iter().any(|(it, before)| it == share && *epoch == Epoch(before.0 + 1))
    }));
    // When it wakes and goes on, before it has heard of anything
    let plan = old.plan(vec![plan_for(&events[1], &[1])]).await;
    let settled = old.settle(vec![note(&owed[0], ended())]).await;
    let item = ReplayItem {
        event: events[0].seq,
        destination: destinations(1),
        place: owed[0].place,
        like: None,
        replanned: None,
    };
    let step = ReplayStep {
        replay: ReplayId::from_bits(0x500),
        items: vec![item],
        fresh_ids: false,
        at: now(),
        cursor: Some(owed[0].seq),
    };
    let replayed = old.replay(step).await;
    // Then nothing of it is kept, and the other goes on where it was
    assert!(matches!(plan, Err(StoreError::Fenced)), "{plan:?}");
    assert!(matches!(settled, Err(StoreError::Fenced)), "{settled:?}");
    assert!(matches!(replayed, Err(StoreError::Fenced)), "{replayed:?}");
    assert_eq!(new.unplanned(EventSeq(0), 10).await.unwrap(), events[1..]);
    assert_eq!(new.owed(OwedQuery::These(vec![owed[0].seq])).await.unwrap(), owed);
    // And it lives again as the same member, with nothing in its hands
    let view = old.beat(&me, LEASE).await.unwrap();
    assert_eq!(view.members.len(), 2);
    assert!(view.leases.iter().all(|it| it.holder == Some(other.id)));
    assert!(!old.leases().holds(Duty::Pipeline, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn released_leases_are_free_at_once() {
    let database = shared().prepared();
    let ((one, me), (two, mut other)) = (node(&database, 1).await, node(&database, 2).await);
    one.beat(&me, LEASE * 100).await.unwrap();
    two.beat(&other, LEASE * 100).await.unwrap();
    let held = one.claim(me.id, &all()).await.unwrap();
    one.give_back(me.id, &held[..1]).await.unwrap();
    let taken = two.claim(other.id, &all()).await.unwrap();
    assert_eq!(taken.iter().map(|it| it.0).collect::<Vec<_>>(), [held[0].0]);
    // It is started again in the place of the first
    other.name.clone_from(&me.name);
    two.succeed(&other).await.unwrap();
    assert_eq!(two.claim(other.id, &all()).await.unwrap().len(), 2);
    let settled = one.plan(vec![]).await;
    assert!(settled.is_ok(), "nothing is nobody's");
    two.leave(other.id).await.unwrap();
    let view = one.beat(&me, LEASE).await.unwrap();
    assert_eq!(view.members.iter().map(|it| it.id).collect::<Vec<_>>(), [me.id]);
    assert!(view.leases.iter().all(|it| it.holder.is_none()));
}
