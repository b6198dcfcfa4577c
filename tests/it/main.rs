//! The promises of Tidegate, as tests. One binary, so that it links once.

mod harness;
mod pipeline;
mod apply;
mod layers;
mod server;
mod ingest;
mod api;
mod openapi;
mod store;
mod records;
mod retention;
mod dispatch;
mod delivery;
mod simulation;
mod webhook;
mod egress;
mod hostile;
mod verifiers;
mod cli;
mod crash;
mod powercut;
mod tenants;
