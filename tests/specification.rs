//! What docs/SPECIFICATION.md says of hostile input: each row has its own test, and that test is there.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

#[test]
fn each_row_of_hostile_input_names_a_test_of_its_own_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/SPECIFICATION.md")).unwrap();
    let (_, section) = text.split_once("\n### Hostile and broken input\n").expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    let mut named = HashSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let marked: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').collect();
        let [_, file, _, test, _] = marked[..] else { panic!("not `file` `test`: {row}") };
        assert!(named.insert(test), "the test of another row: {row}");
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let there = source.matches(&format!("#[test]\nfn {test}() {{")).count();
        assert_eq!(there, 1, "{row}");
    }
    assert!(named.len() > 30, "only {} rows were found", named.len());
}
