//! An object as its fields, each as the bytes in which it came.

use std::{borrow::Cow, collections::HashMap};

use super::{
    RawJson,
    scan::{self, Unreadable},
    text,
};

/// Up to here, names are compared one after the other.
const FEW: usize = 24;

/// One field: the last of its name, where the first of it stood.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    /// What the name stands for; see [`text::name`].
    pub name: Cow<'a, [u8]>,
    /// What stands between the quotes of the name.
    pub inner: &'a [u8],
    pub value: &'a [u8],
}

/// The fields of an object, each name once. A name that stands there twice has its last value, as in
/// ECMAScript and in nearly everything that reads JSON.
#[derive(Debug, Default)]
pub struct Object<'a> {
    fields: Vec<Field<'a>>,
    places: Option<HashMap<Cow<'a, [u8]>, usize>>,
}

impl<'a> Object<'a> {
    /// Of JSON that is an object; anything else is an error.
    pub fn read(json: &'a [u8]) -> Result<Self, Unreadable> {
        Ok(Self::of(&scan::fields(json)?))
    }

    /// Of an object that was taken apart.
    pub fn of(all: &[scan::NameAndValue<'a>]) -> Self {
        let mut object = Self { fields: Vec::with_capacity(all.len()), places: None };
        if all.len() > FEW {
            object.places = Some(HashMap::with_capacity(all.len()));
        }
        for (inner, value) in all {
            let name = text::name(inner);
            match object.place(&name) {
                Some(place) => {
                    (object.fields[place].inner, object.fields[place].value) = (inner, value)
                }
                None => {
                    if let Some(places) = &mut object.places {
                        places.insert(name.clone(), object.fields.len());
                    }
                    object.fields.push(Field { name, inner, value });
                }
            }
        }
        object
    }

    fn place(&self, name: &[u8]) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(name).copied(),
            None => self.fields.iter().position(|it| *it.name == *name),
        }
    }

    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.named(name.as_bytes())
    }

    /// By the bytes of a name, which may be no text.
    pub fn named(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.place(name).map(|it| self.fields[it].value)
    }

    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    pub fn into_fields(self) -> Vec<Field<'a>> {
        self.fields
    }
}

/// The value at a path of names. `None` where there is none; what is no JSON is an error.
pub fn value_at<'a>(json: &'a [u8], path: &[&str]) -> Result<Option<&'a [u8]>, Unreadable> {
    let mut here = json;
    for name in path {
        if !is_object(here) {
            return Ok(None);
        }
        let fields = scan::fields(here)?;
        let Some((_, value)) = fields.iter().rev().find(|it| text::is(it.0, name)) else {
            return Ok(None);
        };
        here = value;
    }
    Ok(Some(here))
}

pub fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

/// Writes an object field by field.
pub struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.push(b'{');
        Self(out)
    }

    /// A field as it came: `inner` stands between the quotes of its name.
    pub fn raw(&mut self, inner: &[u8], value: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(inner);
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(value);
    }

    /// A field of ours, whose name has nothing that would be escaped.
    pub fn field(&mut self, name: &'static str, value: &[u8]) {
        self.raw(name.as_bytes(), value);
    }

    pub fn text(&mut self, name: &'static str, value: &str) {
        self.field(name, RawJson::of(value).bytes());
    }

    pub fn finish(mut self) -> RawJson {
        self.0.push(b'}');
        RawJson::trusted(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_nothing_beside_it() {
        let json = br#"{"a":1,"\ud800":2,"\u0061":3,"\ud801":1e400,"b":{"\udfff":4,"c":5}}"#;
        let object = Object::read(json).unwrap();
        assert_eq!((object.get("a"), object.fields().len()), (Some(&b"3"[..]), 4));
        assert_eq!(object.get("\u{fffd}"), None);
        assert_eq!(value_at(json, &["b", "c"]), Ok(Some(&b"5"[..])));
        assert_eq!(value_at(json, &["b", "x"]), Ok(None));
        assert_eq!(value_at(json, &["a", "c"]), Ok(None));
        assert_eq!(value_at(b"{\"a\"", &["a"]), Err(Unreadable));
    }

    #[test]
    fn the_last_of_a_name_counts_among_few_and_among_many() {
        for count in [2, 200] {
            let fields = |value: usize| {
                let each = (0..count).map(|it| format!("\"k{it}\":{value}"));
                each.collect::<Vec<_>>().join(",")
            };
            let json = format!("{{{},{}}}", fields(1), fields(2));
            let object = Object::read(json.as_bytes()).unwrap();
            assert_eq!(object.fields().len(), count);
            assert!(object.fields().iter().all(|it| it.value == b"2"));
            assert_eq!(object.get("k1"), Some(&b"2"[..]));
        }
    }
}
