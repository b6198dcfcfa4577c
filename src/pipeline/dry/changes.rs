//! What a step changed, value by value.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::expr::Facts;

/// One value that is another now.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = ValueChange)]
pub struct Change {
    /// A JSON pointer (RFC 6901) into `type`, `payload`, `metadata` and what steps found out:
    /// `/payload/email`.
    pub path: String,
    /// Left out where nothing stood there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub before: Option<Value>,
    /// Left out where nothing stands there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub after: Option<Value>,
}

/// How much of what changed is shown, over one report.
pub(super) struct ChangeBudget {
    pub changes: usize,
    pub bytes: usize,
    /// Bytes of events that are compared.
    pub work: usize,
}

impl ChangeBudget {
    pub fn new() -> Self {
        Self { changes: 2_000, bytes: 2 << 20, work: 64 << 20 }
    }
}

/// What differs between an event and what a step made of it, and how many differences there was no room
/// for.
pub(super) fn between(
    before: &Facts,
    after: &Facts,
    room: &mut ChangeBudget,
) -> (Vec<Change>, usize) {
    let weigh = |it: &Facts| it.payload().bytes().len() + it.metadata().bytes().len();
    let work = weigh(before) + weigh(after);
    if room.changes == 0 || room.work < work {
        return (Vec::new(), 1);
    }
    room.work -= work;
    changes(&document(before), &document(after), room)
}

/// An event on its way, as one document.
fn document(facts: &Facts) -> Value {
    let mut document = Map::new();
    document.insert("type".to_owned(), facts.event_type().as_str().into());
    document.insert("payload".to_owned(), facts.payload().to_value());
    document.insert("metadata".to_owned(), facts.metadata().to_value());
    for (name, result) in facts.results() {
        document.insert(name.to_owned(), result.to_value());
    }
    Value::Object(document)
}

fn changes(before: &Value, after: &Value, room: &mut ChangeBudget) -> (Vec<Change>, usize) {
    let mut found = FoundChange { changes: Vec::new(), omitted: 0, room };
    found.compare(&mut String::new(), Some(before), Some(after));
    (found.changes, found.omitted)
}

struct FoundChange<'a> {
    changes: Vec<Change>,
    omitted: usize,
    room: &'a mut ChangeBudget,
}

impl FoundChange<'_> {
    fn compare(&mut self, path: &mut String, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (before, after) if before == after => (),
            (Some(Value::Object(before)), Some(Value::Object(after))) => {
                let added = after.keys().filter(|it| !before.contains_key(*it));
                for key in before.keys().chain(added) {
                    let length = path.len();
                    path.push('/');
                    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    self.compare(path, before.get(key), after.get(key));
                    path.truncate(length);
                }
            }
            (Some(Value::Array(before)), Some(Value::Array(after))) => {
                for place in 0..before.len().max(after.len()) {
                    let length = path.len();
                    path.push_str(&format!("/{place}"));
                    self.compare(path, before.get(place), after.get(place));
                    path.truncate(length);
                }
            }
            (before, after) => self.add(path, before, after),
        }
    }

    fn add(&mut self, path: &str, before: Option<&Value>, after: Option<&Value>) {
        let weigh = |it: Option<&Value>| it.map_or(0, |it| it.to_string().len());
        let bytes = path.len() + weigh(before) + weigh(after);
        if self.room.changes == 0 || self.room.bytes < bytes {
            self.omitted += 1;
            return;
        }
        self.room.changes -= 1;
        self.room.bytes -= bytes;
        let (before, after) = (before.cloned(), after.cloned());
        self.changes.push(Change { path: path.to_owned(), before, after });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reported(before: &Value, after: &Value, room: &mut ChangeBudget) -> (Vec<String>, usize) {
        let (changes, omitted) = changes(before, after, room);
        let reported = changes.iter().map(|it| {
            let text = |it: &Option<Value>| it.as_ref().map_or("-".to_owned(), Value::to_string);
            format!("{} {} {}", it.path, text(&it.before), text(&it.after))
        });
        (reported.collect(), omitted)
    }

    #[test]
    fn each_value_that_changed_is_named_by_its_pointer() {
        for (before, after, expected) in [
            (json!({"a": 1}), json!({"a": 1}), vec![]),
            (
                json!({"a": 1, "b": 2}),
                json!({"b": 3, "c": null}),
                vec!["/a 1 -", "/b 2 3", "/c - null"],
            ),
            (json!({"a": [1, 2, 3]}), json!({"a": [1, 4]}), vec!["/a/1 2 4", "/a/2 3 -"]),
            (json!({"a/b": {"~": 1}}), json!({"a/b": {"~": "x"}}), vec![r#"/a~1b/~0 1 "x""#]),
            (json!({"a": {"b": 1}}), json!({"a": [1]}), vec![r#"/a {"b":1} [1]"#]),
        ] {
            assert_eq!(
                reported(&before, &after, &mut ChangeBudget::new()).0,
                expected,
                "{before} {after}"
            );
        }
    }

    #[test]
    fn changes_beyond_the_budget_are_counted() {
        let (before, after) = (json!([1, 2, 3, "long"]), json!([4, 5, 6, "longer"]));
        let mut room = ChangeBudget { changes: 2, bytes: 1000, work: 0 };
        assert_eq!(reported(&before, &after, &mut room).1, 2);
        let mut room = ChangeBudget { changes: 9, bytes: 13, work: 0 };
        assert_eq!(
            reported(&before, &after, &mut room),
            (vec!["/0 1 4".into(), "/1 2 5".into(), "/2 3 6".into()], 1)
        );
    }
}
