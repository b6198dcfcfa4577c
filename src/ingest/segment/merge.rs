//! What a batch says about all of its messages, laid under what each says itself.
//!
//! Each message gets a copy, so that a few bytes of a request could become many on the disk: the copies
//! count against the limit of each message, and all together against a limit of their own.

use std::{borrow::Cow, cell::Cell};

use super::answer::Fault;
use crate::{
    ingest::shape,
    model::json::{self, Object, ObjectWriter},
};

/// The limits of messages.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Bytes of one message, with what its batch adds to it.
    pub message: usize,
    /// Bytes that the batch may add to all of its messages together.
    pub shared: usize,
}

/// `context` and `integrations` of a batch, read once.
pub struct Shared<'a> {
    pub context: Layer<'a>,
    pub integrations: Layer<'a>,
    limits: MessageLimits,
    left: Cell<usize>,
}

/// One object of a batch, which lies under that of each message.
#[derive(Default)]
pub struct Layer<'a> {
    under: Option<(&'a [u8], Object<'a>)>,
    /// Why it is laid under no message.
    fault: Option<shape::ShapeError>,
}

impl<'a> Shared<'a> {
    pub fn of(
        context: Option<&'a [u8]>,
        integrations: Option<&'a [u8]>,
        limits: MessageLimits,
    ) -> Self {
        let left = Cell::new(limits.shared);
        Self { context: Layer::of(context), integrations: Layer::of(integrations), limits, left }
    }

    /// Counts what is added to a message of so many bytes.
    pub fn spend(
        &self,
        message: usize,
        context: Option<&Object<'_>>,
        integrations: Option<&Object<'_>>,
    ) -> Result<(), Fault> {
        if let Some(error) = self.context.fault.or(self.integrations.fault) {
            let text = format!("the batch's `context` or `integrations`: {error}");
            return Err(Fault::new("invalid_message", text));
        }
        let added = self.context.added(context) + self.integrations.added(integrations);
        let MessageLimits { message: most, shared } = self.limits;
        if message + added > most {
            let text = format!(
                "with the batch's `context` and `integrations`, a message must have at most {most} bytes; \
                 this one has {}",
                message + added
            );
            return Err(Fault::new("message_too_large", text));
        }
        let Some(left) = self.left.get().checked_sub(added) else {
            let text = format!(
                "the batch's `context` and `integrations`, copied into its messages, must have at most \
                 {shared} bytes together; send the messages in smaller batches, or put what they share \
                 into fewer bytes"
            );
            return Err(Fault::new("batch_too_large", text));
        };
        self.left.set(left);
        Ok(())
    }
}

impl<'a> Layer<'a> {
    /// What is no object lies under nothing.
    fn of(json: Option<&'a [u8]>) -> Self {
        let Some(json) = json.filter(|it| json::is_object(it)) else { return Self::default() };
        match (shape::check(json), Object::read(json)) {
            (Ok(()), Ok(object)) => Self { under: Some((json, object)), fault: None },
            // The body was parsed before, so that it is JSON.
            (Ok(()), Err(_)) => Self::default(),
            (Err(fault), _) => Self { under: None, fault: Some(fault) },
        }
    }

    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.under.as_ref()?.1.get(name)
    }

    /// Bytes that it adds to a message with these fields of its own. It costs as much as these are.
    fn added(&self, own: Option<&Object<'_>>) -> usize {
        let Some((json, under)) = &self.under else { return 0 };
        let hidden = own
            .into_iter()
            .flat_map(Object::fields)
            .filter_map(|it| under.named(&it.name).map(|value| it.name.len() + value.len()));
        json.len().saturating_sub(hidden.sum())
    }

    /// The fields of both; where both have one, the message's own. What is no object stays as it is.
    pub fn under<'m>(
        &'m self,
        own: Option<&'m [u8]>,
        fields: Option<&Object<'_>>,
    ) -> Option<Cow<'m, [u8]>> {
        let Some((json, under)) = &self.under else { return own.map(Cow::Borrowed) };
        match (own, fields) {
            (None | Some(b"null"), _) => Some(Cow::Borrowed(json)),
            (Some(own), None) => Some(Cow::Borrowed(own)),
            (Some(own), Some(fields)) => {
                let mut out = ObjectWriter::with_capacity(json.len() + own.len());
                let others = under.fields().iter().filter(|it| fields.named(&it.name).is_none());
                others.for_each(|it| out.raw(it.inner, it.value));
                fields.fields().iter().for_each(|it| out.raw(it.inner, it.value));
                Some(Cow::Owned(out.finish().bytes().to_vec()))
            }
        }
    }
}

/// The object with a field behind all others. What is no object, and not `null`, stays as it is.
pub fn with_field<'m>(
    object: Option<Cow<'m, [u8]>>,
    name: &'static str,
    text: &str,
) -> Cow<'m, [u8]> {
    let object = object.filter(|it| **it != *b"null").unwrap_or(Cow::Borrowed(b"{}"));
    let Some(inside) = object.strip_suffix(b"}").filter(|_| json::is_object(&object)) else {
        return object;
    };
    let has_fields = inside.trim_ascii() != b"{";
    let mut out = inside.to_vec();
    let mut field = ObjectWriter::with_capacity(name.len() + text.len() + 8);
    field.text(name, text);
    if has_fields {
        out.push(b',');
    }
    out.extend_from_slice(&field.finish().bytes()[1..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_batch_lie_under_those_of_a_message() {
        for (under, own, expected) in [
            (Some(r#"{"a":1,"b":2}"#), Some(r#"{"b":3,"c":4}"#), Some(r#"{"a":1,"b":3,"c":4}"#)),
            (
                Some(r#"{"\ud800":1,"b":1e400}"#),
                Some(r#"{"\ud801":"\udc00","\u0062":2}"#),
                Some(r#"{"\ud800":1,"\ud801":"\udc00","\u0062":2}"#),
            ),
            (Some(r#"{"a":1}"#), Some("null"), Some(r#"{"a":1}"#)),
            (Some(r#"{"a":1}"#), Some("7"), Some("7")),
            (Some(r#"{"a":1}"#), None, Some(r#"{"a":1}"#)),
            (Some("[1]"), Some(r#"{ "c" : 1 }"#), Some(r#"{ "c" : 1 }"#)),
            (None, None, None),
        ] {
            let layer = Layer::of(under.map(str::as_bytes));
            let own = own.map(str::as_bytes);
            let fields = own.and_then(|it| Object::read(it).ok());
            let found = layer.under(own, fields.as_ref());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{under:?} {own:?}");
        }
    }

    #[test]
    fn a_field_is_put_behind_the_others_of_an_object_only() {
        for (object, expected) in [
            (None, r#"{"ip":"::1"}"#),
            (Some("null"), r#"{"ip":"::1"}"#),
            (Some("{ }"), r#"{ "ip":"::1"}"#),
            (Some(r#"{"\ud800":1}"#), r#"{"\ud800":1,"ip":"::1"}"#),
            (Some("[1]"), "[1]"),
            (Some(r#""{}""#), r#""{}""#),
        ] {
            let object = object.map(|it| Cow::Borrowed(it.as_bytes()));
            let found = with_field(object, "ip", "::1");
            assert_eq!(str::from_utf8(&found), Ok(expected));
        }
    }

    #[test]
    fn copies_count_for_each_message_and_for_all() {
        let context = format!(r#"{{"k":"{}"}}"#, "x".repeat(92));
        let limits = MessageLimits { message: 150, shared: 250 };
        let shared = Shared::of(Some(context.as_bytes()), None, limits);
        let code =
            |size, own: Option<&Object<'_>>| shared.spend(size, own, None).err().map(|it| it.code);
        assert_eq!(code(51, None), Some("message_too_large"));
        assert_eq!((code(50, None), code(50, None)), (None, None));
        assert_eq!(code(50, None), Some("batch_too_large"));
        // What a message says itself is not copied.
        let own = Object::read(br#"{"k":1}"#).unwrap();
        assert_eq!(code(50, Some(&own)), None);
    }
}
