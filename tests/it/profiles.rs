//! Profiles as people configure them: what is left out, what is overridden, and what is refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, sample::subsequence};
use serde_json::{Map, Value, json};
use tidegate::{
    crypto::{SealContext, SecretField},
    model::{
        Auth, Connection, Destination, DestinationState, Profile, RawJson, Sealed, Secret, Webhook,
    },
    resources::{self, DestinationSpec, File, FileError, Spec as _, profiles::ProfileView},
};

use crate::apply::Bench;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn file(destination: &Value) -> File {
    let file = json!({"version": 1, "project": "acme", "destinations": [destination]});
    File::from_json(file).unwrap_or_else(|error| panic!("{error}"))
}

async fn apply(bench: &Bench, file: &File) -> Result<resources::Difference, FileError> {
    match resources::apply(file, &bench.catalog_writer, bench.means(), false).await {
        Ok(difference) => Ok(difference),
        Err(resources::ApplyError::Invalid(error)) => Err(error),
        Err(resources::ApplyError::Tests(error)) => panic!("{error}"),
        Err(resources::ApplyError::Store(error)) => panic!("{error}"),
    }
}

fn hook(profile: &str, more: Value) -> Value {
    let mut hook =
        json!({"name": "hook", "kind": "webhook", "profile": profile, "url": "https://a.example/"});
    let fields = hook.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    if fields.contains_key("urls") {
        fields.remove("url");
    }
    hook
}

async fn made(bench: &Bench, destination: &Value) -> Destination {
    apply(bench, &file(destination)).await.unwrap_or_else(|error| panic!("{error}"));
    bench.webhook("hook")
}

async fn refusal(destination: &Value) -> String {
    let json = json!({"version": 1, "project": "acme", "destinations": [destination]});
    let file = match File::from_json(json) {
        Ok(file) => file,
        Err(error) => return error.to_string(),
    };
    let refused = apply(&Bench::new().await, &file).await;
    refused.err().unwrap_or_else(|| panic!("it passed: {destination}")).to_string()
}

fn webhook(destination: &Destination) -> &Webhook {
    let Connection::Webhook(webhook) = &destination.connection else { panic!("it is a webhook") };
    webhook
}

fn opened(bench: &Bench, of: &Destination, sealed: &Sealed, field: SecretField) -> Secret {
    bench.vault.open(sealed, &SealContext::of_destination(of.project, of.id, field)).unwrap()
}

/// The environment that an export of this destination asks for.
fn environment(bench: &Bench, of: &Destination, name: &str) -> Option<Secret> {
    let webhook = webhook(of);
    if name == "HOOK_SECRET" {
        return Some(opened(
            bench,
            of,
            &webhook.signing_keys.first()?.secret,
            SecretField::SigningKey,
        ));
    }
    match (name, &webhook.auth) {
        ("HOOK_TOKEN", Auth::Bearer { token }) => {
            Some(opened(bench, of, token, SecretField::BearerToken))
        }
        ("HOOK_PASSWORD", Auth::Basic { password, .. }) => {
            Some(opened(bench, of, password, SecretField::BasicPassword))
        }
        _ => {
            let header = name.strip_prefix("HOOK_HEADER_")?.replace('_', "-");
            let mut headers = webhook.headers.iter();
            let (_, value) = headers.find(|(it, _)| it.eq_ignore_ascii_case(&header))?;
            Some(opened(bench, of, value, SecretField::Header))
        }
    }
}

/// Every value that can be overridden, with some that it may have.
fn overrides() -> Vec<(&'static str, Value)> {
    vec![
        ("envelope", json!(["standard", "type_payload", "full", "segment", "payload"])),
        ("method", json!(["POST", "PUT", "PATCH", "DELETE"])),
        ("user_agent", json!(["Hooks/2.0", "Segment.io/1.0"])),
        (
            "signature",
            json!([
                {}, {"over": "body"}, {"scheme": "standard"}, {"scheme": "stamped"},
                {"scheme": "sha1", "header": "X-My-Signature", "over": "first_element"},
                {"scheme": "prefixed", "header": "x-hub-signature-256"},
            ]),
        ),
        ("idempotency_key", json!(["none", "message", "message_and_destination"])),
        ("https_only", json!([true, false])),
        ("verify", json!([true, false])),
        ("whole_answer", json!([true, false])),
        ("integration", json!([false, "Webhooks", "My hooks"])),
        ("on_gone", json!(["disable", "dead", "retry"])),
        ("retry_after_at_most", json!(["1h", "5m"])),
        ("ordering", json!(["none", "fifo", {"key": "payload.user_id"}])),
        (
            "retry",
            json!([
                {"preset": "standard"}, {"preset": "segment-4h"}, {"waits": ["5s", "5m"]},
                {"exponential": {"base": "1s", "factor": 2.0, "max": "1m", "attempts": 9}},
            ]),
        ),
        ("retry_on", json!(["all", "temporary", "server_errors"])),
        ("expires_after", json!([false, "24h", "90m"])),
        ("concurrency", json!([1, 32])),
        ("rate_limit", json!([false, {"events": 10, "per": "1s"}])),
        ("timeout", json!(["3s", "5s", "15s"])),
        ("breaker", json!([{"failures_in_a_row": 3}, {"open_for": "1s"}])),
        ("batch", json!([true, false, {}, {"events": 10, "linger": "50ms"}])),
        ("headers", json!([{"X-Plan": "pro"}, {"X-User": "u-{{ payload.id }}", "X-B": "1"}])),
        ("auth", json!([{"bearer": "t0ken"}, {"basic": {"username": "u", "password": "p"}}])),
        ("signed", json!([true, false])),
        ("urls", json!([["https://b.example/{{ payload.id }}"], ["https://c.example/?a=1"]])),
    ]
}

/// A destination of any profile with any of its values overridden.
fn any_hook() -> impl Strategy<Value = Value> {
    let all = overrides();
    let count = all.len();
    let chosen = subsequence(all, 0..=count);
    let pick = prop::collection::vec(any::<prop::sample::Index>(), count);
    (prop::sample::select(&Profile::ALL[..]), chosen, pick).prop_map(|(profile, chosen, pick)| {
        let fields: Map<String, Value> = (chosen.iter().zip(pick))
            .map(|((field, values), pick)| {
                let values = values.as_array().unwrap();
                ((*field).to_owned(), values[pick.index(values.len())].clone())
            })
            .collect();
        hook(json!(profile).as_str().unwrap(), Value::Object(fields))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn exported_destinations_apply_without_a_change(hook in any_hook()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(goes_round(&hook));
    }
}

/// Whether what is shown has what was given, whose headers may be in upper case.
fn is_part(given: &Value, shown: &Value) -> bool {
    match (given, shown) {
        (Value::Object(given), Value::Object(shown)) => (given.iter())
            .all(|(name, given)| shown.get(name).is_some_and(|shown| is_part(given, shown))),
        (Value::String(given), Value::String(shown)) if given.starts_with("X-") => {
            given.eq_ignore_ascii_case(shown)
        }
        (given, shown) => given == shown,
    }
}

async fn goes_round(hook: &Value) {
    // Given
    let bench = Bench::new().await;
    let old = made(&bench, hook).await;

    // Then every override is there.
    let given: DestinationSpec = resources::read_json(hook.to_string().as_bytes()).unwrap();
    let shown = serde_json::to_value(DestinationSpec::of(&old)).unwrap();
    for (field, value) in serde_json::to_value(&given).unwrap().as_object().unwrap() {
        // `headers`, `auth` and `secret` are placeholders; one of `urls` is `url`.
        if !matches!(field.as_str(), "headers" | "auth" | "secret" | "urls") {
            assert!(is_part(value, &shown[field]), "{field}: {value} in {}", shown[field]);
        }
    }

    // Then an export says only what the profile does not, and changes nothing here.
    let yaml = resources::export(&bench.catalog(), old.project).unwrap();
    let brief = serde_json::to_value(DestinationSpec::of(&old).brief()).unwrap();
    let usual = ProfileView::of(webhook(&old).profile).values;
    for (field, value) in brief.as_object().unwrap() {
        assert!(
            usual.get(field).is_none_or(|usual| usual != value || field == "signed"),
            "{field}"
        );
    }
    let exported = File::read("x", &yaml, &|name| environment(&bench, &old, name));
    let exported = exported.unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let again = apply(&bench, &exported).await.unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert!(again.changes.is_empty(), "{again}\n{yaml}");

    // Then what is shown can be sent back.
    let shown = RawJson::of(&DestinationSpec::of(&old));
    let spec: DestinationSpec = resources::read_json(shown.bytes()).unwrap();
    let catalog = bench.catalog();
    let scope = resources::Scope::new(&catalog, old.project, bench.means());
    assert_eq!(spec.check(&scope, Some(&old)).unwrap(), old);

    // Then the same comes of it on another gateway.
    let other = Bench::new().await;
    apply(&other, &exported).await.unwrap();
    let new = other.webhook("hook");
    assert_eq!((&new.policy, &new.state), (&old.policy, &old.state));
    assert_eq!(webhook(&new).contract, webhook(&old).contract);
    assert_eq!(webhook(&new).urls, webhook(&old).urls);
    for (name, value) in &webhook(&new).headers {
        let before = &webhook(&old).headers[name];
        let value = opened(&other, &new, value, SecretField::Header);
        assert_eq!(value, opened(&bench, &old, before, SecretField::Header), "{name}");
    }
}

#[tokio::test]
async fn overrides_change_only_their_own_value() {
    for profile in Profile::ALL {
        let bench = Bench::new().await;
        let word = json!(profile).as_str().unwrap().to_owned();
        let usual = tidegate::destinations::profiles::values(profile);
        let plain = made(&bench, &hook(&word, json!({}))).await;
        assert_eq!(webhook(&plain).contract, usual.contract, "{word}");
        assert_eq!(plain.policy, usual.policy, "{word}");

        let changed = json!({
            "timeout": "7s", "expires_after": false, "integration": false,
            "signature": {"over": "body"}, "batch": {"events": 3},
        });
        let changed = made(&bench, &hook(&word, changed)).await;
        let mut policy = usual.policy.clone();
        policy.timeout = std::time::Duration::from_secs(7);
        policy.expires_after = None;
        policy.batch =
            Some(tidegate::model::Batch { events: 3.try_into().unwrap(), ..Default::default() });
        let mut contract = usual.contract.clone();
        contract.integration = None;
        contract.signature.over = tidegate::model::Signed::Body;
        assert_eq!((&changed.policy, &webhook(&changed).contract), (&policy, &contract), "{word}");
    }
}

#[tokio::test]
async fn contradictory_contracts_are_refused_by_field() {
    let six: Vec<String> = (0..6).map(|it| format!("https://{it}.example/")).collect();
    for (profile, more, expected) in [
        ("segment", json!({"urls": six}), "urls: must hold 1 to 5 URLs in the profile `segment`"),
        (
            "standard",
            json!({"urls": six[..2]}),
            "urls: must hold one URL in the profile `standard`",
        ),
        ("segment", json!({"urls": []}), "url: is required, found nothing"),
        ("segment", json!({"urls": ["https://a.example", "https://a.example/"]}), "urls[1]: must"),
        ("segmint", json!({}), "profile: must be one of `standard`, `ingestlayer`, `admin`"),
        ("admin", json!({"url": "http://a.example/"}), "url: must be an `https` URL"),
        (
            "standard",
            json!({"url": "http://a.example/{{ type }}", "https_only": true}),
            "url: must be an `https` URL where `https_only` is true, found an `http` URL",
        ),
        ("standard", json!({"url": "https://{{ payload.host }}/"}), "url: an endpoint"),
        ("standard", json!({"url": "https://a.example/{{ payload. }}"}), "url: must have"),
        ("standard", json!({"url": "https://a.example/{{ type }}#x"}), "url: an endpoint has no"),
        (
            "standard",
            json!({"url": "https://a.example/{% if type %}{{ type }}{% endif %}"}),
            "url: a URL holds `{{ … }}` and no other tags",
        ),
        (
            "standard",
            json!({"headers": {"X-A": "{{ payload.canary"}}),
            "headers.X-A: a header's template must have `}}`",
        ),
        ("standard", json!({"headers": {"x-a": "1", "X-A": "2"}}), "headers.x-a: must be a name"),
        (
            "admin",
            json!({"headers": {"X-Admin-Signature": "1"}}),
            "headers.X-Admin-Signature: must be another header than the one that carries",
        ),
        ("admin", json!({"signature": {"header": "Host"}}), "signature.header: the header `host`"),
        (
            "admin",
            json!({"signature": {"header": "authorization"}}),
            "signature.header: the header",
        ),
        ("admin", json!({"signature": {"header": "a b"}}), "signature.header: a header's name"),
        (
            "standard",
            json!({"signature": {"header": "x-signature"}}),
            "signature.header: must be `webhook-signature` where the scheme is `standard`",
        ),
        ("admin", json!({"signature": {"scheme": "md5"}}), "signature.scheme: must be one of"),
        ("standard", json!({"secret": "canary"}), "secret: "),
        ("admin", json!({"secret": ""}), "secret: "),
        ("admin", json!({"secret": "a".repeat(4097)}), "secret: must be 1 to 4096 bytes"),
        ("customerio", json!({"batch": {"events": 1001}}), "batch.events: must be 1 to 1000"),
        ("customerio", json!({"batch": {"size": 5}}), "batch.size: is not a field here"),
        ("customerio", json!({"batch": 5}), "batch: must be `true`, `false` or `{ events"),
        ("customerio", json!({"rate_limit": true}), "rate_limit: must be `false` or `{ events"),
        ("customerio", json!({"method": "GET"}), "method: must be one of `POST`, `PUT`"),
        ("customerio", json!({"user_agent": "grün"}), "user_agent: must be 1 to 256 bytes"),
        ("segment", json!({"integration": ""}), "integration: must be 1 to 128 bytes"),
        ("admin", json!({"expires_after": "soon"}), "expires_after: "),
        ("admin", json!({"expires_after": "100ms"}), "expires_after: must be 1s to 366d"),
    ] {
        let refusal = refusal(&hook(profile, more.clone())).await;
        let expected = format!("resources: destinations[0].{expected}");
        assert!(refusal.contains(&expected), "{more}:\n{refusal}\nnot\n{expected}");
        assert!(!refusal.contains("canary"), "{refusal}");
    }
}

#[tokio::test]
async fn a_generated_secret_fits_its_scheme_and_a_given_one_is_kept_as_it_is() {
    for profile in Profile::ALL {
        let word = json!(profile).as_str().unwrap().to_owned();
        let bench = Bench::new().await;
        let plain = made(&bench, &hook(&word, json!({"signed": true}))).await;
        let key = &webhook(&plain).signing_keys[0];
        let secret = opened(&bench, &plain, &key.secret, SecretField::SigningKey);
        assert_eq!(secret.expose().starts_with("whsec_"), profile == Profile::Standard, "{word}");
        if profile != Profile::Standard {
            let given = made(&bench, &hook(&word, json!({"secret": "our s3cret!"}))).await;
            let key = &webhook(&given).signing_keys[0];
            let secret = opened(&bench, &given, &key.secret, SecretField::SigningKey);
            assert_eq!(secret.expose(), "our s3cret!", "{word}");
        }
    }
}

#[tokio::test]
async fn another_secret_overlaps_where_the_scheme_can_and_takes_over_at_once_where_it_cannot() {
    for profile in Profile::ALL {
        let word = json!(profile).as_str().unwrap().to_owned();
        let bench = Bench::new().await;
        made(&bench, &hook(&word, json!({"secret": SECRET}))).await;
        let other = SECRET.replace('M', "N");
        let changed = made(&bench, &hook(&word, json!({"secret": other}))).await;
        let keys = &webhook(&changed).signing_keys;
        let signs = |hours: i64| {
            let at: Timestamp = bench.now + SignedDuration::from_hours(hours);
            keys.iter().filter(|it| it.is_alive(at)).count()
        };
        let overlaps = matches!(profile, Profile::Standard | Profile::Ingestlayer);
        assert_eq!((signs(1), signs(25)), (if overlaps { 2 } else { 1 }, 1), "{word}");
        let newest = opened(&bench, &changed, &keys[0].secret, SecretField::SigningKey);
        assert_eq!(newest.expose(), other);
    }
}

#[tokio::test]
async fn a_secret_that_the_new_scheme_cannot_use_must_be_replaced() {
    let bench = Bench::new().await;
    made(&bench, &hook("admin", json!({"secret": "our s3cret!"}))).await;
    let to_standard = hook("standard", json!({}));
    let refused = apply(&bench, &file(&to_standard)).await.unwrap_err().to_string();
    assert!(refused.contains("secret: must be given: the scheme cannot sign"), "{refused}");
    let changed = made(&bench, &hook("standard", json!({"secret": SECRET}))).await;
    assert_eq!(webhook(&changed).signing_keys.len(), 1);

    // Where the old one fits, it stays: here a text that may be any.
    let back = made(&bench, &hook("segment", json!({}))).await;
    assert_eq!(webhook(&back).signing_keys, webhook(&changed).signing_keys);
}

#[tokio::test]
async fn new_or_changed_url_requires_verification() {
    let bench = Bench::new().await;
    let unverified = |it: &Destination| matches!(it.state, DestinationState::Unverified { .. });
    assert!(unverified(&made(&bench, &hook("admin", json!({}))).await));
    let waived = made(&bench, &hook("admin", json!({"verify": false}))).await;
    assert_eq!(waived.state, DestinationState::Active);
    assert!(unverified(&made(&bench, &hook("admin", json!({}))).await));
    let moved = hook("admin", json!({"verify": true, "url": "https://b.example/"}));
    assert!(unverified(&made(&bench, &moved).await));
    assert!(!unverified(&made(&bench, &hook("segment", json!({}))).await));
}

#[tokio::test]
async fn every_file_in_the_documentation_can_be_applied() {
    let text = fs::read_to_string(documentation()).unwrap();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|it| it.split("```").next());
    let files: Vec<&str> = blocks.filter(|it| it.starts_with("version: 1")).collect();
    assert_eq!(files.len(), 5);
    for file in files {
        let bench = Bench::new().await;
        let file = File::read("docs", file, &|_| Some(Secret::new(SECRET)));
        let file = file.unwrap_or_else(|error| panic!("{error}"));
        let made = apply(&bench, &file).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(made.changes.len() >= 3, "{made}");
    }
}

fn documentation() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md")
}

#[test]
fn the_documentation_shows_the_values_that_the_code_has() {
    const BEGIN: &str = "<!-- profiles: made from the code by UPDATE_GOLDEN=1 -->\n";
    const END: &str = "<!-- /profiles -->";
    let path = documentation();
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let table = resources::profiles::markdown(&Profile::ALL);
    let expected = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text == expected,
        "docs/profiles.md is not what the code says; if the change is meant, run `UPDATE_GOLDEN=1 cargo test --test it profiles`"
    );
}
