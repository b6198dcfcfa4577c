//! Writing a segment again, without some of its events and without what was about them, or with the
//! bodies of some of them erased.
//!
//! The new file is complete and on disk before it takes the old one's name. A crash before that
//! leaves the old one and a file that is deleted when the store is opened.

use std::{fs, fs::File, path::Path};

use rusqlite::{Connection, params};

use super::{Forgetting, foreign};
use crate::{
    model::{DeliverySeq, EventSeq},
    store::{
        Result,
        codes::ERASED_METADATA,
        sqlite::{
            error::of_file,
            folder::{beside::remove_files, facts::set_fact, files, manifest::Sum},
            lock,
            segment::{
                blocks::{Block, Packer},
                seal::{self},
                segments::Segment,
            },
        },
    },
};

impl Forgetting {
    /// `gone` are events of this segment; `erased` may also be older ones.
    pub(super) fn rewrite(
        &self,
        segment: &Segment,
        gone: &[EventSeq],
        erased: &[EventSeq],
    ) -> Result<()> {
        // A key outlives its event.
        self.keys.flush()?;
        let fresh = self.folder.unfinished();
        remove_files(&fresh)?;
        let result = self.write(segment, gone, erased, &fresh);
        if let Err(error) = result {
            // What cannot be removed now is when the store is opened.
            let _ = remove_files(&fresh);
            return Err(error);
        }
        self.status.check_open()?;
        let (sum, covered) = (Sum::of(&fresh).map_err(of_file)?, self.keys.covered());
        let replacing = lock(&self.manifest.replacing);
        self.manifest.change(|it| {
            it.seal(segment.first(), None);
            it.cover_keys(covered);
        })?;
        fs::rename(&fresh, segment.path()).map_err(of_file)?;
        files::sync_folder(&self.folder.path().join("segments"))?;
        self.manifest.change(|it| it.seal(segment.first(), Some(sum)))?;
        self.readers.segments.replace(segment);
        drop(replacing);
        tracing::info!(
            first = segment.first().0,
            forgotten = gone.len(),
            erased = erased.len(),
            "a segment is rewritten"
        );
        Ok(())
    }

    fn write(
        &self,
        segment: &Segment,
        gone: &[EventSeq],
        erased: &[EventSeq],
        fresh: &Path,
    ) -> Result<()> {
        let connection = files::open_unfinished(fresh)?;
        // What is overwritten leaves no trace in the file.
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.execute("ATTACH DATABASE ? AS old", [files::uri(segment.path(), true)])?;
        connection.execute_batch(
            "CREATE TEMP TABLE gone (event INTEGER PRIMARY KEY); \
             CREATE TEMP TABLE erased (event INTEGER PRIMARY KEY)",
        )?;
        self.mark(&connection, segment.first(), gone, erased)?;
        let file = File::open(fresh).map_err(of_file)?;
        for sql in COPIES {
            self.status.check_open()?;
            connection.execute_batch(sql)?;
            // A part at a time, so that no commit of the writer waits behind one long sync.
            file.sync_data().map_err(of_file)?;
        }
        if !erased.is_empty() {
            connection.execute_batch(ERASURES)?;
        }
        self.copy_blocks(&connection, &file)?;
        self.status.check_open()?;
        connection.execute(
            "INSERT INTO main.redo SELECT * FROM old.redo \
             WHERE number > ? OR number = (SELECT max(number) FROM old.redo)",
            [self.owed.sync()? as i64],
        )?;
        set_fact(&connection, "oldest_event", oldest(&connection, segment.first())?)?;
        connection.execute_batch("DETACH DATABASE old")?;
        seal::finish(&connection)?;
        connection.close().map_err(|(_, error)| error)?;
        file.sync_all().map_err(of_file)
    }

    /// Fills `gone`, with the events that go and those that went before from older segments, and
    /// `erased`.
    fn mark(
        &self,
        connection: &Connection,
        first: EventSeq,
        gone: &[EventSeq],
        erased: &[EventSeq],
    ) -> Result<()> {
        let segment = self.readers.segments.of_event(first);
        let strangers = match segment {
            Some(it) => it.read(|it| foreign(it, first))?,
            None => Vec::new(),
        };
        connection.execute_batch("BEGIN")?;
        let mut insert = connection.prepare("INSERT OR IGNORE INTO gone VALUES (?)")?;
        for event in gone {
            insert.execute([event.0 as i64])?;
        }
        for event in strangers {
            if !self.exists(event)? {
                insert.execute([event.0 as i64])?;
            }
        }
        drop(insert);
        let mut insert = connection.prepare("INSERT OR IGNORE INTO erased VALUES (?)")?;
        for event in erased {
            insert.execute([event.0 as i64])?;
        }
        drop(insert);
        Ok(connection.execute_batch("COMMIT")?)
    }

    /// Copies the blocks: whole where all of their events stay as they are, and otherwise with empty
    /// bodies in the place of those that go.
    fn copy_blocks(&self, connection: &Connection, file: &File) -> Result<()> {
        const SYNC_EVERY: usize = 8 << 20;

        let mut packer = Packer::new()?;
        let mut stays = connection.prepare("SELECT 1 FROM main.events WHERE seq = ?")?;
        let mut erased = connection.prepare("SELECT 1 FROM erased WHERE event = ?")?;
        let mut insert = connection.prepare("INSERT INTO main.blocks VALUES (?, ?, ?)")?;
        let mut blocks = connection.prepare("SELECT first_seq, count, body FROM old.blocks")?;
        let mut rows = blocks.query([])?;
        let mut unsynced = 0;
        connection.execute_batch("BEGIN")?;
        while let Some(row) = rows.next()? {
            let (first, count): (i64, u32) = (row.get(0)?, row.get(1)?);
            let body = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
            let seqs = first..first + i64::from(count);
            let staying =
                seqs.clone().map(|seq| stays.exists([seq])).collect::<Result<Vec<bool>, _>>()?;
            let mut is_erased = |seq: EventSeq| erased.exists([seq.0 as i64]);
            let mut has_erased = false;
            for seq in seqs.clone() {
                has_erased |= is_erased(EventSeq(seq as u64))?;
            }
            unsynced += body.len();
            if !has_erased && staying.iter().all(|it| *it) {
                insert.execute(params![first, count, body])?;
            } else if staying.iter().any(|it| *it) {
                let block = Block::open(EventSeq(first as u64), count, body)?;
                for (seq, stays) in seqs.zip(&staying) {
                    let seq = EventSeq(seq as u64);
                    if is_erased(seq)? {
                        packer.add_body(seq, ERASED_METADATA, b"null");
                    } else if *stays {
                        let (metadata, payload) = block.body(seq)?;
                        packer.add_body(seq, metadata.bytes(), payload.bytes());
                    } else {
                        packer.add_body(seq, b"", b"");
                    }
                }
                if let Some((_, count, body)) = packer.take()? {
                    insert.execute(params![first, count, body])?;
                }
            }
            if unsynced >= SYNC_EVERY {
                connection.execute_batch("COMMIT; BEGIN")?;
                file.sync_data().map_err(of_file)?;
                self.status.check_open()?;
                unsynced = 0;
            }
        }
        Ok(connection.execute_batch("COMMIT")?)
    }
}

/// What else is erased. The digest 0 stands for an event whose body is.
const ERASURES: &str = "
    UPDATE main.events SET key = NULL, digest = 0 WHERE seq IN (SELECT event FROM erased);
    UPDATE main.deliveries SET copy = NULL
        WHERE copy IS NOT NULL AND seq >> 11 IN (SELECT event FROM erased);
    UPDATE main.activity SET response = NULL
        WHERE response IS NOT NULL AND delivery >> 11 IN (SELECT event FROM erased);
";

/// Everything but blocks and redo rows, which are not copied row by row.
const COPIES: &[&str] = &[
    "INSERT INTO main.events SELECT * FROM old.events \
     WHERE seq NOT IN (SELECT event FROM gone) ORDER BY seq",
    "INSERT INTO main.given_ids SELECT * FROM old.given_ids \
     WHERE seq NOT IN (SELECT event FROM gone)",
    "INSERT INTO main.deliveries SELECT * FROM old.deliveries \
     WHERE seq >> 11 NOT IN (SELECT event FROM gone) ORDER BY seq",
    "INSERT INTO main.skipped SELECT * FROM old.skipped \
     WHERE event NOT IN (SELECT event FROM gone) ORDER BY event",
    "INSERT INTO main.activity SELECT * FROM old.activity \
     WHERE delivery >> 11 NOT IN (SELECT event FROM gone) ORDER BY delivery, number",
    "INSERT INTO main.minutes SELECT * FROM old.minutes",
    "INSERT INTO main.tallies SELECT * FROM old.tallies",
    "INSERT INTO main.memories SELECT * FROM old.memories",
    "INSERT INTO main.replays SELECT * FROM old.replays",
    "INSERT INTO main.facts SELECT * FROM old.facts",
];

/// The lowest event that a row of the new file is about.
fn oldest(connection: &Connection, first: EventSeq) -> Result<i64> {
    let lowest =
        |sql: &str| -> Result<Option<i64>> { Ok(connection.query_row(sql, [], |row| row.get(0))?) };
    let event = |bits: i64| DeliverySeq::from_bits(bits as u64).event().0 as i64;
    let found = [
        lowest("SELECT min(delivery) FROM main.activity")?.map(event),
        lowest("SELECT min(seq) FROM main.deliveries")?.map(event),
        lowest("SELECT min(event) FROM main.skipped")?,
    ];
    Ok(found.into_iter().flatten().min().unwrap_or(first.0 as i64).min(first.0 as i64))
}
