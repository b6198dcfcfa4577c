//! A payload of a sender, read by the gateway's reader and by a second, slow one.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::json(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
