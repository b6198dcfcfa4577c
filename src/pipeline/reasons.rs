//! Why events did not go on, as people read it.

/// How many branches did not go on, and why the first of them did not.
pub(super) struct Stopped {
    pub count: usize,
    pub of: usize,
    pub first: Option<String>,
}

impl Stopped {
    pub fn of(branches: usize) -> Self {
        Self { count: 0, of: branches, first: None }
    }

    pub fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        let reason = reason();
        self.first.get_or_insert(reason);
    }
}

/// What people read when a condition does not hold.
pub(super) fn does_not_hold(source: &str) -> String {
    /// How much of the condition is repeated.
    const SHOWN: usize = 200;
    let shown: String = source.chars().take(SHOWN).collect();
    let more = if shown.len() < source.len() { "…" } else { "" };
    format!("`{shown}{more}` does not hold")
}
