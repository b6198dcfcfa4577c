//! The `integrations` object of Segment's calls, with which an event says where it must not go.

use crate::model::{
    RawJson,
    json::{scan, text},
};

/// What an event says about integrations. The default says nothing, and excludes none.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Integrations {
    /// Each as often as it is said.
    said: Vec<(String, Said)>,
    /// There is something that nobody can read, and an opt-out that cannot be read is an opt-out.
    is_unreadable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    No,
    /// `true`, or settings of the integration, which mean that it is wanted.
    Yes,
    Nothing,
}

/// The name that stands for all integrations that are not named.
const ALL: [&str; 2] = ["All", "all"];

impl Integrations {
    /// Of a payload. An `integrations` that is no object says nothing.
    pub fn of(payload: &RawJson) -> Self {
        const NAME: &str = "integrations";
        // Nearly all events have none, and a search costs less than reading.
        let may_have_it = payload.as_str().contains(NAME) || payload.as_str().contains("\\u");
        if !may_have_it || !payload.as_str().trim_start().starts_with('{') {
            return Self::default();
        }
        let unreadable = Self { is_unreadable: true, ..Self::default() };
        let Ok(fields) = scan::fields(payload.bytes()) else { return unreadable };
        let mut integrations = Self::default();
        for (_, value) in fields.iter().filter(|(name, _)| text::is(name, NAME)) {
            if !value.starts_with(b"{") {
                continue;
            }
            let Ok(said) = scan::fields(value) else { return unreadable };
            integrations.said.extend(
                said.iter()
                    .map(|(name, value)| (text::shown_name(name).into_owned(), Said::of(value))),
            );
        }
        integrations
    }

    /// Why an integration does not get the event; `None` when it does. What is said about the one
    /// counts more than what is said about all. Of what is said twice, the no counts.
    pub fn exclude(&self, name: &str) -> Option<String> {
        if self.is_unreadable {
            return Some("`integrations` cannot be read, and may say `false`".to_owned());
        }
        match self.about(name) {
            Some(Said::No) => Some(format!("`integrations` says `\"{name}\": false`")),
            Some(Said::Yes) => None,
            Some(Said::Nothing) | None => {
                let all = ALL.iter().find(|it| self.about(it) == Some(Said::No))?;
                Some(format!("`integrations` says `\"{all}\": false`, and nothing of `{name}`"))
            }
        }
    }

    fn about(&self, name: &str) -> Option<Said> {
        let mut all = self.said.iter().filter(|(it, _)| it == name).map(|(_, said)| *said);
        let first = all.next()?;
        Some(all.fold(first, |said, next| if said == Said::No { said } else { next }))
    }
}

impl Said {
    fn of(value: &[u8]) -> Self {
        match value {
            b"false" => Self::No,
            b"true" => Self::Yes,
            settings if settings.starts_with(b"{") => Self::Yes,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integration_is_excluded_by_its_name_or_with_all_others() {
        for (payload, is_excluded) in [
            (r#"{}"#, false),
            (r#"{"integrations":{}}"#, false),
            (r#"{"integrations":{"Webhooks":false}}"#, true),
            (r#"{"integrations":{"Webhooks":true,"All":false}}"#, false),
            (r#"{"integrations":{"Webhooks":{"a":1},"All":false}}"#, false),
            (r#"{"integrations":{"Webhooks":null,"All":false}}"#, true),
            (r#"{"integrations":{"All":false}}"#, true),
            (r#"{"integrations":{"all":false}}"#, true),
            (r#"{"integrations":{"All":true,"Webhooks":false}}"#, true),
            (r#"{"integrations":{"Mixpanel":false}}"#, false),
            (r#"{"integrations":false}"#, false),
            (r#"[{"integrations":{"All":false}}]"#, false),
            (r#"{"context":{"integrations":{"All":false}}}"#, false),
            (r#"{"integrations":{"All":false},"integrations":{"All":false}}"#, true),
            (r#"{"integrations":{"All":false},"integrations":{}}"#, true),
            (r#"{"integrations":{"Webhooks":false,"Webhooks":true}}"#, true),
            (r#"{"integr\u0061tions":{"\u0041ll":false}}"#, true),
            (r#"{"integrations":{"All":false,"\ud800":1},"\ud801":2}"#, true),
            (r#"{"integrations":{"All":false,"x":1e400}}"#, true),
            (r#" {"integrations" : {"All" : false} }"#, true),
            (r#"{"integrations":{"All":false"#, true),
            (r#""integrations""#, false),
        ] {
            let found = Integrations::of(&RawJson::trusted(payload)).exclude("Webhooks");
            assert_eq!(found.is_some(), is_excluded, "{payload}: {found:?}");
        }
    }
}
