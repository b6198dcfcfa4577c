//! The configuration: one file, one struct.
