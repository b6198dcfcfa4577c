//! Resource files: YAML in which `${NAME}` stands for a variable of the environment, and which
//! can still say on which line each of its fields stands.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use super::{
    error::{CliError, Result},
    output::Paint,
};
use crate::resources::invalid_yaml;

/// More than any installation has resources.
const LARGEST: usize = 16 * 1024 * 1024;

/// A file that was read, with its variables filled in.
#[derive(Debug)]
pub struct ResourceFile {
    name: String,
    text: String,
    /// What it says, as the API takes it.
    pub resources: Value,
    /// Where each field stands: `destinations[0].url` → line and column, from 1.
    places: BTreeMap<String, (usize, usize)>,
}

impl ResourceFile {
    /// Reads a file, or standard input for `-`.
    pub fn read(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = if name == "-" {
            read_stdin()?
        } else {
            std::fs::read(path).map_err(|source| cannot_read(&name, source))?
        };
        let name = if name == "-" { "standard input".to_owned() } else { name };
        if bytes.len() > LARGEST {
            return Err(CliError::usage(format!("{name} is larger than 16 MiB")));
        }
        let bytes = crate::model::json::without_mark(&bytes).to_vec();
        let text = String::from_utf8(bytes)
            .map_err(|_| CliError::usage(format!("{name} is not UTF-8")))?;
        Self::parse(name, text, variable)
    }

    fn parse(
        name: String,
        text: String,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        // As the gateway reads it: `yes` is a text, and `true` is true.
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let tree: Spanned<YamlNode> = match serde_saphyr::from_str_with_options(&text, options) {
            Ok(tree) => tree,
            Err(error) => {
                let place = error.location().map(|it| (it.line() as usize, it.column() as usize));
                return Err(CliError::usage(point_at(
                    &name,
                    &text,
                    place,
                    &invalid_yaml(&error).to_string(),
                )));
            }
        };
        let mut reading =
            YamlReader { places: BTreeMap::new(), wrong: Vec::new(), variable: &variable };
        let resources = reading.value("", &tree);
        let YamlReader { places, wrong, .. } = reading;
        if !wrong.is_empty() {
            let lines: Vec<_> = wrong
                .iter()
                .map(|(message, place)| point_at(&name, &text, Some(*place), message))
                .collect();
            let advice = "export the variables that are missing. A destination that exists keeps its \
                          signing secret where the file has no `secret` line. Plain `${` is written `$${`";
            return Err(CliError::usage(lines.join("\n")).then(advice));
        }
        if !resources.is_object() {
            let message = "must be a map that begins with `version: 1` and `project: NAME`";
            return Err(CliError::usage(point_at(&name, &text, Some((1, 1)), message)));
        }
        Ok(Self { name, text, resources, places })
    }

    /// A refusal of the gateway, with the lines that it speaks of.
    pub fn explain(&self, error: CliError) -> CliError {
        let CliError::Refused(problem) = &error else { return error };
        let fields = problem.fields();
        if fields.is_empty() {
            return error;
        }
        let lines: Vec<_> = fields
            .iter()
            .map(|(field, message)| {
                point_at(&self.name, &self.text, self.place(field), &format!("{field}: {message}"))
            })
            .collect();
        CliError::usage(lines.join("\n")).then("correct the file; nothing was changed")
    }

    /// The place of a field, or of the nearest thing around it that is there.
    fn place(&self, field: &str) -> Option<(usize, usize)> {
        let mut path = field.trim_start_matches("resources.");
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::io::Read::read_to_end(
        &mut std::io::Read::take(std::io::stdin().lock(), LARGEST as u64 + 1),
        &mut bytes,
    );
    read.map_err(|source| cannot_read("standard input", source))?;
    Ok(bytes)
}

fn cannot_read(name: &str, source: std::io::Error) -> CliError {
    CliError::File { what: format!("`{name}` cannot be read"), source }
}

/// `file:line:column: message`, and the line with a caret below it.
fn point_at(name: &str, text: &str, place: Option<(usize, usize)>, message: &str) -> String {
    let Some((number, column)) = place.filter(|it| it.0 > 0) else {
        return format!("{name}: {message}");
    };
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let paint = Paint::for_stderr();
    let gutter = " ".repeat(number.to_string().len());
    // Tabs stay tabs, so that the caret stands where the eye expects it.
    let indent: String = line
        .chars()
        .take(column.saturating_sub(1))
        .map(|it| if it == '\t' { '\t' } else { ' ' })
        .collect();
    format!(
        "{name}:{number}:{column}: {message}\n {} {line}\n {gutter} {} {indent}{}",
        paint.dim(format_args!("{number} |")),
        paint.dim("|"),
        paint.red("^"),
    )
}

struct YamlReader<'a> {
    places: BTreeMap<String, (usize, usize)>,
    /// What is wrong, and where.
    wrong: Vec<(String, (usize, usize))>,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl YamlReader<'_> {
    fn value(&mut self, path: &str, node: &Spanned<YamlNode>) -> Value {
        let place = (node.referenced.line() as usize, node.referenced.column() as usize);
        self.places.insert(path.to_owned(), place);
        match &node.value {
            YamlNode::Plain(value) => value.clone(),
            YamlNode::Text(text) => Value::String(self.fill(text, place)),
            YamlNode::List(items) => {
                let values = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.value(&format!("{path}[{index}]"), item));
                Value::Array(values.collect())
            }
            YamlNode::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    map.insert(key.clone(), self.value(&inner, value));
                }
                Value::Object(map)
            }
        }
    }

    /// Replaces each `${NAME}`; `$${` stands for `${` itself.
    fn fill(&mut self, text: &str, place: (usize, usize)) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            if let Some(literal) = before.strip_suffix('$') {
                filled.push_str(literal);
                filled.push_str("${");
                rest = &from[2..];
                continue;
            }
            filled.push_str(before);
            let name = from[2..].split('}').next().unwrap_or_default();
            let is_name = name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
                && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
            if !is_name || from.len() == name.len() + 2 {
                let message =
                    "`${` stands before the name of a variable and `}`; as a text it is `$${`";
                self.wrong.push((message.to_owned(), place));
                filled.push_str("${");
                rest = &from[2..];
                continue;
            }
            match (self.variable)(name) {
                Some(value) => filled.push_str(&value),
                None => {
                    let message = format!("the environment has no variable `{name}`");
                    self.wrong.push((message, place));
                }
            }
            rest = &from[name.len() + 3..];
        }
        filled + rest
    }
}

/// YAML as JSON sees it, with the place of everything.
enum YamlNode {
    Plain(Value),
    Text(String),
    List(Vec<Spanned<YamlNode>>),
    Map(Vec<(String, Spanned<YamlNode>)>),
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = YamlNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false, null, a list or a mapping")
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlNode, E> {
        Ok(YamlNode::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlNode, E> {
        Ok(YamlNode::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlNode, E> {
        Ok(YamlNode::Plain(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<YamlNode, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("JSON has no such number"))?;
        Ok(YamlNode::Plain(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlNode, E> {
        Ok(YamlNode::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Plain(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlNode, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(YamlNode::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<YamlNode, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(YamlNode::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::error::ProblemBody, *};

    fn parse(text: &str) -> Result<ResourceFile> {
        let variable = |name: &str| (name == "SECRET").then(|| "whsec_x: \"y\"".to_owned());
        ResourceFile::parse("a.yaml".to_owned(), text.to_owned(), variable)
    }

    fn message(error: CliError) -> String {
        error.render(Paint::PLAIN)
    }

    #[test]
    fn yaml_becomes_json_in_the_same_order() {
        let file = parse("version: 1\nb: [1, 2.5, null, true, \"1\"]\na: { x: \"\" }\n").unwrap();
        assert_eq!(
            file.resources.to_string(),
            r#"{"version":1,"b":[1,2.5,null,true,"1"],"a":{"x":""}}"#
        );
    }

    #[test]
    fn variables_are_filled_into_texts_and_cannot_change_the_structure() {
        let file =
            parse("a: \"${SECRET}\"\nb: \"x-$${SECRET}-$5-$${\"\nc: pre${SECRET}post\n").unwrap();
        let expected =
            json!({"a": "whsec_x: \"y\"", "b": "x-${SECRET}-$5-${", "c": "prewhsec_x: \"y\"post"});
        assert_eq!(file.resources, expected);
    }

    #[test]
    fn an_unfinished_variable_is_no_text() {
        for text in ["a: ${not a name}", "a: \"${\"", "a: ${}", "a: ${1}"] {
            let shown = message(parse(text).unwrap_err());
            assert!(shown.starts_with("error: a.yaml:1:4: `${` stands before"), "{text}: {shown}");
        }
    }

    #[test]
    fn a_missing_variable_is_named_with_its_line() {
        let text = message(parse("a: 1\nb: \"${GONE}\"\n").unwrap_err());
        let expected = "error: a.yaml:2:4: the environment has no variable `GONE`\n 2 | b: \"${GONE}\"\n   |    ^\nnext: export";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn a_file_that_does_not_parse_says_where() {
        for (text, expected) in [
            ("a: 1\nb: [1, 2\n", "error: a.yaml:"),
            ("a: 1\na: 2\n", "error: a.yaml:2:1: must have the key `a` once, found it twice"),
            ("", "error: a.yaml:1:1: must be a map that begins"),
            ("- 1\n", "error: a.yaml:1:1: must be a map that begins"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let shown = message(error);
            assert!(shown.starts_with(expected) && shown.contains("^"), "{shown}");
        }
    }

    #[test]
    fn a_refused_field_is_shown_on_its_line() {
        let file = parse("version: 1\ndestinations:\n  - name: crm\n    url: ftp://x\n").unwrap();
        let body = br#"{"title":"The request is invalid","errors":[{"field":"destinations[0].url","rule":"an endpoint's scheme is `https` or `http`","found":"a string"},
            {"field":"destinations[0].secret.text","rule":"must be there","found":""}]}"#;
        let text = message(file.explain(CliError::Refused(ProblemBody::read(400, body))));
        assert!(text.contains("a.yaml:4:10: destinations[0].url: an endpoint's scheme"), "{text}");
        assert!(text.contains("4 |     url: ftp://x\n   |          ^"), "{text}");
        assert!(text.contains("a.yaml:3:5: destinations[0].secret.text: must be there"), "{text}");
    }
}
