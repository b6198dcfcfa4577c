//! One line on stderr: what is being measured, and how long it will be yet.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

pub struct Progress {
    start: Instant,
    expected: Duration,
}

impl Progress {
    pub fn new(expected: Duration) -> Self {
        Self { start: Instant::now(), expected }
    }

    /// A new thing is measured.
    pub fn step(&self, what: &str) {
        let left = self.expected.saturating_sub(self.start.elapsed()).as_secs();
        let done = self.start.elapsed().as_secs_f64() / self.expected.as_secs_f64().max(1.0);
        let percent = (done * 100.0).min(99.0) as u32;
        let line = format!("{percent:>3} %  about {}:{:02} left  {what}", left / 60, left % 60);
        let mut stderr = std::io::stderr();
        // Nobody is helped when a progress line that cannot be written ends a measurement.
        let _ = match stderr.is_terminal() {
            true => write!(stderr, "\r\x1b[K{line}"),
            false => writeln!(stderr, "{line}"),
        };
        let _ = stderr.flush();
    }

    pub fn done(&self) {
        self.step("done");
        eprintln!();
    }
}
