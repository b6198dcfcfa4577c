//! E-mail addresses, also where the `@` is written `%40`.

use std::ops::Range;

use super::{FoundValue, Kind};

pub fn find(bytes: &[u8], found: &mut Vec<FoundValue>) {
    let mut at = 0;
    while at < bytes.len() {
        let sign = match bytes[at] {
            b'@' => at..at + 1,
            b'%' if bytes[at..].starts_with(b"%40") => at..at + 3,
            _ => {
                at += 1;
                continue;
            }
        };
        at = sign.end;
        if let Some(range) = around(bytes, &sign) {
            at = range.end;
            found.push(FoundValue { range, kind: Kind::Email });
        }
    }
}

/// Longer than any mail system takes, and a bound on how far each sign looks back.
const LONGEST_LOCAL: usize = 320;

fn around(bytes: &[u8], sign: &Range<usize>) -> Option<Range<usize>> {
    let start = local(bytes, sign.start)?;
    let domain = &bytes[sign.end..];
    let length = domain.iter().take_while(|it| is_domain(**it)).count();
    let mut domain = &domain[..length];
    while let [rest @ .., b'.' | b'-'] = domain {
        domain = rest;
    }
    let dot = domain.iter().rposition(|it| *it == b'.')?;
    let (name, top) = (&domain[..dot], &domain[dot + 1..]);
    let is_name = top.len() >= 2
        && (top.iter().all(|it| it.is_ascii_alphabetic() || !it.is_ascii())
            || top.to_ascii_lowercase().starts_with(b"xn--"));
    (is_name && name.iter().any(|it| *it != b'.')).then(|| start..sign.end + domain.len())
}

/// Where the part before the sign begins.
fn local(bytes: &[u8], sign: usize) -> Option<usize> {
    if sign > 0 && bytes[sign - 1] == b'"' {
        let quoted = &bytes[..sign - 1];
        let open = quoted.iter().rposition(|it| *it == b'"')?;
        return Some(open);
    }
    let length =
        bytes[..sign].iter().rev().take(LONGEST_LOCAL).take_while(|it| is_local(**it)).count();
    let run = &bytes[sign - length..sign];
    if is_masked(run) {
        return None;
    }
    // What stands in a query, a path or a list may be part of an address, and mostly is not: `to=jane@acme.com`.
    let is_between = |it: &u8| b"=/?&#|%".contains(it);
    let tail = run.iter().rposition(is_between).map_or(run, |it| &run[it + 1..]);
    let run = if tail.iter().any(|it| is_word(*it)) { tail } else { run };
    // What a sentence or a template puts before it.
    let is_outside = |it: &u8| match it {
        b'{' => !run.contains(&b'}'),
        _ => b".'-%`~^!$=/?&#|*+}".contains(it),
    };
    let outside = run.iter().take_while(|it| is_outside(it)).count();
    let is_address = run[outside..].iter().any(|it| is_word(*it));
    is_address.then(|| sign - run.len() + outside)
}

/// `j***`, which we leave of an address.
fn is_masked(run: &[u8]) -> bool {
    run.strip_suffix(b"***").is_some_and(|it| {
        // Behind whatever stood before the address that was masked.
        let length = it.iter().rev().take_while(|it| is_word(**it)).count();
        let first = std::str::from_utf8(&it[it.len() - length..]);
        first.is_ok_and(|it| it.chars().count() <= 1)
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii() || byte == b'_'
}

/// `atext` of RFC 5322, dots between, and whatever is not ASCII.
fn is_local(byte: u8) -> bool {
    is_word(byte) || b".!#$%&'*+/=?^`{|}~-".contains(&byte)
}

fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii() || byte == b'.' || byte == b'-'
}

pub fn normal(text: &str) -> String {
    text.to_lowercase().replacen("%40", "@", 1)
}

/// `a***@acme.com`.
pub fn mask(text: &str) -> String {
    let text = if text.contains('@') { text.to_owned() } else { text.replacen("%40", "@", 1) };
    let (local, domain) = text.rsplit_once('@').unwrap_or((&text, ""));
    let first = local.chars().find(|it| it.is_alphanumeric()).map(String::from).unwrap_or_default();
    format!("{first}***@{domain}")
}
