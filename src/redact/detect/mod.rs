//! Finds personal data in texts by its form.
//!
//! A cheap look at all bytes comes first; a detector runs only where its value could stand.

mod email;
mod address;
mod digits;
mod iban;
mod phone;
mod fold;

use std::ops::Range;

use crate::model::Detector;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Email,
    Ip,
    Phone,
    Card,
    Iban,
    Ssn,
}

impl Kind {
    /// For people, in the place of a value.
    pub fn word(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Phone => "phone",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Ssn => "ssn",
        }
    }

    /// One form for all ways to write the same value, so that their pseudonyms are the same.
    pub fn normal(self, text: &str) -> String {
        let text = &*fold::plainly(text);
        match self {
            Self::Email => email::normal(text),
            Self::Ip => address::normal(text),
            Self::Phone => {
                let plus = if text.starts_with('+') { "+" } else { "" };
                text.chars().filter(char::is_ascii_digit).fold(plus.to_owned(), |mut all, it| {
                    all.push(it);
                    all
                })
            }
            Self::Card | Self::Ssn => text.chars().filter(char::is_ascii_digit).collect(),
            Self::Iban => iban::normal(text),
        }
    }

    /// What of a value may be seen.
    pub fn mask(self, text: &str) -> String {
        let text = &*fold::plainly(text);
        match self {
            Self::Email => email::mask(text),
            Self::Ip => address::mask(text),
            Self::Phone => hide(text, 0, 2),
            Self::Card | Self::Ssn => hide(text, 0, 4),
            Self::Iban => hide(text, 2, 4),
        }
    }
}

/// The network of an address; `None` for what is none.
pub fn truncate(text: &str) -> Option<String> {
    address::truncate(&fold::plainly(text))
}

pub use digits::{SHORTEST_CARD, is_card};

/// Stars for letters and digits, but for some at the beginning and the end.
fn hide(text: &str, first: usize, last: usize) -> String {
    let count = text.chars().filter(char::is_ascii_alphanumeric).count();
    let mut place = 0;
    let hidden = text.chars().map(|it| {
        if !it.is_ascii_alphanumeric() {
            return it;
        }
        place += 1;
        if place <= first || place + last > count { it } else { '*' }
    });
    hidden.collect()
}

/// Which detectors are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detectors {
    email: bool,
    ip: bool,
    phone: bool,
    card: bool,
    iban: bool,
    ssn: bool,
}

/// What a text consists of, as far as detectors need to know before they look closer.
#[derive(Clone, Copy, Default)]
pub struct Traits {
    digits: usize,
    dots: usize,
    colons: usize,
    at: bool,
    percent: bool,
    /// There may be characters that are written wider than they need be.
    wide: bool,
}

/// One value in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundValue {
    pub range: Range<usize>,
    pub kind: Kind,
}

impl Detectors {
    pub fn of(list: &[Detector]) -> Self {
        let mut on = Self::default();
        for detector in list {
            match detector {
                Detector::All => on = Self::all(),
                Detector::Email => on.email = true,
                Detector::Ip => on.ip = true,
                Detector::Phone => on.phone = true,
                Detector::Card => on.card = true,
                Detector::Iban => on.iban = true,
                Detector::Ssn => on.ssn = true,
            }
        }
        on
    }

    pub fn all() -> Self {
        Self { email: true, ip: true, phone: true, card: true, iban: true, ssn: true }
    }

    pub fn any(self) -> bool {
        self != Self::default()
    }

    pub fn only_ip(self) -> bool {
        self == Self { ip: self.ip, ..Self::default() }
    }

    pub fn card(self) -> bool {
        self.card
    }

    /// Whether a text of these traits is worth a closer look.
    pub fn may_match(self, it: Traits) -> bool {
        self.any() && (it.percent || it.wide)
            || self.email && it.at
            || self.ip && (it.may_be_v4() || it.may_be_v6())
            || (self.phone || self.ssn) && it.digits >= phone::FEWEST
            || self.card && it.digits >= digits::SHORTEST_CARD
            || self.iban && it.digits >= iban::FEWEST_DIGITS
    }

    /// What stands in a text, from left to right, none overlapping another.
    pub fn find(self, text: &str) -> Vec<FoundValue> {
        let traits = Traits::of(text.as_bytes());
        let mut found = Vec::new();
        if !self.may_match(traits) {
            return found;
        }
        if (traits.percent || traits.wide)
            && let Some(folded) = fold::folded(text)
        {
            self.find_in(&folded.text, Traits::of(folded.text.as_bytes()), &mut found);
            found.iter_mut().for_each(|it| it.range = folded.place(&it.range));
        }
        self.find_in(text, traits, &mut found);
        apart(found)
    }

    /// What stands in a text as it is spelt.
    fn find_in(self, text: &str, traits: Traits, found: &mut Vec<FoundValue>) {
        let bytes = text.as_bytes();
        // The order decides where two claim the same place.
        if self.email && (traits.at || traits.percent) {
            email::find(bytes, found);
        }
        if self.iban && traits.digits >= iban::FEWEST_DIGITS {
            iban::find(bytes, found);
        }
        if self.ip && traits.may_be_v4() {
            address::find_v4(bytes, found);
        }
        if self.ip && traits.may_be_v6() {
            address::find_v6(text, found);
        }
        if self.card && traits.digits >= digits::SHORTEST_CARD {
            digits::find_cards(bytes, found);
        }
        if self.ssn && traits.digits >= phone::FEWEST {
            digits::find_ssns(bytes, found);
        }
        if self.phone && traits.digits >= phone::FEWEST {
            phone::find(bytes, found);
        }
    }

    /// The kind, if the text as a whole is one value.
    pub fn whole(self, text: &str) -> Option<Kind> {
        let trimmed = text.trim();
        let found = self.find(trimmed);
        found.first().filter(|it| it.range == (0..trimmed.len())).map(|it| it.kind)
    }
}

/// In order, without what overlaps one that begins before it. Of those that begin together, the one
/// that was found first stays.
fn apart(mut found: Vec<FoundValue>) -> Vec<FoundValue> {
    found.sort_by_key(|it| it.range.start);
    let mut end = 0;
    found.retain(|it| {
        let is_free = it.range.start >= end;
        if is_free {
            end = it.range.end;
        }
        is_free
    });
    found
}

impl Traits {
    pub fn of(bytes: &[u8]) -> Self {
        let mut traits = Self::default();
        for &byte in bytes {
            traits.see(byte);
        }
        traits
    }

    #[inline]
    pub fn see(&mut self, byte: u8) {
        const DIGIT: u8 = 1;
        const DOT: u8 = 2;
        const COLON: u8 = 3;
        const AT: u8 = 4;
        const PERCENT: u8 = 5;
        const WIDE: u8 = 6;
        const CLASS: [u8; 256] = {
            let mut table = [0; 256];
            let mut digit = b'0';
            while digit <= b'9' {
                table[digit as usize] = DIGIT;
                digit += 1;
            }
            table[b'.' as usize] = DOT;
            table[b':' as usize] = COLON;
            table[b'@' as usize] = AT;
            table[b'%' as usize] = PERCENT;
            // The first bytes of wide and small forms, and of the ideographic full stop.
            table[0xef] = WIDE;
            table[0xe3] = WIDE;
            table
        };
        match CLASS[usize::from(byte)] {
            DIGIT => self.digits += 1,
            DOT => self.dots += 1,
            COLON => self.colons += 1,
            AT => self.at = true,
            PERCENT => self.percent = true,
            WIDE => self.wide = true,
            _ => (),
        }
    }

    fn may_be_v4(self) -> bool {
        self.dots >= 3 && self.digits >= 4
    }

    fn may_be_v6(self) -> bool {
        self.colons >= 2
    }
}

/// Whether a value may begin or end beside this byte. An underscore joins a name to a value (`ip_10.0.0.1`), and a
/// letter makes something else of it (`v1.2.3.4`).
fn is_boundary(byte: Option<&u8>) -> bool {
    byte.is_none_or(|it| !it.is_ascii_alphanumeric())
}

fn before(bytes: &[u8], at: usize) -> Option<&u8> {
    at.checked_sub(1).and_then(|it| bytes.get(it))
}

#[cfg(test)]
mod tests;
