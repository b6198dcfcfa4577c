//! JSON that parsers and writers disagree about.

use crate::simulation::chance::Chance;

/// Payloads on which receivers that parse and write again go wrong, each an object.
pub const PAYLOADS: [&str; 14] = [
    r#"{ "amount" : 1.50, "one": 1.0, "thousand":1e3 , "E":1E+3 }"#,
    r#"{"large":1e21,"small":1e-7,"plain":1e20,"zero":-0,"none":-0.0}"#,
    r#"{"id":12345678901234567890,"edge":9007199254740993,"float":0.1000000000000000055511151231257827}"#,
    r#"{"inf":1e400,"tiny":1e-400,"least":5e-324,"most":1.7976931348623157e308}"#,
    r#"{"b":1,"10":2,"9":3,"a":4,"4294967294":5,"4294967295":6,"01":7,"0":8,"-1":9}"#,
    "{\"raw\":\"\u{2028}\u{2029}\u{7f}ü😀\",\"escaped\":\"\\u2028\\u2029\\u007f\\u00fc\\ud83d\\ude00\"}",
    r#"{"high":"\ud83d","low":"\ude00 \uDE00","turned":"\ude00\ud83d","cut":"\ud83dx\ud83d\ud83d\ude00"}"#,
    r#"{"\ud83d":1,"\uD83D":2,"x":3}"#,
    r#"{"a":1,"b":2,"a":{"a":1,"a":2},"5":1,"5":2,"\u0061":[3]}"#,
    r#"{"slash":"\/ /","quote":"\"\u0022","back":"\\\u005c","control":"\u0000\u001F\u0008\b\t\n\f\r"}"#,
    r#"{"__proto__":{"x":1},"constructor":2,"toString":3,"":4,"length":5}"#,
    r#"{"deep":[[[[{"z":{"1":[],"0":{}}}]]]],"null":null,"yes":true,"no":false}"#,
    "{\t\"a\"\r\n:\n[ 1 ,\t2 , { } , [ ] ] }",
    r#"{"type":"track","version":2,"userId":"u1","event":"Paid","properties":{"revenue":39.950}}"#,
];

/// An object that nobody wrote by hand. The same seed gives the same one.
pub fn object(seed: u64) -> String {
    let mut text = String::new();
    fields(&mut Chance::new(seed), 4, &mut text);
    text
}

fn pick<'a>(chance: &mut Chance, from: &[&'a str]) -> &'a str {
    from[chance.size(0, from.len() - 1)]
}

fn value(chance: &mut Chance, levels: u32, out: &mut String) {
    match chance.between(0, if levels == 0 { 5 } else { 8 }) {
        0..3 => number(chance, out),
        3 | 4 => text(chance, out),
        5 => out.push_str(pick(chance, &["null", "true", "false"])),
        6 => {
            out.push('[');
            for place in 0..chance.between(0, 4) {
                if place > 0 {
                    out.push(',');
                }
                space(chance, out);
                value(chance, levels - 1, out);
            }
            space(chance, out);
            out.push(']');
        }
        _ => fields(chance, levels - 1, out),
    }
}

fn fields(chance: &mut Chance, levels: u32, out: &mut String) {
    out.push('{');
    let count = if chance.happens(5) { 40 } else { chance.between(0, 6) };
    for place in 0..count {
        if place > 0 {
            out.push(',');
        }
        space(chance, out);
        key(chance, out);
        space(chance, out);
        out.push(':');
        space(chance, out);
        value(chance, levels, out);
    }
    space(chance, out);
    out.push('}');
}

fn space(chance: &mut Chance, out: &mut String) {
    if chance.happens(20) {
        out.push_str(pick(chance, &[" ", "\t", "\r\n", "  "]));
    }
}

fn key(chance: &mut Chance, out: &mut String) {
    const ODD: [&str; 20] = [
        "0",
        "1",
        "2",
        "10",
        "9",
        "01",
        "-1",
        "-0",
        "1.5",
        "4294967293",
        "4294967294",
        "4294967295",
        "4294967296",
        "9007199254740993",
        "99999999999999999999",
        "__proto__",
        "a",
        "b",
        "",
        "\\u0061",
    ];
    match chance.between(0, 3) {
        0 | 1 => *out += &format!("\"{}\"", pick(chance, &ODD)),
        2 => *out += &format!("\"{}\"", chance.between(0, 300)),
        _ => text(chance, out),
    }
}

fn number(chance: &mut Chance, out: &mut String) {
    let digits = |chance: &mut Chance, most| {
        let count = chance.size(1, most);
        let mut digits: String =
            (0..count).map(|_| char::from(b'0' + chance.between(0, 9) as u8)).collect();
        if digits.starts_with('0') {
            digits.replace_range(..1, "1");
        }
        digits
    };
    if chance.happens(30) {
        let odd = [
            "-0",
            "-0.0",
            "0e5",
            "1e21",
            "1e20",
            "1e-6",
            "1e-7",
            "1e400",
            "-1e400",
            "5e-324",
            "2.2250738585072011e-308",
            "1.7976931348623159e308",
            "9007199254740993",
            "0.1",
            "123456789012345678901234567890",
            "1.50",
            "999999999999999",
            "1000000000000000",
        ];
        return out.push_str(pick(chance, &odd));
    }
    if chance.happens(20) {
        // Any bits are a double; those that are no number become one.
        let float = f64::from_bits(chance.bits());
        let float = if float.is_finite() { float } else { 0.5 };
        *out += &if chance.happens(50) { format!("{float:e}") } else { format!("{float}") };
        return;
    }
    if chance.happens(30) {
        out.push('-');
    }
    *out += &digits(chance, 22);
    if chance.happens(40) {
        *out += &format!(".{}", digits(chance, 20));
    }
    if chance.happens(30) {
        let sign = pick(chance, &["", "+", "-"]);
        *out += &format!("{}{sign}{}", pick(chance, &["e", "E"]), chance.between(0, 330));
    }
}

fn text(chance: &mut Chance, out: &mut String) {
    out.push('"');
    for _ in 0..chance.between(0, 8) {
        match chance.between(0, 6) {
            0 => out.push_str(pick(
                chance,
                &["ü", "\u{2028}", "\u{2029}", "😀", "\u{7f}", "\u{ffff}", "/"],
            )),
            1 => out.push_str(pick(
                chance,
                &["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"],
            )),
            2 => *out += &format!("\\u{:04x}", chance.between(0, 0x7f)),
            3 => *out += &format!("\\u{:04X}", chance.between(0, 0xffff)),
            4 => *out += &format!("\\u{:04x}", chance.between(0xd800, 0xdfff)),
            5 => {
                let (high, low) = (chance.between(0xd800, 0xdbff), chance.between(0xdc00, 0xdfff));
                *out += &format!("\\u{high:04x}\\u{low:04X}");
            }
            _ => out.push_str(pick(chance, &["a", "Z", "0", " ", "{", "]", ","])),
        }
    }
    out.push('"');
}
