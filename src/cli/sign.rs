//! `tidegate sign` and `tidegate verify`: signatures without a gateway, to find out who is wrong.

use std::io::IsTerminal as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{
    emit::read_bounded,
    error::{CliError, Result},
    output::{self, Output},
    schemes::{SignScheme, Signer, Verifier},
};
use crate::{
    clock::{Clock as _, SystemClock},
    crypto::signature::{VerifyError, standard},
    destinations::webhook,
    model::Secret,
};

/// Sign the body on standard input; print the headers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate sign --secret whsec_… --id evt_1 < body.json
  printf '{}' | tidegate sign --scheme github --secret s3cret
  tidegate sign --scheme customerio --first-element --secret s3cret < batch.json")]
pub struct SignArgs {
    #[command(flatten)]
    how: How,
    /// Message id, which is signed as well (standard only)
    #[arg(long, value_name = "ID", default_value = "msg_test")]
    id: String,
    /// Unix seconds (default: now)
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
}

/// Verify the body on standard input against its headers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 0 if the signature holds, with 1 and the reason if it does not.

Examples:
  tidegate verify --secret whsec_… --id evt_1 --timestamp 1785000000 --signature 'v1,K5oZ…' < body.json
  tidegate verify --scheme stripe --secret whsec_… --signature 't=…,v1=…' < body.json
  tidegate verify --secret whsec_… --headers headers.txt < body.json")]
pub struct VerifyArgs {
    #[command(flatten)]
    how: How,
    /// The header webhook-id (standard only)
    #[arg(long, value_name = "ID", conflicts_with = "headers")]
    id: Option<String>,
    /// The header webhook-timestamp (standard only)
    #[arg(long, value_name = "SECONDS", conflicts_with = "headers")]
    timestamp: Option<String>,
    /// The header with the signature
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "headers",
        conflicts_with = "headers"
    )]
    signature: Option<String>,
    /// File with the received headers, one `name: value` per line
    #[arg(long, value_name = "FILE")]
    headers: Option<std::path::PathBuf>,
    /// The time to verify at, as Unix seconds (default: now)
    #[arg(long, value_name = "SECONDS")]
    at: Option<i64>,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Signing secret; may be repeated
    #[arg(
        long,
        value_name = "SECRET",
        required = true,
        env = "TIDEGATE_SIGNING_SECRET",
        hide_env_values = true
    )]
    secret: Vec<String>,
    /// Signature scheme
    #[arg(long, value_enum, default_value_t)]
    scheme: SignScheme,
    /// Name of the signature header, where it differs
    #[arg(long, value_name = "NAME")]
    header: Option<String>,
    /// Sign only the first element of a batch, as Segment and Customer.io do
    #[arg(long)]
    first_element: bool,
}

impl How {
    /// What is signed of the body.
    fn signed<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        let first = if self.first_element { webhook::first_element(body) } else { None };
        first.unwrap_or(body)
    }

    fn secrets(&self) -> Vec<Secret> {
        self.secret.iter().map(Secret::new).collect()
    }

    fn header(&self) -> String {
        self.header.clone().unwrap_or_else(|| self.scheme.header().to_owned()).to_ascii_lowercase()
    }
}

pub fn sign(args: SignArgs) -> Result<()> {
    let signer = Signer::new(args.how.scheme, &args.how.secrets(), Some(&args.how.header()))?;
    let seconds = args.timestamp.unwrap_or_else(|| SystemClock.now().as_second());
    let body = body()?;
    let out = Output::standard();
    for (name, value) in signer.headers(&args.id, seconds, args.how.signed(&body)) {
        out.line(format_args!("{name}: {value}"))?;
    }
    Ok(())
}

pub fn verify(args: VerifyArgs) -> Result<()> {
    let verifier = Verifier::new(args.how.scheme, &args.how.secrets(), Some(&args.how.header()))?;
    let headers = args.headers()?;
    let now = match args.at {
        Some(at) => Timestamp::from_second(at).map_err(|_| CliError::usage("--at is no time"))?,
        None => SystemClock.now(),
    };
    let body = body()?;
    let out = Output::standard();
    match verifier.verify(&headers, args.how.signed(&body), now) {
        Ok(()) => out.line(format_args!("{} the signature holds", out.paint.green("✔"))),
        Err(error) => Err(CliError::failed(format!("✘ {error}")).then(advice(error))),
    }
}

/// Standard input, byte by byte.
fn body() -> Result<Vec<u8>> {
    if std::io::stdin().is_terminal() {
        output::note("type the body, then Ctrl-D");
    }
    read_bounded(std::io::stdin().lock(), "standard input")
}

/// What is usually wrong.
fn advice(error: VerifyError) -> &'static str {
    match error {
        VerifyError::MissingHeader(_) => {
            "pass it on as it came: proxies and frameworks drop or rename headers"
        }
        VerifyError::Malformed(_) => "copy the header's value as it came, and check --scheme",
        VerifyError::TooOld | VerifyError::TooNew => {
            "check the clocks of both machines; for an old message, give --at the time at which it came"
        }
        VerifyError::Mismatch => {
            "check the secret, and that the body is the very bytes that came: parsing it and writing it again changes them"
        }
    }
}

impl VerifyArgs {
    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(path) = &self.headers {
            let name = path.display();
            let text = std::fs::read_to_string(path).map_err(|source| CliError::File {
                what: format!("`{name}` cannot be read"),
                source,
            })?;
            for line in text.lines() {
                // The request line and empty lines have no header.
                if let Some((name, value)) = line.split_once(':') {
                    insert(&mut headers, name.trim(), value.trim());
                }
            }
            return Ok(headers);
        }
        insert(&mut headers, standard::ID, self.id.as_deref().unwrap_or_default());
        insert(&mut headers, standard::TIMESTAMP, self.timestamp.as_deref().unwrap_or_default());
        insert(&mut headers, &self.how.header(), self.signature.as_deref().unwrap_or_default());
        Ok(headers)
    }
}

/// What is no header is left out, and then missed by name.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}
