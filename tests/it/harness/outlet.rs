//! Webhook destinations and messages for tests that make single attempts.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tidegate::{
    crypto::{SealContext, SecretField, SeededRandom, Vault},
    destinations::{
        DestinationClient as _,
        egress::{Egress, Options, Resolver, SystemResolver},
        profiles, webhook,
    },
    model::{
        Auth, Connection, DeliverySeq, Destination, DestinationId, DestinationState, Era, Event,
        EventId, EventSeq, Message, Outcome, Policy, Profile, ProjectId, RawJson, Sealed, Secret,
        SigningKey, SourceId, Webhook,
    },
};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A vault and an egress that may reach loopback.
pub struct Lab {
    pub vault: Arc<Vault>,
    pub egress: Egress,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(lab_options(), Arc::new(SystemResolver::default()))
    }

    pub fn with(options: Options, resolver: Arc<dyn Resolver>) -> Self {
        let vault = Arc::new(Vault::ephemeral(Arc::new(SeededRandom::new(1))));
        Self { vault, egress: Egress::new(options, resolver).unwrap() }
    }

    pub fn build(&self, destination: &Destination) -> webhook::Webhook {
        webhook::Webhook::new(destination, &self.vault, &self.egress).unwrap()
    }

    /// The destination with this key and no other.
    pub fn signed(&self, mut destination: Destination, secret: &str) -> Destination {
        let key = self.signing_key(&destination, secret);
        webhook_of(&mut destination).signing_keys = vec![key];
        destination
    }

    /// The value of a header as it is kept.
    pub fn header(&self, destination: &Destination, value: &str) -> Sealed {
        let context =
            SealContext::of_destination(destination.project, destination.id, SecretField::Header);
        self.vault.seal(&Secret::new(value), &context)
    }

    /// One attempt at this URL with nothing special, within this time.
    pub async fn attempt(&self, url: &str, timeout: Duration) -> Outcome {
        let mut destination = destination(url);
        destination.policy.timeout = timeout;
        self.build(&destination).send(&[message(1)], now()).await
    }

    pub fn signing_key(&self, destination: &Destination, secret: &str) -> SigningKey {
        let context = SealContext::of_destination(
            destination.project,
            destination.id,
            SecretField::SigningKey,
        );
        SigningKey {
            secret: self.vault.seal(&Secret::new(secret), &context),
            created_at: now(),
            active_from: None,
            expires_at: None,
        }
    }
}

/// Loopback is allowed.
pub fn lab_options() -> Options {
    Options { allow_nets: vec!["127.0.0.0/8".parse().unwrap()], ..Options::default() }
}

pub fn now() -> Timestamp {
    "2026-11-21T08:00:00Z".parse().unwrap()
}

/// Unsigned, POST, without auth.
pub fn destination(url: &str) -> Destination {
    Destination {
        id: DestinationId::from_bits(5),
        project: ProjectId::from_bits(3),
        name: "crm".parse().unwrap(),
        version: 1,
        state: DestinationState::Active,
        policy: Policy::default(),
        era: Era::FIRST,
        connection: Connection::Webhook(Webhook {
            profile: Profile::Standard,
            urls: vec![url.to_owned().try_into().unwrap()],
            headers: Default::default(),
            auth: Auth::None,
            signing_keys: Vec::new(),
            contract: profiles::values(Profile::Standard).contract,
        }),
        created_at: now(),
    }
}

/// A destination with all values of a profile, unsigned, to these URLs.
pub fn destination_of(profile: Profile, urls: &[&str]) -> Destination {
    let values = profiles::values(profile);
    let mut destination = destination(urls[0]);
    destination.policy = values.policy;
    let webhook = webhook_of(&mut destination);
    (webhook.profile, webhook.contract) = (profile, values.contract);
    webhook.urls = urls.iter().map(|it| it.to_string().try_into().unwrap()).collect();
    destination
}

pub fn webhook_of(destination: &mut Destination) -> &mut Webhook {
    let Connection::Webhook(webhook) = &mut destination.connection else {
        panic!("it is a webhook")
    };
    webhook
}

/// The delivery of an event whose payload is `{"n":<number>}`.
pub fn message(number: u64) -> Message {
    message_with(number, "{}", &format!(r#"{{"n":{number}}}"#))
}

pub fn message_with(number: u64, metadata: &str, payload: &str) -> Message {
    let seq = EventSeq(number);
    let event = Event {
        seq,
        id: EventId::new(now(), 0, number << 2),
        project: ProjectId::from_bits(3),
        source: SourceId::from_bits(4),
        event_type: "user.signed_up".parse().unwrap(),
        timestamp: now(),
        received_at: now(),
        key: None,
        metadata: RawJson::parse(metadata.to_owned()).unwrap(),
        payload: RawJson::parse(payload.to_owned()).unwrap(),
    };
    Message { seq: DeliverySeq::new(seq, 0), event: Arc::new(event), copy: None, fresh_id: false }
}

/// A resolver that answers by a script, in a circle, whatever name is asked for.
pub struct ScriptedResolver {
    answers: Vec<Vec<IpAddr>>,
    asked: Mutex<usize>,
}

impl ScriptedResolver {
    /// Each answer is a list of addresses, separated by spaces; an empty one means: no such name.
    pub fn answering(answers: &[&str]) -> Arc<Self> {
        let parse = |it: &&str| it.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self { answers: answers.iter().map(parse).collect(), asked: Mutex::new(0) })
    }

    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

#[async_trait]
impl Resolver for ScriptedResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock().unwrap();
        let answer = self.answers[*asked % self.answers.len()].clone();
        *asked += 1;
        if answer.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(answer) }
    }
}
