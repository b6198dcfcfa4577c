//! The bytes that are sent and signed: envelopes, batches, and their canonical form where the scheme
//! wants it. They depend on the messages alone, so they are the same on every attempt.

use std::ops::Range;

use bytes::Bytes;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

use super::canonical::{self, CanonicalError, DEEPEST};
use crate::model::{
    Contract, Envelope, Message, Scheme, Signed,
    json::{self, scan},
};

/// How bodies of one contract are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    envelope: Envelope,
    /// As ECMAScript would write it.
    is_canonical: bool,
    over: Signed,
    /// A list, also of one.
    is_list: bool,
}

pub(super) struct MessageBody {
    pub bytes: Bytes,
    signed: Range<usize>,
}

impl MessageBody {
    /// What the signature is made over.
    pub fn signed(&self) -> &[u8] {
        &self.bytes[self.signed.clone()]
    }
}

/// Why a message has no body by this contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the payload is no Segment message: it must be an object")]
    NoSegmentMessage,
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

impl Form {
    pub fn new(contract: &Contract, is_list: bool) -> Self {
        Self {
            envelope: contract.envelope,
            is_canonical: contract.signature.scheme == Scheme::Sha1,
            over: contract.signature.over,
            is_list,
        }
    }

    /// Whether the message can be written, without writing it.
    pub fn check(&self, message: &Message) -> Result<(), Unfit> {
        let payload = message.payload().bytes();
        if self.envelope == Envelope::Segment && !payload.trim_ascii_start().starts_with(b"{") {
            return Err(Unfit::NoSegmentMessage);
        }
        // The envelope and the list are at most two levels more.
        if self.is_canonical
            && scan::depth(payload).max(scan::depth(message.metadata().bytes())) > DEEPEST - 2
        {
            return Err(CanonicalError::TooDeep.into());
        }
        Ok(())
    }

    /// The body of one request with all of these messages.
    pub fn body(&self, messages: &[Message]) -> Result<MessageBody, Unfit> {
        let room: usize = messages.iter().map(|it| it.payload().bytes().len() + 128).sum();
        let mut out = Vec::with_capacity(room);
        let mut scratch = Vec::new();
        let is_list = self.is_list || messages.len() > 1;
        if is_list {
            out.push(b'[');
        }
        let start = out.len();
        let mut first = start..start;
        for (place, message) in messages.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            self.check(message)?;
            if self.is_canonical {
                scratch.clear();
                self.envelope(message, &mut scratch)?;
                canonical::write(&scratch, &mut out)?;
            } else {
                self.envelope(message, &mut out)?;
            }
            if place == 0 {
                first.end = out.len();
            }
        }
        if is_list {
            out.push(b']');
        }
        let signed = match self.over {
            Signed::Body => 0..out.len(),
            Signed::FirstElement => first,
        };
        Ok(MessageBody { bytes: out.into(), signed })
    }

    /// An event type, an id and a timestamp hold nothing that JSON escapes.
    fn envelope(&self, message: &Message, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let payload = message.payload().bytes();
        let event = &message.event;
        // As the steps have left them: what a route has redacted must not go out here.
        let event_type = message.event_type().as_str().as_bytes();
        match self.envelope {
            Envelope::Standard => {
                put(out, &[br#"{"type":""#, event_type, br#"","timestamp":""#]);
                put_time(out, event.timestamp);
                put(out, &[br#"","data":"#, payload, b"}"]);
            }
            Envelope::TypePayload => {
                put(out, &[br#"{"type":""#, event_type, br#"","payload":"#, payload, b"}"]);
            }
            Envelope::Full => {
                put(out, &[br#"{"id":""#, message.message_id().as_bytes()]);
                put(out, &[br#"","type":""#, event_type, br#"","timestamp":""#]);
                put_time(out, event.timestamp);
                put(out, &[br#"","data":"#, payload]);
                put(out, &[br#","metadata":"#, message.metadata().bytes(), b"}"]);
            }
            Envelope::Segment => return segment(payload, out),
            Envelope::Payload => put(out, &[payload]),
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|it| out.extend_from_slice(it));
}

/// As its `Display` writes it.
fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    // Writing to a `Vec` cannot fail.
    PRINTER.print_timestamp(&time, out).ok();
}

/// A Segment message, with `"version":1` before its fields and no other version. A `delete`
/// notification has none, as the document shows it.
fn segment(payload: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
    let fields = scan::fields(payload).map_err(|_| Unfit::NoSegmentMessage)?;
    // Of equal keys the last one counts.
    let call = fields.iter().rev().find(|(key, _)| json::text::is(key, "type"));
    if call.is_some_and(|(_, value)| json::exact_text(value).is_some_and(|it| it == "delete")) {
        out.extend_from_slice(payload);
        return Ok(());
    }
    out.extend_from_slice(br#"{"version":1"#);
    for (key, value) in fields.iter().filter(|(key, _)| !json::text::is(key, "version")) {
        for part in [br#",""#, *key, br#"":"#, *value] {
            out.extend_from_slice(part);
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        destinations::{profiles, webhook::tests::message},
        model::{Altered, Profile, RawJson, TypeName},
    };

    fn form(profile: Profile) -> Form {
        Form::new(&profiles::values(profile).contract, false)
    }

    fn written(form: Form, messages: &[Message]) -> Result<String, Unfit> {
        form.body(messages).map(|it| String::from_utf8(it.bytes.to_vec()).unwrap())
    }

    const PAYLOAD: &str = r#"{ "b":1.50,"a" : "ü\u2028\/", "b":12345678901234567890 }"#;

    #[test]
    fn each_profile_has_its_envelope() {
        for (profile, expected) in [
            (
                Profile::Standard,
                r#"{"type":"user.signed_up","timestamp":"2026-11-21T08:00:00.5Z","data":PAYLOAD}"#,
            ),
            (Profile::Ingestlayer, r#"{"type":"user.signed_up","payload":PAYLOAD}"#),
            (
                Profile::Admin,
                r#"{"id":"ID","type":"user.signed_up","timestamp":"2026-11-21T08:00:00.5Z","data":PAYLOAD,"metadata":{ "ip":"::1" }}"#,
            ),
            (Profile::Segment, "{\"version\":1,\"b\":12345678901234567000,\"a\":\"ü\u{2028}/\"}"),
            (Profile::SegmentActions, "{\"b\":12345678901234567000,\"a\":\"ü\u{2028}/\"}"),
            (Profile::Customerio, "{\"b\":12345678901234567000,\"a\":\"ü\u{2028}/\"}"),
        ] {
            let message = message(r#"{ "ip":"::1" }"#, PAYLOAD, None);
            let expected =
                expected.replace("PAYLOAD", PAYLOAD).replace("ID", &message.message_id());
            assert_eq!(written(form(profile), &[message]), Ok(expected), "{profile:?}");
        }
        let copied = message("{}", PAYLOAD, Some("[1, 2]"));
        let expected = r#"{"type":"user.signed_up","payload":[1, 2]}"#;
        assert_eq!(written(form(Profile::Ingestlayer), &[copied]).as_deref(), Ok(expected));
    }

    #[test]
    fn a_body_has_the_type_and_the_metadata_that_the_steps_have_left() {
        let whole = message(r#"{"ip":"203.0.113.9"}"#, "{}", None);
        let copy = Altered {
            event_type: Some(TypeName::trusted("job.back")),
            metadata: Some(RawJson::trusted(r#"{"ip":"[ip]"}"#)),
            ..Altered::default()
        };
        let copied = Message { copy: Some(Arc::new(copy)), ..whole };
        for profile in [Profile::Standard, Profile::Ingestlayer, Profile::Admin] {
            let body = written(form(profile), std::slice::from_ref(&copied)).unwrap();
            assert!(body.contains(r#""type":"job.back""#), "{body}");
            assert!(!body.contains("203.0.113.9"), "{body}");
        }
        let body = written(form(Profile::Admin), &[copied]).unwrap();
        assert!(body.ends_with(r#""metadata":{"ip":"[ip]"}}"#), "{body}");
    }

    #[test]
    fn a_segment_message_has_version_one_and_a_deletion_has_none() {
        for (payload, expected) in [
            (r#"{"type":"page","userId":"u"}"#, Ok(r#"{"version":1,"type":"page","userId":"u"}"#)),
            (r#" { } "#, Ok(r#"{"version":1}"#)),
            (r#"{"version":2,"type":"x","\u0076ersion":3}"#, Ok(r#"{"version":1,"type":"x"}"#)),
            (r#"{"0":1,"type":"x"}"#, Ok(r#"{"0":1,"version":1,"type":"x"}"#)),
            (r#"{"type":"delete","userId":"u"}"#, Ok(r#"{"type":"delete","userId":"u"}"#)),
            (r#"{"type":"delete","type":"x"}"#, Ok(r#"{"version":1,"type":"x"}"#)),
            ("[]", Err(Unfit::NoSegmentMessage)),
            ("\"text\"", Err(Unfit::NoSegmentMessage)),
        ] {
            let found = written(form(Profile::Segment), &[message("{}", payload, None)]);
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{payload}");
        }
    }

    #[test]
    fn a_batch_is_a_list_of_bodies_and_what_is_signed_is_the_switch() {
        let contract = profiles::values(Profile::Customerio).contract;
        let messages = [message("{}", r#"{"n":1.0}"#, None), message("{}", "[ 2 ]", None)];
        let first = Form::new(&contract, true);
        let whole = Form { over: Signed::Body, ..first };
        for (form, count, bytes, signed) in [
            (first, 1, r#"[{"n":1}]"#, r#"{"n":1}"#),
            (first, 2, r#"[{"n":1},[2]]"#, r#"{"n":1}"#),
            (whole, 1, r#"[{"n":1}]"#, r#"[{"n":1}]"#),
            (whole, 2, r#"[{"n":1},[2]]"#, r#"[{"n":1},[2]]"#),
            (Form { is_list: false, ..first }, 1, r#"{"n":1}"#, r#"{"n":1}"#),
            (Form { is_list: false, ..whole }, 2, r#"[{"n":1},[2]]"#, r#"[{"n":1},[2]]"#),
        ] {
            let body = form.body(&messages[..count]).ok().unwrap();
            assert_eq!((&body.bytes[..], body.signed()), (bytes.as_bytes(), signed.as_bytes()));
        }
    }

    #[test]
    fn bodies_that_pass_the_check_can_be_written() {
        for levels in [DEEPEST - 3, DEEPEST - 2, DEEPEST - 1, DEEPEST] {
            let payload = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let message = message("{}", &payload, None);
            for (envelope, is_list) in [(Envelope::Payload, false), (Envelope::Full, true)] {
                let form = Form { envelope, is_list, ..form(Profile::Customerio) };
                let is_fit = form.check(&message).is_ok();
                assert_eq!(is_fit, levels <= DEEPEST - 2);
                assert_eq!(form.body(std::slice::from_ref(&message)).is_ok(), is_fit, "{levels}");
            }
        }
    }
}
