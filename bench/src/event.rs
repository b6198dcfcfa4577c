//! The event that everyone is measured with: a JSON object of 500 bytes that looks like a sign-up.
//!
//! About half of its payload differs from event to event, as it does in life: an event that were
//! always the same would make every store with compression look better than it is.

/// Bytes of one event as it is posted, whatever fields are in use.
pub const SIZE: usize = 500;

/// Makes the bodies of one run of load.
pub struct Events {
    /// Sets the keys of this run apart from those of others on the same data.
    tag: u64,
    keys: bool,
    /// How many types the events have in turn: `to.0`, `to.1`, …; with one, all are `bench.sent`.
    types: u64,
}

impl Events {
    pub fn new(tag: u64, keys: bool, types: u64) -> Self {
        Self { tag, keys, types: types.max(1) }
    }

    /// The body of event `n`, which is (to be) sent at this moment, in nanoseconds since 1970.
    pub fn body(&self, n: u64, sent_ns: u64) -> String {
        let mut body = String::with_capacity(SIZE);
        match self.types {
            1 => body.push_str("{\"type\":\"bench.sent\","),
            types => body.push_str(&format!("{{\"type\":\"to.{}\",", n % types)),
        }
        if self.keys {
            body.push_str(&format!("\"idempotency_key\":\"{:x}-{n}\",", self.tag));
        }
        body.push_str(&format!(
            "\"payload\":{{\"sent_ns\":{sent_ns},\"n\":{n},\"plan\":\"scale\",\"feature\":\"export\",\
             \"user\":{{\"id\":\"{}\",\"email\":\"{}\",\"country\":\"DE\"}},\
             \"page\":\"https://app.example.com/settings/exports?from=sidebar\",\"trace\":\"",
            user(n % PEOPLE),
            email(n % PEOPLE),
        ));
        let mut state = mix(self.tag.wrapping_add(n));
        while body.len() < SIZE - 3 {
            state = mix(state);
            let left = SIZE - 3 - body.len();
            body.push_str(&format!("{state:016x}")[..left.min(16)]);
        }
        body.push_str("\"}}");
        body
    }
}

/// How many people there are, who send events in turn.
pub const PEOPLE: u64 = 100_003;

/// The id of one of them.
pub fn user(person: u64) -> String {
    format!("usr_{:016x}", mix(person))
}

/// The address of one of them.
pub fn email(person: u64) -> String {
    format!("user{person}@example.com")
}

/// What a delivery's body says about when its event was sent: the number behind `"sent_ns":`. Read
/// without parsing, so that the sink costs as little as it can.
pub fn sent_ns(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"sent_ns\":";
    let start = body.windows(MARK.len()).position(|it| it == MARK)? + MARK.len();
    let digits = body[start..].iter().skip_while(|byte| **byte == b' ');
    let mut value = None;
    for digit in digits.take_while(|byte| byte.is_ascii_digit()).take(19) {
        value = Some(value.unwrap_or(0) * 10 + u64::from(digit - b'0'));
    }
    value
}

/// splitmix64: turns a counter into bits that do not compress.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_json_of_the_same_size_and_carries_its_moment() {
        for (keys, types, n) in [(true, 1, 0), (false, 1, 7), (true, 100, 12_345_678)] {
            let body =
                Events::new(0x18_7a2b_3c4d_5e6f, keys, types).body(n, 1_763_000_000_123_456_789);
            assert_eq!(body.len(), SIZE, "{body}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["payload"]["n"], n);
            assert_eq!(json.get("idempotency_key").is_some(), keys);
            assert_eq!(sent_ns(body.as_bytes()), Some(1_763_000_000_123_456_789));
        }
    }

    #[test]
    fn a_body_without_a_moment_has_none() {
        assert_eq!(sent_ns(b"{\"payload\":{}}"), None);
        assert_eq!(sent_ns(b"{\"sent_ns\":\"soon\"}"), None);
        assert_eq!(sent_ns(b"\"sent_ns\": 12}"), Some(12));
    }
}
