//! The nouns, as plain data without I/O. Everything else is written in these words.

mod id;
mod hashing;
mod text;
pub mod json;
pub mod moment;
mod secret;
mod project;
mod redaction;
mod source;
mod intake;
pub mod headers;
mod event;
mod event_type;
mod pipeline;
mod test_case;
pub mod packed;
mod memory;
mod tally;
mod policy;
mod connection;
mod destination;
mod webhook;
mod altered;
mod era;
mod delivery;
mod activity;
mod replay;
mod shares;
mod lookup;
mod deletion;
mod forgotten;

pub use activity::{Class, Entry, EntryKind, Outcome, Snippet};
pub use altered::Altered;
pub use connection::{Connection, OtherConnection};
pub use deletion::{Deletion, DeletionState, Person, Suppressed, Then};
pub use delivery::{
    DeliverySeq, DeliveryState, Ended, Lane, Message, Owed, Place, Plan, PlannedDelivery, Skipped,
    Standing,
};
pub use destination::{Destination, DestinationState, EndpointUrl};
pub use era::Era;
pub use event::{Event, EventSeq, NewEvent};
pub use event_type::{EventType, Validate};
pub use forgotten::Forgotten;
pub use hashing::{IdHasher, IdMap, IdSet};
pub use id::{
    DeletionId, DeliveryId, DestinationId, EventId, EventTypeId, Id, IdSequence, KeyId, Kind,
    LookupId, ParseIdError, PipelineId, ProjectId, ReplayId, SourceId, kind,
};
pub use intake::{
    Acknowledgement, Algorithm, Encoding, Form, HmacScheme, Intake, Provider,
    Scheme as InboundScheme, Verify,
};
pub use json::RawJson;
pub use lookup::{
    HttpLookup, Learn, Lookup, LookupCache, LookupLimits, LookupSettings, PostgresLookup, Table,
};
pub use memory::{AbsenceMemory, Memory, MemoryKey, Remembered, SpikeMemory, StepId};
pub use pipeline::{Author, Pattern, Pipeline, Route, StepSpec};
pub use policy::{
    Batch, Breaker, Exponential, Ordering, Policy, RateLimit, Retry, RetryOn, RetryPreset,
};
pub use project::{ApiKey, Project, Scope};
pub use redaction::{Detector, Redaction, RedactionMode};
pub use replay::{Replay, ReplayState, Selection};
pub use secret::{Sealed, Secret};
pub use shares::{ShareSlot, Shares};
pub use source::{SenderField, Source, SourceKind};
pub use tally::{Counted, Edge, Passed, Tally};
pub use test_case::{Expectation, TestCase, TestEvent};
pub use text::{IdempotencyKey, Name, TextError, TypeName, WriteKey};
pub use webhook::{
    Auth, Contract, Envelope, IdempotencyHeader, Method, OnGone, Profile, Scheme, Signature,
    Signed, SigningKey, Target, Webhook,
};
