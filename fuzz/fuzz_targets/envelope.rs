//! One event of the REST API.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::envelope(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
