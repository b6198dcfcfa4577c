//! From a module with one default export to a function that makes everything of it again.
//!
//! A module is evaluated once, and what it declares lives on. A function that holds the same text makes
//! its variables again with each call, so that no event sees what another left behind.

/// The text of the function, in which each line stands one line lower than in the module.
pub fn wrap(module: &str, at: usize) -> Result<String, &'static str> {
    let (before, rest) = module.split_at(at);
    let Some(end) = default_end(rest) else { return Err("must have an `export default`") };
    let (exported, body) = rest.split_at(end);
    let (start, name) = declaration(exported, body)?;
    Ok(format!("(function () {{ \"use strict\";\n{before}{start}\n;return {name};\n}})"))
}

/// Places at which the words `export default` stand. Whether they are code is for the engine to say.
pub fn candidates(module: &str) -> Vec<usize> {
    const MOST: usize = 64;
    let is_free = |at: &usize| {
        let before = module[..*at].chars().next_back();
        before.is_none_or(|it| !it.is_alphanumeric() && !matches!(it, '_' | '$' | '.' | '#'))
            && default_end(&module[*at..]).is_some()
    };
    module.match_indices("export").map(|(at, _)| at).filter(is_free).take(MOST).collect()
}

/// Where `export default` ends, if the text begins with it.
fn default_end(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("export")?;
    let word = skip(rest);
    let rest = word.strip_prefix("default")?;
    let is_word = rest.starts_with(|it: char| it.is_alphanumeric() || it == '_' || it == '$');
    (!is_word && word.len() < text.len() - "export".len()).then(|| text.len() - rest.len())
}

/// What replaces the export and all behind it, and the name under which it is there then.
fn declaration(exported: &str, body: &str) -> Result<(String, String), &'static str> {
    const OURS: &str = "$transform";
    let rest = skip(body);
    let gap = &body[..body.len() - rest.len()];
    if let Some(after) = word(rest, "async")
        && is_async(skip(after))
    {
        return Err("must be a plain function, not an `async` one: there is nothing to wait for");
    }
    let Some(after) = word(rest, "function") else {
        return Ok((format!("{}{body}", padded(exported, "const $t=")), "$t".to_owned()));
    };
    let name = skip(after);
    if name.starts_with('*') {
        return Err("must be a plain function, not a generator");
    }
    if name.starts_with('(') {
        let head = &after[..after.len() - name.len()];
        let head = format!("{exported}{gap}function{head}");
        return Ok((format!("{}{name}", padded(&head, "function $transform")), OURS.to_owned()));
    }
    let end = name.find(|it: char| it.is_whitespace() || matches!(it, '(' | '/'));
    let own = name[..end.unwrap_or(name.len())].to_owned();
    Ok((format!("{}{body}", padded(exported, "")), own))
}

/// Whether what stands behind the word `async` makes it a function: `function`, `(a) => …`, `a => …`.
/// A value of that name, as in `async;` or `async.f`, is followed by something else.
fn is_async(after: &str) -> bool {
    let is_name = |it: char| it.is_alphabetic() || it == '_' || it == '$';
    after.starts_with('(') && after.contains("=>") || after.starts_with(is_name)
}

/// Other text in the place of this one, as long as it and with its line breaks, where there is room.
fn padded(old: &str, new: &str) -> String {
    let blank: String = old.chars().map(|it| if it == '\n' { '\n' } else { ' ' }).collect();
    match blank.rfind('\n') {
        None if new.len() <= blank.len() => format!("{new}{}", &blank[new.len()..]),
        None | Some(_) => blank + new,
    }
}

fn word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(word)?;
    let goes_on = rest.starts_with(|it: char| it.is_alphanumeric() || it == '_' || it == '$');
    (!goes_on).then_some(rest)
}

/// The text without the spaces and comments at its beginning.
fn skip(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("//") {
            comment.find('\n').map_or("", |it| &comment[it..])
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.find("*/").map_or("", |it| &comment[it + 2..])
        } else {
            return rest;
        }
        .trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_becomes_a_declaration_that_stands_where_it_stood() {
        for (module, expected, name) in [
            ("export default function (e) { }", "function $transform     (e) { }", "$transform"),
            ("export default function f(e) { }", "               function f(e) { }", "f"),
            ("export default (e) => e", "const $t=      (e) => e", "$t"),
            (
                "export /* ; */ default function(e) { }",
                "function $transform            (e) { }",
                "$transform",
            ),
        ] {
            let wrapped = wrap(module, candidates(module)[0]).unwrap();
            let line = wrapped.lines().nth(1).unwrap();
            assert_eq!(line.trim_end(), expected.trim_end());
            assert!(wrapped.contains(&format!("return {name};")));
        }
        assert!(wrap("export default async function () {}", 0).is_err());
        for text in [
            "async (e) => e",
            "async e => e",
            "async\n(e, ctx) => { return e }",
            "async function f() {}",
            "async /* x */ function* () {}",
        ] {
            let error = wrap(&format!("export default {text}"), 0).unwrap_err();
            assert!(error.contains("`async`"), "{text}: {error}");
        }
        assert!(wrap("export default asyncronous", 0).is_ok());
        assert!(wrap("export default function* () {}", 0).is_err());
        let none = "exportdefault; xexport default; export defaults; a.export default";
        assert!(candidates(none).is_empty());
    }
}
