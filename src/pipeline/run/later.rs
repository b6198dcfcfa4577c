//! The part of the loop that sets pipelines aside, and plans them when they have their answers.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use super::{
    BATCH_BYTES, Runner,
    in_flight::{Sent, SentPart},
    parked::QueuePosition,
};
use crate::{
    hint::Loss,
    model::{DeliverySeq, Event, EventSeq, Message, Name, Owed, Plan, Skipped},
    pipeline::{
        Options,
        compile::Active,
        plan::{Ids, PipelinePlan, PlanPart, Planner, TURN},
    },
    store::{Store, StoreError, WaitingEvent},
};

impl<L: Loss<Vec<(Owed, Message)>>> Runner<L> {
    /// The plan of an event, as far as it can be made now. The rest is set aside.
    pub(super) fn first_part(&mut self, event: &Arc<Event>, failures: &mut u64) -> Plan {
        let Options { waiting, waiting_bytes, .. } = self.parts.options;
        let Self { compiled, parked, outside, memories, turns, .. } = self;
        let mut planner = Planner::new(event, compiled);
        if let Some(planned) = planner.directed() {
            *failures += u64::from(planned.failures);
            return planned.plan;
        }
        let mut plan = Plan::of(event);
        let mut has_waits = false;
        for active in planner.wanted() {
            let may_wait = parked.has_room(waiting, waiting_bytes);
            if may_wait
                && compiled.has_several_projects()
                && turns.is_over(event.project)
                && !active.remembers()
            {
                parked.add(event, &active.name, planner.spots(active), Vec::new(), 0);
                plan.skipped
                    .push(waits(active, "it waits until other projects have had their turn"));
                has_waits = true;
                continue;
            }
            let (begun, unspent) = (Instant::now(), planner.budget);
            let mut asking = outside.asking(memories, event, Vec::new(), may_wait);
            let part = planner.part(active, plan.deliveries.len(), &mut asking);
            let (known, open) = (asking.known, asking.open);
            turns.note(event.project, begun.elapsed());
            match part {
                PlanPart::Made(mut made)
                    if !(may_wait && parked.blocks(event.seq, &made.spots())) =>
                {
                    *failures += u64::from(made.failures);
                    made.remembered = memories.keep(made.remembered);
                    made.add_to(&mut plan);
                }
                PlanPart::Made(_) | PlanPart::Waits => {
                    // What was made is thrown away, and made again when it is its turn.
                    planner.budget = unspent;
                    let spots = planner.spots(active);
                    let ticket = parked.add(event, &active.name, spots, known, open.len());
                    plan.skipped.push(waits(
                        active,
                        match open.is_empty() {
                            false => "it waits for an answer from outside",
                            true => "it waits behind an earlier event of the same lane",
                        },
                    ));
                    outside.wait_for(&ticket, open);
                    has_waits = true;
                }
            }
        }
        plan.skipped.extend(planner.unwanted());
        let mut ids = Ids::default();
        ids.tell_apart(event, &mut plan.deliveries);
        if has_waits {
            parked.planned(event.seq, &plan.skipped, plan.deliveries.len(), ids);
            parked.paid(event.seq, planner.budget);
        }
        plan
    }

    /// Reads more of what waited when the process ended, or when the store failed.
    pub(super) async fn resume(&mut self, after: EventSeq) -> ControlFlow<()> {
        let limit = self.parts.options.batch.max(1);
        let found = match self.parts.store.waiting(after, limit).await {
            Ok(found) => found,
            Err(StoreError::Closed) => return ControlFlow::Break(()),
            Err(error) => {
                self.wait_after(&error).await;
                return ControlFlow::Continue(());
            }
        };
        if !self.look_at_catalog().await {
            return ControlFlow::Continue(());
        }
        let mut given = Vec::with_capacity(found.len());
        for WaitingEvent { event, .. } in &found {
            match ids_of(self.parts.store.as_ref(), event.seq).await {
                Ok(ids) => given.push(ids),
                Err(StoreError::Closed) => return ControlFlow::Break(()),
                Err(error) => {
                    self.wait_after(&error).await;
                    return ControlFlow::Continue(());
                }
            }
        }
        self.waiting_behind = found.last().map(|it| it.event.seq);
        for (WaitingEvent { event, skipped }, ids) in found.into_iter().zip(given) {
            for pipeline in
                skipped.iter().filter(|it| it.waits()).filter_map(|it| it.pipeline.as_ref())
            {
                self.set_aside_again(&event, pipeline);
            }
            self.parked.planned(event.seq, &skipped, 0, ids);
            self.parked.first_kept(event.seq);
        }
        if self.waiting_behind.is_none() {
            // Only now is it known who stands behind whom.
            self.go_on().await;
        }
        ControlFlow::Continue(())
    }

    fn set_aside_again(&mut self, event: &Arc<Event>, pipeline: &Name) {
        let Self { compiled, parked, outside, memories, .. } = self;
        let mut planner = Planner::new(event, compiled);
        let (mut spots, mut known, mut open) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(active) = planner.named(pipeline) {
            let mut asking = outside.asking(memories, event, Vec::new(), true);
            // What it makes of the answers comes when it is its turn.
            planner.part(active, 0, &mut asking);
            (known, open) = (asking.known, asking.open);
            spots = planner.spots(active);
        }
        let ticket = parked.add(event, pipeline, spots, known, open.len());
        outside.wait_for(&ticket, open);
    }

    /// What was set aside will be planned by other orderings: it claims the lanes of these.
    pub(super) fn claim_again(&mut self) {
        let Self { compiled, parked, .. } = self;
        parked.claim_again(|event, pipeline| {
            let mut planner = Planner::new(event, compiled);
            planner.named(pipeline).map(|it| planner.spots(it)).unwrap_or_default()
        });
    }

    /// Plans what waited and does not have to any more; for one turn, since new events wait meanwhile.
    pub(super) async fn go_on(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < TURN
            && !self.parked.is_empty()
            && self.waiting_behind.is_none()
            && self.room_for_more().await
        {
            if !self.look_at_catalog().await {
                return;
            }
            self.parked.next_call();
            let (mut plans, mut failures, mut bytes) = (Vec::new(), 0, 0);
            let most = self.parts.options.batch.max(1);
            while plans.len() < most && bytes < BATCH_BYTES && begun.elapsed() < TURN {
                let Some((plan, sent)) = self.later_part(&mut failures) else { break };
                bytes += plan.event.weight();
                plans.push((plan, sent));
            }
            metrics::gauge!("tidegate_pipeline_waiting").set(self.parked.len() as f64);
            if plans.is_empty() {
                return;
            }
            self.meters.count(&plans, failures);
            self.keep(plans).await;
        }
    }

    /// The plan with what the next pipeline makes that can go on.
    fn later_part(&mut self, failures: &mut u64) -> Option<(Plan, Sent)> {
        let Self { compiled, parked, outside, memories, turns, .. } = self;
        loop {
            let QueuePosition { ticket, event, answers: known, deliveries: before, budget } =
                parked.next(turns)?;
            let mut planner = Planner::new(&event, compiled);
            planner.budget = budget;
            let mut made = match planner.named(&ticket.pipeline) {
                None => gone(&ticket.pipeline),
                Some(active) => {
                    let mut asking = outside.asking(memories, &event, known, true);
                    let begun = Instant::now();
                    let part = planner.part(active, before, &mut asking);
                    let (known, open) = (asking.known, asking.open);
                    turns.note(event.project, begun.elapsed());
                    parked.paid(event.seq, planner.budget);
                    match part {
                        PlanPart::Made(made) => made,
                        PlanPart::Waits => {
                            parked.asks(&ticket, known, open.len());
                            outside.wait_for(&ticket, open);
                            continue;
                        }
                    }
                }
            };
            *failures += u64::from(made.failures);
            made.remembered = memories.keep(made.remembered);
            if let Some(plan) = parked.send(&ticket, made) {
                let sent = Sent::of(&plan, SentPart::Later(ticket, before));
                return Some((plan, sent));
            }
        }
    }
}

/// What stands in an event until the pipeline has decided.
fn waits(active: &Active, reason: &str) -> Skipped {
    Skipped {
        pipeline: Some(active.name.clone()),
        pipeline_version: Some(active.version),
        route: None,
        by: Skipped::WAITS.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What becomes of an event whose pipeline is not there any more.
fn gone(pipeline: &Name) -> PipelinePlan {
    let skipped = Skipped {
        pipeline: Some(pipeline.clone()),
        pipeline_version: None,
        route: None,
        by: "pipeline".to_owned(),
        reason: "it was deleted, renamed or disabled while it waited for an answer".to_owned(),
    };
    PipelinePlan { skipped: vec![skipped], ..PipelinePlan::default() }
}

/// The ids of the messages that the first plan of an event made, as the store has them.
async fn ids_of(store: &dyn Store, event: EventSeq) -> Result<Ids, StoreError> {
    const FIRST_LOOK: u16 = 16;
    let mut until = FIRST_LOOK;
    loop {
        let seqs: Vec<_> = (0..until).map(|it| DeliverySeq::new(event, it)).collect();
        let messages = store.messages(&seqs).await?;
        // Ordinals have no gaps.
        if messages.len() < seqs.len() || until >= DeliverySeq::PER_EVENT {
            return Ok(Ids::of(&messages));
        }
        until = DeliverySeq::PER_EVENT;
    }
}
