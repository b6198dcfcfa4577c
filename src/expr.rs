//! The expression language: conditions, mappings, templates and ordering keys.
