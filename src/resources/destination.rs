//! Destinations as people write them: the fields that all kinds have, and those of their kind.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap as _};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema, Type,
        schema::{AdditionalProperties, Object, OneOfBuilder},
    },
};

use super::{
    Invalid, PolicySpec, Scope, SecretSpec, Spec,
    check::{TAKEN, all_right},
    limits, policy, state,
    tree::{self, TreeNode},
};
use crate::{
    destinations::{
        kind::{Kind, OwnFields, each_secret},
        kinds::{self, KINDS},
        secrets::Safe,
    },
    expr::Key,
    model::{Destination, Era, Name, Ordering},
};

/// A destination. It was read by its kind, and its meaning is not yet checked.
#[derive(Clone)]
pub struct DestinationSpec {
    pub name: Name,
    /// The word of its kind. One that no kind has is possible only in what [`Spec::of`] shows.
    kind: String,
    /// The fields of the kind's own. Secrets in clear, or placeholders.
    fields: OwnFields,
    pub policy: PolicySpec,
}

impl Spec for DestinationSpec {
    type Model = Destination;

    fn check(
        &self,
        scope: &Scope<'_>,
        old: Option<&Destination>,
    ) -> Result<Destination, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let namesake = scope.catalog.destination_named(scope.project, self.name.as_str());
        if namesake.is_some_and(|it| Some(it.id) != old.map(|old| old.id)) {
            wrong.push(Invalid::new("name", TAKEN, "the name of another destination"));
        }
        let kind = kind(&self.kind).map_err(|it| vec![it])?;
        let id = old.map_or_else(|| scope.id(), |it| it.id);
        let policy = self.policy.resolved(&kind.usual_policy(&self.fields));
        wrong.extend(policy::check(&policy));
        if let Ordering::Key(expression) = &policy.ordering
            && let Err(error) = Key::compile(expression)
        {
            wrong.push(Invalid::expression("ordering.key", &error));
        }
        let means = &scope.means;
        let safe = Safe {
            vault: means.vault,
            random: means.random,
            now: means.now,
            project: scope.project,
            destination: id,
            is_moved: false,
        };
        let connection = kind.check(&self.fields, &policy, &safe, old.map(|it| &it.connection));
        let connection = match connection {
            Ok(connection) => Some(connection),
            Err(more) => {
                wrong.extend(more);
                None
            }
        };
        all_right(wrong)?;
        // Without a connection something was wrong, and we are not here.
        let Some(connection) = connection else { return Err(Vec::new()) };
        let destination = Destination {
            id,
            project: scope.project,
            name: self.name.clone(),
            version: old.map_or(1, |it| it.version),
            state: state::after(old, &connection, scope.means.now),
            era: old.map_or(Era::FIRST, |it| it.era_with(&policy.ordering)),
            policy,
            connection,
            created_at: old.map_or(scope.means.now, |it| it.created_at),
        };
        limits::check(scope.catalog, scope.means.options, &destination, old)
            .map_err(|full| vec![Invalid::new(full.field(), full.rule(), "one more")])?;
        Ok(match old {
            Some(old) if *old != destination => {
                Destination { version: old.version + 1, ..destination }
            }
            Some(_) | None => destination,
        })
    }

    fn of(model: &Destination) -> Self {
        let word = model.connection.kind();
        let fields = kinds::named(word).map(|it| it.show(&model.connection, &model.name));
        Self {
            name: model.name.clone(),
            kind: word.to_owned(),
            fields: fields.unwrap_or_default(),
            policy: PolicySpec::of(&model.policy),
        }
    }
}

impl DestinationSpec {
    /// Without the values that it would have anyway, as a person would write it.
    pub fn brief(self) -> Self {
        let Some(kind) = kinds::named(&self.kind) else { return self };
        let policy = self.policy.brief(&kind.usual_policy(&self.fields));
        Self { fields: kind.brief(self.fields), policy, ..self }
    }

    /// Whether it gives a secret that signs, or a placeholder for one.
    pub fn has_signing_secret(&self) -> bool {
        self.fields.get("secret").is_some_and(|it| !it.is_null())
    }

    fn secrets(&self) -> &'static [&'static str] {
        kinds::named(&self.kind).map_or(&[], |it| it.about().secrets)
    }
}

/// The kind with this word. An error lists those that exist.
fn kind(word: &str) -> Result<&'static dyn Kind, Invalid> {
    kinds::named(word).ok_or_else(|| Invalid::unknown_word("kind", word, &kinds::words()))
}

impl fmt::Debug for DestinationSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl Serialize for DestinationSpec {
    /// Placeholders as they are, and secrets as `…`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = self.fields.clone();
        each_secret(&mut fields, self.secrets(), &mut |_, text| {
            if !SecretSpec::new(text.as_str()).is_placeholder() {
                "…".clone_into(text);
            }
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("kind", &self.kind)?;
        for (name, value) in fields.iter().chain(&self.policy.written()) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for DestinationSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = match Value::deserialize(deserializer)? {
            Value::Object(written) => written,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                return Err(de::Error::custom("must be a map of settings"));
            }
        };
        read(written).map_err(|invalid| tree::carry(&invalid))
    }
}

/// The fields that all kinds have, beside the policy.
#[derive(Deserialize, ToSchema)]
struct Head {
    #[schema(value_type = String, example = "crm-webhook")]
    name: Name,
    kind: String,
}

/// Takes the common fields, and hands the rest to the kind.
fn read(written: Map<String, Value>) -> Result<DestinationSpec, Invalid> {
    let (mut head, mut policy, mut fields) = (Map::new(), Map::new(), Map::new());
    let common = field_names(&PolicySpec::schema());
    let word = written.get("kind").and_then(Value::as_str).map(str::to_owned);
    for (name, value) in written {
        let part = match name.as_str() {
            "name" | "kind" => &mut head,
            it if common.iter().any(|name| name == it) => &mut policy,
            _ => &mut fields,
        };
        part.insert(name, value);
    }
    if let Some(word) = word {
        let known = field_names(&kind(&word)?.schema().own);
        if let Some(unknown) = fields.keys().find(|it| !known.contains(it)) {
            let names: Vec<&str> = ["name", "kind"]
                .into_iter()
                .chain(known.iter().chain(&common).map(String::as_str))
                .collect();
            return Err(Invalid::unknown_field(unknown, &names));
        }
    }
    let Head { name, kind: word } = TreeNode::from(Value::Object(head)).read()?;
    let kind = kind(&word)?;
    kind.read(&fields)?;
    let policy = TreeNode::from(Value::Object(policy)).read()?;
    Ok(DestinationSpec { name, kind: word, fields, policy })
}

/// The names of an object's fields, in their order.
pub(super) fn field_names(schema: &RefOr<Schema>) -> Vec<String> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        RefOr::T(_) | RefOr::Ref(_) => Vec::new(),
    }
}

/// The schema of a whole destination of this kind.
pub(super) fn schema_of(kind: &dyn Kind) -> Object {
    let mut whole = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .build();
    let word = ObjectBuilder::new().schema_type(Type::String);
    let word = word.enum_values(Some([kind.about().word])).build();
    for part in [Head::schema(), kind.schema().own, PolicySpec::schema()] {
        if let RefOr::T(Schema::Object(part)) = part {
            whole.required.extend(part.required);
            whole.properties.extend(part.properties);
        }
    }
    whole.properties.insert("kind".to_owned(), RefOr::T(Schema::Object(word)));
    whole
}

impl PartialSchema for DestinationSpec {
    /// What any of the kinds takes.
    fn schema() -> RefOr<Schema> {
        if let [only] = KINDS {
            return RefOr::T(Schema::Object(schema_of(*only)));
        }
        let titled = |kind: &&dyn Kind| {
            let mut schema = schema_of(*kind);
            schema.title = Some(kind.about().title.to_owned());
            schema.description = Some(kind.about().help.to_owned());
            schema
        };
        let any = KINDS.iter().fold(OneOfBuilder::new(), |any, kind| any.item(titled(kind)));
        RefOr::T(Schema::OneOf(any.build()))
    }
}

impl ToSchema for DestinationSpec {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("DestinationSpec")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        PolicySpec::schemas(schemas);
        schemas.extend(KINDS.iter().flat_map(|it| it.schema().parts));
    }
}
