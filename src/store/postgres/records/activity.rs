//! The activity log of a project, and counts by minute.

use jiff::Timestamp;

use super::{LARGEST_PAGE, bounds, filter::SqlCondition};
use crate::{
    model::{DestinationId, ProjectId, TypeName},
    store::{
        ActivityFilter, ActivityRecord, Minute, Page, Result,
        codes::class_code,
        postgres::{
            core::Core,
            rows::{self, entry_columns},
            values::{Uuid, micros, time},
        },
    },
};

const MINUTE: i64 = 60 * 1_000_000;

pub(super) async fn page(
    core: &Core,
    project: ProjectId,
    filter: &ActivityFilter,
    page: Page,
) -> Result<Vec<ActivityRecord>> {
    let (first, end) = bounds(core, project);
    let mut condition = SqlCondition::default();
    condition.and("a.project = ?", Uuid::from(project));
    condition.and("a.delivery >= ?", first << 11);
    condition.and("a.delivery < ?", end << 11);
    if let Some(destination) = filter.destination {
        condition.and("a.destination = ?", Uuid::from(destination));
    }
    if let Some(class) = filter.class {
        condition.and("a.class = ?", class_code(class) as i32);
    }
    // Attempts that were not accepted have an index.
    if filter.failed_only || filter.class.is_some_and(|it| class_code(it) > 0) {
        condition.and_fact("a.class > 0");
    }
    condition.and_time("a.at", filter.from, filter.until);
    condition.and_type("e.type", filter.event_type.as_ref());
    if let Some((delivery, number)) = page.before {
        let delivery = i64::try_from(delivery).unwrap_or(i64::MAX);
        // The first condition is for the index, the second for what it lets through.
        condition.and("a.delivery <= ?", delivery);
        condition.and_both("(a.delivery, a.number) < (?, ?)", delivery, i32::from(number));
    }
    let sql = format!(
        "SELECT {}, e.id, e.type, a.destination FROM activity a \
         JOIN events e ON e.seq = a.delivery >> 11 WHERE {} \
         ORDER BY a.delivery DESC, a.number DESC LIMIT {}",
        entry_columns!(),
        condition.sql(),
        page.limit.min(LARGEST_PAGE)
    );
    let mut loan = core.session().await?;
    let mut list = Vec::new();
    for row in loan.session()?.ask(&sql, &condition.values()).await? {
        list.push(ActivityRecord {
            entry: rows::entry(&row)?,
            event: row.try_get::<_, Uuid>(11)?.id(),
            event_type: TypeName::trusted(row.try_get(12)?),
            destination: row.try_get::<_, Uuid>(13)?.id(),
        });
    }
    Ok(list)
}

pub(super) async fn stats(
    core: &Core,
    destination: DestinationId,
    from: Timestamp,
    until: Timestamp,
) -> Result<Vec<Minute>> {
    let sql = "SELECT minute, sum(planned)::bigint, sum(delivered)::bigint, \
         sum(failed_attempts)::bigint, sum(dead)::bigint, sum(dropped)::bigint, \
         ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), \
         sum(durations[5]), sum(durations[6]), sum(durations[7])]::bigint[] FROM minutes \
         WHERE destination = $1 AND minute >= $2 AND minute < $3 GROUP BY minute ORDER BY minute";
    // A minute counts when it begins in the range.
    let first = (micros(from) + MINUTE - 1).div_euclid(MINUTE);
    let end = (micros(until) + MINUTE - 1).div_euclid(MINUTE);
    let mut loan = core.session().await?;
    let mut minutes = Vec::new();
    for row in loan.session()?.query(sql, &[&Uuid::from(destination), &first, &end]).await? {
        let count = |column: usize| row.try_get::<_, i64>(column).map(|it| it as u64);
        let mut minute = Minute {
            start: time(row.try_get::<_, i64>(0)? * MINUTE)?,
            planned: count(1)?,
            delivered: count(2)?,
            failed_attempts: count(3)?,
            dead: count(4)?,
            dropped: count(5)?,
            durations: [0; 7],
        };
        let durations: Vec<i64> = row.try_get(6)?;
        for (total, found) in minute.durations.iter_mut().zip(durations) {
            *total = found as u64;
        }
        minutes.push(minute);
    }
    Ok(minutes)
}
