//! The numbers that stand for our enums in rows, the same in every database and for ever.

use crate::{
    model::{Class, Ended},
    store::{Result, StoreError},
};

/// What stands where the metadata of an erased event was. No sender can write such metadata: ours
/// always names a source.
pub(super) const ERASED_METADATA: &[u8] = br#"{"erased":true}"#;

pub(super) fn ended_code(ended: Ended) -> i64 {
    match ended {
        Ended::Delivered => 1,
        Ended::Dead => 2,
        Ended::Expired => 3,
        Ended::Cancelled => 4,
    }
}

pub(super) fn ended(code: i64) -> Result<Ended> {
    match code {
        1 => Ok(Ended::Delivered),
        2 => Ok(Ended::Dead),
        3 => Ok(Ended::Expired),
        4 => Ok(Ended::Cancelled),
        _ => Err(StoreError::Damaged { what: "end of a delivery" }),
    }
}

const CLASSES: [Class; 12] = [
    Class::Accepted,
    Class::Status,
    Class::Timeout,
    Class::Dns,
    Class::Connect,
    Class::Tls,
    Class::Broken,
    Class::Denied,
    Class::Config,
    Class::Gone,
    Class::Abort,
    Class::Unknown,
];

pub(super) fn class_code(class: Class) -> i64 {
    match class {
        Class::Accepted => 0,
        Class::Status => 1,
        Class::Timeout => 2,
        Class::Dns => 3,
        Class::Connect => 4,
        Class::Tls => 5,
        Class::Broken => 6,
        Class::Denied => 7,
        Class::Config => 8,
        Class::Gone => 9,
        Class::Abort => 10,
        Class::Unknown => 11,
    }
}

pub(super) fn class(code: i64) -> Result<Class> {
    let found = usize::try_from(code).ok().and_then(|it| CLASSES.get(it));
    found.copied().ok_or(StoreError::Damaged { what: "class of an outcome" })
}

/// What the reason of an accepted attempt says; it is not kept, since the status tells it.
pub(super) fn reason_of_status(status: u16) -> String {
    http::StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_means_what_it_was_made_of() {
        for it in CLASSES {
            assert_eq!(class(class_code(it)).unwrap(), it);
        }
        for it in [Ended::Delivered, Ended::Dead, Ended::Expired, Ended::Cancelled] {
            assert_eq!(ended(ended_code(it)).unwrap(), it);
        }
        assert!(class(12).is_err() && class(-1).is_err() && ended(0).is_err());
    }
}
