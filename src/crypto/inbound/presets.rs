//! What is known of the systems that send webhooks: one row each.

use std::borrow::Cow;

use crate::model::{Algorithm, Encoding, Form, HmacScheme, InboundScheme as Scheme, Provider};

/// How its requests are verified and read. Expressions are over `headers` and `payload`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    pub scheme: Scheme,
    /// The event's type.
    pub event_type: &'static str,
    /// What makes two requests one. It is signed, so that a copy of a request counts as the first: the id of
    /// the delivery where the body has it, or the body itself.
    pub key: &'static str,
    /// Whether the body is a list of events of their own.
    pub is_list: bool,
    /// What the sender wants to hear: content type and body.
    pub answer: (&'static str, &'static str),
}

const JSON: (&str, &str) = ("application/json", r#"{"received":true}"#);

/// What the expressions of a source may use besides the event.
pub const NAMES: [&str; 2] = ["headers", "body_sha256"];

/// The row of a provider.
pub fn preset(provider: Provider) -> Preset {
    match provider {
        Provider::Stripe => Preset {
            scheme: pairs("stripe-signature", ',', "t", "v1", "{time}.{body}"),
            ..row("payload.type", "payload.id")
        },
        Provider::Github => Preset {
            scheme: hmac(Algorithm::Sha256, "x-hub-signature-256", "sha256=", Encoding::Hex),
            // The id of the delivery is a header, which nobody signs.
            ..row(r#"headers["x-github-event"]"#, "body_sha256")
        },
        Provider::Slack => Preset {
            scheme: Scheme::Hmac(HmacScheme {
                signed: Cow::Borrowed("v0:{time}:{body}"),
                time: Some(Cow::Borrowed("x-slack-request-timestamp")),
                ..plain(Algorithm::Sha256, "x-slack-signature", "v0=", Encoding::Hex)
            }),
            ..row("payload.event.type or payload.type", "payload.event_id")
        },
        Provider::Shopify => Preset {
            scheme: hmac(Algorithm::Sha256, "x-shopify-hmac-sha256", "", Encoding::Base64),
            // One order is the same body under several topics, each of which is an event of its own.
            ..row(
                r#"headers["x-shopify-topic"]"#,
                r#"headers["x-shopify-topic"] ~ ":" ~ body_sha256"#,
            )
        },
        Provider::StandardWebhooks => Preset {
            scheme: Scheme::Standard { prefix: Cow::Borrowed("webhook-") },
            ..row("payload.type", r#"headers["webhook-id"]"#)
        },
        Provider::Svix => Preset {
            scheme: Scheme::Standard { prefix: Cow::Borrowed("svix-") },
            ..row("payload.type", r#"headers["svix-id"]"#)
        },
        Provider::Twilio => Preset {
            scheme: Scheme::Twilio,
            answer: ("text/xml", "<Response/>"),
            ..row("payload.SmsStatus or payload.CallStatus or payload.EventType", "body_sha256")
        },
        Provider::Gitlab => Preset {
            scheme: Scheme::Token {
                header: Cow::Borrowed("x-gitlab-token"),
                prefix: Cow::Borrowed(""),
            },
            ..row("payload.object_kind", r#"headers["idempotency-key"]"#)
        },
        Provider::Sendgrid => Preset {
            scheme: Scheme::Ecdsa {
                signature: Cow::Borrowed("x-twilio-email-event-webhook-signature"),
                time: Cow::Borrowed("x-twilio-email-event-webhook-timestamp"),
            },
            is_list: true,
            ..row("payload.event", "payload.sg_event_id")
        },
        Provider::Paddle => Preset {
            scheme: pairs("paddle-signature", ';', "ts", "h1", "{time}:{body}"),
            ..row("payload.event_type", "payload.event_id")
        },
        Provider::Segment | Provider::Customerio => Preset {
            scheme: hmac(Algorithm::Sha1, "x-signature", "", Encoding::Hex),
            ..row("payload.type", "payload.messageId")
        },
    }
}

fn row(event_type: &'static str, key: &'static str) -> Preset {
    Preset { scheme: Scheme::None, event_type, key, is_list: false, answer: JSON }
}

fn plain(
    algorithm: Algorithm,
    header: &'static str,
    prefix: &'static str,
    encoding: Encoding,
) -> HmacScheme {
    HmacScheme {
        algorithm,
        header: Cow::Borrowed(header),
        form: Form::Prefix(Cow::Borrowed(prefix)),
        encoding,
        signed: Cow::Borrowed("{body}"),
        time: None,
        id: None,
    }
}

fn hmac(
    algorithm: Algorithm,
    header: &'static str,
    prefix: &'static str,
    encoding: Encoding,
) -> Scheme {
    Scheme::Hmac(plain(algorithm, header, prefix, encoding))
}

fn pairs(
    header: &'static str,
    separator: char,
    time: &'static str,
    code: &'static str,
    signed: &'static str,
) -> Scheme {
    Scheme::Hmac(HmacScheme {
        form: Form::Pairs { separator, time: Cow::Borrowed(time), code: Cow::Borrowed(code) },
        signed: Cow::Borrowed(signed),
        ..plain(Algorithm::Sha256, header, "", Encoding::Hex)
    })
}
