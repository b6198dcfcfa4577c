//! Where deliveries stand in the line of their destination.

use std::{collections::HashMap, sync::Arc};

use crate::{
    catalog::Catalog,
    expr::{Facts, Key},
    model::{Destination, Era, Event, Lane, Name, Ordering, Place, SourceId},
};

/// Which deliveries of a destination wait for each other.
pub(in crate::pipeline) struct LaneRule {
    pub era: Era,
    pub by: By,
}

pub(in crate::pipeline) enum By {
    None,
    Fifo,
    Key(Key),
    /// The key does not compile, which was refused when it was saved: keep the order of all.
    Broken,
}

/// The lane of a destination in which all deliveries wait for each other.
const ONE_LANE: Lane = Lane(1);

/// Says where deliveries stand in the line of one destination. For replays; plans know it already.
pub struct Placing {
    line: LaneRule,
    sources: HashMap<SourceId, Name>,
}

impl Placing {
    pub fn of(destination: &Destination, catalog: &Catalog) -> Self {
        let sources = catalog.sources.values().filter(|it| it.project == destination.project);
        Self {
            line: LaneRule::of(destination),
            sources: sources.map(|it| (it.id, it.name.clone())).collect(),
        }
    }

    pub fn place(&self, event: &Arc<Event>) -> Place {
        let source = self.sources.get(&event.source).cloned();
        self.line.place(event, || Facts::new(event.clone(), source)).0
    }
}

impl LaneRule {
    pub fn of(destination: &Destination) -> Self {
        let by = match &destination.policy.ordering {
            Ordering::None => By::None,
            Ordering::Fifo => By::Fifo,
            Ordering::Key(source) => Key::compile(source).map_or_else(
                |error| {
                    tracing::error!(destination = %destination.name, %error, "a stored ordering key does not compile; all deliveries keep their order");
                    By::Broken
                },
                By::Key,
            ),
        };
        Self { era: destination.era, by }
    }

    /// The place, and whether the key had no value because it could not be evaluated.
    pub(in crate::pipeline) fn place(
        &self,
        event: &Event,
        facts: impl FnOnce() -> Facts,
    ) -> (Place, bool) {
        let (lane, failed) = match &self.by {
            By::None => return (Place { lane: Lane::NONE, position: 0 }, false),
            By::Fifo | By::Broken => (ONE_LANE, false),
            By::Key(key) => match key.lane(&facts()) {
                Ok(lane) => (lane, false),
                Err(_) => (Key::fallback(), true),
            },
        };
        (Place { lane, position: self.era.position(event.timestamp) }, failed)
    }
}
