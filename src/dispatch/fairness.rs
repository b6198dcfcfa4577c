//! Whose turn it is: deficit round robin over projects, then over a project's destinations.
//!
//! Beside the order it keeps shares. A destination may have as many attempts in flight as there are
//! free places, and a project four times as many. So what hangs takes a large part of the places
//! but never all: the next to come still finds some. (Choudhury and Hahne's dynamic thresholds.)

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::model::ProjectId;

/// Starts in one turn. More keep a turn's work together; fewer mix finer.
const PROJECT_QUANTUM: u32 = 16;
const LINE_QUANTUM: u32 = 4;
const PROJECT_SHARE: usize = 4;

/// The destinations that could start an attempt now, by their numbers, in the order of their turns.
#[derive(Debug, Default)]
pub struct Rounds {
    projects: Vec<Project>,
    numbers: HashMap<ProjectId, usize>,
    ring: VecDeque<usize>,
    lines: Vec<Place>,
    /// Those that wait for so many free places.
    shy_lines: BTreeSet<(usize, usize)>,
    shy_projects: BTreeSet<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Project {
    ring: VecDeque<usize>,
    deficit: u32,
    in_flight: usize,
    is_queued: bool,
}

#[derive(Clone, Debug, Default)]
struct Place {
    project: usize,
    deficit: u32,
    in_flight: usize,
    is_queued: bool,
}

impl Rounds {
    /// Says which project a destination belongs to, before anything else is said about it.
    pub fn enrol(&mut self, line: usize, project: ProjectId) {
        let fresh = self.projects.len();
        let number = *self.numbers.entry(project).or_insert(fresh);
        if number == fresh {
            self.projects.push(Project::default());
        }
        if self.lines.len() <= line {
            self.lines.resize(line + 1, Place::default());
        }
        let place = &mut self.lines[line];
        // What is in flight under the former project is counted there to its end.
        if place.in_flight == 0 {
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
        self.queue_project(number);
    }

    /// Whether nothing can start, however many places are free.
    pub fn is_empty(&self) -> bool {
        self.shy_lines.is_empty()
            && self.shy_projects.is_empty()
            && self.ring.iter().all(|&it| self.projects[it].ring.is_empty())
    }

    /// Whose turn it is, with `free` places left. The caller then says [`Self::started`] or
    /// [`Self::passed`].
    pub fn next(&mut self, free: usize) -> Option<usize> {
        self.encourage(free);
        loop {
            let number = *self.ring.front()?;
            let project = &mut self.projects[number];
            let Some(&line) = project.ring.front() else {
                project.is_queued = false;
                project.deficit = 0;
                self.ring.pop_front();
                continue;
            };
            let needed = (project.in_flight + 1).div_ceil(PROJECT_SHARE);
            if needed > free.max(1) {
                self.ring.pop_front();
                self.shy_projects.insert((needed, number));
                continue;
            }
            let needed = self.lines[line].in_flight + 1;
            if needed > free.max(1) {
                project.ring.pop_front();
                self.shy_lines.insert((needed, line));
                continue;
            }
            return Some(line);
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
        place.in_flight = place.in_flight.saturating_sub(1);
        let project = &mut self.projects[place.project];
        project.in_flight = project.in_flight.saturating_sub(1);
    }

    /// Brings back those for whom there are enough free places now.
    fn encourage(&mut self, free: usize) {
        while let Some(&(needed, line)) = self.shy_lines.first()
            && needed <= free
        {
            self.shy_lines.pop_first();
            let number = self.lines[line].project;
            self.projects[number].ring.push_back(line);
            self.queue_project(number);
        }
        while let Some(&(needed, number)) = self.shy_projects.first()
            && needed <= free
        {
            self.shy_projects.pop_first();
            self.ring.push_back(number);
        }
    }

    fn queue_project(&mut self, number: usize) {
        let project = &mut self.projects[number];
        if !project.is_queued {
            project.is_queued = true;
            self.ring.push_back(number);
        }
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

    #[test]
    fn what_hangs_never_takes_every_place() {
        const CAP: usize = 100;
        let mut rounds = Rounds::default();
        for line in 0..20 {
            rounds.enrol(line, ProjectId::from_bits(1));
            rounds.queue(line);
        }
        let mut in_flight = 0;
        while let Some(line) = rounds.next(CAP - in_flight) {
            rounds.started(line);
            in_flight += 1;
        }
        assert_eq!(in_flight, 80, "a project has at most four times what is free");
        // Another project, that hangs as well, and a third.
        for line in 20..22 {
            rounds.enrol(line, ProjectId::from_bits(line as u128));
            rounds.queue(line);
            assert_eq!(rounds.next(CAP - in_flight), Some(line));
            while rounds.next(CAP - in_flight).is_some() {
                rounds.started(line);
                in_flight += 1;
            }
        }
        assert!(in_flight < CAP);
        // One of the hanging ends: it may have another.
        rounds.finished(0);
        rounds.finished(1);
        rounds.finished(2);
        rounds.finished(3);
        rounds.finished(4);
        in_flight -= 5;
        assert!(rounds.next(CAP - in_flight).is_some());
    }
}
