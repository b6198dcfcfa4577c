//! What equal, less and in mean. A missing value equals nothing, is in nothing, and is neither more
//! nor less than anything. Values of different kinds are never equal, so `1` is not `true`.

use std::cmp::Ordering;

use minijinja::{
    Error, ErrorKind,
    value::{Value, ValueKind},
};

use super::{
    costs::{ITEM, spend},
    json::{self, Json},
};

/// Deeper than this, nothing is equal. Stored JSON is less deep.
const DEEPEST: usize = 128;

pub(super) fn equal(left: &Value, right: &Value) -> Result<bool, Error> {
    equal_at(left, right, 0)
}

fn equal_at(left: &Value, right: &Value, depth: usize) -> Result<bool, Error> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        spend(left.len().min(right.len()))?;
        return Ok(left == right);
    }
    match (json::written(left), json::written(right)) {
        (Some(left), Some(right)) => return Ok(left == right),
        (Some(_), None) | (None, Some(_)) => return Ok(false),
        (None, None) => (),
    }
    match (left.kind(), right.kind()) {
        (ValueKind::Number, ValueKind::Number) | (ValueKind::Bool, ValueKind::Bool) => {
            Ok(left == right)
        }
        (ValueKind::None, ValueKind::None) => Ok(true),
        (ValueKind::Map, ValueKind::Map) if depth < DEEPEST => equal_maps(left, right, depth),
        (ValueKind::Seq | ValueKind::Iterable, ValueKind::Seq | ValueKind::Iterable)
            if depth < DEEPEST =>
        {
            equal_lists(left, right, depth)
        }
        _ => Ok(false),
    }
}

fn same_bytes(left: &Value, right: &Value) -> bool {
    let bytes = |it: &Value| it.downcast_object_ref::<Json>().map(|it| it.bytes().clone());
    bytes(left).is_some_and(|it| Some(it) == bytes(right))
}

fn equal_maps(left: &Value, right: &Value, depth: usize) -> Result<bool, Error> {
    spend(left.len().unwrap_or_default())?;
    if same_bytes(left, right) {
        return Ok(true);
    }
    if left.len() != right.len() {
        return Ok(false);
    }
    for key in left.try_iter()? {
        let both = (left.get_item(&key)?, right.get_item(&key)?);
        if !equal_at(&both.0, &both.1, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_lists(left: &Value, right: &Value, depth: usize) -> Result<bool, Error> {
    spend(left.len().unwrap_or_default())?;
    let (mut left, mut right) = (left.try_iter()?, right.try_iter()?);
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ok(true),
            (Some(left), Some(right)) => {
                spend(ITEM)?;
                if !equal_at(&left, &right, depth + 1)? {
                    return Ok(false);
                }
            }
            (Some(_), None) | (None, Some(_)) => return Ok(false),
        }
    }
}

/// `None` where one is missing or null: then no order holds.
pub(super) fn order(left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    let is_nothing = |it: &Value| it.is_undefined() || it.is_none();
    if is_nothing(left) || is_nothing(right) {
        return Ok(None);
    }
    let (one, other) = (json::rounded(left), json::rounded(right));
    let (left, right) = (one.as_ref().unwrap_or(left), other.as_ref().unwrap_or(right));
    match (left.kind(), right.kind()) {
        (ValueKind::Number, ValueKind::Number) => Ok(Some(left.cmp(right))),
        (ValueKind::String, ValueKind::String) => {
            let length = |it: &Value| it.as_str().map_or(0, str::len);
            spend(length(left).min(length(right)))?;
            Ok(Some(left.cmp(right)))
        }
        (left, right) => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a {left} and a {right} have no order"),
        )),
    }
}

pub(super) fn contains(container: &Value, value: &Value) -> Result<bool, Error> {
    if value.is_undefined() || container.is_undefined() || container.is_none() {
        return Ok(false);
    }
    if let Some(text) = container.as_str() {
        spend(text.len())?;
        return Ok(value.as_str().is_some_and(|it| text.contains(it)));
    }
    match container.kind() {
        ValueKind::Map => Ok(value
            .as_str()
            .is_some_and(|it| !container.get_attr(it).is_ok_and(|it| it.is_undefined()))),
        ValueKind::Seq | ValueKind::Iterable => {
            for item in container.try_iter()? {
                spend(ITEM)?;
                if equal(&item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("nothing is in a {kind}"))),
    }
}

/// One comparison by its name, as it stands in a chain.
pub(super) fn holds(name: &str, left: &Value, right: &Value) -> Result<bool, Error> {
    match name {
        "eq" => equal(left, right),
        "ne" => equal(left, right).map(|it| !it),
        "lt" => order(left, right).map(|it| it.is_some_and(Ordering::is_lt)),
        "le" => order(left, right).map(|it| it.is_some_and(Ordering::is_le)),
        "gt" => order(left, right).map(|it| it.is_some_and(Ordering::is_gt)),
        "ge" => order(left, right).map(|it| it.is_some_and(Ordering::is_ge)),
        "in" => contains(right, left),
        "not in" => contains(right, left).map(|it| !it),
        other => Err(Error::new(ErrorKind::InvalidOperation, format!("no comparison {other}"))),
    }
}
