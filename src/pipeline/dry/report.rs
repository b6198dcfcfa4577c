//! What became of an event that was tried, as people and programs read it.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    changes::{Change, ChangeBudget, between},
    known::Known,
};
use crate::{
    expr::Facts,
    model::{DestinationId, Event, Name, Pipeline, PlannedDelivery, RawJson, Skipped, TypeName},
    pipeline::{
        ask::LookupStatus,
        plan::{Applied, PipelinePlan as Planned, Trace, Went},
    },
};

/// What a pipeline did with an event, or would do.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunReport)]
pub struct Report {
    /// Where the event went no further, before any route. Null: the routes had their say.
    pub dropped: Option<Dropped>,
    /// The pipeline's own steps, in their order, as far as the event came.
    pub steps: Vec<Tried>,
    /// Every route, in its order. Empty when the event was dropped before.
    pub routes: Vec<Route>,
    /// How often steps were applied besides what is shown, when it is more than 1024 times.
    pub omitted: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunDropped)]
pub struct Dropped {
    /// `trigger` (types and sources), `when`, `pipeline` (it does not compile), or a step: `steps[1]`.
    pub at: String,
    /// `trigger`, `when`, `pipeline`, or the kind of the step.
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunRoute)]
pub struct Route {
    /// The name of its destination.
    #[schema(value_type = String)]
    pub to: Name,
    /// Whether its destination gets something.
    pub matched: bool,
    /// Why it, or a part of what a step made, went no further.
    pub stopped: Vec<Stopped>,
    /// The route's own steps.
    pub steps: Vec<Tried>,
    /// What the destination gets, message by message.
    #[serde(skip)]
    pub messages: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunStopped)]
pub struct Stopped {
    /// `when`, `route` (there is no such destination), `integrations` (the event's own), or the kind of
    /// the step.
    pub by: String,
    pub reason: String,
}

/// One message for a destination.
#[derive(Clone, Debug)]
pub struct Message {
    pub destination: DestinationId,
    pub event_type: TypeName,
    pub payload: RawJson,
    pub metadata: RawJson,
    pub planned: PlannedDelivery,
}

/// What a step did.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunStep)]
pub struct Tried {
    /// `steps[0]`, or `routes[1].steps[0]`.
    pub at: String,
    pub kind: String,
    pub duration_ms: f64,
    /// With each event that came to it: one, or the several that a step before made of it.
    pub events: Vec<Application>,
}

/// What a step did with one event.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunApplication)]
pub struct Application {
    pub outcome: Outcome,
    /// The events that it left, each with what is different about it.
    pub made: Vec<Made>,
    /// Events that it left besides, when they are more than 100.
    pub omitted: usize,
    /// Why it stopped or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where in a script it failed, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What a script said with `console.log`, at most 100 lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub log: Vec<String>,
    /// Of a step that asked: what came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DryRunOutcome)]
pub enum Outcome {
    /// The event went on as it was.
    Unchanged,
    Changed,
    /// It became several.
    Several,
    /// It went no further.
    Stopped,
    /// The step could not be applied, and the event went no further.
    Failed,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunMade)]
pub struct Made {
    /// What differs from the event that came to the step. Empty with `changed`: the values are the
    /// same, and written again.
    pub changes: Vec<Change>,
    /// Changes that are too many or too large to be shown.
    pub omitted: usize,
}

/// A question to the world outside, and its answer.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DryRunAsked)]
pub struct Asked {
    /// `found`, `not_found`, `timeout`, `failed` or `overloaded`.
    pub status: &'static str,
    /// Who knew it: `directory`, the name of a look-up, or `test` where the request said it.
    pub from: Option<String>,
    pub reason: Option<String>,
    pub duration_ms: f64,
}

/// Events of one that are shown.
const MOST_MADE: usize = 100;

impl Report {
    /// Of an event that the trigger does not take.
    pub(super) fn unwanted(reason: String) -> Self {
        let trigger = || "trigger".to_owned();
        let dropped = Dropped { at: trigger(), by: trigger(), reason };
        Self { dropped: Some(dropped), steps: Vec::new(), routes: Vec::new(), omitted: 0 }
    }

    /// Whether no destination gets anything.
    pub fn is_dropped(&self) -> bool {
        !self.routes.iter().any(|it| it.matched)
    }
}

pub(super) fn report(
    pipeline: &Pipeline,
    event: &Event,
    trace: Trace,
    made: Planned,
    known: &Known,
) -> Report {
    let mut room = ChangeBudget::new();
    let mut all: Vec<(Option<u16>, Tried)> = Vec::new();
    for it in &trace.steps {
        let at = place(it);
        let application = application(it, known, &mut room);
        let duration = application.asked.as_ref().map_or(0.0, |it| it.duration_ms);
        let duration = millis(it.took) + duration;
        match all.last_mut().filter(|(_, tried)| tried.at == at) {
            Some((_, tried)) => {
                tried.duration_ms += duration;
                tried.events.push(application);
            }
            None => {
                let (kind, events) = (it.kind.to_owned(), vec![application]);
                all.push((it.slot.route, Tried { at, kind, duration_ms: duration, events }));
            }
        }
    }
    let mut routes = Vec::with_capacity(trace.routes.len());
    let ends = trace.routes.iter().skip(1).copied();
    let ends = ends.chain([(made.deliveries.len(), made.skipped.len())]);
    for ((number, start), end) in (0_u16..).zip(&trace.routes).zip(ends) {
        let Some(route) = pipeline.routes.get(usize::from(number)) else { break };
        let planned = &made.deliveries[start.0..end.0];
        let skipped = &made.skipped[start.1..end.1];
        routes.push(Route {
            to: route.to.clone(),
            matched: !planned.is_empty(),
            stopped: skipped.iter().map(Stopped::of).collect(),
            steps: all.extract_if(.., |it| it.0 == Some(number)).map(|it| it.1).collect(),
            messages: planned.iter().map(|it| Message::of(it, event)).collect(),
        });
    }
    let steps: Vec<Tried> = all.into_iter().map(|it| it.1).collect();
    let dropped = match (trace.routes.is_empty(), made.skipped.last()) {
        (true, Some(last)) => Some(dropped(last, &steps)),
        (true, None) | (false, _) => None,
    };
    Report { dropped, steps, routes, omitted: trace.omitted }
}

fn dropped(last: &Skipped, steps: &[Tried]) -> Dropped {
    let at = match steps.last() {
        Some(step) if step.kind == last.by => step.at.clone(),
        Some(_) | None => last.by.clone(),
    };
    Dropped { at, by: last.by.clone(), reason: last.reason.clone() }
}

fn place(it: &Applied) -> String {
    match it.slot.route {
        None => format!("steps[{}]", it.slot.step),
        Some(route) => format!("routes[{route}].steps[{}]", it.slot.step),
    }
}

fn application(it: &Applied, known: &Known, room: &mut ChangeBudget) -> Application {
    let mut made = |after: &Facts| {
        let (changes, omitted) = between(&it.before, after, room);
        Made { changes, omitted }
    };
    let unchanged = || vec![Made { changes: Vec::new(), omitted: 0 }];
    let (outcome, made, reason) = match &it.went {
        Went::Same => (Outcome::Unchanged, unchanged(), None),
        Went::Changed(after) => (Outcome::Changed, vec![made(after)], None),
        Went::Several(parts) => {
            (Outcome::Several, parts.iter().take(MOST_MADE).map(made).collect(), None)
        }
        Went::Stopped(reason) => (Outcome::Stopped, Vec::new(), Some(reason.clone())),
        Went::Failed(reason) => (Outcome::Failed, Vec::new(), Some(reason.clone())),
    };
    let asked = known.of(it.slot).map(|(answer, took)| Asked {
        status: LookupStatus::as_str(answer.status),
        from: answer.from.clone(),
        reason: answer.reason.clone(),
        duration_ms: millis(took),
    });
    let count = match &it.went {
        Went::Several(parts) => parts.len(),
        Went::Same | Went::Changed(_) | Went::Stopped(_) | Went::Failed(_) => 0,
    };
    Application {
        outcome,
        made,
        omitted: count.saturating_sub(MOST_MADE),
        reason,
        line: it.heard.place.map(|it| it.0),
        column: it.heard.place.map(|it| it.1),
        log: it.heard.log.clone(),
        asked,
    }
}

fn millis(it: Duration) -> f64 {
    it.as_micros() as f64 / 1e3
}

impl Stopped {
    fn of(it: &Skipped) -> Self {
        Self { by: it.by.clone(), reason: it.reason.clone() }
    }
}

impl Message {
    fn of(planned: &PlannedDelivery, event: &Event) -> Self {
        let copy = planned.copy.as_deref();
        let event_type = copy.and_then(|it| it.event_type.as_ref()).unwrap_or(&event.event_type);
        let payload = copy.and_then(|it| it.payload.as_ref()).unwrap_or(&event.payload);
        let metadata = copy.and_then(|it| it.metadata.as_ref()).unwrap_or(&event.metadata);
        Self {
            destination: planned.destination,
            event_type: event_type.clone(),
            payload: payload.clone(),
            metadata: metadata.clone(),
            planned: planned.clone(),
        }
    }

    /// As a test case sees it.
    pub(super) fn document(&self) -> Value {
        serde_json::json!({
            "type": self.event_type.as_str(),
            "payload": self.payload.to_value(),
            "metadata": self.metadata.to_value(),
        })
    }

    /// As its destination is given it.
    pub fn into_message(self, event: &Arc<Event>, ordinal: u16) -> crate::model::Message {
        let seq = crate::model::DeliverySeq::new(event.seq, ordinal);
        crate::model::Message {
            seq,
            event: event.clone(),
            copy: self.planned.copy,
            fresh_id: false,
        }
    }
}
