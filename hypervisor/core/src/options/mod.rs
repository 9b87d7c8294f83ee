//! The hypervisor's command line, in Xen's spelling (Xen's `docs/misc/xen-command-line`).
//!
//! Options are separated by blanks, each is `name`, `no-name` or `name=value`, and the last one of a name wins. What is
//! not known, has a value that makes no sense, or changes nothing in this hypervisor, is handed back to be named in the
//! log; it never stops the boot.

mod memory;
#[cfg(test)]
mod tests;

pub use memory::{Amount, Dom0Memory};

use crate::cpu_policy::side_channels::Wishes;
use crate::sched::{LEAST_RUN_US, Policy, is_least_run_us};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// How serious a message is; the order is Xen's, most serious first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Below every message: print nothing.
    None,
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warning,
    /// What is going on.
    Info,
    /// For whoever looks for a mistake.
    Debug,
}

/// Which messages are printed (`loglvl=<always>[/<limited>]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogThreshold {
    /// Messages up to this level are always printed.
    pub always: LogLevel,
    /// Messages up to this level are printed as long as they do not come too fast.
    pub limited: LogLevel,
}

/// What happens when an NMI of the platform arrives (`nmi=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiPolicy {
    /// It is logged, and nothing else.
    Ignore,
    /// The first domain is told by its NMI callback.
    Dom0,
    /// The machine ends with a message.
    Fatal,
}

/// Parity of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd parity.
    Odd,
    /// Even parity.
    Even,
    /// The parity bit is always 1.
    Mark,
    /// The parity bit is always 0.
    Space,
}

/// How a serial port is set up (`com1=<baud>[/<clock>][,<DPS>[,<io-base>[,<irq>]]]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// Bits per second; `None` leaves the divisor as the firmware set it (`auto`).
    pub baud: Option<u32>,
    /// Input clock of the UART in Hz, when it is not the PC's 1,843,200.
    pub clock_hz: Option<u32>,
    /// Data bits, 5..=8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// I/O port, or machine address when above 0xffff.
    pub io_base: u64,
    /// Interrupt line; 0 means polling.
    pub irq: u8,
}

/// Ctrl-A.
const DEFAULT_SWITCH: u8 = 1;
/// I/O ports of the PC's first two serial ports.
const COM_BASE: [u64; 2] = [0x3f8, 0x2f8];
/// Interrupt lines of the PC's first two serial ports.
const COM_IRQ: [u8; 2] = [4, 3];

impl Serial {
    /// The PC's serial port `index` (0 or 1), 8n1, at the speed the firmware left.
    pub const fn pc(index: usize) -> Self {
        Self {
            baud: None,
            clock_hz: None,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            io_base: COM_BASE[index & 1],
            irq: COM_IRQ[index & 1],
        }
    }
}

/// Where console output goes (`console=` takes a list).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consoles {
    /// The VGA text screen.
    pub vga: bool,
    /// First serial port.
    pub com1: bool,
    /// Second serial port.
    pub com2: bool,
}

/// The options that the command line may set, with Xen's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The command line itself.
    pub command_line: String,
    /// `console=`: where output goes.
    pub consoles: Consoles,
    /// `com1=` and `com2=`; `None` when not set up.
    pub com: [Option<Serial>; 2],
    /// `loglvl=`: the hypervisor's own messages.
    pub log_level: LogThreshold,
    /// `guest_loglvl=`: messages that guests cause.
    pub guest_log_level: LogThreshold,
    /// `conswitch=`: the control character that hands console input on when typed three times; `None` for none.
    pub console_switch: Option<u8>,
    /// What follows ` -- `: belongs to the first domain's command line.
    pub dom0_extra: String,
    /// `dom0_mem=`: how much memory the first domain gets.
    pub dom0_mem: Dom0Memory,
    /// `dom0_max_vcpus=`: least and most vCPUs of the first domain; it gets one per CPU within these.
    pub dom0_max_vcpus: (u32, u32),
    /// `dom0_vcpus_pin`: each vCPU of the first domain stays on its CPU.
    pub dom0_vcpus_pin: bool,
    /// `maxcpus=`: most CPUs to bring up; `nosmp` makes it 1.
    pub max_cpus: u32,
    /// `sched=`: `null`, or proportional shares (`credit` and `credit2`).
    pub sched: Policy,
    /// `sched_ratelimit_us=`: how long a vCPU that begins to run keeps its CPU whatever wakes up, in microseconds; 0: not at all.
    pub sched_ratelimit_us: u32,
    /// `pv-linear-pt`: page tables may have entries that name tables of their own level.
    pub pv_linear_pt: bool,
    /// `nmi=`: what an NMI of the platform leads to.
    pub nmi: NmiPolicy,
    /// `noreboot`: halt instead when the first domain crashes or the machine panics.
    pub noreboot: bool,
    /// `smap`: use supervisor-mode access prevention where the CPU has it.
    pub smap: bool,
    /// `smep`: use supervisor-mode execution prevention where the CPU has it.
    pub smep: bool,
    /// `sync_console`: a CPU that writes to the console waits until the line has taken it all.
    pub sync_console: bool,
    /// `x2apic`: use the x2APIC where the CPU has it.
    pub x2apic: bool,
    /// `xpti=`, `pv-l1tf=`, `spec-ctrl=`: what is done against side channels of the processor.
    pub side_channels: Wishes,
}

impl Default for Options {
    fn default() -> Self {
        let warnings = LogThreshold { always: LogLevel::Warning, limited: LogLevel::Warning };
        Self {
            command_line: String::new(),
            consoles: Consoles { vga: true, com1: true, com2: false },
            com: [None, None],
            log_level: warnings,
            guest_log_level: LogThreshold { always: LogLevel::None, limited: LogLevel::Warning },
            console_switch: Some(DEFAULT_SWITCH),
            dom0_extra: String::new(),
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: (1, u32::MAX),
            dom0_vcpus_pin: false,
            max_cpus: u32::MAX,
            sched: Policy::Share,
            sched_ratelimit_us: LEAST_RUN_US,
            pv_linear_pt: true,
            nmi: NmiPolicy::Dom0,
            noreboot: false,
            smap: true,
            smep: true,
            sync_console: false,
            x2apic: true,
            side_channels: Wishes::default(),
        }
    }
}

/// Why a word of the command line had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// No such option.
    Unknown(String),
    /// The option exists, its value makes no sense.
    BadValue(String),
    /// Xen knows the option, but there is nothing here that it could change.
    NoEffect(String),
}

/// Options of Xen that are met with just one way of doing it.
const NO_EFFECT: [&str; 4] = ["mem", "reboot", "sched_credit_tslice_ms", "watchdog"];
impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "unknown option '{word}'"),
            Self::BadValue(word) => write!(f, "option '{word}' has a value that makes no sense"),
            Self::NoEffect(word) => write!(f, "option '{word}' is one of Xen's that changes nothing here"),
        }
    }
}

impl Options {
    /// Parses a command line, and answers what of it had no effect.
    pub fn parse(line: &str) -> (Options, Vec<OptionError>) {
        let mut options = Options { command_line: line.into(), ..Options::default() };
        let mut errors = Vec::new();
        let (own, extra) = line.split_once(" -- ").unwrap_or((line, ""));
        options.dom0_extra = extra.trim().into();
        for word in own.split_ascii_whitespace() {
            let name = word.split('=').next().unwrap_or(word);
            let name = name.strip_prefix("no-").unwrap_or(name);
            match options.apply(word) {
                Some(true) => {}
                Some(false) => errors.push(OptionError::BadValue(word.into())),
                None if NO_EFFECT.contains(&name) => errors.push(OptionError::NoEffect(word.into())),
                None => errors.push(OptionError::Unknown(word.into())),
            }
        }
        (options, errors)
    }

    /// Applies one word: `None` when there is no such option, else whether its value makes sense.
    fn apply(&mut self, word: &str) -> Option<bool> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if let Some(flag) = self.flag(name.strip_prefix("no-").unwrap_or(name)) {
            let on = value.map_or(Some(true), parse_bool);
            let on = on.map(|on| on != name.starts_with("no-"));
            return Some(on.map(|on| *flag = on).is_some());
        }
        Some(self.apply_value(name, value.unwrap_or(""))?.is_some())
    }

    /// The flag of this name.
    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "dom0_vcpus_pin" => &mut self.dom0_vcpus_pin,
            "noreboot" => &mut self.noreboot,
            "pv-linear-pt" => &mut self.pv_linear_pt,
            "smap" => &mut self.smap,
            "smep" => &mut self.smep,
            "sync_console" => &mut self.sync_console,
            "x2apic" => &mut self.x2apic,
            _ => return None,
        })
    }

    /// Applies an option with a value: outer `None` when there is none of this name, inner for a bad value.
    fn apply_value(&mut self, name: &str, value: &str) -> Option<Option<()>> {
        Some(match name {
            "console" => parse_consoles(value).map(|v| self.consoles = v),
            "com1" => parse_serial(value, 0).map(|v| self.com[0] = Some(v)),
            "com2" => parse_serial(value, 1).map(|v| self.com[1] = Some(v)),
            "loglvl" => parse_threshold(value).map(|v| self.log_level = v),
            "guest_loglvl" => parse_threshold(value).map(|v| self.guest_log_level = v),
            "conswitch" => parse_switch(value).map(|v| self.console_switch = v),
            "dom0_mem" => Dom0Memory::parse(value).map(|v| self.dom0_mem = v),
            "dom0_max_vcpus" => parse_range(value).map(|v| self.dom0_max_vcpus = v),
            "maxcpus" => parse_u32(value).map(|v| self.max_cpus = v.max(1)),
            "nmi" => parse_nmi(value).map(|v| self.nmi = v),
            "sched" => parse_policy(value).map(|v| self.sched = v),
            "sched_ratelimit_us" => {
                parse_u32(value).filter(|v| is_least_run_us(*v)).map(|v| self.sched_ratelimit_us = v)
            }
            "xpti" => self.side_channels.xpti(if value.is_empty() { "yes" } else { value }),
            "pv-l1tf" => self.side_channels.l1tf(if value.is_empty() { "yes" } else { value }),
            "spec-ctrl" => self.side_channels.spec_ctrl(value),
            "nosmp" => parse_bool_or_empty(value).map(|on| {
                if on {
                    self.max_cpus = 1;
                }
            }),
            _ => return None,
        })
    }
}

/// Xen's words for yes and no.
pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

fn parse_bool_or_empty(value: &str) -> Option<bool> {
    if value.is_empty() { Some(true) } else { parse_bool(value) }
}

/// Both of Xen's general schedulers are met by proportional shares.
fn parse_policy(value: &str) -> Option<Policy> {
    match value {
        "credit" | "credit2" => Some(Policy::Share),
        "null" => Some(Policy::Null),
        _ => None,
    }
}

fn parse_nmi(value: &str) -> Option<NmiPolicy> {
    match value {
        "ignore" => Some(NmiPolicy::Ignore),
        "dom0" => Some(NmiPolicy::Dom0),
        "fatal" => Some(NmiPolicy::Fatal),
        _ => None,
    }
}

/// A number in decimal, or hexadecimal with `0x`.
fn parse_number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

fn parse_u32(value: &str) -> Option<u32> {
    parse_number(value)?.try_into().ok()
}

/// `<n>` (exactly), `<min>-`, `-<max>` or `<min>-<max>`.
fn parse_range(value: &str) -> Option<(u32, u32)> {
    let (low, high) = match value.split_once('-') {
        None => {
            let n = parse_u32(value)?;
            (n, n)
        }
        Some((low, high)) => (
            if low.is_empty() { 1 } else { parse_u32(low)? },
            if high.is_empty() { u32::MAX } else { parse_u32(high)? },
        ),
    };
    (low >= 1 && low <= high).then_some((low, high))
}

fn parse_consoles(value: &str) -> Option<Consoles> {
    let mut consoles = Consoles::default();
    for name in value.split(',') {
        // A `H` or `L` behind a port's name would share it with a debugger by the bytes' top bit.
        match name.strip_suffix(['H', 'L']).unwrap_or(name) {
            "vga" => consoles.vga = true,
            "com1" => consoles.com1 = true,
            "com2" => consoles.com2 = true,
            "none" => {}
            _ => return None,
        }
    }
    Some(consoles)
}

/// `<letter>`, or nothing for no switching at all. Xen's second letter, for starting with the input at the hypervisor,
/// is not for machines whose domains start at once.
fn parse_switch(value: &str) -> Option<Option<u8>> {
    match value.as_bytes() {
        [] => Some(None),
        [letter] if letter.is_ascii_alphabetic() => Some(Some(letter & 0x1f)),
        _ => None,
    }
}

fn parse_level(value: &str) -> Option<LogLevel> {
    Some(match value {
        "none" => LogLevel::None,
        "error" => LogLevel::Error,
        "warning" => LogLevel::Warning,
        "info" => LogLevel::Info,
        "debug" | "all" => LogLevel::Debug,
        _ => return None,
    })
}

fn parse_threshold(value: &str) -> Option<LogThreshold> {
    let (always, limited) = value.split_once('/').unwrap_or((value, value));
    let always = parse_level(always)?;
    Some(LogThreshold { always, limited: parse_level(limited)?.max(always) })
}

/// See [`Serial`]; parts that are left empty keep the PC's usual setting.
fn parse_serial(value: &str, index: usize) -> Option<Serial> {
    let mut serial = Serial::pc(index);
    let mut parts = value.split(',');
    let speed = parts.next().unwrap_or("");
    let (baud, clock) = speed.split_once('/').unwrap_or((speed, ""));
    if !baud.is_empty() && baud != "auto" {
        serial.baud = Some(parse_u32(baud).filter(|b| *b != 0)?);
    }
    if !clock.is_empty() {
        serial.clock_hz = Some(parse_u32(clock).filter(|c| *c != 0)?);
    }
    if let Some(frame) = parts.next().filter(|p| !p.is_empty()) {
        let [data, parity, stop] = *frame.as_bytes() else { return None };
        serial.data_bits = Some(data.wrapping_sub(b'0')).filter(|d| (5..=8).contains(d))?;
        serial.parity = parse_parity(parity)?;
        serial.stop_bits = Some(stop.wrapping_sub(b'0')).filter(|s| (1..=2).contains(s))?;
    }
    if let Some(base) = parts.next().filter(|p| !p.is_empty()) {
        serial.io_base = parse_number(base).filter(|b| *b != 0)?;
    }
    if let Some(irq) = parts.next().filter(|p| !p.is_empty()) {
        serial.irq = parse_number(irq)?.try_into().ok()?;
    }
    parts.next().is_none().then_some(serial)
}

fn parse_parity(letter: u8) -> Option<Parity> {
    Some(match letter {
        b'n' => Parity::None,
        b'o' => Parity::Odd,
        b'e' => Parity::Even,
        b'm' => Parity::Mark,
        b's' => Parity::Space,
        _ => return None,
    })
}
