//! The shape of a JSON text: how deep it is and how many keys it has, found without parsing it.

/// Levels of objects and arrays, the outermost included.
const DEPTH: usize = 64;
pub const KEYS: usize = 10_000;

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("must have objects and arrays at most {DEPTH} deep in each other")]
    TooDeep,
    #[error("must have at most {KEYS} keys")]
    TooManyKeys,
}

/// Judges valid JSON rightly; of anything else it says something, and the parser says the rest.
pub fn check(json: &[u8]) -> Result<(), ShapeError> {
    // Too short for so many keys, and too few brackets, even if all of them counted: most events are so, and
    // to count one kind of byte is much quicker than to tell texts from the rest.
    if json.len() <= KEYS && brackets(json) <= DEPTH {
        return Ok(());
    }
    let (mut depth, mut keys) = (0_usize, 0_usize);
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => {
                while let Some(byte) = rest.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(rest.next()),
                        _ => (),
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH {
                    return Err(ShapeError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            // Outside of strings, it stands behind each key and nowhere else.
            b':' => {
                keys += 1;
                if keys > KEYS {
                    return Err(ShapeError::TooManyKeys);
                }
            }
            _ => (),
        }
    }
    Ok(())
}

/// How often `{` and `[` stand in a text, counted in bytes, of which a computer adds many at once.
fn brackets(json: &[u8]) -> usize {
    const BYTES: usize = 128;
    let is_open = |it: u8| u8::from(it == b'{') + u8::from(it == b'[');
    let (whole, rest) = json.as_chunks::<BYTES>();
    let of = |some: &[u8]| usize::from(some.iter().fold(0_u8, |sum, &it| sum + is_open(it)));
    whole.iter().map(|some| of(some)).sum::<usize>() + of(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_keys_are_counted_outside_of_strings() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let keys = |count| format!("{{{}}}", vec![r#""k":1"#; count].join(","));
        for (json, expected) in [
            (nested(64), Ok(())),
            (nested(65), Err(ShapeError::TooDeep)),
            (format!(r#"{{"text":"{}"}}"#, "[".repeat(100)), Ok(())),
            (format!(r#"{{"text":"\"{}"}}"#, "{:".repeat(20_000)), Ok(())),
            (format!(r#"{{"text\\":{}}}"#, nested(64)), Err(ShapeError::TooDeep)),
            (
                format!(r#"{{"text":"{}","deep":{}}}"#, "[".repeat(100), nested(64)),
                Err(ShapeError::TooDeep),
            ),
            (keys(10_000), Ok(())),
            (keys(10_001), Err(ShapeError::TooManyKeys)),
        ] {
            assert_eq!(check(json.as_bytes()), expected, "{}", &json[..json.len().min(80)]);
        }
    }
}
