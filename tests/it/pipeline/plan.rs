//! What becomes of one event.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use tidegate::{
    catalog::Catalog,
    model::{Connection, Event, EventId, EventSeq, Lane, PipelineId, Plan, RawJson, SourceId},
    pipeline::{self, Compiled, Direction},
};

use super::{catalog, project_of, source_of, tools};

const FILE: &str = r#"
version: 1
project: acme
sources:
  - { name: app, kind: api }
  - { name: web, kind: api }
destinations:
  - { name: crm, kind: webhook, url: "https://crm.acme.com/", ordering: { key: payload.user_id } }
  - { name: slack, kind: webhook, url: "https://slack.acme.com/", ordering: fifo }
  - { name: warehouse, kind: webhook, url: "https://warehouse.acme.com/" }
pipelines:
  - name: signups
    on: ["user.signed_up"]
    when: payload.plan != "internal"
    steps:
      - filter.match: payload.feature in ["export", "api", "webhook"]
    routes:
      - to: crm
        steps: [ { map: { email: "{{ payload.email }}", plan: "{{ payload.plan }}", no: "{{ payload.no }}" } } ]
      - to: slack
        when: payload.plan == "scale"
      - to: warehouse
  - name: everything
    on: ["user.*", "order.*"]
    sources: [web]
    routes:
      - to: warehouse
        when: payload.total + 1 > 10
"#;

pub fn event(
    catalog: &Catalog,
    source: &str,
    event_type: &str,
    payload: serde_json::Value,
) -> Arc<Event> {
    Arc::new(Event {
        seq: EventSeq(1),
        id: EventId::new(Timestamp::UNIX_EPOCH, 1, 99),
        project: project_of(catalog),
        source: source_of(catalog, source),
        event_type: event_type.parse().unwrap(),
        timestamp: Timestamp::from_second(1_700_000_000).unwrap(),
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::of(&json!({})),
        payload: RawJson::of(&payload),
    })
}

/// A plan as people would tell it: `signups → crm`, and `everything → warehouse by when: …`.
fn told(plan: &Plan, catalog: &Catalog) -> (Vec<String>, Vec<String>) {
    let deliveries = plan.deliveries.iter().map(|it| {
        let pipeline = &catalog.pipelines[&it.pipeline].name;
        format!("{pipeline} → {}", catalog.destinations[&it.destination].name)
    });
    let skipped = plan.skipped.iter().map(|it| {
        let mut text = it.pipeline.as_ref().map_or("event".to_owned(), ToString::to_string);
        if let Some(route) = &it.route {
            text += &format!(" → {route}");
        }
        format!("{text} by {}: {}", it.by, it.reason)
    });
    (deliveries.collect(), skipped.collect())
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story, told in a table")]
fn every_route_whose_condition_holds_gets_a_delivery_and_the_rest_a_reason() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let check =
        |source: &str, event_type: &str, payload: serde_json::Value, to: &[&str], not: &[&str]| {
            let plan = pipeline::plan(&event(&catalog, source, event_type, payload), &compiled);
            let (deliveries, skipped) = told(&plan, &catalog);
            assert_eq!(
                (deliveries, skipped),
                (
                    to.iter().map(|it| (*it).to_owned()).collect(),
                    not.iter().map(|it| (*it).to_owned()).collect()
                )
            );
        };
    check(
        "app",
        "user.signed_up",
        json!({"plan": "scale", "feature": "api"}),
        &["signups → crm", "signups → slack", "signups → warehouse"],
        &[],
    );
    check(
        "app",
        "user.signed_up",
        json!({"plan": "pro", "feature": "api"}),
        &["signups → crm", "signups → warehouse"],
        &["signups → slack by when: `payload.plan == \"scale\"` does not hold"],
    );
    check(
        "app",
        "user.signed_up",
        json!({"plan": "internal", "feature": "api"}),
        &[],
        &["signups by when: `payload.plan != \"internal\"` does not hold"],
    );
    // A missing plan is another than `internal`; a missing feature is in no list.
    check(
        "app",
        "user.signed_up",
        json!({}),
        &[],
        &[
            "signups by filter.match: `payload.feature in [\"export\", \"api\", \"webhook\"]` does not hold",
        ],
    );
    check(
        "app",
        "order.made",
        json!({}),
        &[],
        &["event by trigger: no pipeline is triggered by this event"],
    );
    // One destination, wanted by two pipelines, gets two deliveries.
    check(
        "web",
        "user.signed_up",
        json!({"plan": "pro", "feature": "api", "total": 20}),
        &["signups → crm", "signups → warehouse", "everything → warehouse"],
        &["signups → slack by when: `payload.plan == \"scale\"` does not hold"],
    );
    check(
        "web",
        "order.made",
        json!({"total": "many"}),
        &[],
        &[
            "everything → warehouse by when: could not be evaluated: `+` takes numbers, not string and number",
        ],
    );
    check(
        "web",
        "orders",
        json!({}),
        &[],
        &["event by trigger: no pipeline is triggered by this event"],
    );
}

#[test]
fn a_step_of_a_route_changes_the_copy_of_that_route_only() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let payload = json!({"plan": "scale", "feature": "api", "email": "a@b.co"});
    let event = event(&catalog, "app", "user.signed_up", payload);
    let before = event.payload.clone();
    let plan = pipeline::plan(&event, &compiled);
    let copies: Vec<_> = plan
        .deliveries
        .iter()
        .map(|it| it.copy.as_ref()?.payload.as_ref().map(RawJson::as_str))
        .collect();
    assert_eq!(copies, [Some(r#"{"email":"a@b.co","plan":"scale"}"#), None, None]);
    assert_eq!(event.payload, before);
}

#[test]
fn a_delivery_stands_where_its_destinations_ordering_says() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let places = |user: serde_json::Value| {
        let payload = json!({"plan": "scale", "feature": "api", "user_id": user});
        let event = event(&catalog, "app", "user.signed_up", payload);
        let plan = pipeline::plan(&event, &compiled);
        // A replay finds the same place again.
        for delivery in &plan.deliveries {
            let placing =
                pipeline::Placing::of(&catalog.destinations[&delivery.destination], &catalog);
            assert_eq!(placing.place(&event), delivery.place);
        }
        [0, 1, 2].map(|it| plan.deliveries[it].place)
    };
    let [crm, slack, warehouse] = places(json!("u1"));
    assert_eq!(
        (crm.position, slack.position, warehouse.position),
        (1_700_000_000_000, 1_700_000_000_000, 0)
    );
    assert_eq!(warehouse.lane, Lane::NONE);
    let [other_crm, other_slack, _] = places(json!("u2"));
    assert_eq!(slack.lane, other_slack.lane);
    assert_ne!(crm.lane, other_crm.lane);
    assert_eq!(crm.lane, places(json!("u1"))[0].lane);
    assert_ne!(crm.lane, Lane::NONE);
}

#[test]
fn a_destination_that_is_gone_is_a_reason_and_stops_nothing_else() {
    let mut catalog = catalog(FILE);
    let slack = catalog.destination_named(project_of(&catalog), "slack").unwrap().id;
    catalog.destinations.remove(&slack);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let event =
        event(&catalog, "app", "user.signed_up", json!({"plan": "scale", "feature": "api"}));
    let (deliveries, skipped) = told(&pipeline::plan(&event, &compiled), &catalog);
    assert_eq!(deliveries, ["signups → crm", "signups → warehouse"]);
    assert_eq!(skipped, ["signups → slack by route: there is no destination `slack`"]);
}

#[test]
fn a_damaged_pipeline_says_so_and_stops_no_other() {
    let mut catalog = catalog(FILE);
    let id = *catalog.pipelines.keys().next().unwrap();
    let mut damaged = (*catalog.pipelines[&id]).clone();
    damaged.when = Some("payload.plan ==".to_owned());
    catalog.pipelines.insert(id, Arc::new(damaged));
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let event = event(&catalog, "web", "user.signed_up", json!({"total": 20}));
    let (deliveries, skipped) = told(&pipeline::plan(&event, &compiled), &catalog);
    assert_eq!(deliveries, ["everything → warehouse"]);
    assert!(
        skipped[0]
            .starts_with("signups by pipeline: the pipeline does not compile: when: must have"),
        "{skipped:?}"
    );
}

#[test]
fn a_disabled_pipeline_wants_nothing() {
    let catalog =
        catalog(&FILE.replace("  - name: signups\n", "  - name: signups\n    enabled: false\n"));
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let event =
        event(&catalog, "app", "user.signed_up", json!({"plan": "scale", "feature": "api"}));
    let plan = pipeline::plan(&event, &compiled);
    assert_eq!((plan.deliveries.len(), &*plan.skipped[0].by), (0, "trigger"));
}

proptest! {
    #[test]
    fn planning_twice_gives_the_same_plan(
        plan in prop::sample::select(vec![json!("scale"), json!("pro"), json!("internal"), json!(null), json!(5)]),
        feature in prop::sample::select(vec![json!("api"), json!("other"), json!(["api"])]),
        user in "[a-z]{0,3}",
        total in any::<f64>(),
        source in prop::sample::select(vec!["app", "web"]),
    ) {
        let catalog = catalog(FILE);
        let payload = json!({"plan": plan, "feature": feature, "user_id": user, "total": total});
        let event = event(&catalog, source, "user.signed_up", payload);
        let first = pipeline::plan(&event, &Compiled::of(&catalog, &Compiled::default(), &tools()));
        // Also after a restart, and with what was compiled before.
        let once = Compiled::of(&catalog, &Compiled::default(), &tools());
        let second = pipeline::plan(&event, &Compiled::of(&catalog, &once, &tools()));
        prop_assert_eq!(format!("{:?}", first.deliveries), format!("{:?}", second.deliveries));
        prop_assert_eq!(first.skipped, second.skipped);
    }
}

/// An event in Tidegate's own name, for these destinations.
fn own(catalog: &Catalog, to: &[&str]) -> Arc<Event> {
    let project = project_of(catalog);
    let id = |name: &&str| catalog.destination_named(project, name).unwrap().id;
    let to: Vec<_> = to.iter().map(id).collect();
    let mut event = Event::clone(&event(catalog, "app", "delete", json!({"userId": "u-1"})));
    (event.source, event.metadata) = (SourceId::SYSTEM, Direction::metadata(&to));
    Arc::new(event)
}

#[test]
fn an_event_of_the_systems_own_goes_to_those_it_names_and_in_their_order() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let named = own(&catalog, &["warehouse", "slack", "warehouse"]);

    let plan = pipeline::plan(&named, &compiled);

    let names: Vec<_> = plan
        .deliveries
        .iter()
        .map(|it| catalog.destinations[&it.destination].name.as_str())
        .collect();
    assert_eq!((names.as_slice(), plan.skipped.len()), (&["warehouse", "slack"][..], 0));
    assert!(plan.deliveries.iter().all(|it| it.pipeline == PipelineId::DIRECTED));
    assert_eq!(plan.deliveries[0].place.lane, Lane::NONE);
    assert_eq!(plan.deliveries[1].place.position, 1_700_000_000_000);
    // One that is gone is told, and one that names nobody went out already.
    let mut without = catalog.clone();
    without.destinations.retain(|_, it| it.name.as_str() != "slack");
    let plan = pipeline::plan(&named, &Compiled::of(&without, &compiled, &tools()));
    assert_eq!((plan.deliveries.len(), plan.skipped[0].by.as_str()), (1, "system"));
    let mut sent = Event::clone(&named);
    sent.metadata = RawJson::of(&json!({"source": "system"}));
    let plan = pipeline::plan(&Arc::new(sent), &compiled);
    assert_eq!((plan.deliveries.len(), plan.skipped[0].by.as_str()), (0, "system"));
}

#[test]
fn metadata_alone_directs_no_event() {
    let catalog = catalog(FILE);
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let mut forged = Event::clone(&own(&catalog, &["warehouse"]));
    forged.source = source_of(&catalog, "app");

    let plan = pipeline::plan(&Arc::new(forged), &compiled);

    assert_eq!((plan.deliveries.len(), plan.skipped[0].by.as_str()), (0, "trigger"));
}

#[test]
fn an_event_excludes_a_destination_by_its_integrations() {
    let mut catalog = catalog(FILE);
    for destination in catalog.destinations.values_mut() {
        let destination = Arc::make_mut(destination);
        let Connection::Webhook(webhook) = &mut destination.connection else {
            panic!("it is a webhook")
        };
        if destination.name.as_str() == "warehouse" {
            webhook.contract.integration = Some("Webhooks".to_owned());
        }
    }
    let compiled = Compiled::of(&catalog, &Compiled::default(), &tools());
    let payload =
        |integrations| json!({"plan": "scale", "feature": "api", "integrations": integrations});
    let planned = |integrations| {
        let event = event(&catalog, "app", "user.signed_up", payload(integrations));
        told(&pipeline::plan(&event, &compiled), &catalog)
    };

    let (to, skipped) = planned(json!({"All": false}));

    // Those without a name of that kind get it all the same.
    assert_eq!(to, ["signups → crm", "signups → slack"]);
    let reason = "`integrations` says `\"All\": false`, and nothing of `Webhooks`";
    assert_eq!(skipped, [format!("signups → warehouse by integrations: {reason}")]);
    assert_eq!(planned(json!({"All": false, "Webhooks": {"x": 1}})).0.len(), 3);
    assert_eq!(planned(json!({"Webhooks": false})).0.len(), 2);
}
