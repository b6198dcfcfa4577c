//! Whose turn it is: deficit round robin over projects, then over a project's destinations.
//!
//! Beside the order it keeps shares of the places that there are for attempts. A project may have
//! four times as many in flight as places are free; what that leaves to it is its headroom, and each
//! of its destinations may have a tenth of that, or one. So what hangs takes a large part of the
//! places but never all, and the next to come still finds some, in the same project too. (Choudhury
//! and Hahne's dynamic thresholds, in two levels.)

use std::collections::{BTreeSet, VecDeque};

use crate::model::{IdMap, ProjectId};

/// Starts in one turn. More keep a turn's work together; fewer mix finer.
const PROJECT_QUANTUM: u32 = 16;
const LINE_QUANTUM: u32 = 4;
const PROJECT_SHARE: usize = 4;
const LINE_SHARE: usize = 10;

/// The destinations that could start an attempt now, by their numbers, in the order of their turns.
#[derive(Debug, Default)]
pub struct Rounds {
    projects: Vec<ProjectRound>,
    numbers: IdMap<ProjectId, usize>,
    ring: VecDeque<usize>,
    lines: Vec<RoundPosition>,
    /// Projects that rest until so many places are free.
    resting: BTreeSet<(usize, usize)>,
}

#[derive(Debug, Default)]
struct ProjectRound {
    ring: VecDeque<usize>,
    /// Destinations that rest until there is so much headroom.
    resting: BTreeSet<(usize, usize)>,
    deficit: u32,
    in_flight: usize,
    state: RoundState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum RoundState {
    /// Nothing of it can start.
    #[default]
    Out,
    Queued,
    /// Until so many places are free.
    Resting(usize),
}

#[derive(Clone, Debug, Default)]
struct RoundPosition {
    project: usize,
    deficit: u32,
    in_flight: usize,
    is_queued: bool,
    /// Until there is so much headroom.
    resting: Option<usize>,
}

impl ProjectRound {
    fn headroom(&self, free: usize) -> usize {
        (PROJECT_SHARE * free).saturating_sub(self.in_flight)
    }
}

impl RoundPosition {
    /// The headroom that it needs for one more.
    fn needed(&self) -> usize {
        if self.in_flight == 0 { 1 } else { LINE_SHARE * (self.in_flight + 1) }
    }
}

impl Rounds {
    /// Says which project a destination belongs to, before anything else is said about it.
    pub fn enrol(&mut self, line: usize, project: ProjectId) {
        let fresh = self.projects.len();
        let number = *self.numbers.entry(project).or_insert(fresh);
        if number == fresh {
            self.projects.push(ProjectRound::default());
        }
        if self.lines.len() <= line {
            self.lines.resize(line + 1, RoundPosition::default());
        }
        let place = &mut self.lines[line];
        // What is in flight or queued under the former project stays there to its end.
        if place.in_flight == 0 && !place.is_queued {
            place.project = number;
        }
    }

    /// The destination has something to start.
    pub fn queue(&mut self, line: usize) {
        let place = &mut self.lines[line];
        if place.is_queued {
            return;
        }
        place.is_queued = true;
        place.deficit = 0;
        let number = place.project;
        self.projects[number].ring.push_back(line);
        self.rouse(number);
    }

    /// Whether nothing can start, however many places are free.
    pub fn is_empty(&self) -> bool {
        self.resting.is_empty()
            && self.ring.iter().all(|&it| {
                self.projects[it].ring.is_empty() && self.projects[it].resting.is_empty()
            })
    }

    /// Whose turn it is, with `free` places left, at least one. The caller then says
    /// [`Self::started`] or [`Self::passed`].
    pub fn next(&mut self, free: usize) -> Option<usize> {
        while let Some(&(needed, number)) = self.resting.first()
            && needed <= free
        {
            self.rouse(number);
        }
        loop {
            let number = *self.ring.front()?;
            let project = &mut self.projects[number];
            let headroom = project.headroom(free);
            while let Some(&(needed, line)) = project.resting.first()
                && needed <= headroom
            {
                project.resting.pop_first();
                self.lines[line].resting = None;
                project.ring.push_back(line);
            }
            let first = project.ring.front().copied();
            let needed = first.map(|line| self.lines[line].needed());
            match (first, needed) {
                (Some(line), Some(needed)) if needed <= headroom => return Some(line),
                // With one in flight less it would need less, and then it is asked again.
                (Some(line), Some(needed)) if headroom > 0 => {
                    project.ring.pop_front();
                    project.resting.insert((needed, line));
                    self.lines[line].resting = Some(needed);
                }
                _ => self.leave(number),
            }
        }
    }

    /// The destination whose turn it was has started an attempt.
    pub fn started(&mut self, line: usize) {
        let place = &mut self.lines[line];
        let number = place.project;
        let project = &mut self.projects[number];
        place.in_flight += 1;
        project.in_flight += 1;
        if place.deficit == 0 {
            place.deficit = LINE_QUANTUM;
        }
        place.deficit -= 1;
        if place.deficit == 0 {
            project.ring.rotate_left(1);
        }
        if project.deficit == 0 {
            project.deficit = PROJECT_QUANTUM;
        }
        project.deficit -= 1;
        if project.deficit == 0 {
            self.ring.rotate_left(1);
        }
    }

    /// The destination whose turn it was has nothing to start.
    pub fn passed(&mut self, line: usize) {
        let place = &mut self.lines[line];
        place.is_queued = false;
        self.projects[place.project].ring.pop_front();
    }

    pub fn finished(&mut self, line: usize) {
        let place = &mut self.lines[line];
        let number = place.project;
        let project = &mut self.projects[number];
        place.in_flight = place.in_flight.saturating_sub(1);
        project.in_flight = project.in_flight.saturating_sub(1);
        if let Some(needed) = place.resting.take() {
            project.resting.remove(&(needed, line));
            project.ring.push_back(line);
        }
        if matches!(project.state, RoundState::Resting(_)) {
            self.rouse(number);
        }
    }

    /// The project whose turn it was has nothing to start with the places that there are.
    fn leave(&mut self, number: usize) {
        self.ring.pop_front();
        let project = &mut self.projects[number];
        let for_project = (!project.ring.is_empty()).then_some(1);
        let for_line = project.resting.first().map(|(needed, _)| *needed);
        let headroom = for_project.into_iter().chain(for_line).min();
        project.deficit = 0;
        project.state = match headroom {
            Some(headroom) => {
                let needed = (project.in_flight + headroom).div_ceil(PROJECT_SHARE);
                self.resting.insert((needed, number));
                RoundState::Resting(needed)
            }
            None => RoundState::Out,
        };
    }

    fn rouse(&mut self, number: usize) {
        let project = &mut self.projects[number];
        match project.state {
            RoundState::Queued => return,
            RoundState::Resting(needed) => drop(self.resting.remove(&(needed, number))),
            RoundState::Out => (),
        }
        project.state = RoundState::Queued;
        self.ring.push_back(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts `count` attempts with endless work everywhere, each finished at once.
    fn shares(projects: &[usize], count: usize) -> Vec<usize> {
        let mut rounds = Rounds::default();
        let mut line = 0;
        for (project, &lines) in projects.iter().enumerate() {
            for _ in 0..lines {
                rounds.enrol(line, ProjectId::from_bits(project as u128));
                rounds.queue(line);
                line += 1;
            }
        }
        let mut started = vec![0; line];
        for _ in 0..count {
            let line = rounds.next(100).unwrap();
            rounds.started(line);
            rounds.finished(line);
            started[line] += 1;
        }
        started
    }

    #[test]
    fn projects_share_equally_and_then_their_destinations() {
        let started = shares(&[1, 3], 960);
        assert_eq!(started, [480, 160, 160, 160]);
    }

    const CAP: usize = 100;

    /// Starts as many as there may be, none of which ends.
    fn hang(
        rounds: &mut Rounds,
        in_flight: &mut usize,
        lines: std::ops::Range<usize>,
        project: u128,
    ) {
        for line in lines {
            rounds.enrol(line, ProjectId::from_bits(project));
            rounds.queue(line);
        }
        while *in_flight < CAP
            && let Some(line) = rounds.next(CAP - *in_flight)
        {
            rounds.started(line);
            *in_flight += 1;
        }
    }

    #[test]
    fn hanging_destinations_never_take_every_slot() {
        let (mut rounds, mut in_flight) = (Rounds::default(), 0);
        hang(&mut rounds, &mut in_flight, 0..20, 1);
        assert!((40..=80).contains(&in_flight), "{in_flight}");
        // Neither from another destination of its project, nor from another project.
        for (line, project) in [(20, 1), (21, 2), (22, 3)] {
            let before = in_flight;
            hang(&mut rounds, &mut in_flight, line..line + 1, project);
            assert!(before < in_flight && in_flight < CAP, "{before} to {in_flight}");
        }
    }

    #[test]
    fn resting_destinations_resume_when_slots_free_up() {
        let (mut rounds, mut in_flight) = (Rounds::default(), 0);
        hang(&mut rounds, &mut in_flight, 0..20, 1);
        let before = in_flight;
        for line in 0..20 {
            while rounds.lines[line].in_flight > 0 {
                rounds.finished(line);
                in_flight -= 1;
            }
        }
        hang(&mut rounds, &mut in_flight, 0..20, 1);
        assert!(in_flight.abs_diff(before) <= 1, "{in_flight} after {before}");
    }

    #[test]
    fn a_destination_alone_has_many_places() {
        let (mut rounds, mut in_flight) = (Rounds::default(), 0);
        hang(&mut rounds, &mut in_flight, 0..1, 1);
        assert!(in_flight >= CAP / 4, "{in_flight}");
    }
}
