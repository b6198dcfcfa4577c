//! The values of each profile as people read them: for the API, the command line and the docs, all
//! from the same code that resolves them.

use serde::Serialize;
use serde_json::{Map, Value};

use super::PolicySpec;
use crate::{
    destinations::{
        kind,
        profiles::{self, WithoutSecret},
        webhook::{config::WebhookSpec, word},
    },
    model::Profile,
};

/// A profile and what each of its values is, in the shape in which a destination overrides them.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Profile)]
pub struct ProfileView {
    pub profile: Profile,
    /// URLs that one destination may have. It cannot be overridden.
    pub most_urls: usize,
    /// What happens where a destination gives no `secret`.
    pub without_secret: WithoutSecret,
    /// Each by the name of the field of a destination that overrides it.
    #[schema(value_type = Object)]
    pub values: Map<String, Value>,
}

impl ProfileView {
    pub fn of(profile: Profile) -> Self {
        let values = profiles::values(profile);
        let mut fields = kind::written(&WebhookSpec::values(profile, &values.contract));
        fields.extend(PolicySpec::of(&values.policy).written());
        fields.retain(|field, _| field != "profile");
        let (most_urls, without_secret) = (values.most_urls, values.without_secret);
        Self { profile, most_urls, without_secret, values: fields }
    }
}

/// A row for each value and a column for each profile, under a row of titles. Cells are what a
/// person would write in YAML.
pub fn table(profiles: &[Profile]) -> Vec<Vec<String>> {
    let views: Vec<ProfileView> = profiles.iter().map(|it| ProfileView::of(*it)).collect();
    let mut title = vec![String::new()];
    title.extend(views.iter().map(|it| word(it.profile)));
    let mut urls = vec!["urls, at most".to_owned()];
    urls.extend(views.iter().map(|it| it.most_urls.to_string()));
    let mut secret = vec!["without a secret".to_owned()];
    secret.extend(views.iter().map(|it| word(it.without_secret)));
    let mut rows = vec![title, urls, secret];
    let names = views.first().into_iter().flat_map(|it| it.values.keys());
    for name in names {
        let column = |view: &ProfileView| view.values.get(name).cloned().unwrap_or_default();
        let values: Vec<Value> = views.iter().map(column).collect();
        // Of these, each part can be overridden by itself.
        let has_parts = matches!(name.as_str(), "signature" | "breaker");
        let parts = values.first().filter(|_| has_parts).and_then(Value::as_object);
        match parts {
            None => rows.push(row(name.clone(), values.iter())),
            Some(parts) => {
                for part in parts.keys() {
                    rows.push(row(format!("{name}.{part}"), values.iter().map(|it| &it[part])));
                }
            }
        }
    }
    rows
}

fn row<'a>(name: String, values: impl Iterator<Item = &'a Value>) -> Vec<String> {
    [name].into_iter().chain(values.map(cell)).collect()
}

/// The value as YAML on one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(cell).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, it)| !it.is_null());
            let fields: Vec<String> =
                fields.map(|(name, it)| format!("{name}: {}", cell(it))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
    }
}

/// The table in Markdown, as docs/profiles.md has it. Profiles are its columns.
pub fn markdown(profiles: &[Profile]) -> String {
    let mut text = String::new();
    for (place, row) in table(profiles).iter().enumerate() {
        let cells = row.iter().enumerate().map(|(column, it)| match (place, column) {
            _ if it.is_empty() => String::new(),
            (0, _) | (_, 0) => format!("`{it}`"),
            (_, _) => it.clone(),
        });
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        if place == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(row.len())));
        }
    }
    text
}
