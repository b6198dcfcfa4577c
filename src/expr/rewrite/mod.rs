//! Reads an expression and writes it as one for the engine, with the operators replaced whose
//! meaning there is not ours.
//!
//! To the engine a missing value equals a missing value and is less than everything; to us it equals
//! nothing. So `a == b` becomes `(a is __eq(b))`, and so on for order and membership. Operators that
//! can make a text or a list longer become filters that know limits. Whatever else an expression
//! may hold is checked here, so that what is wrong is said with its place.

mod operand;

use super::{
    ExprError, Names,
    lexer::{Lexer, Token},
};

/// How deep an expression may be nested. The engine's own limit is above what this can give.
const DEEPEST: usize = 20;
/// Names that stand for values.
const WORDS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];
const KEYWORDS: [&str; 7] = ["and", "or", "not", "in", "is", "if", "else"];

pub(super) struct Rewriter<'s, 'n> {
    source: &'s str,
    lexer: Lexer<'s>,
    out: String,
    depth: usize,
    names: &'n Names<'n>,
    /// Names that the template gave: loop variables and `set`.
    locals: Vec<String>,
}

type Written = Result<(), ExprError>;

impl<'s, 'n> Rewriter<'s, 'n> {
    pub fn new(
        source: &'s str,
        start: usize,
        in_tag: bool,
        names: &'n Names<'n>,
        locals: Vec<String>,
    ) -> Result<Self, ExprError> {
        let lexer = Lexer::new(source, start, in_tag)?;
        Ok(Self { source, lexer, out: String::new(), depth: 0, names, locals })
    }

    /// Reads one expression up to its end, and gives it back with the place behind it.
    pub fn finish(mut self) -> Result<(String, usize), ExprError> {
        self.expression()?;
        if self.lexer.current() != Token::End {
            return Err(self.unexpected("an operator or the end"));
        }
        Ok((self.out, self.lexer.position()))
    }

    /// Reads `x` or `key, value`, the targets of a loop.
    pub fn targets(&mut self) -> Result<Vec<&'s str>, ExprError> {
        let mut names = vec![self.target()?];
        while self.take(",")? {
            names.push(self.target()?);
        }
        Ok(names)
    }

    fn target(&mut self) -> Result<&'s str, ExprError> {
        match self.lexer.current() {
            Token::Name(name)
                if !WORDS.contains(&name)
                    && !KEYWORDS.contains(&name)
                    && !name.starts_with("__")
                    && name != "loop"
                    && name != "self" =>
            {
                self.lexer.advance()?;
                Ok(name)
            }
            Token::Name(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                Err(self.unexpected("a name"))
            }
        }
    }

    /// Reads this word, which must be here.
    pub fn word(&mut self, word: &'static str) -> Written {
        if !self.take_word(word)? {
            return Err(self.unexpected(&format!("`{word}`")));
        }
        Ok(())
    }

    /// Where the current token starts.
    pub fn position(&self) -> usize {
        self.lexer.position()
    }

    pub fn take(&mut self, sign: &'static str) -> Result<bool, ExprError> {
        let is_here = self.lexer.current() == Token::Sign(sign);
        if is_here {
            self.lexer.advance()?;
        }
        Ok(is_here)
    }

    fn take_word(&mut self, word: &str) -> Result<bool, ExprError> {
        let is_here = self.lexer.current() == Token::Name(word);
        if is_here {
            self.lexer.advance()?;
        }
        Ok(is_here)
    }

    fn expect(&mut self, sign: &'static str) -> Written {
        if !self.take(sign)? {
            return Err(self.unexpected(&format!("`{sign}`")));
        }
        self.out.push_str(sign);
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> ExprError {
        let expected = match self.lexer.current() {
            Token::Sign("=") => "`==` to compare",
            Token::Name(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                expected
            }
        };
        let found = match self.lexer.current() {
            Token::Name(it) => format!("`{it}`"),
            Token::Number(_) => "a number".to_owned(),
            Token::Text(_) => "a text".to_owned(),
            Token::Sign(it) => format!("`{it}`"),
            Token::End => "the end".to_owned(),
        };
        ExprError::new(self.source, self.lexer.position(), expected, &found)
    }

    /// `a if b else c`, which binds least.
    fn expression(&mut self) -> Written {
        self.depth += 1;
        if self.depth > DEEPEST {
            let expected = "an expression that is nested less deep";
            return Err(ExprError::new(self.source, self.lexer.position(), expected, "more"));
        }
        self.out.push('(');
        self.either()?;
        if self.take_word("if")? {
            self.out.push_str(" if ");
            self.either()?;
            if self.take_word("else")? {
                self.out.push_str(" else ");
                self.expression()?;
            }
        }
        self.out.push(')');
        self.depth -= 1;
        Ok(())
    }

    fn either(&mut self) -> Written {
        self.both()?;
        while self.take_word("or")? {
            self.out.push_str(" or ");
            self.both()?;
        }
        Ok(())
    }

    fn both(&mut self) -> Written {
        self.negation()?;
        while self.take_word("and")? {
            self.out.push_str(" and ");
            self.negation()?;
        }
        Ok(())
    }

    fn negation(&mut self) -> Written {
        // Two in a row cancel out, so that a row of them needs no depth.
        let mut is_negated = false;
        let mut is_boolean = false;
        while self.take_word("not")? {
            is_negated = !is_negated;
            is_boolean = true;
        }
        if is_boolean {
            self.out.push_str(if is_negated { "not " } else { "not not " });
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Written {
        let start = self.out.len();
        self.sum()?;
        let mut count = 0;
        let mut first = None;
        while let Some(test) = self.comparator()? {
            if count == 0 {
                first = Some((test, self.out.len()));
            }
            // Written as a chain; a single comparison, the usual case, is put right below.
            self.out.push_str(if count == 0 { " is __chain('" } else { ", '" });
            self.out.push_str(test);
            self.out.push_str("', ");
            self.sum()?;
            count += 1;
        }
        let Some((test, place)) = first else { return Ok(()) };
        if count == 1 {
            let chain = place + " is __chain('".len() + test.len() + "', ".len();
            let (name, negation) = match test {
                "not in" => ("in", "not "),
                it => (it, ""),
            };
            let call = format!(" is __{name}(");
            self.out.replace_range(place..chain, &call);
            self.out.insert_str(start, &format!("({negation}"));
        } else {
            self.out.insert(start, '(');
        }
        self.out.push_str("))");
        Ok(())
    }

    /// The test that stands for the comparison operator that is here, if one is.
    fn comparator(&mut self) -> Result<Option<&'static str>, ExprError> {
        let test = match self.lexer.current() {
            Token::Sign("==") => "eq",
            Token::Sign("!=") => "ne",
            Token::Sign("<") => "lt",
            Token::Sign("<=") => "le",
            Token::Sign(">") => "gt",
            Token::Sign(">=") => "ge",
            Token::Name("in") => "in",
            Token::Name("not") => {
                self.lexer.advance()?;
                if self.lexer.current() != Token::Name("in") {
                    return Err(self.unexpected("`in`"));
                }
                "not in"
            }
            Token::Name(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                return Ok(None);
            }
        };
        self.lexer.advance()?;
        Ok(Some(test))
    }

    fn sum(&mut self) -> Written {
        self.operators(&[("+", "add"), ("-", "sub")], Self::joined)
    }

    fn joined(&mut self) -> Written {
        self.operators(&[("~", "concat")], Self::product)
    }

    fn product(&mut self) -> Written {
        let all = [("*", "mul"), ("/", "div"), ("//", "floordiv"), ("%", "rem")];
        self.operators(&all, Self::power)
    }

    fn power(&mut self) -> Written {
        self.operators(&[("**", "pow")], Self::unary)
    }

    /// Operands of one binding strength, from left to right: `a + b + c` becomes
    /// `a|__add(b)|__add(c)`, which is no deeper than the operands.
    fn operators(
        &mut self,
        operators: &[(&'static str, &'static str)],
        operand: fn(&mut Self) -> Written,
    ) -> Written {
        let start = self.out.len();
        operand(self)?;
        let mut is_first = true;
        loop {
            let here = self.lexer.current();
            let Some((_, filter)) = operators.iter().find(|(sign, _)| here == Token::Sign(sign))
            else {
                break;
            };
            self.lexer.advance()?;
            if is_first {
                self.out.insert(start, '(');
                self.out.push(')');
            }
            is_first = false;
            self.out.push_str("|__");
            self.out.push_str(filter);
            self.out.push('(');
            operand(self)?;
            self.out.push(')');
        }
        if !is_first {
            self.out.insert(start, '(');
            self.out.push(')');
        }
        Ok(())
    }
}

/// Whether a name means something of its own in an expression.
pub(super) fn is_reserved(name: &str) -> bool {
    WORDS.contains(&name)
        || KEYWORDS.contains(&name)
        || ["range", "loop", "self"].contains(&name)
        || name.starts_with("__")
}
