//! TypeScript's types, as far as payloads need them, and how they are written.

use serde_json::Value;

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Unknown,
    Never,
    /// One word, such as `string`, a name, or a literal.
    Word(String),
    Array(Box<Type>),
    Tuple(Tuple),
    Object(ObjectType),
    /// Two at least, each once, neither unions nor unknown.
    Union(Vec<Type>),
    /// The same.
    Intersection(Vec<Type>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuple {
    pub items: Vec<Type>,
    /// Those behind may be left out.
    pub required: usize,
    pub rest: Option<Box<Type>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectType {
    pub properties: Vec<Property>,
    /// Of every other property.
    pub rest: Option<Box<Type>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Type,
    pub optional: bool,
    /// Lines of its comment.
    pub comment: Vec<String>,
}

impl Type {
    pub fn word(text: &str) -> Self {
        Self::Word(text.to_owned())
    }

    /// A value as the one that is allowed.
    pub fn literal(value: &Value) -> Self {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::Word(value.to_string()),
            Value::String(text) => Self::Word(quoted(text)),
            Value::Array(items) => Self::Tuple(Tuple {
                items: items.iter().map(Self::literal).collect(),
                required: items.len(),
                rest: None,
            }),
            Value::Object(fields) => {
                let property = |(name, value): (&String, &Value)| Property {
                    name: name.clone(),
                    value: Self::literal(value),
                    optional: false,
                    comment: Vec::new(),
                };
                Self::Object(ObjectType {
                    properties: fields.iter().map(property).collect(),
                    rest: None,
                })
            }
        }
    }

    pub fn union(members: impl IntoIterator<Item = Self>) -> Self {
        let mut union = Vec::new();
        for member in members {
            match member {
                Self::Unknown => return Self::Unknown,
                Self::Never => (),
                Self::Union(inner) => inner.into_iter().for_each(|it| add(&mut union, it)),
                other => add(&mut union, other),
            }
        }
        if union.len() > 1 { Self::Union(union) } else { union.pop().unwrap_or(Self::Never) }
    }

    pub fn intersection(members: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for member in members {
            match member {
                Self::Unknown => (),
                Self::Never => return Self::Never,
                Self::Intersection(inner) => inner.into_iter().for_each(|it| add(&mut all, it)),
                other => add(&mut all, other),
            }
        }
        if all.len() > 1 { Self::Intersection(all) } else { all.pop().unwrap_or(Self::Unknown) }
    }

    /// Its text, where lines begin at this depth.
    pub fn text(&self, depth: usize) -> String {
        match self {
            Self::Unknown => "unknown".to_owned(),
            Self::Never => "never".to_owned(),
            Self::Word(word) => word.clone(),
            Self::Array(item) => format!("{}[]", item.grouped(depth)),
            Self::Tuple(tuple) => tuple.text(depth),
            Self::Object(object) => object.text(depth),
            Self::Union(members) => joined(members, " | ", depth),
            Self::Intersection(members) => joined(members, " & ", depth),
        }
    }

    /// In parentheses where something behind or beside it would take it apart.
    fn grouped(&self, depth: usize) -> String {
        match self {
            Self::Union(_) | Self::Intersection(_) => format!("({})", self.text(depth)),
            Self::Unknown
            | Self::Never
            | Self::Word(_)
            | Self::Array(_)
            | Self::Tuple(_)
            | Self::Object(_) => self.text(depth),
        }
    }
}

impl Tuple {
    fn text(&self, depth: usize) -> String {
        let item = |(place, item): (usize, &Type)| match place < self.required {
            true => item.text(depth),
            false => format!("{}?", item.grouped(depth)),
        };
        let mut items: Vec<_> = self.items.iter().enumerate().map(item).collect();
        items.extend(self.rest.iter().map(|it| format!("...{}[]", it.grouped(depth))));
        format!("[{}]", items.join(", "))
    }
}

impl ObjectType {
    /// The braces and what is between them.
    pub fn text(&self, depth: usize) -> String {
        let indent = "  ".repeat(depth + 1);
        let mut text = String::from("{\n");
        for property in &self.properties {
            text.push_str(&comment(&property.comment, &indent));
            let mark = if property.optional { "?" } else { "" };
            let value = property.value.text(depth + 1);
            text.push_str(&format!("{indent}{}{mark}: {value};\n", key(&property.name)));
        }
        if let Some(rest) = self.index() {
            text.push_str(&format!("{indent}[key: string]: {};\n", rest.text(depth + 1)));
        }
        format!("{text}{}}}", "  ".repeat(depth))
    }

    /// What any key may hold. TypeScript counts the named properties among them.
    fn index(&self) -> Option<Type> {
        let rest = self.rest.as_deref()?;
        let is_any_optional = self.properties.iter().any(|it| it.optional);
        let named = self.properties.iter().map(|it| it.value.clone());
        let absent = is_any_optional.then(|| Type::word("undefined"));
        Some(Type::union(std::iter::once(rest.clone()).chain(named).chain(absent)))
    }
}

fn joined(members: &[Type], by: &str, depth: usize) -> String {
    members.iter().map(|it| it.grouped(depth)).collect::<Vec<_>>().join(by)
}

fn add(members: &mut Vec<Type>, member: Type) {
    if !members.contains(&member) {
        members.push(member);
    }
}

/// A property's name, in quotes where it is no identifier.
fn key(name: &str) -> String {
    let is_start = |it: char| it.is_ascii_alphabetic() || it == '_' || it == '$';
    let is_plain =
        name.starts_with(is_start) && name.chars().all(|it| is_start(it) || it.is_ascii_digit());
    if is_plain { name.to_owned() } else { quoted(name) }
}

/// A string literal. JSON's are JavaScript's, but for two line ends.
pub fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// A comment of these lines, or nothing. Nothing in them ends it early.
pub fn comment(lines: &[String], indent: &str) -> String {
    let breaks = ['\n', '\r', '\u{2028}', '\u{2029}'];
    let lines: Vec<String> = lines
        .iter()
        .flat_map(|it| it.split(breaks))
        .map(|it| it.trim_end().replace("*/", "*\\/"))
        .collect();
    match &lines[..] {
        [] => String::new(),
        [line] => format!("{indent}/** {line} */\n"),
        lines => {
            let line = |it: &String| format!("{indent} * {it}").trim_end().to_owned() + "\n";
            let lines: String = lines.iter().map(line).collect();
            format!("{indent}/**\n{lines}{indent} */\n")
        }
    }
}
