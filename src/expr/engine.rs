//! The engine with our operators and limits: no loader, no files, no clock, and an end to everything.

use std::{fmt::Write as _, io, sync::LazyLock};

use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, filters, functions,
    syntax::SyntaxConfig,
    tests,
    value::{Kwargs, Rest, Value, ValueKind},
};

use super::{
    compare,
    costs::{self, pay_for, spend},
    json,
};

/// Instructions that one evaluation may take.
const FUEL: u64 = 20_000;
/// The longest text that an expression or a template can make.
pub(super) const LONGEST: usize = 1024 * 1024;

pub(super) const FILTERS: [&str; 35] = [
    "abs",
    "attr",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "urlencode",
];
pub(super) const TESTS: [&str; 27] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
];

pub(super) static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Chainable);
    engine.set_fuel(Some(FUEL));
    engine.set_recursion_limit(64);
    engine.set_formatter(print);
    // A template prints what it says, its last line end included.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        engine.set_syntax(syntax);
    }
    add_filters(&mut engine);
    costs::add_list_filters(&mut engine);
    add_operators(&mut engine);
    add_tests(&mut engine);
    engine.add_function("range", functions::range);
    engine
});

fn add_filters(engine: &mut Environment<'_>) {
    engine.add_filter("abs", filters::abs);
    engine.add_filter("attr", filters::attr);
    engine.add_filter("bool", filters::bool);
    engine.add_filter("capitalize", filters::capitalize);
    engine.add_filter("count", filters::length);
    engine.add_filter("d", filters::default);
    engine.add_filter("default", filters::default);
    engine.add_filter("first", filters::first);
    engine.add_filter("float", filters::float);
    engine.add_filter("int", filters::int);
    engine.add_filter("items", filters::items);
    engine.add_filter("join", join);
    engine.add_filter("last", filters::last);
    engine.add_filter("length", filters::length);
    engine.add_filter("list", filters::list);
    engine.add_filter("lower", filters::lower);
    engine.add_filter("max", filters::max);
    engine.add_filter("min", filters::min);
    engine.add_filter("replace", replace);
    engine.add_filter("reverse", filters::reverse);
    engine.add_filter("round", filters::round);
    engine.add_filter("split", filters::split);
    engine.add_filter("string", text);
    engine.add_filter("sum", filters::sum);
    engine.add_filter("title", filters::title);
    engine.add_filter("tojson", to_json);
    engine.add_filter("trim", filters::trim);
    engine.add_filter("urlencode", url_encode);
}

fn add_operators(engine: &mut Environment<'_>) {
    engine.add_filter("__used", used);
    engine.add_filter("__add", add);
    engine.add_filter("__concat", |left: &Value, right: &Value| {
        let mut joined = text(left)?;
        joined.push_str(&text(right)?);
        limited(joined)
    });
    engine.add_filter("__sub", |left: &Value, right: &Value| {
        calculate("-", left, right, i128::checked_sub, |left, right| left - right)
    });
    engine.add_filter("__mul", |left: &Value, right: &Value| {
        calculate("*", left, right, i128::checked_mul, |left, right| left * right)
    });
    engine.add_filter("__div", |left: &Value, right: &Value| {
        calculate("/", left, right, |_, _| None, |left, right| left / right)
    });
    engine.add_filter("__floordiv", |left: &Value, right: &Value| {
        let whole = |left, right| floored(left, right).map(|it| it.0);
        calculate("//", left, right, whole, |left, right| (left / right).floor())
    });
    engine.add_filter("__rem", |left: &Value, right: &Value| {
        let whole = |left, right| floored(left, right).map(|it| it.1);
        calculate("%", left, right, whole, |left, right| left - right * (left / right).floor())
    });
    engine.add_filter("__pow", |left: &Value, right: &Value| {
        let whole = |left: i128, right: i128| left.checked_pow(u32::try_from(right).ok()?);
        calculate("**", left, right, whole, f64::powf)
    });
}

fn add_tests(engine: &mut Environment<'_>) {
    engine.add_test("boolean", tests::is_boolean);
    engine.add_test("defined", tests::is_defined);
    engine.add_test("divisibleby", tests::is_divisibleby);
    engine.add_test("even", tests::is_even);
    engine.add_test("false", tests::is_false);
    engine.add_test("float", tests::is_float);
    engine.add_test("integer", tests::is_integer);
    engine.add_test("iterable", tests::is_iterable);
    engine.add_test("lower", tests::is_lower);
    engine.add_test("mapping", tests::is_mapping);
    engine.add_test("none", tests::is_none);
    engine.add_test("number", tests::is_number);
    engine.add_test("odd", tests::is_odd);
    engine.add_test("sequence", tests::is_sequence);
    engine.add_test("string", tests::is_string);
    engine.add_test("true", tests::is_true);
    engine.add_test("undefined", tests::is_undefined);
    engine.add_test("startingwith", |value: &Value, start: &Value| {
        value.as_str().zip(start.as_str()).is_some_and(|(value, start)| value.starts_with(start))
    });
    engine.add_test("endingwith", |value: &Value, end: &Value| {
        value.as_str().zip(end.as_str()).is_some_and(|(value, end)| value.ends_with(end))
    });
    // Under their operators' names they serve `select("==", 1)`.
    for (name, names) in [
        ("eq", &["__eq", "eq", "equalto", "=="][..]),
        ("ne", &["__ne", "ne", "!="]),
        ("lt", &["__lt", "lt", "lessthan", "<"]),
        ("le", &["__le", "le", "<="]),
        ("gt", &["__gt", "gt", "greaterthan", ">"]),
        ("ge", &["__ge", "ge", ">="]),
        ("in", &["__in", "in"]),
    ] {
        for other in names {
            engine.add_test(*other, move |left: &Value, right: &Value| {
                compare::holds(name, left, right)
            });
        }
    }
    engine.add_test("__chain", |first: &Value, rest: Rest<Value>| {
        let mut left = first.clone();
        for pair in rest.chunks_exact(2) {
            if !compare::holds(pair[0].as_str().unwrap_or_default(), &left, &pair[1])? {
                return Ok(false);
            }
            left = pair[1].clone();
        }
        Ok::<_, Error>(true)
    });
}

/// Passes a value on and pays for what a filter may do with it.
fn used(value: Value) -> Result<Value, Error> {
    pay_for(&value)?;
    Ok(value)
}

fn limited(text: String) -> Result<String, Error> {
    spend(text.len())?;
    if text.len() > LONGEST { Err(too_long()) } else { Ok(text) }
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidOperation, "the text is longer than 1 MiB")
}

/// A value as people read it: a missing value and null are nothing, and a list or an object is JSON.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(String::new()),
        ValueKind::Bool | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            let mut out = Vec::new();
            json::write(value, &mut out);
            limited(String::from_utf8(out).unwrap_or_default())
        }
        _ => Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
    }
}

fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&text(value)?),
    };
    written.map_err(Error::from)
}

/// Everything but the unreserved characters of RFC 3986 §2.3 as `%XX`: safe in a query and in a form's body.
fn url_encode(value: &Value) -> Result<String, Error> {
    let text = text(value)?;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    limited(out)
}

fn to_json(value: &Value) -> Result<String, Error> {
    let mut out = Vec::new();
    json::write(value, &mut out);
    limited(String::from_utf8(out).unwrap_or_default())
}

fn replace(value: &Value, from: &str, to: &str) -> Result<String, Error> {
    let value = text(value)?;
    let count = value.matches(from).count();
    if count.saturating_mul(to.len()) > LONGEST {
        return Err(too_long());
    }
    limited(value.replace(from, to))
}

fn join(value: &Value, separator: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let attribute: Option<&str> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let mut joined = String::new();
    for (place, item) in value.try_iter()?.enumerate() {
        if place > 0 {
            joined.push_str(separator.unwrap_or_default());
        }
        let item = match attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        joined.push_str(&text(&item)?);
        if joined.len() > LONGEST {
            return Err(too_long());
        }
    }
    limited(joined)
}

/// Numbers, texts, or lists.
fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    let is_list = |it: &Value| matches!(it.kind(), ValueKind::Seq | ValueKind::Iterable);
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return limited([left, right].concat()).map(Value::from);
    }
    if is_list(left) && is_list(right) {
        let items: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).collect();
        spend(items.len() * size_of::<Value>())?;
        return Ok(Value::from(items));
    }
    calculate("+", left, right, i128::checked_add, |left, right| left + right)
}

/// Quotient and remainder; the remainder has the sign of the divisor.
fn floored(left: i128, right: i128) -> Option<(i128, i128)> {
    let (quotient, remainder) = (left.checked_div(right)?, left.checked_rem(right)?);
    if remainder != 0 && (remainder < 0) != (right < 0) {
        return Some((quotient - 1, remainder + right));
    }
    Some((quotient, remainder))
}

/// Whole numbers stay exact where `whole` has an answer; all else is done with floats.
fn calculate(
    sign: &str,
    left: &Value,
    right: &Value,
    whole: impl Fn(i128, i128) -> Option<i128>,
    float: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let impossible = |why: String| Error::new(ErrorKind::InvalidOperation, why);
    if !left.is_number() || !right.is_number() {
        let (left, right) = (left.kind(), right.kind());
        return Err(impossible(format!("`{sign}` takes numbers, not {left} and {right}")));
    }
    if left.is_integer()
        && right.is_integer()
        && let (Ok(left), Ok(right)) = (i128::try_from(left.clone()), i128::try_from(right.clone()))
        && let Some(result) = whole(left, right)
    {
        return Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    let number = |it: &Value| f64::try_from(it.clone());
    let result = float(number(left)?, number(right)?);
    if result.is_finite() {
        Ok(Value::from(result))
    } else {
        Err(impossible(format!("`{sign}` has no result for these numbers")))
    }
}

/// Takes what a template prints, up to [`LONGEST`] bytes.
pub(super) struct Printed(pub Vec<u8>);

impl io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
