//! What sender and receiver write down, and the judge who reads it.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

/// Nanoseconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "the suites run against a real process and its real clock"
)]
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}

/// NDJSON, one line for each thing that happened, in that order.
pub struct Log(Mutex<BufWriter<File>>);

impl Log {
    pub fn create(path: &Path) -> Self {
        Self(Mutex::new(BufWriter::new(File::create(path).unwrap())))
    }

    /// `record` is given the time at which it stands in the log.
    pub fn write(&self, record: impl FnOnce(u64) -> Value) {
        let mut file = self.0.lock().unwrap();
        let record = record(now_ns());
        writeln!(file, "{record}").unwrap();
    }

    pub fn flush(&self) {
        self.0.lock().unwrap().flush().unwrap();
    }
}

/// An endpoint as the judge is told of it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub name: &'static str,
    /// The lanes that go there, by the start of their names.
    pub lanes: &'static str,
    /// `none`, `key` or `fifo`.
    pub order: &'static str,
    /// Deliveries that may be in flight or unsettled at once.
    pub in_flight: u64,
}

/// Something that was done to the gateway, from when until when.
#[derive(Clone, Debug)]
pub struct Fault {
    pub name: &'static str,
    pub from: u64,
    pub until: u64,
}

impl Fault {
    /// It was dead, and all its connections closed, at this moment.
    pub fn kill(at: u64) -> Self {
        Self { name: "kill", from: at, until: at }
    }
}

/// What the judge holds against a run.
pub struct Bounds {
    /// How long before a fault a delivery may have arrived and still not have been settled.
    pub unsettled: Duration,
    /// For how long an endpoint may get nothing while something waits for it.
    pub resumed: Option<Duration>,
}

/// The judge's words, and whether every promise was kept. What it cannot judge is a panic.
pub struct Verdict {
    pub kept: bool,
    pub text: String,
}

/// Runs the checker over `sent.ndjson` and `received.ndjson` of a folder.
pub fn judge(folder: &Path, endpoints: &[Judged], faults: &[Fault], bounds: &Bounds) -> Verdict {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|it| {
            let Judged { name, lanes, order, in_flight } = it;
            json!({ "name": name, "lanes": lanes, "order": order, "in_flight": in_flight })
        })
        .collect();
    let faults: Vec<_> = faults
        .iter()
        .map(|Fault { name, from, until }| json!({ "name": name, "from": from, "until": until }))
        .collect();
    let nanoseconds = |it: Duration| it.as_nanos() as u64;
    let run = json!({
        "endpoints": endpoints,
        "faults": faults,
        "unsettled_ns": nanoseconds(bounds.unsettled),
        "resumed_ns": bounds.resumed.map(nanoseconds),
    });
    std::fs::write(folder.join("run.json"), run.to_string()).unwrap();
    let output = Command::new(checker())
        .args(["sent.ndjson", "received.ndjson", "run.json"])
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Verdict { kept: true, text },
        Some(1) => Verdict { kept: false, text },
        _ => panic!("the checker failed: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The checker lies beside the gateway: `cargo build --workspace` puts it there. When only the tests
/// were built, it is built now.
fn checker() -> &'static Path {
    static CHECKER: OnceLock<PathBuf> = OnceLock::new();
    CHECKER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
        let checker = folder.join("tidegate-checker");
        let modified = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
        let built = modified(&checker);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/src");
        let sources = std::fs::read_dir(sources).unwrap().map(|it| modified(&it.unwrap().path()));
        if built.is_none() || sources.max().flatten() > built {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "tidegate-checker", "--target-dir"]);
            build.arg(folder.parent().unwrap());
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "the checker does not build");
        }
        checker
    })
}
