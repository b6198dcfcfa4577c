//! Server-sent events, read for as long as the command runs: a connection that breaks is opened
//! again, from the last event that was seen.

use std::time::Duration;

use http::{HeaderValue, header};
use hyper::body::Incoming;

use super::{
    client::{Client, Lines, next_chunk},
    error::{CliError, Result, innermost},
};

/// After this long without a byte the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(60);
/// No event is longer: the gateway's own limit on bodies is far below.
const LONGEST_LINE: usize = 32 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEvent {
    /// `message` unless the sender named it.
    pub name: String,
    pub data: String,
}

/// Why the gateway ended a stream, by its last event.
pub fn end_reason(event: &StreamEvent) -> String {
    let reported: Option<serde_json::Value> = serde_json::from_str(&event.data).ok();
    let reason = reported.as_ref().and_then(|it| it["reason"].as_str());
    reason.unwrap_or("it did not say why").to_owned()
}

/// Puts lines together to events, as the HTML standard says.
#[derive(Default)]
struct Parser {
    name: String,
    data: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Option<StreamEvent> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take()?;
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Some(StreamEvent { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.last_id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
            // A comment (whose field is empty) or a field from the future.
            _ => (),
        }
        None
    }
}

/// What the stream tells its reader.
#[derive(Debug, PartialEq)]
pub enum StreamNote {
    Event(StreamEvent),
    /// Connected, for the first time or again.
    Connected,
    /// The connection broke, and is opened again after this wait.
    Broken {
        reason: String,
        wait: Duration,
    },
}

/// A stream of events that survives its connections.
pub struct Stream {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    connection: Option<(Incoming, Lines)>,
    parser: Parser,
    failures: u32,
    wait: Duration,
}

impl Stream {
    pub fn new(
        client: Client,
        path: impl Into<String>,
        query: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            client,
            path: path.into(),
            query,
            connection: None,
            parser: Parser::default(),
            failures: 0,
            wait: Duration::ZERO,
        }
    }

    /// What comes next. Fails only where trying again would not help: the gateway refuses, or
    /// nobody answers the first time.
    pub async fn next(&mut self) -> Result<StreamNote> {
        loop {
            let Some((body, lines)) = &mut self.connection else {
                match self.connect().await? {
                    Some(reported) => return Ok(reported),
                    None => continue,
                }
            };
            while let Some(line) = lines.next_line() {
                if let Some(event) = self.parser.line(&String::from_utf8_lossy(&line)) {
                    return Ok(StreamNote::Event(event));
                }
            }
            // A gateway that is alive says so every few seconds.
            let reason = match tokio::time::timeout(SILENCE, next_chunk(body)).await {
                Err(_) => "nothing came for a minute".to_owned(),
                Ok(Some(Ok(chunk))) if lines.push(&chunk) => continue,
                Ok(Some(Ok(_))) => {
                    return Err(CliError::Answer {
                        what: "an event of the stream is too long".to_owned(),
                    });
                }
                Ok(Some(Err(error))) => innermost(&error),
                Ok(None) => "the gateway ended the stream".to_owned(),
            };
            self.connection = None;
            return Ok(self.broken(reason));
        }
    }

    async fn connect(&mut self) -> Result<Option<StreamNote>> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        let mut headers = vec![(header::ACCEPT, HeaderValue::from_static("text/event-stream"))];
        if let Some(id) =
            self.parser.last_id.as_deref().and_then(|it| HeaderValue::from_str(it).ok())
        {
            headers.push((header::HeaderName::from_static("last-event-id"), id));
        }
        match self.client.stream(&self.path, &self.query, &headers).await {
            Ok(response) => {
                // Half an event may be left of the connection before; its other half is lost.
                (self.parser.name, self.parser.data) = (String::new(), None);
                self.connection = Some((response.into_body(), Lines::new(LONGEST_LINE)));
                (self.failures, self.wait) = (0, Duration::ZERO);
                Ok(Some(StreamNote::Connected))
            }
            Err(CliError::Refused(problem)) if problem.status < 500 && problem.status != 429 => {
                Err(CliError::Refused(problem))
            }
            Err(error @ CliError::Unreachable { .. })
                if self.failures == 0 && self.wait.is_zero() =>
            {
                Err(error)
            }
            Err(error @ (CliError::Refused(_) | CliError::Unreachable { .. })) => {
                Ok(Some(self.broken(error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    fn broken(&mut self, reason: String) -> StreamNote {
        const LONGEST: Duration = Duration::from_secs(5);
        self.failures = self.failures.saturating_add(1);
        let first =
            self.parser.retry.unwrap_or(Duration::from_millis(250)).max(Duration::from_millis(10));
        self.wait = first.saturating_mul(1 << (self.failures - 1).min(10)).min(LONGEST);
        StreamNote::Broken { reason, wait: self.wait }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::model::Secret;

    fn parse(text: &str) -> Vec<StreamEvent> {
        let mut parser = Parser::default();
        text.lines().filter_map(|line| parser.line(line)).collect()
    }

    #[test]
    fn lines_become_events() {
        let event =
            |name: &str, data: &str| StreamEvent { name: name.to_owned(), data: data.to_owned() };
        for (text, expected) in [
            ("data: 1\n\n", vec![event("message", "1")]),
            ("event: attempt\ndata:a\ndata: b\n\n", vec![event("attempt", "a\nb")]),
            (": ping\n\ndata: 1\n\n", vec![event("message", "1")]),
            ("event: lonely\n\ndata: 1\n\n", vec![event("message", "1")]),
            ("data: half", vec![]),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_last_id_and_the_wait_are_remembered() {
        let mut parser = Parser::default();
        for line in ["id: 42", "retry: 1500", "data: x", ""] {
            parser.line(line);
        }
        assert_eq!(
            (parser.last_id.as_deref(), parser.retry),
            (Some("42"), Some(Duration::from_millis(1_500)))
        );
    }

    /// Answers each connection with the next of these, and tells what each asked for.
    async fn gateway(
        answers: &'static [&'static str],
    ) -> (Client, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base =
            format!("http://{}/behind/a/proxy/", listener.local_addr().unwrap()).parse().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                sender.send(String::from_utf8(request).unwrap()).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (Client::new(base, Some(Secret::new("k")), Some("acme".to_owned())), asked)
    }

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_broken_stream_goes_on_behind_the_last_event() {
        const FIRST: &str =
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nretry: 10\nid: 7\ndata: one\n\ndata: hal";
        const SECOND: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: 8\ndata: two\n\n";
        let (client, mut asked) = gateway(&[FIRST, SECOND]).await;
        let mut stream = Stream::new(client, "/api/v1/tail", vec![("type", "user.*".to_owned())]);
        let data = |it: &str| {
            StreamNote::Event(StreamEvent { name: "message".to_owned(), data: it.to_owned() })
        };

        assert_eq!(stream.next().await.unwrap(), StreamNote::Connected);
        assert_eq!(stream.next().await.unwrap(), data("one"));
        assert!(
            matches!(stream.next().await.unwrap(), StreamNote::Broken { wait, .. } if wait == Duration::from_millis(10))
        );
        assert_eq!(stream.next().await.unwrap(), StreamNote::Connected);
        assert_eq!(stream.next().await.unwrap(), data("two"));

        let first = asked.recv().await.unwrap();
        assert!(
            first.starts_with("GET /behind/a/proxy/api/v1/tail?type=user.* HTTP/1.1\r\n"),
            "{first}"
        );
        assert!(
            first.contains("tidegate-project: acme\r\n")
                && first.contains("authorization: Bearer k\r\n"),
            "{first}"
        );
        assert!(!first.contains("last-event-id"));
        assert!(asked.recv().await.unwrap().contains("last-event-id: 7\r\n"));
    }

    #[tokio::test]
    async fn a_refusal_ends_the_stream_and_an_overload_does_not() {
        const BUSY: &str =
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const NO: &str =
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (client, _asked) = gateway(&[BUSY, HEAD, NO]).await;
        let mut stream = Stream::new(client, "/api/v1/tail", Vec::new());
        assert!(matches!(stream.next().await.unwrap(), StreamNote::Broken { .. }));
        assert_eq!(stream.next().await.unwrap(), StreamNote::Connected);
        assert!(matches!(stream.next().await.unwrap(), StreamNote::Broken { .. }));
        assert!(
            matches!(stream.next().await, Err(CliError::Refused(problem)) if problem.status == 401)
        );
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let client = Client::new(base, Some(Secret::new("k")), None);
        let mut stream = Stream::new(client, "/api/v1/tail", Vec::new());
        assert!(matches!(stream.next().await, Err(CliError::Unreachable { .. })));
    }
}
