//! One pass over JSON that copies everything but what is taken out.

use super::{
    Redactor, Segment,
    detect::{Detectors, SHORTEST_CARD, Traits, is_card},
    text::{Cleaned, Decoded},
};
use crate::model::{RawJson, RedactionMode};

/// Deeper objects and lists are taken out as a whole. Ingest accepts 64 levels.
const DEEPEST: usize = 192;

/// The JSON without what is to be taken out; `None` when that is nothing. `empty` stands for it when
/// it goes as a whole.
pub fn redact(
    redactor: &Redactor,
    json: &RawJson,
    paths: &[Vec<Segment>],
    empty: &str,
) -> Option<RawJson> {
    if paths.is_empty() && !redactor.detectors.any() {
        return None;
    }
    let mut walk = Walk::of(redactor, json, paths, empty, None);
    if walk.copied == 0 {
        return None;
    }
    walk.out.extend_from_slice(&walk.json[walk.copied..]);
    Some(RawJson::trusted(walk.out))
}

/// What is taken out of the JSON, value by value, each with what stands in its place.
pub fn found(
    redactor: &Redactor,
    json: &RawJson,
    paths: &[Vec<Segment>],
    empty: &str,
) -> Vec<(String, String)> {
    if paths.is_empty() && !redactor.detectors.any() {
        return Vec::new();
    }
    Walk::of(redactor, json, paths, empty, Some(Vec::new())).taken.unwrap_or_default()
}

struct Walk<'a> {
    redactor: &'a Redactor,
    json: &'a [u8],
    at: usize,
    /// Up to here, everything is in `out`, or was left out.
    copied: usize,
    out: Vec<u8>,
    /// What was taken out, where somebody wants to know.
    taken: Option<Vec<(String, String)>>,
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    Unchanged,
    /// It is to disappear, and whoever holds it has to see to that.
    Dropped,
}

impl<'a> Walk<'a> {
    /// The whole way through.
    fn of(
        redactor: &'a Redactor,
        json: &'a RawJson,
        paths: &[Vec<Segment>],
        empty: &str,
        taken: Option<Vec<(String, String)>>,
    ) -> Self {
        let paths: Vec<&[Segment]> = paths.iter().map(Vec::as_slice).collect();
        let json = json.bytes();
        let mut walk = Self { redactor, json, at: 0, copied: 0, out: Vec::new(), taken };
        walk.space();
        let start = walk.at;
        if walk.value(&paths, 0) == After::Dropped {
            walk.splice(start, walk.at, empty.as_bytes());
        }
        walk
    }

    fn take(&mut self, value: impl FnOnce(&Redactor) -> (String, String)) {
        if let Some(taken) = &mut self.taken {
            taken.push(value(self.redactor));
        }
    }

    /// Notes everything between two places, which goes as a whole.
    fn take_all(&mut self, start: usize, end: usize) {
        if self.taken.is_none() {
            return;
        }
        self.at = start;
        while self.at < end {
            self.space();
            let from = self.at;
            match self.peek() {
                b'"' => {
                    self.skip_string();
                    let to = self.at;
                    self.space();
                    let text = Decoded::of(&self.json[from + 1..to - 1]).text.into_owned();
                    if self.peek() != b':' || Detectors::all().whole(&text).is_some() {
                        self.take(|it| (text.clone(), it.gone(&text)));
                    }
                }
                b'-' | b'0'..=b'9' => {
                    self.skip_word();
                    let text = String::from_utf8_lossy(&self.json[from..self.at]).into_owned();
                    self.take(|it| (text.clone(), it.gone(&text)));
                }
                _ => self.at += 1,
            }
        }
        self.at = end;
    }

    fn peek(&self) -> u8 {
        self.json.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Puts something else in the place of these bytes.
    fn splice(&mut self, start: usize, end: usize, new: &[u8]) {
        self.out.extend_from_slice(&self.json[self.copied..start]);
        self.out.extend_from_slice(new);
        self.copied = end;
    }

    /// `paths` are those that lead here, without what they have behind them.
    fn value(&mut self, paths: &[&[Segment]], depth: usize) -> After {
        let is_named = paths.iter().any(|it| it.is_empty());
        if is_named && self.redactor.mode == RedactionMode::Drop {
            let start = self.at;
            self.skip();
            self.take_all(start, self.at);
            return After::Dropped;
        }
        if is_named {
            self.leaves();
            return After::Unchanged;
        }
        let looks = self.redactor.detectors.any();
        match self.peek() {
            b'"' if looks => self.string(),
            b'{' | b'[' if !looks && paths.is_empty() => self.skip_kept(),
            b'{' | b'[' if depth >= DEEPEST => {
                let start = self.at;
                self.skip();
                self.splice(start, self.at, b"null");
                After::Unchanged
            }
            b'{' => self.object(paths, depth),
            b'[' => self.list(paths, depth),
            b'-' | b'0'..=b'9' if looks => self.number(),
            _ => self.skip_kept(),
        }
    }

    fn object(&mut self, paths: &[&[Segment]], depth: usize) -> After {
        self.at += 1;
        self.space();
        // Where the last member ended, whether it stayed or not, once one has stayed.
        let mut end_before = None;
        while self.peek() == b'"' {
            let key_start = self.at;
            let before_key = (self.out.len(), self.copied);
            let of_key = if self.redactor.detectors.any() { self.string() } else { self.text() };
            let key = &self.json[key_start + 1..self.at - 1];
            let below = below(paths, |it| match it {
                Segment::Key(name) => is_key(key, name),
                Segment::Any => true,
                Segment::Index(_) => false,
            });
            self.space();
            self.at += 1;
            self.space();
            let after = match of_key {
                After::Unchanged => self.value(&below, depth + 1),
                After::Dropped => {
                    let start = self.at;
                    self.skip();
                    self.take_all(start, self.at);
                    After::Dropped
                }
            };
            if after == After::Dropped {
                // The member goes with its key, whatever became of that.
                self.out.truncate(before_key.0);
                self.copied = before_key.1;
            }
            let end = self.at;
            self.space();
            let has_more = self.peek() == b',';
            if has_more {
                self.at += 1;
                self.space();
            }
            match (after, end_before) {
                (After::Unchanged, _) => end_before = Some(end),
                (After::Dropped, Some(before)) => {
                    self.splice(before, end, b"");
                    end_before = Some(end);
                }
                (After::Dropped, None) if has_more => self.splice(key_start, self.at, b""),
                (After::Dropped, None) => self.splice(key_start, end, b""),
            }
            if !has_more {
                break;
            }
        }
        self.at += 1;
        After::Unchanged
    }

    fn list(&mut self, paths: &[&[Segment]], depth: usize) -> After {
        self.at += 1;
        self.space();
        let mut place = 0;
        while self.at < self.json.len() && self.peek() != b']' {
            let below = below(paths, |it| match it {
                Segment::Index(it) => *it == place,
                Segment::Any => true,
                Segment::Key(_) => false,
            });
            let start = self.at;
            if self.value(&below, depth + 1) == After::Dropped {
                // The others keep their places.
                self.splice(start, self.at, b"null");
            }
            self.space();
            if self.peek() != b',' {
                break;
            }
            self.at += 1;
            self.space();
            place += 1;
        }
        self.at += 1;
        After::Unchanged
    }

    /// A string in which nothing is looked for.
    fn text(&mut self) -> After {
        self.skip_string();
        After::Unchanged
    }

    /// A string in which values are looked for.
    fn string(&mut self) -> After {
        let start = self.at + 1;
        let (traits, is_escaped) = self.scan_string();
        let end = self.at - 1;
        let detectors = self.redactor.detectors;
        // An escape may stand for what a detector waits for.
        if !is_escaped && !detectors.may_match(traits) {
            return After::Unchanged;
        }
        let decoded = Decoded::of(&self.json[start..end]);
        if self.taken.is_some() {
            for it in self.redactor.detectors.find(&decoded.text) {
                let value = decoded.text[it.range].to_owned();
                self.take(|redactor| (value.clone(), redactor.replacement(it.kind, &value)));
            }
        }
        match self.redactor.clean(&decoded.text) {
            Cleaned::Same => (),
            _ if self.redactor.mode == RedactionMode::Drop
                && detectors.whole(&decoded.text).is_some() =>
            {
                return After::Dropped;
            }
            Cleaned::Parts(parts) => {
                for (range, new) in parts {
                    let raw = decoded.raw(&range);
                    let new = quoted(&new);
                    self.splice(start + raw.start, start + raw.end, &new[1..new.len() - 1]);
                }
            }
            Cleaned::Whole(new) => self.splice(start - 1, end + 1, &quoted(&new)),
        }
        After::Unchanged
    }

    /// A number, which may be that of a card.
    fn number(&mut self) -> After {
        let start = self.at;
        self.skip_word();
        let raw = &self.json[start..self.at];
        if !self.redactor.detectors.card() || raw.len() < 4 {
            return After::Unchanged;
        }
        let Some(digits) = card_digits(raw) else { return After::Unchanged };
        let new = self.redactor.replacement(super::Kind::Card, &digits);
        self.take(|_| (digits.clone(), new.clone()));
        if self.redactor.mode == RedactionMode::Drop {
            return After::Dropped;
        }
        self.splice(start, self.at, &quoted(&new));
        After::Unchanged
    }

    /// Replaces every value in here: it is part of a named field.
    fn leaves(&mut self) {
        let mut depth = 0_usize;
        loop {
            self.space();
            let start = self.at;
            match self.peek() {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                b'"' => {
                    self.skip_string();
                    let end = self.at;
                    self.space();
                    let text = Decoded::of(&self.json[start + 1..end - 1]).text;
                    if self.peek() != b':' || Detectors::all().whole(&text).is_some() {
                        let new = self.redactor.named(&text);
                        self.take(|_| (text.into_owned(), new.clone()));
                        self.splice(start, end, &quoted(&new));
                    }
                    self.at = end;
                }
                b'n' => self.skip_word(),
                0 => return,
                _ => {
                    self.skip_word();
                    let raw = &self.json[start..self.at];
                    let text = card_digits(raw)
                        .unwrap_or_else(|| String::from_utf8_lossy(raw).into_owned());
                    let new = self.redactor.named(&text);
                    if raw.first().is_some_and(|it| *it == b'-' || it.is_ascii_digit()) {
                        self.take(|_| (text, new.clone()));
                    }
                    self.splice(start, self.at, &quoted(&new));
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_kept(&mut self) -> After {
        self.skip();
        After::Unchanged
    }

    fn skip(&mut self) {
        let mut depth = 0_usize;
        loop {
            self.space();
            match self.peek() {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                b'"' => self.skip_string(),
                0 => return,
                _ => self.skip_word(),
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.json.get(self.at) {
            self.at += match byte {
                b'"' => break,
                b'\\' => 2,
                _ => 1,
            };
        }
        self.at = (self.at + 1).min(self.json.len());
    }

    /// Like [`Self::skip_string`], and says what is in it.
    fn scan_string(&mut self) -> (Traits, bool) {
        let (mut traits, mut is_escaped) = (Traits::default(), false);
        self.at += 1;
        while let Some(&byte) = self.json.get(self.at) {
            match byte {
                b'"' => break,
                b'\\' => {
                    is_escaped = true;
                    self.at += 2;
                }
                byte => {
                    traits.see(byte);
                    self.at += 1;
                }
            }
        }
        self.at = (self.at + 1).min(self.json.len());
        (traits, is_escaped)
    }

    /// A number, or `true`, `false`, `null`.
    fn skip_word(&mut self) {
        let rest = &self.json[self.at..];
        let is_over =
            |it: &u8| matches!(it, b',' | b':' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        // At least one byte, so that no damaged text holds us up.
        self.at += rest.iter().position(is_over).unwrap_or(rest.len()).max(1);
    }
}

/// What is left of the paths that go on through this segment.
fn below<'p>(paths: &[&'p [Segment]], matches: impl Fn(&Segment) -> bool) -> Vec<&'p [Segment]> {
    let next = |it: &&'p [Segment]| {
        let (first, rest) = it.split_first()?;
        matches(first).then_some(rest)
    };
    paths.iter().filter_map(next).collect()
}

fn is_key(raw: &[u8], name: &str) -> bool {
    raw == name.as_bytes() || raw.contains(&b'\\') && Decoded::of(raw).text == name
}

fn quoted(text: &str) -> Vec<u8> {
    // A string always serialises.
    serde_json::to_vec(text).unwrap_or_default()
}

/// The digits of a number, however it is written, if they are those of a card: exactly, or as the
/// double-precision number that most parsers make of it.
fn card_digits(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?.trim_start_matches('-');
    if raw.len() < SHORTEST_CARD && raw.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exact = whole_digits(text).filter(|it| is_card(it.bytes()));
    exact.or_else(|| {
        let rounded: f64 = text.parse().ok()?;
        let digits = (rounded < 1e19 && rounded.fract() == 0.0).then(|| format!("{rounded:.0}"))?;
        is_card(digits.bytes()).then_some(digits)
    })
}

/// The digits of a whole number: `4.2e3` is `4200`.
fn whole_digits(text: &str) -> Option<String> {
    const MOST: usize = 40;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let shift = exponent.parse::<i64>().ok()? - fraction.len() as i64;
    let mut digits = format!("{whole}{fraction}");
    if shift < 0 {
        let kept = digits.len().checked_sub(usize::try_from(-shift).ok()?)?;
        if digits[kept..].bytes().any(|it| it != b'0') {
            return None;
        }
        digits.truncate(kept);
    } else {
        let zeros = usize::try_from(shift).ok().filter(|it| *it <= MOST)?;
        digits.extend(std::iter::repeat_n('0', zeros));
    }
    let digits = digits.trim_start_matches('0');
    (digits.len() <= MOST).then(|| digits.to_owned())
}
