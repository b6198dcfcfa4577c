//! Whole documents: what is taken out is gone in every encoding, and the rest keeps its bytes.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    crypto::{Pseudonyms, SeededRandom, Vault},
    model::{Detector, ProjectId},
};

fn redactor(fields: &[&str], detect: &[Detector], mode: RedactionMode) -> Redactor {
    let vault = Vault::ephemeral(Arc::new(SeededRandom::new(1)));
    let pseudonym = Pseudonyms::of(&vault).of_project(ProjectId::from_bits(1));
    let fields = fields.iter().map(|it| (*it).to_owned()).collect();
    Redactor::new(&Redaction { fields, detect: detect.to_vec(), mode }, Some(pseudonym)).unwrap()
}

fn redacted(redactor: &Redactor, json: &str) -> String {
    let json = RawJson::parse(json.to_owned()).unwrap();
    let redacted = redactor.payload(&json).unwrap_or(json);
    RawJson::parse(redacted.bytes().clone()).expect("what is left is JSON");
    redacted.as_str().to_owned()
}

#[test]
fn named_fields_disappear_and_leave_no_comma() {
    let drop =
        |fields: &[&str], json: &str| redacted(&redactor(fields, &[], RedactionMode::Drop), json);
    for (fields, json, expected) in [
        (&["payload.a"][..], r#"{"a":1}"#, "{}"),
        (&["payload.a"], r#"{ "a" : 1 , "b":1.50}"#, r#"{ "b":1.50}"#),
        (&["payload.b"], r#"{"a":1, "b":{"c":[2]} }"#, r#"{"a":1 }"#),
        (&["payload.a", "payload.c"], r#"{"a":1,"b":2,"c":3}"#, r#"{"b":2}"#),
        (&["payload.b", "payload.c"], r#"{"a":1,"b":2,"c":3}"#, r#"{"a":1}"#),
        (&["payload.a", "payload.b"], r#"{"a":1,"b":2}"#, "{}"),
        (&["payload.*"], r#"{"a":1,"b":2}"#, "{}"),
        (&["payload.a"], r#"{"\u0061":1,"a":2,"b":3}"#, r#"{"b":3}"#),
        (&["payload.u[*].e"], r#"{"u":[{"e":1},{"f":2,"e":"x,}"}]}"#, r#"{"u":[{},{"f":2}]}"#),
        (&["payload[1]"], "[1,2,3]", "[1,null,3]"),
        (&["payload"], r#""a""#, "null"),
        (&["payload.a.b"], r#"{"a":[{"b":1}],"b":2}"#, r#"{"a":[{"b":1}],"b":2}"#),
    ] {
        assert_eq!(drop(fields, json), expected, "{fields:?} {json}");
    }
}

#[test]
fn each_mode_leaves_what_it_promises() {
    let json =
        r#"{"email":"Jane@acme.com","ip":"203.0.113.7","n":7,"x":null,"in":{"k":["ab",true]}}"#;
    let fields = ["payload.email", "payload.ip", "payload.n", "payload.x", "payload.in"];
    let of = |mode| redacted(&redactor(&fields, &[], mode), json);
    assert_eq!(of(RedactionMode::Drop), "{}");
    assert_eq!(
        of(RedactionMode::Mask),
        r#"{"email":"J***@acme.com","ip":"203.0.*.*","n":"7***","x":null,"in":{"k":["a***","t***"]}}"#
    );
    assert_eq!(
        of(RedactionMode::Truncate),
        r#"{"email":"J***@acme.com","ip":"203.0.113.0","n":"7***","x":null,"in":{"k":["a***","t***"]}}"#
    );
    let hashed: Value = serde_json::from_str(&of(RedactionMode::Hash)).unwrap();
    let detected = redacted(
        &redactor(&[], &[Detector::All], RedactionMode::Hash),
        r#"{"any":{"email":"write to jane@ACME.com!"}}"#,
    );
    let hash = hashed["email"].as_str().unwrap();
    assert_eq!(detected, format!(r#"{{"any":{{"email":"write to {hash}!"}}}}"#));
}

#[test]
fn values_are_found_in_every_encoding_and_the_rest_keeps_its_bytes() {
    let mask = redactor(&[], &[Detector::All], RedactionMode::Mask);
    for (json, expected) in [
        (
            r#"{"a":"x\u00e9\n jane\u0040acme.com \ud800!", "b" : 1.50}"#,
            r#"{"a":"x\u00e9\n j***@acme.com \ud800!", "b" : 1.50}"#,
        ),
        (r#"[4242424242424242]"#, r#"["************4242"]"#),
        (
            r#"[4.242424242424242e15,-4242424242424242.0]"#,
            r#"["************4242","************4242"]"#,
        ),
        (r#"[4242424242424242.0000000001]"#, r#"["************4242"]"#),
        (
            r#"[4242424242424241,1700000000000,1e999,0.5]"#,
            r#"[4242424242424241,1700000000000,1e999,0.5]"#,
        ),
        (r#"{"a":1,"jane\u0040acme.com" : [2]}"#, r#"{"a":1,"j***@acme.com" : [2]}"#),
        (r#"{"to jane@acme.com":"b@c.de"}"#, r#"{"to j***@acme.com":"b***@c.de"}"#),
        (r#""{\"email\":\"jane@acme.com\"}""#, r#""{\"email\":\"j***@acme.com\"}""#),
    ] {
        assert_eq!(redacted(&mask, json), expected, "{json}");
    }
    let drop = redactor(&[], &[Detector::Email, Detector::Card], RedactionMode::Drop);
    let json = r#"{"a":" a@b.co ","b":"to a@b.co","c":["a@b.co"],"d":4242424242424242}"#;
    assert_eq!(redacted(&drop, json), r#"{"b":"to [email]","c":[null]}"#);
    let json = r#"{"a@b.co":{"c":["x@b.co"]},"to a@b.co":4242424242424242,"c":1,"x@b.co":2}"#;
    assert_eq!(redacted(&drop, json), r#"{"c":1}"#);
    let named = redactor(&["payload.in"], &[], RedactionMode::Mask);
    let json = r#"{"in":{"a@b.co":{"plain":"x"}},"out":{"a@b.co":1}}"#;
    let expected = r#"{"in":{"a***@b.co":{"plain":"x***"}},"out":{"a@b.co":1}}"#;
    assert_eq!(redacted(&named, json), expected);
}

#[test]
fn too_deep_a_value_goes_as_a_whole() {
    let mask = redactor(&[], &[Detector::All], RedactionMode::Mask);
    let json = format!("{}\"a@b.co\"{}", "[".repeat(100_000), "]".repeat(100_000));
    let json = RawJson::trusted(json);
    assert!(!mask.payload(&json).unwrap().as_str().contains('@'));
}

#[test]
fn a_redaction_that_makes_no_sense_is_refused() {
    let refused = |fields: &[&str], detect: &[Detector], mode| {
        let fields = fields.iter().map(|it| (*it).to_owned()).collect();
        let redaction = Redaction { fields, detect: detect.to_vec(), mode };
        Redactor::new(&redaction, None).err().map(|it| it.path)
    };
    assert_eq!(refused(&[], &[], RedactionMode::Mask).as_deref(), Some(""));
    assert_eq!(refused(&["payload", "x"], &[], RedactionMode::Mask).as_deref(), Some("fields[1]"));
    let all = [Detector::All];
    assert_eq!(refused(&[], &all, RedactionMode::Truncate).as_deref(), Some("detect"));
    assert_eq!(refused(&[], &all, RedactionMode::Hash).as_deref(), Some("mode"));
    assert_eq!(refused(&[], &all, RedactionMode::Drop), None);
}

/// From the registry of formats, which gives one for each country; with and without spaces.
const IBANS: [&str; 5] = [
    "DE89 3704 0044 0532 0130 00",
    "GB29NWBK60161331926819",
    "FR14 2004 1010 0505 0001 3M02 606",
    "NL91ABNA0417164300",
    "NO93 8601 1117 947",
];

/// Values of every kind, by their digits, with right check digits.
fn personal() -> impl Strategy<Value = String> {
    let card = "[2-6][0-9]{11,17}".prop_map(|digits| {
        let check = (0..10).map(|it| format!("{digits}{it}"));
        check.into_iter().find(|it| detect::is_card(it.bytes())).unwrap_or_default()
    });
    prop_oneof![
        "[a-zA-Z0-9._+-]{1,10}[a-z0-9]@[a-z0-9]{1,8}\\.(com|de|co\\.uk)",
        (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(a, b, c, d)| format!("{a}.{b}.{c}.{d}")),
        any::<[u16; 8]>().prop_map(|it| std::net::Ipv6Addr::from(it).to_string()),
        card,
        "[1-5][0-9]{2}-[1-9][0-9]-[1-9][0-9]{3}",
        "\\+[1-9][0-9]{8,13}",
        "\\([2-9][0-9]{2}\\) [2-9][0-9]{2}-[0-9]{4}",
        prop::sample::select(IBANS.to_vec()).prop_map(str::to_owned),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => personal(),
        3 => ("\\PC{0,6}", personal(), "[ ,;.!\\-@(1-9a-z]{0,3}", personal(), "\\PC{0,6}")
            .prop_map(|(a, b, c, d, e)| format!("{a}{b}{c}{d}{e}")),
        1 => ".{0,30}",
    ]
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => Just(json!(4_242_424_242_424_242_u64)),
        1 => Just(json!(-4.242_424_242_424_242e15)),
        1 => any::<f64>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(
                (prop_oneof![3 => "[a-c]{1,2}".boxed(), 1 => text().boxed()], inner),
                0..5
            )
            .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

/// The same document with some characters escaped and spaces in it.
fn written(value: &Value, escapes: &mut impl Iterator<Item = bool>) -> String {
    let mut string = |text: &str| {
        let units = text.encode_utf16().map(|unit| {
            let plain = char::from_u32(u32::from(unit)).filter(|it| {
                !it.is_control() && *it != '"' && *it != '\\' && !escapes.next().unwrap_or(false)
            });
            plain.map_or_else(|| format!("\\u{unit:04X}"), String::from)
        });
        format!("\"{}\"", units.collect::<String>())
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(|it| written(it, escapes)).collect();
            format!("[ {} ]", list.join(" , "))
        }
        Value::Object(map) => {
            let mut members = Vec::new();
            for (key, value) in map {
                let key = written(&Value::from(key.as_str()), escapes);
                members.push(format!("{key} : {}", written(value, escapes)));
            }
            format!("{{ {} }}", members.join(" ,"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>, numbers: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|it| texts(it, found, numbers)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            found.push(key);
            texts(value, found, numbers);
        }),
        Value::Number(number) => numbers.push(number.to_string()),
        Value::Null | Value::Bool(_) => (),
    }
}

/// Every mode, with one detector or all of them.
fn searches() -> impl Strategy<Value = (Detector, RedactionMode)> {
    use RedactionMode::{Drop, Hash, Mask, Truncate};
    let detectors = [
        Detector::All,
        Detector::Email,
        Detector::Ip,
        Detector::Phone,
        Detector::Card,
        Detector::Iban,
        Detector::Ssn,
    ];
    let any = prop::sample::select(detectors.to_vec());
    let any = (any, prop::sample::select(vec![Drop, Mask, Hash]));
    prop_oneof![4 => any, 1 => Just((Detector::Ip, Truncate))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_that_is_detected_gets_through_at_any_depth_or_encoding(
        document in document(), escapes in prop::collection::vec(any::<bool>(), 64), (detector, mode) in searches(),
    ) {
        let json = written(&document, &mut escapes.into_iter().cycle());
        let redactor = redactor(&[], &[detector], mode);
        let left = redacted(&redactor, &json);
        // As a receiver sees it, who parses it and writes it again.
        let parsed: Value = serde_json::from_str(&left).unwrap();
        let again: Value = serde_json::from_str(&parsed.to_string()).unwrap();
        for seen in [&parsed, &again] {
            let (mut found, mut numbers) = (Vec::new(), Vec::new());
            texts(seen, &mut found, &mut numbers);
            for text in found {
                // A truncated address is one still, and stays as it is.
                prop_assert!(matches!(redactor.clean(text), text::Cleaned::Same), "{text} of {json}");
                let is_clean = redactor.detectors.find(text).is_empty();
                prop_assert!(is_clean || mode == RedactionMode::Truncate, "{text} of {json}");
            }
            for number in numbers {
                let is_card = number.bytes().all(|it| it.is_ascii_digit()) && detect::is_card(number.bytes());
                prop_assert!(!(is_card && redactor.detectors.card()), "{number}");
            }
        }
        // What is clean stays clean, byte for byte.
        prop_assert_eq!(redacted(&redactor, &left), left);
    }

    #[test]
    fn data_without_pii_stays_byte_identical(document in document(), escapes in prop::collection::vec(any::<bool>(), 64)) {
        let json = written(&document, &mut escapes.into_iter().cycle());
        let (mut found, mut numbers) = (Vec::new(), Vec::new());
        texts(&document, &mut found, &mut numbers);
        let is_clean = found.iter().all(|it| Detectors::all().find(it).is_empty()) && numbers.is_empty();
        let redactor = redactor(&[], &[Detector::All], RedactionMode::Mask);
        let left = redactor.payload(&RawJson::parse(json.clone()).unwrap());
        if is_clean {
            prop_assert!(left.is_none());
        }
        // Beside a value, too: the members around it keep their bytes.
        let around = format!(r#"{{"a" : {json},"b":"jane@acme.com", "c":1.50}}"#);
        let left = redacted(&redactor, &around);
        prop_assert!(left.ends_with(r#","b":"j***@acme.com", "c":1.50}"#), "{}", left);
    }
}
