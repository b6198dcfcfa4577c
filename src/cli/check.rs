//! `tidegate check`: reads all that a data folder holds, and says what is missing or damaged.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    error::{CliError, Result},
    output,
};
use crate::{
    config::Config,
    store::{
        StoreError,
        sqlite::{Checked, check, repair},
    },
};

/// Check a data folder for missing or damaged files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The gateway must be stopped. Without --repair, nothing is changed.

Examples:
  tidegate check --data /var/lib/tidegate            exit code 1 if something is missing or damaged
  tidegate check --data /var/lib/tidegate --repair   go on without it, after a look at what is lost")]
pub struct Args {
    /// Data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Drop what is missing or damaged; what is readable is moved to DIR/damaged
    #[arg(long)]
    repair: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let data = args.data.clone().unwrap_or_else(|| Config::default().data);
    if args.repair {
        let done = repair(&data).map_err(|error| failed(&data, &error))?;
        if done.is_empty() {
            say(format_args!("nothing is missing or damaged, and nothing was changed"))?;
        }
        return done.iter().try_for_each(|it| say(format_args!("{it}")));
    }
    let found = check(&data).map_err(|error| failed(&data, &error))?;
    report(&data, &found)
}

fn report(data: &Path, found: &Checked) -> Result<()> {
    for remark in &found.remarks {
        output::note(remark);
    }
    for loss in &found.losses {
        say(format_args!("{loss}"))?;
    }
    let (files, bytes) = (found.files, found.bytes);
    match found.losses.len() {
        0 => say(format_args!("{files} files with {bytes} bytes were read: all is well")),
        count => Err(CliError::failed(format!("{count} files are missing or damaged")).then(format!(
            "restore them from a backup; or run `tidegate check --data {} --repair`, which goes on \
             without them",
            data.display()
        ))),
    }
}

fn say(text: fmt::Arguments<'_>) -> Result<()> {
    output::Output::standard().line(text)
}

fn failed(data: &Path, error: &StoreError) -> CliError {
    let mut text = format!("the store in `{}` cannot be read: {error}", data.display());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CliError::failed(text).then("stop the gateway first, and check that --data is its data folder")
}
