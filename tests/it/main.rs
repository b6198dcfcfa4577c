//! The promises of Tidegate, as tests. One binary, so that it links once.

mod harness;
mod layers;
mod server;
mod openapi;
mod webhook;
mod egress;
mod hostile;
mod verifiers;
mod crash;
mod powercut;
//! The integration tests, one binary: what Tidegate promises, held against the real thing.

mod store;
