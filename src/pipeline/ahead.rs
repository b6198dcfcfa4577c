//! Scripts, run over many events at once before these are planned one by one.
//!
//! To hand an event to the thread of a script and to wait for it costs more than most scripts. So it
//! is found out first which events meet a script, as far as that needs no answer from outside, and
//! the script gets all of them at once. Planning then finds what came of it. Where it goes another
//! way than was foreseen, the script is run when it is met: what comes of it is the same.

use std::sync::Arc;

use super::{
    compile::{Compiled, CompiledPipeline, When},
    steps::{Next, Step},
    transform::Transform,
};
use crate::{
    expr::Facts,
    model::{Event, SourceId},
    script::Input,
};

/// Bytes of events for which this is done at once: what comes of them is in memory until they are
/// planned, and a script that is not met after all keeps it until it is run the next time.
const BYTES: usize = 1024 * 1024;

/// Runs the scripts that these events will meet first, each over all of its events.
pub(super) fn run_scripts(events: &[Arc<Event>], compiled: &Compiled) {
    let mut bytes = 0;
    let fits = |event: &&Arc<Event>| {
        bytes += event.weight();
        bytes <= BYTES
    };
    // Of each script, what it is given, in the order in which planning will give it.
    let mut given: Vec<(&Transform, Vec<Input>)> = Vec::new();
    // What Tidegate sends itself meets no pipeline.
    let ours = |event: &&Arc<Event>| event.source != SourceId::SYSTEM;
    for event in events.iter().take_while(fits).filter(ours) {
        let Some(project) = compiled.project(event.project) else { continue };
        let all = project.pipelines.iter().filter(|it| it.wants(event));
        let with_scripts = all.filter_map(|it| it.compiled.as_ref().ok().filter(has_script));
        for pipeline in with_scripts {
            let source = project.sources.get(&event.source).cloned();
            look_ahead(pipeline, Facts::new(event.clone(), source), &mut |script, facts| {
                let input = script.input(facts);
                match given.iter_mut().find(|it| std::ptr::eq(it.0, script)) {
                    Some((_, inputs)) => inputs.push(input),
                    None => given.push((script, vec![input])),
                }
            });
        }
    }
    for (script, inputs) in given {
        // One alone is run when it is met.
        if inputs.len() > 1 {
            script.run_ahead(inputs);
        }
    }
}

fn has_script(pipeline: &&Arc<CompiledPipeline>) -> bool {
    let routes = pipeline.routes.iter().flat_map(|it| &it.steps);
    pipeline.steps.iter().chain(routes).any(|it| it.transform().is_some())
}

/// Shows the scripts that are met before anything is unknown.
fn look_ahead<'a>(
    pipeline: &'a CompiledPipeline,
    facts: Facts,
    found: &mut impl FnMut(&'a Transform, &Facts),
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
    found: &mut impl FnMut(&'a Transform, &Facts),
) -> Option<Facts> {
    if let Some(when) = when
        && !when.condition.holds(&facts).ok()?
    {
        return None;
    }
    for step in steps {
        if let Some(script) = step.transform() {
            found(script, &facts);
            return None;
        }
        if step.enrich().is_some() {
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
