//! The gateway's API, as a command calls it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    connect::Connector,
    error::{CliError, ProblemBody, Result},
    json::Json,
};
use crate::model::Secret;

/// How long an answer may take to begin, and to be read where it is not a stream.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// No answer that is read whole is longer.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Says which project a key that opens several is used for.
const PROJECT: &str = "tidegate-project";

pub type HttpClient = legacy::Client<Connector, Full<Bytes>>;

/// An HTTP client for addresses that whoever runs the command gave.
pub fn http_client() -> HttpClient {
    legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(32)
        .build(Connector::new(CONNECT_PATIENCE))
}

/// Calls one gateway with one key. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    base: Url,
    key: Option<Secret>,
    project: Option<String>,
    http: HttpClient,
}

impl Client {
    pub fn new(base: Url, key: Option<Secret>, project: Option<String>) -> Self {
        Self { base, key, project, http: http_client() }
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    pub fn key(&self) -> Option<&Secret> {
        self.key.as_ref()
    }

    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Json> {
        let answer = self.call(Method::GET, path, query, None).await?;
        self.value(answer.1)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Json> {
        self.post_bytes(path, body.to_string().into()).await.map(|(_, value)| value)
    }

    /// With the status, where more than one means success. The body is sent as it is, which is JSON.
    pub async fn post_bytes(&self, path: &str, body: Bytes) -> Result<(StatusCode, Json)> {
        let (status, bytes) = self.call(Method::POST, path, &[], Some(body)).await?;
        Ok((status, self.value(bytes)?))
    }

    /// A body that is not JSON.
    pub async fn post_as(
        &self,
        path: &str,
        query: &[(&str, String)],
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Json> {
        let mut request = self.request(Method::POST, path, query, Some(body))?;
        let content_type = HeaderValue::from_static(content_type);
        request.headers_mut().insert(header::CONTENT_TYPE, content_type);
        let (_, bytes) = self.exchange(request).await?;
        self.value(bytes)
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        self.call(Method::DELETE, path, &[], None).await.map(drop)
    }

    /// The answer as text: what the API gives as YAML.
    pub async fn get_text(&self, path: &str, query: &[(&str, String)]) -> Result<String> {
        let (_, bytes) = self.call(Method::GET, path, query, None).await?;
        String::from_utf8(bytes.into())
            .map_err(|_| CliError::Answer { what: "the answer is not UTF-8".to_owned() })
    }

    /// An answer that goes on: its headers are here, its body is read as it comes.
    pub async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        headers: &[(header::HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>> {
        let mut request = self.request(Method::GET, path, query, None)?;
        request.headers_mut().extend(headers.iter().cloned());
        let response = self.answer(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body(response).await?;
        Err(CliError::Refused(ProblemBody::read(status.as_u16(), &body)))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes)> {
        self.exchange(self.request(method, path, query, body)?).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let response = self.answer(request).await?;
        let status = response.status();
        let body = tokio::time::timeout(TIMEOUT, self.body(response))
            .await
            .map_err(|_| self.too_slow())??;
        if status.is_success() {
            Ok((status, body))
        } else {
            Err(CliError::Refused(ProblemBody::read(status.as_u16(), &body)))
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>> {
        let key = self.key.as_ref().ok_or_else(missing_key)?;
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|_| {
                CliError::usage("the API key holds characters that no key has")
                    .then("copy it again, without line breaks")
            })?;
        authorization.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(self.address(path, query).as_str())
            .header(header::AUTHORIZATION, authorization)
            .header(header::USER_AGENT, concat!("tidegate-cli/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(project) = &self.project {
            request = request.header(PROJECT, project);
        }
        request.body(Full::new(body.unwrap_or_default())).map_err(|_| {
            CliError::usage(format!("`{}` is no address that can be called", self.base))
        })
    }

    /// The base keeps its own path, for a gateway behind a proxy.
    fn address(&self, path: &str, query: &[(&str, String)]) -> Url {
        let mut address = self.base.clone();
        address.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        address.set_query(None);
        if !query.is_empty() {
            address
                .query_pairs_mut()
                .extend_pairs(query.iter().map(|(name, value)| (*name, value.as_str())));
        }
        address
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let answered = tokio::time::timeout(TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| self.too_slow())?;
        answered
            .map_err(|source| CliError::Unreachable { url: self.origin(), source: source.into() })
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes> {
        let read = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        read.map(http_body_util::Collected::to_bytes).map_err(|source| {
            if source.is::<LengthLimitError>() {
                CliError::Answer { what: "the answer is longer than 64 MiB".to_owned() }
            } else {
                CliError::Unreachable { url: self.origin(), source }
            }
        })
    }

    fn value(&self, bytes: Bytes) -> Result<Json> {
        if bytes.is_empty() {
            return Ok(Json::default());
        }
        Json::parse(&bytes).map_err(|_| CliError::Answer {
            what: format!("what answers at {} does not speak JSON", self.origin()),
        })
    }

    fn too_slow(&self) -> CliError {
        let source = format!("it took longer than {} s", TIMEOUT.as_secs()).into();
        CliError::Unreachable { url: self.origin(), source }
    }

    fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}

pub fn missing_key() -> CliError {
    CliError::usage("this command needs an API key").then(
        "set TIDEGATE_API_KEY, or pass --api-key. The gateway's own key is the TIDEGATE_ADMIN_KEY that `tidegate serve` \
         was started with (`openssl rand -hex 32` makes one); with it, `tidegate keys create NAME --scopes ingest,read` \
         makes others",
    )
}

/// A part of a list.
#[derive(Deserialize)]
pub struct ListPage {
    pub data: Vec<Json>,
    next: Option<String>,
}

/// Reads a list page by page, `limit` rows at most, and gives the rows to `take`.
pub async fn pages(
    client: &Client,
    path: &str,
    query: Vec<(&'static str, String)>,
    limit: usize,
    mut take: impl FnMut(Json) -> Result<()>,
) -> Result<()> {
    pages_while(client, path, query, limit, |row| take(row).map(|()| true)).await
}

/// The same, until `take` wants no more of it.
pub async fn pages_while(
    client: &Client,
    path: &str,
    mut query: Vec<(&'static str, String)>,
    limit: usize,
    mut take: impl FnMut(Json) -> Result<bool>,
) -> Result<()> {
    const PAGE: usize = 100;
    let mut left = limit;
    let filters = query.len();
    while left > 0 {
        query.push(("limit", left.min(PAGE).to_string()));
        let page: ListPage = client.get(path, &query).await?.read()?;
        for row in page.data.into_iter().take(left) {
            left -= 1;
            if !take(row)? {
                return Ok(());
            }
        }
        let Some(next) = page.next else { break };
        query.truncate(filters);
        query.push(("cursor", next));
    }
    Ok(())
}

/// Reads what is left of a stream into pieces, for callers that hold at most one of them.
pub async fn next_chunk(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) if data.is_empty() => (),
                Ok(data) => return Some(Ok(data)),
                Err(_trailers) => (),
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Collects lines from chunks; a line longer than `limit` is an error.
pub struct Lines {
    buffer: BytesMut,
    limit: usize,
}

impl Lines {
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Adds a chunk. `false`: a line has become too long.
    #[must_use]
    pub fn push(&mut self, chunk: &[u8]) -> bool {
        self.buffer.extend_from_slice(chunk);
        self.buffer.len() <= self.limit || self.buffer[..self.limit].contains(&b'\n')
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Option<Bytes> {
        let end = self.buffer.iter().position(|&it| it == b'\n')?;
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Some(line.freeze())
    }
}
