//! Logs and metrics.
//!
//! A log line never holds a body, a header or a query. Metrics carry no label whose values grow
//! with traffic: states, classes and kinds, but no ids.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    pub format: Format,
    /// What is logged, as `tracing` filters say it: `info`, `tidegate=debug`, …
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people when standard error is a terminal, otherwise JSON.
    Auto,
    Pretty,
    Json,
}

impl Default for Options {
    fn default() -> Self {
        Self { format: Format::Auto, filter: "info".to_owned() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`log.filter` is not a filter such as `info` or `tidegate=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("the metrics could not be set up")]
    Metrics(#[source] BuildError),
}

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn start_logs(options: &Options) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&options.filter).map_err(TelemetryError::Filter)?;
    let is_json = match options.format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when logging has been started before, as tests in one process do.
    let _started_before = if is_json {
        logs.json().flatten_event(true).finish().try_init()
    } else {
        logs.with_target(false).finish().try_init()
    };
    Ok(())
}

/// Starts counting. There is one set of counters in a process; a second call gives the same one.
pub fn start_metrics() -> Result<PrometheusHandle, TelemetryError> {
    static HANDLE: std::sync::Mutex<Option<PrometheusHandle>> = std::sync::Mutex::new(None);
    const SECONDS: &[f64] = &[
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
    ];

    let mut handle = HANDLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .map_err(TelemetryError::Metrics)?;
    let made = builder.install_recorder().map_err(TelemetryError::Metrics)?;
    Ok(handle.insert(made).clone())
}
