//! Damage in rows: in sealed segments, in the newest segment of a killed folder, and in the other databases. Each
//! page has a checksum that is compared when it is read, so that no row is taken for another.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use tidegate::{
    model::{DeliverySeq, EventSeq},
    store::{
        ActivityFilter, EventFilter, OwedQuery, Page, Records as _, Result, Store as _,
        sqlite::{self, SqliteStore},
    },
};

use super::{
    Damage, EVENTS, OLD, copy, files_of, folders, folders_with, options, read_all, sealed,
};
use crate::{
    crash::random::Random,
    records::questions::ALL,
    store::home::{destinations, ended, event, new_events, note, projects, sqlite},
};

/// All that lists and records say, with type, times, destination, state and attempts.
pub(super) async fn read(store: &SqliteStore, text: &mut String) -> Result<()> {
    let (project, page) = (projects(1), Page { before: None, limit: 1_000 });
    for event in store.events(project, &EventFilter::default(), page).await? {
        writeln!(text, "{event:?}").unwrap();
    }
    let deliveries = store.deliveries(project, &ALL, page).await?;
    for listed in &deliveries {
        let alone = store.delivery(project, listed.seq).await?;
        writeln!(text, "{listed:?} {alone:?}").unwrap();
    }
    let activity = store.activity(project, &ActivityFilter::default(), page).await?;
    writeln!(text, "{activity:?}").unwrap();
    let seqs: Vec<DeliverySeq> = deliveries.iter().map(|it| it.seq).collect();
    for message in store.messages(&seqs).await? {
        writeln!(text, "{message:?}").unwrap();
    }
    let (from, until) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    writeln!(text, "{:?}", store.stats(destinations(1), from, until).await?).unwrap();
    Ok(())
}

fn newest(data: &Path) -> PathBuf {
    let files = files_of(data).into_iter().filter(|it| it.starts_with("segments/"));
    data.join(files.filter(|it| it.ends_with(".db")).max().unwrap())
}

/// A checkpoint, as one happens now and then.
pub(super) async fn bring_into_file(store: &SqliteStore, data: &Path) {
    store.unplanned(EventSeq(0), 1).await.unwrap();
    let connection = tidegate_pages::open(newest(data), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let (log, done): (i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
        .unwrap();
    assert!(done > 5 && log == done, "{log} {done}");
}

/// Bits of bytes that hold something, which most of a page does not.
fn filled_bits(file: &Path, count: usize, random: &mut Random) -> Vec<u64> {
    let bytes = fs::read(file).unwrap();
    let filled: Vec<usize> = (0..bytes.len()).filter(|it| bytes[*it] != 0).collect();
    let some =
        || filled[(random.next() % filled.len() as u64) as usize] as u64 * 8 + random.next() % 8;
    std::iter::repeat_with(some).take(count).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn no_bit_of_a_row_changes_in_silence() {
    let seed = Random::seed("DAMAGE_SEED");
    let flips = std::env::var("DAMAGE_FLIPS").map_or(2, |it| it.parse().unwrap()) * 4;
    eprintln!("damage: DAMAGE_SEED={seed}, {flips} bits of rows a file");
    let mut random = Random::new(seed);
    let scratch = tempfile::tempdir().unwrap();
    for (name, whole) in folders_with(scratch.path(), true).await {
        let copied = scratch.path().join(format!("{name}-whole"));
        copy(&whole, &copied);
        let expected = read_all(&copied).await.unwrap();
        assert!(expected.contains("Delivered") && expected.contains("Pending"), "{expected}");
        let (mut told, mut harmless, mut silent) = (0, 0, Vec::new());
        for file in files_of(&whole).into_iter().filter(|it| it.ends_with(".db")) {
            for bit in filled_bits(&whole.join(&file), flips, &mut random) {
                let data = tempfile::tempdir().unwrap();
                copy(&whole, data.path());
                // A clean stop has digests of the files that change, which would tell at once.
                forget_sums(data.path());
                Damage::Flip(bit).apply(&data.path().join(&file));
                match read_all(data.path()).await {
                    Err(_) => told += 1,
                    Ok(read) if read == expected => harmless += 1,
                    Ok(read) => {
                        let differs = read.lines().zip(expected.lines()).find(|(a, b)| a != b);
                        silent.push(format!("{file} bit {bit}: {differs:?}"));
                    }
                }
            }
        }
        eprintln!(
            "damage: rows, {name}: {told} told, {harmless} harmless, {} silent",
            silent.len()
        );
        assert!(silent.is_empty(), "{name}: {silent:#?}");
        assert!(told > harmless / 8, "{name}: {told} of {harmless}");
    }
}

/// A folder without a manifest is one of an earlier version.
fn forget_sums(data: &Path) {
    fs::remove_file(data.join("manifest")).unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_told_and_others_go_on() {
    // Given a sealed segment with a bit flipped in the row of a delivery that is pending
    let scratch = tempfile::tempdir().unwrap();
    let [_, (_, data)] = folders(scratch.path()).await;
    let file = data.join("segments/0000000000000061.db");
    let page: i64 = {
        let connection = tidegate_pages::open_as_it_is(&file).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'deliveries'";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let end_of_page = page as u64 * 4096 - 8;
    Damage::Flip((end_of_page - 2) * 8 + 3).apply(&file);

    // when what is owed is read,
    let (store, _accepted, _) = sqlite(&data, options()).unwrap();
    let line = OwedQuery::Line {
        destination: destinations(1),
        after: None,
        per_lane: 1_000,
        limit: 1_000,
    };
    let owed = store.owed(line.clone()).await.unwrap();
    let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
    let messages = store.messages(&seqs).await.unwrap();

    // then only deliveries of that page are left out, which the dispatcher makes dead letters,
    let left_out = |seq: &DeliverySeq| !messages.iter().any(|it| it.seq == *seq);
    let missing: Vec<u64> = seqs.iter().filter(|it| left_out(it)).map(|it| it.event().0).collect();
    assert!(missing.len() > 1 && missing.iter().all(|it| (61..81).contains(it)), "{missing:?}");
    assert!(messages.len() > 20);
    // their end can be written down, and others are accepted meanwhile,
    let dead = owed.iter().filter(|it| left_out(&it.seq)).map(|it| note(it, ended())).collect();
    store.settle(dead).await.unwrap();
    assert_eq!(store.owed(line).await.unwrap().len(), messages.len());
    let fresh = store.append(vec![event("1")]).await.unwrap();
    assert_eq!(new_events(&fresh).len(), 1);
    drop(store);
    // and a check names the file, which a repair takes as it is.
    let found = sqlite::check(&data).unwrap().losses;
    assert_eq!(found[0].file, "segments/0000000000000061.db", "{found:?}");
    let done = sqlite::repair(&data).unwrap();
    assert!(done.iter().any(|it| it.contains("taken as it is: 1 of its pages")), "{done:?}");
    assert_eq!(sqlite::check(&data).unwrap().losses, []);
}

/// Makes of a closed folder what a version makes that knows nothing of checksums of pages.
fn as_of_an_earlier_version(data: &Path) {
    forget_sums(data);
    for file in files_of(data).into_iter().filter(|it| it.ends_with(".db")) {
        let (path, plain) = (data.join(&file), data.join("plain.db"));
        let connection = Connection::open_with_flags_and_vfs(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI,
            c"unix",
        )
        .unwrap();
        let target = format!("file:{}?reserve=0", plain.display());
        connection.execute("VACUUM INTO ?", [target]).unwrap();
        drop(connection);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(data.join(format!("{file}{suffix}")));
        }
        let version = if file == "control.db" { 1 } else { 0 };
        if version > 0 {
            let plain = Connection::open_with_flags_and_vfs(
                &plain,
                OpenFlags::SQLITE_OPEN_READ_WRITE,
                c"unix",
            );
            plain.unwrap().pragma_update(None, "user_version", version).unwrap();
        }
        fs::rename(plain, &path).unwrap();
        assert_eq!(tidegate_pages::has_sums(&path).unwrap(), Some(false), "{file}");
    }
}

#[tokio::test]
async fn a_folder_of_an_earlier_version_gets_checksums() {
    // Given a folder without checksums, and what can be read of it
    let scratch = tempfile::tempdir().unwrap();
    let [(_, data), _] = folders(scratch.path()).await;
    let whole = scratch.path().join("whole");
    copy(&data, &whole);
    let expected = read_all(&whole).await.unwrap();
    as_of_an_earlier_version(&data);
    let last = newest(&data);

    // when it is opened, then all of it is there,
    assert_eq!(read_all(&data).await.unwrap(), expected);
    // the files that change have checksums from then on,
    let sums = |file: &Path| tidegate_pages::has_sums(file).unwrap();
    for file in ["control.db", "directory.db", "owed.db"] {
        assert_eq!(sums(&data.join(file)), Some(true), "{file}");
    }
    // events go on in a segment that has them,
    let (store, _accepted, _) = sqlite(&data, options()).unwrap();
    for number in 0..3 {
        store.append(vec![event(&format!("[{number}]"))]).await.unwrap();
    }
    assert!(newest(&data) > last);
    assert_eq!(sums(&newest(&data)), Some(true));
    // and the sealed ones have digests in the manifest, in the background.
    sealed(&data).await;
    store.close().await;
    drop(store);
    assert_eq!(sqlite::check(&data).unwrap().losses, []);
    let segment = data.join(format!("segments/{:016}.db", OLD + 1));
    assert_eq!(sums(&segment), Some(false));
    let length = fs::metadata(&segment).unwrap().len();
    Damage::Flip((length - 30) * 8).apply(&segment);
    let found = sqlite::check(&data).unwrap().losses;
    assert!(found.iter().any(|it| it.file.ends_with("41.db")), "{found:?}, of {EVENTS}");
}
