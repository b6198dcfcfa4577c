//! Lists, a page at a time. A cursor is opaque, and stays right while things are added.

use std::collections::BTreeMap;

use axum::Json;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use crate::{
    model::{Id, Kind},
    problem::Problem,
    store,
};

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Listing<T> {
    pub data: Vec<T>,
    /// For the `cursor` of the next page; null at the end.
    pub next: Option<String>,
}

pub type Page<T> = Json<Listing<T>>;

const USUAL_LIMIT: usize = 50;
const LARGEST_LIMIT: usize = 200;

/// The page that a query asks for, of a list from new to old.
pub fn page_of_records(limit: Option<&str>, cursor: Option<&str>) -> Result<store::Page, Problem> {
    let before = match cursor.filter(|it| !it.is_empty()) {
        None => None,
        Some(cursor) => {
            let bytes: [u8; 10] = decode(cursor)?;
            let (place, number) = bytes.split_at(8);
            Some((
                u64::from_be_bytes(place.try_into().map_err(|_| bad_cursor())?),
                u16::from_be_bytes(number.try_into().map_err(|_| bad_cursor())?),
            ))
        }
    };
    Ok(store::Page { before, limit: limit_of(limit)? })
}

/// Asks for one more than the page has, to know whether there is another.
pub fn one_more(page: store::Page) -> store::Page {
    store::Page { limit: page.limit + 1, ..page }
}

/// The page as it is when its rows weigh something: as many of them as fit, and one at least.
pub fn within_bytes<R>(rows: &[R], page: store::Page, weight: impl Fn(&R) -> usize) -> store::Page {
    let mut bytes = 0;
    let fits = |row: &&R| {
        bytes += weight(row);
        bytes <= store::PAGE_BYTES
    };
    let fitting = rows.iter().take_while(fits).count().max(1);
    store::Page { limit: page.limit.min(fitting), ..page }
}

/// The page, of up to one row more than it holds. `place` is where a row stands.
pub fn records<R, T>(
    mut rows: Vec<R>,
    page: store::Page,
    place: impl Fn(&R) -> (u64, u16),
    view: impl FnMut(R) -> T,
) -> Page<T> {
    let has_more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next = rows.last().filter(|_| has_more).map(|row| {
        let (place, number) = place(row);
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&place.to_be_bytes());
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    });
    Json(Listing { data: rows.into_iter().map(view).collect(), next })
}

/// The page of resources, which come in the order of their ids: from old to new.
pub fn resources<'a, R: 'a, K: Kind, T>(
    all: impl Iterator<Item = (Id<K>, &'a R)>,
    limit: Option<&str>,
    cursor: Option<&str>,
    view: impl FnMut(&'a R) -> T,
) -> Result<Page<T>, Problem> {
    let limit = limit_of(limit)?;
    let after: Option<u128> = match cursor.filter(|it| !it.is_empty()) {
        None => None,
        Some(cursor) => Some(u128::from_be_bytes(decode(cursor)?)),
    };
    let mut rows =
        all.skip_while(|(id, _)| after.is_some_and(|after| id.bits() <= after)).peekable();
    let mut page = Vec::with_capacity(limit);
    let mut last = None;
    while page.len() < limit
        && let Some((id, row)) = rows.next()
    {
        page.push(row);
        last = Some(id);
    }
    let next = last.filter(|_| rows.peek().is_some());
    let next = next.map(|id| URL_SAFE_NO_PAD.encode(id.bits().to_be_bytes()));
    Ok(Json(Listing { data: page.into_iter().map(view).collect(), next }))
}

/// The page of what is listed by name.
pub fn named<N: Ord + AsRef<str>, R, T>(
    all: BTreeMap<N, R>,
    limit: Option<&str>,
    cursor: Option<&str>,
    mut view: impl FnMut(N, R) -> T,
) -> Result<Page<T>, Problem> {
    let limit = limit_of(limit)?;
    let after = match cursor.filter(|it| !it.is_empty()) {
        None => None,
        Some(cursor) => {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad_cursor())?;
            Some(String::from_utf8(bytes).map_err(|_| bad_cursor())?)
        }
    };
    let is_before =
        |it: &(N, R)| after.as_ref().is_some_and(|after| it.0.as_ref() <= after.as_str());
    let mut rows = all.into_iter().skip_while(is_before).peekable();
    let (mut data, mut last) = (Vec::new(), None);
    while data.len() < limit
        && let Some((name, row)) = rows.next()
    {
        last = Some(URL_SAFE_NO_PAD.encode(name.as_ref()));
        data.push(view(name, row));
    }
    Ok(Json(Listing { data, next: last.filter(|_| rows.peek().is_some()) }))
}

pub fn limit_of(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(USUAL_LIMIT) };
    let limit = text.parse().ok().filter(|it| (1..=LARGEST_LIMIT).contains(it));
    limit.ok_or_else(|| {
        Problem::invalid_field(
            "query:limit",
            format!("must be 1 to {LARGEST_LIMIT}"),
            "another text",
        )
    })
}

fn decode<const N: usize>(cursor: &str) -> Result<[u8; N], Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad_cursor())?;
    bytes.try_into().map_err(|_| bad_cursor())
}

fn bad_cursor() -> Problem {
    Problem::invalid_field(
        "query:cursor",
        "must be the `next` of the previous page",
        "another text",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SourceId, kind};

    #[test]
    fn pages_of_records_follow_each_other_without_gap_or_overlap() {
        let rows: Vec<(u64, u16)> = (1..=7_u64).rev().flat_map(|it| [(it, 2), (it, 1)]).collect();
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let page = page_of_records(Some("4"), cursor.as_deref()).unwrap();
            let wanted = one_more(page);
            let found = rows.iter().filter(|it| page.before.is_none_or(|before| **it < before));
            let found: Vec<_> = found.take(wanted.limit).copied().collect();
            let Json(listing) = records(found, page, |it| *it, |it| it);
            seen.extend(listing.data);
            pages += 1;
            cursor = listing.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (rows, 4));
    }

    #[test]
    fn pages_of_resources_follow_each_other_too() {
        let rows: Vec<(SourceId, u32)> =
            (1..=6).map(|it| (SourceId::from_bits(u128::from(it)), it)).collect();
        let page = |cursor: Option<&str>| {
            let all = rows.iter().map(|(id, row)| (*id, row));
            let page = resources::<u32, kind::Source, u32>(all, Some("3"), cursor, |it| *it);
            let Json(listing) = page.unwrap();
            (listing.data, listing.next)
        };
        let (first, next) = page(None);
        assert_eq!(first, [1, 2, 3]);
        assert_eq!(page(next.as_deref()), (vec![4, 5, 6], None));
    }

    #[test]
    fn a_page_ends_before_the_row_that_would_be_too_much_and_has_one_at_least() {
        const MOST: usize = store::PAGE_BYTES;
        for (weights, limit, expected) in [
            (vec![], 50, 1),
            (vec![MOST], 50, 1),
            (vec![MOST + 1, 1], 50, 1),
            (vec![1, MOST - 1, 1], 50, 2),
            (vec![1, 2, 3], 2, 2),
        ] {
            let page = store::Page { before: None, limit };
            assert_eq!(within_bytes(&weights, page, |it| *it).limit, expected, "{weights:?}");
        }
    }

    #[test]
    fn odd_cursors_and_limits_are_refused() {
        for (limit, cursor) in [("0", ""), ("201", ""), ("x", ""), ("1", "!"), ("1", "AAAA")] {
            assert!(page_of_records(Some(limit), Some(cursor)).is_err(), "{limit} {cursor}");
        }
    }
}
