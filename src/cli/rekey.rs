//! `tidegate rekey`: a new master key in the place of the old one.

use std::{path::PathBuf, sync::Arc};

use super::{
    error::{CliError, Result},
    output,
};
use crate::{
    app::rekey::{RekeyError, rekey},
    clock::SystemClock,
    crypto::{SystemRandom, Vault},
};

/// Re-encrypt all secrets under a new master key
///
/// The gateway must be stopped. API keys and pseudonyms stay as they are. Keep a copy of the new master.key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate rekey --data /var/lib/tidegate")]
pub struct Args {
    /// Data folder; no gateway may be running on it
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

pub async fn run(args: Args) -> Result<()> {
    let file = args.data.join("master.key");
    if std::env::var_os(Vault::VARIABLE).is_some_and(|it| !it.is_empty()) {
        let message =
            format!("{} is set, but a new key is written to {}", Vault::VARIABLE, file.display());
        return Err(CliError::usage(message).then(
            "write the key to that file with mode 0600, unset the variable, and run it again; afterwards the variable may have what is in the file",
        ));
    }
    let count = rekey(&args.data, Arc::new(SystemClock), Arc::new(SystemRandom)).await;
    let count = count.map_err(failed)?;
    output::note(format_args!(
        "{count} secrets are sealed under a new master key; the old one opens nothing any more"
    ));
    output::note(format_args!(
        "next: keep a copy of {} elsewhere, then start the gateway",
        file.display()
    ));
    Ok(())
}

fn failed(error: RekeyError) -> CliError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let next = match error {
        RekeyError::NoStore(_) => "check --data",
        RekeyError::Store(_) => "stop the gateway that has the folder open, and run it again",
        RekeyError::Key(_) => "restore master.key from its backup; nothing was changed",
        RekeyError::Sealed { .. } => {
            "give the resource its secret again with `tidegate apply`, then run it again; nothing was changed"
        }
        RekeyError::File(_) => "make room and check the rights of the folder, then run it again",
    };
    CliError::failed(message).then(next)
}
