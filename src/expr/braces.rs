//! `feature in {export, api}`: a set as mathematics writes it, which many try first. What works is said.

use super::{
    ExprError, Names,
    lexer::{Lexer, Token},
};

/// The error that names the spelling that works, if there is such a set in the source.
pub(super) fn explained(source: &str, names: &Names<'_>) -> Option<ExprError> {
    let mut lexer = Lexer::new(source, 0, false).ok()?;
    let mut path = String::new();
    let mut negation = "";
    loop {
        match lexer.current() {
            Token::End => return None,
            Token::Name("not") => negation = "not ",
            Token::Name("in") => {
                lexer.advance().ok()?;
                let place = lexer.position();
                if lexer.current() == Token::Sign("{")
                    && let Some(list) = list(&mut lexer)
                {
                    let path = if path.is_empty() { "payload.field".to_owned() } else { path };
                    let is_known = path.split(['.', '[']).next().is_some_and(|it| names.has(it));
                    let root = if is_known { "" } else { "payload." };
                    let spelling = format!("`{root}{path} {negation}in [{list}]`");
                    return Some(ExprError::new(source, place, &spelling, "`{` and no map"));
                }
                (path, negation) = (String::new(), "");
                continue;
            }
            Token::Name("and" | "or" | "if" | "else") => (path, negation) = (String::new(), ""),
            Token::Name(name) => {
                if !path.ends_with('.') {
                    path.clear();
                }
                path.push_str(name);
                negation = "";
            }
            Token::Sign(".") if !path.is_empty() => path.push('.'),
            Token::Sign(_) | Token::Number(_) | Token::Text(_) => {
                (path, negation) = (String::new(), "")
            }
        }
        lexer.advance().ok()?;
    }
}

/// The elements between braces, as those of a list; `None` where it is a map, or anything else.
fn list(lexer: &mut Lexer<'_>) -> Option<String> {
    let mut elements = Vec::new();
    loop {
        lexer.advance().ok()?;
        elements.push(match lexer.current() {
            Token::Name(name) => format!("\"{name}\""),
            Token::Text(text) | Token::Number(text) => text.to_owned(),
            Token::Sign("}") if elements.is_empty() => return None,
            Token::Sign(_) | Token::End => return None,
        });
        lexer.advance().ok()?;
        match lexer.current() {
            Token::Sign(",") => (),
            Token::Sign("}") => return Some(elements.join(", ")),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::expr::Condition;

    #[test]
    fn a_set_in_braces_is_refused_with_the_spelling_that_works() {
        for (source, column, expected) in [
            ("feature in {export, api}", 12, r#"`payload.feature in ["export", "api"]`"#),
            ("payload.feature in { export }", 20, r#"`payload.feature in ["export"]`"#),
            (
                "type == \"a\" and payload.a.b not in {export, api, webhook}",
                36,
                r#"`payload.a.b not in ["export", "api", "webhook"]`"#,
            ),
            ("payload.n in {1, 2, 'x'}", 14, "`payload.n in [1, 2, 'x']`"),
        ] {
            let error = Condition::compile(source).map(|_| ()).unwrap_err();
            assert_eq!((error.column, error.expected.as_str()), (column, expected), "{source}");
            assert_eq!(error.found, "`{` and no map");
            let works = expected.trim_matches('`');
            Condition::compile(works).map(|_| ()).unwrap();
        }
        Condition::compile("payload.a in {\"a\": 1, \"b\": 2}").map(|_| ()).unwrap();
        let other = Condition::compile("feature == 1").map(|_| ()).unwrap_err();
        assert!(other.expected.starts_with("one of type"), "{other}");
    }
}
