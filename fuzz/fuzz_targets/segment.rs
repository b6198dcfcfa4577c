//! A request of Segment's clients, compressed or not.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::segment(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
