//! What handlers are given of a request: who calls, for which project, and what is asked, checked.

use std::{fmt::Display, marker::PhantomData, str::FromStr};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::Api;
use crate::{
    ingest::{Session, named_project},
    model::{Pattern, ProjectId, Scope, moment},
    problem::{FieldError, Problem},
    resources,
};

/// A right that a handler needs, as a type, so that a handler without one does not compile.
pub trait Right {
    const SCOPE: Scope;
}

pub enum Read {}
impl Right for Read {
    const SCOPE: Scope = Scope::Read;
}

pub enum Operate {}
impl Right for Operate {
    const SCOPE: Scope = Scope::Operate;
}

pub enum Administer {}
impl Right for Administer {
    const SCOPE: Scope = Scope::Admin;
}

/// A caller with the right, and the one project that the request is about.
pub struct Access<R> {
    pub project: ProjectId,
    pub session: Session,
    right: PhantomData<R>,
}

impl<R: Right> FromRequestParts<Api> for Access<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let session = api.keyring.authenticate(&parts.headers, R::SCOPE)?;
        let project = session.project(named_project(parts))?;
        Ok(Self { project, session, right: PhantomData })
    }
}

/// A caller with the right, whatever the project.
pub struct Anywhere<R> {
    pub session: Session,
    right: PhantomData<R>,
}

impl<R: Right> FromRequestParts<Api> for Anywhere<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let session = api.keyring.authenticate(&parts.headers, R::SCOPE)?;
        Ok(Self { session, right: PhantomData })
    }
}

/// The query, as a struct of texts. A name that the route does not know is refused, since a filter that
/// is silently ignored would show too much, or replay it.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut fields = Map::new();
        let query = parts.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // Any route may name the project, which `Access` has read already.
            if name == "project" {
                continue;
            }
            if fields.insert(name.clone().into_owned(), Value::String(value.into_owned())).is_some()
            {
                return Err(Problem::invalid_field(
                    in_query(&name),
                    "must be given only once",
                    "more",
                ));
            }
        }
        serde_path_to_error::deserialize(Value::Object(fields)).map(Self).map_err(|error| {
            let name = error.path().to_string();
            // The message names the parameters that there are, and no values.
            Problem::invalid_field(in_query(&name), error.into_inner().to_string(), "another name")
        })
    }
}

/// The body of a request, whole, inflated if it was compressed.
pub struct Body(pub Bytes);

impl FromRequest<Api> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        api.ingest.read_body(request, api.options.body_bytes).await.map(Self)
    }
}

impl Body {
    /// As one of the shapes of `resources`, or any other type of ours.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        Ok(resources::read_json(&self.0)?)
    }

    /// The same, where a request may have no body.
    pub fn read_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.0.trim_ascii().is_empty() { Ok(T::default()) } else { self.read() }
    }
}

fn in_query(name: &str) -> String {
    const SHOWN: usize = 64;
    format!("query:{}", name.chars().take(SHOWN).collect::<String>())
}

/// Reads a value of the query, such as a state or an id.
pub fn parse<T>(name: &str, text: Option<&str>, rule: &'static str) -> Result<Option<T>, Problem>
where
    T: FromStr,
{
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Problem::invalid_field(in_query(name), rule, "another text")),
    }
}

/// Reads one of our own enums by its serialised name.
pub fn parse_word<T: DeserializeOwned>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(None) };
    serde_json::from_value(Value::String(text.to_owned())).map(Some).map_err(|error| {
        // `unknown variant `…`, expected one of …`: only its end is ours to show.
        let message = error.to_string();
        let rule = message.split_once("expected ").map_or("must be a known word", |it| it.1);
        Problem::invalid_field(in_query(name), rule.to_owned(), "another word")
    })
}

/// Reads a moment in RFC 3339.
pub fn parse_time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(None) };
    let wrong =
        |it: moment::NoMoment| Problem::invalid_field(in_query(name), it.rule(), "another text");
    moment::parse(text).map(Some).map_err(wrong)
}

/// Reads an event type or a group of them.
pub fn parse_pattern(name: &str, text: Option<&str>) -> Result<Option<Pattern>, Problem> {
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(None) };
    let pattern = Pattern::try_from(text.to_owned());
    pattern
        .map(Some)
        .map_err(|error| Problem::invalid_field(in_query(name), error.rule, "another text"))
}

/// An id in a path. What cannot be one does not exist.
pub fn parse_id<T: FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::not_found(what))
}

/// A field of a body that does not mean anything here.
pub fn wrong_field(field: impl Display, rule: &'static str, found: &'static str) -> Problem {
    Problem::invalid(vec![FieldError::new(field.to_string(), rule, found)])
}
