//! What must hold between the two logs, and what does not.

use std::collections::{BTreeMap, HashMap};

use crate::{
    endpoint::AtEndpoint,
    log::{Order, Received, Run, Sent, Status},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Events by the best that the sender heard about them.
    pub acked: u64,
    pub failed: u64,
    pub unknown: u64,
    pub faults: usize,
    pub endpoints: Vec<Found>,
    /// By the kind of fault, in the order in which they first happened.
    pub by_fault: Vec<ByFault>,
    pub violations: Vec<Violation>,
}

/// What was found at one endpoint.
#[derive(Debug, Default)]
pub struct Found {
    pub name: String,
    pub order: Order,
    pub requests: u64,
    /// Different events that were taken.
    pub delivered: u64,
    /// Attempts after one that had been refused, as it should be.
    pub retries: u64,
    /// Deliveries of what had been taken already, over a fault.
    pub repeats: u64,
    /// The most of them over one fault, and how many are allowed.
    pub most_repeats: u64,
    pub allowed: u64,
}

/// What one fault did to one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtFault {
    pub repeats: u64,
    /// The longest time in which nothing new came though something was waiting, in nanoseconds.
    pub gap: u64,
}

/// What all faults of one kind did.
#[derive(Debug)]
pub struct ByFault {
    pub name: String,
    pub count: u64,
    pub repeats: u64,
    /// Nanoseconds, of all endpoints.
    pub longest_gap: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Acknowledged, and never arrived.
    Missing,
    /// Arrived, though never posted, or though it had been refused.
    Unexpected,
    /// Arrived again without a fault that explains it, or more often than was in flight.
    Duplicate,
    /// Out of order where order was promised.
    Order,
    /// Something was waiting, and nothing came for too long.
    Stall,
    /// The same message with another body.
    Body,
    /// One key with two events, one event with two keys, or an event with another one's payload.
    Identity,
}

/// An event as its sender knows it, from all of its posts.
pub struct Event<'a> {
    pub status: Status,
    pub id: Option<&'a str>,
    /// When it was first posted: the earliest moment at which it can have been accepted.
    pub posted: u64,
    /// When it was first acknowledged: the latest.
    pub acked: u64,
}

/// An event's place at its sender.
pub type Place<'a> = (&'a str, u64);

pub fn judge(sent: &[Sent], received: &[Received], run: &Run) -> Verdict {
    let mut verdict = Verdict { faults: run.faults.len(), ..Verdict::default() };
    let events = events(sent, &mut verdict.violations);
    for event in events.values() {
        match event.status {
            Status::Acked => verdict.acked += 1,
            Status::Failed => verdict.failed += 1,
            Status::Unknown => verdict.unknown += 1,
        }
    }
    let mut by_endpoint: HashMap<&str, Vec<&Received>> = HashMap::new();
    for request in received {
        by_endpoint.entry(&request.endpoint).or_default().push(request);
    }
    let mut at_faults = Vec::new();
    for endpoint in &run.endpoints {
        let requests = by_endpoint.remove(endpoint.name.as_str()).unwrap_or_default();
        let mut judge = AtEndpoint::new(endpoint, run, &events);
        judge.judge(&requests);
        verdict.violations.append(&mut judge.violations);
        verdict.endpoints.push(judge.found);
        at_faults.push(judge.at_faults);
    }
    verdict.by_fault = by_fault(run, &at_faults);
    for (endpoint, requests) in by_endpoint {
        let what = format!("{} requests at {endpoint}, which nothing goes to", requests.len());
        verdict.violations.push(Violation { kind: Kind::Unexpected, what });
    }
    verdict.violations.sort_by_key(|it| it.kind);
    verdict
}

/// `at_faults`: of each endpoint, of each fault.
fn by_fault(run: &Run, at_faults: &[Vec<AtFault>]) -> Vec<ByFault> {
    let mut kinds: Vec<ByFault> = Vec::new();
    for (place, fault) in run.faults.iter().enumerate() {
        let known = kinds.iter().position(|it| it.name == fault.name);
        let known = known.unwrap_or_else(|| {
            let name = fault.name.clone();
            kinds.push(ByFault { name, count: 0, repeats: 0, longest_gap: 0 });
            kinds.len() - 1
        });
        let kind = &mut kinds[known];
        kind.count += 1;
        for at in at_faults.iter().map(|endpoint| endpoint[place]) {
            kind.repeats += at.repeats;
            kind.longest_gap = kind.longest_gap.max(at.gap);
        }
    }
    kinds
}

/// Puts the posts of each event together.
fn events<'a>(sent: &'a [Sent], violations: &mut Vec<Violation>) -> BTreeMap<Place<'a>, Event<'a>> {
    let mut events: BTreeMap<Place, Event> = BTreeMap::new();
    let mut places: HashMap<&str, Place> = HashMap::new();
    let mut broken = |what| violations.push(Violation { kind: Kind::Identity, what });
    for post in sent {
        let place = (post.lane.as_str(), post.n);
        let event = events.entry(place).or_insert(Event {
            status: post.status,
            id: None,
            posted: post.t,
            acked: u64::MAX,
        });
        event.status = event.status.max(post.status);
        event.posted = event.posted.min(post.t);
        if post.status != Status::Acked {
            continue;
        }
        event.acked = event.acked.min(post.done);
        let Some(id) = post.id.as_deref() else {
            broken(format!("key {} was acked without an id", post.key));
            continue;
        };
        match event.id.replace(id) {
            Some(first) if first != id => {
                broken(format!("key {} became two events, {first} and {id}", post.key));
            }
            Some(_) | None => (),
        }
        match places.insert(id, place) {
            Some(other) if other != place => {
                broken(format!("{id} was given to {other:?} and to {place:?}"));
            }
            Some(_) | None => (),
        }
    }
    events
}
