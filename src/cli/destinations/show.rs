//! `tidegate destinations show`: one destination, on a dozen lines.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Context, DestinationView, next_command};
use crate::{
    cli::{
        error::Result,
        output::{Paint, clip, distance, plural, table},
        status::age,
    },
    model::Name,
};

/// What is shown beside the state.
#[derive(Debug, Deserialize)]
struct Whole {
    #[serde(flatten)]
    it: DestinationView,
    version: u32,
    /// Of a kind that has profiles.
    #[serde(default)]
    profile: Option<String>,
    #[serde(default)]
    signing_keys: Vec<SigningKey>,
}

#[derive(Debug, Deserialize)]
struct SigningKey {
    created_at: Timestamp,
    active_from: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct DestinationStatus {
    destinations: Vec<Owing>,
}

#[derive(Debug, Deserialize)]
struct Owing {
    name: String,
    owed: u64,
    oldest_seconds: Option<f64>,
}

pub async fn run(context: &Context, name: &Name, is_json: bool) -> Result<()> {
    let answer = context.client.get(&format!("/api/v1/destinations/{name}"), &[]).await?;
    if is_json {
        return context.out.json(&answer);
    }
    let whole: Whole = answer.read()?;
    let status: DestinationStatus = context.client.get("/api/v1/status", &[]).await?.read()?;
    let owing = status.destinations.into_iter().find(|owing| owing.name == whole.it.name);
    let (now, paint) = (context.clock.now(), context.out.paint);
    context.out.text(&screen(&whole, owing.as_ref(), now, paint))?;
    context.out.next(next_command(name, &whole.it.state));
    Ok(())
}

fn screen(whole: &Whole, owing: Option<&Owing>, now: Timestamp, paint: Paint) -> String {
    let it = &whole.it;
    let mut rows = Vec::new();
    let mut row = |title: &str, text: String| {
        rows.push(vec![format!("  {}", paint.dim(title)), text]);
    };
    for url in it.url.iter().chain(&it.urls) {
        row("url", clip(url, 90));
    }
    match &whole.profile {
        Some(it) => row("profile", format!("{it}, version {} of the destination", whole.version)),
        None => row("version", whole.version.to_string()),
    }
    row("owed", owed(owing));
    for key in &whole.signing_keys {
        row("secret", secret(key, now));
    }
    let state = super::sentence(&it.state, now, paint);
    format!("{}  {}  {state}\n{}", paint.bold(&it.name), it.kind, table(&rows))
}

/// `2 deliveries, the oldest since 5 min`
fn owed(owing: Option<&Owing>) -> String {
    let owed = owing.map_or(0, |it| it.owed);
    let oldest = owing.and_then(|it| it.oldest_seconds);
    let oldest = oldest.map(|it| format!(", the oldest since {}", age(it)));
    plural(owed, "delivery") + &oldest.unwrap_or_default()
}

/// `made 2 days ago, signs until 3 h from now`
fn secret(it: &SigningKey, now: Timestamp) -> String {
    let mut text = format!("made {}", distance(it.created_at, now));
    match it.active_from.filter(|from| *from > now) {
        Some(from) => text.push_str(&format!(", begins to sign {}", distance(from, now))),
        None => text.push_str(", signs"),
    }
    if let Some(end) = it.expires_at {
        text.push_str(&format!(", ends {}", distance(end, now)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_destination_is_shown_with_what_it_is_owed_and_its_secrets() {
        let whole = serde_json::from_value(json!({
            "name": "crm", "kind": "webhook", "url": "https://crm.test/hooks", "version": 3,
            "profile": "standard", "state": "paused", "since": "2026-07-31T14:00:00Z",
            "signing_keys": [
                { "created_at": "2026-07-31T14:00:00Z", "expires_at": null },
                { "created_at": "2026-07-31T13:05:00Z", "expires_at": "2026-07-31T15:05:00Z" },
            ],
        }))
        .unwrap();
        let owing = Owing { name: "crm".to_owned(), owed: 2, oldest_seconds: Some(75.4) };
        let now = "2026-07-31T14:05:00Z".parse().unwrap();
        let expected = "\
crm  webhook  paused 5 min ago
  url      https://crm.test/hooks
  profile  standard, version 3 of the destination
  owed     2 deliveries, the oldest since 1 min 15 s
  secret   made 5 min ago, signs
  secret   made 1 h ago, signs, ends in 1 h
";
        assert_eq!(screen(&whole, Some(&owing), now, Paint::PLAIN), expected);
        assert!(screen(&whole, None, now, Paint::PLAIN).contains("  owed     0 deliveries\n"));
    }
}
