//! One event for each key and for each id: whoever gave the id to the first.

use tidegate::{
    model::{EventId, NewEvent, RawJson, TypeName},
    store::Appended,
};

use super::home::{Home, event, ids, keyed, new_events, projects};

fn given(id: EventId, key: Option<&str>, payload: &str) -> NewEvent {
    match key {
        Some(key) => NewEvent { id: Some(id), ..keyed(projects(1), key, payload) },
        None => NewEvent { id: Some(id), ..event(payload) },
    }
}

fn same(answer: &Appended) -> (EventId, Option<bool>, Option<bool>) {
    match answer {
        Appended::Duplicate { id, same_body, same_type } => (*id, *same_body, *same_type),
        Appended::New(event) => panic!("{event:?} is new"),
    }
}

pub async fn an_id_is_one_event_whatever_its_key(home: &dyn Home) {
    let mut open = home.open().await;
    let id: EventId = "evt_01h455vb4pex5vsknk084sn02q".parse().unwrap();
    let accepted = open.store.append(vec![given(id, Some("a"), "1")]).await.unwrap();
    assert_eq!(ids(&accepted), [id]);
    for round in ["b", "c"] {
        let again = vec![
            given(id, Some(round), "2"),
            given(id, None, "1"),
            given(id, Some("a"), "1"),
            // The key is free: the id that it came with was taken.
            keyed(projects(1), round, "3"),
            NewEvent { project: projects(2), ..given(id, Some("a"), "1") },
        ];
        let answers = open.store.append(again).await.unwrap();
        assert_eq!(same(&answers[0]), (id, Some(false), Some(true)));
        assert_eq!(same(&answers[1]), (id, Some(true), Some(true)));
        assert!(matches!(answers[3], Appended::New(_)), "{round}");
        assert_eq!(same(&answers[2]), (id, Some(true), Some(true)));
        // Its deliveries would have the ids of the first one's.
        let bits = id.bits() ^ 0xabc << 64;
        let answers = open.store.append(vec![given(EventId::from_bits(bits), None, "9")]).await;
        assert_eq!(same(&answers.unwrap()[0]).0, id);
        open = home.open_again_after_crash(open).await;
    }
    // In one call, and the key of the first counts before the id of another.
    let other: EventId = "evt_01h455vb4pex5vsknk084sn02r".parse().unwrap();
    let both =
        vec![given(other, Some("x"), "1"), given(other, Some("y"), "1"), given(id, Some("x"), "1")];
    let answers = open.store.append(both).await.unwrap();
    assert_eq!(new_events(&answers).len(), 1);
    assert_eq!(ids(&answers), [other, other, other]);
}

pub async fn an_id_of_ours_cannot_be_given_again(home: &dyn Home) {
    let mut open = home.open().await;
    let accepted = open.store.append(vec![event("1"), keyed(projects(1), "k", "2")]).await.unwrap();
    let [first, second] = ids(&accepted).try_into().unwrap();
    for _ in 0..2 {
        for key in [None, Some("other")] {
            let again = vec![given(first, key, "9"), given(second, key, "2")];
            let answers = open.store.append(again).await.unwrap();
            assert_eq!(same(&answers[0]), (first, Some(false), Some(true)), "{key:?}");
            assert_eq!(same(&answers[1]), (second, Some(true), Some(true)), "{key:?}");
        }
        // The 12 bits that tell deliveries of one event apart make no other id.
        let bits = first.bits() ^ 0xabc << 64;
        let answers = open.store.append(vec![given(EventId::from_bits(bits), None, "9")]).await;
        assert_eq!(same(&answers.unwrap()[0]).0, first);
        open = home.open_again_after_crash(open).await;
    }
    // In another project it means nothing.
    let theirs = NewEvent { project: projects(2), ..given(first, None, "1") };
    assert_eq!(new_events(&open.store.append(vec![theirs]).await.unwrap()).len(), 1);
}

pub async fn a_duplicate_says_whether_its_type_is_the_first_ones(home: &dyn Home) {
    let open = home.open().await;
    let first = keyed(projects(1), "user-42", "1");
    let other = NewEvent { event_type: TypeName::trusted("user.deleted"), ..first.clone() };
    let body = NewEvent { payload: RawJson::trusted("2"), ..first.clone() };
    let answers = open.store.append(vec![first.clone(), other, body, first]).await.unwrap();
    let id = ids(&answers)[0];
    assert_eq!(same(&answers[1]), (id, Some(true), Some(false)));
    assert_eq!(same(&answers[2]), (id, Some(false), Some(true)));
    assert_eq!(same(&answers[3]), (id, Some(true), Some(true)));
}

/// What versions before kept of headers is not read any more.
pub async fn credentials_in_stored_headers_are_not_read(home: &dyn Home) {
    let open = home.open().await;
    let kept = r#"{"headers":{"x-topic":"a","x-webhook-auth":"S3CRET","apikey":"S3CRET"},"source":"crm","ip":"::1"}"#;
    let event = NewEvent { metadata: RawJson::parse(kept).unwrap(), ..event("1") };
    let accepted = open.store.append(vec![event.clone()]).await.unwrap();
    let id = ids(&accepted)[0];
    let read = open.store.event(event.project, id).await.unwrap().unwrap();
    let shown = r#"{"headers":{"x-topic":"a"},"source":"crm","ip":"::1"}"#;
    assert_eq!(read.event.metadata.as_str(), shown);
    let unplanned = open.store.unplanned(Default::default(), 9).await.unwrap();
    assert_eq!(unplanned[0].metadata.as_str(), shown);
}
