//! Events that an absence is reported by. They are of the system's source, which no sender can name, and
//! go on behind the step that missed something.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{absence, time};
use crate::{
    crypto::Pseudonyms,
    model::{
        Event, IdempotencyKey, Name, NewEvent, PipelineId, ProjectId, RawJson, SourceId, StepId,
    },
};

/// Which step of which pipeline missed an event of which key: what such an event has for metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub pipeline: PipelineId,
    step: String,
    pub key: String,
    /// When the interval began, in milliseconds.
    pub since: i64,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    source: String,
    absence: Origin,
}

impl Origin {
    pub fn new(step: StepId, key: String, since: i64) -> Self {
        Self { pipeline: step.pipeline, step: format!("{:016x}", step.hash), key, since }
    }

    /// `None`: the event is another one.
    pub fn of(event: &Event) -> Option<Self> {
        if event.source != SourceId::SYSTEM {
            return None;
        }
        let metadata: Result<Metadata, _> = serde_json::from_slice(event.metadata.bytes());
        metadata.ok().map(|it| it.absence)
    }

    pub fn step(&self) -> Option<StepId> {
        let hash = u64::from_str_radix(&self.step, 16).ok()?;
        Some(StepId { pipeline: self.pipeline, hash })
    }

    /// The event that tells of it. However often it is made, its key lets it in once.
    pub fn event(
        self,
        project: ProjectId,
        pipeline: &Name,
        (rule, last_seen): (&absence::AbsenceRule, Option<i64>),
        (pseudonyms, now): (&Pseudonyms, Timestamp),
    ) -> NewEvent {
        // Nobody else can know it, and so nobody can take it first.
        let own = format!("{}\0{}\0{}\0{}", self.pipeline, self.step, self.key, self.since);
        let once = pseudonyms.of_project(project).of("absence", &own);
        let due = rule.due(self.since);
        let payload = json!({
            "key": if self.key.is_empty() { None } else { Some(&self.key) },
            "status": "absent",
            "last_seen": last_seen.map(time),
            "due": time(due),
            "pipeline": pipeline.as_str(),
        });
        let metadata = Metadata { source: "system".to_owned(), absence: self };
        NewEvent {
            id: None,
            project,
            source: SourceId::SYSTEM,
            event_type: rule.event_type.clone(),
            timestamp: Some(time(due)),
            received_at: now,
            key: Some(IdempotencyKey::trusted(&once)),
            key_counts_for: None,
            metadata: RawJson::of(&metadata),
            payload: RawJson::of(&payload),
        }
    }
}
