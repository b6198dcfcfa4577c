//! x
pub mod error;
pub mod output;
mod connect;
pub mod client;
mod sse;
mod yaml;
mod schemes;
pub mod sink;

fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|it| it.to_string())
}
