//! What is said in a request, without sending one.

use std::sync::Arc;

use super::*;
use crate::model::{
    Altered, DeliverySeq, Event, EventId, EventSeq, ProjectId, RawJson, SourceId, TypeName,
};

/// An event of the type `user.signed_up`.
pub(super) fn message(metadata: &str, payload: &str, copy: Option<&str>) -> Message {
    let time = "2026-11-21T08:00:00.5Z".parse().unwrap();
    let event = Event {
        seq: EventSeq(1),
        id: EventId::from_bits(7),
        project: ProjectId::from_bits(1),
        source: SourceId::from_bits(1),
        event_type: "user.signed_up".parse::<TypeName>().unwrap(),
        timestamp: time,
        received_at: time,
        key: None,
        metadata: RawJson::parse(metadata.to_owned()).unwrap(),
        payload: RawJson::parse(payload.to_owned()).unwrap(),
    };
    let copy = copy.map(|it| Arc::new(Altered::payload(RawJson::parse(it.to_owned()).unwrap())));
    Message { seq: DeliverySeq::new(EventSeq(1), 0), event: Arc::new(event), copy, fresh_id: false }
}

#[test]
fn hops_are_read_from_the_metadata_and_from_nowhere_deeper() {
    for (metadata, expected) in [
        ("{}", 0),
        (r#"{"hops":3,"ip":"1.1.1.1"}"#, 3),
        (r#"{"ip":"hops", "hops" : 8}"#, 8),
        (r#"{"deeper":{"hops":9}}"#, 0),
        (r#"{"hops":"9"}"#, 0),
        (r#"{"hops":-1}"#, 0),
        (r#"{"hops":null}"#, 0),
    ] {
        assert_eq!(hops(&message(metadata, "{}", None)), expected, "{metadata}");
    }
}
