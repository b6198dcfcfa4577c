//! HMAC with a key that is prepared once: a signature then costs only the hashing of its message.

use hmac::{Hmac, KeyInit, Mac as _};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The block of both hashes, in bytes.
const BLOCK: usize = 64;

/// A prepared key for HMAC-SHA256.
#[derive(Clone)]
pub struct Sha256Key(Hmac<Sha256>);

/// A prepared key for HMAC-SHA1, for systems that force it.
#[derive(Clone)]
pub struct Sha1Key(Hmac<Sha1>);

impl Sha256Key {
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new(&(*block::<Sha256>(key)).into()))
    }

    /// The code of the parts, one after the other.
    pub fn code(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl Sha1Key {
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new(&(*block::<Sha1>(key)).into()))
    }

    pub fn code(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

/// The key as one block, as RFC 2104 §2 wants it: a longer one is hashed, a shorter one padded.
fn block<D: Digest>(key: &[u8]) -> Zeroizing<[u8; BLOCK]> {
    let mut block = Zeroizing::new([0; BLOCK]);
    if key.len() > BLOCK {
        let hash = D::digest(key);
        block[..hash.len()].copy_from_slice(&hash);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4231 §4 (SHA-256) and RFC 2202 §3 (SHA-1): cases 1, 2 and 6, whose key is longer than a block.
    #[test]
    fn codes_agree_with_the_rfcs() {
        let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
        for (key, message, sha256, sha1_key, sha1) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                vec![0x0b; 20],
                "b617318655057264e28bc0b6fb378c8ef146be00",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                b"Jefe".to_vec(),
                "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            ),
            (
                vec![0xaa; 131],
                long,
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                vec![0xaa; 80],
                "aa4ae5e15272d00e95705637ce8a3b55ed402112",
            ),
        ] {
            assert_eq!(hex::encode(Sha256Key::new(&key).code(&[message])), sha256);
            let (head, tail) = message.split_at(3);
            assert_eq!(hex::encode(Sha1Key::new(&sha1_key).code(&[head, tail])), sha1);
        }
    }
}
