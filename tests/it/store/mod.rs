//! What every database must do: the contract behind [`tidegate::store::Database`].
//!
//! Each test is given a [`Home`], where a database is opened, lost, and opened again. A new database
//! passes by adding a line to `contract!`.

pub mod home;
mod owed;
mod replay;
mod waiting;
mod record;
mod erase;
mod memories;
mod unique;
mod directory;
mod random;
mod sqlite;
mod postgres;
mod tls;
mod postgres_speed;

use std::{collections::HashSet, sync::Arc};

use tidegate::{
    hint::Hint,
    model::{EventSeq, Plan, RawJson, Skipped},
    store::{Appended, Change, Document},
};

use self::home::{Home, ended, event, ids, keyed, new_events, note, plan_for, projects, seqs};

/// Every test on every database.
macro_rules! contract {
    ($($module:ident::$test:ident)*) => {
        on!(on_sqlite: $($module::$test)*);
        on!(on_postgres: $($module::$test)*);
    };
}

macro_rules! on {
    ($backend:ident: $($module:ident::$test:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$module::$test(&super::home::$backend()).await;
                }
            )*
        }
    };
}

contract! {
    events::a_key_is_accepted_once_of_64_at_the_same_time
    events::a_key_counts_in_its_own_project_only_and_for_ever
    events::a_given_id_counts_as_a_key_of_its_own_kind
    unique::an_id_is_one_event_whatever_its_key
    unique::an_id_of_ours_cannot_be_given_again
    unique::a_duplicate_says_whether_its_type_is_the_first_ones
    unique::credentials_in_stored_headers_are_not_read
    events::events_have_dense_places_in_the_order_of_the_hints
    events::an_event_is_read_back_as_it_was_accepted
    events::an_event_is_planned_once
    events::a_plan_that_leaves_one_out_is_refused
    events::unplanned_events_survive_a_crash
    events::resources_change_all_or_none
    events::after_close_every_call_says_so
    owed::planned_deliveries_are_owed_until_they_end
    owed::a_settlement_of_what_has_ended_is_ignored
    owed::a_line_is_in_the_order_of_its_places
    owed::a_line_takes_only_so_many_of_each_lane
    owed::the_first_of_all_lanes_has_the_least_position
    owed::a_line_goes_on_behind_any_place
    owed::failed_deliveries_become_due_on_time
    owed::the_backlog_counts_by_destination
    owed::backlog_survives_a_crash
    owed::backlog_survives_a_clean_stop
    owed::a_message_has_the_copy_of_its_destination
    waiting::a_plan_that_waits_gets_its_rest_later_and_in_any_order
    waiting::a_rest_that_is_refused_can_be_planned_again
    waiting::a_delivery_can_be_dead_from_the_start
    replay::a_replay_makes_new_deliveries_and_keeps_its_progress
    replay::a_replay_repeats_the_copy_of_a_delivery
    replay::a_dead_letter_that_is_replayed_is_none_any_more
    replay::dead_letters_of_other_copies_stay
    replay::a_replay_carries_what_was_planned_anew
    replay::an_event_has_room_for_so_many_deliveries_and_no_more
    record::recordings_keep_the_event_and_its_outcome
    record::a_recording_says_nothing_about_the_plans_before_it
    record::recordings_can_be_replayed
    erase::erasure_removes_only_the_persons_data
    erase::an_erasure_that_is_asked_for_again_finds_the_rest
    memories::memories_change_with_their_plan_and_survive_a_crash
    memories::counts_of_a_minute_add_up_by_version_and_place
    memories::a_key_that_counts_for_a_while_is_taken_again_after_it
    directory::rows_are_found_by_project_table_and_key_only
    directory::fields_are_merged_or_replaced_and_the_later_of_two_counts
    directory::merges_at_the_same_time_see_each_other
    directory::a_list_is_in_the_order_of_bytes_and_goes_on_behind_any_key
    random::work_of_any_kind_agrees_with_a_model
}

mod events {
    use super::*;

    pub async fn a_key_is_accepted_once_of_64_at_the_same_time(home: &dyn Home) {
        let open = home.open().await;
        for round in 0..8 {
            let calls = (0..64).map(|n| {
                let store = open.store.clone();
                let event = keyed(projects(1), &format!("order-{round}"), &format!("[{}]", n % 2));
                tokio::spawn(async move { store.append(vec![event]).await.unwrap().remove(0) })
            });
            let mut first = HashSet::new();
            let (mut new, mut same) = (0, 0);
            for call in calls.collect::<Vec<_>>() {
                match call.await.unwrap() {
                    Appended::New(event) => {
                        new += 1;
                        first.insert(event.id);
                    }
                    Appended::Duplicate { id, same_body, .. } => {
                        first.insert(id);
                        same += u32::from(same_body.unwrap());
                    }
                }
            }
            // 32 have the body of the first, which is one of them.
            assert_eq!((first.len(), new, same), (1, 1, 31));
        }
    }

    pub async fn a_key_counts_in_its_own_project_only_and_for_ever(home: &dyn Home) {
        let mut open = home.open().await;
        let ours = keyed(projects(1), "k", "1");
        let theirs = keyed(projects(2), "k", "1");
        let accepted = open.store.append(vec![ours.clone(), theirs.clone()]).await.unwrap();
        assert_eq!(new_events(&accepted).len(), 2);
        let [first, second] = ids(&accepted).try_into().unwrap();

        for _ in 0..2 {
            open = home.open_again_after_crash(open).await;
            let again = open.store.append(vec![theirs.clone(), ours.clone()]).await.unwrap();
            assert_eq!((new_events(&again).len(), ids(&again)), (0, vec![second, first]));
        }
    }

    pub async fn a_given_id_counts_as_a_key_of_its_own_kind(home: &dyn Home) {
        let open = home.open().await;
        let id = "evt_01h455vb4pex5vsknk084sn02q".parse().unwrap();
        let given = tidegate::model::NewEvent { id: Some(id), ..event("1") };
        let as_key = keyed(given.project, &id.to_string(), "1");
        let other = tidegate::model::NewEvent { payload: RawJson::trusted("2"), ..given.clone() };

        let all = vec![given.clone(), given.clone(), as_key, other];
        let accepted = open.store.append(all).await.unwrap();

        let [first, second, third, fourth] = accepted.try_into().unwrap();
        assert!(matches!(first, Appended::New(it) if it.id == id));
        assert!(
            matches!(second, Appended::Duplicate { id: it, same_body: Some(true), .. } if it == id)
        );
        assert!(matches!(third, Appended::New(it) if it.id != id));
        assert!(
            matches!(fourth, Appended::Duplicate { id: it, same_body: Some(false), .. } if it == id)
        );
        let open = home.open_again_after_crash(open).await;
        let again = open.store.append(vec![given]).await.unwrap();
        assert!(matches!(&again[0], Appended::Duplicate { id: it, .. } if *it == id));
    }

    pub async fn events_have_dense_places_in_the_order_of_the_hints(home: &dyn Home) {
        let mut open = home.open().await;
        let calls = (0..40).map(|n| {
            let store = open.store.clone();
            let batch = (0..n % 5 + 1).map(|_| event("{}")).collect();
            tokio::spawn(async move { store.append(batch).await.unwrap() })
        });
        let mut accepted = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            let of_call = seqs(&call.await.unwrap());
            assert!(of_call.is_sorted(), "a call's events are in its order");
            accepted.extend(of_call);
        }
        let mut hinted = Vec::new();
        while hinted.len() < accepted.len() {
            match open.accepted.receive().await.unwrap() {
                Hint::Some(events) => hinted.extend(events.iter().map(|it| it.seq.0)),
                Hint::Lost(_) => panic!("there was room for every hint"),
            }
        }
        accepted.sort_unstable();
        assert_eq!(accepted, (1..=120).collect::<Vec<_>>());
        assert_eq!(hinted, accepted);
    }

    pub async fn an_event_is_read_back_as_it_was_accepted(home: &dyn Home) {
        let open = home.open().await;
        let mut offered: Vec<_> = (0..200)
            .map(|n| event(&format!(r#"{{ "n":{n}.50, "text":"{}" }}"#, "ü".repeat(n * 7))))
            .collect();
        offered.push(keyed(projects(2), "k-1", "null"));
        let accepted = new_events(&open.store.append(offered.clone()).await.unwrap());

        let open = home.open_again_after_crash(open).await;

        let mut read = Vec::new();
        while read.len() < accepted.len() {
            let after = read.last().map_or(EventSeq(0), |it: &Arc<tidegate::model::Event>| it.seq);
            let page = open.store.unplanned(after, 64).await.unwrap();
            assert!(!page.is_empty() && page.len() <= 64);
            read.extend(page);
        }
        assert_eq!(read, accepted);
        for (read, offered) in read.iter().zip(&offered) {
            assert_eq!(read.payload.bytes(), offered.payload.bytes());
            assert_eq!(read.metadata.bytes(), offered.metadata.bytes());
        }
        assert!(open.store.unplanned(read[200].seq, 64).await.unwrap().is_empty());
    }

    pub async fn an_event_is_planned_once(home: &dyn Home) {
        let open = home.open().await;
        let events = new_events(&open.store.append(vec![event("1"), event("2")]).await.unwrap());
        let plans: Vec<Plan> = events.iter().map(|it| plan_for(it, &[1, 2])).collect();

        let owed = open.store.plan(plans.clone()).await.unwrap();
        let again = open.store.plan(plans.clone()).await.unwrap();

        assert_eq!(again, []);
        let ordinals: Vec<_> = owed.iter().map(|it| (it.seq.event().0, it.seq.ordinal())).collect();
        assert_eq!(ordinals, [(1, 0), (1, 1), (2, 0), (2, 1)]);
        let open = home.open_again_after_crash(open).await;
        assert_eq!(open.store.plan(plans).await.unwrap(), []);
        assert!(open.store.unplanned(EventSeq(0), 10).await.unwrap().is_empty());
    }

    pub async fn a_plan_that_leaves_one_out_is_refused(home: &dyn Home) {
        let open = home.open().await;
        let events = new_events(&open.store.append(vec![event("1"), event("2")]).await.unwrap());

        assert!(open.store.plan(vec![plan_for(&events[1], &[1])]).await.is_err());

        assert_eq!(open.store.unplanned(EventSeq(0), 10).await.unwrap(), events);
        let plans = events.iter().map(|it| plan_for(it, &[1])).collect();
        assert_eq!(open.store.plan(plans).await.unwrap().len(), 2);
    }

    pub async fn unplanned_events_survive_a_crash(home: &dyn Home) {
        let open = home.open().await;
        let offered = (0..5).map(|_| event("1")).collect();
        let events = new_events(&open.store.append(offered).await.unwrap());
        let skipped = Skipped {
            pipeline: None,
            pipeline_version: None,
            route: None,
            by: "trigger".to_owned(),
            reason: "no pipeline wants it".to_owned(),
        };
        let plans = vec![
            plan_for(&events[0], &[1]),
            Plan { skipped: vec![skipped], ..plan_for(&events[1], &[]) },
            plan_for(&events[2], &[]),
        ];
        open.store.plan(plans).await.unwrap();

        let open = home.open_again_after_crash(open).await;

        assert_eq!(open.store.unplanned(EventSeq(0), 10).await.unwrap(), events[3..]);
        assert_eq!(open.store.unplanned(EventSeq(0), 1).await.unwrap(), events[3..4]);
        assert_eq!(open.store.unplanned(EventSeq(4), 10).await.unwrap(), events[4..]);
    }

    pub async fn resources_change_all_or_none(home: &dyn Home) {
        let open = home.open().await;
        let document = |id, body: &str| Document {
            kind: "source".to_owned(),
            id,
            body: RawJson::trusted(body.to_owned()),
        };
        let put = |id, body| Change::Put(document(id, body));
        open.store.change(vec![put(1, "1"), put(2, "2"), put(3, "3")]).await.unwrap();
        let delete = Change::Delete { kind: "source".to_owned(), id: 2 };
        open.store.change(vec![delete, put(3, r#"{"b":1,"a":2}"#)]).await.unwrap();

        let open = home.open_again_after_crash(open).await;

        let kept = open.store.load().await.unwrap();
        assert_eq!(kept, [document(1, "1"), document(3, r#"{"b":1,"a":2}"#)]);
    }

    pub async fn after_close_every_call_says_so(home: &dyn Home) {
        use tidegate::store::{OwedQuery, StoreError};
        let open = home.open().await;
        let events = new_events(&open.store.append(vec![event("1")]).await.unwrap());
        let owed = open.store.plan(vec![plan_for(&events[0], &[1])]).await.unwrap();

        open.store.close().await;

        let settled = open.store.settle(vec![note(&owed[0], ended())]).await;
        assert!(matches!(settled, Err(StoreError::Closed)));
        let appended = open.store.append(vec![event("1")]).await;
        assert!(matches!(appended, Err(StoreError::Closed)));
        let query = OwedQuery::These(vec![owed[0].seq]);
        assert!(matches!(open.store.owed(query).await, Err(StoreError::Closed)));
        let messages = open.store.messages(&[owed[0].seq]).await;
        assert!(matches!(messages, Err(StoreError::Closed)));
        open.store.close().await;
    }
}
