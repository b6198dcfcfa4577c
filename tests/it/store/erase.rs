//! Forgetting what events say about a person.

use std::sync::Arc;

use tidegate::{
    model::{Altered, EventSeq, Lane, NewEvent, Person, Place, RawJson, ReplayId, SourceId},
    store::{Appended, EventFilter, OwedQuery, Page, ReplayItem, ReplayStep, ScannedRange},
};

use super::home::{
    Home, Open, destinations, ended, event, ids, keyed, new_events, note, now, plan_for, projects,
    recording,
};

const SECRET: &str = "a-very-private-thing";

fn person() -> Person {
    Person { user_id: "u-1".to_owned(), field: None }
}

fn of(user: &str) -> NewEvent {
    event(&format!(r#"{{"userId":"{user}","secret":"{SECRET}"}}"#))
}

async fn find(open: &Open, after: u64) -> Option<ScannedRange> {
    let until = open.store.last_event().await.unwrap();
    open.store.find_person(projects(1), &person(), EventSeq(after), until).await.unwrap()
}

pub async fn erasure_removes_only_the_persons_data(home: &dyn Home) {
    // Given events of two users and projects, one with a key, planned with copies, and one of our own,
    let open = home.open().await;
    let key = NewEvent { payload: of("u-1").payload, ..keyed(projects(1), "k", "") };
    let theirs = NewEvent { project: projects(2), ..of("u-1") };
    let offered = vec![of("u-1"), of("u-2"), key.clone(), theirs];
    let appended = open.store.append(offered).await.unwrap();
    let kept = open.store.record(recording(1, 1)).await.unwrap();
    let own = NewEvent { source: SourceId::SYSTEM, ..of("u-1") };
    let directed = new_events(&open.store.append(vec![own]).await.unwrap());
    let events = new_events(&appended);
    let mut plans: Vec<_> = events.iter().map(|it| plan_for(it, &[1])).collect();
    for plan in &mut plans {
        plan.deliveries[0].copy =
            Some(Arc::new(Altered::payload(RawJson::trusted(format!("[\"{SECRET}\"]")))));
    }
    plans.extend([plan_for(&kept, &[]), plan_for(&directed[0], &[1])]);
    let owed = open.store.plan(plans).await.unwrap();

    // when one of them is looked for and erased,
    assert_eq!(open.store.last_event().await.unwrap(), EventSeq(6));
    let stretch = find(&open, 0).await.unwrap();
    assert_eq!(stretch.events, [EventSeq(1), EventSeq(3)]);
    assert_eq!(stretch.open, [owed[0].seq, owed[2].seq]);
    open.store.settle(vec![note(&owed[0], ended())]).await.unwrap();
    assert_eq!(open.store.erase(&stretch).await.unwrap(), 2);

    // then their bodies are gone for good, also after a crash,
    let open = home.open_again_after_crash(open).await;
    assert_eq!(find(&open, 0).await.unwrap().events, []);
    assert_eq!(find(&open, 6).await, None);
    let page = Page { before: None, limit: 10 };
    let all = open.store.events(projects(1), &EventFilter::default(), page).await.unwrap();
    let told: Vec<_> = all.iter().rev().map(|it| (it.seq.0, it.payload.as_str())).collect();
    let (one, two) = (of("u-1").payload, of("u-2").payload);
    let expected = [(1, "null"), (2, two.as_str()), (3, "null"), (5, "{}"), (6, one.as_str())];
    assert_eq!(told, expected);
    let first = open.store.event(projects(1), events[0].id).await.unwrap().unwrap();
    assert_eq!(first.event.metadata.as_str(), r#"{"erased":true}"#);
    assert_eq!((&first.event.event_type, first.deliveries.len()), (&events[0].event_type, 1));
    let delivery = open.store.delivery(projects(1), owed[0].seq).await.unwrap().unwrap();
    assert!(delivery.copy.is_none() && delivery.entries.len() == 1);
    let delivery = open.store.delivery(projects(1), owed[1].seq).await.unwrap().unwrap();
    assert!(delivery.copy.is_some());
    // other projects keep theirs,
    let theirs = open.store.event(projects(2), events[3].id).await.unwrap().unwrap();
    assert_eq!(theirs.event.payload, events[3].payload);
    // nothing of them is sent or replayed,
    let messages = open.store.messages(&[owed[2].seq, owed[1].seq]).await.unwrap();
    assert_eq!(messages.iter().map(|it| it.seq).collect::<Vec<_>>(), [owed[1].seq]);
    let item = |event| ReplayItem {
        event: EventSeq(event),
        destination: destinations(1),
        place: Place { lane: Lane::NONE, position: 0 },
        like: None,
        replanned: None,
    };
    let step = ReplayStep {
        replay: ReplayId::from_bits(0x500),
        items: vec![item(1), item(2)],
        fresh_ids: false,
        at: now(),
        cursor: None,
    };
    let replayed = open.store.replay(step).await.unwrap();
    assert_eq!(replayed.iter().map(|it| it.seq.event().0).collect::<Vec<_>>(), [2]);
    // and the key counts as before.
    let again = open.store.append(vec![key]).await.unwrap();
    assert!(matches!(&again[0], Appended::Duplicate { same_body: None, .. }), "{again:?}");
    assert_eq!(ids(&again), [events[2].id]);
    let still = open.store.owed(OwedQuery::These(vec![owed[2].seq, owed[1].seq])).await.unwrap();
    assert_eq!(still.len(), 2, "who asks to erase cancels first");
}

pub async fn an_erasure_that_is_asked_for_again_finds_the_rest(home: &dyn Home) {
    let open = home.open().await;
    let first = new_events(&open.store.append(vec![of("u-1")]).await.unwrap());
    open.store.plan(vec![plan_for(&first[0], &[])]).await.unwrap();
    let stretch = find(&open, 0).await.unwrap();
    assert_eq!(open.store.erase(&stretch).await.unwrap(), 1);

    let open = home.open_again_after_crash(open).await;
    let later = new_events(&open.store.append(vec![of("u-2"), of("u-1")]).await.unwrap());
    open.store.plan(later.iter().map(|it| plan_for(it, &[])).collect()).await.unwrap();

    let (mut after, mut erased) = (0, 0);
    while let Some(stretch) = find(&open, after).await {
        erased += open.store.erase(&stretch).await.unwrap();
        after = stretch.through.0;
    }
    assert_eq!((after, erased), (3, 1));
    assert_eq!(open.store.unplanned(EventSeq(0), 10).await.unwrap(), []);
}
