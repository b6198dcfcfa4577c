//! The pages about expressions say what is so.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use tidegate::{
    expr::{Condition, Facts},
    model::{Event, EventId, EventSeq, ProjectId, RawJson, SourceId},
};

#[test]
fn every_condition_in_the_documentation_holds_or_not_as_it_says() {
    let page = include_str!("../../docs/expressions.md");
    let (_, example) = page.split_once("```json\n").unwrap();
    let facts = Facts::new(Arc::new(event(example.split("```").next().unwrap())), None);
    let mut count = 0;
    for line in page.lines() {
        let line = line.replace("\\|", "¦");
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, source, holds @ ("yes" | "no" | "error"), ..] = cells[..] else { continue };
        let source = source.trim_matches('`').replace('¦', "|");
        let held = match Condition::compile(&source).unwrap().holds(&facts) {
            Ok(true) => "yes",
            Ok(false) => "no",
            Err(_) => "error",
        };
        assert_eq!(held, holds, "{source}");
        count += 1;
    }
    assert!(count >= 20, "the table was not found");
}

#[test]
fn a_large_payload_is_not_read_for_nothing() {
    // A payload that is no JSON at all would be noticed, if anybody looked.
    let broken = Event { payload: RawJson::trusted("{ broken"), ..event("{}") };
    let facts = Facts::new(Arc::new(broken), None);
    assert_eq!(Condition::compile("type == 'a.b'").unwrap().holds(&facts), Ok(true));
    // And what is damaged in the store has no fields.
    assert_eq!(Condition::compile("payload.a != 1").unwrap().holds(&facts), Ok(true));
}

fn event(payload: &str) -> Event {
    Event {
        seq: EventSeq(1),
        id: EventId::from_bits(1),
        project: ProjectId::from_bits(1),
        source: SourceId::from_bits(1),
        event_type: "a.b".parse().unwrap(),
        timestamp: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::of(&json!({})),
        payload: RawJson::parse(payload.trim().to_owned()).unwrap(),
    }
}
