//! Each row of the table, with a request that was signed here by hand, and with what is wrong with others.

use http::{HeaderMap, HeaderName};

use super::*;
use crate::model::Provider;

const NOW: i64 = 1_700_000_000;
const BODY: &[u8] = br#"{"type":"a.b","n":1.50}"#;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
    };
    lines.iter().map(line).collect()
}

fn judged(
    provider: Provider,
    secrets: &[&str],
    lines: &[(&str, &str)],
    body: &[u8],
) -> Result<(), Doubt> {
    let scheme = preset(provider).scheme;
    let keys: Vec<Key> = secrets.iter().map(|it| scheme.key(&Secret::new(*it)).unwrap()).collect();
    let received = Received { headers: &headers(lines), url: "https://a.com/in/x", body };
    scheme.verify(&keys, &received, now())
}

fn sha256(secret: &str, message: &str) -> String {
    hex::encode(Sha256Key::new(secret.as_bytes()).code(&[message.as_bytes()]))
}

fn body() -> &'static str {
    std::str::from_utf8(BODY).unwrap()
}

#[test]
fn stripe_believes_any_of_several_secrets_and_signatures_within_five_minutes() {
    let code = sha256("whsec_new", &format!("{NOW}.{}", body()));
    let old = sha256("whsec_old", &format!("{NOW}.{}", body()));
    let check = |header: &str, secrets: &[&str]| {
        judged(Provider::Stripe, secrets, &[("stripe-signature", header)], BODY)
    };
    let both = ["whsec_new", "whsec_old"];
    assert_eq!(check(&format!("t={NOW},v1={code},v0=ff"), &both), Ok(()));
    assert_eq!(check(&format!("t={NOW},v1=00ff,v1={old}"), &both), Ok(()));
    assert_eq!(check(&format!("t={NOW},v1={old}"), &both[..1]), Err(Doubt::BadSignature));
    assert_eq!(check(&format!("t={NOW},v0={code}"), &both), Err(Doubt::MalformedHeader));
    assert_eq!(check(&format!("v1={code}"), &both), Err(Doubt::MalformedHeader));
    assert_eq!(check(&format!("t={NOW},v1=zz"), &both), Err(Doubt::WrongEncoding));
    for (seconds, expected) in [(300, Ok(())), (301, Err(Doubt::StaleTimestamp))] {
        for time in [NOW - seconds, NOW + seconds] {
            let code = sha256("whsec_new", &format!("{time}.{}", body()));
            assert_eq!(check(&format!("t={time},v1={code}"), &both), expected);
        }
    }
    assert_eq!(judged(Provider::Stripe, &both, &[], BODY), Err(Doubt::MissingHeader));
}

#[test]
fn one_flipped_byte_is_noticed_by_every_keyed_hash() {
    let secret = "s3cret";
    let time = NOW.to_string();
    let sha1 = hex::encode(Sha1Key::new(secret.as_bytes()).code(&[BODY]));
    let base64 = STANDARD.encode(Sha256Key::new(secret.as_bytes()).code(&[BODY]));
    let slack = sha256(secret, &format!("v0:{time}:{}", body()));
    let paddle = sha256(secret, &format!("{time}:{}", body()));
    for (provider, lines) in [
        (
            Provider::Github,
            vec![("x-hub-signature-256", format!("sha256={}", sha256(secret, body())))],
        ),
        (Provider::Shopify, vec![("x-shopify-hmac-sha256", base64)]),
        (Provider::Segment, vec![("x-signature", sha1.clone())]),
        (Provider::Customerio, vec![("x-signature", sha1)]),
        (
            Provider::Slack,
            vec![
                ("x-slack-signature", format!("v0={slack}")),
                ("x-slack-request-timestamp", time.clone()),
            ],
        ),
        (Provider::Paddle, vec![("paddle-signature", format!("ts={time};h1={paddle}"))]),
    ] {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(judged(provider, &["other", secret], &lines, BODY), Ok(()), "{provider:?}");
        let mut flipped = BODY.to_vec();
        flipped[9] ^= 1;
        let found = judged(provider, &["other", secret], &lines, &flipped);
        assert_eq!(found, Err(Doubt::BadSignature), "{provider:?}");
        assert_eq!(judged(provider, &["other"], &lines, BODY), Err(Doubt::BadSignature));
    }
}

/// The examples of Twilio's documentation.
#[test]
fn twilio_signs_url_and_form() {
    let form = b"CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    let headers = headers(&[("x-twilio-signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")]);
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    let key = Scheme::Twilio.key(&Secret::new("12345")).unwrap();
    let check = |url, body| {
        let received = Received { headers: &headers, url, body };
        Scheme::Twilio.verify(std::slice::from_ref(&key), &received, now())
    };
    assert_eq!(check(url, form), Ok(()));
    assert_eq!(check("https://mycompany.com/myapp.php?foo=1", form), Err(Doubt::BadSignature));
    assert_eq!(check(url, &form[1..]), Err(Doubt::BadSignature));
}

#[test]
fn tokens_and_passwords_are_compared_whole() {
    let gitlab =
        |token: &str| judged(Provider::Gitlab, &["s3cret"], &[("x-gitlab-token", token)], BODY);
    assert_eq!(gitlab("s3cret"), Ok(()));
    assert_eq!(gitlab("s3cre"), Err(Doubt::BadSignature));

    let key = Scheme::Basic.key(&Secret::new("ada:s3:cret")).unwrap();
    for (value, expected) in [
        ("Basic YWRhOnMzOmNyZXQ=", Ok(())),
        ("Basic YWRhOng=", Err(Doubt::BadSignature)),
        ("Basic !!!", Err(Doubt::WrongEncoding)),
        ("Bearer x", Err(Doubt::MalformedHeader)),
    ] {
        let headers = headers(&[("authorization", value)]);
        let received = Received { headers: &headers, url: "", body: BODY };
        assert_eq!(Scheme::Basic.verify(std::slice::from_ref(&key), &received, now()), expected);
    }
    assert!(Scheme::Basic.key(&Secret::new("nobody")).is_err());
}

#[test]
fn sendgrid_signs_with_a_key_of_which_we_have_the_public_half() {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    let public = STANDARD.encode([&head, pair.public_key().as_ref()].concat());
    let time = NOW.to_string();
    let signature = pair.sign(&random, &[time.as_bytes(), BODY].concat()).unwrap();
    let signature = STANDARD.encode(signature.as_ref());
    let lines = [
        ("x-twilio-email-event-webhook-signature", signature.as_str()),
        ("x-twilio-email-event-webhook-timestamp", &time),
    ];
    assert_eq!(judged(Provider::Sendgrid, &[&public], &lines, BODY), Ok(()));
    assert_eq!(judged(Provider::Sendgrid, &[&public], &lines, b"[]"), Err(Doubt::BadSignature));
    let scheme = preset(Provider::Sendgrid).scheme;
    assert!(scheme.key(&Secret::new("bm8ga2V5")).is_err());
}

#[test]
fn standard_webhooks_come_under_both_prefixes() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = standard::Key::signing(&Secret::new(secret)).unwrap();
    let mut signature = String::new();
    key.sign_into(&mut signature, "msg_1", NOW, BODY);
    for (provider, prefix) in [(Provider::StandardWebhooks, "webhook"), (Provider::Svix, "svix")] {
        let names = ["id", "timestamp", "signature"].map(|it| format!("{prefix}-{it}"));
        let time = NOW.to_string();
        let lines = [
            (names[0].as_str(), "msg_1"),
            (names[1].as_str(), time.as_str()),
            (names[2].as_str(), signature.as_str()),
        ];
        assert_eq!(judged(provider, &[secret], &lines, BODY), Ok(()));
        assert_eq!(judged(provider, &[secret], &lines, b"{}"), Err(Doubt::BadSignature));
        assert_eq!(judged(provider, &[secret], &lines[1..], BODY), Err(Doubt::MissingHeader));
    }
}

#[test]
fn a_generic_scheme_signs_what_its_template_says() {
    let scheme = HmacScheme {
        algorithm: Algorithm::Sha512,
        header: "x-sig".into(),
        form: Form::default(),
        encoding: Encoding::Base64,
        signed: "{id}|{time}|{body}|{other}".into(),
        time: Some("x-time".into()),
        id: Some("x-id".into()),
    };
    let key = Scheme::Hmac(scheme.clone()).key(&Secret::new("k")).unwrap();
    let message = format!("i7|{NOW}|{}|{{other}}", body());
    let code = STANDARD.encode(key.code(message.as_bytes()));
    let time = NOW.to_string();
    let lines = [("x-sig", code.as_str()), ("x-time", time.as_str()), ("x-id", "i7")];
    let check = |lines: &[(&str, &str)]| {
        let received = Received { headers: &headers(lines), url: "", body: BODY };
        scheme.verify(std::slice::from_ref(&key), &received, now())
    };
    assert_eq!(check(&lines), Ok(()));
    assert_eq!(check(&lines[..2]), Err(Doubt::MissingHeader));
    assert_eq!(check(&[lines[0], lines[1], ("x-id", "i8")]), Err(Doubt::BadSignature));
}
