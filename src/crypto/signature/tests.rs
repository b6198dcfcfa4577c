//! Our signatures against vectors that others published.

use super::{prefixed, segment, stamped, standard::*, *};
use crate::{
    crypto::{
        mac::Sha1Key,
        random::{Random, SeededRandom},
    },
    model::Secret,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SECONDS: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const PRIVATE: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const SIGNED_ASYMMETRIC: &str =
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

fn key(secret: &str) -> Key {
    Key::verifying(&Secret::new(secret)).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn signed(secrets: &[&str], id: &str, seconds: i64, body: &[u8]) -> String {
    let mut header = String::new();
    for secret in secrets {
        let key = Key::signing(&Secret::new(*secret)).unwrap();
        key.sign_into(&mut header, id, seconds, body);
    }
    header
}

#[test]
fn standard_signatures_are_those_of_the_other_libraries() {
    // From the test suites of the JavaScript (first), Rust (third) and Svix (fourth) libraries; the
    // second row is the first without its prefix.
    for (secret, id, seconds, body, expected) in [
        (SECRET, ID, SECONDS, BODY, SIGNED),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ID, SECONDS, BODY, SIGNED),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            br#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (PRIVATE, ID, SECONDS, BODY, SIGNED_ASYMMETRIC),
    ] {
        assert_eq!(signed(&[secret], id, seconds, body), expected);
        let text = seconds.to_string();
        let headers = Headers { id, timestamp: &text, signature: expected };
        assert_eq!(verify(&[key(secret)], headers, body, at(seconds)), Ok(()));
    }
    assert_eq!(key(PRIVATE).public_text().as_deref(), Some(PUBLIC));
    assert_eq!(key(SECRET).public_text(), None);
}

#[test]
fn other_schemes_agree_with_published_and_recomputed_codes() {
    let secret = Secret::new("It's a Secret to Everybody");
    // GitHub's documentation.
    assert_eq!(
        prefixed::sign(&prefixed::Key::new(&secret).unwrap(), b"Hello, World!"),
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    );
    // Slack's documentation: the same code over `v0:timestamp:body`.
    let slack = b"v0:1531420618:token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let key = prefixed::Key::new(&Secret::new("8f742231b10e8888abcd99yyyzzz85a5")).unwrap();
    assert_eq!(
        prefixed::sign(&key, slack),
        "sha256=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    );
    // Twilio's SDK: HMAC-SHA1 over the URL and its sorted parameters, `RSOYDt4T1cUTdK1PDd93/VVr8B8=`.
    let twilio = b"https://mycompany.com/myapp.php?foo=1&bar=2CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212";
    assert_eq!(
        hex::encode(Sha1Key::new(b"12345").code(&[twilio])),
        "4523980ede13d5c51374ad4f0ddf77fd556bf01f"
    );
    // Recomputed with Python's `hmac`.
    let keys: Vec<_> = ["whsec_test_secret", "old"]
        .map(|it| stamped::Key::new(&Secret::new(it)).unwrap())
        .to_vec();
    assert_eq!(
        stamped::sign(&keys, SECONDS, BODY),
        "t=1614265330,v1=10c96c6fd3f320fcfc264cdc4f476c15060ede8e8a08404cea2ddf3b72544a9c,v1=3f3b655bf3f243d281b5523c13e9190e90ada7e4e3b82f0294cf1f8f98e79544"
    );
    let key = segment::Key::new(&Secret::new("shared")).unwrap();
    assert_eq!(segment::sign(&key, BODY), "fd29f8c74ebe4b38bca49c6fe50792788aa4accb");
}

#[test]
fn standard_signatures_are_refused_for_the_right_reason() {
    use VerifyError::{Malformed, Mismatch, MissingHeader, TooNew, TooOld};
    let good = (ID, "1614265330", SIGNED);
    let rotated = format!("v1,AAAA v2,abc {SIGNED}");
    for ((id, timestamp, signature), late, expected) in [
        (good, 0, Ok(())),
        (good, 300, Ok(())),
        (good, 301, Err(TooOld)),
        (good, -300, Ok(())),
        (good, -301, Err(TooNew)),
        (("", good.1, good.2), 0, Err(MissingHeader(standard::ID))),
        ((ID, "", good.2), 0, Err(MissingHeader(TIMESTAMP))),
        ((ID, good.1, ""), 0, Err(MissingHeader(SIGNATURE))),
        ((ID, "soon", good.2), 0, Err(Malformed(TIMESTAMP))),
        ((ID, "1614265330.5", good.2), 0, Err(Malformed(TIMESTAMP))),
        ((ID, "-1614265330", good.2), 0, Err(Malformed(TIMESTAMP))),
        ((ID, "+1614265330", good.2), 0, Err(Malformed(TIMESTAMP))),
        ((ID, "99999999999999999999", good.2), 0, Err(Malformed(TIMESTAMP))),
        (("msg_other", good.1, good.2), 0, Err(Mismatch)),
        ((ID, "1614265331", good.2), 0, Err(Mismatch)),
        ((ID, good.1, "v1,"), 0, Err(Mismatch)),
        ((ID, good.1, "v1,g0hM9SsE"), 0, Err(Mismatch)),
        ((ID, good.1, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), 0, Err(Mismatch)),
        ((ID, good.1, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), 0, Err(Mismatch)),
        ((ID, good.1, "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), 0, Err(Mismatch)),
        ((ID, good.1, SIGNED_ASYMMETRIC), 0, Err(Mismatch)),
        ((ID, good.1, &rotated), 0, Ok(())),
    ] {
        let headers = Headers { id, timestamp, signature };
        let found = verify(&[key(SECRET)], headers, BODY, at(SECONDS + late));
        assert_eq!(found, expected, "{id} {timestamp} {signature} {late} s late");
    }
    let headers = Headers { id: ID, timestamp: "1614265330", signature: SIGNED };
    assert_eq!(verify(&[key(SECRET)], headers, b"{}", at(SECONDS)), Err(Mismatch));
    assert_eq!(verify(&[], headers, BODY, at(SECONDS)), Err(Mismatch));
}

#[test]
fn other_schemes_are_refused_for_the_right_reason() {
    use VerifyError::{Malformed, Mismatch, MissingHeader, TooNew, TooOld};
    let stamped_key = stamped::Key::new(&Secret::new("whsec_test_secret")).unwrap();
    let code = "10c96c6fd3f320fcfc264cdc4f476c15060ede8e8a08404cea2ddf3b72544a9c";
    for (header, late, expected) in [
        (format!("t=1614265330,v1={code}"), 0, Ok(())),
        (format!("t=1614265330, v0=old, v1=00, v1={}", code.to_uppercase()), 0, Ok(())),
        (format!("t=1614265330,v1={code}"), 301, Err(TooOld)),
        (format!("t=1614265330,v1={code}"), -301, Err(TooNew)),
        (format!("t=1614265330,v0={code}"), 0, Err(Mismatch)),
        ("t=1614265330".to_owned(), 0, Err(Mismatch)),
        (format!("v1={code}"), 0, Err(Malformed("signature"))),
        (format!("t=,v1={code}"), 0, Err(Malformed("signature"))),
        (String::new(), 0, Err(MissingHeader("signature"))),
    ] {
        let keys = std::slice::from_ref(&stamped_key);
        let found = stamped::verify(keys, &header, BODY, at(SECONDS + late));
        assert_eq!(found, expected, "{header}");
    }

    let secret = Secret::new("shared");
    let [other, key] =
        [Secret::new("x"), secret.clone()].map(|it| prefixed::Key::new(&it).unwrap());
    let header = prefixed::sign(&key, BODY);
    assert_eq!(prefixed::verify(&[other, key.clone()], &header, BODY), Ok(()));
    assert_eq!(prefixed::verify(std::slice::from_ref(&key), &header, b""), Err(Mismatch));
    assert_eq!(
        prefixed::verify(std::slice::from_ref(&key), "", BODY),
        Err(MissingHeader("signature"))
    );
    assert_eq!(prefixed::verify(&[key], "sha1=ab", BODY), Err(Malformed("signature")));

    let key = segment::Key::new(&secret).unwrap();
    let header = segment::sign(&key, BODY);
    assert_eq!(segment::verify(std::slice::from_ref(&key), &header, BODY), Ok(()));
    assert_eq!(segment::verify(&[key], &header[..38], BODY), Err(Mismatch));
}

#[test]
fn an_empty_body_and_several_keys_are_signed() {
    let random = SeededRandom::new(3);
    let [old, new] = [new_secret(&random), new_private_key(&random)];
    let header = signed(&[old.expose(), new.expose()], ID, SECONDS, b"");
    assert_eq!(header.split(' ').count(), 2);
    let public = key(new.expose()).public_text().unwrap();
    for secret in [old.expose(), &public] {
        let headers = Headers { id: ID, timestamp: "1614265330", signature: &header };
        assert_eq!(verify(&[key(secret)], headers, b"", at(SECONDS)), Ok(()));
    }
}

#[test]
fn secrets_are_taken_with_or_without_padding_and_refused_when_unusable() {
    let unpadded = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDAA";
    let padded = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDAA==";
    assert_eq!(signed(&[unpadded], ID, SECONDS, BODY), signed(&[padded], ID, SECONDS, BODY));

    for (secret, expected) in [
        ("", SecretError::Empty),
        ("whsec_", SecretError::Empty),
        ("whsk_", SecretError::Empty),
        ("whsec_not base64!", SecretError::NotBase64),
        ("whsec_c2hvcnQ=", SecretError::Length),
        ("whsk_c2hvcnQ=", SecretError::NotEd25519),
        (PUBLIC, SecretError::Public),
    ] {
        assert_eq!(Key::signing(&Secret::new(secret)).err(), Some(expected), "{secret}");
    }
    assert_eq!(stamped::Key::new(&Secret::new("")).err(), Some(SecretError::Empty));
}

#[test]
fn new_secrets_hold_32_random_bytes_in_padded_base64() {
    let random: &dyn Random = &SeededRandom::new(3);
    let [one, two] = [new_secret(random), new_secret(random)];
    assert_ne!(one, two);
    assert_eq!(one.expose().len(), "whsec_".len() + 44);
    assert!(one.expose().ends_with('=') && Key::signing(&one).is_ok());
    assert!(Key::signing(&new_private_key(random)).is_ok());
}
