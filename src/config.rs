//! The configuration: one file, one struct.
//!
//! Each stage owns its options and their defaults; [`Config`] only puts them side by side. No stage
//! ever sees `Config`, so that a stage can be read, tested and changed on its own.
//!
//! `tidegate.toml` in the repository is compiled in. It names every option with its default, and so
//! is the manual, too; a test holds it to that.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment, Profile,
    providers::{Env, Format as _, Toml},
    value::{Dict, Value},
};
use serde::{Deserialize, Serialize};

use crate::{
    api, cluster, destinations::egress, dispatch, enrich, gate, ingest, pipeline, resources,
    server, store, telemetry,
};

/// The default configuration, as a file with a sentence on each option.
pub const DEFAULTS: &str = include_str!("../tidegate.toml");

/// Everything that an operator can set. A key that is not listed is an error, so that a typing
/// mistake is found at start and not in the night.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// The folder of the embedded store and the master key.
    pub data: PathBuf,
    pub server: server::Options,
    pub ingest: ingest::Options,
    pub gate: gate::Options,
    /// The embedded store.
    pub store: store::sqlite::Options,
    /// The database that is used instead of the embedded store: `store = "postgres://…"`.
    #[serde(skip)]
    pub database: Option<store::postgres::Address>,
    pub postgres: store::postgres::Options,
    /// This node among others on the same database.
    pub cluster: cluster::Options,
    pub retention: Retention,
    pub pipeline: pipeline::Options,
    pub enrichment: enrich::Options,
    pub dispatch: dispatch::Options,
    pub egress: egress::Options,
    pub resources: resources::Options,
    pub api: api::Options,
    pub log: telemetry::Options,
    /// What the file or the environment calls by an old name, as warnings for the log.
    #[serde(skip)]
    pub renamed: Vec<String>,
}

/// How old events are forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// For projects that do not say how long. Without it: for ever.
    #[serde(with = "humantime_serde::option")]
    pub default: Option<Duration>,
    /// How often to look for what can go.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { default: None, every: Duration::from_secs(60) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("tidegate-data"),
            server: server::Options::default(),
            ingest: ingest::Options::default(),
            gate: gate::Options::default(),
            store: store::sqlite::Options::default(),
            database: None,
            postgres: store::postgres::Options::default(),
            cluster: cluster::Options::default(),
            retention: Retention::default(),
            pipeline: pipeline::Options::default(),
            enrichment: enrich::Options::default(),
            dispatch: dispatch::Options::default(),
            egress: egress::Options::default(),
            resources: resources::Options::default(),
            api: api::Options::default(),
            log: telemetry::Options::default(),
            renamed: Vec::new(),
        }
    }
}

/// Why there is no configuration. It names the key, and says what was expected there.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no configuration file `{}`", .0.display())]
    Missing(PathBuf),
    #[error("the configuration is not valid: {0}")]
    Invalid(Box<figment::Error>),
    /// It does not say what is there, since that may hold a password.
    #[error("`store` is not valid: {0}")]
    Store(#[from] store::postgres::NoAddress),
}

impl Config {
    /// The defaults, under the file, under the environment: `TIDEGATE_LISTEN`, `TIDEGATE_DATA`,
    /// `TIDEGATE_STORE`, and
    /// `TIDEGATE_<SECTION>__<OPTION>` such as `TIDEGATE_STORE__SEGMENT_EVENTS`.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        if let Some(path) = file {
            if !path.exists() {
                return Err(ConfigError::Missing(path.to_owned()));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        figment = figment.merge(environment()).select(Profile::Default);
        let mut database = None;
        if let Some(text) =
            figment.find_value("store").ok().and_then(figment::value::Value::into_string)
        {
            database = Some(text.parse()?);
            // What the embedded store would be given, it has by default.
            figment = figment.merge(("store", store::sqlite::Options::default()));
        }
        let invalid = |error| ConfigError::Invalid(Box::new(error));
        let mut options: Dict = figment.extract().map_err(invalid)?;
        let renamed = take_over_old_names(&mut options);
        let config: Self = Value::from(options).deserialize().map_err(invalid)?;
        Ok(Self { database, renamed, ..config })
    }
}

/// Options that have another name since a version: section, old name, new name. The old one is taken for
/// one version more, with a warning.
const RENAMED: &[(&str, &str, &str)] = &[("dispatch", "heads_at_most", "blocked_lanes_at_most")];

/// Gives the values that stand under old names to the new ones. Says for each what to write instead.
fn take_over_old_names(options: &mut Dict) -> Vec<String> {
    let mut warnings = Vec::new();
    for (section, old, new) in RENAMED {
        let Some(Value::Dict(_, section_options)) = options.get_mut(*section) else { continue };
        if let Some(value) = section_options.remove(*old) {
            section_options.insert((*new).to_owned(), value);
            warnings.push(format!("`{section}.{old}` is now called `{section}.{new}`"));
        }
    }
    warnings
}

/// Other variables of ours, such as `TIDEGATE_ADMIN_KEY`, are not options and are left alone.
fn environment() -> Env {
    let is_option = |name: &figment::value::UncasedStr| {
        name == "listen" || name == "data" || name == "store" || name.as_str().contains("__")
    };
    Env::prefixed("TIDEGATE_").filter(is_option).split("__")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_file_of_defaults_says_what_the_code_does() {
        let file: Config = Figment::from(Toml::string(DEFAULTS)).extract().unwrap();
        assert_eq!(file, Config::default());
    }

    #[test]
    fn the_file_of_defaults_names_every_option_and_says_a_sentence_on_each() {
        let all = Value::serialize(Config::default()).unwrap().into_dict().unwrap();
        let mut section = String::new();
        let mut named = Vec::new();
        let mut is_explained = false;
        for line in DEFAULTS.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = format!("{}.", name.trim_end_matches(']'));
            } else if let Some((name, _)) = line.trim_start_matches('#').split_once(" = ")
                && !line.starts_with("# ")
            {
                assert!(is_explained, "`{name}` has no sentence above it");
                named.push(format!("{section}{name}"));
            }
            is_explained = line.starts_with("# ");
        }
        for option in leaves("", &all) {
            assert!(named.contains(&option), "tidegate.toml does not name `{option}`");
        }
    }

    #[test]
    fn a_store_that_is_an_address_is_the_database_and_never_repeated() {
        let file = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            writeln!(file, "{text}").unwrap();
            file
        };
        let there = file("store = \"postgres://tide:s3cret@db:5432/events\"");
        let config = Config::load(Some(there.path())).unwrap();
        assert_eq!(config.database.unwrap().to_string(), "postgres://db:5432/events");
        assert_eq!(config.store, store::sqlite::Options::default());
        let wrong = file("store = \"mysql://tide:s3cret@db/events\"");
        let error = Config::load(Some(wrong.path())).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }

    #[test]
    fn an_old_name_of_an_option_is_taken_with_a_warning() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[dispatch]\nheads_at_most = 7").unwrap();
        let config = Config::load(Some(file.path())).unwrap();
        assert_eq!(config.dispatch.blocked_lanes_at_most, 7);
        let warning = "`dispatch.heads_at_most` is now called `dispatch.blocked_lanes_at_most`";
        assert_eq!(config.renamed, [warning]);
        assert!(Config::load(None).unwrap().renamed.is_empty());
    }

    #[test]
    fn a_typing_mistake_is_an_error_that_names_the_key() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[gate]\nwaiting_byte = 8").unwrap();
        let error = Config::load(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("waiting_byte"), "{error}");
    }

    /// The paths of all options. Tables are sections; lists and values are options.
    fn leaves(prefix: &str, dict: &Dict) -> Vec<String> {
        dict.iter()
            .flat_map(|(name, value)| match value {
                Value::Dict(_, inner) => leaves(&format!("{prefix}{name}."), inner),
                _ => vec![format!("{prefix}{name}")],
            })
            .collect()
    }
}
