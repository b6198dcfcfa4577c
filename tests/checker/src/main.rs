//! The judge of the crash and chaos suites: reads what the sender and the receiver wrote down, and nothing
//! else, and says whether the gateway between them kept its promises.
//!
//! ```text
//! tidegate-checker SENT RECEIVED RUN
//! ```
//!
//! `SENT` and `RECEIVED` are NDJSON, `RUN` is JSON; `log.rs` says what stands in them. Exit code 0:
//! every promise was kept; 1: one was broken; 2: the logs cannot be read, which proves nothing.

mod log;
mod judge;
mod stall;
mod endpoint;
mod report;

use std::process::ExitCode;

use judge::judge;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [sent, received, run] = arguments.as_slice() else {
        eprintln!("usage: tidegate-checker SENT RECEIVED RUN");
        return ExitCode::from(2);
    };
    let read = || -> Result<_, log::LogError> {
        Ok((log::lines(sent)?, log::lines(received)?, log::whole(run)?))
    };
    let (sent, received, run) = match read() {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let verdict = judge(&sent, &received, &run);
    print!("{}", report::text(&verdict));
    if verdict.acked == 0 {
        eprintln!("nothing was acknowledged: this proves nothing");
        return ExitCode::from(2);
    }
    if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
