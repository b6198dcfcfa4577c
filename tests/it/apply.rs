//! Files of resources: what is wrong with them, what they change, and that they change all or nothing.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use tidegate::{
    catalog::{Catalog, CatalogWriter},
    crypto::{SealContext, SecretField, SeededRandom, Vault},
    model::{Auth, Author, Connection, Ordering, RawJson, Secret},
    resources::{self, Difference, File, FileError, Means, Spec},
    store::{Change, Document, Registry, Result, StoreError},
};

pub const FILE: &str = r#"version: 1
project: acme
sources:
  - { name: app, kind: api }
destinations:
  - name: crm-webhook
    kind: webhook
    url: https://api.acme.com/hooks
    secret: "${HOOK_SECRET}"
    headers: { X-Plan: "pro" }
    retry: { waits: [5s, 5m, 1h] }
    ordering: { key: payload.user_id }
  - name: audit
    kind: webhook
    url: http://audit.internal:8080/in
    auth: { bearer: "Token ${AUDIT_TOKEN}" }
    signed: false
    ordering: fifo
pipelines:
  - name: signups
    on: ["user.signed_up", "order.*"]
    sources: [app]
    when: payload.plan != "internal"
    steps:
      - filter.match: payload.feature in ["export", "api", "webhook"]
    routes:
      - to: crm-webhook
        steps: [ { map: { email: "{{ payload.email }}", price: "$${{ payload.price }}" } } ]
      - to: audit
        when: payload.plan == "scale"
event_types:
  - name: user.signed_up
    description: Somebody is new
    group: accounts
    example: { plan: pro, big: 1.5 }
    schema: { type: object, required: [plan], properties: { plan: { enum: [free, pro] } } }
    validate: flag
"#;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Documents in memory, which fails when it is told to: what a full disk looks like from here.
#[derive(Default)]
struct Shelf {
    documents: Mutex<Vec<Document>>,
    is_full: Mutex<bool>,
}

#[async_trait]
impl Registry for Shelf {
    async fn load(&self) -> Result<Vec<Document>> {
        Ok(self.documents.lock().unwrap().clone())
    }

    async fn change(&self, changes: Vec<Change>) -> Result<()> {
        if *self.is_full.lock().unwrap() {
            return Err(StoreError::Full);
        }
        let mut documents = self.documents.lock().unwrap();
        for change in changes {
            let (kind, id) = match &change {
                Change::Put(it) => (it.kind.clone(), it.id),
                Change::Delete { kind, id } => (kind.clone(), *id),
            };
            documents.retain(|it| (&it.kind, it.id) != (&kind, id));
            if let Change::Put(document) = change {
                documents.push(document);
            }
        }
        Ok(())
    }
}

/// A gateway without its doors: catalogue, vault and clock.
pub struct Bench {
    shelf: Arc<Shelf>,
    pub catalog_writer: CatalogWriter,
    pub vault: Vault,
    random: SeededRandom,
    pub now: Timestamp,
}

impl Bench {
    pub async fn new() -> Self {
        let shelf = Arc::new(Shelf::default());
        Self {
            catalog_writer: CatalogWriter::open(shelf.clone()).await.unwrap(),
            shelf,
            vault: Vault::ephemeral(Arc::new(SeededRandom::new(1))),
            random: SeededRandom::new(2),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    pub fn means(&self) -> Means<'_> {
        let options = resources::Options::default();
        let author = Author::File;
        Means { vault: &self.vault, random: &self.random, now: self.now, author, options }
    }

    async fn apply(&self, text: &str) -> Difference {
        self.apply_with(text, false).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn apply_with(&self, text: &str, prune: bool) -> Result<Difference, FileError> {
        let file = File::read("acme.yaml", text, &variable)?;
        match resources::apply(&file, &self.catalog_writer, self.means(), prune).await {
            Ok(difference) => Ok(difference),
            Err(resources::ApplyError::Invalid(error)) => Err(error),
            Err(resources::ApplyError::Tests(error)) => panic!("{error}"),
            Err(resources::ApplyError::Store(error)) => panic!("{error}"),
        }
    }

    pub async fn refusal(&self, text: &str) -> String {
        let before = self.shelf.documents.lock().unwrap().clone();
        let error = self.apply_with(text, false).await.expect_err("the file passed");
        assert_eq!(
            *self.shelf.documents.lock().unwrap(),
            before,
            "a refused file changed something"
        );
        error.to_string()
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog_writer.current()
    }

    pub fn webhook(&self, name: &str) -> tidegate::model::Destination {
        let catalog = self.catalog();
        let project = catalog.project_named("acme").unwrap().id;
        (**catalog.destination_named(project, name).unwrap()).clone()
    }
}

fn variable(name: &str) -> Option<Secret> {
    let text = match name {
        "HOOK_SECRET" | "CRM_WEBHOOK_SECRET" => SECRET,
        "CRM_WEBHOOK_HEADER_X_PLAN" => "pro",
        "AUDIT_TOKEN" => "t0ken",
        "AUDIT_TOKEN_WHOLE" => "Token t0ken",
        "OTHER_SECRET" => OTHER_SECRET,
        _ => return None,
    };
    Some(Secret::new(text))
}

#[tokio::test]
async fn a_file_makes_what_it_says() {
    let bench = Bench::new().await;
    let difference = bench.apply(FILE).await;
    assert_eq!(difference.changes.len(), 6);

    let crm = bench.webhook("crm-webhook");
    assert_eq!(crm.policy.ordering, Ordering::Key("payload.user_id".to_owned()));
    let Connection::Webhook(webhook) = &crm.connection else { panic!("it is a webhook") };
    let context = SealContext::of_destination(crm.project, crm.id, SecretField::SigningKey);
    let secret = bench.vault.open(&webhook.signing_keys[0].secret, &context).unwrap();
    assert_eq!(secret.expose(), SECRET);

    let audit = bench.webhook("audit");
    let Connection::Webhook(webhook) = &audit.connection else { panic!("it is a webhook") };
    assert!(webhook.signing_keys.is_empty());
    let Auth::Bearer { token } = &webhook.auth else { panic!("no bearer token") };
    let context = SealContext::of_destination(audit.project, audit.id, SecretField::BearerToken);
    assert_eq!(bench.vault.open(token, &context).unwrap().expose(), "Token t0ken");

    let catalog = bench.catalog();
    let pipeline = catalog.pipelines.values().next().unwrap();
    assert_eq!(pipeline.routes[0].steps[0].0["map"]["price"], "${{ payload.price }}");
}

#[tokio::test]
async fn applying_a_file_twice_changes_nothing() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    let before = bench.shelf.documents.lock().unwrap().clone();
    let again = bench.apply(FILE).await;
    assert_eq!((again.changes.len(), again.unchanged), (0, 6), "{again}");
    assert_eq!(again.to_string(), "nothing to change: 6 as the file says\n");
    assert_eq!(*bench.shelf.documents.lock().unwrap(), before);
}

#[tokio::test]
async fn a_plan_reads_like_a_diff_and_shows_no_secret() {
    let bench = Bench::new().await;
    let file = File::read("acme.yaml", FILE, &variable).unwrap();
    let planned = resources::plan(&file, &Catalog::default(), bench.means(), false).unwrap();
    let text = planned.difference.to_string();
    for line in [
        "+ project acme\n",
        "+ destination crm-webhook\n",
        "    + url: \"https://api.acme.com/hooks\"\n",
        "    + secret: \"…\"\n",
        "    + auth.bearer: \"…\"\n",
        "    + routes[1].when: \"payload.plan == \\\"scale\\\"\"\n",
        "6 to create, 0 to change, 0 to delete, 0 unchanged\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let json = serde_json::to_string(&planned.difference).unwrap();
    for shown in [&text, &json] {
        assert!(!shown.contains("whsec_") && !shown.contains("t0ken"), "{shown}");
    }

    bench.apply(FILE).await;
    let changed = FILE
        .replace("https://api.acme.com/hooks", "https://api.acme.com/v2")
        .replace("${HOOK_SECRET}", "${OTHER_SECRET}")
        .replace("\n    when: payload.plan != \"internal\"", "")
        .replace("[\"user.signed_up\", \"order.*\"]", "[\"user.signed_up\", \"cart.*\", \"x\"]")
        .replace("    headers: { X-Plan: \"pro\" }\n", "")
        .replace("ordering: fifo", "ordering: none");
    let expected = "\
~ destination crm-webhook
    ~ url: \"https://api.acme.com/hooks\" → \"https://api.acme.com/v2\"
    - headers.X-Plan: \"…\"
    ~ secret: \"…\" → \"…\"
~ destination audit
    ~ ordering: \"fifo\" → \"none\"
~ pipeline signups
    ~ on[1]: \"order.*\" → \"cart.*\"
    + on[2]: \"x\"
    - when: \"payload.plan != \\\"internal\\\"\"
0 to create, 3 to change, 0 to delete, 3 unchanged
";
    assert_eq!(bench.apply(&changed).await.to_string(), expected);
    assert_eq!(bench.webhook("crm-webhook").version, 2);
}

#[tokio::test]
async fn a_new_signing_secret_takes_over_and_the_old_one_signs_for_a_day() {
    let mut bench = Bench::new().await;
    bench.apply(FILE).await;
    let changed = FILE.replace("${HOOK_SECRET}", "${OTHER_SECRET}");
    bench.apply(&changed).await;
    let Connection::Webhook(webhook) = bench.webhook("crm-webhook").connection else {
        panic!("it is a webhook")
    };
    let keys = webhook.signing_keys;
    assert_eq!((keys.len(), keys[0].expires_at), (2, None));
    assert_eq!(keys[1].expires_at, Some("2026-01-02T00:00:00Z".parse().unwrap()));

    // The day after, the old one is gone with the next change, and not before: to read changes nothing.
    bench.now = "2026-01-03T00:00:00Z".parse().unwrap();
    assert!(bench.apply(&changed).await.changes.is_empty());
    bench.apply(FILE).await;
    let Connection::Webhook(webhook) = bench.webhook("crm-webhook").connection else {
        panic!("it is a webhook")
    };
    assert_eq!(webhook.signing_keys.len(), 2);
    assert_eq!(webhook.signing_keys[0].expires_at, None);
}

#[tokio::test]
async fn a_destination_without_a_secret_gets_one_and_keeps_it() {
    let bench = Bench::new().await;
    let text = FILE.replace("    secret: \"${HOOK_SECRET}\"\n", "");
    bench.apply(&text).await;
    let first = bench.webhook("crm-webhook");
    let Connection::Webhook(webhook) = &first.connection else { panic!("it is a webhook") };
    let context = SealContext::of_destination(first.project, first.id, SecretField::SigningKey);
    let secret = bench.vault.open(&webhook.signing_keys[0].secret, &context).unwrap();
    assert!(secret.expose().starts_with("whsec_"));
    assert!(bench.apply(&text).await.changes.is_empty());
    assert_eq!(bench.webhook("crm-webhook"), first);
}

#[tokio::test]
async fn all_errors_come_at_once() {
    let bench = Bench::new().await;
    let text = FILE
        .replace("- to: audit", "- to: nowhere")
        .replace("1h] }", "9d] }")
        .replace("plan != \"internal\"", "plan !");
    let refusal = bench.refusal(&text).await;
    let lines: Vec<&str> = refusal.lines().collect();
    assert!(lines[0].contains("retry.waits[2]"), "{refusal}");
    for part in ["routes[1].to", "pipelines[0].when"] {
        assert!(refusal.contains(part), "{part} in\n{refusal}");
    }
    // A destination that is wrong itself is not missing as well.
    assert_eq!(lines.len(), 3, "{refusal}");
}

#[tokio::test]
async fn a_store_that_fails_leaves_everything_as_it_was() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    let (catalog, documents) = (bench.catalog(), bench.shelf.documents.lock().unwrap().clone());
    *bench.shelf.is_full.lock().unwrap() = true;
    let changed = FILE.replace("/hooks", "/v2").replace("name: signups", "name: others");
    let file = File::read("acme.yaml", &changed, &variable).unwrap();
    let error =
        resources::apply(&file, &bench.catalog_writer, bench.means(), false).await.unwrap_err();
    assert!(matches!(error, resources::ApplyError::Store(StoreError::Full)));
    assert!(Arc::ptr_eq(&catalog, &bench.catalog()));
    assert_eq!(*bench.shelf.documents.lock().unwrap(), documents);
}

#[tokio::test]
async fn resources_missing_from_a_file_stay_until_pruned() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    let small = "version: 1\nproject: acme\nsources: [ { name: app, kind: api } ]\n";
    let difference = bench.apply(small).await;
    assert_eq!((difference.changes.len(), difference.left_alone), (0, 4));
    let pruned = bench.apply_with(small, true).await.unwrap();
    let expected = "\
- pipeline signups
- destination crm-webhook
- destination audit
- event type user.signed_up
0 to create, 0 to change, 4 to delete, 2 unchanged
";
    assert_eq!(pruned.to_string(), expected);
    assert!(bench.catalog().destinations.is_empty());
    assert_eq!(bench.catalog().sources.len(), 1);
}

#[tokio::test]
async fn another_project_is_left_alone_and_may_use_the_same_names() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    let other = FILE.replace("project: acme", "project: { name: other, retention: 30d }");
    assert_eq!(bench.apply_with(&other, true).await.unwrap().changes.len(), 6);
    assert!(bench.apply(FILE).await.changes.is_empty());
    // The short form says nothing about the project's settings.
    let short = FILE.replace("project: acme", "project: other");
    assert!(bench.apply(&short).await.changes.is_empty());
}

#[tokio::test]
async fn an_export_can_be_applied_again_and_changes_nothing() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    let catalog = bench.catalog();
    let project = catalog.project_named("acme").unwrap().id;
    let yaml = resources::export(&catalog, project).unwrap();
    assert!(!yaml.contains("whsec_") && !yaml.contains("t0ken"), "{yaml}");
    assert!(yaml.contains("${CRM_WEBHOOK_SECRET}") && yaml.contains("${AUDIT_TOKEN}"), "{yaml}");
    assert!(yaml.contains("$${{ payload.price }}"), "{yaml}");

    let whole = yaml.replace("${AUDIT_TOKEN}", "${AUDIT_TOKEN_WHOLE}");
    let again = bench.apply(&whole).await;
    assert!(again.changes.is_empty(), "{again}\n{yaml}");
}

#[tokio::test]
async fn shown_resources_can_be_sent_back_with_their_secrets() {
    let bench = Bench::new().await;
    bench.apply(FILE).await;
    for name in ["crm-webhook", "audit"] {
        let old = bench.webhook(name);
        let shown = RawJson::of(&resources::DestinationSpec::of(&old));
        assert!(!shown.as_str().contains("whsec_") && !shown.as_str().contains("t0ken"));
        let spec: resources::DestinationSpec = resources::read_json(shown.bytes()).unwrap();
        let catalog = bench.catalog();
        let scope = resources::Scope::new(&catalog, old.project, bench.means());
        assert_eq!(spec.check(&scope, Some(&old)).unwrap(), old);
        // Without a secret behind it, a placeholder is not one.
        assert!(spec.check(&scope, None).is_err());
    }
}

#[test]
fn an_error_in_json_names_the_field_and_never_the_value() {
    let read = |text: &str| {
        resources::read_json::<resources::DestinationSpec>(text.as_bytes()).unwrap_err().to_string()
    };
    let secret = read(r#"{"name":"a","kind":"webhook","url":"https://a","secret":31337}"#);
    assert_eq!(secret, "secret: must be a string, found a number");
    let unknown =
        read(r#"{"name":"a","kind":"webhook","url":"https://a","auth":{"basic":{"user":1}}}"#);
    assert!(unknown.starts_with("auth.basic.user: is not a field here"), "{unknown}");
    let broken = read(r#"{"name": whsec_abc}"#);
    assert_eq!(broken, "must be valid JSON: line 1, column 10, found something else");
}
