//! `transform.js`: a function of the user's makes other events of an event.

use std::time::Duration;

use serde_json::Value;

use super::{
    invalid::{Invalid, kind_of},
    step::{Next, OnError, Step, StepLog},
};
use crate::{
    expr::{EvalError, Facts, Names},
    model::{ProjectId, RawJson},
    pipeline::Tools,
    script::{Returned, Script, ScriptInput, ScriptLimits},
};

pub struct Transform {
    script: Script,
    on_error: OnError,
}

/// What becomes of an event with which a script failed stands under this name.
const RESULT: &str = "transform";

const NULL: &str = "the script returned null";

impl Transform {
    pub const KIND: &str = "transform.js";

    pub fn build(
        settings: &Value,
        names: &Names<'_>,
        project: ProjectId,
        tools: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let Settings { source, limits, on_error, path } = read(settings)?;
        // A later script may say the same about itself.
        if matches!(on_error, OnError::Continue(_))
            && !names.is_free(RESULT)
            && !names.results.iter().any(|it| it == RESULT)
        {
            let rule = "must have no name `transform` before it";
            return Err(Invalid::new(Self::KIND, rule, "one"));
        }
        let scripts = tools.scripts.clone();
        let script = Script::compile(source, limits, scripts, project.bits()).map_err(|error| {
            let place = error.place.map_or_else(String::new, |(line, column)| {
                format!(" at line {line}, column {column}")
            });
            Invalid::new(&path, format!("must be a script that compiles{place}"), error.message)
        })?;
        Ok(Box::new(Self { script, on_error }))
    }
}

struct Settings<'a> {
    source: &'a str,
    limits: ScriptLimits,
    on_error: OnError,
    /// Where the source stands.
    path: String,
}

/// The source alone, or `{ source, timeout, on_error }`.
fn read(settings: &Value) -> Result<Settings<'_>, Invalid> {
    const KIND: &str = Transform::KIND;
    let mut on_error = OnError::Drop;
    let fields = match settings {
        Value::String(source) => {
            return Ok(Settings {
                source,
                limits: ScriptLimits::default(),
                on_error,
                path: KIND.to_owned(),
            });
        }
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            let rule = "must be a script, or an object with `source`, `timeout` and `on_error`";
            return Err(Invalid::new(KIND, rule, kind_of(settings)));
        }
    };
    let mut limits = ScriptLimits::default();
    for (name, value) in fields {
        match name.as_str() {
            "source" => (),
            "timeout" => limits.time = timeout(value)?,
            "on_error" => on_error = read_on_error(value)?,
            _ => {
                let rule = "must have no fields but `source`, `timeout` and `on_error`";
                return Err(Invalid::new(KIND, rule, "another field"));
            }
        }
    }
    match fields.get("source") {
        Some(Value::String(source)) => {
            Ok(Settings { source, limits, on_error, path: format!("{KIND}.source") })
        }
        other => {
            let found = other.map_or("nothing", kind_of);
            Err(Invalid::new(&format!("{KIND}.source"), "must be a script", found))
        }
    }
}

fn read_on_error(value: &Value) -> Result<OnError, Invalid> {
    match value.as_str() {
        Some("drop") => Ok(OnError::Drop),
        Some("dead_letter") => Ok(OnError::DeadLetter),
        Some("continue") => Ok(OnError::Continue(RESULT)),
        Some(_) | None => {
            let path = format!("{}.on_error", Transform::KIND);
            let rule = "must be `drop`, `dead_letter` or `continue`";
            Err(Invalid::new(&path, rule, kind_of(value)))
        }
    }
}

fn timeout(value: &Value) -> Result<Duration, Invalid> {
    const LONGEST: Duration = Duration::from_secs(1);
    let text =
        value.as_str().and_then(|it| it.parse::<humantime_serde::re::humantime::Duration>().ok());
    text.map(Duration::from)
        .filter(|it| (Duration::from_millis(1)..=LONGEST).contains(it))
        .ok_or_else(|| {
            let path = format!("{}.timeout", Transform::KIND);
            Invalid::new(&path, "must be a time from `1ms` to `1s`", kind_of(value))
        })
}

impl Step for Transform {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn script(&self) -> Option<&Script> {
        Some(&self.script)
    }

    fn adds(&self) -> Vec<&str> {
        match self.on_error {
            OnError::Drop | OnError::DeadLetter => Vec::new(),
            OnError::Continue(name) => vec![name],
        }
    }

    fn on_error(&self) -> OnError {
        self.on_error
    }

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError> {
        self.next(facts, None)
    }

    fn apply_heard(&self, facts: &Facts, heard: &mut StepLog) -> Result<Next, EvalError> {
        self.next(facts, Some(heard))
    }
}

impl Transform {
    fn next(&self, facts: &Facts, heard: Option<&mut StepLog>) -> Result<Next, EvalError> {
        let listens = heard.is_some();
        let outcome = self.script.run(ScriptInput { listens, ..script_input(facts) });
        if let Some(heard) = heard {
            heard.log = outcome.logs;
            heard.place = outcome.returned.as_ref().err().and_then(|it| it.place);
        }
        let failed = |text: String| EvalError::Failed(text);
        let returned = outcome.returned.map_err(|error| match error.is_unavailable() {
            true => EvalError::Unavailable(error.to_string()),
            false => failed(error.to_string()),
        })?;
        let mut parts = Vec::new();
        for it in returned.unwrap_or_default() {
            parts.push(changed(facts, it).map_err(failed)?);
        }
        Ok(match parts.len() {
            0 => Next::Stop(NULL.to_owned()),
            1 => parts.pop().map_or(Next::Same, Next::Changed),
            _ => Next::Several(parts),
        })
    }
}

/// The event as the script sees it, and what it may know besides.
pub fn script_input(facts: &Facts) -> ScriptInput {
    let event = facts.event();
    let (payload, metadata) = (facts.payload().as_str(), facts.metadata().as_str());
    // Ids, types, names and times hold nothing that JSON escapes.
    let json = format!(
        r#"{{"id":"{}","type":"{}","timestamp":"{}","payload":{payload},"metadata":{metadata}}}"#,
        event.id,
        facts.event_type(),
        event.timestamp,
    );
    let source = facts.source().map_or("", |it| it.as_str());
    let key = event.key.as_ref().map(|it| it.as_str());
    let context = format!(
        r#"{{"source":"{source}","received_at":"{}","idempotency_key":{},"part":{}}}"#,
        event.received_at,
        RawJson::of(&key).as_str(),
        facts.part().map_or_else(|| "null".to_owned(), |it| it.to_string()),
    );
    let bits = event.id.bits();
    ScriptInput {
        event: json,
        context,
        payload: payload.to_owned(),
        metadata: metadata.to_owned(),
        now_millis: event.received_at.as_millisecond(),
        seed: (bits ^ bits >> 64) as u64 ^ u64::from(facts.part().unwrap_or(0)),
        listens: false,
    }
}

/// What the script made of the event.
fn changed(facts: &Facts, returned: Returned) -> Result<Facts, String> {
    let Returned { event_type, payload, metadata } = returned;
    let mut after = facts.clone();
    if let Some(event_type) = event_type
        && event_type != facts.event_type().as_str()
    {
        let rule = |error: crate::model::TextError| format!("it returned a wrong type: {error}");
        after = after.with_type(event_type.parse().map_err(rule)?);
    }
    if let Some(payload) = payload {
        after = after.with_payload(RawJson::trusted(payload));
    }
    if let Some(metadata) = metadata {
        if !metadata.starts_with('{') {
            return Err("it returned metadata that is no object".to_owned());
        }
        after = after.with_metadata(RawJson::trusted(metadata));
    }
    Ok(after)
}
