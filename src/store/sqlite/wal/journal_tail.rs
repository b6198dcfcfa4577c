//! What an earlier process left in the journal: which records are whole, and whether what is missing was on disk.
//!
//! A power cut may take any part of what was not synced, and so may leave whole records behind one that is not.
//! What was synced is another matter: a record up to that mark which is not whole is damage, and a start must
//! not pass over it, since somebody was promised what it says.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    model::EventSeq,
    store::{Loss, Result},
};

/// Length and checksum; then follow, under the checksum, the segment, the number, and the statements.
pub const HEADER: usize = 12;
const PLACE: usize = 16;

pub struct Record {
    pub segment: EventSeq,
    pub number: u64,
    pub buffer: Vec<u8>,
}

/// One file.
pub struct JournalTail {
    pub name: &'static str,
    /// Those that stand whole one behind the other, from the beginning on.
    pub records: Vec<Record>,
    /// Where the first stands that is not whole.
    pub end: usize,
    /// Whole ones behind that with higher numbers: segment and number.
    pub strays: Vec<(EventSeq, u64)>,
}

impl Record {
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (check, rest) = rest.split_first_chunk()?;
        let (body, behind) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        if body.len() < PLACE || xxh3_64(body) != u64::from_le_bytes(*check) {
            return None;
        }
        let (segment, body) = body.split_first_chunk()?;
        let (number, buffer) = body.split_first_chunk()?;
        let segment = EventSeq(u64::from_le_bytes(*segment));
        Some((
            Self { segment, number: u64::from_le_bytes(*number), buffer: buffer.to_vec() },
            behind,
        ))
    }
}

/// The records that stand whole one behind the other, and where they end.
pub fn chain(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut rest, mut records) = (bytes, Vec::new());
    while let Some((record, behind)) = Record::take(rest) {
        if records.last().is_some_and(|it: &Record| it.number + 1 != record.number) {
            break;
        }
        records.push(record);
        rest = behind;
    }
    (records, bytes.len() - rest.len())
}

impl JournalTail {
    pub fn read(name: &'static str, bytes: &[u8]) -> Self {
        let (records, end) = chain(bytes);
        let last = records.last().map_or(0, |it| it.number);
        Self { name, end, strays: strays(&bytes[end..], last), records }
    }

    /// The highest number of a whole record.
    pub fn highest(&self) -> Option<u64> {
        let numbers = self.records.iter().map(|it| it.number);
        numbers.chain(self.strays.iter().map(|it| it.1)).max()
    }

    fn numbers(&self, segment: EventSeq) -> impl Iterator<Item = u64> {
        let records = self.records.iter().map(|it| (it.segment, it.number));
        records.chain(self.strays.iter().copied()).filter(move |it| it.0 == segment).map(|it| it.1)
    }
}

/// Whole records anywhere in these bytes with higher numbers than `last`. What is left of an older time has
/// lower ones.
fn strays(bytes: &[u8], last: u64) -> Vec<(EventSeq, u64)> {
    /// Numbers that are further off are no numbers.
    const FAR: u64 = 1 << 40;
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(skipped) = bytes[at..].iter().position(|it| *it != 0) {
        // The length is little-endian and not zero: its first byte is at most three zeros back.
        let until = at + skipped;
        at = at.max(until.saturating_sub(3));
        let Some((head, _)) = bytes[at..].split_first_chunk::<{ HEADER + PLACE }>() else { break };
        let number = u64::from_le_bytes(head[HEADER + 8..].try_into().unwrap_or_default());
        let record = Some(number)
            .filter(|it| (last + 1..last + FAR).contains(it))
            .and_then(|_| Record::take(&bytes[at..]));
        match record {
            Some((record, behind)) => {
                found.push((record.segment, record.number));
                at = bytes.len() - behind.len();
            }
            None => at += 1,
        }
    }
    found
}

/// Refuses when something is missing that was on disk. What a power cut took out of the rest ends the journal
/// there, and is reported. `known` is the last batch that the segment has, `synced` the last that was on disk.
pub fn judge(
    files: &mut [JournalTail; 2],
    segment: EventSeq,
    known: Option<u64>,
    synced: u64,
) -> Result<()> {
    let there: BTreeSet<u64> = files.iter().flat_map(|it| it.numbers(segment)).collect();
    let Some(before) = known.or_else(|| there.first().map(|it| it - 1)) else { return Ok(()) };
    let mut hole = before + 1;
    while there.contains(&hole) {
        hole += 1;
    }
    let follow = there.range(hole..).count();
    if hole <= synced {
        return Err(loss(files, segment, hole, follow, synced).into());
    }
    if follow > 0 {
        tracing::warn!(
            turn = hole,
            follow,
            "the journal is torn: turns that were not on disk yet, and were promised to nobody, are dropped"
        );
        for file in files {
            file.records.retain(|it| it.number < hole);
        }
    }
    Ok(())
}

fn loss(
    files: &[JournalTail; 2],
    segment: EventSeq,
    hole: u64,
    follow: usize,
    synced: u64,
) -> Loss {
    let has = |it: &JournalTail, wanted: &dyn Fn(u64) -> bool| it.numbers(segment).any(wanted);
    // Where the batch should stand: behind the one before it, or before one that follows.
    let file = files
        .iter()
        .find(|it| it.strays.iter().any(|stray| stray.1 > hole))
        .or_else(|| files.iter().find(|it| has(it, &|number| number + 1 == hole)))
        .or_else(|| files.iter().find(|it| has(it, &|number| number > hole)));
    let lost = match follow {
        0 => format!("turns {hole} to {synced}, which were on disk, are lost"),
        _ => format!(
            "turn {hole} is lost, with {follow} whole records that follow: events that were accepted, \
             plans and outcomes"
        ),
    };
    match file {
        Some(file) => {
            let found = format!("is damaged at byte {}", file.end);
            Loss { file: file.name.to_owned(), found, lost }
        }
        None => {
            let file = format!("segments/{:016}.db-wal", segment.0);
            let found = "or the journal is damaged or cut off".to_owned();
            Loss { file, found, lost }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    const SEGMENT: EventSeq = EventSeq(1);

    fn record(number: u64) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(SEGMENT.0.to_le_bytes());
        body.extend(number.to_le_bytes());
        body.extend(format!("turn {number} wrote this").bytes());
        let mut record = Vec::new();
        record.extend((body.len() as u32).to_le_bytes());
        record.extend(xxh3_64(&body).to_le_bytes());
        record.extend(body);
        record
    }

    fn file(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        numbers.flat_map(record).chain([0; 100]).collect()
    }

    /// The batches that are executed, or why none is.
    fn judged(
        one: &[u8],
        other: &[u8],
        known: Option<u64>,
        synced: u64,
    ) -> Result<Vec<u64>, String> {
        let mut files =
            [JournalTail::read("journal-0", one), JournalTail::read("journal-1", other)];
        match judge(&mut files, SEGMENT, known, synced) {
            Ok(()) => {
                let records = files.iter().flat_map(|it| &it.records);
                Ok(records.map(|it| it.number).collect())
            }
            Err(StoreError::Incomplete(loss)) => Err(loss.to_string()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn each_bit_of_what_was_synced_counts() {
        let whole = file(11..=20);
        let records = whole.len() - 100;
        for place in 0..records {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            let damaged = judged(&bytes, &[], Some(10), 20).unwrap_err();
            assert!(damaged.contains("`journal-0` is damaged at byte"), "{place}: {damaged}");
            // What the segment has anyway is not needed.
            assert!(judged(&bytes, &[], Some(20), 20).is_ok(), "{place}");
            // What was not synced was promised to nobody.
            let torn = judged(&bytes, &[], Some(10), 10).unwrap();
            assert_eq!(torn, (11..11 + torn.len() as u64).collect::<Vec<_>>(), "{place}");
            assert!(torn.len() < 10);
        }
    }

    #[test]
    fn a_torn_tail_is_no_damage_and_a_cut_file_is() {
        let whole = file(11..=20);
        let last = whole.len() - 100 - 5;
        assert_eq!(judged(&whole[..last], &[], Some(10), 19).unwrap().len(), 9);
        let cut = judged(&whole[..last], &[], Some(10), 20).unwrap_err();
        assert!(cut.contains("turns 20 to 20"), "{cut}");
        assert!(judged(&[], &[], Some(10), 20).unwrap_err().contains("db-wal"));
        assert_eq!(judged(&[], &[], Some(20), 20).unwrap(), Vec::<u64>::new());
        assert_eq!(judged(&[], &[], None, 20).unwrap(), Vec::<u64>::new());
    }

    #[test]
    fn two_files_are_one_journal() {
        let (one, other) = (file(11..=15), file(16..=20));
        assert_eq!(judged(&one, &other, Some(10), 20).unwrap().len(), 10);
        assert_eq!(judged(&one, &other, None, 20).unwrap().len(), 10);
        let gone = judged(&[], &other, Some(10), 20).unwrap_err();
        assert!(gone.contains("turn 11 is lost, with 5 whole records that follow"), "{gone}");
        // Older batches that stand behind newer ones are no strays.
        let mut reused = file(21..=22);
        reused.truncate(reused.len() - 100);
        reused.extend_from_slice(&file(11..=15)[7..]);
        assert_eq!(judged(&reused, &[], Some(20), 22).unwrap(), [21, 22]);
    }
}
