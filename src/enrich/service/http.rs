//! A service that knows people by their e-mail address: one GET, whose answer is JSON.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde_json::{Map, Value};
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::Trouble;
use crate::{
    crypto::{SealContext, SecretField, Vault},
    destinations::egress::{Egress, EgressFailure, Endpoint},
    expr::{Facts, Mapping, Names, Template},
    model::{EndpointUrl, HttpLookup, Lookup, RawJson},
};

pub(super) struct Http {
    endpoint: Endpoint,
    url: Template,
    headers: Vec<(HeaderName, Template)>,
    map: Mapping,
    /// `secret`, as templates of headers see it, and as those of the URL do.
    secrets: RawJson,
    secrets_in_url: RawJson,
}

impl Http {
    pub fn new(
        lookup: &Lookup,
        settings: &HttpLookup,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Self, String> {
        let names = ["email", "domain", "secret"].map(str::to_owned);
        let names = Names { results: &names, bare: true };
        let template = |source: &str| {
            Template::compile_with(source, &names).map_err(|error| error.to_string())
        };
        let host = settings.url.split("{{").next().unwrap_or_default();
        let host = EndpointUrl::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let mut headers = Vec::with_capacity(settings.headers.len());
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| error.to_string())?;
            headers.push((name, template(value)?));
        }
        let results = ["email", "domain", "response"].map(str::to_owned);
        let names = Names { results: &results, bare: true };
        let map = Mapping::compile_with(&settings.map.to_value(), &names);
        let context = SealContext::of_lookup(lookup.project, lookup.id, SecretField::LookupSecret);
        let mut secrets = BTreeMap::new();
        for (name, sealed) in &settings.secrets {
            let secret = vault.open(sealed, &context).map_err(|error| error.to_string())?;
            secrets.insert(name.clone(), secret.expose().to_owned());
        }
        let in_url: BTreeMap<_, _> =
            secrets.iter().map(|(name, it)| (name.clone(), encoded(it))).collect();
        Ok(Self {
            endpoint: egress.endpoint(&host).map_err(|error| error.to_string())?,
            url: template(&settings.url)?,
            headers,
            map: map.map_err(|error| error.to_string())?,
            secrets: RawJson::of(&secrets),
            secrets_in_url: RawJson::of(&in_url),
        })
    }

    fn target(&self, email: &str, domain: &str) -> Result<Uri, Trouble> {
        let facts = Facts::bare()
            .with_result("email", &RawJson::of(&encoded(email)))
            .with_result("domain", &RawJson::of(&encoded(domain)))
            .with_result("secret", &self.secrets_in_url);
        let url = self.url.render(&facts).map_err(|_| refused("its URL has no value"))?;
        // It was checked that the host is fixed: only what is behind it is taken from here.
        let url = Url::parse(&url).map_err(|_| refused("its URL is not valid"))?;
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        target.parse().map_err(|_| refused("its URL is not valid"))
    }

    fn headers(&self, email: &str, domain: &str) -> Result<HeaderMap, Trouble> {
        let facts = Facts::bare()
            .with_result("email", &RawJson::of(email))
            .with_result("domain", &RawJson::of(domain))
            .with_result("secret", &self.secrets);
        let mut headers = HeaderMap::new();
        let agent = concat!("Tidegate/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, template) in &self.headers {
            let text = template.render(&facts).map_err(|_| refused("a header has no value"))?;
            let mut value =
                HeaderValue::try_from(text).map_err(|_| refused("a header cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }

    fn read(&self, body: &[u8], email: &str, domain: &str) -> Result<Option<RawJson>, Trouble> {
        let response = RawJson::parse(body.to_vec())
            .map_err(|_| refused("its answer is no JSON, or is longer than 64 KiB"))?;
        let facts = Facts::bare()
            .with_result("email", &RawJson::of(email))
            .with_result("domain", &RawJson::of(domain))
            .with_result("response", &response);
        let fields =
            self.map.apply(&facts).map_err(|_| refused("its answer does not fit `map`"))?;
        let mut fields: Map<String, Value> = match fields.to_value() {
            Value::Object(fields) => fields,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => return Ok(None),
        };
        fields.retain(|_, it| !it.is_null());
        Ok((!fields.is_empty()).then(|| RawJson::of(&fields)))
    }
}

impl Http {
    /// `None`: nobody is known, and it says so.
    pub async fn ask(
        &self,
        email: &str,
        domain: &str,
        deadline: Instant,
    ) -> Result<Option<RawJson>, Trouble> {
        let target = self.target(email, domain)?;
        let headers = self.headers(email, domain)?;
        let answer = match self.endpoint.get(target, headers, deadline).await {
            Ok(answer) => answer,
            Err(EgressFailure::Timeout(_)) => return Err(Trouble::Timeout),
            Err(failure) => return Err(Trouble::Broken(failure.reason())),
        };
        match answer.status {
            StatusCode::OK => self.read(&answer.body, email, domain),
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(None),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Trouble::Broken(format!("it answered {}", status.as_u16())))
            }
            status => Err(refused(&format!("it answered {}", status.as_u16()))),
        }
    }
}

fn refused(reason: &str) -> Trouble {
    Trouble::Refused(reason.to_owned())
}

/// As part of a URL, whatever part that is.
fn encoded(text: &str) -> String {
    // A space is `+` in a query only, and `%20` anywhere.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
