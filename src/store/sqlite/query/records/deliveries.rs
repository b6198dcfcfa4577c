//! The list of deliveries.
//!
//! Those that are owed are found in `owed.db`; dead, expired and cancelled ones, which are few, by
//! their ends; all others by what was planned.

use std::{ops::ControlFlow, sync::Arc};

use rusqlite::Connection;

use super::{
    Archive, LARGEST_PAGE,
    event::{Heads, push},
    filter::{SqlCondition, is_within},
    walk::{Cursor, SegmentRange, Window},
};
use crate::{
    model::{DeliverySeq, DeliveryState, Ended, EventSeq, ProjectId, Selection},
    store::{
        DeliveryRecord, Page, Result,
        sqlite::segment::{
            rows::{DeliveryRow, delivery, ended_code, without_copy},
            segments::Segment,
        },
    },
};

/// How the deliveries of a selection are found.
pub enum AccessPath {
    Owed {
        attempted: bool,
    },
    /// By an end that has an index.
    Ended(Ended),
    /// By what was planned, and then whether it stands so.
    Planned(Option<DeliveryState>),
}

impl AccessPath {
    pub fn of(state: Option<DeliveryState>) -> Self {
        match state {
            Some(DeliveryState::Pending) => Self::Owed { attempted: false },
            Some(DeliveryState::Retrying) => Self::Owed { attempted: true },
            Some(DeliveryState::Dead) => Self::Ended(Ended::Dead),
            Some(DeliveryState::Expired) => Self::Ended(Ended::Expired),
            Some(DeliveryState::Cancelled) => Self::Ended(Ended::Cancelled),
            Some(DeliveryState::Delivered) => Self::Planned(Some(DeliveryState::Delivered)),
            None => Self::Planned(None),
        }
    }
}

/// A selection with the numbers that rows have instead of ids.
pub struct Selected<'a> {
    pub project: i64,
    pub destination: Option<i64>,
    pub selection: &'a Selection,
}

impl Archive {
    /// `None`: no row can match, since none names this project or destination.
    pub fn selected<'a>(
        &self,
        project: ProjectId,
        selection: &'a Selection,
    ) -> Option<Selected<'a>> {
        let control = &self.readers.control;
        let destination = match selection.destination {
            Some(it) => Some(control.known_number(it)?),
            None => None,
        };
        Some(Selected { project: control.known_number(project)?, destination, selection })
    }

    pub fn deliveries(
        &self,
        project: ProjectId,
        selection: &Selection,
        page: Page,
    ) -> Result<Vec<DeliveryRecord>> {
        let Some(selected) = self.selected(project, selection) else { return Ok(Vec::new()) };
        let before = page.before.map_or(u64::MAX >> 1, |it| it.0);
        let limit = page.limit.min(LARGEST_PAGE);
        let mut list = Vec::new();
        if limit > 0 {
            self.list(&selected, before, &mut |record| push(&mut list, record, limit))?;
        }
        Ok(list)
    }

    /// Gives the deliveries of a selection below `before` to `take`, from new to old, until it has
    /// enough.
    fn list(
        &self,
        selected: &Selected<'_>,
        before: u64,
        take: &mut dyn FnMut(DeliveryRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        if let AccessPath::Owed { attempted } = AccessPath::of(selected.selection.state) {
            return self.list_owed(selected, attempted, before, take);
        }
        let event = DeliverySeq::from_bits(before).event();
        for stretch in SegmentRange::below(&self.readers.segments, EventSeq(event.0 + 1)) {
            let stretch = stretch?;
            let visit = |own: &Connection, rows: Vec<(Cursor, ListedDelivery)>| {
                self.visit(selected, &stretch.about, own, rows, take)
            };
            let fetch = |connection: &Connection, segment: &Segment, window| {
                fetch(selected, connection, segment, window)
            };
            if stretch.walk((before, 0), fetch, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        selected: &Selected<'_>,
        about: &[Arc<Segment>],
        own: &Connection,
        rows: Vec<(Cursor, ListedDelivery)>,
        take: &mut dyn FnMut(DeliveryRecord) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut heads = Heads::default();
        for (cursor, found) in rows {
            let Some(head) = heads.of(own, cursor)? else { continue };
            let Selection { event_type, from, until, state, .. } = selected.selection;
            if !event_type.as_ref().is_none_or(|it| it.matches(&head.event_type))
                || !is_within(head.received_at, *from, *until)
            {
                continue;
            }
            let seq = DeliverySeq::from_bits(cursor.0);
            let progress = self.progress(seq, about)?;
            if state.is_some_and(|it| progress.state().is_ok_and(|found| found != it)) {
                continue;
            }
            // A dead letter that was replayed is none any more.
            if state.is_some() && progress.replayed.is_some() {
                continue;
            }
            let row = match found {
                ListedDelivery::Row(row) => *row,
                ListedDelivery::Seq => match self.readers.delivery(seq)? {
                    Some(row) => row,
                    None => continue,
                },
            };
            if row.project != selected.project {
                continue;
            }
            if take(self.delivery_record(row, &head, progress)?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn list_owed(
        &self,
        selected: &Selected<'_>,
        attempted: bool,
        mut before: u64,
        take: &mut dyn FnMut(DeliveryRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        /// `owed.db` goes through all of a destination for each chunk, so there should not be many.
        const LARGEST: usize = 65_536;
        let mut chunk = 256;
        let destinations = self.owing(selected)?;
        loop {
            let mut seqs = Vec::new();
            for &destination in &destinations {
                seqs.extend(self.owed.newest(destination, attempted, before, chunk)?);
            }
            seqs.sort_unstable_by(|a, b| b.cmp(a));
            seqs.truncate(chunk);
            let Some(last) = seqs.last() else { return Ok(()) };
            before = last.bits();
            chunk = (chunk * 8).min(LARGEST);
            for &seq in &seqs {
                let Some(own) = self.readers.segments.of_event(seq.event()) else { continue };
                let about = self.readers.segments.about_event(seq.event())?;
                let rows = vec![((seq.bits(), 0), ListedDelivery::Seq)];
                if own.read(|it| self.visit(selected, &about, it, rows, take))?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// The destinations of a selection to which something is owed.
    pub fn owing(&self, selected: &Selected<'_>) -> Result<Vec<i64>> {
        let all = match selected.destination {
            Some(destination) => vec![destination],
            None => self.owed.backlog()?.into_iter().map(|it| it.0).collect(),
        };
        let mut found = Vec::new();
        for destination in all {
            // A destination has one project; any of its deliveries says which.
            let Some(any) = self.owed.any(destination)? else { continue };
            if self.readers.delivery(any)?.is_some_and(|it| it.project == selected.project) {
                found.push(destination);
            }
        }
        Ok(found)
    }
}

/// What a segment knows about a delivery of the list.
enum ListedDelivery {
    Row(Box<DeliveryRow>),
    Seq,
}

fn fetch(
    selected: &Selected<'_>,
    connection: &Connection,
    segment: &Segment,
    window: Window,
) -> Result<Vec<(Cursor, ListedDelivery)>> {
    let mut condition = SqlCondition::new("project = ?", selected.project);
    if let Some(destination) = selected.destination {
        condition.and("destination = ?", destination);
    }
    let mut found = Vec::new();
    match AccessPath::of(selected.selection.state) {
        AccessPath::Ended(ended) => {
            let sql = ended_sql(segment, ended, &mut condition, window);
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(condition.values())?;
            while let Some(row) = rows.next()? {
                found.push(((row.get::<_, i64>(0)? as u64, 0), ListedDelivery::Seq));
            }
        }
        AccessPath::Planned(_) | AccessPath::Owed { .. } => {
            condition.and("seq >= ?", window.low as i64);
            condition.and("seq < ?", window.before.0 as i64);
            let sql = format!(
                "SELECT {} FROM deliveries WHERE {} ORDER BY seq DESC LIMIT {}",
                without_copy(),
                condition.sql(),
                window.limit
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(condition.values())?;
            while let Some(row) = rows.next()? {
                let row = delivery(row)?;
                found.push(((row.seq.bits(), 0), ListedDelivery::Row(Box::new(row))));
            }
        }
    }
    Ok(found)
}

fn ended_sql(
    segment: &Segment,
    ended: Ended,
    condition: &mut SqlCondition,
    window: Window,
) -> String {
    condition.and("ended = ?", ended_code(ended));
    condition.and_all("ended > 1", []);
    condition.and("delivery >= ?", window.low as i64);
    condition.and("delivery < ?", window.before.0 as i64);
    // Those that were replayed are passed over here where this segment knows it, and behind it in any case.
    condition.and_all(
        "NOT EXISTS (SELECT 1 FROM activity r WHERE r.delivery = activity.delivery AND r.ended > 4)",
        [],
    );
    format!(
        "SELECT delivery FROM activity {} WHERE {} ORDER BY delivery DESC LIMIT {}",
        by_end(segment),
        condition.sql(),
        window.limit
    )
}

/// How to find ends in a segment. To be followed by conditions of which one is `ended > 1`.
pub fn by_end(segment: &Segment) -> &'static str {
    if segment.is_sealed() { "INDEXED BY activity_by_end" } else { "" }
}
