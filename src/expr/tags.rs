//! Reads a text with `{{ … }}`, `{% if %}`, `{% for %}` and `{% set %}` in it, and writes it as a
//! template for the engine. There is no way to reach another template or a file from one.

use super::{ExprError, Names, rewrite::Rewriter};

/// A text, taken apart.
pub(super) enum TemplateText {
    /// No tag at all.
    Plain,
    /// One `{{ … }}` and nothing else: the expression as it was written.
    Single(String),
    /// The source of a template for the engine.
    Template(String),
}

/// What is open and waits for its end.
#[derive(PartialEq)]
enum OpenTag {
    If,
    Else,
    For { locals: usize },
}

struct TagReader<'s, 'n> {
    source: &'s str,
    names: &'n Names<'n>,
    out: String,
    open: Vec<OpenTag>,
    locals: Vec<String>,
}

pub(super) fn read(source: &str, names: &Names<'_>) -> Result<TemplateText, ExprError> {
    let Some(first) = next_tag(source, 0) else { return Ok(TemplateText::Plain) };
    let mut reader =
        TagReader { source, names, out: String::new(), open: Vec::new(), locals: Vec::new() };
    let end = reader.all(first)?;
    if let Some(open) = reader.open.last() {
        let expected = match open {
            OpenTag::If | OpenTag::Else => "`{% endif %}`",
            OpenTag::For { .. } => "`{% endfor %}`",
        };
        return Err(ExprError::new(source, source.len(), expected, "the end"));
    }
    let is_single = first == 0 && end == Some(source.len()) && source.starts_with("{{");
    if is_single {
        let inner = source.trim_start_matches("{{").trim_start_matches('-');
        let inner = inner.trim_end_matches("}}").trim_end_matches('-');
        return Ok(TemplateText::Single(inner.to_owned()));
    }
    Ok(TemplateText::Template(reader.out))
}

/// Where the next tag starts.
fn next_tag(source: &str, from: usize) -> Option<usize> {
    ["{{", "{%", "{#"].iter().filter_map(|it| source[from..].find(it)).min().map(|it| from + it)
}

impl TagReader<'_, '_> {
    /// Reads everything. Gives the end of the first tag, if that is the only one.
    fn all(&mut self, first: usize) -> Result<Option<usize>, ExprError> {
        let mut place = 0;
        let mut tag = Some(first);
        let mut only = None;
        let mut count = 0;
        while let Some(start) = tag {
            self.out.push_str(&self.source[place..start]);
            place = self.tag(start)?;
            count += 1;
            only = (count == 1).then_some(place);
            tag = next_tag(self.source, place);
        }
        self.out.push_str(&self.source[place..]);
        Ok(only)
    }

    /// Reads the tag that starts here, and gives the place behind it.
    fn tag(&mut self, start: usize) -> Result<usize, ExprError> {
        let opening = &self.source[start..start + 2];
        if opening == "{#" {
            let length = self.source[start..]
                .find("#}")
                .ok_or_else(|| ExprError::new(self.source, self.source.len(), "`#}`", "the end"))?;
            return Ok(start + length + 2);
        }
        let strips = self.source[start + 2..].starts_with('-');
        let inside = start + 2 + usize::from(strips);
        self.out.push_str(opening);
        self.out.push_str(if strips { "- " } else { " " });
        let end = if opening == "{{" { self.expression(inside)? } else { self.statement(inside)? };
        let closing = if opening == "{{" { "}}" } else { "%}" };
        let rest = &self.source[end..];
        let strips = rest.starts_with('-');
        if !rest[usize::from(strips)..].starts_with(closing) {
            let expected = format!("`{closing}`");
            let found = if rest.is_empty() { "the end" } else { "something else" };
            return Err(ExprError::new(self.source, end, &expected, found));
        }
        self.out.push_str(if strips { " -" } else { " " });
        self.out.push_str(closing);
        Ok(end + usize::from(strips) + closing.len())
    }

    fn rewriter(&self, start: usize) -> Result<Rewriter<'_, '_>, ExprError> {
        Rewriter::new(self.source, start, true, self.names, self.locals.clone())
    }

    fn expression(&mut self, start: usize) -> Result<usize, ExprError> {
        let (text, end) = self.rewriter(start)?.finish()?;
        self.out.push_str(&text);
        Ok(end)
    }

    fn statement(&mut self, start: usize) -> Result<usize, ExprError> {
        let rest = self.source[start..].trim_start();
        let at = self.source.len() - rest.len();
        let word: &str =
            rest.split(|it: char| !it.is_ascii_alphabetic()).next().unwrap_or_default();
        let end = at + word.len();
        let in_if = self.open.last() == Some(&OpenTag::If);
        match word {
            "if" => {
                self.out.push_str("if ");
                self.open.push(OpenTag::If);
                self.expression(end)
            }
            "elif" if in_if => {
                self.out.push_str("elif ");
                self.expression(end)
            }
            "else" if in_if => {
                self.open.pop();
                self.open.push(OpenTag::Else);
                self.closing("else", end)
            }
            "else" if matches!(self.open.last(), Some(OpenTag::For { .. })) => {
                self.closing("else", end)
            }
            "endif" if in_if || self.open.last() == Some(&OpenTag::Else) => {
                self.open.pop();
                self.closing("endif", end)
            }
            "for" => self.for_loop(end),
            "endfor" => match self.open.pop() {
                Some(OpenTag::For { locals }) => {
                    self.locals.truncate(locals);
                    self.closing("endfor", end)
                }
                Some(OpenTag::If | OpenTag::Else) | None => Err(self.unexpected(at, word)),
            },
            "set" => self.set(end),
            _ => Err(self.unexpected(at, word)),
        }
    }

    fn unexpected(&self, at: usize, word: &str) -> ExprError {
        let expected = match self.open.last() {
            None => "`if`, `for` or `set`",
            Some(OpenTag::If) => "`if`, `for`, `set`, `elif`, `else` or `endif`",
            Some(OpenTag::Else) => "`if`, `for`, `set` or `endif`",
            Some(OpenTag::For { .. }) => "`if`, `for`, `set`, `else` or `endfor`",
        };
        ExprError::new(self.source, at, expected, &format!("`{word}`"))
    }

    /// A word with nothing behind it.
    fn closing(&mut self, word: &str, end: usize) -> Result<usize, ExprError> {
        self.out.push_str(word);
        Ok(self.source.len() - self.source[end..].trim_start().len())
    }

    fn for_loop(&mut self, start: usize) -> Result<usize, ExprError> {
        let mut head = self.rewriter(start)?;
        let targets: Vec<String> = head.targets()?.into_iter().map(str::to_owned).collect();
        head.word("in")?;
        let from = head.position();
        self.out.push_str("for ");
        self.out.push_str(&targets.join(", "));
        self.out.push_str(" in ");
        self.open.push(OpenTag::For { locals: self.locals.len() });
        let end = self.expression(from)?;
        self.locals.push("loop".to_owned());
        self.locals.extend(targets);
        Ok(end)
    }

    fn set(&mut self, start: usize) -> Result<usize, ExprError> {
        let mut head = self.rewriter(start)?;
        let targets: Vec<String> = head.targets()?.into_iter().map(str::to_owned).collect();
        if !head.take("=")? {
            let expected = "`=` and a value";
            return Err(ExprError::new(self.source, head.position(), expected, "something else"));
        }
        let from = head.position();
        self.out.push_str("set ");
        self.out.push_str(&targets.join(", "));
        self.out.push_str(" = ");
        let end = self.expression(from)?;
        self.locals.extend(targets);
        Ok(end)
    }
}
