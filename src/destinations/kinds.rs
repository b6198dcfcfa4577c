//! The table of kinds: a row for each folder.

use super::{http::HttpSettings, kind::Kind, plain::Plain, webhook};

/// Every kind of destination, in the order in which people see them.
pub const KINDS: &[&dyn Kind] = &[&webhook::WebhookKind, &Plain::<HttpSettings>::KIND];

/// The kind of this word.
pub fn named(word: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|it| it.about().word == word)
}

/// The words of all kinds.
pub fn words() -> Vec<&'static str> {
    KINDS.iter().map(|it| it.about().word).collect()
}
