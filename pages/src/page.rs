//! What stands at the end of each page of a file with checksums, and how the file says that it has them.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes at the end of each page that SQLite leaves to us.
pub const RESERVED: u8 = 8;
/// Where the head of a file says how many bytes are left so.
pub const RESERVED_AT: usize = 20;
/// The head of a file, within its first page.
pub const HEAD: usize = 100;
/// A page of SQLite has 512 bytes at least, and a power of two.
const SHORTEST: usize = 512;

/// Whether so many bytes at this place are a whole page.
pub fn is_page(bytes: usize, at: u64) -> bool {
    bytes >= SHORTEST && bytes.is_power_of_two() && at.is_multiple_of(bytes as u64)
}

/// What stands at the end of a page, if nothing in it has changed since it was written, and it stands where it
/// was written.
fn sum(page: &[u8], at: u64) -> [u8; RESERVED as usize] {
    let body = &page[..page.len() - usize::from(RESERVED)];
    xxh3_64_with_seed(body, at / page.len() as u64 + 1).to_le_bytes()
}

/// Writes the checksum of a page to its end.
pub fn seal(page: &mut [u8], at: u64) {
    let sum = sum(page, at);
    let end = page.len() - sum.len();
    page[end..].copy_from_slice(&sum);
}

/// Whether a page is as it was written. The first page may be that of a file without checksums.
pub fn judge(page: &[u8], at: u64, file_has_sums: bool) -> bool {
    let is_right = |page: &[u8]| page.ends_with(&sum(page, at));
    if file_has_sums {
        return is_right(page);
    }
    if at > 0 {
        return true;
    }
    // Without a bit of the very byte that says so, it would look like a file that has none.
    let mut with_sums = page.to_vec();
    with_sums[RESERVED_AT] = RESERVED;
    !is_right(&with_sums)
}

/// Whether a file with this head has checksums; `None` where it is no head.
pub fn has_sums(head: &[u8]) -> Option<bool> {
    let is_sqlite = head.len() >= HEAD && head.starts_with(b"SQLite format 3\0");
    is_sqlite.then(|| head[RESERVED_AT] == RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_a_page_and_its_place_count() {
        for at in [0, 8192] {
            let mut page: Vec<u8> = (0..4096_u32).map(|it| (it * 7 % 251) as u8).collect();
            page[RESERVED_AT] = RESERVED;
            seal(&mut page, at);
            assert!(judge(&page, at, true));
            assert!(!judge(&page, at + 4096, true));
            for bit in 0..page.len() * 8 {
                page[bit / 8] ^= 1 << (bit % 8);
                let says_so = at > 0 || page[RESERVED_AT] == RESERVED;
                assert!(!judge(&page, at, says_so), "bit {bit} at {at}");
                page[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn pages_of_files_without_checksums_are_taken() {
        let page = vec![9; 4096];
        assert!(judge(&page, 0, false) && judge(&page, 4096, false));
        assert!(!is_page(100, 0) && !is_page(4096, 100) && is_page(4096, 8192));
    }
}
