//! What the receivers of each system rely on, line by line of its document, over real sockets; and
//! the receivers' own verification code, run for real.

pub mod judges;
mod hostile;
mod canonical;
mod receivers;
mod urls;
mod templates;
mod batches;
mod ingestlayer;
mod admin;
mod customerio;
mod segment;
mod segment_actions;
mod whole;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

/// The code of the parts in hexadecimal, made here and not by what is tested.
fn sha256(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|it| mac.update(it));
    hex::encode(mac.finalize().into_bytes())
}

fn sha1(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The names of all headers, sorted.
fn names(headers: &http::HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    names
}
