//! Pipelines, ready to run: expressions compiled, names of sources and destinations looked up.
//!
//! A pipeline is compiled once for each of its versions. What it refers to is looked up again with
//! every change of the catalogue, which costs no compilation.

mod compiled;
mod lanes;
mod projects;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    expr::Names,
    model::{Edge, Pipeline, Route, StepSpec},
    pipeline::{
        Tools,
        steps::{self, Invalid, Step, When},
    },
    script::Place,
};

pub use self::{compiled::CompiledPipeline, lanes::Placing, projects::Compiled};
pub(super) use self::{
    compiled::CompiledRoute,
    projects::{Active, ProjectPipelines, RouteTarget},
};

/// Steps of a pipeline, or of a route.
const MOST_STEPS: usize = 50;

/// Compiles a pipeline, or says everything that is wrong with it.
pub fn compile(pipeline: &Pipeline, tools: &Tools) -> Result<CompiledPipeline, Vec<Invalid>> {
    compile_for(&pipeline.project.to_string(), pipeline, tools)
}

/// The same, for a project that people know by this name.
fn compile_for(
    project_name: &str,
    pipeline: &Pipeline,
    tools: &Tools,
) -> Result<CompiledPipeline, Vec<Invalid>> {
    let mut wrong = Vec::new();
    let when = compile_when(pipeline.when.as_deref(), "when", &[], &mut wrong);
    let mut results = Vec::new();
    let at = Making { project_name, pipeline, tools };
    let steps = compile_steps(at, &pipeline.steps, "steps", &mut results, &mut wrong);
    let mut routes = Vec::with_capacity(pipeline.routes.len());
    let mut edges = Vec::from_iter(edges_of(None, steps.len()));
    for (place, route) in pipeline.routes.iter().enumerate() {
        let Route { to, when, steps } = route;
        let path = |field: &str| format!("routes[{place}].{field}");
        // What a route's steps find out is known in that route only.
        let mut results = results.clone();
        let when = compile_when(when.as_deref(), &path("when"), &results, &mut wrong);
        let steps = compile_steps(at, steps, &path("steps"), &mut results, &mut wrong);
        let same = routes.iter().filter(|it: &&CompiledRoute| it.to == *to).count() as u64;
        let mark = xxh3_64_with_seed(to.as_str().as_bytes(), 1 + same);
        let edge = edges.len();
        edges.extend(edges_of(u16::try_from(place).ok(), steps.len()));
        routes.push(CompiledRoute { to: to.clone(), mark, edge, when, steps });
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let Pipeline { id, version, name, .. } = pipeline;
    let (id, version, name, edges) = (*id, *version, name.clone(), edges.into());
    Ok(CompiledPipeline { id, version, name, when, steps, routes, edges })
}

/// The places of a pipeline or a route with so many steps, itself before them.
fn edges_of(route: Option<u16>, steps: usize) -> impl Iterator<Item = Edge> {
    let steps = (0..steps).map(|it| u16::try_from(it).ok());
    std::iter::once(None).chain(steps).map(move |step| Edge { route, step })
}

fn compile_when(
    source: Option<&str>,
    path: &str,
    results: &[String],
    wrong: &mut Vec<Invalid>,
) -> Option<When> {
    let source = source?;
    match When::compile(source, &Names { results, bare: false }) {
        Ok(when) => Some(when),
        Err(error) => {
            wrong.push(Invalid::expression(path, &error));
            None
        }
    }
}

/// For what steps are made, and with what.
#[derive(Clone, Copy)]
struct Making<'a> {
    project_name: &'a str,
    pipeline: &'a Pipeline,
    tools: &'a Tools,
}

fn compile_steps(
    at: Making<'_>,
    specs: &[StepSpec],
    path: &str,
    results: &mut Vec<String>,
    wrong: &mut Vec<Invalid>,
) -> Vec<Box<dyn Step>> {
    if specs.len() > MOST_STEPS {
        wrong.push(Invalid::new(path, "must hold at most 50 steps", "more"));
        return Vec::new();
    }
    let mut compiled = Vec::with_capacity(specs.len());
    for (place, spec) in specs.iter().enumerate() {
        match steps::build(spec, results, at.pipeline.project, at.tools) {
            Ok(step) => {
                for name in step.adds() {
                    if !results.iter().any(|it| it == name) {
                        results.push(name.to_owned());
                    }
                }
                if let Some(script) = step.script() {
                    script.stands_at(Place {
                        project: at.project_name.to_owned(),
                        pipeline: at.pipeline.name.to_string(),
                        step: format!("{path}[{place}]"),
                    });
                }
                compiled.push(step);
            }
            Err(error) => {
                let dot = if error.path.is_empty() { "" } else { "." };
                let path = format!("{path}[{place}]{dot}{}", error.path);
                wrong.push(Invalid { path, ..error });
            }
        }
    }
    compiled
}
