//! Going through rows about events from new to old, over the borders of segments.

use std::{ops::ControlFlow, sync::Arc};

use rusqlite::Connection;

use crate::{
    model::{DeliverySeq, EventSeq},
    store::{
        Result,
        sqlite::segment::segments::{Segment, Segments},
    },
};

/// The place of a row in a list: a delivery's bits, and the number of an entry within it.
pub type Cursor = (u64, u16);

/// The events of one segment.
pub struct SegmentRange {
    /// The segment that has the events themselves.
    pub own: Arc<Segment>,
    /// This one and later ones that may have rows about these events.
    pub about: Vec<Arc<Segment>>,
    first: EventSeq,
    end: EventSeq,
}

/// What is asked of one segment: the highest `limit` rows from `low` on and below `before`.
#[derive(Clone, Copy)]
pub struct Window {
    pub low: u64,
    pub before: Cursor,
    pub limit: usize,
}

impl SegmentRange {
    /// The stretches that begin below `before`, from new to old.
    pub fn below(segments: &Segments, before: EventSeq) -> impl Iterator<Item = Result<Self>> {
        let all = segments.all();
        let count = all.partition_point(|it| it.first() < before);
        (0..count).rev().map(move |at| Self::new(&all, at))
    }

    fn new(all: &[Arc<Segment>], at: usize) -> Result<Self> {
        let end = all.get(at + 1).map_or(EventSeq(u64::MAX >> 11), |it| it.first());
        let mut about = vec![all[at].clone()];
        for later in &all[at + 1..] {
            if later.oldest()? < end {
                about.push(later.clone());
            }
        }
        Ok(Self { own: all[at].clone(), about, first: all[at].first(), end })
    }

    /// Gives rows about these events to `visit`, from new to old and in batches, until there are no
    /// more or `visit` has enough. `fetch` reads from one segment, from high to low; `visit` is also
    /// given a connection to the segment of the events. Holds a few thousand rows at most.
    pub fn walk<R>(
        &self,
        before: Cursor,
        fetch: impl Fn(&Connection, &Segment, Window) -> Result<Vec<(Cursor, R)>>,
        mut visit: impl FnMut(&Connection, Vec<(Cursor, R)>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        /// Small at first, since a page mostly is; then larger, since it was not found at once.
        const SMALLEST: usize = 128;
        const LARGEST: usize = 2048;

        let low = DeliverySeq::first_of(self.first).bits();
        let mut before = before.min((DeliverySeq::first_of(self.end).bits(), 0));
        let mut limit = SMALLEST;
        self.own.read(|own| {
            while before > (low, 0) {
                let (mut rows, mut floor) = (Vec::new(), None);
                for segment in &self.about {
                    let window = Window { low, before, limit };
                    let found = segment.read(|it| fetch(it, segment, window))?;
                    // There may be more below; what others have below that must wait.
                    if found.len() >= limit {
                        floor = floor.max(found.last().map(|it| it.0));
                    }
                    rows.extend(found);
                }
                rows.sort_unstable_by_key(|it| std::cmp::Reverse(it.0));
                if let Some(floor) = floor {
                    rows.truncate(rows.partition_point(|it| it.0 >= floor));
                }
                if !rows.is_empty() && visit(own, rows)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                match floor {
                    Some(floor) => before = floor,
                    None => break,
                }
                limit = (limit * 2).min(LARGEST);
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}
