//! Events that Tidegate sends in its own name. No trigger, condition or step has a say in them.
//!
//! Such an event either names the destinations that get it, each in its usual order, or was sent
//! already and goes nowhere else. Only an event of [`SourceId::SYSTEM`] is taken for one, and no
//! sender can speak as that source; the same metadata on any other event means nothing.
//!
//! [`SourceId::SYSTEM`]: crate::model::SourceId::SYSTEM

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    reasons,
    types::{EventPlan, MOST_DELIVERIES},
};
use crate::{
    expr::Facts,
    model::{DestinationId, Event, PipelineId, Plan, PlannedDelivery, RawJson, Skipped},
    pipeline::compile::ProjectPipelines,
};

/// Who gets an event of Tidegate's own: what such an event has for metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// At most [`Direction::MOST`].
    directed_to: Vec<DestinationId>,
}

impl Direction {
    /// Destinations of one event.
    pub const MOST: usize = MOST_DELIVERIES;

    /// The metadata of an event for these destinations.
    pub fn metadata(to: &[DestinationId]) -> RawJson {
        RawJson::of(&serde_json::json!({ "source": "system", "directed_to": to }))
    }
}

/// The plan of an event of the system.
pub(in crate::pipeline) fn plan(
    event: &Arc<Event>,
    project: Option<&ProjectPipelines>,
) -> EventPlan {
    let mut plan = Plan::of(event);
    let mut failures = 0;
    let mut skip = |reason: String| {
        let by = "system".to_owned();
        plan.skipped.push(Skipped {
            pipeline: None,
            pipeline_version: None,
            route: None,
            by,
            reason,
        });
    };
    match serde_json::from_slice::<Direction>(event.metadata.bytes()) {
        Err(_) => skip("Tidegate sent this event itself, once, and no pipeline sees it".to_owned()),
        Ok(direction) => {
            let mut seen = std::collections::HashSet::new();
            for id in direction.directed_to.into_iter().filter(|id| seen.insert(*id)) {
                let Some(target) = project.and_then(|it| it.destinations.get(&id)) else {
                    skip(format!("the destination {id} was deleted"));
                    continue;
                };
                let dead = match reasons::of_limit(plan.deliveries.len(), None) {
                    Ok(dead) => dead,
                    Err(reason) => {
                        skip(format!("not to {id}: {reason}"));
                        continue;
                    }
                };
                let (place, failed) = target.line.place(event, || Facts::new(event.clone(), None));
                failures += u32::from(failed);
                plan.deliveries.push(PlannedDelivery {
                    destination: target.id,
                    pipeline: PipelineId::DIRECTED,
                    pipeline_version: 0,
                    place,
                    copy: None,
                    dead,
                });
            }
        }
    }
    EventPlan { plan, failures }
}
