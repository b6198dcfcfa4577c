//! `tidegate migrate-store`: carries the embedded store over to a PostgreSQL.

use std::{path::PathBuf, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    error::{CliError, Result},
    output,
};
use crate::{
    app::folder,
    clock::SystemClock,
    config::Config,
    crypto::{Random as _, SystemRandom},
    store::{
        postgres::{Address, intake::IntakeError},
        transfer::{TransferError, TransferProgress, TransferReport, TransferRequest, transfer},
    },
};

/// Move the embedded store to PostgreSQL
///
/// Everything goes under the ids that it has: receivers do not see a difference, and keys count on.
/// It can be stopped at any moment, and goes on where it was when it is run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  createdb -h db.acme.com events
  tidegate migrate-store --from /var/lib/tidegate --to postgres://tidegate@db.acme.com/events
  TIDEGATE_STORE=postgres://tidegate@db.acme.com/events tidegate serve --data /var/lib/tidegate")]
pub struct Args {
    /// Data folder; no gateway may be running on it
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The database, which must be empty; better in TIDEGATE_STORE, which other users of the machine
    /// cannot see
    #[arg(long, value_name = "URL", env = "TIDEGATE_STORE", hide_env_values = true)]
    to: String,
    /// The configuration, for its section `postgres`
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Rows of one transaction, at most
    #[arg(long, value_name = "COUNT", default_value_t = TransferRequest::BATCH, hide = true)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    batch: usize,
}

pub async fn run(args: Args) -> Result<()> {
    let to: Address = args.to.parse().map_err(|error| CliError::usage(format!("--to: {error}")))?;
    let options = match &args.config {
        Some(path) => {
            Config::load(Some(path)).map_err(|error| CliError::usage(error.to_string()))?.postgres
        }
        None => Config::default().postgres,
    };
    let bar = bar();
    let mut reported = |it: TransferProgress| {
        bar.set_length(it.of);
        bar.set_position(it.done);
    };
    let request = TransferRequest {
        from: &args.from,
        to: &to,
        options: &options,
        batch: args.batch,
        clock: Arc::new(SystemClock),
        random: Box::new(|| SystemRandom.u64()),
    };
    let report = transfer(request, &mut reported).await;
    bar.finish_and_clear();
    let report = report.map_err(failed)?;
    folder::mark_moved(&args.from, &to).map_err(|source| CliError::File {
        what: "everything is in the database, but the folder cannot be marked as moved".to_owned(),
        source,
    })?;
    conclude(&report, &args, &to);
    Ok(())
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template =
        "{bar:30} {percent:>3} %  {human_pos} of {human_len} rows  {per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn conclude(report: &TransferReport, args: &Args, to: &Address) {
    let TransferReport { events, rows, keys, resources, was_done } = *report;
    if was_done {
        output::note(format_args!("{to} has all of this store already"));
    } else {
        output::note(format_args!(
            "{to} has it all: {events} events, {rows} rows about them, {keys} keys, {resources} resources"
        ));
    }
    let folder = args.from.display();
    output::note(format_args!(
        "next: start the gateway with TIDEGATE_STORE set to the database, and --data {folder}, which holds \
         the master key; on other machines, give it the same key in TIDEGATE_MASTER_KEY"
    ));
    output::note(format_args!(
        "from now on a gateway refuses to start on the folder alone: what it accepted would not be in the \
         database. When all is well, delete `segments`, `keys`, `journal-*`, `manifest`, `marks`, `owed.db`, \
         `control.db` and `directory.db` in it"
    ));
}

fn failed(error: TransferError) -> CliError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let next = match error {
        TransferError::Source(_) => {
            "stop the gateway that has the folder open, and check that --from is its data folder"
        }
        TransferError::Target(IntakeError::Foreign) => {
            "give it an empty database: `createdb events`"
        }
        TransferError::Target(IntakeError::InUse) => {
            "stop the gateways that use the database, and any other transfer to it"
        }
        TransferError::Target(IntakeError::Changed) => {
            "a gateway ran on the folder meanwhile: begin again with an empty database"
        }
        TransferError::Target(IntakeError::Mismatch { .. }) => {
            "somebody else wrote to the database: begin again with an empty one"
        }
        TransferError::Target(IntakeError::Store(_)) => {
            "run the command again: it goes on where it was"
        }
    };
    CliError::failed(message).then(next)
}
