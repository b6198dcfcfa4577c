//! The request that would be sent, shown instead: made by the same code, with its secrets masked.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use super::{OutgoingRequest, Webhook};
use crate::{
    destinations::Preview,
    model::{Message, Outcome},
};

/// What people see instead of a secret.
pub(in crate::destinations) const MASK: &str = "…";

impl Webhook {
    /// The request to each URL. What the owner set in `auth` and in headers of the destination's own is
    /// not shown; signatures are, for those who may have one.
    pub(super) fn requests(
        &self,
        messages: &[Message],
        at: Timestamp,
    ) -> Result<Vec<Preview>, Outcome> {
        let request = self.request(messages, at)?;
        Ok((0..self.urls.len()).map(|place| self.preview_of(place, &request)).collect())
    }

    fn preview_of(&self, place: usize, request: &OutgoingRequest) -> Preview {
        let url = &self.urls[place];
        let target = request.targets.get(place).cloned().flatten();
        let (headers, body) = (request.headers.clone(), request.body.clone());
        let sent = url.endpoint.prepare(target, self.method.clone(), headers, body.clone());
        let path = sent.uri().to_string();
        Preview {
            method: self.method.to_string(),
            url: format!("{}{path}", url.origin.trim_end_matches('/')),
            headers: self.shown(sent.headers(), body.len()),
            signature: Some(self.signer.header.as_str().to_owned()),
            body,
        }
    }

    fn shown(&self, headers: &HeaderMap, length: usize) -> Vec<(String, String)> {
        shown(headers, length, |name, value| match *name == header::AUTHORIZATION {
            true => Some(masked(value)),
            false => self.own.has(name).then(|| MASK.to_owned()),
        })
    }
}

/// The headers of a request with a body of this length. `mask` says what is shown instead of a value, if
/// it is a secret.
pub(in crate::destinations) fn shown(
    headers: &HeaderMap,
    length: usize,
    mask: impl Fn(&HeaderName, &HeaderValue) -> Option<String>,
) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = (headers.iter())
        .map(|(name, value)| {
            let clear = || String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), mask(name, value).unwrap_or_else(clear))
        })
        .collect();
    // The only one that the connection adds.
    shown.push((header::CONTENT_LENGTH.as_str().to_owned(), length.to_string()));
    shown
}

/// `Bearer …`
fn masked(value: &HeaderValue) -> String {
    let scheme = value.to_str().ok().and_then(|it| it.split_once(' ')).map(|it| it.0);
    scheme.map_or_else(|| MASK.to_owned(), |it| format!("{it} {MASK}"))
}
