//! Telephone numbers: E.164 with its plus, and forms that people write and little else has.

use super::{FoundValue, Kind, before, is_boundary};

/// Digits of the shortest number that is looked for.
pub const FEWEST: usize = 8;

/// A run of digits and what people put between them.
struct Run {
    end: usize,
    /// The digits, with the place of each.
    digits: Vec<(u8, usize)>,
    has_separator: bool,
}

pub fn find(bytes: &[u8], found: &mut Vec<FoundValue>) {
    let mut at = 0;
    while at < bytes.len() {
        let is_start = matches!(bytes[at], b'+' | b'(') || bytes[at].is_ascii_digit();
        if !is_start {
            at += 1;
            continue;
        }
        if let Some(end) = number(bytes, at) {
            found.push(FoundValue { range: at..end, kind: Kind::Phone });
            at = end;
        } else if bytes[at].is_ascii_digit() {
            at += bytes[at..].iter().take_while(|it| it.is_ascii_digit()).count();
        } else {
            at += 1;
        }
    }
}

/// Where the number ends that begins here.
fn number(bytes: &[u8], start: usize) -> Option<usize> {
    let prior = before(bytes, start);
    if !is_boundary(prior) || matches!(prior, Some(b'+' | b'-' | b'.' | b'/')) {
        return None;
    }
    match bytes[start] {
        b'+' => international(&run(bytes, start + 1)?, bytes),
        _ => {
            let run = run(bytes, start)?;
            american(&run, bytes).or_else(|| national(&run, bytes, start))
        }
    }
}

/// Digits from here on, with single separators between them; `) ` and ` (` count as one.
fn run(bytes: &[u8], start: usize) -> Option<Run> {
    /// E.164 has 15; a prefix to leave the country comes on top.
    const MOST: usize = 18;
    let mut run = Run { end: start, digits: Vec::new(), has_separator: false };
    let (mut at, mut gap) = (start, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'0'..=b'9' => {
                run.has_separator |= gap > 0 && !run.digits.is_empty();
                run.digits.push((byte - b'0', at));
                run.end = at + 1;
                gap = 0;
            }
            b' ' | b'-' | b'.' | b'(' | b')' | b'/' if gap < 2 => gap += 1,
            _ => break,
        }
        if run.digits.len() > MOST {
            break;
        }
        at += 1;
    }
    (!run.digits.is_empty()).then_some(run)
}

/// `+49 30 901820`: 8 to 15 digits. What follows may be another number: then the first 15 count.
fn international(run: &Run, bytes: &[u8]) -> Option<usize> {
    let count = run.digits.len().min(15);
    let end = run.digits[count - 1].1 + 1;
    let is_whole = is_boundary(bytes.get(end));
    (run.digits[0].0 != 0 && count >= FEWEST && is_whole).then_some(end)
}

/// `(415) 555-2671`, `1-415-555-2671`, `415.555.2671`: area and exchange begin with 2 to 9.
fn american(run: &Run, bytes: &[u8]) -> Option<usize> {
    let skip = usize::from(run.digits[0].0 == 1);
    let digits = run.digits.get(skip..skip + 10)?;
    let place = |it: usize| digits[it].1;
    let breaks = place(3) - place(2) > 1 && place(6) - place(5) > 1;
    let is_solid = |from: usize, to: usize| place(to) - place(from) == to - from;
    let has_form = is_solid(0, 2) && is_solid(3, 5) && is_solid(6, 9);
    let end = place(9) + 1;
    (breaks && has_form && digits[0].0 >= 2 && digits[3].0 >= 2 && is_boundary(bytes.get(end)))
        .then_some(end)
}

/// `030 901820`, `0151 / 2345678`, `0049 30 901820`: a zero first, and separators in it.
fn national(run: &Run, bytes: &[u8], start: usize) -> Option<usize> {
    let zeros = run.digits.iter().take_while(|it| it.0 == 0).count();
    let range = if zeros == 2 { 10..=17 } else { 9..=12 };
    // Three digits without a gap, so that `0.12345678` is none.
    let is_solid = run.digits.get(2).is_some_and(|it| it.1 - run.digits[0].1 == 2);
    let begins = run.digits[0].1 - start <= 1 && matches!(zeros, 1 | 2) && is_solid;
    let is_number = begins
        && run.has_separator
        && range.contains(&run.digits.len())
        && is_boundary(bytes.get(run.end));
    is_number.then_some(run.end)
}
