//! What only the store of many nodes does: shards, leases, migrations, and a database that goes away.

use std::sync::Arc;

use tidegate::{
    model::{EventSeq, Lane, NewEvent, Place, ProjectId},
    store::{
        Appended, OwedQuery, Records as _, Refusal, Store as _, StoreError,
        postgres::{Address, Duty, PostgresStore},
    },
};

use super::home::{
    Accepted, destinations, ended, event, keyed, new_events, note, now, plan_at, plan_for,
    postgres, projects, seqs,
};
use crate::harness::cluster::{Cluster, shared};

const SHARDS: u16 = 4;

async fn open(address: &Address) -> (Arc<PostgresStore>, Vec<Accepted>) {
    let (store, accepts, _) = postgres(address, SHARDS).await.unwrap();
    (store, accepts)
}

/// Projects of which no two share a log, by their logs.
async fn one_of_each_log(store: &PostgresStore) -> Vec<ProjectId> {
    let mut found = vec![None; usize::from(SHARDS)];
    for number in 1.. {
        let project = projects(1000 + number);
        let accepted = store.append(vec![NewEvent { project, ..event("0") }]).await.unwrap();
        found[(seqs(&accepted)[0] >> 40) as usize].get_or_insert(project);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shard_is_a_log_of_its_own_with_dense_places() {
    let (store, _accepts) = open(&shared().database()).await;
    let of_each = one_of_each_log(&store).await;
    // One call with events of every log, beside many with events of one.
    let mixed = of_each.iter().map(|it| NewEvent { project: *it, ..event("1") }).collect();
    store.append(mixed).await.unwrap();
    let calls = (0..60).map(|n| {
        let (store, project) = (store.clone(), of_each[n % of_each.len()]);
        tokio::spawn(async move {
            let both = vec![NewEvent { project, ..event("1") }; 1 + n % 3];
            store.append(both).await.unwrap()
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    for shard in 0..SHARDS {
        let log = store.log(shard);
        let events = log.unplanned(EventSeq(0), 10_000).await.unwrap();
        let places: Vec<u64> = events.iter().map(|it| it.seq.0).collect();
        let first = log.beginning().0 + 1;
        assert_eq!(places, (first..first + places.len() as u64).collect::<Vec<_>>());
        let plans = events.iter().map(|it| plan_for(it, &[u128::from(shard) + 1])).collect();
        assert_eq!(log.plan(plans).await.unwrap().len(), events.len());
        assert!(log.unplanned(EventSeq(0), 10).await.unwrap().is_empty());
    }
    assert_eq!(store.backlog().await.unwrap().len(), usize::from(SHARDS));
}

/// Counted one by one up to 10,000, and by what was planned and has not ended behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_is_known_without_being_counted() {
    // Given a long line without order, one of many lanes, and a short one
    let (store, _) = open(&shared().prepared()).await;
    let mut ends = Vec::new();
    for round in 0..12 {
        let at = now() + jiff::SignedDuration::from_secs(round);
        let offered = vec![NewEvent { received_at: at, ..event("1") }; 1000];
        let events = new_events(&store.append(offered).await.unwrap());
        let plans = events.iter().map(|it| {
            let lane = Lane(1 + it.seq.0 % 700);
            let in_order = Place { lane, position: it.seq.0 as i64 };
            let mut to = vec![(1, Place { lane: Lane::NONE, position: 0 }), (2, in_order)];
            to.extend((it.seq.0 % 1000 == 7).then_some((3, in_order)));
            plan_at(it, &to)
        });
        let owed = store.plan(plans.collect()).await.unwrap();
        let of_first = owed.iter().filter(|it| it.destination == destinations(1));
        ends.extend(of_first.take(100).map(|it| note(it, ended())));
    }
    store.settle(ends).await.unwrap();

    let mut backlog = store.backlog().await.unwrap();

    backlog.sort_by_key(|it| it.destination);
    let told: Vec<_> = backlog.iter().map(|it| (it.destination, it.owed)).collect();
    assert_eq!(told.len(), 3);
    let expected = [(1, 10_800), (2, 12_000), (3, 12)];
    assert_eq!(told, expected.map(|(number, owed)| (destinations(number), owed)));
    assert!(backlog.iter().all(|it| it.oldest == now()), "{backlog:?}");
}

/// Two nodes append to one log while a third reads it: what it has read, it never has to read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_passes_an_event_that_is_committed_later() {
    let address = shared().prepared();
    let (one, _) = open(&address).await;
    let (two, _) = open(&address).await;
    let (reader, _) = open(&address).await;
    let write = |store: Arc<PostgresStore>| {
        tokio::spawn(async move {
            for n in 0..150 {
                store.append(vec![event("1"); 1 + n % 4]).await.unwrap();
            }
        })
    };
    let writers = [write(one), write(two)];
    let mut after = EventSeq(0);
    loop {
        let over = writers.iter().all(|it| it.is_finished());
        let events = reader.unplanned(after, 1000).await.unwrap();
        for event in &events {
            assert_eq!(event.seq.0, after.0 + 1, "one was passed over");
            after = event.seq;
        }
        if over && events.is_empty() {
            break;
        }
    }
    // 1, 2, 3 and 4 in turn.
    assert_eq!(after.0, 2 * (37 * 10 + 1 + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_once_over_all_nodes() {
    let address = shared().prepared();
    let (one, _) = open(&address).await;
    let (two, _) = open(&address).await;
    for round in 0..20 {
        let offer = |store: &Arc<PostgresStore>| {
            let store = store.clone();
            let event = keyed(projects(1), &format!("order-{round}"), "1");
            tokio::spawn(async move { store.append(vec![event]).await.unwrap().remove(0) })
        };
        let calls = [offer(&one), offer(&two), offer(&one), offer(&two)];
        let mut new = 0;
        for call in calls {
            new += u32::from(matches!(call.await.unwrap(), Appended::New(_)));
        }
        assert_eq!(new, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_leases_can_write_nothing_for_their_shards() {
    // Given a node that has planned one event and not another, and one that takes its leases
    let address = shared().prepared();
    let (old, _) = open(&address).await;
    let events = new_events(&old.append(vec![event("1"), event("2")]).await.unwrap());
    let owed = old.plan(vec![plan_for(&events[0], &[1])]).await.unwrap();
    let (new, _) = open(&address).await;
    assert!(old.leases().holds(Duty::Pipeline, 0), "it does not know yet");
    // Then whatever it does for the shard is refused and leaves nothing
    let plan = old.plan(vec![plan_for(&events[1], &[1])]).await;
    assert!(matches!(plan, Err(StoreError::Fenced)), "{plan:?}");
    let settled = old.settle(vec![note(&owed[0], ended())]).await;
    assert!(matches!(settled, Err(StoreError::Fenced)), "{settled:?}");
    let step = tidegate::store::ReplayStep {
        replay: tidegate::model::ReplayId::from_bits(0x500),
        items: vec![tidegate::store::ReplayItem {
            event: events[0].seq,
            destination: destinations(1),
            place: owed[0].place,
            like: None,
            replanned: None,
        }],
        fresh_ids: false,
        at: now(),
        cursor: Some(owed[0].seq),
    };
    assert!(matches!(old.replay(step).await, Err(StoreError::Fenced)));
    // And the new one goes on where it was; events are accepted by both
    assert_eq!(new.unplanned(EventSeq(0), 10).await.unwrap(), events[1..]);
    assert_eq!(new.owed(OwedQuery::These(vec![owed[0].seq])).await.unwrap(), owed);
    assert_eq!(new.plan(vec![plan_for(&events[1], &[1])]).await.unwrap().len(), 1);
    new.settle(vec![note(&owed[0], ended())]).await.unwrap();
    assert_eq!(seqs(&old.append(vec![event("3")]).await.unwrap()), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_the_same_time_make_the_schema_once() {
    let address = shared().database();
    let opens = (0..8).map(|_| {
        let address = address.clone();
        tokio::spawn(async move { postgres(&address, SHARDS).await.unwrap().0 })
    });
    let mut shards = Vec::new();
    for open in opens.collect::<Vec<_>>() {
        shards.push(open.await.unwrap().shards());
    }
    assert_eq!(shards, [SHARDS; 8]);
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    let versions = "SELECT count(*), count(DISTINCT version), max(version) FROM schema_versions";
    let [rows, distinct, newest] = shared()
        .sql(&name, versions)
        .split('|')
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert!(rows == distinct && rows == newest, "{rows} {distinct} {newest}");
    assert_eq!(shared().sql(&name, "SELECT count(*) FROM logs"), SHARDS.to_string());
    // Another one gets what there is, and not what it wants
    assert_eq!(postgres(&address, 9).await.unwrap().0.shards(), SHARDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_unless_it_says_that_it_only_adds() {
    let address = shared().prepared();
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    shared().sql(&name, "INSERT INTO schema_versions (version, compatible) VALUES (99, 2)");
    postgres(&address, 1).await.unwrap().0.close().await;

    shared().sql(&name, "UPDATE schema_versions SET compatible = 99 WHERE version = 99");

    let refused = postgres(&address, 1).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 99, known: 2 }), "{refused:?}");
}

/// The next version of the program comes first and adds to the schema; nodes of this one go on beside it,
/// and others of this one can still start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_adds_to_the_schema_comes_while_the_version_before_works_on() {
    let address = shared().prepared();
    let (store, _) = open(&address).await;
    let (stop, stopped) = tokio::sync::watch::channel(0);
    let worker = tokio::spawn({
        let store = store.clone();
        async move {
            let (mut rounds, mut after) = (0, 0);
            // Some rounds behind the change, through several partitions
            while after < 40 {
                let events = new_events(&store.append(vec![event("1"); 8]).await.unwrap());
                let plans = events.iter().map(|it| plan_for(it, &[1, 2])).collect();
                let owed = store.plan(plans).await.unwrap();
                let seqs = owed.iter().map(|it| it.seq).collect();
                assert_eq!(store.owed(OwedQuery::These(seqs)).await.unwrap(), owed);
                store.settle(owed.iter().map(|it| note(it, ended())).collect()).await.unwrap();
                assert!(store.event(projects(1), events[0].id).await.unwrap().unwrap().planned);
                rounds += 1;
                after += *stopped.borrow();
                store.prune(&[]).await.unwrap();
            }
            rounds
        }
    });
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    let mut steps = vec![
        "CREATE TABLE addition (id bigint PRIMARY KEY)".to_owned(),
        "CREATE INDEX addition_by_source ON events (source, seq)".to_owned(),
        "INSERT INTO schema_versions (version, compatible) \
         SELECT max(version) + 1, max(compatible) FROM schema_versions"
            .to_owned(),
    ];
    for table in [
        "events",
        "deliveries",
        "activity",
        "skipped",
        "open",
        "gate",
        "minutes",
        "memories",
        "logs",
    ] {
        steps.push(format!("ALTER TABLE {table} ADD COLUMN addition int NOT NULL DEFAULT 7"));
    }
    // The version itself last, each of the others by itself
    steps.rotate_left(3);
    tokio::task::spawn_blocking(move || {
        for step in steps {
            shared().sql(&name, &step);
        }
    })
    .await
    .unwrap();
    stop.send_replace(1);
    assert!(worker.await.unwrap() >= 40);
    let (another, _) = open(&address).await;
    assert!(another.unplanned(EventSeq(0), 10).await.unwrap().is_empty());
    assert_eq!(another.backlog().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_used_again_when_it_is_back() {
    let cluster = Cluster::start();
    let (store, _accepts) = open(&cluster.database()).await;
    let kept = new_events(&store.append(vec![keyed(projects(1), "k", "1")]).await.unwrap());

    cluster.stop();
    let refused = store.append(vec![event("2")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.event(projects(1), kept[0].id).await.is_err());
    assert_eq!(store.health().refuses, Some(Refusal::Unreachable));
    cluster.resume();

    // It is not asked all the time, so a call soon after may still fail.
    let again = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            if let Ok(answers) = store.append(vec![keyed(projects(1), "k", "1")]).await {
                return answers;
            }
            tokio::task::yield_now().await;
        }
    });
    let again = again.await.expect("it stays away");
    assert!(matches!(again[0], Appended::Duplicate { same_body: Some(true), .. }));
    assert_eq!(store.health().refuses, None);
    assert!(store.event(projects(1), kept[0].id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_forgotten_and_what_is_owed_stays() {
    // Given events over several partitions of 64, of which one is still owed, and a later one
    let address = shared().prepared();
    let (store, _) = open(&address).await;
    let events = new_events(&store.append(vec![event("1"); 200]).await.unwrap());
    let plans = events.iter().map(|it| plan_for(it, &[1])).collect();
    let owed = store.plan(plans).await.unwrap();
    let ends = owed.iter().enumerate().filter(|it| it.0 != 70).map(|it| note(it.1, ended()));
    store.settle(ends.collect()).await.unwrap();
    let later = NewEvent {
        received_at: now() + jiff::SignedDuration::from_hours(2),
        ..keyed(projects(1), "k", "1")
    };
    let later = new_events(&store.append(vec![later]).await.unwrap());
    store.plan(vec![plan_for(&later[0], &[])]).await.unwrap();
    let horizon = now() + jiff::SignedDuration::from_hours(1);

    let gone = store.prune(&[(projects(1), horizon)]).await.unwrap();

    assert_eq!(gone, 199);
    let page = tidegate::store::Page { before: None, limit: 1000 };
    let left = store.events(projects(1), &Default::default(), page).await.unwrap();
    assert_eq!(left.iter().map(|it| it.seq.0).collect::<Vec<_>>(), [201, 71]);
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    let tables = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    assert_eq!(shared().sql(&name, tables), "2", "whole partitions are dropped");
    // It goes on behind the last one, also after a crash
    drop(store);
    let (store, _) = open(&address).await;
    assert_eq!(seqs(&store.append(vec![event("2")]).await.unwrap()), [202]);
}
