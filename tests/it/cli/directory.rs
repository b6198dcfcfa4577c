//! `tidegate directory`: a file of any length is imported in pieces, and what is wrong with it is told by its line.

use super::{
    gateway::Serving,
    program::{stderr, stdout},
};

#[test]
fn a_long_file_is_imported_and_its_wrong_lines_are_told() {
    let serving = Serving::start();
    let file = serving.file("acme.yaml", "version: 1\nproject: acme\n");
    serving.output(&["apply", file.to_str().unwrap(), "--yes"]);
    // Of several pieces, with a cell that has lines of its own, and two rows without a key.
    let mut csv = "email,name,note\n\"ann@acme.com\",Ann,\"one\ntwo\"\n".to_owned();
    for n in 0..12_000 {
        let email = if n == 3 || n == 11_998 { String::new() } else { format!("p{n}@acme.com") };
        csv += &format!("{email},Person {n},{}\n", "x".repeat(40));
    }
    let file = serving.file("people.csv", &csv);
    let path = file.to_str().unwrap();
    let imported = serving.run(&["directory", "import", path]);
    assert_eq!(imported.status.code(), Some(1), "{}", stderr(&imported));
    assert_eq!(stdout(&imported), format!("11,999 rows of people imported from {path}\n"));
    let notes = stderr(&imported);
    for line in [7, 12_002] {
        assert!(notes.contains(&format!("{path}:{line}: ")), "{line}: {notes}");
    }
    assert!(notes.contains("2 lines could not be imported"), "{notes}");

    let ann = serving.rows(&["directory", "list", "people", "-n", "1"]);
    assert_eq!(ann[0]["key"], "ann@acme.com");
    let last = serving.output(&["directory", "get", "people", "P11999@acme.com"]);
    assert!(last.contains("Person 11999"), "{last}");
    serving.output(&["directory", "remove", "people", "p11999@acme.com"]);
    let gone = serving.run(&["directory", "get", "people", "p11999@acme.com"]);
    assert!(stderr(&gone).contains("404") && gone.status.code() == Some(1));
}
