//! One message, on its way to be an event: checked, completed, and otherwise left as it came.

use std::{borrow::Cow, net::IpAddr};

use jiff::Timestamp;

use super::{
    answer::Fault,
    fields::MessageFields,
    merge::{self, Shared},
    times,
};
use crate::{
    crypto::Random,
    ingest::{metadata::Circumstances, shape},
    model::{
        RawJson,
        json::{self, Object, ObjectWriter},
    },
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
    pub sent_at: Option<&'a [u8]>,
    pub shared: Shared<'a>,
}

/// A message that is complete.
#[derive(Debug)]
pub struct CompleteMessage {
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
        value: &[u8],
        fits: impl Fn(Timestamp) -> bool,
    ) -> Option<Timestamp> {
        /// Bytes of what was written; the payload has all of it.
        const LONGEST: usize = 128;
        let time = times::parse(value).filter(|it| fits(*it));
        // `null` says that there is none.
        if time.is_none() && value != b"null" {
            let comma = if self.0.is_empty() { "" } else { "," };
            let is_plain = |it: &&str| {
                it.len() <= LONGEST && serde_json::from_str::<serde_json::Value>(it).is_ok()
            };
            let text = str::from_utf8(value).ok().filter(is_plain).unwrap_or(r#""…""#);
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
pub fn parse(message: &[u8], around: &Around<'_>) -> Result<CompleteMessage, Fault> {
    let found = kind_of_json(message);
    if found != "an object" {
        return Err(Fault::new("invalid_message", format!("a message is an object, not {found}")));
    }
    shape::check(message)
        .map_err(|error| Fault::new("invalid_message", format!("a message {error}")))?;
    let fields = MessageFields::of(message);
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
    let context = Own::of(fields.get("context"));
    let integrations = Own::of(fields.get("integrations"));
    let objects = (context.object.as_ref(), integrations.object.as_ref());
    around.shared.spend(message.len(), objects.0, objects.1)?;
    let payload = complete(&Parts {
        fields: &fields,
        call,
        id: &id,
        sent_at,
        timestamp,
        context: context.merged(around),
        integrations: around.shared.integrations.under(integrations.json, objects.1),
        around,
    });
    Ok(CompleteMessage { call, id, is_known, timestamp, odd_times, payload })
}

fn call(fields: &MessageFields<'_>, around: &Around<'_>) -> Result<Call, Fault> {
    let Some(named) = fields.get("type").filter(|it| **it != *b"null") else {
        return around
            .call
            .ok_or_else(|| Fault::new("no_type", "a message of a batch has a `type`"));
    };
    let call = json::exact_text(named).and_then(|it| Call::named(&it.to_lowercase()));
    call.ok_or_else(|| {
        let rule = "must be identify, track, page, screen, group or alias";
        Fault::new("unknown_type", rule)
    })
}

/// What the specification asks of each call.
fn check(call: Call, fields: &MessageFields<'_>) -> Result<(), Fault> {
    let has = |name: &str| fields.get(name).is_some_and(|it| !matches!(it, b"null" | br#""""#));
    let need = |name: &'static str, code: &'static str| {
        let rule = format!("must be given: a message of type `{}` has `{name}`", call.name());
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

/// The client's id of a message. A number is taken as it is written; what is neither a text nor a number
/// would be lost, and with it the promise that the message counts once.
fn given_id(fields: &MessageFields<'_>) -> Result<Option<String>, Fault> {
    let wrong = |rule: String| Err(Fault::new("invalid_message_id", rule));
    let Some(given) = fields.get("messageId").filter(|it| !matches!(*it, b"null" | br#""""#))
    else {
        return Ok(None);
    };
    let id = match given.first() {
        Some(b'"') => json::exact_text(given),
        Some(b'-' | b'0'..=b'9') => str::from_utf8(given).ok().map(Cow::Borrowed),
        Some(_) | None => None,
    };
    match id {
        Some(id) if id.len() <= LONGEST_ID && !id.chars().any(char::is_control) => {
            Ok(Some(id.into_owned()))
        }
        Some(_) => wrong(format!(
            "`messageId` must have at most {LONGEST_ID} bytes, and no control characters"
        )),
        None => wrong(match kind_of_json(given) {
            "a string" => {
                "`messageId` must be text, and half a character (`\\ud800`) is none".to_owned()
            }
            found => format!("`messageId` must be a text or a number; found {found}"),
        }),
    }
}

/// What a message says itself of what its batch may say as well.
struct Own<'a> {
    json: Option<&'a [u8]>,
    object: Option<Object<'a>>,
}

impl<'a> Own<'a> {
    fn of(json: Option<&'a [u8]>) -> Self {
        // What is no object is kept, and has no fields.
        Self { json, object: json.and_then(|it| Object::read(it).ok()) }
    }

    /// The message's context over the batch's, with the address of whoever a browser belongs to.
    fn merged<'m>(&'m self, around: &'m Around<'_>) -> Option<Cow<'m, [u8]>> {
        let shared = &around.shared.context;
        let context = shared.under(self.json, self.object.as_ref());
        let get = |name: &str| match &self.object {
            Some(object) => object.get(name).or_else(|| shared.get(name)),
            None => shared.get(name),
        };
        let is_direct = get("direct") == Some(b"true");
        if !around.is_browser && !is_direct || get("ip").is_some() {
            return context;
        }
        Some(merge::with_field(context, "ip", &around.ip.to_string()))
    }
}

/// What a complete message is made of.
struct Parts<'p, 'a> {
    fields: &'p MessageFields<'a>,
    call: Call,
    id: &'p str,
    sent_at: Option<&'a [u8]>,
    timestamp: Timestamp,
    context: Option<Cow<'p, [u8]>>,
    integrations: Option<Cow<'p, [u8]>>,
    around: &'p Around<'a>,
}

/// The message with every field that Segment's pipeline adds. What was there stays, byte for byte.
fn complete(parts: &Parts<'_, '_>) -> RawJson {
    /// The fields that are written here, in their order.
    const OURS: [&str; 9] = [
        "type",
        "messageId",
        "timestamp",
        "sentAt",
        "receivedAt",
        "writeKey",
        "context",
        "integrations",
        "originalTimestamp",
    ];
    /// Bytes of what is added, usually.
    const USUAL: usize = 320;
    let Parts { fields, call, id, sent_at, timestamp, context, integrations, around } = parts;
    let size = fields.iter().map(|it| it.inner.len() + it.value.len() + 4).sum::<usize>();
    let mut json = ObjectWriter::with_capacity(size + USUAL);
    json.text("type", call.name());
    for field in fields.iter().filter(|it| !OURS.iter().any(|name| *name.as_bytes() == *it.name)) {
        json.raw(field.inner, field.value);
    }
    json.text("messageId", id);
    if let Some(context) = context {
        json.field("context", context);
    }
    if let Some(integrations) = integrations {
        json.field("integrations", integrations);
    }
    json.text("timestamp", &times::text(*timestamp));
    let original = fields.get("originalTimestamp").or_else(|| fields.get("timestamp"));
    if let Some(original) = original {
        json.field("originalTimestamp", original);
    }
    if let Some(sent_at) = sent_at {
        json.field("sentAt", sent_at);
    }
    json.text("receivedAt", &times::text(around.received_at));
    json.finish()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use serde_json::{Value, json};

    use super::{super::merge::MessageLimits, *};

    fn parsed(message: &str, call: Option<Call>) -> Result<(CompleteMessage, Value), &'static str> {
        parsed_with(message, call, br#"{"locale":"de","app":1}"#)
    }

    fn parsed_with(
        message: &str,
        call: Option<Call>,
        context: &[u8],
    ) -> Result<(CompleteMessage, Value), &'static str> {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let random = crate::crypto::SystemRandom;
        let around = Around {
            call,
            received_at: "2024-01-02T04:04:10.900Z".parse().unwrap(),
            circumstances: Circumstances::of(&HeaderMap::new(), ip).unwrap(),
            ip,
            random: &random,
            is_browser: true,
            sent_at: Some(br#""2024-01-02T03:04:10.678Z""#),
            shared: Shared::of(
                Some(context),
                None,
                MessageLimits { message: 32_768, shared: 262_144 },
            ),
        };
        let message = parse(message.as_bytes(), &around).map_err(|it| it.code)?;
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
    fn a_context_is_kept_whatever_json_it_is() {
        for (shared, own, expected) in [
            (r"7", r#"{"\ud800":1,"app":2}"#, r#"{"\ud800":1,"app":2,"ip":"192.0.2.1"}"#),
            (
                r#"{"a":1,"b":{"\ud800":1}}"#,
                r#"{"n":1e400}"#,
                r#"{"a":1,"b":{"\ud800":1},"n":1e400,"ip":"192.0.2.1"}"#,
            ),
            (r#"{"a":1}"#, "null", r#"{"a":1,"ip":"192.0.2.1"}"#),
            (r#"{"a":1}"#, r#"["x"]"#, r#"["x"]"#),
            ("7", r#""a text""#, r#""a text""#),
            (r#"{"ip":"198.51.100.1"}"#, "{}", r#"{"ip":"198.51.100.1"}"#),
        ] {
            let message = format!(r#"{{"type":"identify","userId":"u","context":{own}}}"#);
            let (message, _) = parsed_with(&message, None, shared.as_bytes()).unwrap();
            let found = json::value_at(message.payload.bytes(), &["context"]).unwrap().unwrap();
            assert_eq!(str::from_utf8(found), Ok(expected), "{shared} {own}");
        }
    }

    #[test]
    fn a_message_id_of_another_kind_is_never_thrown_away() {
        for (id, expected) in [
            ("12345", Ok(Some("12345"))),
            (
                "123456789012345678901234567890123456789012345",
                Ok(Some("123456789012345678901234567890123456789012345")),
            ),
            (r#""m\u0031""#, Ok(Some("m1"))),
            ("null", Ok(None)),
            (r#""""#, Ok(None)),
            ("true", Err("invalid_message_id")),
            ("{}", Err("invalid_message_id")),
            ("[1]", Err("invalid_message_id")),
            (r#""m\ud800""#, Err("invalid_message_id")),
        ] {
            let message = format!(r#"{{"type":"identify","userId":"u","messageId":{id}}}"#);
            let found = parsed(&message, None).map(|(it, _)| it.is_known.then_some(it.id));
            assert_eq!(found, expected.map(|it| it.map(str::to_owned)), "{id}");
        }
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
