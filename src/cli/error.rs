//! Why a command ended badly, in words that say what to do next.

use std::{fmt, io, process::ExitCode};

use serde_json::{Map, Value};

use super::{
    cases::{self, Case},
    paint::Paint,
};

pub type Result<T, E = CliError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line, or a file that it names, is wrong.
    #[error("{message}")]
    Usage { message: String, next: Option<String> },
    /// The gateway heard the request and said no.
    #[error("{0}")]
    Refused(ProblemBody),
    #[error("no answer from {url}")]
    Unreachable { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// What answers is no gateway, or one of another version.
    #[error("{what}")]
    Answer { what: String },
    #[error("{what}")]
    File { what: String, source: io::Error },
    /// The command ran, and what it found is bad.
    #[error("{message}")]
    Failed { message: String, next: Option<String> },
    /// An event was not kept, since its key means another event, which has this id.
    #[error("{message}")]
    KeyTaken { message: &'static str, id: String },
    /// Whoever reads our output went away, as `head` does. This is no failure.
    #[error("nobody reads the output")]
    OutputClosed,
}

impl CliError {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), next: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), next: None }
    }

    /// Adds what to do about it, where the variant has room for it.
    pub fn then(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Usage { message, .. } => Self::Usage { message, next: Some(advice.into()) },
            Self::Failed { message, .. } => Self::Failed { message, next: Some(advice.into()) },
            other @ (Self::Refused(_)
            | Self::KeyTaken { .. }
            | Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::OutputClosed) => other,
        }
    }

    /// 0 when nothing is wrong, 1 when the command failed, 2 when it was asked wrongly, 3 when an event was not
    /// kept because its key means another one.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage { .. } => 2,
            Self::KeyTaken { .. } => 3,
            Self::Refused(_)
            | Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::Failed { .. } => 1,
        }
    }

    /// The error with its cause and, on lines of their own, its fields and the next step.
    pub fn render(&self, paint: Paint) -> String {
        let mut text = format!("{} {self}", paint.red("error:"));
        // The layers of an HTTP client say little; what happened is said by the deepest one.
        if let Some(cause) = std::error::Error::source(self) {
            text.push_str(&format!(": {}", innermost(cause)));
        }
        if let Self::Refused(problem) = self {
            for line in problem.details() {
                text.push_str(&format!("\n  {line}"));
            }
        }
        if let Some(next) = self.next() {
            text.push_str(&format!("\n{} {next}", paint.dim("next:")));
        }
        text
    }

    fn next(&self) -> Option<String> {
        match self {
            Self::Usage { next, .. } | Self::Failed { next, .. } => next.clone(),
            Self::Refused(problem) => problem.next(),
            Self::Unreachable { source, .. } if is_no_tls(source.as_ref()) => {
                Some("the port answers without TLS: say http:// instead of https://".to_owned())
            }
            Self::Unreachable { .. } => Some(
                "start the gateway with `tidegate serve`, or say where it is with --url or TIDEGATE_URL".to_owned(),
            ),
            Self::Answer { .. } => Some("check that --url names a Tidegate of this version".to_owned()),
            Self::KeyTaken { id, .. } => Some(format!(
                "give each event a key of its own, such as signup:42; the first is shown by tidegate events show {id}"
            )),
            Self::File { .. } | Self::OutputClosed => None,
        }
    }
}

/// A refusal, as RFC 9457 writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProblemBody {
    pub status: u16,
    members: Map<String, Value>,
}

impl ProblemBody {
    /// Reads the body of an answer that is no success; what is no problem+json is shown as it came.
    pub fn read(status: u16, body: &[u8]) -> Self {
        /// Enough of a proxy's error page to see whose it is.
        const SHOWN: usize = 200;
        let members = match serde_json::from_slice::<Map<String, Value>>(body) {
            Ok(members) => members,
            Err(_) => {
                let text: String = String::from_utf8_lossy(body).chars().take(SHOWN).collect();
                let mut members = Map::new();
                if !text.trim().is_empty() {
                    members.insert("detail".to_owned(), Value::String(text.trim().to_owned()));
                }
                members
            }
        };
        Self { status, members }
    }

    /// The last part of its `type`: a word that programs may rely on.
    pub fn kind(&self) -> &str {
        self.text("type").and_then(|it| it.rsplit(['/', ':', '#']).next()).unwrap_or_default()
    }

    /// `(field, message)` for each thing that is wrong, as far as the gateway names them.
    pub fn fields(&self) -> Vec<(String, String)> {
        let Some(Value::Array(errors)) = self.members.get("errors") else { return Vec::new() };
        errors
            .iter()
            .map(|error| {
                let member = |names: &[&str]| {
                    names
                        .iter()
                        .find_map(|name| error.get(name)?.as_str())
                        .unwrap_or_default()
                        .to_owned()
                };
                let found = member(&["found"]);
                let rule = member(&["rule", "message", "detail"]);
                (
                    member(&["field"]),
                    if found.is_empty() { rule } else { format!("{rule}; found {found}") },
                )
            })
            .collect()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Value::as_str).filter(|it| !it.is_empty())
    }

    /// Everything that the headline does not say.
    fn details(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .fields()
            .into_iter()
            .map(
                |(field, message)| {
                    if field.is_empty() { message } else { format!("{field}: {message}") }
                },
            )
            .collect();
        let cases: Vec<Case> = (self.members.get("tests"))
            .and_then(|it| serde_json::from_value(it.clone()).ok())
            .unwrap_or_default();
        let cases = cases::cases(&cases, Paint::PLAIN);
        lines.extend(cases.lines().map(str::to_owned));
        for (name, value) in &self.members {
            if matches!(
                name.as_str(),
                "type" | "title" | "status" | "detail" | "errors" | "instance" | "tests"
            ) {
                continue;
            }
            match value {
                Value::String(text) => lines.push(format!("{name}: {text}")),
                Value::Null => (),
                other => lines.push(format!("{name}: {other}")),
            }
        }
        lines
    }

    fn next(&self) -> Option<String> {
        let advice = match self.status {
            401 => {
                "set TIDEGATE_API_KEY to a key of this gateway. Whoever runs it has TIDEGATE_ADMIN_KEY, and makes one with `tidegate keys create NAME`"
            }
            409 if self.kind() == "failing-tests" => {
                "correct the pipeline or its test cases; --confirm-failing-tests changes it all the same"
            }
            403 => {
                "use a key of this project that has the scope, from `tidegate keys create NAME --scopes …`"
            }
            429 | 503 => "wait a little and repeat the command: nothing was kept",
            _ => return None,
        };
        Some(advice.to_owned())
    }
}

impl fmt::Display for ProblemBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = http::StatusCode::from_u16(self.status).ok();
        let reason = status.and_then(|it| it.canonical_reason()).unwrap_or_default();
        match (self.text("title"), self.text("detail")) {
            (Some(title), Some(detail)) if title != detail => write!(f, "{title}: {detail}")?,
            (Some(text), _) | (None, Some(text)) => f.write_str(text)?,
            (None, None) => write!(f, "the gateway refused")?,
        }
        write!(f, " ({} {reason})", self.status)
    }
}

/// What the deepest layer says: `Connection refused` rather than `client error (Connect)`.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Whether TLS was spoken to a port that does not.
fn is_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
            inner.downcast_ref::<rustls::Error>()
        });
        if let Some(rustls::Error::InvalidMessage(_)) = tls {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Ends the program: the error goes to standard error, its kind into the exit code.
pub fn conclude(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if !matches!(error, CliError::OutputClosed) {
        eprintln!("{}", error.render(Paint::for_stderr()));
    }
    ExitCode::from(error.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_fields_and_what_to_do() {
        let body = br#"{"type":"https://tidegate.dev/problems/invalid","title":"The resources are not valid","status":422,
            "detail":"nothing was changed","errors":[{"field":"destinations[0].url","rule":"an endpoint is an absolute URL","found":"a number"}],"line":3}"#;
        let problem = ProblemBody::read(422, body);
        assert_eq!(problem.kind(), "invalid");
        let error = CliError::Refused(problem);
        let expected = "error: The resources are not valid: nothing was changed (422 Unprocessable Entity)\n  \
             destinations[0].url: an endpoint is an absolute URL; found a number\n  line: 3";
        assert_eq!(error.render(Paint::PLAIN), expected);
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn an_answer_that_is_no_problem_is_shown_as_it_came() {
        let error = CliError::Refused(ProblemBody::read(401, b"go away"));
        let text = error.render(Paint::PLAIN);
        assert!(
            text.starts_with("error: go away (401 Unauthorized)\nnext: set TIDEGATE_API_KEY"),
            "{text}"
        );
    }

    #[test]
    fn the_deepest_cause_is_named() {
        #[derive(Debug, thiserror::Error)]
        #[error("client error")]
        struct Layer(#[source] io::Error);

        let source = io::Error::other(Layer(io::Error::other("connection refused")));
        let error = CliError::File { what: "`a.yaml` cannot be read".to_owned(), source };
        assert_eq!(
            error.render(Paint::PLAIN),
            "error: `a.yaml` cannot be read: connection refused"
        );
    }

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        for (error, code) in [
            (CliError::usage("x"), 2),
            (CliError::failed("x").then("y"), 1),
            (CliError::KeyTaken { message: "x", id: String::new() }, 3),
            (CliError::OutputClosed, 0),
            (CliError::Refused(ProblemBody::read(500, b"")), 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }
}
