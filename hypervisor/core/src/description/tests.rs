//! Descriptions: a whole one, and a sentence for each mistake.

use super::*;
use crate::ids::CpuId;
use proptest::prelude::*;
use std::string::ToString;

const WHOLE: &str = r#"# Two domains that talk to each other.
[[domain]]
name = "web"
kernel = "debian:vmlinuz"
initrd = "initramfs.cpio"
cmdline = "console=hvc0 quiet"
memory = "256M"
vcpus = 2
weight = 512
cap = 150
cpus = "0-1,3"
iomem = ["0xfebf0000-0xfebf0fff", "0xfed00000-0xfed01fff"]
ioports = ["0x3f8-0x3ff", "0x80"]
irqs = [4, 0x10]
event_channels = 4000
restart = "on-crash"
restart_limit = 3
restart_delay = 50

[[domain]]
name = "db"
id = 7
kernel = "hello"
memory = "64M"
privileged = true
console_io = true

[[channel]]
domains = ["db", "web"]
"#;

#[test]
fn a_whole_description() {
    let all = Descriptions::parse(WHOLE.as_bytes()).expect("no mistake");
    let [web, db] = &all.domains[..] else { panic!("two domains") };
    assert_eq!(
        (web.line, web.name.as_str(), web.id, web.kernel.as_str()),
        (2, "web", None, "debian:vmlinuz")
    );
    assert_eq!(web.initrd.as_deref(), Some("initramfs.cpio"));
    assert_eq!((web.cmdline.as_str(), web.pages, web.vcpus), ("console=hvc0 quiet", 65536, 2));
    assert_eq!((web.weight, web.cap, db.cap), (Some(512), 150, 0));
    assert_eq!(web.cpus.unwrap().iter().collect::<Vec<_>>(), [CpuId(0), CpuId(1), CpuId(3)]);
    assert_eq!(web.iomem, [(0xfebf0, 0xfebf0), (0xfed00, 0xfed01)]);
    assert_eq!(web.ioports, [(0x3f8, 0x3ff), (0x80, 0x80)]);
    assert_eq!(web.irqs, [4, 16]);
    assert_eq!((web.max_port, db.max_port), (4000, 1023));
    assert_eq!(web.restart, Policy { when: When::OnCrash, limit: 3, delay: 50_000_000 });
    assert!(!web.privileged && !web.console_io);
    assert_eq!((db.id, db.privileged, db.console_io, db.vcpus, db.pages), (Some(7), true, true, 1, 16384));
    assert_eq!(db.restart.when, When::Never);
    assert_eq!(all.channels, [Channel { domains: [1, 0] }]);
}

#[test]
fn a_described_first_domain() {
    let text = "[[domain]]\nid = 0\nname = \"control\"\nkernel = \"k\"\ncmdline = \"a\"\n";
    let all = Descriptions::parse(text.as_bytes()).expect("no mistake");
    assert!(all.domains[0].privileged && all.domains[0].pages == 0);
    let problem = Descriptions::parse((text.to_string() + "vcpus = 2\n").as_bytes()).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "line 6: `vcpus` of the first domain (id 0) is not given: see `dom0_mem=` and the like"
    );
}

/// A domain of three lines, then `line`.
fn with(line: &str) -> String {
    let text = format!("[[domain]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"1M\"\n{line}\n");
    Descriptions::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn each_mistake_has_its_sentence() {
    for (line, says) in [
        ("vcpus = 0", "line 5: `vcpus` is an integer from 1 to 512, not 0"),
        ("event_channels = 131072", "line 5: `event_channels` is an integer from 63 to 131071, not 131072"),
        ("vcpus = \"two\"", "line 5: `vcpus` is an integer from 1 to 512, not \"two\""),
        ("weight = -1", "line 5: `weight` is an integer from 1 to 65535, not -1"),
        ("cpus = \"0-x\"", "line 5: `cpus` is CPU numbers and ranges such as \"0-1,3\", not \"0-x\""),
        ("cpus = \"256\"", "line 5: `cpus` is CPU numbers and ranges such as \"0-1,3\", not \"256\""),
        ("privileged = 1", "line 5: `privileged` is true or false, not 1"),
        ("irqs = 4", "line 5: `irqs` is a list of integers, not 4"),
        (
            "ioports = [\"0x10000\"]",
            "line 5: `ioports` is a list of ranges such as \"0x3f8-0x3ff\", not \"0x10000\"",
        ),
        (
            "iomem = [\n\"0x1000-0x1ffe\"]",
            "line 6: `iomem` is a list of ranges of whole pages of 4096 bytes such as \"0xfebf0000-0xfebf0fff\", not \
             \"0x1000-0x1ffe\"",
        ),
        (
            "restart = \"often\"",
            "line 5: `restart` is one of \"never\", \"on-crash\", \"always\", not \"often\"",
        ),
        ("initrd = \"\"", "line 5: `initrd` is a string that is not empty, not \"\""),
        ("domain = 3", "line 5: a domain has no `domain`; it has "),
        ("[channel]\ndomains = []", "line 5: `channel` is written as `[[...]]`, not a table"),
        (
            "[[channel]]\ndomains = [\"a\"]",
            "line 5: a channel has `domains`, the names of two different domains",
        ),
        ("[[channel]]\ndomains = [\"a\", \"b\"]", "line 6: no domain has the name `b`"),
        (
            "[[domain]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"1M\"",
            "line 5: the domain of line 1 has the name `a` too",
        ),
        ("[[domain]]\nname = \"b\"", "line 5: this domain has no `kernel`"),
        ("[[domain]]\nname = \"b\"\nkernel = \"k\"", "line 5: this domain has no `memory`"),
        (
            "[[domain]]\nname = \"b c\"",
            "line 6: `name` is 1 to 64 letters, digits, `-`, `_` or `.`, not \"b c\"",
        ),
        ("memory", "line 5: not TOML: "),
        ("memory = \"2M\"", "line 5: not TOML: duplicate key"),
    ] {
        let found = with(line);
        assert!(found.starts_with(says), "{line}:\n  found    {found}\n  expected {says}");
    }
    let small = "[[domain]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"4K\"\n";
    let problem = Descriptions::parse(small.as_bytes()).unwrap_err().to_string();
    assert_eq!(problem, "line 4: `memory` is an amount such as \"256M\" or \"2G\", at least 1M, not \"4K\"");
    let problem = Descriptions::parse(b"\n\n# \xff").unwrap_err().to_string();
    assert_eq!(problem, "line 3: this is not text in UTF-8");
}

#[test]
fn a_description_is_known_by_its_beginning() {
    assert!(is_description("x", WHOLE.as_bytes()));
    assert!(is_description("machine.toml", b""));
    for other in [&b""[..], b"\x7fELF", b"070701", b"# only a comment", b"[domain]"] {
        assert!(!is_description("initrd", other));
    }
}

proptest! {
    #[test]
    fn no_text_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..600) {
        let mut text = WHOLE.as_bytes().to_vec();
        let at = at.min(text.len());
        text.splice(at..(at + bytes.len() / 4).min(text.len()), bytes.iter().copied());
        let _ = Descriptions::parse(&text);
        let _ = Descriptions::parse(&bytes);
    }
}

const SERVED: &str = r#"
[[domain]]
name = "web"
kernel = "k"
memory = "1M"
served_by = "drivers"
console = "driver-domain"

[[domain.disk]]
name = "xvda"
file = "root.ext4"
readonly = true

[[domain.disk]]
name = "xvdb"
ram = "64M"

[[domain.net]]
mac = "00:16:3e:00:00:0a"

[[domain.net]]

[[domain]]
name = "drivers"
kernel = "k"
memory = "1M"
"#;

#[test]
fn devices_are_a_driver_domains() {
    let all = Descriptions::parse(SERVED.as_bytes()).expect("no mistake");
    let web = &all.domains[0].devices;
    assert_eq!((web.served_by.as_deref(), web.console, all.server_of(0)), (Some("drivers"), true, Some(1)));
    let root = Disk { name: "xvda".into(), storage: Storage::File("root.ext4".into()), readonly: true };
    assert_eq!(
        web.disks,
        [root, Disk { name: "xvdb".into(), storage: Storage::Ram(16384), readonly: false }]
    );
    assert_eq!(web.nets, [Net { mac: Some("00:16:3e:00:00:0a".into()) }, Net { mac: None }]);
    for (change, to, says) in [
        (
            "served_by = \"drivers\"\n",
            "",
            "line 2: a domain with a disk, a network or the console of a driver domain has `served_by`, the name of that domain",
        ),
        ("\"drivers\"\nconsole", "\"driver\"\nconsole", "line 2: `served_by` names no domain"),
        (
            "\"drivers\"\nconsole",
            "\"web\"\nconsole",
            "line 2: `served_by` names a domain that is served itself",
        ),
        ("file = \"root.ext4\"", "", "line 9: a disk has a `name`, and one of `file`, `ram` and `virtio`"),
        (
            "ram = \"64M\"",
            "ram = \"64M\"\nvirtio = 0",
            "line 14: a disk has a `name`, and one of `file`, `ram` and `virtio`",
        ),
        ("xvdb", "xvda", "line 14: this domain has two disks `xvda`"),
        (
            "00:16:3e:00:00:0a",
            "00:16",
            "line 19: `mac` is an address such as \"00:16:3e:00:00:01\", not \"00:16\"",
        ),
        (
            "\"driver-domain\"",
            "\"x\"",
            "line 7: `console` is one of \"hypervisor\", \"driver-domain\", not \"x\"",
        ),
    ] {
        let text = SERVED.replacen(change, to, 1);
        let problem = Descriptions::parse(text.as_bytes()).unwrap_err();
        assert_eq!(problem.to_string(), says);
    }
}
