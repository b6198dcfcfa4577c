//! Scripts, friendly and hostile.

use super::*;

fn compiled(source: &str) -> Result<Script, ScriptError> {
    Script::compile(source, ScriptLimits::default(), Arc::default(), 1)
}

fn input() -> ScriptInput {
    let payload = r#"{"n":1.50,"big":12345678901234567890}"#.to_owned();
    let event = format!(r#"{{"type":"a.b","payload":{payload},"metadata":{{}}}}"#);
    ScriptInput {
        event,
        payload,
        context: "{}".to_owned(),
        metadata: "{}".to_owned(),
        now_millis: 1_700_000_000_000,
        seed: 7,
        listens: true,
    }
}

fn run(source: &str) -> ScriptOutcome {
    compiled(source).unwrap_or_else(|error| panic!("{error}")).run(input())
}

/// The payload of the only event, or what went wrong.
fn payload(source: &str) -> String {
    match run(source).returned {
        Ok(None) => "null".to_owned(),
        Ok(Some(all)) => all[0].payload.clone().unwrap_or_else(|| "same".to_owned()),
        Err(error) => error.to_string(),
    }
}

/// The payload that an expression makes.
fn value(expression: &str) -> String {
    payload(&format!("export default () => ({{ payload: {expression} }})"))
}

#[test]
fn an_event_comes_back_changed_several_times_or_not_at_all() {
    assert_eq!(payload("export default function (event) { return event }"), "same");
    assert_eq!(payload("export default e => null"), "null");
    assert_eq!(value("[1, 'é']"), r#"[1,"é"]"#);
    let source = "const base = 'x'; export default function f(e, c) { return [e, two(e)] }
        function two(e) { return { ...e, type: base + '.two', metadata: { a: 1 } } }";
    let all = run(source).returned.unwrap().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], Returned { event_type: Some("a.b".into()), payload: None, metadata: None });
    assert_eq!(all[1].event_type.as_deref(), Some("x.two"));
    assert_eq!(all[1].metadata.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(
        payload("export default e => { e.payload.m = 1; return e }"),
        r#"{"n":1.5,"big":12345678901234567000,"m":1}"#
    );
}

#[test]
fn errors_say_where_in_the_users_source_they_are() {
    for (source, expected) in [
        ("export default function (e) {\n  return e +\n}", "line 3"),
        ("let x = 1", "must have an `export default"),
        ("// export default\nlet s = 'export default'", "must have an `export default"),
        ("import x from 'fs'; export default () => x", "fs"),
        ("export default 7", "must be a function"),
        ("export default async function () {}", "plain function"),
        ("export default async (e) => ({ payload: 1 })", "not an `async` one"),
        ("for (;;) {}\nexport default () => null", "takes too long"),
    ] {
        let error = compiled(source).err().expect(source).to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
    let source = "export default function (e) {\n  const a = 1;\n  return e.payload.no.more;\n}";
    let error = run(source).returned.unwrap_err();
    assert_eq!(error.place.map(|it| it.0), Some(3), "{error}");
    assert!(error.message.contains("TypeError"), "{error}");
    let error = run("export default function (e) { return nothing }").returned.unwrap_err();
    assert_eq!(error.place, Some((1, 38)), "{error}");
}

#[test]
fn scripts_must_return_events() {
    for (source, expected) in [
        ("export default () => {}", "must return an event"),
        ("export default () => 'x'", "must return an event"),
        ("export default () => [7]", "which are objects"),
        ("export default () => ({})", "must have a payload"),
        ("export default () => ({ payload: () => 1 })", "must have a payload"),
        ("export default () => ({ payload: 1, type: 7 })", "must be a text"),
        ("export default () => { const a = {}; a.a = a; return { payload: a } }", "circular"),
        ("export default () => ({ payload: 1n })", "BigInt"),
        ("export default () => Array(2000).fill({ payload: 1 })", "at most 1024"),
        ("export default () => ({ payload: 'x'.repeat(2 << 20) })", "too large"),
        ("export default () => ({ get payload() { throw Error('mine') } })", "mine"),
        ("export default () => ({ payload: { toJSON() { for (;;); } } })", "takes too long"),
        ("export default () => { throw { toString() { for (;;); } } }", "no Error"),
        (
            "export default () => { const e = Error('x'); Object.defineProperty(e, 'stack', { get() { for (;;); } }); throw e }",
            "x",
        ),
    ] {
        let reported = payload(source);
        assert!(reported.contains(expected), "{source}: {reported}");
    }
}

#[test]
fn hostile_scripts_are_stopped_within_their_limits() {
    for (source, expected) in [
        ("for (;;);", "takes too long"),
        ("try { for (;;); } finally { for (;;); }", "takes too long"),
        ("const a = []; for (;;) a.push('x'.repeat(100000) + a.length);", "memory"),
        ("let s = 'x'; for (;;) s += s;", ""),
        ("const f = () => f() + 1; f();", "stack"),
        ("/^(a+)+$/.test('a'.repeat(40) + 'b');", "takes too long"),
        ("new Array(4294967295).join('x');", ""),
        ("Array(1e6).fill().map((_, i) => [i]); for (;;);", ""),
        ("[].indexOf.call({ length: 2 ** 53 - 1 }, 1);", "takes too long"),
        ("new Proxy({}, {});", "Proxy"),
        ("eval('1');", "eval"),
        ("new Function('return 1')();", "Function"),
        ("(() => {}).constructor('return 1')();", "made of a text"),
        ("(function* () {}).constructor('yield 1')();", "made of a text"),
        ("setTimeout(() => 1, 1);", "setTimeout"),
        ("fetch('http://a');", "fetch"),
        ("import('fs');", ""),
        ("performance.now();", "performance"),
        ("(async () => { await null; })(); return null;", "asynchronous"),
        ("JSON.parse('['.repeat(100000));", ""),
    ] {
        let source = format!("export default function () {{ {source} }}");
        let begun = std::time::Instant::now();
        let reported = payload(&source);
        assert!(reported.contains(expected), "{source}: {reported}");
        assert_ne!(reported, "same", "{source}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{source}: {:?}", begun.elapsed());
    }
}

#[test]
fn nothing_of_one_event_is_there_for_the_next() {
    let state = "
        let count = 0; const memory = {};
        const attempt = (f) => { try { f() } catch {} };
        export default (e) => {
          const before = [count++, Object.keys(memory), ({}).polluted, globalThis.left, [].left,
            Math.left, console.left, JSON.left, attempt.left, /x/.left, (function* () {})().left];
          memory.x = 1;
          attempt(() => { Object.prototype.polluted = 1 });
          attempt(() => { globalThis.left = 1 });
          attempt(() => { Array.prototype.left = 1 });
          attempt(() => { Math.left = 1 });
          attempt(() => { console.left = 1 });
          attempt(() => { JSON.parse = () => 7 });
          attempt(() => { ({}).__proto__.polluted = 1 });
          attempt(() => { (function* () {})().__proto__.__proto__.left = 1 });
          attempt(() => { RegExp.prototype.left = 1 });
          attempt(() => { Date.prototype.getTime = () => 7 });
          attempt(() => { attempt.left = 1 });
          attempt(() => { Array.prototype[Symbol.iterator] = null });
          attempt(() => { Object.setPrototypeOf(Object.prototype, { polluted: 1 }) });
          return { payload: [before, Math.random(), Math.random(), Date.now(), new Date().toISOString()] };
        }";
    let script = compiled(state).unwrap();
    let first = script.run(input()).returned.unwrap();
    for _ in 0..3 {
        assert_eq!(script.run(input()).returned.unwrap(), first);
    }
    let payload = first.unwrap()[0].payload.clone().unwrap();
    assert!(payload.contains(r#"1700000000000,"2023-11-14T22:13:20.000Z"]"#), "{payload}");
    let other = script.run(ScriptInput { seed: 8, ..input() }).returned.unwrap().unwrap();
    assert_ne!(other[0].payload.as_ref(), Some(&payload));
}

#[test]
fn ordinary_code_works() {
    for (expression, expected) in [
        ("new Date(2026, 0, 2, 3).toISOString()", r#""2026-01-02T03:00:00.000Z""#),
        ("new Date('2026-01-02T03:00').getHours()", "3"),
        ("new Date('2026-01-02') - new Date('2026-01-01')", "86400000"),
        ("new Date() instanceof Date", "true"),
        ("[3, 1, 2].toSorted().map(String).join('')", r#""123""#),
        ("Object.fromEntries(new Map([['a', 1]]))", r#"{"a":1}"#),
        (
            "(() => { const e = new Error('x'); e.name = 'Mine'; return String(e) })()",
            r#""Mine: x""#,
        ),
        (
            "(() => { class A extends Error { toString() { return 'a' } } return String(new A()) })()",
            r#""a""#,
        ),
        ("(() => { const o = {}; o.toString = () => 'o'; return `${o}` })()", r#""o""#),
        ("({ ...{ a: 1 }, ['b']: 2 })", r#"{"a":1,"b":2}"#),
        ("'a-b'.replace(/(\\w)-(\\w)/, '$2$1')", r#""ba""#),
        ("JSON.parse('{\"__proto__\":1}')", r#"{"__proto__":1}"#),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
    let outcome = run("export default (e) => { console.log('hi', { a: 1 }); return e }");
    assert_eq!(outcome.logs, [r#"hi {"a":1}"#]);
    let outcome =
        run("export default (e) => { for (let i = 0; i < 1000; i++) console.log(i); return e }");
    assert_eq!(outcome.logs.len(), 100);
}

#[test]
fn a_script_that_always_takes_too_long_soon_holds_up_less() {
    let script = compiled("export default (e) => { for (;;); }").unwrap();
    let once = || {
        let begun = std::time::Instant::now();
        assert!(script.run(input()).returned.is_err());
        begun.elapsed()
    };
    let first = (0..3).map(|_| once()).min().unwrap();
    let later = (0..10).map(|_| once()).min().unwrap();
    assert!(later < first / 5, "{first:?}, then {later:?}");
}

/// `tidegate-bench scripts` does the same hundreds of thousands of times.
#[test]
fn many_events_leave_nothing_in_the_engine_and_take_no_longer() {
    const ROUND: u32 = 4_000;
    let source = "const all = new Map(); let last = null;
        export default (e) => {
            all.set(e, [last]); last = e; e.self = all;
            if (e.payload.n > 1) e.payload.seen = `${e.payload.n}`.match(/./g).length;
            return [{ payload: e.payload }, { payload: { n: 2 } }];
        }";
    let engine = engine::Engine::new(source, ScriptLimits::default(), Arc::default()).unwrap();
    let task = Task { input: ScriptInput { listens: false, ..input() }, is_trial: false };
    let round = || {
        let fastest = (0..ROUND).map(|_| {
            let begun = std::time::Instant::now();
            let outcome = engine.run(&task, ScriptLimits::default().ticks());
            assert_eq!(outcome.returned.unwrap().unwrap().len(), 2);
            begun.elapsed()
        });
        (fastest.min().unwrap(), engine.memory())
    };
    let (first, held) = round();
    for _ in 0..5 {
        let (fastest, holds) = round();
        assert_eq!(holds, held, "it leaks");
        assert!(fastest < first * 2, "{first:?}, then {fastest:?}");
    }
}

#[test]
fn prefetched_results_equal_direct_ones() {
    // Given a script that fails for one event, and returns nothing for another,
    let source =
        "export default (e) => e.n === 3 ? null : { payload: [e.n, e.n.x(), Math.random()] }";
    let source = source.replace("e.n.x()", "(e.n === 5 ? e.no.where : 1)");
    let numbered = |n: u64| {
        let (event, seed) = (format!(r#"{{"n":{n},"payload":null}}"#), n);
        ScriptInput { event, seed, listens: false, ..input() }
    };
    let reported = |outcome: ScriptOutcome| format!("{:?}", outcome.returned);
    let alone: Vec<String> = {
        let script = compiled(&source).unwrap();
        (0..10).map(|n| reported(script.run(numbered(n)))).collect()
    };

    // when it is run over ten events at once,
    let script = compiled(&source).unwrap();
    script.run_ahead((0..10).map(numbered).collect(), None);

    // then each finds its own outcome, also where another was foreseen.
    for n in [0, 1, 3, 2, 4, 5, 9, 8, 20, 7] {
        let expected = alone.get(n as usize).cloned();
        let found = reported(script.run(numbered(n)));
        assert!(expected.is_none_or(|it| it == found), "{n}: {found}");
    }
    assert!(alone[5].contains("Some((1, 72))") && alone[3] == "Ok(None)", "{alone:?}");
}

#[test]
fn of_events_that_are_run_at_once_only_the_one_that_is_stuck_is_lost() {
    let source = "export default (e) => {
        if (e.n === 2) 'a'.repeat(2e5).indexOf('a'.repeat(1e5) + 'b');
        return { payload: e.n }
    }";
    let script = compiled(source).unwrap();
    let inputs = (0..4).map(|n| ScriptInput { event: format!(r#"{{"n":{n}}}"#), ..input() });
    let inputs: Vec<ScriptInput> = inputs.collect();
    script.run_ahead(inputs.clone(), None);
    let reported: Vec<String> = inputs
        .into_iter()
        .map(|it| script.run(it).returned.map_or_else(|error| error.to_string(), |_| "ok".into()))
        .collect();
    assert_eq!(reported[..2], ["ok", "ok"]);
    assert!(reported[2].contains("could not be stopped"), "{reported:?}");
    assert_eq!(reported[3], "ok", "the event behind it is run");
}

#[test]
fn a_call_that_no_engine_can_stop_holds_up_nobody() {
    // Given a script that compares megabytes with megabytes in one call,
    let pool: Arc<ScriptThreads> = Arc::default();
    let source =
        "export default () => ({ payload: 'a'.repeat(2e5).indexOf('a'.repeat(1e5) + 'b') })";
    let stuck = Script::compile(source, ScriptLimits::default(), pool.clone(), 1).unwrap();
    let other = "export default (e) => e";
    let other = Script::compile(other, ScriptLimits::default(), pool.clone(), 2).unwrap();

    // when it runs,
    let begun = std::time::Instant::now();
    let first = stuck.run(input()).returned.unwrap_err();

    // then its caller soon goes on, and the machine is to blame;
    assert!(first.message.contains("could not be stopped") && first.is_unavailable(), "{first}");
    assert_eq!(pool.stuck(), 1);

    // when it is stuck again, it waits, and no event is lost meanwhile;
    assert!(stuck.run(input()).returned.unwrap_err().message.contains("could not be stopped"));
    let waits = stuck.run(input()).returned.unwrap_err();
    assert!(waits.message.contains("tried again in") && waits.is_unavailable(), "{waits}");

    // and other scripts go on, those of its owner included.
    let own = Script::compile("export default (e) => e", ScriptLimits::default(), pool, 1).unwrap();
    assert!(own.run(input()).returned.is_ok());
    assert!(other.run(input()).returned.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_millisecond_is_enough_to_compile() {
    let limits = ScriptLimits { time: Duration::from_millis(1), ..ScriptLimits::default() };
    let script = Script::compile("export default (e) => e", limits, Arc::default(), 1).unwrap();
    assert!(script.run(input()).returned.is_ok());
    let endless = Script::compile("export default () => { for (;;); }", limits, Arc::default(), 1);
    let error = endless.unwrap().run(input()).returned.unwrap_err();
    assert!(!error.is_unavailable(), "its work is used up, which is its own fault: {error}");
}
