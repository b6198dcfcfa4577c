//! The outline of JSON text: where its values begin and end, without reading them.
//!
//! It is for text that was parsed as JSON before: of anything else it reports an error or says
//! something, but neither panics nor reads past the end.

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// What stands between the quotes of a name, and the value behind it.
pub type NameAndValue<'a> = (&'a [u8], &'a [u8]);

pub fn skip_space(json: &[u8], at: &mut usize) {
    while matches!(json.get(*at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        *at += 1;
    }
}

/// Goes over a comma, if there is one, and over the bracket that ends a list or an object.
pub fn ends(json: &[u8], at: &mut usize, bracket: u8) -> Result<bool, Unreadable> {
    skip_space(json, at);
    if json.get(*at) == Some(&b',') {
        *at += 1;
        skip_space(json, at);
    }
    let next = json.get(*at).ok_or(Unreadable)?;
    *at += usize::from(*next == bracket);
    Ok(*next == bracket)
}

pub fn skip_colon(json: &[u8], at: &mut usize) -> Result<(), Unreadable> {
    skip_space(json, at);
    if json.get(*at) != Some(&b':') {
        return Err(Unreadable);
    }
    *at += 1;
    Ok(())
}

/// Goes over a text, and gives what stands between its quotes, escapes and all.
pub fn skip_text<'a>(json: &'a [u8], at: &mut usize) -> Result<&'a [u8], Unreadable> {
    skip_space(json, at);
    if json.get(*at) != Some(&b'"') {
        return Err(Unreadable);
    }
    let start = *at + 1;
    let mut end = start;
    loop {
        match json.get(end).ok_or(Unreadable)? {
            b'"' => break,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    *at = end + 1;
    Ok(&json[start..end])
}

/// Goes over a number or a word such as `true`.
pub fn skip_word<'a>(json: &'a [u8], at: &mut usize) -> Result<&'a [u8], Unreadable> {
    let is_of_it = |it: &&u8| it.is_ascii_alphanumeric() || matches!(**it, b'+' | b'-' | b'.');
    let length = json[*at..].iter().take_while(is_of_it).count();
    let word = &json[*at..*at + length];
    *at += length;
    if word.is_empty() { Err(Unreadable) } else { Ok(word) }
}

/// The first element of a list, as its bytes stand in it. `None` for what is no list, or empty.
pub fn first_element(json: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    skip_space(json, &mut at);
    if json.get(at) != Some(&b'[') {
        return None;
    }
    at += 1;
    if ends(json, &mut at, b']').ok()? {
        return None;
    }
    let start = at;
    skip_value(json, &mut at).ok()?;
    Some(&json[start..at])
}

/// The elements of a list, as their bytes stand in it.
pub fn elements(json: &[u8]) -> Result<Vec<&[u8]>, Unreadable> {
    let mut at = 0;
    skip_space(json, &mut at);
    if json.get(at) != Some(&b'[') {
        return Err(Unreadable);
    }
    at += 1;
    let mut elements = Vec::new();
    while !ends(json, &mut at, b']')? {
        let start = at;
        skip_value(json, &mut at)?;
        elements.push(&json[start..at]);
    }
    Ok(elements)
}

/// The fields of an object, in their order and each as often as it stands there: the bytes of its name
/// between the quotes, and those of its value.
pub fn fields(json: &[u8]) -> Result<Vec<NameAndValue<'_>>, Unreadable> {
    let mut at = 0;
    skip_space(json, &mut at);
    if json.get(at) != Some(&b'{') {
        return Err(Unreadable);
    }
    at += 1;
    let mut fields = Vec::new();
    while !ends(json, &mut at, b'}')? {
        let key = skip_text(json, &mut at)?;
        skip_colon(json, &mut at)?;
        skip_space(json, &mut at);
        let start = at;
        skip_value(json, &mut at)?;
        fields.push((key, &json[start..at]));
    }
    Ok(fields)
}

fn skip_value(json: &[u8], at: &mut usize) -> Result<(), Unreadable> {
    let mut depth = 0_usize;
    loop {
        skip_space(json, at);
        match json.get(*at).ok_or(Unreadable)? {
            b'{' | b'[' => {
                depth += 1;
                *at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1).ok_or(Unreadable)?;
                *at += 1;
            }
            b',' | b':' => *at += 1,
            b'"' => {
                skip_text(json, at)?;
            }
            _ => {
                skip_word(json, at)?;
            }
        }
        if depth == 0 {
            return Ok(());
        }
    }
}

/// Levels of objects and lists.
pub fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(next) = json.get(at) {
        match next {
            b'"' => {
                if skip_text(json, &mut at).is_err() {
                    return deepest;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => (),
        }
        deepest = deepest.max(depth);
        at += 1;
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_object_are_found_as_they_stand() {
        let json = br#" { "a" : [1, {"x":"}\""}] ,"b\"":"\\" , "c":{},"a":-1.5e3 } "#;
        let found: Vec<_> = fields(json).unwrap();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"a", br#"[1, {"x":"}\""}]"#),
            (br#"b\""#, br#""\\""#),
            (b"c", b"{}"),
            (b"a", b"-1.5e3"),
        ];
        assert_eq!(found, expected);
        assert_eq!(fields(b" {} "), Ok(Vec::new()));
        for json in ["[]", "1", "", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":[}"#] {
            assert_eq!(fields(json.as_bytes()), Err(Unreadable), "{json}");
        }
    }

    #[test]
    fn the_first_element_of_a_list_is_found_as_it_stands() {
        for (json, expected) in [
            (r#" [ {"a": "]" } , 2]"#, Some(r#"{"a": "]" }"#)),
            ("[1.50]", Some("1.50")),
            ("[[],1]", Some("[]")),
            ("[]", None),
            ("{}", None),
            ("[", None),
            ("[{", None),
        ] {
            let found = first_element(json.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{json}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_texts() {
        for (json, expected) in [("1", 0), ("[]", 1), (r#"{"[[":[{}],"\"[":1}"#, 3)] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }
}
