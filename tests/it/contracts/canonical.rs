//! Our ECMAScript-canonical JSON against node, which is what it has to agree with.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tidegate::{destinations::webhook::canonical, model::RawJson};

use super::{
    hostile::{self, PAYLOADS},
    judges,
};

#[test]
fn canonical_json_is_what_node_writes() {
    const GENERATED: u64 = 10_000;
    let generated = (0..GENERATED).map(hostile::object);
    let texts: Vec<String> = PAYLOADS.iter().map(|it| it.to_string()).chain(generated).collect();
    for text in &texts {
        assert!(RawJson::parse(text.clone()).is_ok(), "the test's own JSON is wrong: {text}");
    }

    for (text, expected) in texts.iter().zip(node(&texts)) {
        let mut found = Vec::new();
        canonical::write(text.as_bytes(), &mut found).unwrap();
        assert_eq!(String::from_utf8(found.clone()).unwrap(), expected, "of {text}");
        // It is at rest: written again, it stays as it is.
        let mut again = Vec::new();
        canonical::write(&found, &mut again).unwrap();
        assert_eq!(found, again);
    }
}

fn node(texts: &[String]) -> Vec<String> {
    let mut process = Command::new("node")
        .arg(judges::folder().join("canonical.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let lines: String = texts.iter().map(|it| STANDARD.encode(it) + "\n").collect();
    // Besides reading: either pipe alone would be full at some time.
    let writer = thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let decode = |it: &str| String::from_utf8(STANDARD.decode(it).unwrap()).unwrap();
    let written: Vec<_> = lines.lines().map(decode).collect();
    assert_eq!(written.len(), texts.len());
    written
}
