//! The real binary: run to its end, or running beside a test.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use crate::harness::PATIENCE;

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// `tidegate …`, with nothing of this machine's environment.
pub fn tidegate(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _gone = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A command that runs beside the test, and ends with it.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    notes: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        Self { child, lines, notes }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output in which the text stands.
    pub fn line(&self, text: &str) -> String {
        find(&self.lines, text)
    }

    /// The next line of its remarks, on standard error.
    pub fn note(&self, text: &str) -> String {
        find(&self.notes, text)
    }

    pub fn signal(&self, name: &str) {
        let mut sent = Command::new("kill");
        let sent = sent.args([&format!("-{name}"), &self.child.id().to_string()]);
        assert!(sent.status().unwrap().success());
    }

    /// Ctrl-C, and the exit code that follows.
    pub fn interrupt(mut self) -> Option<i32> {
        // The standard library sends no signals but the one that kills.
        let interrupted =
            Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(interrupted.unwrap().success());
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code()
    }

    /// Its input ends. The exit code, and what it remarked.
    pub fn end_of_input(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        (status.code(), self.notes.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn lines_of(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn find(lines: &mpsc::Receiver<String>, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => seen.push(line),
            Err(_) => panic!("no line with {text:?} came; what came was {seen:#?}"),
        }
    }
}
