//! The contract of a webhook: its profile's values, under what it overrides.

use super::{
    HeaderError, check_header,
    config::{SignatureSpec, WebhookSpec},
};
use crate::{
    model::{Contract, Scheme, Signature},
    settings::Invalid,
};

const STANDARD_HEADER: &str = "webhook-signature";
/// For schemes that a profile does not have by itself.
const OTHER_HEADER: &str = "x-signature";
const LONGEST_USER_AGENT: usize = 256;
const LONGEST_INTEGRATION: usize = 128;

impl WebhookSpec {
    pub(super) fn contract(&self, usual: &Contract) -> Contract {
        Contract {
            envelope: self.envelope.unwrap_or(usual.envelope),
            method: self.method.unwrap_or(usual.method),
            user_agent: self.user_agent.clone().unwrap_or_else(|| usual.user_agent.clone()),
            signature: self.signature.clone().unwrap_or_default().resolved(&usual.signature),
            idempotency_key: self.idempotency_key.unwrap_or(usual.idempotency_key),
            https_only: self.https_only.unwrap_or(usual.https_only),
            verify: self.verify.unwrap_or(usual.verify),
            whole_answer: self.whole_answer.unwrap_or(usual.whole_answer),
            integration: match self.integration.clone() {
                None => usual.integration.clone(),
                Some(given) => given.into_option(),
            },
            on_gone: self.on_gone.unwrap_or(usual.on_gone),
        }
    }
}

impl SignatureSpec {
    pub(super) fn resolved(&self, usual: &Signature) -> Signature {
        let scheme = self.scheme.unwrap_or(usual.scheme);
        let header = self.header.as_ref().map(|it| it.to_ascii_lowercase());
        Signature {
            scheme,
            header: header.unwrap_or_else(|| header_of(scheme, usual)),
            over: self.over.unwrap_or(usual.over),
        }
    }

    /// Without what follows from the profile and the scheme.
    pub(super) fn brief(mut self, usual: &Signature) -> Option<Self> {
        let header = header_of(self.scheme.unwrap_or(usual.scheme), usual);
        self.header = self.header.filter(|it| *it != header);
        self.scheme = self.scheme.filter(|it| *it != usual.scheme);
        self.over = self.over.filter(|it| *it != usual.over);
        (self != Self::default()).then_some(self)
    }
}

/// The header of a signature where none is given.
fn header_of(scheme: Scheme, usual: &Signature) -> String {
    if scheme == usual.scheme {
        return usual.header.clone();
    }
    match scheme {
        Scheme::Standard => STANDARD_HEADER.to_owned(),
        Scheme::Stamped | Scheme::Prefixed | Scheme::Sha1 => OTHER_HEADER.to_owned(),
    }
}

/// What is wrong with a contract. Paths are those of the destination's fields.
pub(super) fn check(contract: &Contract, wrong: &mut Vec<Invalid>) {
    let agent = &contract.user_agent;
    let is_printable = agent.bytes().all(|it| (b' '..=b'~').contains(&it));
    if agent.trim().is_empty() || agent.len() > LONGEST_USER_AGENT || !is_printable {
        let rule = format!("must be 1 to {LONGEST_USER_AGENT} bytes of printable ASCII");
        wrong.push(Invalid::new("user_agent", rule, "another text"));
    }
    if let Some(name) = &contract.integration
        && (name.is_empty()
            || name.len() > LONGEST_INTEGRATION
            || name.chars().any(char::is_control))
    {
        let rule = format!(
            "must be 1 to {LONGEST_INTEGRATION} bytes without control characters, or false"
        );
        wrong.push(Invalid::new("integration", rule, "another text"));
    }
    check_signature(&contract.signature, wrong);
}

fn check_signature(signature: &Signature, wrong: &mut Vec<Invalid>) {
    let path = "signature.header";
    match signature.scheme {
        Scheme::Standard => {
            if signature.header != STANDARD_HEADER {
                let rule = format!("must be `{STANDARD_HEADER}` where the scheme is `standard`");
                wrong.push(Invalid::new(path, rule, "another header"));
            }
        }
        Scheme::Stamped | Scheme::Prefixed | Scheme::Sha1 => {
            if let Err(error) = check_header(&signature.header, "") {
                let found = match &error {
                    HeaderError::Reserved(_) | HeaderError::Authorization => "a reserved header",
                    HeaderError::Name
                    | HeaderError::Value
                    | HeaderError::Template { .. }
                    | HeaderError::TooMany => "another text",
                };
                wrong.push(Invalid::new(path, error.to_string(), found));
            }
        }
    }
}
