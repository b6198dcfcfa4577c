//! Resources as people write them: YAML and JSON in, checked, with a diff against what is there.
