//! One script in an engine of its own, on the thread that made it.

use std::{cell::Cell, rc::Rc, sync::Arc};

use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Function, Module, Persistent, Runtime, Value,
    context::{EvalOptions, intrinsic},
};

use super::{
    Returned, ScriptError, ScriptInput, ScriptLimits, ScriptOutcome, Task, leash::Leash, same,
    source,
};

/// The file that errors name.
const FILE: &str = "transform.js";
const PRELUDE: &str = include_str!("prelude.js");

/// The work that an engine may do before the script's own: as much as 100 ms.
const SET_UP: u32 = 400;

/// What scripts find in their world. `Proxy`, weak references and clocks are not in it.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// A script, compiled, in a world that no event can change. Fields go in this order: functions before
/// their context, and that before its runtime.
pub struct Engine {
    run: Persistent<Function<'static>>,
    logs: Persistent<Function<'static>>,
    rewrite: Persistent<Function<'static>>,
    context: Context,
    runtime: Runtime,
    work: Rc<WorkLimit>,
    limits: ScriptLimits,
}

/// What is left of the work that one run may do.
struct WorkLimit {
    ticks: Cell<u32>,
    leash: Arc<Leash>,
}

impl Engine {
    pub fn new(module: &str, limits: ScriptLimits, leash: Arc<Leash>) -> Result<Self, ScriptError> {
        let wrapped = checked(module, limits, leash.clone())?;
        let (runtime, work) = runtime(limits, leash)?;
        let context = Context::custom::<Intrinsics>(&runtime).map_err(|_| no_memory())?;
        let [run, logs, rewrite] = context.with(|ctx| -> Result<_, ScriptError> {
            let parts: Vec<Function<'_>> =
                ctx.eval(PRELUDE).catch(&ctx).map_err(|it| reported(it, 0))?;
            let [bind, logs, rewrite] = <[Function<'_>; 3]>::try_from(parts)
                .map_err(|_| ScriptError::new("the engine does not start"))?;
            let mut options = EvalOptions::default();
            options.filename = Some(FILE.to_owned());
            let factory: Function<'_> = ctx
                .eval_with_options(wrapped, options)
                .catch(&ctx)
                .map_err(|it| reported(it, 1))?;
            let bounds = (factory, limits.events, limits.output);
            let run: Function<'_> = bind.call(bounds).catch(&ctx).map_err(|it| reported(it, 1))?;
            Ok([run, logs, rewrite].map(|it| Persistent::save(&ctx, it)))
        })?;
        Ok(Self { run, logs, rewrite, context, runtime, work, limits })
    }

    /// Runs the script over one event, with so much work; or, as a trial, only what stands around its
    /// function.
    pub fn run(&self, task: &Task, ticks: u32) -> ScriptOutcome {
        self.work.ticks.set(if task.is_trial { ticks.max(SET_UP) } else { ticks });
        let ScriptInput { event, context, now_millis, seed, listens, .. } = &task.input;
        let returned = self.context.with(|ctx| {
            let run = self.run.clone().restore(&ctx).map_err(|_| no_memory())?;
            let parts = || -> rquickjs::Result<Option<Vec<String>>> {
                let event = match task.is_trial {
                    true => Value::new_undefined(ctx.clone()),
                    false => ctx.json_parse(event.as_str())?,
                };
                let context = ctx.json_parse(context.as_str())?;
                let seed = (seed ^ seed >> 32) as i32;
                run.call((event, context, *now_millis as f64, seed, *listens))
            };
            let parts = parts().catch(&ctx).map_err(|it| self.stopped(it))?;
            parts.map(|it| self.returned(&ctx, it, &task.input)).transpose()
        });
        let logs = if *listens { self.logs() } else { Vec::new() };
        if self.runtime.is_job_pending() {
            let returned = Err(ScriptError::new("it must not be asynchronous").fatal());
            return ScriptOutcome { returned, logs };
        }
        ScriptOutcome { returned, logs }
    }

    fn returned(
        &self,
        ctx: &Ctx<'_>,
        parts: Vec<String>,
        input: &ScriptInput,
    ) -> Result<Vec<Returned>, ScriptError> {
        let rewritten = |old: &str| {
            let rewrite = self.rewrite.clone().restore(ctx)?;
            rewrite.call::<_, String>((old,))
        };
        // What reads the same as before keeps its bytes, for numbers that JavaScript would round.
        let changed = |new: String, old: &str| {
            let is_same = same::is_same(old, &new)
                .unwrap_or_else(|| rewritten(old).is_ok_and(|rewritten| rewritten == new));
            (!is_same).then_some(new)
        };
        let mut parts = parts.into_iter();
        let mut all = Vec::with_capacity(parts.len() / 3);
        let mut size = 0;
        while let (Some(event_type), Some(payload), Some(metadata)) =
            (parts.next(), parts.next(), parts.next())
        {
            size += payload.len() + metadata.len();
            all.push(Returned {
                event_type: Some(event_type).filter(|it| !it.is_empty()),
                payload: changed(payload, &input.payload),
                metadata: match metadata.is_empty() {
                    true => None,
                    false => changed(metadata, &input.metadata),
                },
            });
        }
        if size > self.limits.output {
            return Err(ScriptError::new("what it returns is too large"));
        }
        Ok(all)
    }

    /// Bytes that the engine holds, without what is only waiting to be collected.
    #[cfg(test)]
    pub fn memory(&self) -> i64 {
        self.runtime.run_gc();
        self.runtime.memory_usage().malloc_size
    }

    fn logs(&self) -> Vec<String> {
        self.context.with(|ctx| {
            let logs = self.logs.clone().restore(&ctx).ok();
            logs.and_then(|it| it.call(()).ok()).unwrap_or_default()
        })
    }

    fn stopped(&self, error: CaughtError<'_>) -> ScriptError {
        if self.work.ticks.get() == 0 || self.work.leash.is_cut() {
            return ScriptError::new("it takes too long").out_of_time();
        }
        // Reading what was thrown may run code of the script.
        self.work.ticks.set(1);
        reported(error, 1)
    }
}

fn runtime(
    limits: ScriptLimits,
    leash: Arc<Leash>,
) -> Result<(Runtime, Rc<WorkLimit>), ScriptError> {
    let runtime = Runtime::new().map_err(|_| no_memory())?;
    runtime.set_memory_limit(limits.memory);
    runtime.set_max_stack_size(limits.stack);
    // To set it up takes work of ours, however little the script itself may do.
    let work = Rc::new(WorkLimit { ticks: Cell::new(limits.ticks().max(SET_UP)), leash });
    let handler = work.clone();
    // The engine calls it after each ten thousand jumps and calls, whatever the machine's speed.
    runtime.set_interrupt_handler(Some(Box::new(move || {
        let left = handler.ticks.get().saturating_sub(1);
        handler.ticks.set(left);
        left == 0 || handler.leash.is_cut()
    })));
    Ok((runtime, work))
}

/// The module as a function, if it is a module with a default export.
fn checked(module: &str, limits: ScriptLimits, leash: Arc<Leash>) -> Result<String, ScriptError> {
    let (runtime, _work) = runtime(limits, leash)?;
    let context = Context::custom::<Intrinsics>(&runtime).map_err(|_| no_memory())?;
    let declare = |text: &str| {
        context.with(|ctx| {
            let declared = Module::declare(ctx.clone(), FILE, text).map(drop);
            declared.catch(&ctx).map_err(|it| reported(it, 0))
        })
    };
    declare(module)?;
    // Where the words are code, other words in their place are no module any more.
    let is_code = |at: &&usize| {
        let broken = format!("{}@{}", &module[..**at], &module[**at + 1..]);
        declare(&broken).is_err()
    };
    let places = source::candidates(module);
    let Some(at) = places.iter().find(is_code) else {
        return Err(ScriptError::new("must have an `export default function (event, ctx) { … }`"));
    };
    source::wrap(module, *at).map_err(ScriptError::new)
}

fn no_memory() -> ScriptError {
    ScriptError::new("it needs more memory than it may have").fatal()
}

/// What was thrown, for people, with its place in the user's source. `lines` are ours before it.
fn reported(error: CaughtError<'_>, lines: usize) -> ScriptError {
    const SHOWN: usize = 300;
    let (message, stack) = match error {
        CaughtError::Exception(it) => {
            let name: Option<String> = it.get("name").ok();
            let message = it.message().unwrap_or_default();
            let message = match name {
                Some(name) if message.is_empty() => name,
                Some(name) => format!("{name}: {message}"),
                None => message,
            };
            (message, it.stack().unwrap_or_default())
        }
        CaughtError::Value(it) if it.is_null() => return no_memory(),
        CaughtError::Value(it) => match it.as_string().and_then(|it| it.to_string().ok()) {
            Some(text) => (text, String::new()),
            None => ("it threw something that is no Error".to_owned(), String::new()),
        },
        CaughtError::Error(rquickjs::Error::InvalidString(_)) => {
            ("must not have a NUL in it".to_owned(), String::new())
        }
        CaughtError::Error(it) => (it.to_string(), String::new()),
    };
    let is_memory = message == "InternalError: out of memory";
    let message: String = message.chars().take(SHOWN).collect();
    let error = ScriptError { place: place(&stack, lines), ..ScriptError::new(&message) };
    if is_memory { ScriptError { place: error.place, ..no_memory() } } else { error }
}

/// The first line and column of the script in a trace: `at f (transform.js:3:5)`.
fn place(stack: &str, lines: usize) -> Option<(usize, usize)> {
    let (_, rest) = stack.split_once("transform.js:")?;
    let mut numbers = rest.split(|it: char| !it.is_ascii_digit()).map(str::parse::<usize>);
    let (line, column) = (numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(1));
    Some((line.checked_sub(lines).filter(|it| *it > 0)?, column))
}
