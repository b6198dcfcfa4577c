//! The integration tests, one binary: what Tidegate promises, held against the real thing.

mod store;
mod records;
mod retention;
