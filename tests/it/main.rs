//! The promises of Tidegate, as tests. One binary, so that it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a panic is how a broken expectation is told"
)]

mod harness;
mod layers;
mod swallowed;
mod docs;
mod server;
mod ingest;
mod segment;
mod inbound;
mod doors;
mod presets;
mod api;
mod openapi;
mod tenants;
mod expr;
mod pipeline;
mod apply;
mod refused_files;
mod kinds;
mod profiles;
mod store;
mod records;
mod retention;
mod dispatch;
mod cluster;
mod dry_run;
mod batches;
mod delivery;
mod ordering;
mod attempts;
mod simulation;
mod webhook;
mod http;
mod words;
mod enrich;
mod enrich_outside;
mod databases;
mod detect;
mod egress;
mod hostile;
mod senders;
mod fuzzing;
mod event_types;
mod large_payloads;
mod verifiers;
mod contracts;
mod circles;
mod cli;
mod sdk;
mod attacks;
mod master_key;
mod damage;
mod crash;
mod chaos;
mod powercut;
mod broken_disk;
mod full_disk;
mod machine;
mod rekey;
mod moved_secrets;
mod outage;
mod transfer;
