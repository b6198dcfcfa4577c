//! The promises of Tidegate, as tests. One binary, so that it links once.

mod layers;
mod server;
