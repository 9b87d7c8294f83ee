//! The command line, against what Xen's own documentation promises of it.

use super::*;
use alloc::{format, vec};

fn parse(line: &str) -> Options {
    let (options, errors) = Options::parse(line);
    assert_eq!(errors, [], "{line}");
    options
}

fn refused(line: &str) {
    let (options, errors) = Options::parse(line);
    assert_eq!(errors, [OptionError::BadValue(line.into())]);
    let untouched = Options { command_line: line.into(), ..Options::default() };
    assert_eq!(options, untouched, "{line}: a refused value changes nothing");
}

#[test]
fn the_usual_line() {
    let o = parse("console=com1 com1=115200,8n1 noreboot dom0_mem=256M dom0_max_vcpus=2-4 loglvl=all");
    assert_eq!(o.consoles, Consoles { vga: false, com1: true, com2: false });
    assert_eq!(o.com[0], Some(Serial { baud: Some(115_200), ..Serial::pc(0) }));
    assert!(o.noreboot);
    assert_eq!(o.dom0_mem.size, Some(Amount::Bytes(256 << 20)));
    assert_eq!(o.dom0_max_vcpus, (2, 4));
    assert_eq!(o.log_level.always, LogLevel::Debug);
}

#[test]
fn flags_take_words_for_yes_and_no() {
    for line in ["smap=0", "no-smap", "smap=off", "no-smap=yes", "smap smap=false"] {
        assert!(!parse(line).smap, "{line}");
    }
    for line in ["noreboot", "noreboot=yes", "no-noreboot=off", "noreboot=0 noreboot=1"] {
        assert!(parse(line).noreboot, "{line}");
    }
    for line in ["pv-linear-pt=0", "no-pv-linear-pt", "pv-linear-pt=false", "pv-linear-pt=1 pv-linear-pt=no"]
    {
        assert!(!parse(line).pv_linear_pt, "{line}");
    }
    assert!(parse("").pv_linear_pt && parse("pv-linear-pt").pv_linear_pt, "as Xen's default");
    assert!(!parse("").sync_console && parse("sync_console").sync_console);
    assert!(!parse("sync_console no-sync_console").sync_console);
    refused("smap=maybe");
    refused("pv-linear-pt=perhaps");
}

#[test]
fn serial_ports_in_full() {
    let o = parse("com2=9600/14745600,7e2,0x2e8,0");
    let expected = Serial {
        baud: Some(9600),
        clock_hz: Some(14_745_600),
        data_bits: 7,
        parity: Parity::Even,
        stop_bits: 2,
        io_base: 0x2e8,
        irq: 0,
    };
    assert_eq!(o.com, [None, Some(expected)]);
    assert_eq!(parse("com1=auto").com[0], Some(Serial::pc(0)));
    for bad in
        ["com1=0", "com1=fast", "com1=9600,8n3", "com1=9600,8n", "com1=9600,8n1,0", "com1=9600,8n1,1,2,3"]
    {
        refused(bad);
    }
}

#[test]
fn memory_amounts() {
    let o = parse("dom0_mem=1G,min:-64M,max:512M+25%");
    assert_eq!(o.dom0_mem.size, Some(Amount::Bytes(1 << 30)));
    assert_eq!(o.dom0_mem.min, Some(Amount::AllBut(64 << 20)));
    assert_eq!(o.dom0_mem.max, Some(Amount::Fraction { bytes: 512 << 20, percent: 25 }));
    assert_eq!(parse("dom0_mem=2048").dom0_mem.size, Some(Amount::Bytes(2 << 20)));
    assert_eq!(parse("dom0_mem=4096B").dom0_mem.size, Some(Amount::Bytes(4096)));
    assert_eq!(Amount::AllBut(64 << 20).pages(0x4000), 0);
    assert_eq!(Amount::Fraction { bytes: 4096, percent: 50 }.pages(100), 51);
    for bad in
        ["dom0_mem=", "dom0_mem=,", "dom0_mem=lots", "dom0_mem=101%", "dom0_mem=max:", "dom0_mem=99999999T"]
    {
        refused(bad);
    }
}

#[test]
fn what_is_unknown_is_named() {
    let (options, errors) = Options::parse("frobnicate=1 console=com3 --x noreboot");
    let expected = vec![
        OptionError::Unknown("frobnicate=1".into()),
        OptionError::BadValue("console=com3".into()),
        OptionError::Unknown("--x".into()),
    ];
    assert_eq!(errors, expected);
    assert!(options.noreboot);
}

#[test]
fn the_first_domains_part() {
    let o = parse("noreboot --  root=/dev/sda1 quiet ");
    assert!(o.noreboot);
    assert_eq!(o.dom0_extra, "root=/dev/sda1 quiet");
}

#[test]
fn what_changes_nothing_is_named() {
    let (options, errors) = Options::parse("watchdog=1 no-watchdog");
    let expected = ["watchdog=1", "no-watchdog"].map(|w| OptionError::NoEffect(w.into()));
    assert_eq!(errors, expected);
    assert_eq!(options.log_level, Options::default().log_level);
}

#[test]
fn nmis() {
    assert_eq!(parse("").nmi, NmiPolicy::Dom0, "as Xen's release builds");
    for (word, nmi) in [("ignore", NmiPolicy::Ignore), ("dom0", NmiPolicy::Dom0), ("fatal", NmiPolicy::Fatal)]
    {
        assert_eq!(parse(&std::format!("nmi={word}")).nmi, nmi);
    }
    for bad in ["nmi", "nmi=", "nmi=panic"] {
        refused(bad);
    }
}

#[test]
fn levels_ranges_and_the_rest() {
    let o = parse("guest_loglvl=error/all dom0_max_vcpus=-3 nosmp dom0_vcpus_pin console=com1H,vga");
    assert_eq!(o.guest_log_level, LogThreshold { always: LogLevel::Error, limited: LogLevel::Debug });
    assert_eq!(o.dom0_max_vcpus, (1, 3));
    assert_eq!(o.max_cpus, 1);
    assert!(o.dom0_vcpus_pin);
    assert_eq!(o.consoles, Consoles { vga: true, com1: true, com2: false });
    assert_eq!(parse("").sched_ratelimit_us, 1000);
    for (value, least) in [("0", 0), ("100", 100), ("500000", 500_000)] {
        assert_eq!(parse(&format!("sched_ratelimit_us={value}")).sched_ratelimit_us, least);
    }
    for bad in ["sched_ratelimit_us=99", "sched_ratelimit_us=500001", "sched_ratelimit_us=1ms"] {
        refused(bad);
    }
    for bad in ["dom0_max_vcpus=0", "dom0_max_vcpus=4-2", "loglvl=loud", "maxcpus=-1", "nosmp=maybe"] {
        refused(bad);
    }
}

proptest::proptest! {
    #[test]
    fn any_line_is_survived(line in "\\PC{0,80}") {
        let _ = Options::parse(&line);
    }

    #[test]
    fn any_value_is_survived(name in "console|com1|dom0_mem|dom0_max_vcpus|maxcpus|loglvl", value in "[-+0-9a-zA-Z%,:/.é]{0,20}") {
        let _ = Options::parse(&std::format!("{name}={value}"));
    }
}
