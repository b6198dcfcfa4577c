//! The comparison: relay and Tidegate in turn, each beside the same load generator and sink.
//!
//! They take turns (relay, Tidegate, relay, Tidegate), so that whatever else the machine does meets
//! both. Every round starts a new process on new data, and ends when everything is delivered.

mod process;
mod resources;
mod progress;
mod throughput;
mod latency;
mod backlog;
mod neighbours;
mod pipelines;
mod database;
mod nodes;
mod table;

use std::{path::PathBuf, time::Duration};

use crate::Result;
use process::{Server, Sink, Tidegate};
use progress::Progress;
use table::Table;

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// One round of everything, short: for a first look, not for a table to show.
    #[arg(long)]
    quick: bool,
    /// Only the relay, while there is no gateway to measure.
    #[arg(long)]
    relay_only: bool,
    /// Only these parts: throughput, fan-out, latency, backlog, neighbours, pipelines, nodes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The gateway. Without it: the one that was built together with this program.
    #[arg(long, default_value_os_t = built_together())]
    tidegate: PathBuf,
    /// Where data folders are made, and removed at the end: on the disk that is to be measured.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// The table is added to this file.
    #[arg(long, default_value = "bench/RESULTS.md")]
    results: PathBuf,
    /// Deliveries that wait for a dead endpoint in the backlog part.
    #[arg(long)]
    pending: Option<u64>,
    /// In the nodes part: so many nodes at most.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// In the nodes part: show what the database was asked most often.
    #[arg(long)]
    statements: bool,
    /// Requests on their way to one endpoint at once, the same for both.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Throughput,
    FanOut,
    Latency,
    Backlog,
    Neighbours,
    Pipelines,
    Nodes,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Throughput,
        Self::FanOut,
        Self::Latency,
        Self::Backlog,
        Self::Neighbours,
        Self::Pipelines,
        Self::Nodes,
    ];
}

/// How long things take, quick or in full.
struct Scale {
    rounds: usize,
    /// Of load, in each round.
    load: Duration,
    latency: Duration,
    pending: u64,
    neighbours: Duration,
}

/// What every part works with.
struct Bench {
    options: Options,
    scale: Scale,
    sink: Sink,
    progress: Progress,
    table: Table,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Relay,
    Tidegate,
}

fn built_together() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("tidegate")
}

pub async fn run(options: Options) -> Result<()> {
    let scale = if options.quick {
        Scale {
            rounds: 1,
            load: Duration::from_secs(2),
            latency: Duration::from_secs(5),
            pending: options.pending.unwrap_or(100_000),
            neighbours: Duration::from_secs(5),
        }
    } else {
        Scale {
            rounds: 3,
            load: Duration::from_secs(5),
            latency: Duration::from_secs(20),
            pending: options.pending.unwrap_or(1_000_000),
            neighbours: Duration::from_secs(15),
        }
    };
    if !options.relay_only && !options.tidegate.exists() {
        let path = options.tidegate.display();
        return Err(format!("{path} does not exist: cargo build --profile dist --workspace").into());
    }
    let parts = if options.only.is_empty() { Part::ALL.to_vec() } else { options.only.clone() };
    let progress = Progress::new(expected(&parts, &scale, options.relay_only));
    let sink = Sink::start().await?;
    let mut bench = Bench { options, scale, sink, progress, table: Table::default() };
    tokio::select! {
        done = bench.parts(&parts) => done?,
        _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
    }
    bench.progress.done();
    let text = bench.table.markdown(&bench.options);
    println!("{text}");
    bench.table.append_to(&bench.options.results, &text)
}

/// How long the parts will take, roughly; for the progress line.
fn expected(parts: &[Part], scale: &Scale, relay_only: bool) -> Duration {
    /// Start, warm-up, drain and stop of one round.
    const AROUND: Duration = Duration::from_secs(3);
    let turns = if relay_only { 1 } else { 2 };
    let rounds = scale.rounds as u32 * turns;
    let part = |part: &Part| match part {
        Part::Throughput => (scale.load + AROUND) * rounds * 3,
        Part::FanOut => (scale.load + AROUND * 2) * rounds,
        Part::Latency => (scale.latency + AROUND) * turns + latency::PROBE,
        Part::Backlog if relay_only => Duration::ZERO,
        Part::Backlog => {
            Duration::from_secs(scale.pending / 50_000 + 20) + scale.load * 4 * scale.rounds as u32
        }
        Part::Neighbours if relay_only => Duration::ZERO,
        Part::Pipelines if relay_only => Duration::ZERO,
        Part::Pipelines => (scale.load + AROUND * 2) * scale.rounds as u32 * pipelines::TURNS,
        Part::Nodes if relay_only => Duration::ZERO,
        Part::Nodes => (scale.load + AROUND * 4) * scale.rounds as u32 * nodes::TURNS,
        Part::Neighbours => {
            (scale.neighbours + AROUND) * (2 * neighbours::MODES.len() * scale.rounds) as u32
        }
    };
    parts.iter().map(part).sum()
}

impl Bench {
    async fn parts(&mut self, parts: &[Part]) -> Result<()> {
        for part in Part::ALL.iter().filter(|it| parts.contains(it)) {
            match part {
                Part::Throughput => throughput::throughput(self).await?,
                Part::FanOut => throughput::fan_out(self).await?,
                Part::Latency => latency::latency(self).await?,
                Part::Backlog if self.options.relay_only => (),
                Part::Backlog => backlog::backlog(self).await?,
                Part::Neighbours if self.options.relay_only => (),
                Part::Neighbours => neighbours::neighbours(self).await?,
                Part::Pipelines if self.options.relay_only => (),
                Part::Pipelines => pipelines::pipelines(self).await?,
                Part::Nodes if self.options.relay_only => (),
                Part::Nodes => nodes::nodes(self).await?,
            }
        }
        Ok(())
    }

    /// Relay and Tidegate, in turn, for as many rounds as this scale has.
    fn turns(&self) -> Vec<Turn> {
        let round: &[Turn] =
            if self.options.relay_only { &[Turn::Relay] } else { &[Turn::Relay, Turn::Tidegate] };
        round.repeat(self.scale.rounds)
    }

    /// Starts whose turn it is, with its deliveries going to these paths of the sink.
    async fn start(&self, turn: Turn, paths: &[String]) -> Result<Server> {
        let urls: Vec<_> = paths.iter().map(|path| self.sink.url(path)).collect();
        match turn {
            Turn::Relay => Server::relay(&urls, self.options.concurrency).await,
            Turn::Tidegate => {
                let resources = resources::to_all(&urls, self.options.concurrency);
                self.tidegate(&resources)?.start().await
            }
        }
    }

    /// A gateway on new data, not started yet.
    fn tidegate(&self, resources: &str) -> Result<Tidegate> {
        Tidegate::new(&self.options.tidegate, &self.options.data, resources)
    }
}
