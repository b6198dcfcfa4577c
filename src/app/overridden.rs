//! Which versions of pipelines the file of `serve` replaces that somebody else has saved.

use crate::{
    catalog::Catalog,
    model::Author,
    resources::{Action, Difference, File},
};

/// The names, and the versions that they had. One that came from the file itself is none.
pub fn pipelines(file: &File, before: &Catalog, difference: &Difference) -> Vec<(String, u32)> {
    let Some(project) = before.project_named(file.project().as_str()).map(|it| it.id) else {
        return Vec::new();
    };
    let changed = difference.changes.iter();
    let updated = changed.filter(|it| it.action == Action::Update && it.kind == "pipeline");
    let old = updated.filter_map(|it| {
        before.pipelines.values().find(|old| old.project == project && old.name.as_str() == it.name)
    });
    let by_others = old.filter(|it| it.saved_by.is_some_and(|it| it != Author::File));
    by_others.map(|it| (it.name.to_string(), it.version)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::{
        model::{Pipeline, PipelineId, Project, ProjectId},
        resources::ResourceChange,
    };

    #[test]
    fn versions_of_others_are_overridden() {
        let project = Project {
            id: ProjectId::from_bits(1),
            name: "acme".parse().unwrap(),
            retention: None,
            created_at: Timestamp::UNIX_EPOCH,
        };
        for (saved_by, expected) in [
            (Some(Author::AdminKey), vec![("all".to_owned(), 4)]),
            (Some(Author::File), vec![]),
            (None, vec![]),
        ] {
            let pipeline = Pipeline {
                id: PipelineId::from_bits(2),
                project: project.id,
                name: "all".parse().unwrap(),
                version: 4,
                enabled: true,
                on: vec![],
                sources: vec![],
                when: None,
                steps: vec![],
                routes: vec![],
                tests: vec![],
                created_at: Timestamp::UNIX_EPOCH,
                saved_at: None,
                saved_by,
            };
            let before = Catalog {
                projects: [(project.id, Arc::new(project.clone()))].into(),
                pipelines: [(pipeline.id, Arc::new(pipeline))].into(),
                ..Catalog::default()
            };
            let changed = ResourceChange {
                action: Action::Update,
                kind: "pipeline",
                name: "all".to_owned(),
                fields: vec![],
                cancels: None,
            };
            let difference = Difference { changes: vec![changed], ..Difference::default() };
            let text = "version: 1\nproject: acme\n";
            let file = File::read("test.yaml", text, &|_| None).unwrap();
            assert_eq!(pipelines(&file, &before, &difference), expected);
        }
    }
}
