//! The values of each profile: what a receiver of that system's webhooks relies on.
//!
//! The documents of the systems decide; where they are silent, the default of Tidegate does.
//! docs/profiles.md shows all of this side by side, and says what was decided where a document
//! contradicts itself or another.

use std::{num::NonZeroU32, time::Duration};

use serde::Serialize;

use crate::model::{
    Contract, Envelope, Exponential, IdempotencyHeader, Method, OnGone, Ordering, Policy, Profile,
    Retry, RetryOn, RetryPreset, Scheme, Signature, Signed,
};

/// What our requests call themselves, unless a profile has another name. Without a version: a
/// destination keeps it, and an update must not leave it behind or change it under a receiver.
pub const USER_AGENT: &str = "Tidegate";

/// Everything that a profile sets. A destination may override each value but the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub contract: Contract,
    pub policy: Policy,
    /// URLs of one destination.
    pub most_urls: usize,
    /// What it means that no `secret` is given.
    pub without_secret: WithoutSecret,
}

/// What a destination does that was given no secret, by its profile's document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutSecret {
    /// A secret is made, and signs.
    Made,
    /// The same; but with `auth` nothing is signed, since the document has the one or the other.
    MadeUnlessAuth,
    /// Nothing is signed: the document says "if set".
    Unsigned,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The values of a profile.
pub fn values(profile: Profile) -> Values {
    match profile {
        Profile::Standard => standard(),
        Profile::Ingestlayer => ingestlayer(),
        Profile::Admin => admin(),
        Profile::Segment => segment(),
        Profile::SegmentActions => segment_actions(),
        Profile::Customerio => customerio(),
    }
}

/// Standard Webhooks, with what Tidegate adds.
fn standard() -> Values {
    Values {
        contract: Contract {
            envelope: Envelope::Standard,
            method: Method::Post,
            user_agent: USER_AGENT.to_owned(),
            signature: signature(Scheme::Standard, "webhook-signature", Signed::Body),
            idempotency_key: IdempotencyHeader::Message,
            https_only: false,
            verify: false,
            whole_answer: false,
            integration: None,
            on_gone: OnGone::Disable,
        },
        policy: Policy::default(),
        most_urls: 1,
        without_secret: WithoutSecret::Made,
    }
}

/// `systems/000` and `001`: `{"type","payload"}`, 10 s, exponential backoff before the dead letter.
fn ingestlayer() -> Values {
    let standard = standard();
    Values {
        contract: Contract {
            envelope: Envelope::TypePayload,
            signature: signature(Scheme::Stamped, "x-ingestlayer-signature", Signed::Body),
            // "Non-2xx responses trigger retries".
            on_gone: OnGone::Retry,
            ..standard.contract
        },
        policy: Policy {
            timeout: Duration::from_secs(10),
            // "Several attempts": eight, within about three hours.
            retry: Retry::Exponential(Exponential {
                base: Duration::from_secs(10),
                factor: 4.0,
                max: Duration::from_secs(2 * 60 * 60),
                attempts: NonZeroU32::MIN.saturating_add(7),
                within: None,
            }),
            ..standard.policy
        },
        without_secret: WithoutSecret::MadeUnlessAuth,
        ..standard
    }
}

/// `systems/002`: signed over the raw body, in strict order, kept for a day, verified at first.
fn admin() -> Values {
    let standard = standard();
    Values {
        contract: Contract {
            envelope: Envelope::Full,
            signature: signature(Scheme::Prefixed, "x-admin-signature", Signed::Body),
            idempotency_key: IdempotencyHeader::MessageAndDestination,
            https_only: true,
            verify: true,
            // "Non-2xx responses trigger retries".
            on_gone: OnGone::Retry,
            ..standard.contract
        },
        policy: Policy {
            timeout: Duration::from_secs(3),
            ordering: Ordering::Fifo,
            retry: Retry::Preset(RetryPreset::Admin24h),
            expires_after: Some(DAY),
            ..standard.policy
        },
        ..standard
    }
}

/// `systems/004`: up to five URLs, SHA-1 over what `JSON.stringify` writes, four hours of retries.
fn segment() -> Values {
    let standard = standard();
    Values {
        contract: Contract {
            envelope: Envelope::Segment,
            user_agent: "Segment.io/1.0".to_owned(),
            signature: signature(Scheme::Sha1, "x-signature", Signed::FirstElement),
            idempotency_key: IdempotencyHeader::None,
            whole_answer: true,
            integration: Some("Webhooks".to_owned()),
            // It retries time-outs and 5xx; nothing switches a destination off.
            on_gone: OnGone::Dead,
            ..standard.contract
        },
        policy: Policy {
            timeout: Duration::from_secs(5),
            retry: Retry::Preset(RetryPreset::Segment4h),
            retry_on: RetryOn::ServerErrors,
            ..standard.policy
        },
        most_urls: 5,
        without_secret: WithoutSecret::Unsigned,
    }
}

/// The successor of Segment's classic webhooks: a mapped payload to one URL.
fn segment_actions() -> Values {
    let segment = segment();
    Values {
        contract: Contract {
            envelope: Envelope::Payload,
            user_agent: "Segment (Actions)".to_owned(),
            integration: Some("Webhooks (Actions)".to_owned()),
            ..segment.contract
        },
        policy: Policy {
            timeout: Duration::from_secs(10),
            retry_on: RetryOn::Temporary,
            ..segment.policy
        },
        most_urls: 1,
        ..segment
    }
}

/// `systems/003`: a mapped payload by any method, one at a time or in batches of up to 1000.
fn customerio() -> Values {
    let standard = standard();
    Values {
        contract: Contract {
            envelope: Envelope::Payload,
            signature: signature(Scheme::Sha1, "x-signature", Signed::FirstElement),
            idempotency_key: IdempotencyHeader::None,
            on_gone: OnGone::Dead,
            ..standard.contract
        },
        policy: Policy { timeout: Duration::from_secs(10), ..standard.policy },
        without_secret: WithoutSecret::Unsigned,
        ..standard
    }
}

fn signature(scheme: Scheme, header: &str, over: Signed) -> Signature {
    Signature { scheme, header: header.to_owned(), over }
}
