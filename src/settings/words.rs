//! What the parsers of YAML and of types say, in the words of the file's author: no name of a Rust
//! type, of a parser's option or of a function reaches a user.

use serde_saphyr::Error;

/// What must be so, and what was found, where a text is no YAML that we read.
pub fn yaml(error: &Error) -> (String, &'static str) {
    let rule = |text: &str| text.to_owned();
    match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            (format!("must have the key `{}` once", printable(key)), "it twice")
        }
        Error::DuplicateMappingKey { key: None, .. } => {
            (rule("must have each key once"), "one twice")
        }
        Error::MultipleDocuments { .. } => {
            (rule("must be one document"), "a second one behind `---`")
        }
        Error::Eof { .. } => (rule("must end what it begins"), "the end of the file"),
        Error::UnknownAnchor { .. } => {
            (rule("must name with `*` an anchor that stands before it"), "an unknown one")
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            (rule("must not contain itself"), "an anchor that refers to itself")
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            (rule("must repeat less by anchors"), "more than a file may unfold to")
        }
        Error::Budget { .. } => {
            (rule("must be smaller and less deep"), "more than a file may hold")
        }
        Error::NonFiniteFloat { .. } => (rule("must be a number that JSON has"), "another one"),
        Error::InvalidUtf8Input => (rule("must be UTF-8"), "other bytes"),
        Error::MergeKeyNotAllowed { .. } | Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            (rule("must merge with `<<` only a map, or a list of maps"), "another value")
        }
        other => {
            let text = other.to_string();
            let text = text.lines().next().unwrap_or_default();
            let text = text.split(" at line ").next().unwrap_or_default();
            let text = text.trim_start_matches("error: ").trim_end_matches([':', ' ']);
            let text = if text.is_empty() {
                "the text ends too soon or is indented wrongly"
            } else {
                text
            };
            (format!("must be valid YAML: {text}"), "something else")
        }
    }
}

/// What a type expects, as serde names it, for a person.
pub fn kind(expected: &str) -> String {
    match expected {
        "a boolean" | "bool" => "true or false".to_owned(),
        "string" | "str" | "a borrowed string" => "a string".to_owned(),
        "a sequence" => "a list".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => {
            "a whole number that is not negative".to_owned()
        }
        "f32" | "f64" => "a number".to_owned(),
        "unit" | "null" => "null".to_owned(),
        _ => match expected.split_once(' ') {
            Some(("struct" | "variant" | "enum" | "newtype" | "internally" | "adjacently", _)) => {
                "a map of settings".to_owned()
            }
            _ => expected.to_owned(),
        },
    }
}

/// A key that a person wrote, short and printable.
pub fn printable(key: &str) -> String {
    key.chars().filter(|it| !it.is_control()).take(64).collect()
}

/// " (did you mean `retry`?)", where one of the names is nearly what was written.
pub fn meant(written: &str, names: &[&str]) -> String {
    did_you_mean(written, names.iter().copied())
        .map_or_else(String::new, |it| format!(" (did you mean `{it}`?)"))
}

/// `` `retry`, `secret` ``
pub fn listed(names: &[&str]) -> String {
    names.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
}

/// Of these names, the one that somebody may have meant: one letter is missing, too many, another
/// one, or two stand the wrong way round.
pub fn did_you_mean<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names.into_iter().find(|name| *name != written && is_one_edit_away(written, name))
}

fn is_one_edit_away(left: &str, right: &str) -> bool {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[same..], &right[same..]);
    let is_swapped = left.len() >= 2
        && right.len() >= 2
        && (left[0], left[1]) == (right[1], right[0])
        && left[2..] == right[2..];
    let (left_rest, right_rest) = (left.get(1..), right.get(1..));
    is_swapped
        || (left_rest.is_some() && left_rest == right_rest)
        || left_rest == Some(right)
        || right_rest == Some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_edit_away_is_suggested_and_no_more() {
        let names = ["retry", "secret", "headers", "url"];
        for (written, meant) in [
            ("retri", Some("retry")),
            ("rety", Some("retry")),
            ("retrys", Some("retry")),
            ("rtery", Some("retry")),
            ("haeders", Some("headers")),
            ("urls", Some("url")),
            ("retires", None),
            ("retry", None),
            ("", None),
            ("name", None),
        ] {
            assert_eq!(did_you_mean(written, names), meant, "{written}");
        }
    }

    #[test]
    fn rust_names_do_not_reach_a_user() {
        for (expected, shown) in [
            ("struct Content", "a map of settings"),
            ("u32", "a whole number that is not negative"),
            ("a boolean", "true or false"),
            ("a duration such as 5s", "a duration such as 5s"),
        ] {
            assert_eq!(kind(expected), shown);
        }
    }
}
