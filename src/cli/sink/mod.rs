//! `tidegate sink`: an endpoint to try things on, which shows and judges each webhook it gets.

mod line;
mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use jiff::tz::TimeZone;
use tokio::{net::TcpListener, sync::Notify};

pub use self::{
    line::render,
    server::{Judgement, Options, Received, serve},
};
use super::{
    error::{CliError, Result},
    output::{self, Output},
    schemes::{SignScheme, Verifier},
};
use crate::model::Secret;

/// An endpoint to try things on: shows each webhook it gets, verifies its signature, and answers as
/// it is configured to
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate sink                                    accept everything on 127.0.0.1:9400
  tidegate sink --secret whsec_…                   verify signatures; what is wrong gets 401
  tidegate sink --fail-rate 0.2 --latency 50ms     a flaky, slow endpoint
  tidegate sink --status 503                       an endpoint that is down")]
pub struct Args {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9400")]
    pub listen: SocketAddr,
    /// Signing secret to verify with; may be repeated
    #[arg(
        long,
        value_name = "SECRET",
        env = "TIDEGATE_SINK_SECRET",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub secret: Vec<String>,
    /// Signature scheme
    #[arg(long, value_enum, default_value_t)]
    pub scheme: SignScheme,
    /// Fraction of requests to fail, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub fail_rate: Option<f64>,
    /// Status of failed requests (default: 503); given alone, every request fails
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(200..600))]
    pub status: Option<u16>,
    /// Delay of each answer, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = super::times::duration, default_value = "0s")]
    pub latency: Duration,
    /// Also print each body
    #[arg(long)]
    pub body: bool,
    /// Print only the totals at the end
    #[arg(long, conflicts_with = "body")]
    pub quiet: bool,
    /// Print one JSON object per webhook
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Exit after this many webhooks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 =
        text.parse().map_err(|_| "a share is a number from 0 to 1, such as 0.2".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is from 0 to 1".to_owned()) }
}

impl Args {
    fn options(&self) -> Result<Options> {
        let secrets: Vec<_> = self.secret.iter().map(Secret::new).collect();
        let verifier = match secrets.is_empty() {
            true => None,
            false => Some(Verifier::new(self.scheme, &secrets, None)?),
        };
        let failure = self.status.unwrap_or(503);
        Ok(Options {
            verifier,
            // A status alone means: always.
            fail_rate: self.fail_rate.unwrap_or(if self.status.is_some() { 1.0 } else { 0.0 }),
            failure: StatusCode::from_u16(failure)
                .map_err(|_| CliError::usage("no such status"))?,
            latency: self.latency,
            ..Options::default()
        })
    }
}

/// What came so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    pub accepted: u64,
    pub failed_on_purpose: u64,
    pub duplicates: u64,
    pub verified: u64,
    pub refused: u64,
}

impl Counters {
    pub fn add(&mut self, it: &Received) {
        self.received += 1;
        self.accepted += u64::from(it.answer.is_success());
        self.failed_on_purpose += u64::from(it.is_failed_on_purpose);
        self.duplicates += u64::from(it.is_duplicate);
        match it.signature {
            Judgement::NotAsked => (),
            Judgement::Verified => self.verified += 1,
            Judgement::Refused(_) => self.refused += 1,
        }
    }
}

/// Runs until Ctrl-C, or until enough has come.
pub async fn run(args: Args) -> Result<()> {
    let options = args.options()?;
    let verifies = options.verifier.is_some();
    let listener = TcpListener::bind(args.listen).await.map_err(|source| CliError::File {
        what: format!("{} cannot be listened on", args.listen),
        source,
    })?;
    let address = listener.local_addr().unwrap_or(args.listen);
    output::note(format_args!("sink on http://{address}/ · Ctrl-C ends it and counts"));
    if !verifies {
        output::note("signatures are not verified: give --secret whsec_… for that");
    }

    let stop = Arc::new(Notify::new());
    let state = Arc::new(Mutex::new((Counters::default(), Ok(()))));
    let out = Output::standard();
    let zone = TimeZone::system();
    let report = {
        let (stop, state) = (stop.clone(), state.clone());
        let (limit, show) =
            (args.count, Show { body: args.body, json: args.json, quiet: args.quiet });
        move |it: &Received| {
            let mut state = state.lock().unwrap_or_else(|it| it.into_inner());
            if limit.is_some_and(|it| state.0.received >= it) {
                return;
            }
            state.0.add(it);
            let shown = show.print(it, out, &zone);
            if shown.is_err() || limit.is_some_and(|it| state.0.received == it) {
                state.1 = shown;
                stop.notify_one();
            }
        }
    };
    let stopped = async {
        tokio::select! {
            () = stop.notified() => (),
            _ = tokio::signal::ctrl_c() => (),
        }
    };
    serve(listener, options, report, stopped).await;
    let mut state = state.lock().unwrap_or_else(|it| it.into_inner());
    output::note(line::summary(&state.0, verifies));
    std::mem::replace(&mut state.1, Ok(()))
}

#[derive(Clone, Copy)]
struct Show {
    body: bool,
    json: bool,
    quiet: bool,
}

impl Show {
    fn print(self, it: &Received, out: Output, zone: &TimeZone) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        if self.json {
            return out.json_line(&line::to_json(it));
        }
        out.line(line::render(it, out.paint, zone))?;
        if self.body { out.text(&line::body(&it.body)) } else { Ok(()) }
    }
}
