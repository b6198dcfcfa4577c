//! The tokens of an expression.

use super::ExprError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'s> {
    Name(&'s str),
    /// A number or a string, as it was written.
    Number(&'s str),
    Text(&'s str),
    /// An operator or a bracket.
    Sign(&'static str),
    /// `}}`, `%}`, `-}}` and `-%}` where a template's tag ends, or the end of the text.
    End,
}

/// A place in the source, in bytes.
pub(super) struct Lexer<'s> {
    source: &'s str,
    /// Behind the current token.
    next: usize,
    /// Where the current token starts.
    start: usize,
    current: Token<'s>,
    /// How many braces are open: a `}` inside of one closes it and ends no tag.
    braces: usize,
    /// Whether this stands in a template, where `}}` and `%}` end it.
    in_tag: bool,
}

/// Longer ones first.
const SIGNS: [&str; 25] = [
    "==", "!=", "<=", ">=", "**", "//", "<", ">", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]",
    "{", "}", ".", ",", ":", "|", "=",
];

impl<'s> Lexer<'s> {
    /// Reads from `start` on; the first token is current.
    pub fn new(source: &'s str, start: usize, in_tag: bool) -> Result<Self, ExprError> {
        let current = Token::End;
        let mut lexer = Self { source, next: start, start, current, braces: 0, in_tag };
        lexer.advance()?;
        Ok(lexer)
    }

    pub fn current(&self) -> Token<'s> {
        self.current
    }

    /// Where the current token starts.
    pub fn position(&self) -> usize {
        self.start
    }

    /// Whether `=` stands behind the current token.
    pub fn is_assigned(&self) -> bool {
        let rest = self.source[self.next..].trim_start();
        rest.starts_with('=') && !rest.starts_with("==")
    }

    pub fn advance(&mut self) -> Result<(), ExprError> {
        let after_dot = self.current == Token::Sign(".");
        let rest = &self.source[self.next..];
        let text = rest.trim_start();
        self.start = self.next + (rest.len() - text.len());
        let (token, length) = self.token(text, after_dot)?;
        match token {
            Token::Sign("{") => self.braces += 1,
            Token::Sign("}") => self.braces = self.braces.saturating_sub(1),
            Token::Name(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => (),
        }
        self.next = self.start + length;
        self.current = token;
        Ok(())
    }

    fn token(&self, text: &'s str, after_dot: bool) -> Result<(Token<'s>, usize), ExprError> {
        let ends = ["}}", "-}}", "%}", "-%}"];
        if text.is_empty()
            || self.in_tag && self.braces == 0 && ends.iter().any(|it| text.starts_with(it))
        {
            return Ok((Token::End, 0));
        }
        let first = text.as_bytes()[0];
        if first.is_ascii_alphabetic() || first == b'_' {
            let length = run(text, |it| it.is_ascii_alphanumeric() || it == b'_');
            return Ok((Token::Name(&text[..length]), length));
        }
        if first.is_ascii_digit() {
            let length = if after_dot { run(text, |it| it.is_ascii_digit()) } else { number(text) };
            return Ok((Token::Number(&text[..length]), length));
        }
        if first == b'"' || first == b'\'' {
            let length = quoted(text).ok_or_else(|| {
                ExprError::new(
                    self.source,
                    self.start,
                    "a text that ends with its quote",
                    "the end",
                )
            })?;
            return Ok((Token::Text(&text[..length]), length));
        }
        for sign in SIGNS {
            if text.starts_with(sign) {
                return Ok((Token::Sign(sign), sign.len()));
            }
        }
        let found = text.chars().next().map(|it| format!("`{it}`")).unwrap_or_default();
        let hint = match first {
            b'&' => "`and`",
            b'!' => "`not`",
            _ => "a name, a value or an operator",
        };
        Err(ExprError::new(self.source, self.start, hint, &found))
    }
}

fn run(text: &str, is_part: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|it| !is_part(it)).unwrap_or(text.len())
}

/// `12`, `1.5`, `2e10`, `1.5e-3`: as far as it goes.
fn number(text: &str) -> usize {
    let digits = |from: usize| from + run(&text[from..], |it| it.is_ascii_digit());
    let bytes = text.as_bytes();
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1 + sign);
        }
    }
    end
}

/// The length of a quoted text with its quotes, or `None` when it does not end.
fn quoted(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut place = 1;
    while place < bytes.len() {
        match bytes[place] {
            b'\\' => place += 2,
            it if it == bytes[0] => return Some(place + 1),
            _ => place += 1,
        }
    }
    None
}
