//! What must hold at one endpoint.

use std::collections::{BTreeMap, HashMap};

use crate::{
    judge::{AtFault, Event, Found, Kind, Place, Violation},
    log::{Endpoint, Order, Received, Run, Status},
    stall,
};

pub struct AtEndpoint<'a> {
    endpoint: &'a Endpoint,
    run: &'a Run,
    events: &'a BTreeMap<Place<'a>, Event<'a>>,
    pub found: Found,
    /// For each fault.
    pub at_faults: Vec<AtFault>,
    pub violations: Vec<Violation>,
}

/// What came of one message so far.
struct Message<'a> {
    place: Place<'a>,
    body: &'a str,
    /// Whether it was taken at any time.
    delivered: bool,
    /// When it last arrived, if it was taken then; a try after one that was refused is a retry.
    taken: Option<u64>,
}

impl<'a> AtEndpoint<'a> {
    pub fn new(
        endpoint: &'a Endpoint,
        run: &'a Run,
        events: &'a BTreeMap<Place<'a>, Event<'a>>,
    ) -> Self {
        let found = Found {
            name: endpoint.name.clone(),
            order: endpoint.order,
            allowed: endpoint.in_flight,
            ..Found::default()
        };
        let at_faults = vec![AtFault::default(); run.faults.len()];
        Self { endpoint, run, events, found, at_faults, violations: Vec::new() }
    }

    /// Goes through the requests in the order in which they arrived.
    pub fn judge(&mut self, requests: &[&'a Received]) {
        self.found.requests = requests.len() as u64;
        let messages = self.messages(requests);
        self.found.delivered = messages.values().filter(|it| it.delivered).count() as u64;
        self.missing(&messages);
        match self.endpoint.order {
            Order::None => (),
            Order::Key => self.order(requests),
            Order::Fifo => {
                self.order(requests);
                self.order_of_acceptance(requests);
            }
        }
        self.stalls(requests);
    }

    fn broken(&mut self, kind: Kind, what: String) {
        let what = format!("{}: {what}", self.endpoint.name);
        self.violations.push(Violation { kind, what });
    }

    /// Follows each message over its requests.
    fn messages(&mut self, requests: &[&'a Received]) -> HashMap<&'a str, Message<'a>> {
        let mut messages: HashMap<&str, Message> = HashMap::new();
        let mut ids: HashMap<Place, &str> = HashMap::new();
        // Repeats by the fault that explains them.
        let mut repeats: BTreeMap<usize, u64> = BTreeMap::new();
        for request in requests {
            let place = (request.lane.as_str(), request.n);
            self.known(request, place);
            match ids.insert(place, &request.id) {
                Some(other) if other != request.id => {
                    let what = format!("{place:?} arrived as {other} and as {}", request.id);
                    self.broken(Kind::Identity, what);
                }
                Some(_) | None => (),
            }
            let taken = request.taken().then_some(request.t);
            let Some(message) = messages.get_mut(request.id.as_str()) else {
                let message =
                    Message { place, body: &request.body, delivered: request.taken(), taken };
                messages.insert(&request.id, message);
                continue;
            };
            if message.body != request.body || message.place != place {
                self.broken(Kind::Body, format!("{} came again with another body", request.id));
            }
            match message.taken {
                Some(before) => self.repeated(request, before, &mut repeats),
                None => self.found.retries += 1,
            }
            message.delivered |= request.taken();
            message.taken = taken;
        }
        for (fault, count) in repeats {
            self.found.repeats += count;
            self.found.most_repeats = self.found.most_repeats.max(count);
            self.at_faults[fault].repeats = count;
            if count > self.endpoint.in_flight {
                let allowed = self.endpoint.in_flight;
                let what =
                    format!("{count} came twice over {}, and {allowed} may", self.fault(fault));
                self.broken(Kind::Duplicate, what);
            }
        }
        messages
    }

    /// Only what was posted, and not refused, may arrive, and under the id that its sender was told.
    fn known(&mut self, request: &Received, place: Place) {
        let Some(event) = self.events.get(&place) else {
            self.broken(Kind::Unexpected, format!("{place:?} was never posted"));
            return;
        };
        if !request.lane.starts_with(&self.endpoint.lanes) {
            self.broken(Kind::Unexpected, format!("{place:?} does not go here"));
        }
        if event.status == Status::Failed {
            self.broken(Kind::Unexpected, format!("{place:?} arrived, and its sender was refused"));
        }
        if event.id.is_some_and(|id| id != request.id) {
            let told = event.id.unwrap_or_default();
            self.broken(Kind::Identity, format!("{place:?} is {told}, and came as {}", request.id));
        }
    }

    /// It had been taken before: only a fault explains that, and only when the delivery came during
    /// it or shortly before, and had no time to be settled.
    fn repeated(&mut self, request: &Received, before: u64, repeats: &mut BTreeMap<usize, u64>) {
        let faults = &self.run.faults;
        let place = faults.partition_point(|fault| fault.until < before);
        match faults.get(place) {
            Some(fault) if fault.from <= request.t => {
                let settled = fault.from.saturating_sub(before);
                if settled <= self.run.unsettled_ns {
                    *repeats.entry(place).or_default() += 1;
                    return;
                }
                let (id, ms) = (&request.id, settled / 1_000_000);
                let what = format!("{id} came again, taken {ms} ms before {}", self.fault(place));
                self.broken(Kind::Duplicate, what);
            }
            Some(_) | None => {
                let what = format!("{} came again without a fault in between", request.id);
                self.broken(Kind::Duplicate, what);
            }
        }
    }

    /// Whoever has work gets some of it before long, whatever happens.
    fn stalls(&mut self, requests: &[&Received]) {
        let Some(limit) = self.run.resumed_ns else { return };
        let goes_here = |place: &Place| place.0.starts_with(&self.endpoint.lanes);
        let posted = self.events.iter().filter(|(place, it)| {
            // One of which nobody knows whether it was accepted may be missing.
            goes_here(place) && it.status == Status::Acked
        });
        let posted = posted.map(|(place, it)| (*place, it.posted)).collect();
        let mut taken: HashMap<Place, u64> = HashMap::new();
        for request in requests.iter().filter(|it| it.taken()) {
            taken.entry((&request.lane, request.n)).or_insert(request.t);
        }
        for gap in stall::gaps(&posted, &taken) {
            let length = gap.until - gap.from;
            // The first one that can have been its cause, or else the last one before it.
            let faults = &self.run.faults;
            let during = faults.partition_point(|fault| fault.from < gap.from);
            let cause = match faults.get(during) {
                Some(fault) if fault.from < gap.until => Some(during),
                Some(_) | None => during.checked_sub(1),
            };
            if let Some(cause) = cause {
                let longest = &mut self.at_faults[cause].gap;
                *longest = length.max(*longest);
            }
            if length > limit {
                let cause = cause.map_or("any fault".to_owned(), |it| self.fault(it));
                let what = format!("nothing came for {} ms, after {cause}", length / 1_000_000);
                self.broken(Kind::Stall, what);
            }
        }
    }

    /// `fault 3 (freeze)`.
    fn fault(&self, place: usize) -> String {
        format!("fault {place} ({})", self.run.faults[place].name)
    }

    fn missing(&mut self, messages: &HashMap<&str, Message>) {
        for (place, event) in self.events {
            if event.status != Status::Acked || !place.0.starts_with(&self.endpoint.lanes) {
                continue;
            }
            let message = event.id.and_then(|id| messages.get(id));
            if message.is_none_or(|it| !it.delivered) {
                let id = event.id.unwrap_or("without an id");
                self.broken(
                    Kind::Missing,
                    format!("{id} of {place:?} was acked and never arrived"),
                );
            }
        }
    }

    /// In each lane of a sender, an event may be tried only when those before it have been taken.
    /// Those that never arrive are missing, which is said elsewhere.
    fn order(&mut self, requests: &[&Received]) {
        let mut lanes: HashMap<&str, Vec<u64>> = HashMap::new();
        for request in requests.iter().filter(|it| it.taken()) {
            lanes.entry(&request.lane).or_default().push(request.n);
        }
        for places in lanes.values_mut() {
            places.sort_unstable();
            places.dedup();
        }
        // How many of each lane have been taken.
        let mut heads: HashMap<&str, usize> = HashMap::new();
        for request in requests {
            let Some(places) = lanes.get(request.lane.as_str()) else { continue };
            let head = heads.entry(&request.lane).or_default();
            let Some(awaited) = places.get(*head) else { continue };
            if request.n > *awaited {
                let (lane, n) = (&request.lane, request.n);
                let what = format!("{lane}: {n} was tried before {awaited} was taken");
                self.broken(Kind::Order, what);
                // Said once: go on from here.
                *head = places.partition_point(|it| *it <= request.n);
            } else if request.n == *awaited && request.taken() {
                *head += 1;
            }
        }
    }

    /// Over all senders: what was acked before another was even posted arrives before it.
    fn order_of_acceptance(&mut self, requests: &[&Received]) {
        // The latest post among what has arrived.
        let mut latest: Option<(u64, Place)> = None;
        let mut seen: HashMap<Place, ()> = HashMap::new();
        for request in requests.iter().filter(|it| it.taken()) {
            let place = (request.lane.as_str(), request.n);
            let Some(event) = self.events.get(&place) else { continue };
            if seen.insert(place, ()).is_some() {
                continue;
            }
            if let Some((posted, other)) = latest.filter(|(posted, _)| event.acked < *posted) {
                let early = (posted - event.acked) / 1000;
                let what = format!(
                    "{other:?} was posted {early} µs after {place:?} was acked, and came first"
                );
                self.broken(Kind::Order, what);
            }
            if latest.is_none_or(|(posted, _)| event.posted > posted) {
                latest = Some((event.posted, place));
            }
        }
    }
}

impl Received {
    fn taken(&self) -> bool {
        (200..300).contains(&self.status)
    }
}
