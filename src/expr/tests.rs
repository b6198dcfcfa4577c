//! What expressions mean.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{Event, EventId, EventSeq, ProjectId, RawJson, SourceId};

fn facts(payload: &str) -> Facts {
    let event = Event {
        seq: EventSeq(1),
        id: EventId::from_bits(7),
        project: ProjectId::from_bits(1),
        source: SourceId::from_bits(2),
        event_type: "user.signed_up".parse().unwrap(),
        timestamp: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::parse(r#"{"ip":"10.0.0.1"}"#).unwrap(),
        payload: RawJson::parse(payload.to_owned()).unwrap(),
    };
    Facts::new(Arc::new(event), Some("app".parse().unwrap()))
}

const USER: &str = r#"{"plan":"pro","age":20,"total":1.50,"big":123456789012345678901,"huge":1e400,
    "none":null,"yes":true,"tags":["a","b"],"user":{"email":"D@x.com","roles":[{"name":"admin"}]},
    "esc\u0061pe":"a\"b","first-name":"Ann","in":1,"text":"5","dup":1,"dup":2,"empty":{}}"#;

#[test]
fn conditions_mean_what_people_expect() {
    fn check(source: &str, expected: bool) {
        let condition = Condition::compile(source).unwrap_or_else(|it| panic!("{source}: {it}"));
        let held = condition.holds(&facts(USER));
        assert_eq!(held, Ok(expected), "{source}");
    }
    for source in [
        "payload.plan == 'pro'",
        "payload.plan != \"internal\"",
        "payload.plan in ['pro', 'scale']",
        "payload.plan not in ['free']",
        "payload.age >= 18 and payload.age < 65",
        "18 <= payload.age < 65",
        "not payload.missing",
        "payload.yes",
        "payload.total == 1.5",
        "payload.big == 123456789012345678901",
        "payload.big > 123456789012345678900",
        "payload.big != 123456789012345678900",
        "payload.none == none",
        "payload.none is none",
        "payload.user.email|lower == 'd@x.com'",
        "payload.user.email is endingwith('x.com')",
        "payload.user.email is endingwith 'x.com'",
        "payload.user.roles[0].name == 'admin'",
        "payload.user.roles.0.name == 'admin'",
        "payload.tags == ['a', 'b']",
        "payload.user.roles == [{'name': 'admin'}]",
        "payload.user.roles|map(attribute='name')|list == ['admin']",
        "payload.user.roles|selectattr('name', '==', 'admin')|list|length == 1",
        "'a' in payload.tags",
        "'email' in payload.user",
        "'@' in payload.user.email",
        "payload.tags|length == 2",
        "payload['first-name'] == 'Ann'",
        "payload.escape == 'a\"b'",
        "payload.in == 1",
        "payload.dup == 2",
        "type == 'user.signed_up' and source == 'app'",
        "metadata.ip is startingwith '10.'",
        "timestamp == '1970-01-01T00:00:00Z'",
        "payload.age + 1 == 21 and payload.age * 2 - 5 == 35 and 7 // 2 == 3 and -7 // 2 == -4",
        "7 / 2 == 3.5 and 7 % 3 == 1 and 2 ** 10 == 1024 and -7 % 3 == 2",
        "'a' ~ payload.age == 'a20'",
        "(payload.plan == 'free' or payload.age == 20) and true",
        "'x' if payload.missing else payload.yes",
        "payload.missing|default('x') == 'x'",
        "payload.empty is mapping and not payload.empty",
        "not not payload.yes",
        "payload.tags[0:1]|list == ['a']",
        "-payload.age == -20",
        "payload.huge is none or payload.huge > 1",
    ] {
        check(source, true);
    }
    for source in [
        "payload.yes == 1",
        "payload.text == 5",
        "payload.plan == 'free'",
        "payload.none == 0",
        "payload.none < 1",
        "payload.none >= 0",
        "payload.none in ['a']",
        "5 in payload.text",
        "payload.missing",
        "payload.tags == ['a']",
        "payload.tags == 'a'",
    ] {
        check(source, false);
    }
}

#[test]
fn a_missing_field_equals_nothing() {
    let missing = [
        "payload.no",
        "payload.no.deeper",
        "payload.none.deeper",
        "payload.tags[9]",
        "payload.user['no']",
        "metadata.no",
        "idempotency_key",
        "payload.plan.length",
    ];
    let present = [
        "1",
        "''",
        "none",
        "[]",
        "{}",
        "payload.plan",
        "payload.none",
        "payload.also",
        "payload.no",
        "payload.tags",
        "false",
    ];
    for left in missing {
        for right in present {
            for (sign, expected) in [
                ("==", false),
                ("!=", true),
                ("<", false),
                ("<=", false),
                (">", false),
                (">=", false),
            ] {
                for source in [format!("{left} {sign} {right}"), format!("{right} {sign} {left}")] {
                    let condition = Condition::compile(&source).unwrap();
                    assert_eq!(condition.holds(&facts(USER)), Ok(expected), "{source}");
                }
            }
        }
        for (source, expected) in [
            (format!("{left} in ['a', payload.no]"), false),
            (format!("{left} not in ['a']"), true),
            (format!("'a' in {left}"), false),
            (format!("'a' not in {left}"), true),
            (format!("{left} in ''"), false),
            (format!("[{left}] == [{left}]"), false),
            (format!("{{'a': {left}}} == {{'a': {left}}}"), false),
            (format!("{left} is eq({left})"), false),
            (format!("[{left}]|select('==', {left})|list|length > 0"), false),
            (format!("{left} is startingwith('')"), false),
            (format!("1 < 2 < {left}"), false),
            (format!("{left} is defined"), false),
        ] {
            let condition = Condition::compile(&source).unwrap();
            assert_eq!(condition.holds(&facts(USER)), Ok(expected), "{source}");
        }
    }
}

#[test]
fn expressions_that_fail_say_why() {
    for (source, reason) in [
        ("payload.plan < 5", "a string and a number have no order"),
        ("payload.missing + 1 > 2", "`+` takes numbers, not undefined and number"),
        ("1 / 0 == 1", "`/` has no result for these numbers"),
        ("1 in 5", "nothing is in a number"),
        (
            "(payload.plan|replace('', 'x' ~ payload.plan)|replace('p', 'ppppppp')) == '' or payload.tags|int > 1",
            "",
        ),
    ] {
        let held = Condition::compile(source).unwrap().holds(&facts(USER));
        match held {
            Err(EvalError::Failed(why)) => assert!(why.contains(reason), "{source}: {why}"),
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn an_expression_that_does_not_parse_is_refused_with_its_place() {
    for (source, column, expected) in [
        ("", 1, "a value"),
        ("payload.plan == ", 17, "a value"),
        ("payload.plan = 'pro'", 14, "`==` to compare"),
        ("payload.plan == 'pro", 17, "a text that ends with its quote"),
        ("(payload.plan", 14, "`)` or an operator"),
        ("payload.plan 'pro'", 14, "an operator or the end"),
        ("payloda.plan == 1", 1, "one of type, id, timestamp"),
        ("payload.plan && true", 14, "`and`"),
        ("payload.plan|shout", 14, "one of the filters"),
        ("payload.plan is shouted", 17, "one of the tests"),
        ("payload.plan.lower() == 'pro'", 19, "a filter"),
        ("payload.", 9, "the name of a field"),
        ("payload.tags[", 14, "a value"),
        ("a not b", 1, "one of"),
        ("payload.a not payload.b", 15, "`in`"),
        ("[1, 2", 6, "`,`"),
        ("é", 1, "a name, a value or an operator"),
        ("__eq(1)", 1, "one of"),
    ] {
        let error = Condition::compile(source).err().unwrap_or_else(|| panic!("{source} passed"));
        assert_eq!((error.line, error.column), (1, column), "{source}: {error}");
        assert!(error.expected.starts_with(expected), "{source}: {error}");
    }
    let error = Condition::compile("payload.a == 1\n  and and").unwrap_err();
    assert_eq!(error.to_string(), "at line 2, column 7: expected a value, found `and`");
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(Condition::compile(&deep).is_err());
    assert!(Condition::compile(&"x".repeat(70_000)).is_err());
}

#[test]
fn long_chains_need_no_depth() {
    for source in [
        vec!["payload.age == 20"; 500].join(" and "),
        vec!["1"; 500].join(" + ") + " == 500",
        vec!["'a'"; 300].join(" ~ ") + " != ''",
        "not ".repeat(500) + "true",
        "payload".to_owned() + &".no".repeat(500) + " != 1",
    ] {
        assert_eq!(Condition::compile(&source).unwrap().holds(&facts(USER)), Ok(true));
    }
}

#[test]
fn templates_print_for_people_and_stop_in_time() {
    fn check(source: &str, expected: Result<&str, &str>) {
        let template = Template::compile(source).unwrap_or_else(|it| panic!("{source}: {it}"));
        match (template.render(&facts(USER)), expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{source}"),
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected, "{source}"),
            (got, _) => panic!("{source}: {got:?}"),
        }
    }
    check("Hello {{ payload.plan }}!\n", Ok("Hello pro!\n"));
    check("{{ payload.no }}-{{ payload.none }}-{{ payload.yes }}", Ok("--true"));
    check("{{ payload.tags }} {{ payload.user.roles[0] }}", Ok(r#"["a","b"] {"name":"admin"}"#));
    check(
        "{% for tag in payload.tags %}{{ loop.index }}{{ tag }}{% else %}none{% endfor %}",
        Ok("1a2b"),
    );
    check("{% for key, value in payload.user|items %}{{ key }} {% endfor %}", Ok("email roles "));
    check(
        "{%- if payload.no == payload.nope -%} same {%- elif payload.age > 18 %}old{% else %}young{% endif %}",
        Ok("old"),
    );
    check("{% set x = payload.age + 1 %}{{ x }}{# not printed #}", Ok("21"));
    check("{{ {'a': payload.no, 'b': [payload.no, none]}|tojson }}", Ok(r#"{"b":[null,null]}"#));
    check(
        "{{ 'a b&c=ü/~.' | urlencode }}{{ payload.no | urlencode }}",
        Ok("a%20b%26c%3D%C3%BC%2F~."),
    );
    check("{{ '{{' }}{{ \"%}\" }}", Ok("{{%}"));
    check(
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        Err("the expression takes too long"),
    );
    check(
        &format!("{{% for a in range(5000) %}}{}{{% endfor %}}", "x".repeat(1000)),
        Err("the text is longer than 1 MiB"),
    );
    check(
        "{% for a in range(1000) %}{{ 'x' ~ a }}{% endfor %}{{ payload.no + 1 }}",
        Err("`+` takes numbers, not undefined and number"),
    );
}

#[test]
fn templates_reach_nothing_else() {
    for (source, line, expected) in [
        ("{% include 'x' %}", 1, "`if`, `for` or `set`"),
        ("a\n{% import 'x' as y %}", 2, "`if`, `for` or `set`"),
        ("{% macro x() %}{% endmacro %}", 1, "`if`, `for` or `set`"),
        ("{% if true %}", 1, "`{% endif %}`"),
        ("{% for a in payload.b %}{% endif %}", 1, "`if`, `for`, `set`, `else` or `endfor`"),
        ("{{ payload.a", 1, "`}}`"),
        ("{{ payload.a %}", 1, "`}}`"),
        ("{# a", 1, "`#}`"),
        ("{% for a in payload.b %}{% endfor %}{{ a }}", 1, "one of type"),
        ("{{ namespace() }}", 1, "one of type"),
        ("{% set __eq = 1 %}", 1, "a name"),
        ("{% set x %}", 1, "`=` and a value"),
    ] {
        let error = Template::compile(source).err().unwrap_or_else(|| panic!("{source} passed"));
        assert_eq!(error.line, line, "{source}: {error}");
        assert!(error.expected.starts_with(expected), "{source}: {error}");
    }
}

#[test]
fn a_mapping_keeps_types_and_leaves_out_what_is_missing() {
    let shape = json!({
        "plan": "{{ payload.plan }}",
        "total": "{{ payload.total }}",
        "big": "{{payload.big}}",
        "huge": "{{ payload.huge }}",
        "none": "{{ payload.none }}",
        "no": "{{ payload.no }}",
        "user": "{{ payload.user }}",
        "greeting": "Hi {{ payload['first-name'] }}{{ payload.no }}",
        "list": ["{{ payload.no }}", 1, "{{ payload.age + 1 }}"],
        "nested": { "no": "{{ payload.no }}", "escaped": "{{ payload.escape }}" },
        "fixed": { "a": 1.5, "b": null, "c\"": "x\"y" },
        "two": "{{ payload.age }}{{ payload.age }}",
    });
    let out = Mapping::compile(&shape).unwrap().apply(&facts(USER)).unwrap();
    let expected = concat!(
        r#"{"plan":"pro","total":1.50,"big":123456789012345678901,"huge":1e400,"none":null,"#,
        r#""user":{"email":"D@x.com","roles":[{"name":"admin"}]},"greeting":"Hi Ann","#,
        r#""list":[null,1,21],"nested":{"escaped":"a\"b"},"fixed":{"a":1.5,"b":null,"c\"":"x\"y"},"#,
        r#""two":"2020"}"#
    );
    assert_eq!(out.as_str(), expected);
    let none = Mapping::compile(&json!("{{ payload.no }}")).unwrap().apply(&facts(USER)).unwrap();
    assert_eq!(none.as_str(), "null");
    let error = Mapping::compile(&json!({"a": [{"b": "{{ x }}"}]})).err().unwrap();
    assert_eq!(error.path, "a[0].b");
}

#[test]
fn a_key_gives_one_lane_for_one_value() {
    let lane =
        |source: &str, payload: &str| Key::compile(source).unwrap().lane(&facts(payload)).unwrap();
    assert_eq!(lane("payload.a", r#"{"a":"x"}"#), lane("payload.a", r#"{"b":1,"a":"x"}"#));
    assert_ne!(lane("payload.a", r#"{"a":"x"}"#), lane("payload.a", r#"{"a":"y"}"#));
    assert_ne!(lane("payload.a", r#"{"a":"1"}"#), lane("payload.a", r#"{"a":1}"#));
    assert_eq!(lane("payload.a", "{}"), lane("payload.b", "{}"));
    assert_ne!(lane("payload.a", "{}"), Lane::NONE);
}

#[test]
fn json_is_read_only_when_an_expression_looks_at_it() {
    let facts = facts(USER);
    assert!(Condition::compile("type == 'user.signed_up'").unwrap().holds(&facts).unwrap());
    assert!(!facts.was_read());
    assert!(Condition::compile("payload.yes").unwrap().holds(&facts).unwrap());
    assert!(facts.was_read());
}

#[test]
fn results_of_steps_have_their_own_name() {
    let results = ["person".to_owned()];
    let names = Names { results: &results, bare: false };
    let condition = Condition::compile_with("person.name == 'Ann'", &names).unwrap();
    assert_eq!(condition.holds(&facts("{}")), Ok(false));
    let person = RawJson::parse(r#"{"name":"Ann"}"#).unwrap();
    let known = facts("{}").with_result("person", &person);
    assert_eq!(condition.holds(&known), Ok(true));
    assert!(Condition::compile("person.name == 'Ann'").is_err());
    assert!(names.is_free("company") && !names.is_free("payload") && !names.is_free("person"));
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|it| json!(it)),
        any::<i64>().prop_map(|it| json!(it)),
        any::<f64>().prop_map(|it| json!(it)),
        ".{0,12}".prop_map(|it| json!(it)),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|it| json!(it)),
            prop::collection::hash_map("[a-e]{1,2}", inner, 0..5).prop_map(|it| json!(it)),
        ]
    })
}

fn any_source() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "payload(\\.[a-e]{1,2}){0,3}",
        "[0-9]{1,3}(\\.[0-9])?",
        "'[a-z]{0,3}'",
        Just("none".to_owned()),
        Just("[1, 'a']".to_owned()),
        Just("{'a': payload.b}".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let sign = prop::sample::select(vec![
            "==", "!=", "<", "<=", ">", ">=", "in", "not in", "+", "-", "*", "/", "//", "%", "~",
            "and", "or",
        ]);
        prop_oneof![
            (inner.clone(), sign, inner.clone())
                .prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            inner.clone().prop_map(|it| format!("(not {it})")),
            inner.clone().prop_map(|it| format!("(-{it})")),
            (inner.clone(), prop::sample::select(FILTER_SAMPLE.to_vec()))
                .prop_map(|(it, filter)| format!("({it}|{filter})")),
            (inner.clone(), prop::sample::select(vec!["defined", "string", "none", "number"]))
                .prop_map(|(it, test)| format!("({it} is {test})")),
            inner.clone().prop_map(|it| format!("({it}[1:])")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
        ]
    })
}

const FILTER_SAMPLE: [&str; 8] =
    ["length", "lower", "list", "join(',')", "tojson", "sort", "first", "default(1)"];

/// Ways to what is never there: payloads have keys of one or two letters, and short lists.
const MISSING: [&str; 12] = [
    "payload.zzz",
    "payload.zzz.a.b",
    "payload.a.zzz",
    "payload['zzz']",
    "payload[99]",
    "payload.a[99].b",
    "metadata.zzz[0]",
    "idempotency_key",
    "[payload.zzz][0]",
    "{'a': payload.zzz}.a",
    "(payload|attr('zzz'))",
    "(payload.zzz if 1 == 1 else 1)",
];

/// Each operator, and its name as a test.
const SIGNS: [(&str, &str); 6] =
    [("==", "eq"), ("<", "lt"), ("<=", "le"), (">", "gt"), (">=", "ge"), ("in", "in")];

/// Conditions that compare what is missing with something else.
const NEVER: [&str; 21] = [
    "MISSING SIGN (OTHER)",
    "(OTHER) SIGN MISSING",
    "MISSING SIGN MISSING",
    "not (MISSING != (OTHER))",
    "not (MISSING not in (OTHER))",
    "MISSING SIGN (OTHER) SIGN (OTHER)",
    "(OTHER) SIGN MISSING SIGN (OTHER)",
    "(OTHER) == (OTHER) SIGN MISSING",
    "MISSING is WORD(OTHER)",
    "(OTHER) is WORD(MISSING)",
    "MISSING is startingwith(OTHER)",
    "(OTHER) is endingwith(MISSING)",
    "[MISSING] == [OTHER]",
    "[1, MISSING] == [1, MISSING]",
    "{'a': MISSING} == {'a': OTHER}",
    "{'a': [MISSING]} == {'a': [MISSING]}",
    "MISSING in [MISSING, OTHER, none]",
    "[MISSING] in [[MISSING], OTHER]",
    "[MISSING]|select('SIGN', OTHER)|list|length > 0",
    "[OTHER]|select('SIGN', MISSING)|list|length > 0",
    "[{'a': MISSING}]|selectattr('a', 'SIGN', OTHER)|list|length > 0",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_panics_and_what_we_write_the_engine_reads(payload in any_json(), source in any_source()) {
        let condition = Condition::compile(&source);
        prop_assert!(condition.is_ok(), "{source}: {:?}", condition.err());
        let _ = condition.unwrap().holds(&facts(&payload.to_string()));
    }

    #[test]
    fn any_text_is_read_or_refused(source in ".{0,60}", tags in "[{}%#a-z .'|=0-9-]{0,60}") {
        let _ = Condition::compile(&source);
        let _ = Condition::compile(&tags);
        let _ = Template::compile(&tags);
        let _ = Template::compile(&source);
    }

    #[test]
    fn a_test_on_a_missing_field_is_never_true(
        payload in any_json(),
        missing in prop::sample::select(MISSING.to_vec()),
        form in prop::sample::select(NEVER.to_vec()),
        sign in prop::sample::select(SIGNS.to_vec()),
        other in any_source(),
    ) {
        let (symbol, word) = sign;
        let words = [("MISSING", missing), ("SIGN", symbol), ("WORD", word), ("OTHER", &other)];
        let source = words.iter().fold(form.to_owned(), |text, (from, to)| text.replace(from, to));
        let condition = Condition::compile(&source);
        prop_assert!(condition.is_ok(), "{}: {:?}", source, condition.err());
        let held = condition.unwrap().holds(&facts(&payload.to_string()));
        prop_assert_ne!(held, Ok(true), "{}", source);
    }

    #[test]
    fn json_goes_through_unchanged(payload in any_json()) {
        let text = payload.to_string();
        let whole = Mapping::compile(&json!("{{ payload }}")).unwrap();
        let out = whole.apply(&facts(&text)).unwrap();
        prop_assert_eq!(out.as_str(), &text);
        let again = Mapping::compile(&json!({"p": "{{ [payload][0] }}"})).unwrap();
        let out = again.apply(&facts(&text)).unwrap();
        prop_assert_eq!(out.as_str(), format!(r#"{{"p":{text}}}"#));
    }
}
