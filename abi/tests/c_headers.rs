//! The whole crate against a C compiler on Debian's Xen headers (`libxen-dev`): every size, alignment, offset, member
//! size and constant.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use xen_abi::registry::CName;

#[test]
fn c_confirms_every_size_offset_and_constant() {
    let (claims, _) = common::claims(&xen_abi::ABI);
    let answers =
        common::ask_c(&xen_abi::ABI, &claims, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("c_headers"));
    let wrong = common::compare(&claims, &answers);
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), claims.len(), wrong.join("\n"));
}

/// What C cannot confirm must say why, and must not become the rule.
#[test]
fn what_c_does_not_have_says_why() {
    let (claims, absent) = common::claims(&xen_abi::ABI);
    for item in &absent {
        assert!(!item.reason.is_empty(), "{} gives no reason", item.what);
    }
    let unpadded: Vec<_> = absent.iter().filter(|item| item.reason != "padding").collect();
    for item in &unpadded {
        println!("not in C: {}: {}", item.what, item.reason);
    }
    assert!(unpadded.len() * 20 < claims.len(), "{} of {} items are unchecked", unpadded.len(), claims.len());
}

/// A file whose items are not in the registry would not be checked.
#[test]
fn every_file_is_registered() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut on_disk, mut registered) = (BTreeSet::new(), BTreeSet::new());
    collect(&source, &source, &mut on_disk);
    xen_abi::ABI.walk(&mut |module| {
        let (_, below) = module.file.rsplit_once("src/").expect("a path below src");
        registered.insert(below.to_owned());
    });
    assert_eq!(on_disk, registered);
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if std::fs::read_to_string(&path).expect("a source file").contains("\nabi_module! {") {
            files
                .insert(path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned());
        }
    }
}

/// No two structures or constants of a module path may disagree on one C name.
#[test]
fn one_c_name_has_one_value() {
    let mut values = std::collections::BTreeMap::new();
    xen_abi::ABI.walk(&mut |module| {
        for item in module.consts {
            if let CName::Is(c) = item.c {
                let old = values.insert(c, item.value);
                assert!(old.is_none_or(|old| old == item.value), "{c} has two values");
            }
        }
    });
}
