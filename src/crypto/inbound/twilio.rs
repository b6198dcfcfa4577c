//! Twilio's signature: over the URL that it was configured to call, and over what it posts there.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Doubt, Key, Received, believe, text};

const SIGNATURE: &str = "x-twilio-signature";

pub fn verify(keys: &[Key], it: &Received<'_>) -> Result<(), Doubt> {
    let code = text(it.headers, SIGNATURE)?;
    let code = STANDARD.decode(code).map_err(|_| Doubt::WrongEncoding)?;
    let message = match body_hash(it.url) {
        // The URL, which is signed, says what the body hashes to.
        Some(expected) => {
            let hash = hex::encode(Sha256::digest(it.body));
            believe(hash.as_bytes().ct_eq(expected.to_ascii_lowercase().as_bytes()).into())?;
            it.url.to_owned()
        }
        None => with_form(it.url, it.body),
    };
    believe(keys.iter().any(|key| key.code(message.as_bytes()).ct_eq(&code).into()))
}

/// The `bodySHA256` of a URL: Twilio adds it where it posts JSON.
fn body_hash(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("bodySHA256="))
}

/// The URL, and behind it the fields of the form by name: name and value, without anything between.
fn with_form(url: &str, body: &[u8]) -> String {
    let mut fields: Vec<_> = url::form_urlencoded::parse(body).collect();
    fields.sort();
    fields.dedup();
    fields.into_iter().fold(url.to_owned(), |message, (name, value)| message + &name + &value)
}
