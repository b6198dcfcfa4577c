//! What a delivery carries that differs from its event.

use bytes::Bytes;

use super::{RawJson, TypeName};

/// The parts of an event that steps changed for one delivery. What is `None` is the event's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Altered {
    pub event_type: Option<TypeName>,
    pub payload: Option<RawJson>,
    /// An object.
    pub metadata: Option<RawJson>,
    /// Which of several messages this is that a step made of one event, from 1. It is part of the
    /// message id, and stays with every replay of the delivery.
    pub part: Option<u16>,
}

/// No JSON begins with it, so that the payload alone needs no frame.
const FRAMED: u8 = 1;
const TYPE: u8 = 1;
const PAYLOAD: u8 = 2;
const METADATA: u8 = 4;

impl Altered {
    /// Another payload, and nothing else.
    pub fn payload(payload: RawJson) -> Self {
        Self { payload: Some(payload), ..Self::default() }
    }

    /// What it weighs in memory, roughly.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 112;
        let json = |it: &Option<RawJson>| it.as_ref().map_or(0, |it| it.bytes().len());
        FIXED + json(&self.payload) + json(&self.metadata)
    }

    /// The form in which every store keeps it: a payload alone is its own bytes, and everything else is
    /// `1`, the parts that are there as bits, the part's number in two bytes (0: none), and each
    /// part behind its length in four bytes. Numbers are little-endian.
    pub fn to_bytes(&self) -> Bytes {
        let Self { event_type, payload, metadata, part } = self;
        if let (None, Some(payload), None, None) = (event_type, payload, metadata, part) {
            return payload.bytes().clone();
        }
        let parts = [
            (TYPE, event_type.as_ref().map(|it| it.as_str().as_bytes())),
            (PAYLOAD, payload.as_ref().map(|it| &it.bytes()[..])),
            (METADATA, metadata.as_ref().map(|it| &it.bytes()[..])),
        ];
        let mut bytes = vec![FRAMED, 0];
        bytes.extend(part.unwrap_or(0).to_le_bytes());
        for (bit, part) in parts {
            let Some(part) = part else { continue };
            bytes[1] |= bit;
            // Bodies have at most some megabytes.
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.into()
    }

    /// What [`Self::to_bytes`] wrote; `None` when it is damaged.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Option<Self> {
        let bytes = bytes.into();
        if *bytes.first()? != FRAMED {
            return Some(Self::payload(RawJson::trusted(bytes)));
        }
        let (&[_, bits, low, high], _) = bytes.split_first_chunk::<4>()?;
        let mut at = 4;
        let mut next = |bit: u8| -> Option<Option<Bytes>> {
            if bits & bit == 0 {
                return Some(None);
            }
            let length = bytes.get(at..at + 4)?.first_chunk::<4>().copied()?;
            let from = at + 4;
            at = from + u32::from_le_bytes(length) as usize;
            (at <= bytes.len()).then(|| Some(bytes.slice(from..at)))
        };
        let event_type = match next(TYPE)? {
            Some(bytes) => Some(TypeName::trusted(std::str::from_utf8(&bytes).ok()?)),
            None => None,
        };
        let payload = next(PAYLOAD)?.map(RawJson::trusted);
        let metadata = next(METADATA)?.map(RawJson::trusted);
        let part = Some(u16::from_le_bytes([low, high])).filter(|it| *it > 0);
        (at == bytes.len()).then_some(Self { event_type, payload, metadata, part })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &'static str) -> Option<RawJson> {
        Some(RawJson::trusted(text))
    }

    #[test]
    fn it_comes_back_from_its_bytes_and_a_payload_alone_costs_no_frame() {
        let event_type: Option<TypeName> = Some(TypeName::trusted("a.b"));
        for altered in [
            Altered::payload(RawJson::trusted("[1.50]")),
            Altered::payload(RawJson::NULL),
            Altered { metadata: json("{}"), ..Altered::default() },
            Altered { event_type: event_type.clone(), ..Altered::default() },
            Altered { part: Some(1024), payload: json("1"), ..Altered::default() },
            Altered { event_type, payload: json("null"), metadata: json("{}"), part: Some(1) },
            Altered::default(),
        ] {
            assert_eq!(Altered::from_bytes(altered.to_bytes()), Some(altered));
        }
        let payload = RawJson::trusted("[1.50]");
        assert_eq!(Altered::payload(payload.clone()).to_bytes(), payload.bytes());
    }

    #[test]
    fn damaged_bytes_are_nothing_and_never_a_panic() {
        let whole = Altered {
            event_type: Some(TypeName::trusted("a.b")),
            payload: json("{}"),
            metadata: json("{}"),
            part: None,
        }
        .to_bytes();
        for length in 0..whole.len() {
            assert_eq!(Altered::from_bytes(whole.slice(..length)), None, "{length}");
        }
        assert_eq!(Altered::from_bytes([&whole[..], b"x"].concat()), None);
    }
}
