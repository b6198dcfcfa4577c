//! The fuzzers' corpus, and a short walk around it that is the same each time: no parser that strangers'
//! bytes reach breaks a promise. `make fuzz` looks for longer.

use std::{fs, path::PathBuf};

use tidegate::ingest::parsers::{self, Broken};

/// Changed copies of each file of the corpus.
const CHANGED: u32 = 300;

/// A generator whose numbers are the same in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to `below`, which is excluded. SplitMix64.
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ it >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ it >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (it ^ it >> 31) as usize % below.max(1)
    }

    /// Changes a few bytes: what parsers stumble over, more often than anything else.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const ODD: [&[u8]; 14] = [
            b"\"", b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\0", b"\xff", b"\\ud800", b"1e999",
            b"null", b"\r\n",
        ];
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            let end = (at + self.roll(8)).min(bytes.len());
            match self.roll(6) {
                0 => drop(bytes.splice(at..at, ODD[self.roll(ODD.len())].iter().copied())),
                1 => drop(bytes.splice(at..end, ODD[self.roll(ODD.len())].iter().copied())),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => {
                    let from = self.roll(other.len());
                    bytes.splice(at..end, other[from..].iter().take(64).copied());
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.roll(8);
                    }
                }
            }
        }
    }
}

fn walk(target: &str, parser: fn(&[u8]) -> Result<(), Broken>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 4, "{} holds no corpus", folder.display());
    let corpus: Vec<Vec<u8>> = files.iter().map(|it| fs::read(it).unwrap()).collect();
    let changed = (CHANGED as usize).min(30_000 / corpus.len());
    let mut dice = Dice(1);
    for (file, whole) in files.iter().zip(&corpus) {
        assert_eq!(parser(whole), Ok(()), "{}", file.display());
        for _ in 0..changed {
            let mut bytes = whole.clone();
            let other = dice.roll(corpus.len());
            dice.change(&mut bytes, &corpus[other]);
            let shown = bytes.escape_ascii().to_string();
            assert_eq!(parser(&bytes), Ok(()), "{}: {shown}", file.display());
        }
    }
}

#[test]
fn no_event_breaks_what_the_parser_of_events_promises() {
    walk("envelope", parsers::envelope);
}

#[test]
fn no_batch_breaks_what_the_parser_of_batches_promises() {
    walk("batch", parsers::batch);
}

#[test]
fn no_request_of_a_segment_client_breaks_what_its_parser_promises() {
    walk("segment", parsers::segment);
}

#[test]
fn no_form_breaks_what_the_reader_of_forms_promises() {
    walk("form", parsers::form);
}

#[test]
fn two_readers_of_json_find_the_same_in_it() {
    walk("json", parsers::json);
}

#[test]
fn every_target_has_a_corpus_that_is_walked_here_and_is_run_by_the_script() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|it| it.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let targets = names("fuzz/fuzz_targets");
    assert_eq!(targets, ["batch", "envelope", "form", "json", "segment", "signature"]);
    assert_eq!(targets, names("fuzz/corpus"));
    let script = fs::read_to_string(root.join("scripts/fuzz.sh")).unwrap();
    let all = script.lines().find_map(|it| it.strip_prefix("all=(")).unwrap();
    let mut run: Vec<_> = all.trim_end_matches(')').split(' ').collect();
    run.sort_unstable();
    assert_eq!(targets, run);
}

#[test]
fn no_signature_is_believed_that_nobody_could_make() {
    walk("signature", parsers::signature);
}
