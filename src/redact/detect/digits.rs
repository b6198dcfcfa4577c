//! Numbers with rules: payment cards and the US social security number.

use super::{FoundValue, Kind, before, is_boundary};

pub const SHORTEST_CARD: usize = 13;
const LONGEST_CARD: usize = 19;

/// Digits that stand together, with no or one separator between this group and the next.
struct Group {
    start: usize,
    end: usize,
}

pub fn find_cards(bytes: &[u8], found: &mut Vec<FoundValue>) {
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let groups = groups(bytes, at);
        at = groups.last().map_or(at + 1, |it| it.end);
        let mut first = 0;
        while first < groups.len() {
            match card_from(bytes, &groups[first..]) {
                Some(count) => {
                    let range = groups[first].start..groups[first + count - 1].end;
                    found.push(FoundValue { range, kind: Kind::Card });
                    first += count;
                }
                None => first += 1,
            }
        }
    }
}

fn groups(bytes: &[u8], start: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut at = start;
    loop {
        let length = bytes[at..].iter().take_while(|it| it.is_ascii_digit()).count();
        groups.push(Group { start: at, end: at + length });
        let next = at + length;
        let goes_on = matches!(bytes.get(next), Some(b' ' | b'-' | b'.'))
            && bytes.get(next + 1).is_some_and(u8::is_ascii_digit);
        if !goes_on {
            return groups;
        }
        at = next + 1;
    }
}

/// How many groups make a card, the longest first.
fn card_from(bytes: &[u8], groups: &[Group]) -> Option<usize> {
    let mut digits = 0;
    let mut best = None;
    if !is_boundary(before(bytes, groups[0].start)) {
        return None;
    }
    for (place, group) in groups.iter().enumerate() {
        digits += group.end - group.start;
        if digits > LONGEST_CARD {
            break;
        }
        if digits >= SHORTEST_CARD && is_boundary(bytes.get(group.end)) {
            let all = groups[..=place].iter().flat_map(|it| &bytes[it.start..it.end]);
            if is_card(all.copied()) {
                best = Some(place + 1);
            }
        }
    }
    best
}

/// 13 to 19 digits that begin as those of the payment networks do, with a right check digit.
pub fn is_card(digits: impl DoubleEndedIterator<Item = u8> + Clone) -> bool {
    let first = digits.clone().next().unwrap_or(b'0');
    let length = digits.clone().count();
    (SHORTEST_CARD..=LONGEST_CARD).contains(&length)
        && (b'2'..=b'6').contains(&first)
        && digits.clone().any(|it| it != first)
        && luhn(digits)
}

fn luhn(digits: impl DoubleEndedIterator<Item = u8>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            let doubled = digit * 2;
            if place % 2 == 0 { digit } else { doubled / 10 + doubled % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// `123-45-6789`, with hyphens or spaces.
pub fn find_ssns(bytes: &[u8], found: &mut Vec<FoundValue>) {
    const LENGTH: usize = 11;
    let mut at = 0;
    while at + LENGTH <= bytes.len() {
        let text = &bytes[at..at + LENGTH];
        let is_free = is_boundary(before(bytes, at))
            && !matches!(before(bytes, at), Some(b'-' | b'.'))
            && is_boundary(bytes.get(at + LENGTH))
            && bytes.get(at + LENGTH) != Some(&b'-');
        if is_free && is_ssn(text) {
            found.push(FoundValue { range: at..at + LENGTH, kind: Kind::Ssn });
            at += LENGTH;
        } else {
            at += 1;
        }
    }
}

fn is_ssn(text: &[u8]) -> bool {
    let separator = text[3];
    let has_form = matches!(separator, b'-' | b' ')
        && text[6] == separator
        && text.iter().enumerate().all(|(place, it)| matches!(place, 3 | 6) || it.is_ascii_digit());
    // Ranges that are never given out, by the Social Security Administration.
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    has_form
        && area != b"000"
        && area != b"666"
        && area[0] != b'9'
        && group != b"00"
        && serial != b"0000"
}
