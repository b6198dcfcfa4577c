//! Scripts, run over many events at once before these are planned one by one.
//!
//! To hand an event to the thread of a script and to wait for it costs more than most scripts. So it
//! is found out first which events meet a script, as far as that needs no answer from outside, and
//! the script gets all of them at once. Planning then finds what came of it. Where it goes another
//! way than was foreseen, the script is run when it is met: what comes of it is the same.
//!
//! It takes time like planning does, so that it counts in the turn of the project. What a project's turn
//! has no room for is run when it is met.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::turns::Turns;
use crate::{
    expr::{EventBudget, Facts},
    model::{Event, ProjectId, SourceId},
    pipeline::{
        compile::{Compiled, CompiledPipeline},
        steps::{Next, Step, When, script_input},
    },
    script::{Script, ScriptInput},
};

/// Bytes of events for which this is done at once: what comes of them is in memory until they are
/// planned, and a script that is not met after all keeps it until it is run the next time.
const BYTES: usize = 1024 * 1024;

/// Scripts with what they are given, and for whom.
type Given<'a> = Vec<(ProjectId, &'a Script, Vec<ScriptInput>)>;

/// Runs the scripts that these events will meet first, each over all of its events.
pub(in crate::pipeline) fn run_scripts(
    events: &[Arc<Event>],
    compiled: &Compiled,
    turns: &mut Turns,
) {
    // Nobody waits for a turn where there is one project only.
    let has_turns = compiled.has_several_projects();
    for (project, script, inputs) in foreseen(events, compiled, has_turns.then_some(&mut *turns)) {
        if inputs.len() < 2 || has_turns && turns.is_over(project) {
            // It is run when it is met.
            continue;
        }
        let begun = Instant::now();
        script.run_ahead(inputs, has_turns.then(|| turns.left(project)));
        turns.note(project, begun.elapsed());
    }
}

/// Of each script, what it is given, in the order in which planning will give it. To find that out takes of
/// the turns, too.
fn foreseen<'a>(
    events: &[Arc<Event>],
    compiled: &'a Compiled,
    mut turns: Option<&mut Turns>,
) -> Given<'a> {
    let mut bytes = 0;
    let fits = |event: &&Arc<Event>| {
        bytes += event.weight();
        bytes <= BYTES
    };
    let mut given = Given::new();
    let mut places: HashMap<*const Script, usize> = HashMap::new();
    // What Tidegate sends itself meets no pipeline.
    let ours = |event: &&Arc<Event>| event.source != SourceId::SYSTEM;
    for event in events.iter().take_while(fits).filter(ours) {
        let Some(project) = compiled.project(event.project) else { continue };
        if turns.as_ref().is_some_and(|it| it.is_over(event.project)) {
            continue;
        }
        let begun = Instant::now();
        let mut budget = EventBudget::default();
        let all = project.pipelines.iter().filter(|it| it.wants(event));
        let with_scripts = all.filter_map(|it| it.compiled.as_ref().ok().filter(has_script));
        for pipeline in with_scripts {
            let source = project.sources.get(&event.source).cloned();
            let facts = Facts::new(event.clone(), source);
            let mut found = |script: &'a Script, facts: &Facts| {
                let place = *places.entry(std::ptr::from_ref(script)).or_insert(given.len());
                if place == given.len() {
                    given.push((event.project, script, Vec::new()));
                }
                given[place].2.push(script_input(facts));
            };
            budget.pay_for(|| look_ahead(pipeline, facts, &mut found));
            if budget.is_spent() {
                break;
            }
        }
        if let Some(turns) = &mut turns {
            turns.note(event.project, begun.elapsed());
        }
    }
    given
}

fn has_script(pipeline: &&Arc<CompiledPipeline>) -> bool {
    let routes = pipeline.routes.iter().flat_map(|it| &it.steps);
    pipeline.steps.iter().chain(routes).any(|it| it.script().is_some())
}

/// Shows the scripts that are met before anything is unknown.
fn look_ahead<'a>(
    pipeline: &'a CompiledPipeline,
    facts: Facts,
    found: &mut impl FnMut(&'a Script, &Facts),
) {
    let Some(facts) = through(pipeline.when.as_ref(), &pipeline.steps, facts, found) else {
        return;
    };
    for route in &pipeline.routes {
        through(route.when.as_ref(), &route.steps, facts.clone(), found);
    }
}

/// What is left behind these steps; `None`: nothing, or nobody knows yet.
fn through<'a>(
    when: Option<&When>,
    steps: &'a [Box<dyn Step>],
    mut facts: Facts,
    found: &mut impl FnMut(&'a Script, &Facts),
) -> Option<Facts> {
    if let Some(when) = when
        && !when.condition.holds(&facts).ok()?
    {
        return None;
    }
    for step in steps {
        if let Some(script) = step.script() {
            found(script, &facts);
            return None;
        }
        if step.asks().is_some() {
            return None;
        }
        match step.apply(&facts).ok()? {
            Next::Same => (),
            Next::Changed(after) => facts = after,
            Next::Several(_) | Next::Stop(_) => return None,
        }
    }
    Some(facts)
}
