//! Message ids within one event: two messages to one destination that differ never share one.
//!
//! The first message to a destination has the id that it would have alone. One that differs from it, and
//! would have the same, gets a number of its own behind it (`evt_…_2`). Messages that are the same, of two
//! routes or pipelines, share an id, so that a receiver that deduplicates takes them for one.

use std::{collections::HashMap, sync::Arc};

use crate::model::{Altered, DestinationId, Event, Message, PlannedDelivery, RawJson};

/// The ids that an event's messages have so far.
#[derive(Default)]
pub(in crate::pipeline) struct Ids(HashMap<Option<DestinationId>, Vec<GivenId>>);

/// What stands behind the event's id, and of which message.
struct GivenId {
    part: Option<u16>,
    said: Option<Arc<Altered>>,
}

impl Ids {
    /// The messages of the event that the store has already. To which destination they go is not
    /// known, so nothing that differs from one of them shares its id.
    pub fn of(messages: &[Message]) -> Self {
        let given = messages.iter().filter(|it| !it.fresh_id);
        let given: Vec<GivenId> = given
            .map(|it| GivenId { part: part(it.copy.as_ref()), said: it.copy.clone() })
            .collect();
        Self(if given.is_empty() { HashMap::new() } else { HashMap::from([(None, given)]) })
    }

    /// The messages of the event that were sent, each with its destination.
    pub fn sent(sent: &[(DestinationId, Message)]) -> Self {
        let mut ids: HashMap<Option<DestinationId>, Vec<GivenId>> = HashMap::new();
        for (destination, message) in sent.iter().filter(|it| !it.1.fresh_id) {
            let said = message.copy.clone();
            let given = ids.entry(Some(*destination)).or_default();
            given.push(GivenId { part: part(said.as_ref()), said });
        }
        Self(ids)
    }

    /// Gives each of these deliveries the id that it keeps. Doing it twice changes nothing.
    pub fn tell_apart(&mut self, event: &Event, deliveries: &mut [PlannedDelivery]) {
        for delivery in deliveries {
            let destination = Some(delivery.destination);
            let known = self.0.get(&None).into_iter().chain(self.0.get(&destination)).flatten();
            let part = number(event, delivery.copy.as_ref(), &known.collect::<Vec<_>>());
            let said = delivery.copy.clone();
            if part != self::part(delivery.copy.as_ref()) {
                let copy = delivery.copy.as_deref().cloned().unwrap_or_default();
                delivery.copy = Some(Arc::new(Altered { part, ..copy }));
            }
            let given = self.0.entry(destination).or_default();
            if !given.iter().any(|it| it.part == part) {
                given.push(GivenId { part, said });
            }
        }
    }
}

fn part(copy: Option<&Arc<Altered>>) -> Option<u16> {
    copy.and_then(|it| it.part)
}

/// The number that a message gets beside those that have theirs.
fn number(event: &Event, said: Option<&Arc<Altered>>, known: &[&GivenId]) -> Option<u16> {
    let own = part(said);
    let is_same = |it: &&&GivenId| is_same(event, it.said.as_ref(), said);
    match known.iter().find(|it| it.part == own) {
        None => own,
        Some(taken) if is_same(&taken) => own,
        Some(_) => match known.iter().find(is_same) {
            Some(twin) => twin.part,
            None => (2..=u16::MAX).map(Some).find(|it| known.iter().all(|has| has.part != *it))?,
        },
    }
}

/// Whether a receiver gets the same, apart from the id.
fn is_same(event: &Event, one: Option<&Arc<Altered>>, other: Option<&Arc<Altered>>) -> bool {
    let none = Altered::default();
    let (one, other) = (one.map_or(&none, Arc::as_ref), other.map_or(&none, Arc::as_ref));
    let says = |it: &Option<RawJson>, event: &RawJson| it.as_ref().unwrap_or(event).bytes().clone();
    one.event_type.as_ref().unwrap_or(&event.event_type)
        == other.event_type.as_ref().unwrap_or(&event.event_type)
        && says(&one.payload, &event.payload) == says(&other.payload, &event.payload)
        && says(&one.metadata, &event.metadata) == says(&other.metadata, &event.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lane, PipelineId, Place};

    /// `destination:part:payload`, each part and payload `-` for none.
    fn delivery(text: &str) -> PlannedDelivery {
        let [destination, part, payload] = text.split(':').collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        let payload = (payload != "-").then(|| RawJson::trusted(payload.to_owned()));
        let part: Option<u16> = part.parse().ok();
        let is_own = payload.is_none() && part.is_none();
        PlannedDelivery {
            destination: DestinationId::from_bits(destination.parse().unwrap()),
            pipeline: PipelineId::DIRECTED,
            pipeline_version: 0,
            place: Place { lane: Lane::NONE, position: 0 },
            copy: (!is_own).then(|| Arc::new(Altered { payload, part, ..Altered::default() })),
            dead: None,
        }
    }

    fn reported(ids: &mut Ids, deliveries: &str) -> String {
        let event = Event { payload: RawJson::trusted("0"), ..Event::at(1) };
        let mut deliveries: Vec<_> = deliveries.split(' ').map(delivery).collect();
        ids.tell_apart(&event, &mut deliveries);
        let parts = deliveries.iter().map(|it| part(it.copy.as_ref()));
        parts.map(|it| it.map_or("-".to_owned(), |it| it.to_string())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn messages_that_differ_have_ids_of_their_own() {
        for (deliveries, parts) in [
            ("1:-:- 2:-:- 3:-:5", "- - -"),
            ("1:-:- 1:-:5 1:-:6", "- 2 3"),
            ("1:-:5 1:-:-", "- 2"),
            // The same message of two routes is one; a copy may say what the event says.
            ("1:-:5 1:-:5 1:-:6 1:-:6", "- - 2 2"),
            ("1:-:- 1:-:0", "- -"),
            // Parts keep their numbers where they can.
            ("1:1:5 1:2:6 1:1:7 1:2:8", "1 2 3 4"),
            ("1:-:5 1:-:6 1:1:7 1:2:8", "- 2 1 3"),
        ] {
            assert_eq!(reported(&mut Ids::default(), deliveries), parts, "{deliveries}");
        }
    }

    #[test]
    fn a_later_part_of_a_plan_knows_the_ids_before_it() {
        let mut ids = Ids::default();
        assert_eq!(reported(&mut ids, "1:-:5"), "-");
        assert_eq!(reported(&mut ids, "1:-:6"), "2");
        // Planned again since the store failed.
        assert_eq!(reported(&mut ids, "1:-:6"), "2");
    }
}
