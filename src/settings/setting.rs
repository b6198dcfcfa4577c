//! A value that can be turned off: `false`, or the value.

use std::{fmt, marker::PhantomData, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, IntoDeserializer as _, MapAccess, Unexpected, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};

use crate::model::{Batch, RateLimit};

/// A duration as people write it: `24h`.
pub type Span = humantime_serde::Serde<Duration>;

/// Where a profile has a value that a destination may do without. What is left out has the
/// profile's value; `false` is none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting<T> {
    Off,
    On(T),
}

impl<T> Setting<T> {
    pub fn of(value: Option<T>) -> Self {
        value.map_or(Self::Off, Self::On)
    }

    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

/// A kind of value that can be turned off.
pub trait Switchable: Sized {
    /// What may stand there, for people.
    const EXPECTED: &'static str;
    /// Whether it is written as a map; otherwise as a text.
    const IS_MAP: bool;

    /// What `true` means, if it means anything.
    fn usual() -> Option<Self> {
        None
    }
}

impl Switchable for Span {
    const EXPECTED: &'static str = "`false` or a time such as `24h`";
    const IS_MAP: bool = false;
}

impl Switchable for String {
    const EXPECTED: &'static str = "`false` or a text";
    const IS_MAP: bool = false;
}

impl Switchable for RateLimit {
    const EXPECTED: &'static str = "`false` or `{ events, per }`";
    const IS_MAP: bool = true;
}

impl Switchable for Batch {
    const EXPECTED: &'static str = "`true`, `false` or `{ events, bytes, linger }`";
    const IS_MAP: bool = true;

    fn usual() -> Option<Self> {
        Some(Self::default())
    }
}

impl<T: Serialize> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::On(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Switchable + Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either(PhantomData))
    }
}

struct Either<T>(PhantomData<T>);

impl<'de, T: Switchable + Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = Setting<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Setting<T>, E> {
        match (is_on, T::usual()) {
            (false, _) => Ok(Setting::Off),
            (true, Some(value)) => Ok(Setting::On(value)),
            (true, None) => Err(E::invalid_type(Unexpected::Bool(true), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Setting<T>, E> {
        if T::IS_MAP {
            return Err(E::invalid_type(Unexpected::Str(text), &self));
        }
        let text: StrDeserializer<'_, E> = text.into_deserializer();
        T::deserialize(text).map(Setting::On)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Setting<T>, A::Error> {
        if !T::IS_MAP {
            return Err(de::Error::invalid_type(Unexpected::Map, &self));
        }
        T::deserialize(MapAccessDeserializer::new(map)).map(Setting::On)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;

    #[test]
    fn a_setting_is_false_or_its_value_and_true_where_that_means_something() {
        let batch = from_str::<Setting<Batch>>;
        assert_eq!(batch("false").unwrap(), Setting::Off);
        for text in ["true", "{}"] {
            assert_eq!(batch(text).unwrap(), Setting::On(Batch::default()), "{text}");
        }
        let Setting::On(ten) = batch(r#"{"events":10}"#).unwrap() else { panic!("it is off") };
        assert_eq!((ten.events.get(), ten.linger), (10, Batch::default().linger));
        for text in ["1", "\"on\"", r#"{"size":1}"#] {
            assert!(batch(text).is_err(), "{text}");
        }
        let span = from_str::<Setting<Span>>;
        assert_eq!(to_string(&span("\"24h\"").unwrap()).unwrap(), "\"1day\"");
        assert_eq!(to_string(&span("false").unwrap()).unwrap(), "false");
        for text in ["true", "\"soon\"", "{}", "5"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
