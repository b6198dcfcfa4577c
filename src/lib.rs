//! Tidegate, a self-hosted event gateway: it accepts events over HTTP, keeps them on disk before it
//! answers, runs them through pipelines, and delivers them until they are accepted.
//!
//! The modules are listed in the order in which an event meets them.

// What every stage shares: the nouns, time, and the hand-off from stage to stage.
pub mod model;
pub mod clock;
pub mod hint;
pub mod tail;
pub mod derived;
pub mod crypto;
pub mod redact;
pub mod expr;
pub mod settings;
pub mod schema;
pub mod script;

// The stages. Ingest, pipeline and dispatch meet only in the store.
pub mod ingest;
pub mod gate;
pub mod store;
pub mod catalog;
pub mod pipeline;
pub mod replay;
pub mod dispatch;
pub mod destinations;
pub mod enrich;

// How people and programs speak to it.
pub mod probe;
pub mod deletions;
pub mod problem;
pub mod resources;
pub mod api;
pub mod dashboard;
pub mod server;
pub mod telemetry;

// What holds the stages together.
pub mod cluster;
pub mod config;
pub mod app;
pub mod cli;
