//! The index against a plain map, over everything that can happen between two finds.

use std::{collections::HashMap, fs, path::Path};

use proptest::prelude::*;

use super::*;

const SECRET: [u8; 32] = [7; 32];
const SMALL: KeyIndexLimits = KeyIndexLimits {
    recent_keys: 200,
    recent_events: 1_000,
    waiting_tables: 2,
    fan_in: 3,
    filter_memory: 1_000,
};

fn open(folder: &Path) -> KeyIndex {
    KeyIndex::open_with(folder, SECRET, SMALL, Arc::default()).unwrap()
}

fn project() -> ProjectId {
    ProjectId::from_bits(1)
}

fn id(seq: u64) -> EventId {
    EventId::from_bits(u128::from(seq) << 80 | 1)
}

/// Events from 1 on, each with a key of its own.
fn fill(keys: &mut KeyIndex, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let hash = keys.reader.hash(0, project(), &seq.to_string());
        keys.add(hash, id(seq), EventSeq(seq));
    }
}

fn find(keys: &KeyIndex, key: u64) -> Option<EventId> {
    keys.find(&keys.reader.hash(0, project(), &key.to_string())).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    files
}

fn refused(folder: &Path) -> StoreError {
    KeyIndex::open_with(folder, SECRET, SMALL, Arc::default()).err().expect("it must not open")
}

#[derive(Clone, Debug)]
enum TestStep {
    /// So many events with a key, and then so many without.
    Add {
        with: u64,
        without: u64,
    },
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = TestStep> {
    prop_oneof![
        6 => (0_u64..500, 0_u64..600).prop_map(|(with, without)| TestStep::Add { with, without }),
        2 => Just(TestStep::Flush),
        1 => Just(TestStep::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn it_knows_what_a_map_would_know(steps in proptest::collection::vec(step(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = open(folder.path());
        // What the rows of events hold: seq by key, in the order of seqs.
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut last = 0;
        for step in steps {
            match step {
                TestStep::Add { with, without } => {
                    fill(&mut keys, last + 1..=last + with);
                    model.extend((last + 1..=last + with).map(|it| (it, it)));
                    last += with + without;
                    keys.pass(EventSeq(last));
                }
                TestStep::Flush => {
                    keys.reader().flush().unwrap();
                    prop_assert_eq!(keys.covered(), EventSeq(last));
                }
                TestStep::Reopen => {
                    drop(keys);
                    keys = open(folder.path());
                    let mut behind: Vec<u64> =
                        model.values().copied().filter(|&it| it > keys.covered().0).collect();
                    behind.sort_unstable();
                    for seq in behind {
                        fill(&mut keys, seq..=seq);
                    }
                    keys.pass(EventSeq(last));
                }
            }
            prop_assert!(keys.covered() <= EventSeq(last));
            for key in (0..=last + 10).step_by(7) {
                prop_assert_eq!(find(&keys, key), model.get(&key).map(|&it| id(it)));
            }
        }
        for key in 0..=last + 10 {
            prop_assert_eq!(find(&keys, key), model.get(&key).map(|&it| id(it)));
        }
    }
}

#[test]
fn keys_of_other_projects_and_namespaces_are_other_keys() {
    let folder = tempfile::tempdir().unwrap();
    let keys = open(folder.path());
    let hash = keys.reader.hash(0, project(), "a");
    assert_eq!(hash, keys.reader.hash(0, project(), "a"));
    assert_ne!(hash, keys.reader.hash(1, project(), "a"));
    assert_ne!(hash, keys.reader.hash(0, ProjectId::from_bits(2), "a"));
    assert_ne!(hash, keys.reader.hash(0, project(), "b"));
}

#[test]
fn a_key_that_is_taken_again_means_the_newest_event_through_merges_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let limits = KeyIndexLimits { recent_keys: 2, ..SMALL };
    let mut keys = KeyIndex::open_with(folder.path(), SECRET, limits, Arc::default()).unwrap();
    let hash = keys.reader.hash(0, project(), "again");
    for seq in 1..=200 {
        let key = if seq % 10 == 0 { "again".to_owned() } else { seq.to_string() };
        keys.add(keys.reader.hash(0, project(), &key), id(seq), EventSeq(seq));
        assert_eq!(keys.find(&hash).unwrap(), (seq >= 10).then(|| id(seq / 10 * 10)), "{seq}");
    }
    keys.reader.flush().unwrap();
    drop(keys);
    let keys = KeyIndex::open_with(folder.path(), SECRET, limits, Arc::default()).unwrap();
    assert_eq!(keys.find(&hash).unwrap(), Some(id(200)));
}

#[test]
fn both_keys_of_an_event_are_in_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let limits = KeyIndexLimits { recent_keys: 1, ..SMALL };
    let mut keys = KeyIndex::open_with(folder.path(), SECRET, limits, Arc::default()).unwrap();
    for seq in 1..=50 {
        for namespace in 0..2 {
            let hash = keys.reader.hash(namespace, project(), &seq.to_string());
            keys.add(hash, id(seq), EventSeq(seq));
        }
    }
    drop(keys);
    let keys = KeyIndex::open_with(folder.path(), SECRET, limits, Arc::default()).unwrap();
    assert!(keys.covered() > EventSeq(0));
    for seq in 1..=keys.covered().0 {
        for namespace in 0..2 {
            let hash = keys.reader.hash(namespace, project(), &seq.to_string());
            assert_eq!(keys.find(&hash).unwrap(), Some(id(seq)), "{seq} {namespace}");
        }
    }
}

#[test]
fn events_without_keys_are_covered_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    for seq in 1..=5_000 {
        keys.pass(EventSeq(seq));
    }
    keys.reader().flush().unwrap();
    drop(keys);
    assert_eq!(open(folder.path()).covered(), EventSeq(5_000));
}

#[test]
fn files_left_by_a_crash_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    fill(&mut keys, 1..=150);
    keys.reader().flush().unwrap();
    fill(&mut keys, 151..=300);
    keys.reader().flush().unwrap();
    drop(keys);
    let parts = files(folder.path());
    assert_eq!(parts.len(), 2);
    // A crash after the merge, and before its parts were gone; and one in the middle of a write.
    let runs: Vec<_> = open_runs(folder.path());
    merge::merge(folder.path(), secret_check(&SECRET), &runs, 0, &AtomicBool::new(false)).unwrap();
    fs::write(folder.path().join("0000000000000301-0000000000000400.new"), b"half").unwrap();
    assert_eq!(files(folder.path()).len(), 4);

    let keys = open(folder.path());

    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(keys.covered(), EventSeq(300));
    assert!((1..=300).all(|it| find(&keys, it) == Some(id(it))));
}

fn open_runs(folder: &Path) -> Vec<Arc<Run>> {
    background::open_runs(folder, secret_check(&SECRET), &SMALL).unwrap()
}

#[test]
fn a_missing_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    fill(&mut keys, 1..=100);
    keys.reader().flush().unwrap();
    fill(&mut keys, 101..=200);
    keys.reader().flush().unwrap();
    drop(keys);
    fs::remove_file(&files(folder.path())[0]).unwrap();
    assert!(matches!(refused(folder.path()), StoreError::Damaged { .. }));
}

#[test]
fn a_run_of_another_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    fill(&mut keys, 1..=100);
    keys.reader().flush().unwrap();
    drop(keys);
    let error = KeyIndex::open_with(folder.path(), [8; 32], SMALL, Arc::default()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }));
}

#[test]
fn a_torn_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    fill(&mut keys, 1..=190);
    keys.reader().flush().unwrap();
    drop(keys);
    let path = &files(folder.path())[0];
    let whole = fs::read(path).unwrap();
    for length in (0..whole.len()).step_by(1000) {
        fs::write(path, &whole[..length]).unwrap();
        assert!(matches!(refused(folder.path()), StoreError::Damaged { .. }), "{length} bytes");
    }
}

#[test]
fn a_flipped_bit_is_found_before_it_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    fill(&mut keys, 1..=190);
    keys.reader().flush().unwrap();
    drop(keys);
    let path = &files(folder.path())[0];
    let whole = fs::read(path).unwrap();
    for place in (0..whole.len()).step_by(61) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        fs::write(path, &flipped).unwrap();
        // Either it does not open, or no find gives a wrong answer, or the bit is in unused space.
        let Ok(keys) = KeyIndex::open_with(folder.path(), SECRET, SMALL, Arc::default()) else {
            continue;
        };
        for key in 1..=190 {
            let hash = keys.reader.hash(0, project(), &key.to_string());
            match keys.find(&hash) {
                Ok(found) => assert_eq!(found, Some(id(key)), "byte {place}"),
                Err(error) => assert!(matches!(error, StoreError::Damaged { .. })),
            }
        }
    }
}

#[test]
fn a_disk_that_keeps_failing_stops_ingest() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(folder.path());
    // A folder stands where the first run would be written.
    fs::remove_dir(folder.path()).unwrap();
    fill(&mut keys, 1..=1_000);
    assert!(keys.reader().flush().is_err());
    let absent = keys.reader.hash(0, project(), "absent");
    assert!(keys.find(&absent).is_err());
    assert_eq!(find(&keys, 7), Some(id(7)), "what it knows it still says");

    fs::create_dir(folder.path()).unwrap();
    while keys.reader().flush().is_err() {
        std::thread::yield_now();
    }
    assert_eq!(keys.find(&absent).unwrap(), None);
    assert_eq!(keys.covered(), EventSeq(1_000));
}
