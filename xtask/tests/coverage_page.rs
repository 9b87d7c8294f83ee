//! `docs/abi-coverage.md` has one row for each hypercall of the table in `abi`, in its order.

use xen_abi::hypercall::TABLE;

#[test]
fn the_page_lists_the_table() {
    let page = std::fs::read_to_string(xtask::project::root().join("docs/abi-coverage.md"))
        .expect("the page exists");
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let table: Vec<&str> = TABLE.iter().map(|hypercall| hypercall.name).collect();
    assert_eq!(rows, table);
}
