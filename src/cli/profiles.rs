//! `tidegate profiles`: the values of each profile side by side, without a gateway.

use serde_json::Value;

use super::{
    error::{CliError, Result},
    output::{Output, Paint, table},
};
use crate::{
    model::Profile,
    resources::profiles::{self, ProfileView},
};

/// Compare the webhook profiles, value by value
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each value can be overridden on a destination, by the name that stands in the first column.

Examples:
  tidegate profiles
  tidegate profiles admin segment
  tidegate profiles --json customerio | jq .values.signature")]
pub struct Args {
    /// Only these: standard, ingestlayer, admin, segment, segment-actions, customerio
    #[arg(value_name = "PROFILE", value_parser = profile)]
    profiles: Vec<Profile>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

fn profile(text: &str) -> std::result::Result<Profile, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| {
        "there are standard, ingestlayer, admin, segment, segment-actions and customerio".to_owned()
    })
}

pub fn run(args: &Args) -> Result<()> {
    let out = Output::standard();
    let chosen = if args.profiles.is_empty() { &Profile::ALL[..] } else { &args.profiles };
    if !args.json {
        return out.text(&render(chosen, out.paint));
    }
    for profile in chosen {
        let line = serde_json::to_string(&ProfileView::of(*profile));
        out.line(line.map_err(|error| CliError::failed(format!("it cannot be shown: {error}")))?)?;
    }
    Ok(())
}

fn render(chosen: &[Profile], paint: Paint) -> String {
    let mut rows = profiles::table(chosen);
    for (place, row) in rows.iter_mut().enumerate() {
        for (column, cell) in row.iter_mut().enumerate() {
            if place == 0 || column == 0 {
                *cell = paint.bold(&*cell);
            }
        }
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_stand_side_by_side() {
        let text = render(&[Profile::Standard, Profile::Admin], Paint::PLAIN);
        let line = |name: &str| {
            let line = text.lines().find(|it| it.starts_with(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("  "), "standard admin");
        assert_eq!(line("timeout"), "timeout 15s 3s");
        assert_eq!(line("expires_after"), "expires_after false 1day");
        assert_eq!(line("signature.scheme"), "signature.scheme standard prefixed");
        assert_eq!(profile("segment-actions"), Ok(Profile::SegmentActions));
        assert!(profile("Segment").is_err());
    }
}
