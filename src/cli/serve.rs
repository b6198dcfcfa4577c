//! `tidegate serve`: runs the gateway.

use std::{
    io::{ErrorKind, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    error::{CliError, Result},
    output, quick_start,
};
use crate::{
    app::{App, Parts, StartError, folder},
    config::{Config, ConfigError},
    crypto::vault::LoadError,
    destinations::egress::policy::Net,
    model::Secret,
    resources::{ApplyError, File},
    server,
    store::{Role, StoreError},
    telemetry,
};

/// Run the gateway
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate serve --quick-start                       try it: a demo project, a sink, a curl to paste
  tidegate serve --data /var/lib/tidegate --listen 0.0.0.0:8080 --apply acme.yaml
  tidegate config                                    every option, with its default

TIDEGATE_ADMIN_KEY sets the key that administers everything; TIDEGATE_MASTER_KEY the one that opens stored secrets.")]
pub struct Args {
    /// Configuration file (default: every option at its default)
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The database to use instead of the embedded store, postgres://user:password@host/name; better
    /// in TIDEGATE_STORE, which other users of the machine cannot see
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Name of this node among those of one database (default: host name and port)
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Roles of this node: ingest, pipeline, dispatch, api (default: all)
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<Role>,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", value_parser = super::listen_address)]
    listen: Option<SocketAddr>,
    /// Apply this resource file at the start
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
    /// Allow endpoints in this private network, such as 127.0.0.0/8
    #[arg(long, value_name = "CIDR")]
    allow_net: Vec<Net>,
    /// Create a demo project and endpoint, and show how to send an event
    #[arg(long)]
    quick_start: bool,
    /// Start even if the store was moved to a database or the folder has foreign files
    #[arg(long)]
    force: bool,
}

pub async fn run(args: Args) -> Result<()> {
    let mut config = load(&args)?;
    if args.quick_start {
        quick_start::allow_loopback(&mut config);
    }
    telemetry::start_logs(&config.log).map_err(|error| CliError::usage(chain(&error)))?;
    // Read before anything starts, so that a mistake in it starts nothing.
    let resources = args.apply.as_deref().map(read_resources).transpose()?;

    server::budget::raise();
    folder::look(&config, args.force).map_err(cannot_start)?;
    let allowed = config.egress.allow_nets.clone();
    let (data, database) = (config.data.clone(), config.database.clone());
    let app = App::start(config, Parts::of_the_machine(), resources.as_ref());
    let app = app.await.map_err(cannot_start)?;
    // Before anybody hears that it runs: a signal that comes then ends it in order.
    let signals = Signals::listen()?;
    if let Some(database) = &database {
        folder::mark_in_use(&data, database);
    }
    tracing::info!(address = %app.address, "listening");
    if !allowed.is_empty() {
        let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        tracing::warn!(nets = nets.join(" "), "endpoints may be in networks that are not public");
    }
    let demo = if args.quick_start { Some(quick_start::start(&app).await?) } else { None };
    let second = signals.wait().await;
    tracing::info!("stopping: what is under way may end; the same signal again ends at once");
    if let Some(demo) = demo {
        demo.stop();
    }
    tokio::select! {
        () = app.stop() => tracing::info!("stopped"),
        () = second => tracing::warn!("ended at once; what was under way is attempted again later"),
    }
    Ok(())
}

fn load(args: &Args) -> Result<Config> {
    let mut config = Config::load(args.config.as_deref()).map_err(|error| match error {
        ConfigError::Missing(_) | ConfigError::Invalid(_) | ConfigError::Store(_) => {
            CliError::usage(error.to_string()).then("tidegate config shows every option")
        }
    })?;
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    if let Some(store) = &args.store {
        let address = store.parse();
        config.database =
            Some(address.map_err(|error| CliError::usage(format!("--store: {error}")))?);
    }
    if let Some(node) = &args.node {
        config.cluster.name = Some(node.clone());
    }
    if !args.roles.is_empty() {
        config.cluster.roles.clone_from(&args.roles);
    }
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.egress.allow_nets.extend(args.allow_net.iter().cloned());
    Ok(config)
}

fn read_resources(path: &Path) -> Result<File> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::File { what: format!("cannot read {name}"), source })?;
    let variable = |name: &str| std::env::var(name).ok().map(Secret::new);
    File::read(&name, &text, &variable)
        .map_err(|error| CliError::usage(error.to_string()).then("nothing was changed"))
}

fn not_applied(error: ApplyError) -> CliError {
    match error {
        ApplyError::Invalid(source) => {
            CliError::usage(source.to_string()).then("nothing was changed")
        }
        ApplyError::Tests(_) => CliError::failed(chain(&error)).then(
            "change the file; or start without it and use `tidegate apply --confirm-failing-tests`",
        ),
        ApplyError::Store(_) => CliError::failed(chain(&error)),
    }
}

fn cannot_start(error: StartError) -> CliError {
    let failed = CliError::failed(chain(&error));
    match error {
        StartError::Resources(error) => not_applied(error),
        StartError::Listen { .. } => {
            failed.then("choose another address with --listen, or port 0 for a free one")
        }
        StartError::MasterKey(LoadError::File { source, .. })
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            failed.then(
                "let the user that runs the gateway read it: it must own the file, with mode 0600",
            )
        }
        StartError::MasterKey(LoadError::Malformed) => {
            failed.then("correct TIDEGATE_MASTER_KEY, or leave it away to use master.key")
        }
        StartError::MasterKey(_)
        | StartError::LostMasterKey { .. }
        | StartError::NoMasterKey { .. } => failed.then(
            "restore master.key from its backup, or set TIDEGATE_MASTER_KEY; nothing was changed",
        ),
        StartError::WrongMasterKey { .. } => failed.then(
            "give the key that was used before, in master.key or TIDEGATE_MASTER_KEY; to replace it, \
             put the new one in front and keep the old one behind it; nothing was changed",
        ),
        StartError::NoSharedMasterKey { .. } => failed.then(
            "give every node the same TIDEGATE_MASTER_KEY, or the same master.key; no key was made",
        ),
        StartError::OtherMasterKey { .. } => {
            failed.then("give every node the same TIDEGATE_MASTER_KEY, or the same master.key")
        }
        StartError::Moved { .. } => failed.then(
            "give the database with --store or TIDEGATE_STORE; or start with an empty store in this folder with --force",
        ),
        StartError::NotOurs { .. } => failed.then(
            "check --data, and whether the disk is mounted; or make a store there with --force",
        ),
        StartError::NameTaken { .. } => failed.then(
            "give this node another name with --node, or stop the other one first",
        ),
        StartError::Database { .. } => failed.then(
            "nothing was accepted; check that the database runs and that the address is right, then start again",
        ),
        StartError::Roles => failed.then("share a PostgreSQL with --store, or leave --roles away"),
        StartError::NoRoles => failed.then("give it at least one, or leave them away for all"),
        StartError::Beat => failed.then("make `lease` at least three times `beat`"),
        StartError::Store { path, source: StoreError::Incomplete(_) } => failed.then(format!(
            "restore it from a backup; or see with `tidegate check --data {0}` what is lost, and go on \
             without it with `tidegate check --data {0} --repair`; nothing was changed",
            path.display()
        )),
        StartError::Folder { .. }
        | StartError::AdminKey
        | StartError::Node(_)
        | StartError::Store { .. }
        | StartError::Tls(_)
        | StartError::Countries(_)
        | StartError::Telemetry(_) => failed,
    }
}

/// An error with all that caused it, since an operator needs the last of them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The signals that are heard.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| CliError::File { what: "cannot hear signals".to_owned(), source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Ends with the first signal to stop, and gives what ends with the second.
    async fn wait(self) -> impl Future<Output = ()> {
        let Self { mut terminate, mut interrupt, mut hangup } = self;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => {
                    output::note("");
                    break;
                }
                _ = hangup.recv() => {
                    // Whose terminal is closed has nobody who would stop it later.
                    if std::io::stderr().is_terminal() {
                        break;
                    }
                    tracing::warn!(
                        "SIGHUP is ignored: options are read at a start, and resources change with `tidegate apply`"
                    );
                }
            }
        }
        async move {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        }
    }
}
