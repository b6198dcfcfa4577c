//! Conditions on rows, as SQL with its values beside it.

use jiff::Timestamp;
use rusqlite::types::Value;

use crate::{model::Pattern, store::sqlite::segment::rows::micros};

/// A `WHERE` that grows. Values never become part of the text.
#[derive(Clone, Debug)]
pub struct SqlCondition {
    sql: String,
    values: Vec<Value>,
}

impl SqlCondition {
    /// `sql` has one `?`.
    pub fn new(sql: &str, value: impl Into<Value>) -> Self {
        Self { sql: sql.to_owned(), values: vec![value.into()] }
    }

    /// `sql` has one `?`.
    pub fn and(&mut self, sql: &str, value: impl Into<Value>) {
        self.and_all(sql, [value.into()]);
    }

    /// `sql` has a `?` for each value.
    pub fn and_all(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    /// By the type of an event.
    pub fn and_type(&mut self, column: &str, pattern: Option<&Pattern>) {
        match pattern {
            Some(Pattern::Type(it)) => self.and(&format!("{column} = ?"), it.as_str().to_owned()),
            Some(Pattern::Group(prefix)) => {
                // A prefix ends with a dot, and the character behind a dot is a slash.
                let end = prefix.strip_suffix('.').map_or_else(String::new, |it| format!("{it}/"));
                self.and_all(
                    &format!("{column} >= ? AND {column} < ?"),
                    [prefix.clone().into(), end.into()],
                );
            }
            Some(Pattern::All) | None => (),
        }
    }

    /// From `from` on and before `until`.
    pub fn and_time(&mut self, column: &str, from: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(from) = from {
            self.and(&format!("{column} >= ?"), micros(from));
        }
        if let Some(until) = until {
            self.and(&format!("{column} < ?"), micros(until));
        }
    }

    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// What stands for the `?`, in their order.
    pub fn values(&self) -> rusqlite::ParamsFromIter<&[Value]> {
        rusqlite::params_from_iter(self.values.as_slice())
    }
}

/// Whether a time is in a range that may be open.
pub fn is_within(time: i64, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    from.is_none_or(|it| micros(it) <= time) && until.is_none_or(|it| time < micros(it))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_type_is_found_by_sql_exactly_when_its_pattern_matches() {
        let connection = Connection::open_in_memory().unwrap();
        let types = ["user", "user.", "user.a", "user.z.b", "user-x", "users.a", "USER.a", "u"];
        for pattern in ["user.*", "*", "user.a", "user.z.*", "nothing.*"] {
            let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
            for event_type in types {
                let mut condition = SqlCondition::new("? = 1", 1);
                condition.and_type(&format!("'{event_type}'"), Some(&pattern));
                let found: bool = connection
                    .query_row(&format!("SELECT {}", condition.sql()), condition.values(), |row| {
                        row.get(0)
                    })
                    .unwrap();
                let matches = pattern.matches(&event_type.parse().unwrap());
                assert_eq!(found, matches, "{pattern:?} {event_type}");
            }
        }
    }
}
