//! One message, on its way to be an event: checked, completed, and otherwise left as it came.

use std::net::IpAddr;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{answer::Fault, fields::Fields, times};
use crate::{
    crypto::Random,
    ingest::{metadata::Circumstances, traffic::Rejection},
    model::RawJson,
    problem::kind_of_json,
};

/// The calls of the Segment specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Identify,
    Track,
    Page,
    Screen,
    Group,
    Alias,
}

impl Call {
    const ALL: [Self; 6] =
        [Self::Identify, Self::Track, Self::Page, Self::Screen, Self::Group, Self::Alias];

    /// By its name, or by the first letter of it, which is how the browser's client writes it.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == text || it.name()[..1] == *text)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Track => "track",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }
}

/// What a request says about all of its messages.
pub struct Around<'a> {
    /// By the path; it counts where a message does not say itself.
    pub call: Option<Call>,
    pub received_at: Timestamp,
    pub circumstances: Circumstances,
    pub ip: IpAddr,
    /// For the ids of messages that have none.
    pub random: &'a dyn Random,
    /// A page in a browser sent it, so that the caller's address is the user's.
    pub is_browser: bool,
    pub sent_at: Option<&'a RawValue>,
    pub context: Option<&'a RawValue>,
    pub integrations: Option<&'a RawValue>,
}

impl Around<'_> {
    /// What is told of a message that was not taken.
    pub fn rejection(&self, fault: &Fault) -> Rejection {
        Rejection::new(self.received_at, fault.code, fault.message.to_string(), self.ip)
    }
}

/// A message that is complete.
#[derive(Debug)]
pub struct Message {
    pub call: Call,
    /// The client's, or a new one.
    pub id: String,
    /// Whether the client gave the id, so that it makes two messages one.
    pub is_known: bool,
    /// When it happened, corrected by how wrong the client's clock was.
    pub timestamp: Timestamp,
    /// Times that the client sent and that were not used.
    pub odd_times: OddTimes,
    pub payload: RawJson,
}

/// Times that are none, or that say too much about a clock, as the client wrote them.
#[derive(Debug, Default, PartialEq)]
pub struct OddTimes(String);

impl OddTimes {
    /// The time, if it is one that `fits`. Otherwise it is noted.
    fn read(
        &mut self,
        name: &str,
        value: &RawValue,
        fits: impl Fn(Timestamp) -> bool,
    ) -> Option<Timestamp> {
        /// Bytes of what was written; the payload has all of it.
        const LONGEST: usize = 128;
        let time = times::parse(value).filter(|it| fits(*it));
        // `null` says that there is none.
        if time.is_none() && value.get() != "null" {
            let comma = if self.0.is_empty() { "" } else { "," };
            let is_plain = |it: &&str| {
                it.len() <= LONGEST && serde_json::from_str::<serde_json::Value>(it).is_ok()
            };
            let text = Some(value.get()).filter(is_plain).unwrap_or(r#""…""#);
            self.0.push_str(&format!("{comma}\"{name}\":{text}"));
        }
        time
    }

    /// For the event's metadata: `,"odd_times":{…}`, or nothing.
    pub fn to_field(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!(",\"odd_times\":{{{}}}", self.0) }
    }
}

/// Bytes of a `messageId`. Segment documents 100; some clients have longer ones.
const LONGEST_ID: usize = 240;

/// Checks a message, and completes it.
pub fn parse(message: &RawValue, around: &Around<'_>) -> Result<Message, Fault> {
    let found = kind_of_json(message.get().as_bytes());
    if found != "an object" {
        return Err(Fault::new("invalid_message", format!("a message is an object, not {found}")));
    }
    Fields::check_shape(message)
        .map_err(|error| Fault::new("invalid_message", error.to_string()))?;
    let fields = Fields::of(message);
    let call = call(&fields, around)?;
    check(call, &fields)?;
    let sent_at = fields.get("sentAt").or(around.sent_at);
    let made = fields.get("originalTimestamp").or_else(|| fields.get("timestamp"));
    let mut odd_times = OddTimes::default();
    let made = made.and_then(|it| odd_times.read("timestamp", it, |_| true));
    let received_at = around.received_at;
    let sent = sent_at
        .and_then(|it| odd_times.read("sentAt", it, |it| times::tells_skew(it, received_at)));
    let timestamp = match made {
        Some(made) => times::corrected(made, sent, around.received_at),
        None => around.received_at,
    };
    let given = given_id(&fields)?;
    let is_known = given.is_some();
    let id = given.unwrap_or_else(|| {
        let mut bytes = [0; 16];
        around.random.fill(&mut bytes);
        format!("tidegate-{}", hex::encode(bytes))
    });
    let payload = complete(&Parts { fields: &fields, call, id: &id, sent_at, timestamp, around });
    Ok(Message { call, id, is_known, timestamp, odd_times, payload })
}

fn call(fields: &Fields<'_>, around: &Around<'_>) -> Result<Call, Fault> {
    let Some(named) = fields.get("type").filter(|it| it.get() != "null") else {
        return around
            .call
            .ok_or_else(|| Fault::new("no_type", "a message of a batch has a `type`"));
    };
    let named: Option<String> = serde_json::from_str(named.get()).ok();
    let call = named.and_then(|it| Call::named(&it.to_lowercase()));
    call.ok_or_else(|| {
        let rule = "`type` is identify, track, page, screen, group or alias";
        Fault::new("unknown_type", rule)
    })
}

/// What the specification asks of each call.
fn check(call: Call, fields: &Fields<'_>) -> Result<(), Fault> {
    let has = |name: &str| fields.get(name).is_some_and(|it| !matches!(it.get(), "null" | r#""""#));
    let need = |name: &'static str, code: &'static str| {
        let rule = format!("a message of type `{}` has `{name}`", call.name());
        if has(name) { Ok(()) } else { Err(Fault::new(code, rule)) }
    };
    if !has("userId") && !has("anonymousId") && call != Call::Alias {
        return Err(Fault::new("no_user_anon_id", "a message has `userId` or `anonymousId`"));
    }
    match call {
        Call::Track => need("event", "no_event"),
        Call::Group => need("groupId", "no_group_id"),
        Call::Alias => need("previousId", "no_previous_id"),
        Call::Identify | Call::Page | Call::Screen => Ok(()),
    }
}

fn given_id(fields: &Fields<'_>) -> Result<Option<String>, Fault> {
    match fields.text("messageId") {
        Some(id) if id.len() <= LONGEST_ID && !id.chars().any(char::is_control) => Ok(Some(id)),
        Some(_) => {
            let rule =
                format!("`messageId` has at most {LONGEST_ID} bytes, and no control characters");
            Err(Fault::new("invalid_message_id", rule))
        }
        None => Ok(None),
    }
}

/// What a complete message is made of.
struct Parts<'p, 'a> {
    fields: &'p Fields<'a>,
    call: Call,
    id: &'p str,
    sent_at: Option<&'a RawValue>,
    timestamp: Timestamp,
    around: &'p Around<'a>,
}

/// The message with every field that Segment's pipeline adds. What was there stays, byte for byte.
fn complete(parts: &Parts<'_, '_>) -> RawJson {
    let Parts { fields, call, id, sent_at, timestamp, around } = parts;
    let mut json = Writer::new();
    json.text("type", call.name());
    for (name, value) in fields.iter() {
        match name {
            "type" | "messageId" | "timestamp" | "sentAt" | "receivedAt" | "writeKey" => (),
            "context" | "integrations" | "originalTimestamp" => (),
            _ => json.raw(name, value.get()),
        }
    }
    json.text("messageId", id);
    if let Some(context) = context(fields.get("context"), around) {
        json.raw("context", &context);
    }
    if let Some(integrations) = merged(fields.get("integrations"), around.integrations) {
        json.raw("integrations", &integrations);
    }
    json.text("timestamp", &times::text(*timestamp));
    let original = fields.get("originalTimestamp").or_else(|| fields.get("timestamp"));
    if let Some(original) = original {
        json.raw("originalTimestamp", original.get());
    }
    if let Some(sent_at) = sent_at {
        json.raw("sentAt", sent_at.get());
    }
    json.text("receivedAt", &times::text(around.received_at));
    json.finish()
}

/// The message's context over the batch's, with the address of whoever a browser belongs to.
fn context(own: Option<&RawValue>, around: &Around<'_>) -> Option<String> {
    let context = merged(own, around.context);
    let fields: Fields<'_> = match &context {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => Fields::default(),
    };
    let is_direct = fields.get("direct").is_some_and(|it| it.get() == "true");
    if !around.is_browser && !is_direct || fields.get("ip").is_some() {
        return context;
    }
    let mut json = Writer::new();
    fields.iter().for_each(|(name, value)| json.raw(name, value.get()));
    json.text("ip", &around.ip.to_string());
    Some(json.finish().as_str().to_owned())
}

/// The fields of both objects; where both have one, the message's own.
fn merged(own: Option<&RawValue>, shared: Option<&RawValue>) -> Option<String> {
    let is_object = |it: &&RawValue| it.get().starts_with('{');
    match (own, shared.filter(is_object)) {
        (own, None) => own.map(|it| it.get().to_owned()),
        (None, Some(shared)) => Some(shared.get().to_owned()),
        (Some(own), Some(_)) if !is_object(&own) => Some(own.get().to_owned()),
        (Some(own), Some(shared)) => {
            let (own, shared) = (Fields::of(own), Fields::of(shared));
            let mut json = Writer::new();
            let others = shared.iter().filter(|(name, _)| own.get(name).is_none());
            others.for_each(|(name, value)| json.raw(name, value.get()));
            own.iter().for_each(|(name, value)| json.raw(name, value.get()));
            Some(json.finish().as_str().to_owned())
        }
    }
}

/// Writes an object field by field.
struct Writer(String);

impl Writer {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // A string always serialises.
        self.0.push_str(&serde_json::to_string(name).unwrap_or_default());
        self.0.push(':');
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &serde_json::to_string(text).unwrap_or_default());
    }

    fn finish(mut self) -> RawJson {
        self.0.push('}');
        RawJson::trusted(Bytes::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use serde_json::{Value, json};

    use super::*;

    fn parsed(message: &str, call: Option<Call>) -> Result<(Message, Value), &'static str> {
        let raw: &RawValue = serde_json::from_str(message).unwrap();
        let shared = |json: &'static str| serde_json::from_str::<&RawValue>(json).ok();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let random = crate::crypto::SystemRandom;
        let around = Around {
            call,
            received_at: "2024-01-02T04:04:10.900Z".parse().unwrap(),
            circumstances: Circumstances::of(&HeaderMap::new(), ip).unwrap(),
            ip,
            random: &random,
            is_browser: true,
            sent_at: shared(r#""2024-01-02T03:04:10.678Z""#),
            context: shared(r#"{"locale":"de","app":1}"#),
            integrations: None,
        };
        let message = parse(raw, &around).map_err(|it| it.code)?;
        let value = message.payload.to_value();
        Ok((message, value))
    }

    #[test]
    fn a_message_is_completed_and_keeps_its_own() {
        let text = r#"{"userId":"u1","event":"Signed Up","properties":{"n":1.50},"messageId":"m1",
            "context":{"app":2},"timestamp":"2024-01-02T03:04:05.678Z","writeKey":"wk"}"#;
        let (message, value) = parsed(text, Some(Call::Track)).unwrap();
        assert_eq!((message.call, message.id.as_str()), (Call::Track, "m1"));
        assert!(message.payload.as_str().contains(r#""properties":{"n":1.50}"#));
        let expected = json!({
            "type": "track", "userId": "u1", "event": "Signed Up", "properties": {"n": 1.5},
            "messageId": "m1", "context": {"locale": "de", "app": 2, "ip": "192.0.2.1"},
            "timestamp": "2024-01-02T04:04:05.900Z",
            "originalTimestamp": "2024-01-02T03:04:05.678Z",
            "sentAt": "2024-01-02T03:04:10.678Z", "receivedAt": "2024-01-02T04:04:10.900Z",
        });
        assert_eq!(value, expected);
        assert_eq!(times::text(message.timestamp), "2024-01-02T04:04:05.900Z");
    }

    #[test]
    fn each_call_needs_what_the_specification_says() {
        for (message, expected) in [
            (r#"{"type":"identify","userId":"u"}"#, Ok("identify")),
            (r#"{"type":"i","anonymousId":"a"}"#, Ok("identify")),
            (r#"{"type":"Page","anonymousId":"a"}"#, Ok("page")),
            (r#"{"type":"alias","previousId":"p","userId":"u"}"#, Ok("alias")),
            (r#"{"type":"alias","userId":"u"}"#, Err("no_previous_id")),
            (r#"{"type":"track","userId":"u"}"#, Err("no_event")),
            (r#"{"type":"group","userId":"u"}"#, Err("no_group_id")),
            (r#"{"type":"identify","userId":null}"#, Err("no_user_anon_id")),
            (r#"{"type":"identify","userId":""}"#, Err("no_user_anon_id")),
            (r#"{"type":"delete","userId":"u"}"#, Err("unknown_type")),
            (r#"{"type":7,"userId":"u"}"#, Err("unknown_type")),
            (r#"{"userId":"u"}"#, Err("no_type")),
            (r#"{"type":"identify","userId":"u","messageId":"a\nb"}"#, Err("invalid_message_id")),
            ("[]", Err("invalid_message")),
        ] {
            let found = parsed(message, None).map(|(it, _)| it.call.name());
            assert_eq!(found, expected, "{message}");
        }
    }

    #[test]
    fn a_message_without_an_id_gets_one_of_its_own() {
        let message = || parsed(r#"{"type":"identify","userId":"u"}"#, None).unwrap();
        let ((one, value), (two, _)) = (message(), message());
        assert_eq!(value["messageId"], one.id);
        assert!(one.id != two.id && !one.is_known);
    }
}
