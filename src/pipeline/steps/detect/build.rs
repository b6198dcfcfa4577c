//! Reading the settings of steps that detect.

use std::time::Duration;

use humantime_serde::re::humantime::format_duration;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::{Detect, DetectRule, LONGEST_KEY, absence, spike};
use crate::{
    expr::Names,
    model::{ProjectId, TypeName},
    pipeline::{
        Tools,
        steps::{
            Step,
            invalid::{Invalid, kind_of},
            settings::StepSettings,
        },
    },
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_WINDOW: Duration = Duration::from_secs(31 * DAY.as_secs());
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(366 * DAY.as_secs());
const LONGEST_INTERVAL: Duration = Duration::from_secs(366 * DAY.as_secs());
const SHORTEST: Duration = Duration::from_secs(1);
/// What both steps take.
const SHARED: [&str; 3] = ["key", "into", "max_keys"];

impl Detect {
    pub fn spike(
        settings: &Value,
        names: &Names<'_>,
        project: ProjectId,
        tools: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let own = ["threshold", "window", "mode", "cool_down", "payload"];
        let fields = StepSettings::of(Self::SPIKE, settings, &[&own, &SHARED])?;
        let threshold = number(&fields, "threshold", 1_000_000_000_000)?;
        let threshold = threshold.ok_or_else(|| fields.missing("threshold"))?;
        let (window, shown) = window(&fields)?;
        let cool_down = match fields.has("cool_down") {
            true => Some(fields.duration("cool_down", DAY, LONGEST_COOL_DOWN)?.as_millis() as i64),
            false => None,
        };
        let rule = DetectRule::Spike {
            rule: spike::SpikeRule { threshold, window, cool_down },
            window: shown,
        };
        let mark = format!("{window:?}");
        let in_payload = fields.flag("payload", true)?;
        build(&fields, (Self::SPIKE, &mark, "spike"), rule, in_payload, (names, project, tools))
    }

    pub fn absence(
        settings: &Value,
        names: &Names<'_>,
        project: ProjectId,
        tools: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let own = ["every", "grace", "keys", "type", "recovery"];
        let fields = StepSettings::of(Self::ABSENCE, settings, &[&own, &SHARED])?;
        if !fields.has("every") {
            return Err(fields.missing("every"));
        }
        let every = fields.duration("every", DAY, LONGEST_INTERVAL)?;
        if every < SHORTEST {
            return Err(fields.wrong("every", "must be at least a second"));
        }
        let grace = match fields.text("grace")? {
            Some("0s") => Duration::ZERO,
            Some(_) | None => {
                fields.duration("grace", Duration::from_secs(60), LONGEST_INTERVAL)?
            }
        };
        let type_of = |name: &str| -> Result<Option<TypeName>, Invalid> {
            let Some(text) = fields.text(name)? else { return Ok(None) };
            let rule = "must be an event type such as `job.missing`";
            text.parse().map(Some).map_err(|_| fields.wrong(name, rule))
        };
        let event_type = type_of("type")?.unwrap_or(TypeName::trusted("absence.detected"));
        let recovery = type_of("recovery")?;
        let keys = keys(&fields)?;
        let rule =
            DetectRule::Absence(absence::AbsenceRule { every, grace, event_type, recovery, keys });
        build(&fields, (Self::ABSENCE, "", "absence"), rule, true, (names, project, tools))
    }
}

fn build(
    fields: &StepSettings<'_>,
    (kind, mark, into): (&str, &str, &str),
    rule: DetectRule,
    in_payload: bool,
    (names, project, tools): (&Names<'_>, ProjectId, &Tools),
) -> Result<Box<dyn Step>, Invalid> {
    const MOST_KEYS: u64 = 10_000;
    let into = fields.text("into")?.unwrap_or(into).to_owned();
    if !names.is_free(&into) {
        return Err(fields.wrong("into", "must be a name that this pipeline does not use yet"));
    }
    let key = match fields.has("key") {
        true => Some(fields.expression("key", None, names)?),
        false => None,
    };
    let most_keys = number(fields, "max_keys", 10 * MOST_KEYS)?.unwrap_or(MOST_KEYS) as usize;
    let source = fields.text("key")?.unwrap_or("");
    let hash = xxh3_64(format!("{kind}\0{into}\0{source}\0{mark}").as_bytes());
    let seed = xxh3_64(tools.pseudonyms.of_project(project).of("detect", "").as_bytes());
    Ok(Box::new(Detect { rule, key, into, in_payload, most_keys, hash, seed }))
}

/// The window, and how people read it.
fn window(fields: &StepSettings<'_>) -> Result<(spike::Window, String), Invalid> {
    let tumbles = match fields.text("mode")? {
        None | Some("sliding") => false,
        Some("tumbling") => true,
        Some(_) => return Err(fields.wrong("mode", "must be `sliding` or `tumbling`")),
    };
    if fields.text("window")? == Some("month") {
        return match fields.has("mode") && !tumbles {
            true => Err(fields.wrong("mode", "must be `tumbling`: months do not slide")),
            false => Ok((spike::Window::Month, "this month".to_owned())),
        };
    }
    if !fields.has("window") {
        return Err(fields.missing("window"));
    }
    let window = fields.duration("window", DAY, LONGEST_WINDOW)?;
    if window < SHORTEST {
        return Err(fields.wrong("window", "must be at least a second"));
    }
    let millis = window.as_millis() as i64;
    let shown = format_duration(window).to_string();
    Ok((
        if tumbles { spike::Window::Tumbling(millis) } else { spike::Window::Sliding(millis) },
        shown,
    ))
}

fn number(fields: &StepSettings<'_>, name: &str, most: u64) -> Result<Option<u64>, Invalid> {
    let Some(value) = fields.value(name) else { return Ok(None) };
    let found = value.as_u64().filter(|it| (1..=most).contains(it));
    found.map(Some).ok_or_else(|| fields.wrong(name, &format!("must be a number from 1 to {most}")))
}

fn keys(fields: &StepSettings<'_>) -> Result<Vec<String>, Invalid> {
    const MOST: usize = 1000;
    let rule = "must be a list of at most 1000 texts that the key can have";
    let keys = fields.list("keys", rule)?.unwrap_or_default();
    let is_key = |it: &&str| !it.is_empty() && it.len() <= LONGEST_KEY && it.trim() == *it;
    if keys.len() > MOST || !keys.iter().all(is_key) {
        return Err(fields.wrong("keys", rule));
    }
    if !keys.is_empty() && !fields.has("key") {
        let found = fields.value("keys").map_or("nothing", kind_of);
        return Err(Invalid::new(Detect::ABSENCE, "must have a `key` where it has `keys`", found));
    }
    Ok(keys.into_iter().map(str::to_owned).collect())
}
