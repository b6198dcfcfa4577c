//! Conditions on rows, as SQL with its values beside it.

use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use crate::{model::Pattern, store::postgres::values::micros};

/// A `WHERE` that grows. Values never become part of the text.
#[derive(Default)]
pub(super) struct SqlCondition {
    sql: Vec<String>,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl SqlCondition {
    /// `sql` has a `?` for the value.
    pub fn and(&mut self, sql: &str, value: impl ToSql + Sync + Send + 'static) {
        self.values.push(Box::new(value));
        self.sql.push(sql.replacen('?', &format!("${}", self.values.len()), 1));
    }

    /// `sql` has a `?` for each value.
    pub fn and_both(
        &mut self,
        sql: &str,
        first: impl ToSql + Sync + Send + 'static,
        second: impl ToSql + Sync + Send + 'static,
    ) {
        self.values.push(Box::new(first));
        let sql = sql.replacen('?', &format!("${}", self.values.len()), 1);
        self.and(&sql, second);
    }

    pub fn and_fact(&mut self, sql: &str) {
        self.sql.push(sql.to_owned());
    }

    /// By the type of an event.
    pub fn and_type(&mut self, column: &str, pattern: Option<&Pattern>) {
        match pattern {
            Some(Pattern::Type(it)) => self.and(&format!("{column} = ?"), it.as_str().to_owned()),
            Some(Pattern::Group(prefix)) => {
                // A prefix ends with a dot, and the character behind a dot is a slash.
                let end = prefix.strip_suffix('.').map_or_else(String::new, |it| format!("{it}/"));
                self.and(&format!("{column} >= ?"), prefix.clone());
                self.and(&format!("{column} < ?"), end);
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

    pub fn sql(&self) -> String {
        self.sql.join(" AND ")
    }

    pub fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|it| it.as_ref() as &(dyn ToSql + Sync)).collect()
    }
}
