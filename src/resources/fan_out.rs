//! How many deliveries one event could make, at most, as routes say it: conditions and steps may make fewer,
//! and scripts that return lists more.

use std::collections::{BTreeMap, HashMap};

use crate::{
    catalog::Catalog,
    model::{Name, Pattern, Pipeline, ProjectId},
    pipeline::MOST_DELIVERIES,
};

/// What to tell if one event could make more deliveries than it may have.
pub(super) fn warning(catalog: &Catalog, project: ProjectId) -> Option<String> {
    let own = catalog.pipelines.values().filter(|it| it.project == project && it.enabled);
    let pipelines: Vec<&Pipeline> = own.map(AsRef::as_ref).collect();
    let all: usize = pipelines.iter().map(|it| it.routes.len()).sum();
    if all <= MOST_DELIVERIES {
        return None;
    }
    let sources = catalog.sources.values().filter(|it| it.project == project);
    let most = sources.map(|it| (most(&pipelines, &it.name), &it.name));
    let ((routes, event), source) = most.max_by_key(|it| it.0.0)?;
    (routes > MOST_DELIVERIES).then(|| {
        format!(
            "{event} from the source `{source}` could make {routes} deliveries, and an event has at most \
             {MOST_DELIVERIES}: what its pipelines plan beyond that becomes dead letters, and beyond \
             {} is left out; let fewer pipelines be triggered by it, or give their routes conditions",
            MOST_DELIVERIES + MOST_DELIVERIES / 2
        )
    })
}

/// The most routes that one event of a source can meet, and which event that is.
fn most(pipelines: &[&Pipeline], source: &Name) -> (usize, String) {
    let (mut any, mut groups) = (0, HashMap::<&str, usize>::new());
    let mut types = BTreeMap::<&str, usize>::new();
    let hears = |it: &&&Pipeline| it.sources.is_empty() || it.sources.contains(source);
    for pipeline in pipelines.iter().filter(hears) {
        let routes = pipeline.routes.len();
        if pipeline.on.is_empty() || pipeline.on.contains(&Pattern::All) {
            any += routes;
            continue;
        }
        // A pipeline counts once for an event, however many of its patterns match it.
        for (place, pattern) in pipeline.on.iter().enumerate() {
            let is_covered = pipeline
                .on
                .iter()
                .enumerate()
                .any(|(other, it)| covers(it, pattern) && (it != pattern || other < place));
            match pattern {
                Pattern::Group(it) if !is_covered => {
                    *groups.entry(it.as_str()).or_default() += routes
                }
                Pattern::Type(it) if !is_covered => {
                    *types.entry(it.as_str()).or_default() += routes
                }
                Pattern::All | Pattern::Group(_) | Pattern::Type(_) => (),
            }
        }
    }
    let in_groups = |text: &str| -> usize {
        let ends = text.match_indices('.').map(|(dot, _)| &text[..=dot]);
        ends.filter_map(|it| groups.get(it)).sum()
    };
    let typed =
        types.iter().map(|(it, own)| (own + in_groups(it), format!("an event of type `{it}`")));
    let grouped = groups.keys().map(|it| (in_groups(it), format!("an event of type `{it}…`")));
    let (more, event) = typed.chain(grouped).max().unwrap_or_else(|| (0, "any event".to_owned()));
    (any + more, if more == 0 { "any event".to_owned() } else { event })
}

/// Whether whatever the second matches is matched by the first.
fn covers(wide: &Pattern, narrow: &Pattern) -> bool {
    match (wide, narrow) {
        (Pattern::All, _) => true,
        (Pattern::Group(prefix), Pattern::Group(it)) => it.starts_with(prefix.as_str()),
        (wide, Pattern::Type(it)) => wide.matches(it),
        (Pattern::Group(_) | Pattern::Type(_), Pattern::All)
        | (Pattern::Type(_), Pattern::Group(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pipeline(on: &[&str], sources: &[&str], routes: usize) -> Pipeline {
        let routes = vec![json!({ "to": "crm" }); routes];
        let pipeline = json!({
            "id": crate::model::PipelineId::from_bits(1), "project": ProjectId::from_bits(1), "name": "p",
            "version": 1, "enabled": true, "on": on, "sources": sources, "routes": routes,
            "created_at": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(pipeline).unwrap()
    }

    #[test]
    fn the_event_that_meets_the_most_routes_is_found() {
        let source: Name = "app".parse().unwrap();
        let check = |pipelines: &[Pipeline], expected: usize, event: &str| {
            let pipelines: Vec<&Pipeline> = pipelines.iter().collect();
            assert_eq!(most(&pipelines, &source), (expected, event.to_owned()));
        };
        let any = pipeline(&[], &[], 2);
        let users = pipeline(&["user.*"], &[], 3);
        let signups = pipeline(&["user.signed_up", "user.*", "user.signed_up"], &["app"], 5);
        let orders = pipeline(&["order.paid", "order.paid"], &[], 7);
        let others = pipeline(&["*"], &["web"], 100);
        check(&[], 0, "any event");
        check(&[any.clone(), others.clone()], 2, "any event");
        check(&[any.clone(), users.clone()], 5, "an event of type `user.…`");
        check(&[any.clone(), users.clone(), signups.clone()], 10, "an event of type `user.…`");
        check(
            &[any, users, signups, orders.clone(), orders, others],
            16,
            "an event of type `order.paid`",
        );
    }
}
