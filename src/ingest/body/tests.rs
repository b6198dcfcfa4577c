//! Bodies are read whole, inflated, and never larger than they may be.

use axum::{body::Body, http::HeaderValue};

use super::{super::body_budget::BodyBudget, *};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

async fn read_as(
    encoding: &'static str,
    body: Vec<u8>,
    limit: usize,
    room: &BodyBudget,
) -> Result<Bytes, Kind> {
    let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    let headers = [encoding].into_iter().collect();
    let read = read(Body::from(body), &headers, limit, Pass::known(room)).await;
    read.map(|it| it.0).map_err(|problem| problem.kind())
}

/// Text that does not compress by much.
fn dense(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24) as u8 % 26
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn every_encoding_gives_what_went_in_and_the_limit_counts_what_comes_out() {
    let room = BodyBudget::new(usize::MAX >> 1);
    let text = dense(100_000);
    for (encoding, body) in
        [("identity", text.clone()), ("gzip", gzip(&text)), ("ZSTD", zstd(&text))]
    {
        let whole = read_as(encoding, body.clone(), text.len(), &room).await;
        assert_eq!(whole.as_deref(), Ok(&text[..]), "{encoding}");
        let over = read_as(encoding, body, text.len() - 1, &room).await;
        assert_eq!(over, Err(Kind::BodyTooLarge), "{encoding}");
    }
    assert_eq!(room.taken(), 0);
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_fills_the_memory() {
    let room = BodyBudget::new(usize::MAX >> 1);
    let bomb = vec![b' '; 4 * 1024 * 1024];
    for (encoding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
        assert!(body.len() < bomb.len() / 100);
        let read = read_as(encoding, body, 5 * 1024 * 1024, &room).await;
        assert_eq!(read, Err(Kind::BodyTooLarge), "{encoding}");
    }
}

#[tokio::test]
async fn damaged_and_doubly_encoded_bodies_are_refused() {
    let room = BodyBudget::new(usize::MAX >> 1);
    let text = dense(10_000);
    let whole = gzip(&text);
    let cut = whole[..whole.len() - 4].to_vec();
    let members = |count: usize| [gzip(b"").repeat(count), gzip(b"x")].concat();
    assert_eq!(read_as("gzip", members(100), 9, &room).await.as_deref(), Ok(&b"x"[..]));
    for (encoding, body, expected) in [
        ("gzip", members(256), Kind::BodyTooLarge),
        ("gzip", cut, Kind::InvalidBody),
        ("gzip", text.clone(), Kind::InvalidBody),
        ("zstd", text.clone(), Kind::InvalidBody),
        ("gzip, gzip", gzip(&whole), Kind::UnsupportedEncoding),
        ("br", text.clone(), Kind::UnsupportedEncoding),
    ] {
        assert_eq!(read_as(encoding, body, 20_000, &room).await, Err(expected), "{encoding}");
    }
}

#[tokio::test]
async fn a_lent_body_is_not_copied_and_has_the_same_limits() {
    let (room, headers) = (BodyBudget::new(1000), HeaderMap::new());
    let body = Bytes::from(vec![b'x'; 600]);
    let lent = lend(Body::from(body.clone()), &headers, 600, Pass::known(&room)).await.unwrap();
    assert_eq!((lent.0.as_ptr(), lent.0.len()), (body.as_ptr(), 600));
    let kind = |it: Result<(Bytes, Lease), Problem>| it.err().map(|it| it.kind());
    let second = lend(Body::from(body.clone()), &headers, 600, Pass::known(&room)).await;
    assert_eq!(kind(second), Some(Kind::Overloaded));
    drop(lent);
    let over = lend(Body::from(body.clone()), &headers, 599, Pass::known(&room)).await;
    assert_eq!(kind(over), Some(Kind::BodyTooLarge));
    assert!(lend(Body::empty(), &headers, 0, Pass::known(&room)).await.unwrap().0.is_empty());
    let pieces = [Ok::<_, io::Error>(body.slice(..300)), Ok(body.slice(300..))];
    let pieces = Body::from_stream(futures_util::stream::iter(pieces));
    let gathered = lend(pieces, &headers, 600, Pass::known(&room)).await.unwrap();
    assert_eq!(gathered.0, body);
    drop(gathered);
    assert_eq!(room.taken(), 0);
}

#[tokio::test]
async fn all_bodies_share_the_room_and_give_it_back() {
    let room = BodyBudget::new(1000);
    let headers = HeaderMap::new();
    let first =
        read(Body::from(vec![b'x'; 900]), &headers, 1000, Pass::known(&room)).await.unwrap();
    let second = read(Body::from(vec![b'x'; 900]), &headers, 1000, Pass::known(&room)).await;
    assert_eq!(second.err().map(|it| it.kind()), Some(Kind::Overloaded));
    drop(first);
    assert!(read(Body::from(vec![b'x'; 900]), &headers, 1000, Pass::known(&room)).await.is_ok());
}
