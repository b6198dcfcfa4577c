//! The command line: `tidegate <command>`, one file for each.
//!
//! Commands for people write what they found to standard output, and remarks and next steps to
//! standard error, so that a pipe gets only the former. They end with 0 when all is well, with 1
//! when something failed, and with 2 when they were asked wrongly.

// What the commands share.
pub mod error;
mod paint;
mod cases;
pub mod output;
mod connect;
pub mod client;
mod sse;
mod yaml;
mod schemes;
mod json;
mod views;
mod times;

// The gateway itself.
mod serve;
mod quick_start;
mod migrate_store;
mod check;
mod rekey;

// Resources.
mod apply;
mod diff;
mod destinations;
mod profiles;
mod directory;
mod codegen;
mod event_types;
mod pipeline;
mod keys;
mod config;

// Events, on their way in and out.
mod emit;
mod tail;
mod listen;
pub mod sink;
mod sign;

// What became of them.
mod status;
mod events;
mod waterfall;
mod deliveries;
mod replay;
mod deletions;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::{CommandFactory as _, Parser, Subcommand};
use jiff::tz::TimeZone;
use url::Url;

use self::{
    client::Client,
    error::{CliError, Result},
    output::Output,
};
use crate::{
    clock::{Clock, SystemClock},
    model::Secret,
};

/// Tidegate, a self-hosted event gateway: emit once, deliver everywhere, lose nothing
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 110)]
#[command(after_help = "\
Start here:
  tidegate sink                                         an endpoint that shows what it gets
  tidegate emit user.signed_up --data '{\"plan\":\"pro\"}'  send an event
  tidegate tail                                         follow what happens
  tidegate status                                       how everything is")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Which gateway, and who asks.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// Address of the gateway
    #[arg(long, global = true, env = "TIDEGATE_URL", value_name = "URL", value_parser = gateway_url)]
    #[arg(default_value = "http://127.0.0.1:8080", help_heading = "Gateway")]
    url: Url,
    /// API key (default: TIDEGATE_ADMIN_KEY)
    #[arg(long, global = true, env = "TIDEGATE_API_KEY", value_name = "KEY")]
    #[arg(hide_env_values = true, help_heading = "Gateway")]
    api_key: Option<String>,
    /// Project, for a key of several projects
    #[arg(
        long,
        global = true,
        env = "TIDEGATE_PROJECT",
        value_name = "NAME",
        help_heading = "Gateway"
    )]
    project: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    MigrateStore(migrate_store::Args),
    Check(check::Args),
    Rekey(rekey::Args),
    Apply(apply::ApplyArgs),
    Plan(apply::PlanArgs),
    Export(apply::ExportArgs),
    Emit(emit::Args),
    Tail(tail::Args),
    Listen(listen::Args),
    Sink(sink::Args),
    Status(status::Args),
    #[command(subcommand)]
    Events(events::Command),
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    DeadLetters(deliveries::DeadLettersArgs),
    Replay(replay::Args),
    #[command(subcommand)]
    Deletions(deletions::Command),
    #[command(subcommand)]
    Destinations(destinations::Command),
    Profiles(profiles::Args),
    #[command(subcommand, alias = "pipelines")]
    Pipeline(pipeline::Command),
    #[command(subcommand)]
    Directory(directory::Command),
    #[command(subcommand)]
    Codegen(codegen::Command),
    #[command(subcommand)]
    EventTypes(event_types::Command),
    #[command(subcommand)]
    Keys(keys::Command),
    Sign(sign::SignArgs),
    Verify(sign::VerifyArgs),
    Config(config::Args),
}

/// What a command that talks to a gateway has at hand.
pub struct Context {
    pub client: Client,
    pub out: Output,
    pub zone: TimeZone,
    pub clock: Arc<dyn Clock>,
}

/// The program: reads the command line, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Else the runtime reads it by itself.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder
            .worker_threads(workers(std::thread::available_parallelism().map_or(1, usize::from)));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            return error::conclude(Err(CliError::File {
                what: "the runtime cannot start".to_owned(),
                source,
            }));
        }
    };
    let result = runtime.block_on(run(cli));
    // A read from a terminal that nobody answers must not hold us.
    runtime.shutdown_background();
    error::conclude(result)
}

/// How many threads serve connections. One core is left to the store's writer, which has a thread of its
/// own: with a worker on each of two cores, the three got into each other's way, and a tenth fewer events
/// were served.
fn workers(cores: usize) -> usize {
    cores.saturating_sub(1).max(1)
}

async fn run(cli: Cli) -> Result<()> {
    let context = || cli.global.context(|name| std::env::var(name).ok());
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::MigrateStore(args) => migrate_store::run(args).await,
        Command::Rekey(args) => rekey::run(args).await,
        Command::Apply(args) => apply::apply(&context(), args).await,
        Command::Plan(args) => apply::plan(&context(), args).await,
        Command::Export(args) => apply::export(&context(), args).await,
        Command::Emit(args) => emit::run(&context(), args).await,
        Command::Tail(args) => tail::run(&context(), args).await,
        Command::Listen(args) => listen::run(&context(), args).await,
        Command::Sink(args) => sink::run(args).await,
        Command::Status(args) => status::run(&context(), args).await,
        Command::Events(command) => events::run(&context(), command).await,
        Command::Deliveries(command) => deliveries::run(&context(), command).await,
        Command::DeadLetters(args) => deliveries::dead_letters(&context(), args).await,
        Command::Replay(args) => replay::run(&context(), args).await,
        Command::Deletions(command) => deletions::run(&context(), command).await,
        Command::Destinations(command) => destinations::run(&context(), command).await,
        Command::Profiles(args) => profiles::run(&args),
        Command::Pipeline(command) => pipeline::run(&context(), command).await,
        Command::Directory(command) => directory::run(&context(), command).await,
        Command::Codegen(command) => codegen::run(&context(), command).await,
        Command::EventTypes(command) => event_types::run(&context(), command).await,
        Command::Keys(command) => keys::run(&context(), command).await,
        Command::Sign(args) => sign::sign(args),
        Command::Verify(args) => sign::verify(args),
        Command::Config(args) => config::run(args),
        Command::Check(args) => check::run(&args),
    }
}

impl Global {
    fn context(&self, variable: impl Fn(&str) -> Option<String>) -> Context {
        let given = self.api_key.clone().filter(|it| !it.is_empty());
        let key = given.or_else(|| variable("TIDEGATE_ADMIN_KEY")).filter(|it| !it.is_empty());
        let project = self.project.clone().filter(|it| !it.is_empty());
        Context {
            client: Client::new(self.url.clone(), key.map(Secret::new), project),
            out: Output::standard(),
            zone: TimeZone::system(),
            clock: Arc::new(SystemClock),
        }
    }
}

fn gateway_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => {
            Err("must be the URL of a gateway, such as http://127.0.0.1:8080".to_owned())
        }
    }
}

/// A server on this machine, as `http://localhost:3000/hooks`, or short: `localhost:3000/hooks`, `3000`.
fn server_url(text: &str) -> Result<Url, String> {
    let is_port = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let whole = match text {
        _ if is_port => format!("http://localhost:{text}/"),
        _ if text.contains("://") => text.to_owned(),
        _ => format!("http://{text}"),
    };
    match Url::parse(&whole) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => {
            Err("must be the URL of your server, such as http://localhost:3000/hooks, \
                               or short: localhost:3000/hooks, or its port alone: 3000"
                .to_owned())
        }
    }
}

/// An address to listen on; `localhost:8080` is the loopback of IPv4.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|it| it.parse().ok()) {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| {
        "must be an IP address and a port: 127.0.0.1:8080 for this machine only, 0.0.0.0:8080 for \
         every address of it, [::1]:8080 for IPv6"
            .to_owned()
    })
}

/// The whole command line, for documentation and completion.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
