//! The operands of an expression: values, what is picked out of them, and filters and tests on them.

use super::{KEYWORDS, Rewriter, WORDS, Written};
use crate::expr::{
    engine::{FILTERS, TESTS},
    lexer::Token,
};

impl Rewriter<'_, '_> {
    /// `-a`, and then the filters and tests, which apply to the negated value.
    pub(super) fn unary(&mut self) -> Written {
        let start = self.out.len();
        let mut is_negative = false;
        while self.take("-")? {
            is_negative = !is_negative;
        }
        if is_negative {
            self.out.push_str("(-");
        }
        self.primary()?;
        self.postfix(start + if is_negative { 2 } else { 0 })?;
        if is_negative {
            self.out.push(')');
        }
        loop {
            if self.take("|")? {
                self.filter(start)?;
            } else if self.take_word("is")? {
                self.test(start)?;
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Written {
        match self.lexer.current() {
            Token::Name(name) if WORDS.contains(&name) => self.copy(name),
            Token::Name("range") => {
                self.lexer.advance()?;
                self.out.push_str("range");
                if self.lexer.current() != Token::Sign("(") {
                    return Err(self.unexpected("`(`"));
                }
                self.arguments("(")
            }
            Token::Name(name) if !KEYWORDS.contains(&name) => {
                if !self.locals.iter().any(|it| it == name) && !self.names.has(name) {
                    let expected = format!("one of {}", self.names.listed());
                    return Err(self.unexpected(&expected));
                }
                self.copy(name)
            }
            Token::Number(it) | Token::Text(it) => self.copy(it),
            Token::Sign("(") => {
                self.lexer.advance()?;
                self.expression()?;
                if !self.take(")")? {
                    return Err(self.unexpected("`)` or an operator"));
                }
                Ok(())
            }
            Token::Sign("[") => self.items("[", "]", false),
            Token::Sign("{") => self.items("{", "}", true),
            Token::Name(_) | Token::Sign(_) | Token::End => Err(self.unexpected("a value")),
        }
    }

    fn copy(&mut self, text: &str) -> Written {
        self.out.push_str(text);
        self.lexer.advance()
    }

    /// A list, or a map with keys.
    fn items(&mut self, open: &'static str, close: &'static str, is_map: bool) -> Written {
        self.expect(open)?;
        while self.lexer.current() != Token::Sign(close) {
            self.expression()?;
            if is_map {
                self.expect(":")?;
                self.expression()?;
            }
            if self.lexer.current() != Token::Sign(close) {
                self.expect(",")?;
            }
        }
        self.expect(close)
    }

    /// Fields, items and slices of what was written from `start` on.
    fn postfix(&mut self, start: usize) -> Written {
        loop {
            if self.take(".")? {
                match self.lexer.current() {
                    Token::Name(name) => {
                        self.out.push('.');
                        self.copy(name)?;
                    }
                    Token::Number(place) => {
                        self.out.push_str(&format!("[{place}]"));
                        self.lexer.advance()?;
                    }
                    Token::Text(_) | Token::Sign(_) | Token::End => {
                        return Err(self.unexpected("the name of a field"));
                    }
                }
            } else if self.take("[")? {
                self.subscript(start)?;
            } else if self.lexer.current() == Token::Sign("(") {
                return Err(self.unexpected("a filter such as `|lower` instead of a call"));
            } else {
                return Ok(());
            }
        }
    }

    /// `[place]`, or `[from:to:step]`.
    fn subscript(&mut self, start: usize) -> Written {
        let place = self.out.len();
        self.out.push('[');
        let mut colons = 0;
        loop {
            if self.take(":")? {
                colons += 1;
                self.out.push(':');
                if colons > 2 {
                    return Err(self.unexpected("`]`"));
                }
            } else if self.take("]")? {
                break;
            } else {
                let at = self.out.len();
                if !(self.out.ends_with('[') && at == place + 1 || self.out.ends_with(':')) {
                    return Err(self.unexpected("`]`"));
                }
                self.expression()?;
            }
        }
        if self.out.len() == place + 1 {
            return Err(self.unexpected("a place before `]`"));
        }
        self.out.push(']');
        if colons > 0 {
            // A slice copies, and so is paid for by its length.
            self.out.insert_str(place, "|__used)");
            self.out.insert(start, '(');
        }
        Ok(())
    }

    fn filter(&mut self, start: usize) -> Written {
        let Token::Name(name) = self.lexer.current() else {
            return Err(self.unexpected("the name of a filter"));
        };
        if !FILTERS.contains(&name) {
            return Err(self.unexpected(&format!("one of the filters {}", FILTERS.join(", "))));
        }
        self.lexer.advance()?;
        self.out.insert(start, '(');
        self.out.push_str(")|__used|");
        self.out.push_str(name);
        if self.lexer.current() == Token::Sign("(") { self.arguments("(") } else { Ok(()) }
    }

    fn test(&mut self, start: usize) -> Written {
        let is_negated = self.take_word("not")?;
        let name = match self.lexer.current() {
            Token::Name(name) if TESTS.contains(&name) => name,
            Token::Name(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                let expected = format!("one of the tests {}", TESTS.join(", "));
                return Err(self.unexpected(&expected));
            }
        };
        self.lexer.advance()?;
        self.out.insert_str(start, if is_negated { "(not (" } else { "((" });
        self.out.push_str(") is ");
        self.out.push_str(name);
        match self.lexer.current() {
            Token::Sign("(") => self.arguments("(")?,
            // `is divisibleby 3`
            Token::Number(_) | Token::Text(_) => {
                self.out.push('(');
                self.primary()?;
                self.out.push(')');
            }
            Token::Name(_) | Token::Sign(_) | Token::End => (),
        }
        self.out.push(')');
        Ok(())
    }

    /// `(a, b, name=c)`.
    fn arguments(&mut self, open: &'static str) -> Written {
        self.expect(open)?;
        while self.lexer.current() != Token::Sign(")") {
            if let Token::Name(name) = self.lexer.current()
                && self.lexer.is_assigned()
            {
                self.copy(name)?;
                self.expect("=")?;
            }
            self.expression()?;
            if self.lexer.current() != Token::Sign(")") {
                self.expect(",")?;
            }
        }
        self.expect(")")
    }
}
