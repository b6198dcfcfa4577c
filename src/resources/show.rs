//! From the model back to what people write: for export, and for the answers of the API.

use super::{PipelineSpec, RouteSpec};
use crate::model::Pipeline;

pub(super) fn pipeline(model: &Pipeline) -> PipelineSpec {
    PipelineSpec {
        name: model.name.clone(),
        enabled: model.enabled,
        on: model.on.clone(),
        sources: model.sources.clone(),
        when: model.when.clone(),
        steps: model.steps.clone(),
        routes: (model.routes.iter())
            .map(|it| RouteSpec {
                to: it.to.clone(),
                when: it.when.clone(),
                steps: it.steps.clone(),
            })
            .collect(),
        tests: model.tests.clone(),
    }
}
