//! Trivial transforms by the hundred thousand: what each takes, and whether anything grows with them.

use std::{sync::Arc, time::Instant};

use tidegate::script::{Script, ScriptInput, ScriptLimits, ScriptThreads};

use crate::Result;

#[derive(clap::Args)]
pub struct Options {
    /// Events.
    #[arg(long, default_value_t = 1_000_000)]
    count: u32,
    /// What becomes of each.
    #[arg(
        long,
        default_value = "export default (event) => { event.payload.seen = true; return event }"
    )]
    source: String,
}

/// Events between two looks.
const ROUND: u32 = 100_000;
/// Events that are handed to a script at once, as many as by the loop.
const AT_ONCE: u32 = 32;
/// KiB of memory that may come and go.
const SLACK: usize = 2048;

/// An error says that memory grew, or that events took longer and longer.
pub fn run(options: &Options) -> Result<()> {
    let pool: Arc<ScriptThreads> = Arc::default();
    let script = Script::compile(&options.source, ScriptLimits::default(), pool, 1)?;
    let mut first = None;
    println!("| events | µs for an event | events/s | memory in KiB |\n|---|---|---|---|");
    for round in 1..=options.count.div_ceil(ROUND) {
        let begun = Instant::now();
        for chunk in 0..ROUND / AT_ONCE {
            let inputs: Vec<ScriptInput> =
                (0..AT_ONCE).map(|n| input(chunk * AT_ONCE + n)).collect();
            script.run_ahead(inputs.clone(), None);
            for input in inputs {
                script.run(input).returned?;
            }
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(ROUND);
        let memory = resident()?;
        println!("| {} | {micros:.2} | {:.0} | {memory} |", round * ROUND, 1e6 / micros);
        let (fastest, least) = *first.get_or_insert((micros, memory));
        if memory > least + SLACK {
            return Err(format!("memory grew from {least} to {memory} KiB").into());
        }
        if micros > fastest * 1.5 {
            return Err(format!("an event took {fastest:.2} µs, and now {micros:.2} µs").into());
        }
    }
    Ok(())
}

fn input(number: u32) -> ScriptInput {
    let payload = format!(r#"{{"n":{number},"plan":"scale","email":"ann@acme.com"}}"#);
    ScriptInput {
        event: format!(r#"{{"id":"e{number}","type":"a.b","payload":{payload},"metadata":{{}}}}"#),
        context: r#"{"source":"app"}"#.to_owned(),
        payload,
        metadata: "{}".to_owned(),
        seed: u64::from(number),
        ..ScriptInput::default()
    }
}

/// KiB of this process.
fn resident() -> Result<usize> {
    const PAGE_KIB: usize = 4;
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).ok_or("no second number in statm")?;
    Ok(pages.parse::<usize>()? * PAGE_KIB)
}
