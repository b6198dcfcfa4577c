//! Opening `owed.db`: it catches up from the redo rows, and when that is not possible, it is made
//! again from what was planned and what has ended.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    OwedRow, Pending, Pendings,
    file::{self, OwedFile},
    redo::{self, OwedChange},
};
use crate::{
    model::{DeliverySeq, EventSeq, Lane, Place},
    store::{
        Result, StoreError,
        sqlite::{
            error::{is_damage, of_file},
            folder::{
                facts::set_fact,
                files::{self, Kind, Sync},
                sums,
            },
            segment::segments::Segments,
        },
    },
};

/// Opens the file, which then has every change that was committed. Also says the number of the last.
pub(in crate::store::sqlite) fn open(path: &Path, segments: &Segments) -> Result<(OwedFile, u64)> {
    let last = last_redo(segments)?;
    let open = |()| files::open_writer(path, Kind::Owed, Sync::Derived, 8 << 20);
    let caught_up = match sums::add(path).and_then(open) {
        _ if is_condemned(path) => false,
        Ok(mut connection) => match catch_up(&mut connection, segments, last) {
            Ok(caught_up) => caught_up,
            Err(error) if is_damage(&error) => false,
            Err(error) => return Err(error),
        },
        Err(error) if is_damage(&error) => false,
        Err(error) => return Err(error),
    };
    if !caught_up {
        tracing::warn!("owed.db is missing or damaged, and is rebuilt from the segments");
        rebuild(path, segments, last)?;
    }
    Ok((OwedFile::new(path.to_owned()), last))
}

/// The number of the last commit that changed what is owed; 0 when there was none.
fn last_redo(segments: &Segments) -> Result<u64> {
    for segment in segments.all().iter().rev() {
        let last: Option<i64> = segment
            .read(|it| Ok(it.query_row("SELECT max(number) FROM redo", [], |row| row.get(0))?))?;
        if let Some(last) = last {
            return Ok(last as u64);
        }
    }
    Ok(0)
}

/// Says whether it could: `false` when redo rows are missing.
fn catch_up(connection: &mut Connection, segments: &Segments, last: u64) -> Result<bool> {
    let applied = match file::applied(connection)? {
        Some(applied) => applied,
        None if last == 0 => 0,
        None => return Ok(false),
    };
    if applied > last {
        return Ok(false);
    }
    // Back to the first segment that has a row which was applied: those before it have none to add.
    let all = segments.all();
    let mut from = all.len();
    while from > 0 {
        from -= 1;
        let first: Option<i64> = all[from]
            .read(|it| Ok(it.query_row("SELECT min(number) FROM redo", [], |row| row.get(0))?))?;
        if first.is_some_and(|it| it as u64 <= applied + 1) {
            break;
        }
    }
    let mut replay = OwedRebuild { connection, pendings: Pendings::default(), through: applied };
    for segment in &all[from..] {
        let is_complete = segment.read(|it| replay.segment(it))?;
        if !is_complete {
            return Ok(false);
        }
    }
    replay.apply()?;
    Ok(replay.through == last)
}

struct OwedRebuild<'a> {
    connection: &'a mut Connection,
    pendings: Pendings,
    through: u64,
}

impl OwedRebuild<'_> {
    /// Changes that are held in memory at once, about.
    const MANY: usize = 64 * 1024;

    fn segment(&mut self, segment: &Connection) -> Result<bool> {
        let mut statement =
            segment.prepare("SELECT number, changes FROM redo WHERE number > ? ORDER BY number")?;
        let mut rows = statement.query([self.through as i64])?;
        while let Some(row) = rows.next()? {
            let number = row.get::<_, i64>(0)? as u64;
            if number != self.through + 1 {
                return Ok(false);
            }
            let changes = row.get_ref(1)?.as_blob();
            for change in
                redo::read(changes.map_err(|_| StoreError::Damaged { what: "redo row" })?)?
            {
                match change {
                    OwedChange::Insert(row) | OwedChange::Update(row) => {
                        self.pendings.insert(row.seq, Pending::Update(row));
                    }
                    OwedChange::End(row) => {
                        self.pendings.insert(row.seq, Pending::Delete(row));
                    }
                }
            }
            self.through = number;
            if self.pendings.len() >= Self::MANY {
                self.apply()?;
            }
        }
        Ok(true)
    }

    fn apply(&mut self) -> Result<()> {
        file::apply(self.connection, &self.pendings, self.through)?;
        self.pendings.clear();
        Ok(())
    }
}

/// Makes the file again. It takes its place when it is whole and on disk.
fn rebuild(path: &Path, segments: &Segments, last: u64) -> Result<()> {
    let fresh = path.with_file_name("owed-new.db");
    remove(&fresh)?;
    let connection = files::open_writer(&fresh, Kind::Owed, Sync::Derived, 32 << 20)?;
    connection.execute_batch("CREATE INDEX by_seq ON owed (seq)")?;
    for segment in segments.all().iter() {
        connection.execute_batch("BEGIN")?;
        segment.read(|it| {
            planned(it, &connection, segments)?;
            attempted(it, &connection)
        })?;
        connection.execute_batch("COMMIT")?;
        file::checkpoint(&connection)?;
    }
    connection.execute_batch("DROP INDEX by_seq")?;
    set_fact(&connection, "applied", last as i64)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    File::open(&fresh).and_then(|it| it.sync_all()).map_err(of_file)?;
    // The old file goes with its log, which would not fit the new one.
    remove(path)?;
    fs::rename(&fresh, path).map_err(of_file)?;
    remove_file(&condemned(path))?;
    files::sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Adds what a segment planned and did not see the end of.
fn planned(segment: &Connection, owed: &Connection, segments: &Segments) -> Result<()> {
    let mut deliveries = segment.prepare(
        "SELECT d.seq, d.destination, d.lane, d.position, d.accepted_at, e.received_at \
         FROM deliveries d LEFT JOIN events e ON e.seq = d.seq >> 11 \
         WHERE NOT EXISTS \
         (SELECT 1 FROM activity a WHERE a.delivery = d.seq AND a.ended IS NOT NULL)",
    )?;
    let mut so_far = segment
        .prepare("SELECT max(attempt), max(number), max(at) FROM activity WHERE delivery = ?")?;
    let mut put = owed.prepare(&file::insert_sql())?;
    let mut rows = deliveries.query([])?;
    while let Some(row) = rows.next()? {
        let bits: i64 = row.get(0)?;
        let seq = DeliverySeq::from_bits(bits as u64);
        let received_at = match row.get(5)? {
            Some(time) => Some(time),
            None => received_at(seq.event(), segments)?,
        };
        // Its event is gone, and with it what there was to deliver.
        let Some(received_at) = received_at else { continue };
        let mut owed = OwedRow {
            seq,
            destination: row.get(1)?,
            place: Place { lane: Lane(row.get::<_, i64>(2)? as u64), position: row.get(3)? },
            accepted_at: row.get::<_, Option<i64>>(4)?.unwrap_or(received_at),
            attempts: 0,
            entries: 0,
            due: None,
        };
        so_far.query_row([bits], |row| {
            owed.attempts = row.get::<_, Option<u16>>(0)?.unwrap_or(0);
            owed.entries = row.get::<_, Option<u16>>(1)?.unwrap_or(0);
            owed.due = row.get(2)?;
            Ok(())
        })?;
        file::put_row(&mut put, &owed)?;
    }
    Ok(())
}

fn received_at(event: EventSeq, segments: &Segments) -> Result<Option<i64>> {
    let Some(segment) = segments.of_event(event) else { return Ok(None) };
    segment.read(|it| {
        let mut statement = it.prepare_cached("SELECT received_at FROM events WHERE seq = ?")?;
        Ok(statement.query_row([event.0 as i64], |row| row.get(0)).optional()?)
    })
}

/// Applies what a segment tells about deliveries that older ones planned. When an attempt failed,
/// the time of the next was not kept there: it is due at once.
fn attempted(segment: &Connection, owed: &Connection) -> Result<()> {
    let mut activity = segment.prepare(
        "SELECT a.delivery, max(a.attempt), max(a.number), max(a.at), max(a.ended) FROM activity a \
         WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = a.delivery) GROUP BY a.delivery",
    )?;
    let mut delete = owed.prepare("DELETE FROM owed WHERE seq = ?")?;
    let mut update = owed.prepare(
        "UPDATE owed SET attempts = max(attempts, ?), entries = max(entries, ?), due = ? \
         WHERE seq = ?",
    )?;
    let mut rows = activity.query([])?;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        if row.get::<_, Option<i64>>(4)?.is_some() {
            delete.execute([seq])?;
        } else {
            let so_far: (u16, u16, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
            update.execute((so_far.0, so_far.1, so_far.2, seq))?;
        }
    }
    Ok(())
}

impl OwedFile {
    /// Leaves a mark, if this error says that the file is damaged, so that it is made again when the
    /// store is opened the next time.
    pub(super) fn condemn(&self, error: &StoreError) {
        if is_damage(error)
            && let Err(error) = fs::write(condemned(self.path()), b"")
        {
            tracing::error!(%error, "cannot mark owed.db as damaged: delete it by hand");
        }
    }
}

fn condemned(path: &Path) -> std::path::PathBuf {
    path.with_extension("damaged")
}

fn is_condemned(path: &Path) -> bool {
    condemned(path).exists()
}

/// Removes a file of SQLite, and what stands beside it.
fn remove(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove_file(Path::new(&name))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(of_file(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
