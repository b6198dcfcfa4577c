//! The body of a webhook, and the query of a pixel: a form, JSON or a text, compressed or not.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = tidegate::ingest::parsers::form(bytes) {
        panic!("a promise is broken: {broken}");
    }
});
