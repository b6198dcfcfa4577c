//! `tidegate config`: every option with its default, or what is in effect here.

use std::path::PathBuf;

use serde_json::Value;

use super::{
    error::{CliError, Result},
    output::{Output, Paint},
};
use crate::config::{Config, ConfigError, DEFAULTS};

/// Print every option of tidegate.toml with its default and meaning
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate config > tidegate.toml                      a file to start from
  tidegate config --effective --config tidegate.toml   what this file and this environment come to")]
pub struct Args {
    /// Print the effective values: defaults, then the file, then TIDEGATE_… variables
    #[arg(long)]
    effective: bool,
    /// Configuration file that `tidegate serve` would use
    #[arg(long, value_name = "FILE", requires = "effective")]
    config: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let out = Output::standard();
    if !args.effective {
        return out.text(DEFAULTS);
    }
    let config = Config::load(args.config.as_deref()).map_err(refused)?;
    let (config, defaults) = (to_value(&config)?, to_value(&Config::default())?);
    out.text(&render(&config, &defaults, out.paint))
}

fn refused(error: ConfigError) -> CliError {
    let advice = match error {
        ConfigError::Missing(_) => "tidegate config > tidegate.toml",
        ConfigError::Invalid(_) | ConfigError::Store(_) => {
            "`tidegate config` prints every option that there is"
        }
    };
    CliError::usage(error.to_string()).then(advice)
}

fn to_value(config: &Config) -> Result<Value> {
    serde_json::to_value(config)
        .map_err(|error| CliError::failed(format!("the configuration cannot be shown: {error}")))
}

/// As TOML. What differs from the default says what that is.
fn render(config: &Value, defaults: &Value, paint: Paint) -> String {
    let mut top = String::new();
    let mut sections = String::new();
    for (name, value) in config.as_object().into_iter().flatten() {
        let default = &defaults[name];
        match value {
            Value::Object(options) => {
                sections.push_str(&format!("\n{}\n", paint.bold(format_args!("[{name}]"))));
                for (name, value) in options {
                    sections.push_str(&line(name, value, &default[name], paint));
                }
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                top.push_str(&line(name, value, default, paint));
            }
        }
    }
    top + &sections
}

fn line(name: &str, value: &Value, default: &Value, paint: Paint) -> String {
    let text = match value {
        Value::Null => paint.dim(format_args!("#{name} =")),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            format!("{name} = {}", toml(value))
        }
    };
    match (value == default, default) {
        (true, _) => format!("{text}\n"),
        (false, Value::Null) => format!("{text}  {}\n", paint.yellow("# off by default")),
        (false, default) => {
            format!("{text}  {}\n", paint.yellow(format_args!("# default: {}", toml(default))))
        }
    }
}

/// TOML's strings, numbers and lists are JSON's; its tables have a sign of their own.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, it)| !it.is_null());
            let fields: Vec<_> =
                fields.map(|(name, it)| format!("{name} = {}", toml(it))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn effective_config_marks_differences_and_parses() {
        let mut config = Config { listen: "0.0.0.0:9000".parse().unwrap(), ..Config::default() };
        config.ingest.trusted_proxies = vec!["10.0.0.1".parse().unwrap()];
        config.server.connections = Some(77);
        let text = render(
            &to_value(&config).unwrap(),
            &to_value(&Config::default()).unwrap(),
            Paint::PLAIN,
        );
        for expected in [
            "listen = \"0.0.0.0:9000\"  # default: \"127.0.0.1:8080\"\n",
            "\n[server]\n",
            "connections = 77  # off by default\n",
            "trusted_proxies = [\"10.0.0.1\"]  # default: []\n",
            "drain = \"15s\"\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        assert_eq!(Config::load(Some(file.path())).unwrap(), config);
    }
}
