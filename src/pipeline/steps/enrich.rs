//! `enrich.person` and `enrich.entity`: what is known about whom or what an event is about.
//!
//! Both make a question of the event, and add its answer to what the steps behind them and the
//! receiver see. docs/enrichment.md says what is promised.

use std::time::Duration;

use serde_json::Value;

use super::{
    field::with_field,
    invalid::Invalid,
    settings::StepSettings,
    step::{Asks, Next, Step},
};
use crate::{
    expr::{EvalError, Expression, Facts, Names},
    model::{Name, ProjectId, RawJson},
    pipeline::{
        Tools,
        ask::{Entity, LookupAnswer, LookupStatus, Person, Question},
    },
};

pub struct Enrich {
    kind: &'static str,
    about: About,
    /// Under which name the answer is added.
    into: String,
    /// Whether the receiver gets it, too.
    in_payload: bool,
    /// Whether the answer has the keys of the directory's rows.
    with_key: bool,
    timeout: Duration,
    on_error: OnError,
}

enum About {
    Person { email: Expression, ip: Expression, from: Option<Vec<Name>> },
    Entity { table: Name, key: Expression, follow: Vec<Vec<String>> },
}

/// What becomes of an event whose answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnError {
    Continue,
    /// Asks again for so long after the event was received; then it goes on.
    Retry(Duration),
    Drop,
    DeadLetter,
}

/// The name of what the steps say about their answers.
const MARKS: &str = "enrichment";
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_FOLLOWED: usize = 16;
const DEEPEST: usize = 4;

impl Enrich {
    pub const PERSON: &str = "enrich.person";
    pub const ENTITY: &str = "enrich.entity";

    pub fn person(
        settings: &Value,
        names: &Names<'_>,
        _: ProjectId,
        _: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let fields =
            StepSettings::of(Self::PERSON, settings, &[&["email", "ip", "from"], &SHARED])?;
        let about = About::Person {
            email: fields.expression("email", None, names)?,
            ip: fields.expression("ip", Some("metadata.ip"), names)?,
            from: names_of(&fields, "from")?,
        };
        Self::build(Self::PERSON, &fields, about, "person", names)
    }

    pub fn entity(
        settings: &Value,
        names: &Names<'_>,
        _: ProjectId,
        _: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let fields =
            StepSettings::of(Self::ENTITY, settings, &[&["table", "key", "follow"], &SHARED])?;
        let table = fields.text("table")?.ok_or_else(|| fields.missing("table"))?;
        let rule = "must be the name of a table";
        let table: Name = table.parse().map_err(|_| fields.wrong("table", rule))?;
        let key = fields.expression("key", None, names)?;
        let about = About::Entity { table, key, follow: follow_of(&fields)? };
        Self::build(Self::ENTITY, &fields, about, "entity", names)
    }

    fn build(
        kind: &'static str,
        fields: &StepSettings<'_>,
        about: About,
        into: &str,
        names: &Names<'_>,
    ) -> Result<Box<dyn Step>, Invalid> {
        let into = fields.text("into")?.unwrap_or(into).to_owned();
        if into == MARKS || !names.is_free(&into) {
            return Err(fields.wrong("into", "must be a name that this pipeline does not use yet"));
        }
        let timeout = fields.duration("timeout", Duration::from_secs(5), LONGEST_TIMEOUT)?;
        let retry_for = fields.duration("retry_for", Duration::from_secs(600), LONGEST_RETRY)?;
        let on_error = match fields.text("on_error")?.unwrap_or("continue") {
            "continue" => OnError::Continue,
            "retry" => OnError::Retry(retry_for),
            "drop" => OnError::Drop,
            "dead_letter" => OnError::DeadLetter,
            _ => {
                let rule = "must be `continue`, `retry`, `drop` or `dead_letter`";
                return Err(fields.wrong("on_error", rule));
            }
        };
        if fields.has("retry_for") && !matches!(on_error, OnError::Retry(_)) {
            return Err(fields.wrong("retry_for", "goes with `on_error: retry` only"));
        }
        let in_payload = fields.flag("payload", true)?;
        let with_key = fields.flag("with_key", false)?;
        Ok(Box::new(Self { kind, about, into, in_payload, with_key, timeout, on_error }))
    }

    /// What people read.
    fn failure(&self, answer: &LookupAnswer) -> String {
        let what = match answer.status {
            LookupStatus::Timeout => "had no answer in time",
            LookupStatus::Overloaded => "was not asked: too much is being asked already",
            LookupStatus::Failed
            | LookupStatus::Found
            | LookupStatus::NotFound
            | LookupStatus::NoKey => "failed",
        };
        let from = answer.from.as_ref().map_or(String::new(), |it| format!(" from `{it}`"));
        let reason = answer.reason.as_ref().map_or(String::new(), |it| format!(": {it}"));
        format!("{} {what}{from}{reason}", self.kind)
    }
}

impl Step for Enrich {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn apply(&self, _: &Facts) -> Result<Next, EvalError> {
        Ok(Next::Same)
    }

    fn adds(&self) -> Vec<&str> {
        vec![&self.into, MARKS]
    }

    fn asks(&self) -> Option<&dyn Asks> {
        Some(self)
    }
}

impl Asks for Enrich {
    fn question(&self, facts: &Facts) -> Result<Option<Question>, EvalError> {
        /// Neither an address nor a sensible key is longer.
        const LONGEST: usize = 512;
        Ok(match &self.about {
            About::Person { email, ip, from } => {
                let address = email.text(facts)?.map(|it| it.to_lowercase());
                let is_address = |it: &String| it.len() <= LONGEST && is_email(it);
                let Some(email) = address.filter(is_address) else { return Ok(None) };
                let ip = ip.text(facts)?.filter(|it| it.len() <= LONGEST);
                let (from, with_key) = (from.clone(), self.with_key);
                Some(Question::Person(Person { email, ip, from, with_key }))
            }
            About::Entity { table, key, follow } => {
                let key = key.text(facts)?.filter(|it| it.len() <= LONGEST);
                let (table, follow, with_key) = (table.clone(), follow.clone(), self.with_key);
                let ask = |key| Entity { table, key, follow, with_key };
                key.map(|it| Question::Entity(ask(it)))
            }
        })
    }

    fn answered(&self, facts: &Facts, answer: &LookupAnswer) -> Next {
        let failure = answer.status.is_failure().then(|| self.failure(answer));
        if let (OnError::Drop, Some(failure)) = (self.on_error, &failure) {
            return Next::Stop(failure.clone());
        }
        let status = RawJson::of(answer.status.as_str());
        // What a step before took out of the event does not come back with the answer.
        let fields = answer.fields.as_ref().map(|it| facts.masked(it));
        let result = with_field(fields.as_ref(), "status", &status);
        let mut mark = with_field(None, "status", &status);
        for (name, text) in [("from", &answer.from), ("reason", &answer.reason)] {
            if let Some(text) = text {
                mark = with_field(Some(&mark), name, &RawJson::of(text));
            }
        }
        let marks = with_field(facts.result(MARKS).as_ref(), &self.into, &mark);
        let payload = (self.in_payload && facts.payload().bytes().first() == Some(&b'{'))
            .then(|| with_field(Some(facts.payload()), &self.into, &result));
        let mut next = facts.with_results([(&self.into, &result), (MARKS, &marks)], payload);
        if let (OnError::DeadLetter, Some(failure)) = (self.on_error, &failure) {
            next = next.doomed(failure);
        }
        Next::Changed(next)
    }

    fn into(&self) -> &str {
        &self.into
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn retry_for(&self) -> Option<Duration> {
        match self.on_error {
            OnError::Retry(so_long) => Some(so_long),
            OnError::Continue | OnError::Drop | OnError::DeadLetter => None,
        }
    }
}

fn is_email(text: &str) -> bool {
    let Some((user, domain)) = text.rsplit_once('@') else { return false };
    let is_plain = |it: char| !it.is_whitespace() && !it.is_control();
    !user.is_empty() && domain.len() >= 3 && domain.contains('.') && text.chars().all(is_plain)
}

/// What both steps take.
const SHARED: [&str; 6] = ["into", "payload", "with_key", "timeout", "on_error", "retry_for"];

fn names_of(fields: &StepSettings<'_>, name: &str) -> Result<Option<Vec<Name>>, Invalid> {
    const MOST: usize = 8;
    let rule = "must be a list of at most 8 names of look-ups";
    let Some(names) = fields.list(name, rule)? else { return Ok(None) };
    let parsed: Result<Vec<Name>, _> = names.iter().map(|it| it.parse()).collect();
    match parsed {
        Ok(names) if names.len() <= MOST => Ok(Some(names)),
        Ok(_) | Err(_) => Err(fields.wrong(name, rule)),
    }
}

/// The paths to follow, each behind its own beginning.
fn follow_of(fields: &StepSettings<'_>) -> Result<Vec<Vec<String>>, Invalid> {
    let rule = "must be a list of at most 16 paths of up to four fields, such as `account.plan`";
    let paths = fields.list("follow", rule)?.unwrap_or_default();
    let mut parsed: Vec<Vec<String>> =
        paths.iter().map(|it| it.split('.').map(str::to_owned).collect()).collect();
    let is_right =
        |path: &Vec<String>| path.len() <= DEEPEST && path.iter().all(|it| !it.is_empty());
    if parsed.len() > MOST_FOLLOWED || !parsed.iter().all(is_right) {
        return Err(fields.wrong("follow", rule));
    }
    // `account.plan` without `account` means both.
    for path in parsed.clone() {
        for length in 1..path.len() {
            parsed.push(path[..length].to_vec());
        }
    }
    parsed.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    parsed.dedup();
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_user_and_a_domain() {
        for (text, expected) in [
            ("a@b.co", true),
            ("a+b@x.acme.com", true),
            ("a@b", false),
            ("@b.co", false),
            ("a b@c.de", false),
            ("none", false),
        ] {
            assert_eq!(is_email(text), expected, "{text}");
        }
    }
}
