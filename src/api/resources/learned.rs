//! What is known of the fields of a type of event, from its schema and from traffic; and how a type
//! that traffic has shown is made a resource.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    create,
    event_types::{EventTypeView, named},
    replace,
};
use crate::{
    api::{
        Api,
        request::{Access, Administer, Body, Read},
    },
    model::{EventType, RawJson, TypeName, Validate},
    problem::{Kind, Problem},
    resources::{EventTypeSpec, Spec as _},
    schema::{self, SeenField, learned::Type},
};

/// Show the fields of a type of event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventTypeFields)]
pub struct FieldsView {
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub event_type: TypeName,
    /// Whether the type is registered.
    pub registered: bool,
    /// How many payloads were looked into: the first hundred, and then one of 256.
    pub looked_into: u64,
    /// Those of the schema in its order, and then those that only traffic has shown. At most 1,500.
    pub fields: Vec<FieldView>,
}

/// A field of payloads.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventTypeField)]
pub struct FieldView {
    /// As expressions read it: `payload.items[].price`, where `[]` stands for every element, and `.*` for
    /// members whose names are data.
    #[schema(example = "payload.plan")]
    pub path: String,
    /// `null`, `boolean`, `integer`, `number`, `string`, `array`, `object`: by the schema if it says so,
    /// and else as they came.
    pub kinds: Vec<&'static str>,
    /// Whether it stands in the schema.
    pub in_schema: bool,
    /// Whether the schema asks for it whenever what it stands in is there.
    pub required: bool,
    /// By the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub description: Option<String>,
    /// The values that the schema lists. Traffic adds none: no value of any payload is kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub values: Vec<Value>,
    /// What the payloads show that were looked into; null where none had it.
    pub seen: Option<SeenView>,
}

/// How a field came.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SeenField)]
pub struct SeenView {
    /// How often it was there.
    pub count: u64,
    /// How often of the times when what it stands in was there, from 0 to 1.
    pub share: f64,
    /// How often with a value of each kind.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub kinds: BTreeMap<&'static str, u64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_seen_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Timestamp>,
}

impl FieldView {
    fn of_schema(it: schema::SchemaField) -> Self {
        Self {
            path: it.field.path,
            kinds: it.field.kinds.names(),
            in_schema: true,
            required: it.required,
            description: it.description,
            values: it.values,
            seen: None,
        }
    }

    fn of_traffic(it: &SeenField) -> Self {
        Self {
            path: it.field.path.clone(),
            kinds: it.field.kinds.names(),
            in_schema: false,
            required: false,
            description: None,
            values: Vec::new(),
            seen: Some(SeenView::of(it)),
        }
    }
}

impl SeenView {
    fn of(it: &SeenField) -> Self {
        // Counts that were made one after the other may be one apart.
        let share = (it.count as f64 / it.of.max(1) as f64).min(1.0);
        Self {
            count: it.count,
            share: (share * 10_000.0).round() / 10_000.0,
            kinds: it.by_kind.iter().copied().collect(),
            first_seen_at: it.first,
            last_seen_at: it.last,
        }
    }
}

fn fields_of(registered: Option<&EventType>, learned: Option<&Type>) -> Vec<FieldView> {
    let schema = registered.and_then(|it| it.schema.as_ref()).map(RawJson::to_value);
    let described = schema.as_ref().map(schema::fields).unwrap_or_default();
    let mut fields: Vec<_> = described.into_iter().map(FieldView::of_schema).collect();
    let places: BTreeMap<String, usize> =
        fields.iter().enumerate().map(|(place, it)| (it.path.clone(), place)).collect();
    for seen in learned.map(|it| it.shape().list()).unwrap_or_default() {
        match places.get(&seen.field.path) {
            Some(&place) => {
                let field = &mut fields[place];
                if field.kinds.is_empty() {
                    field.kinds = seen.field.kinds.names();
                }
                field.seen = Some(SeenView::of(&seen));
            }
            None => fields.push(FieldView::of_traffic(&seen)),
        }
    }
    fields
}

/// List the fields of an event type
///
/// Of the payload, from the schema and from what traffic shows, for a type that is registered or only
/// known from traffic.
#[utoipa::path(
    get,
    path = "/api/v1/event-types/{event_type}/fields",
    tag = "event-types",
    params(("event_type" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "The fields", body = FieldsView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn event_type_fields(
    State(api): State<Api>,
    access: Access<Read>,
    Path(event_type): Path<String>,
) -> Result<Json<FieldsView>, Problem> {
    let catalog = api.catalog_writer.current();
    let (event_type, registered) = named(&catalog, &api, access.project, &event_type)?;
    let learned = api.ingest.learned().get(access.project, &event_type);
    Ok(Json(FieldsView {
        registered: registered.is_some(),
        looked_into: learned.as_ref().map_or(0, |it| it.shape().looks()),
        fields: fields_of(registered.as_deref(), learned.as_deref()),
        event_type,
    }))
}

/// What to make of a type that traffic has shown. Every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adoption {
    description: Option<String>,
    group: Option<String>,
    /// Usually as it was, or `off`: look at `/fields` before events are turned away.
    validate: Option<Validate>,
    /// `true`: a schema that is there is replaced.
    replace: bool,
}

/// Adopt an event type
///
/// Registers a type that traffic has shown, with a schema that every payload agrees with that was looked
/// into: what was always there is required, and more fields may come. A type that is registered without a
/// schema gets this one.
#[utoipa::path(
    post,
    path = "/api/v1/event-types/{event_type}/adopt",
    tag = "event-types",
    params(("event_type" = String, Path, description = "Its name or id")),
    request_body(content = Option<Adoption>),
    responses(
        (status = 201, description = "It is registered", body = EventTypeView),
        (status = 200, description = "It was registered before, and has a schema now", body = EventTypeView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn adopt_event_type(
    State(api): State<Api>,
    access: Access<Administer>,
    Path(event_type): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<EventTypeView>), Problem> {
    let Adoption { description, group, validate, replace: may_replace } = body.read_or_default()?;
    let catalog = api.catalog_writer.current();
    let (name, registered) = named(&catalog, &api, access.project, &event_type)?;
    let learned = api.ingest.learned().get(access.project, &name);
    let learned = learned.filter(|it| it.shape().looks() > 0).ok_or_else(|| {
        Problem::new(Kind::Conflict).detail("no payload of this type was seen, so nothing is known")
    })?;
    if registered.as_ref().is_some_and(|it| it.schema.is_some()) && !may_replace {
        let detail = "the type has a schema: say `\"replace\": true` to replace it";
        return Err(Problem::new(Kind::Conflict).detail(detail));
    }
    let old = registered.as_deref().map(EventTypeSpec::of);
    let mut spec = old.unwrap_or_else(|| EventTypeSpec::named(name.clone()));
    spec.schema = Some(learned.shape().to_schema());
    spec.description = description.unwrap_or(spec.description);
    spec.group = group.or(spec.group);
    spec.validate = validate.unwrap_or(spec.validate);
    let body = Body(serde_json::to_vec(&spec).unwrap_or_default().into());
    let (status, adopted) = match registered {
        Some(it) => {
            (StatusCode::OK, replace::<EventType>(&api, &access, &it.id.to_string(), &body).await?)
        }
        None => (StatusCode::CREATED, create::<EventType>(&api, &access, &body).await?),
    };
    Ok((status, Json(EventTypeView::of(&adopted, api.ingest.learned()))))
}
