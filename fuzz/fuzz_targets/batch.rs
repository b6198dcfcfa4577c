//! Many events of the REST API, as an array or in lines.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::batch(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
