//! Text as a terminal shows it: its colours, its width, and what of a long one is shown.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
};

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    enabled: bool,
}

impl Paint {
    pub const PLAIN: Self = Self { enabled: false };
    pub const COLOURED: Self = Self { enabled: true };

    /// Colours for a terminal whose owner did not set `NO_COLOR` (<https://no-color.org>).
    pub fn for_stdout() -> Self {
        Self { enabled: io::stdout().is_terminal() && wants_colours() }
    }

    pub fn for_stderr() -> Self {
        Self { enabled: io::stderr().is_terminal() && wants_colours() }
    }

    pub fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    pub fn red(self, text: impl Display) -> String {
        self.wrap("31", text)
    }

    pub fn green(self, text: impl Display) -> String {
        self.wrap("32", text)
    }

    pub fn yellow(self, text: impl Display) -> String {
        self.wrap("33", text)
    }

    pub fn cyan(self, text: impl Display) -> String {
        self.wrap("36", text)
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
        && std::env::var_os("TERM").is_none_or(|it| it != "dumb")
}

/// How many characters a terminal shows.
pub fn width(text: &str) -> usize {
    let mut shown = 0;
    let mut is_escape = false;
    for letter in text.chars() {
        match (is_escape, letter) {
            (false, '\x1b') => is_escape = true,
            (false, _) => shown += 1,
            (true, 'm') => is_escape = false,
            (true, _) => (),
        }
    }
    shown
}

/// At most `limit` characters, the last of them `…` where something was left out, without control
/// characters: what a stranger sent must not move our cursor.
pub fn clip(text: &str, limit: usize) -> String {
    let clean = |it: char| if it.is_control() { ' ' } else { it };
    if text.chars().count() <= limit {
        return text.chars().map(clean).collect();
    }
    let kept = text.chars().take(limit.saturating_sub(1)).map(clean);
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_text_keeps_its_limit_and_loses_its_control_characters() {
        assert_eq!(clip("abc\x1b[2J", 20), "abc [2J");
        assert_eq!(clip("abcdef", 4), "abc…");
    }
}
