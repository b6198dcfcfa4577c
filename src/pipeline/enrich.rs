//! `enrich.person` and `enrich.entity`: what is known about whom or what an event is about.
//!
//! Both make a question of the event, and add its answer to what the steps behind them and the
//! receiver see. docs/enrichment.md says what is promised.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Invalid, Tools,
    ask::{Answer, Entity, Person, Question, Status},
    steps::{Next, Step, kind_of},
};
use crate::{
    expr::{EvalError, Expression, Facts, Names},
    model::{Name, ProjectId, RawJson},
};

pub struct Enrich {
    kind: &'static str,
    asks: Asks,
    /// Under which name the answer is added.
    pub(super) into: String,
    /// Whether the receiver gets it, too.
    in_payload: bool,
    pub(super) timeout: Duration,
    pub(super) on_error: OnError,
}

enum Asks {
    Person { email: Expression, ip: Expression, from: Option<Vec<Name>> },
    Entity { table: Name, key: Expression, follow: Vec<Vec<String>> },
}

/// What becomes of an event whose answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnError {
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
        let fields = Fields::of(Self::PERSON, settings, &["email", "ip", "from"])?;
        let asks = Asks::Person {
            email: fields.expression("email", None, names)?,
            ip: fields.expression("ip", Some("metadata.ip"), names)?,
            from: fields.names("from")?,
        };
        Self::build(Self::PERSON, &fields, asks, "person", names)
    }

    pub fn entity(
        settings: &Value,
        names: &Names<'_>,
        _: ProjectId,
        _: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let fields = Fields::of(Self::ENTITY, settings, &["table", "key", "follow"])?;
        let table = fields.text("table")?.ok_or_else(|| fields.missing("table"))?;
        let rule = "must be the name of a table";
        let table: Name = table.parse().map_err(|_| fields.wrong("table", rule))?;
        let key = fields.expression("key", None, names)?;
        let asks = Asks::Entity { table, key, follow: fields.follow()? };
        Self::build(Self::ENTITY, &fields, asks, "entity", names)
    }

    fn build(
        kind: &'static str,
        fields: &Fields<'_>,
        asks: Asks,
        into: &str,
        names: &Names<'_>,
    ) -> Result<Box<dyn Step>, Invalid> {
        let into = fields.text("into")?.unwrap_or(into).to_owned();
        if into == MARKS || !names.is_free(&into) {
            return Err(fields.wrong("into", "must be a name that means nothing else here"));
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
        if fields.0.1.contains_key("retry_for") && !matches!(on_error, OnError::Retry(_)) {
            return Err(fields.wrong("retry_for", "goes with `on_error: retry` only"));
        }
        let in_payload = fields.flag("payload", true)?;
        Ok(Box::new(Self { kind, asks, into, in_payload, timeout, on_error }))
    }

    /// What it wants to know; `None` where the event does not say about whom or what.
    pub(super) fn question(&self, facts: &Facts) -> Result<Option<Question>, EvalError> {
        /// Neither an address nor a sensible key is longer.
        const LONGEST: usize = 512;
        Ok(match &self.asks {
            Asks::Person { email, ip, from } => {
                let address = email.text(facts)?.map(|it| it.to_lowercase());
                let is_address = |it: &String| it.len() <= LONGEST && is_email(it);
                let Some(email) = address.filter(is_address) else { return Ok(None) };
                let ip = ip.text(facts)?.filter(|it| it.len() <= LONGEST);
                Some(Question::Person(Person { email, ip, from: from.clone() }))
            }
            Asks::Entity { table, key, follow } => {
                let key = key.text(facts)?.filter(|it| it.len() <= LONGEST);
                let ask = |key| Entity { table: table.clone(), key, follow: follow.clone() };
                key.map(|it| Question::Entity(ask(it)))
            }
        })
    }

    /// How the event goes on with the answer.
    pub(super) fn answered(&self, facts: &Facts, answer: &Answer) -> Next {
        let failure = answer.status.is_failure().then(|| self.failure(answer));
        if let (OnError::Drop, Some(failure)) = (self.on_error, &failure) {
            return Next::Stop(failure.clone());
        }
        let status = RawJson::of(answer.status.as_str());
        let result = with_field(answer.fields.as_ref(), "status", &status);
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

    /// What people read.
    fn failure(&self, answer: &Answer) -> String {
        let what = match answer.status {
            Status::Timeout => "had no answer in time",
            Status::Overloaded => "was not asked: too much is being asked already",
            Status::Failed | Status::Found | Status::NotFound | Status::NoKey => "failed",
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

    fn enrich(&self) -> Option<&Enrich> {
        Some(self)
    }
}

fn is_email(text: &str) -> bool {
    let Some((user, domain)) = text.rsplit_once('@') else { return false };
    let is_plain = |it: char| !it.is_whitespace() && !it.is_control();
    !user.is_empty() && domain.len() >= 3 && domain.contains('.') && text.chars().all(is_plain)
}

/// An object with one more field, or with that field replaced. The rest stays byte for byte, unless
/// the field was there.
fn with_field(object: Option<&RawJson>, name: &str, value: &RawJson) -> RawJson {
    let bytes = object.map_or(&b"{}"[..], |it| it.bytes().trim_ascii());
    let Some(inside) = bytes.strip_prefix(b"{").and_then(|it| it.strip_suffix(b"}")) else {
        return with_field(None, name, value);
    };
    let quoted = RawJson::of(name);
    let may_be_there = {
        let name = quoted.bytes();
        inside.windows(name.len()).any(|it| it == name) || inside.contains(&b'\\')
    };
    if may_be_there
        && let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(bytes)
        && fields.contains_key(name)
    {
        fields.insert(name.to_owned(), value.to_value());
        return RawJson::of(&fields);
    }
    let mut out = Vec::with_capacity(bytes.len() + name.len() + value.bytes().len() + 8);
    out.push(b'{');
    out.extend_from_slice(inside);
    if !inside.trim_ascii().is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(quoted.bytes());
    out.push(b':');
    out.extend_from_slice(value.bytes());
    out.push(b'}');
    RawJson::trusted(out)
}

/// The settings of a step, by name.
struct Fields<'a>((&'static str, &'a Map<String, Value>));

/// What both steps take.
const SHARED: [&str; 5] = ["into", "payload", "timeout", "on_error", "retry_for"];

impl<'a> Fields<'a> {
    fn of(kind: &'static str, settings: &'a Value, own: &[&str]) -> Result<Self, Invalid> {
        let Value::Object(fields) = settings else {
            return Err(Invalid::new(kind, "must be a map", kind_of(settings)));
        };
        let known = || own.iter().chain(&SHARED);
        if let Some(name) = fields.keys().find(|it| !known().any(|own| own == it)) {
            let names: Vec<String> = known().map(|it| format!("`{it}`")).collect();
            let rule = format!("is not a field here: there are {}", names.join(", "));
            let name: String = name.chars().filter(|it| !it.is_control()).take(64).collect();
            return Err(Invalid::new(&format!("{kind}.{name}"), rule, "an unknown field"));
        }
        Ok(Self((kind, fields)))
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.0.0)
    }

    fn wrong(&self, name: &str, rule: &str) -> Invalid {
        let found = self.0.1.get(name).map_or("nothing", kind_of);
        Invalid::new(&self.path(name), rule, found)
    }

    fn missing(&self, name: &str) -> Invalid {
        self.wrong(name, "is required")
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Invalid> {
        match self.0.1.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Invalid> {
        match self.0.1.get(name) {
            None => Ok(default),
            Some(Value::Bool(it)) => Ok(*it),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    fn duration(
        &self,
        name: &str,
        default: Duration,
        longest: Duration,
    ) -> Result<Duration, Invalid> {
        let rule = format!("must be a duration such as `5s`, above zero and at most {longest:?}");
        let Some(text) = self.text(name)? else { return Ok(default) };
        let parsed: Result<humantime_serde::Serde<Duration>, _> =
            serde_json::from_value(Value::String(text.to_owned()));
        let parsed = parsed.map(humantime_serde::Serde::into_inner);
        parsed
            .ok()
            .filter(|it| !it.is_zero() && *it <= longest)
            .ok_or_else(|| self.wrong(name, &rule))
    }

    fn expression(
        &self,
        name: &str,
        default: Option<&str>,
        names: &Names<'_>,
    ) -> Result<Expression, Invalid> {
        let source = self.text(name)?.or(default).ok_or_else(|| self.missing(name))?;
        Expression::compile_with(source, names)
            .map_err(|error| Invalid::expression(&self.path(name), &error))
    }

    fn list(&self, name: &str, rule: &str) -> Result<Option<Vec<&'a str>>, Invalid> {
        let Some(value) = self.0.1.get(name) else { return Ok(None) };
        let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.wrong(name, rule))
    }

    fn names(&self, name: &str) -> Result<Option<Vec<Name>>, Invalid> {
        const MOST: usize = 8;
        let rule = "must be a list of at most 8 names of look-ups";
        let Some(names) = self.list(name, rule)? else { return Ok(None) };
        let parsed: Result<Vec<Name>, _> = names.iter().map(|it| it.parse()).collect();
        match parsed {
            Ok(names) if names.len() <= MOST => Ok(Some(names)),
            Ok(_) | Err(_) => Err(self.wrong(name, rule)),
        }
    }

    /// The paths to follow, each behind its own beginning.
    fn follow(&self) -> Result<Vec<Vec<String>>, Invalid> {
        let rule =
            "must be a list of at most 16 paths of up to four fields, such as `account.plan`";
        let paths = self.list("follow", rule)?.unwrap_or_default();
        let mut parsed: Vec<Vec<String>> =
            paths.iter().map(|it| it.split('.').map(str::to_owned).collect()).collect();
        let is_right =
            |path: &Vec<String>| path.len() <= DEEPEST && path.iter().all(|it| !it.is_empty());
        if parsed.len() > MOST_FOLLOWED || !parsed.iter().all(is_right) {
            return Err(self.wrong("follow", rule));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_added_to_an_object_which_else_stays_as_it_is() {
        for (object, expected) in [
            ("{}", r#"{"person":1}"#),
            (r#"{ "a": 1.50 }"#, r#"{ "a": 1.50 ,"person":1}"#),
            (r#"{"person":{"a":2},"b":1}"#, r#"{"person":1,"b":1}"#),
            (r#"{"p\u0065rson":2}"#, r#"{"person":1}"#),
            (r#"{"a":"person"}"#, r#"{"a":"person","person":1}"#),
            (r#"{"a":{"person":2}}"#, r#"{"a":{"person":2},"person":1}"#),
            ("[]", r#"{"person":1}"#),
        ] {
            let object = RawJson::trusted(object);
            let found = with_field(Some(&object), "person", &RawJson::of(&1));
            assert_eq!(found.as_str(), expected);
        }
    }

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
