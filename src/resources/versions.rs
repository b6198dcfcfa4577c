//! Versions of a pipeline, compared: field by field, and as text.

use super::{FieldChange, PipelineSpec, Spec as _, diff::compare, lines};
use crate::model::Pipeline;

/// Show the difference between two versions.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionDifference {
    pub changes: Vec<FieldChange>,
    /// Of both as YAML, in the form of `diff -u`. Empty when nothing differs.
    pub text: String,
}

pub fn compare_versions(before: &Pipeline, after: &Pipeline) -> VersionDifference {
    let json = |it: &Pipeline| serde_json::to_value(PipelineSpec::of(it)).unwrap_or_default();
    let mut changes = Vec::new();
    compare("", Some(&json(before)), Some(&json(after)), &mut changes);
    VersionDifference { changes, text: lines::unified(&yaml(before), &yaml(after)) }
}

/// A pipeline as it stands in a file, but that a plain `${` is not doubled.
fn yaml(pipeline: &Pipeline) -> String {
    // Scripts on lines of their own, so that one line of them can differ.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true };
    let spec = PipelineSpec::of(pipeline);
    serde_saphyr::to_string_with_options(&spec, options).unwrap_or_default()
}
