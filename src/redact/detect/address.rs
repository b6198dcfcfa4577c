//! Addresses of the internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FoundValue, Kind, before, is_boundary};

pub fn find_v4(bytes: &[u8], found: &mut Vec<FoundValue>) {
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let is_inside =
            before(bytes, at) == Some(&b'.') && at >= 2 && bytes[at - 2].is_ascii_digit();
        if is_boundary(before(bytes, at))
            && !is_inside
            && let Some(end) = v4(bytes, at)
        {
            found.push(FoundValue { range: at..end, kind: Kind::Ip });
            at = end;
        } else {
            at += bytes[at..].iter().take_while(|it| it.is_ascii_digit()).count();
        }
    }
}

/// Where the address ends that begins here.
fn v4(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    for octet in 0..4 {
        if octet > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let length = bytes[at..].iter().take(4).take_while(|it| it.is_ascii_digit()).count();
        let value =
            bytes[at..at + length].iter().fold(0_u32, |all, it| all * 10 + u32::from(it - b'0'));
        if length == 0 || length > 3 || value > 255 {
            return None;
        }
        at += length;
    }
    let is_longer =
        bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
    (is_boundary(bytes.get(at)) && !is_longer).then_some(at)
}

pub fn find_v6(text: &str, found: &mut Vec<FoundValue>) {
    /// Longer runs are no address, however they are cut.
    const LONGEST: usize = 45;
    let bytes = text.as_bytes();
    let is_part = |it: &u8| it.is_ascii_hexdigit() || *it == b':' || *it == b'.';
    let mut at = 0;
    while at < bytes.len() {
        if !is_part(&bytes[at]) {
            at += 1;
            continue;
        }
        let length = bytes[at..].iter().take_while(|it| is_part(it)).count();
        let (start, end) = (at, at + length);
        at = end;
        // A sentence or a label may stand beside it: `from fe80::1.` or `ip:fe80::1`.
        let run = &text[start..end];
        if run.bytes().filter(|it| *it == b':').count() < 2 {
            continue;
        }
        let tail =
            run.trim_end_matches(['.', ':']).len().max(run.find("::").map_or(0, |it| it + 2));
        let run = &run[..tail.min(run.len())];
        let heads = std::iter::once(0).chain(run.match_indices(':').map(|(it, _)| it + 1)).take(2);
        for head in heads {
            let candidate = &run[head..];
            let first = start + head;
            let is_free = is_boundary(before(bytes, first)) || head > 0;
            if is_free
                && candidate.len() <= LONGEST
                && is_boundary(bytes.get(start + tail))
                && let Ok(address) = candidate.parse::<Ipv6Addr>()
                && is_telling(candidate, address)
            {
                found.push(FoundValue { range: first..start + tail, kind: Kind::Ip });
                break;
            }
        }
    }
}

/// `::` and `a::b` are more often something else.
fn is_telling(text: &str, address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && (text.bytes().any(|it| it.is_ascii_digit())
            || address.segments().iter().filter(|it| **it != 0).count() >= 3)
}

fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    // Octets with leading zeros, which are read as decimals.
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

pub fn normal(text: &str) -> String {
    parse(text).map_or_else(|| text.to_owned(), |it| it.to_canonical().to_string())
}

/// `203.0.*.*`, or the first two groups of IPv6.
pub fn mask(text: &str) -> String {
    match parse(text).map(|it| it.to_canonical()) {
        Some(IpAddr::V4(it)) => {
            let [first, second, ..] = it.octets();
            format!("{first}.{second}.*.*")
        }
        Some(IpAddr::V6(it)) => {
            let [first, second, ..] = it.segments();
            format!("{first:x}:{second:x}:*")
        }
        None => "***".to_owned(),
    }
}

/// The network: /24 of IPv4, /48 of IPv6. `None` for what is no address.
pub fn truncate(text: &str) -> Option<String> {
    Some(match parse(text.trim())?.to_canonical() {
        IpAddr::V4(it) => {
            let [first, second, third, _] = it.octets();
            Ipv4Addr::new(first, second, third, 0).to_string()
        }
        IpAddr::V6(it) => {
            let [first, second, third, ..] = it.segments();
            Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0).to_string()
        }
    })
}
