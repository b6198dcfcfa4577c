//! A webhook with the signature of some service.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::signature(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
