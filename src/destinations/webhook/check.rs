//! From what people wrote to a webhook, every value of it resolved.

use super::{check_target, config::WebhookSpec, contract, headers::check_names};
use crate::{
    destinations::{
        profiles::{self, WithoutSecret},
        secrets::Safe,
    },
    expr::Template,
    model::{Contract, Target, Webhook},
    settings::{AuthSpec, Invalid},
};

/// Bytes of one URL, template or not.
pub(in crate::destinations) const LONGEST_URL: usize = 4096;

const AUTH_OR_SECRET: &str = "must be left out beside `auth`, or `signed: true` must say that both are meant: \
                              Ingestlayer's contract is none, `auth`, or a signature";

impl WebhookSpec {
    /// The connection, or `None` after `wrong` was given the reason.
    pub(super) fn check(
        &self,
        safe: &Safe<'_>,
        old: Option<&Webhook>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Webhook> {
        let values = profiles::values(self.profile);
        let contract = self.contract(&values.contract);
        contract::check(&contract, wrong);
        let urls = self.targets(&contract, values.most_urls, wrong);
        let has_keys = old.is_some_and(|it| !it.signing_keys.is_empty());
        let is_signed = self.is_signed(values.without_secret, has_keys);
        self.check_header_names(&contract, is_signed, wrong);
        let safe = &Safe { is_moved: is_moved(old, urls.as_deref()), ..*safe };
        let headers = safe.headers(&self.headers, old.map(|it| &it.headers), wrong);
        let auth = safe.auth(&self.auth, old.map(|it| &it.auth), wrong);
        let old_keys = old.map_or(&[][..], |it| &it.signing_keys);
        let scheme = contract.signature.scheme;
        let signing_keys = match (is_signed, &self.secret) {
            (true, secret) => safe.signing_keys(scheme, secret.as_ref(), old_keys, wrong),
            (false, None) => Some(Vec::new()),
            (false, Some(_)) => {
                let rule = match self.signed {
                    Some(_) => "must be left out where `signed` is false",
                    None => AUTH_OR_SECRET,
                };
                wrong.push(Invalid::new("secret", rule, "a secret"));
                None
            }
        };
        Some(Webhook {
            profile: self.profile,
            urls: urls?,
            headers,
            auth: auth?,
            signing_keys: signing_keys?,
            contract,
        })
    }

    /// Whether attempts are signed. `has_keys`: there is a secret from before.
    pub(super) fn is_signed(&self, without_secret: WithoutSecret, has_keys: bool) -> bool {
        self.signed.unwrap_or(match without_secret {
            WithoutSecret::Made => true,
            WithoutSecret::MadeUnlessAuth => self.auth == AuthSpec::None,
            WithoutSecret::Unsigned => self.secret.is_some() || has_keys,
        })
    }

    /// What concerns all headers together. Values are looked at one by one.
    fn check_header_names(&self, contract: &Contract, is_signed: bool, wrong: &mut Vec<Invalid>) {
        check_names(self.headers.keys(), wrong);
        let signature = &contract.signature.header;
        for name in self.headers.keys().filter(|it| is_signed && it.eq_ignore_ascii_case(signature))
        {
            let rule = "must be another header than the one that carries the signature";
            wrong.push(Invalid::new(format!("headers.{name}"), rule, "the same name"));
        }
    }

    /// The URLs, or `None` after `wrong` was given the reason.
    fn targets(
        &self,
        contract: &Contract,
        most: usize,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Vec<Target>> {
        let given: Vec<(String, &String)> = match (&self.url, self.urls.as_slice()) {
            (Some(url), []) => vec![("url".to_owned(), url)],
            (None, urls) => {
                urls.iter().enumerate().map(|(at, it)| (format!("urls[{at}]"), it)).collect()
            }
            (Some(_), [_, ..]) => {
                let rule = "must be left out where there is `urls`";
                wrong.push(Invalid::new("url", rule, "both of them"));
                return None;
            }
        };
        if given.is_empty() {
            wrong.push(Invalid::new("url", "is required", "nothing"));
            return None;
        }
        if given.len() > most {
            let rule = match most {
                1 => format!("must hold one URL in the profile `{}`", word(self.profile)),
                _ => format!("must hold 1 to {most} URLs in the profile `{}`", word(self.profile)),
            };
            wrong.push(Invalid::new("urls", rule, format!("{} of them", given.len())));
        }
        let mut targets: Vec<Target> = Vec::with_capacity(given.len());
        let before = wrong.len();
        for (path, text) in given {
            match target(&path, text, contract.https_only) {
                Ok(target) if targets.contains(&target) => {
                    wrong.push(Invalid::new(path, "must be a URL that stands once", "it again"));
                }
                Ok(target) => targets.push(target),
                Err(invalid) => wrong.push(invalid),
            }
        }
        (wrong.len() == before).then_some(targets)
    }
}

/// Whether there is an origin that the destination did not have before.
fn is_moved(old: Option<&Webhook>, urls: Option<&[Target]>) -> bool {
    let Some(old) = old else { return false };
    let known: Vec<String> = old.urls.iter().map(Target::origin).collect();
    urls.unwrap_or_default().iter().any(|it| !known.contains(&it.origin()))
}

fn target(path: &str, text: &str, https_only: bool) -> Result<Target, Invalid> {
    if text.len() > LONGEST_URL {
        let rule = format!("must be at most {LONGEST_URL} bytes");
        return Err(Invalid::new(path, rule, "a longer text"));
    }
    let refused = |rule: &'static str| Invalid::new(path, rule, "another text");
    let target = Target::try_from(text.to_owned()).map_err(refused)?;
    if https_only && !target.origin().starts_with("https:") {
        let rule = "must be an `https` URL where `https_only` is true";
        return Err(Invalid::new(path, rule, "an `http` URL"));
    }
    if target.is_template() {
        Template::compile(target.as_text()).map_err(|error| Invalid::expression(path, &error))?;
        check_target(&target)
            .map_err(|error| Invalid::new(path, error.to_string(), "another text"))?;
    }
    Ok(target)
}

/// The word by which people choose one of our own enums.
pub fn word<T: serde::Serialize>(value: T) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}
