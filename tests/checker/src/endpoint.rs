//! What must hold at one endpoint.

use std::collections::{BTreeMap, HashMap};

use crate::{
    judge::{Event, Found, Kind, Place, Violation},
    log::{Endpoint, Received, Run, Status},
};

pub struct AtEndpoint<'a> {
    endpoint: &'a Endpoint,
    run: &'a Run,
    events: &'a BTreeMap<Place<'a>, Event<'a>>,
    pub found: Found,
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
            fifo: endpoint.fifo,
            allowed: endpoint.in_flight,
            ..Found::default()
        };
        Self { endpoint, run, events, found, violations: Vec::new() }
    }

    /// Goes through the requests in the order in which they arrived.
    pub fn judge(&mut self, requests: &[&'a Received]) {
        self.found.requests = requests.len() as u64;
        let messages = self.messages(requests);
        self.found.delivered = messages.values().filter(|it| it.delivered).count() as u64;
        self.missing(&messages);
        if self.endpoint.fifo {
            self.order(requests);
            self.order_of_acceptance(requests);
        }
    }

    fn broken(&mut self, kind: Kind, what: String) {
        let what = format!("{}: {what}", self.endpoint.name);
        self.violations.push(Violation { kind, what });
    }

    /// Follows each message over its requests.
    fn messages(&mut self, requests: &[&'a Received]) -> HashMap<&'a str, Message<'a>> {
        let mut messages: HashMap<&str, Message> = HashMap::new();
        let mut ids: HashMap<Place, &str> = HashMap::new();
        // Repeats by the kill that explains them.
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
        for (kill, count) in repeats {
            self.found.repeats += count;
            self.found.most_repeats = self.found.most_repeats.max(count);
            if count > self.endpoint.in_flight {
                let allowed = self.endpoint.in_flight;
                let what = format!("{count} came twice over kill {kill}, and {allowed} may");
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

    /// It had been taken before: only a kill in between explains that, and only shortly after the
    /// delivery, which had no time to be settled.
    fn repeated(&mut self, request: &Received, before: u64, repeats: &mut BTreeMap<usize, u64>) {
        let kills = &self.run.kills;
        let kill = kills.partition_point(|kill| *kill < before);
        match kills.get(kill) {
            Some(at) if *at <= request.t && at - before <= self.run.unsettled_ns => {
                *repeats.entry(kill).or_default() += 1;
            }
            Some(at) if *at <= request.t => {
                let settled = (at - before) / 1_000_000;
                let what =
                    format!("{} came again, taken {settled} ms before kill {kill}", request.id);
                self.broken(Kind::Duplicate, what);
            }
            Some(_) | None => {
                let what = format!("{} came again without a kill in between", request.id);
                self.broken(Kind::Duplicate, what);
            }
        }
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
