//! Measures Tidegate beside a bare relay: a load generator, a sink, the relay, and the comparison
//! that runs all of them in turn.

mod clock;
mod event;
mod histogram;
mod serve;
mod load;
mod sink;
mod relay;
mod run;
mod scripts;
mod store;

use clap::{Parser, Subcommand};

/// This is a tool for people at a terminal: whatever fails ends it, with what failed.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Posts events, and says how many were accepted how fast. Prints JSON.
    Load(load::Options),
    /// Takes deliveries, and counts and times them. `GET /stats` gives JSON, `POST /reset` forgets.
    Sink(sink::Options),
    /// Forwards each body to one or more URLs and keeps nothing: what the HTTP libraries alone can do.
    Relay(relay::Options),
    /// Runs relay and Tidegate in turn, and writes a table of what both did.
    Run(run::Options),
    /// Runs a script over very many events, and fails if that takes more and more time or memory.
    Scripts(scripts::Options),
    /// Measures the embedded store alone, as keys grow in number and old events are forgotten.
    Store(store::Options),
}

fn main() -> Result<()> {
    let command = Cli::parse().command;
    // Load and sink share two cores with what they measure: one thread each is the cheapest.
    let mut runtime = match command {
        Command::Load(_) | Command::Sink(_) => tokio::runtime::Builder::new_current_thread(),
        Command::Relay(_) | Command::Run(_) | Command::Scripts(_) | Command::Store(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
    };
    runtime.enable_all().build()?.block_on(async {
        match command {
            Command::Load(options) => {
                let report = load::run(&options).await?;
                println!("{}", serde_json::to_string(&report)?);
                Ok(())
            }
            Command::Sink(options) => sink::run(options).await,
            Command::Relay(options) => relay::run(options).await,
            Command::Run(options) => run::run(options).await,
            Command::Scripts(options) => scripts::run(&options),
            Command::Store(options) => store::run(&options).await,
        }
    })
}
