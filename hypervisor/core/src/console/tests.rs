//! Who writes, who reads, and what a hostile ring can do.

use crate::Hypervisor;
use crate::domain::Domain;
use crate::event::EventError;
use crate::ids::{Mfn, Port};
use crate::mock::{self, MockPlatform};
use crate::platform::{FrameWords, Work};
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::Ordering::SeqCst;
use proptest::prelude::*;
use std::boxed::Box;
use std::string::String;
use std::vec;
use std::vec::Vec;
use xen_abi::errno::Errno;
use xen_abi::io::console::XenconsInterface;

struct Guest {
    domain: Arc<Domain<MockPlatform>>,
    page: Mfn,
    port: Port,
}

fn word32(page: &FrameWords, at: usize) -> u32 {
    (page[at / 8].load(SeqCst) >> (at % 8 * 8)) as u32
}

fn set_word32(page: &FrameWords, at: usize, value: u32) {
    let shift = at % 8 * 8;
    let old = page[at / 8].load(SeqCst);
    page[at / 8].store(old & !(0xffff_ffff << shift) | u64::from(value) << shift, SeqCst);
}

fn byte(page: &FrameWords, at: usize) -> u8 {
    page[at / 8].load(SeqCst).to_le_bytes()[at % 8]
}

impl Guest {
    /// A domain with a ring.
    fn new(hv: &Hypervisor<MockPlatform>, id: u16) -> Self {
        let domain = mock::domain(hv, id, 1, 64);
        let page = hv.alloc_domain_page(&domain, 0).expect("a page");
        let port = hv.attach_console(&domain, page).expect("a console");
        Self { domain, page, port }
    }

    /// Puts text into the ring, as far as there is room, and sends the event.
    fn print(&self, hv: &Hypervisor<MockPlatform>, text: &str) {
        self.put(hv, text);
        self.send(hv);
        hv.console_work();
    }

    /// Puts text into the ring, as far as there is room.
    fn put(&self, hv: &Hypervisor<MockPlatform>, text: &str) {
        let page = hv.ring_words(self.page);
        let mut at = word32(page, offset_of!(XenconsInterface, out_prod));
        for byte in text.bytes() {
            let index = offset_of!(XenconsInterface, out) + at as usize % 2048;
            let shift = index % 8 * 8;
            let old = page[index / 8].load(SeqCst);
            page[index / 8].store(old & !(0xff << shift) | u64::from(byte) << shift, SeqCst);
            at = at.wrapping_add(1);
        }
        set_word32(page, offset_of!(XenconsInterface, out_prod), at);
    }

    /// Sends the event as often as it is to be sent; answers how often.
    fn send(&self, hv: &Hypervisor<MockPlatform>) -> usize {
        let mut times = 1;
        while let Err(error) = hv.send_event(&self.domain, self.port) {
            assert_eq!(error, EventError::Unfinished);
            times += 1;
        }
        times
    }

    /// How much of its text was taken.
    fn taken(&self, hv: &Hypervisor<MockPlatform>) -> u32 {
        word32(hv.ring_words(self.page), offset_of!(XenconsInterface, out_cons))
    }

    /// Takes what is in the ring.
    fn read(&self, hv: &Hypervisor<MockPlatform>) -> Vec<u8> {
        let page = hv.ring_words(self.page);
        let first = word32(page, offset_of!(XenconsInterface, in_cons));
        let count = word32(page, offset_of!(XenconsInterface, in_prod)).wrapping_sub(first);
        let bytes = (0..count).map(|n| byte(page, first.wrapping_add(n) as usize % 1024)).collect();
        set_word32(page, offset_of!(XenconsInterface, in_cons), first.wrapping_add(count));
        bytes
    }
}

impl Hypervisor<MockPlatform> {
    fn ring_words(&self, mfn: Mfn) -> &FrameWords {
        crate::platform::Platform::frame_words(&self.platform, mfn)
    }

    fn type_keys(&self, keys: &[u8]) {
        self.platform.console_input.lock().unwrap().extend(keys);
        self.console_work();
    }

    /// What was written since the last call.
    fn screen(&self) -> String {
        let bytes = core::mem::take(&mut self.platform.record.lock().unwrap().console);
        String::from_utf8_lossy(&bytes).replace("\r\n", "\n")
    }
}

/// The owner of the input writes as it pleases, others whole lines with their number; nobody's line is torn.
#[test]
fn one_line_for_many_writers() {
    let (hv, dom0) = mock::machine_with_domain(64);
    let guest = Guest::new(&hv, 1);
    hv.console_output(dom0.id, b"login: ");
    guest.print(&hv, "half a ");
    assert_eq!(hv.screen(), "login: ");
    guest.print(&hv, "line\r\nand \x1b[1mmore");
    assert_eq!(hv.screen(), "login: \n(d1) half a line\n".strip_prefix("login: ").unwrap());
    hv.console_output(dom0.id, b"root\r\n");
    hv.log(format_args!("one {}\n", "message"));
    assert_eq!(hv.screen(), "root\n(HV) one message\n");
    // The other one's unfinished line is shown when it gets the screen.
    hv.type_keys(&[1, 1, 1]);
    assert_eq!(
        hv.screen(),
        "(HV) *** Serial input to domain 1, Domain-1 (CTRL-a three times to switch)\nand [1mmore"
    );
    hv.console_output(dom0.id, b"dom0 goes on\n");
    assert_eq!(hv.screen(), "\n(d0) dom0 goes on\n");
    guest.print(&hv, "\x1b[2J");
    assert_eq!(hv.screen(), "\x1b[2J");
}

/// Input goes to whom it was switched to: dom0, the domains in their order, the hypervisor, and round again.
#[test]
fn input_is_switched() {
    let (hv, dom0) = mock::machine_with_domain(64);
    let guests = [Guest::new(&hv, 1), Guest::new(&hv, 7)];
    hv.type_keys(b"zero");
    hv.type_keys(&[1, 1, 1, b'o', b'n', b'e']);
    hv.type_keys(&[b'!', 1, 1, 1, b's']);
    hv.type_keys(&[1, 1]);
    hv.type_keys(b"x");
    let mut bytes = [0; 16];
    let count = hv.peek_console(dom0.id, &mut bytes);
    assert_eq!(&bytes[..count], b"zero");
    assert_eq!(guests[0].read(&hv), b"one!");
    // Two switch characters are input.
    assert_eq!(guests[1].read(&hv), [b's', 1, 1, b'x']);
    hv.screen();
    hv.type_keys(&[1, 1, 1, b'm', 1, 1, 1]);
    let screen = hv.screen();
    assert!(
        screen.contains("Serial input to the hypervisor") && screen.contains("frames are free"),
        "{screen}"
    );
    assert!(
        screen.ends_with("Serial input to domain 0, Domain-0 (CTRL-a three times to switch)\n"),
        "{screen}"
    );
}

/// A domain whose console another one serves takes its turn; its input goes to the server, who is told whose it is.
#[test]
fn input_for_a_served_console_goes_to_its_server() {
    let (hv, dom0) = mock::machine_with_domain(64);
    let (served, other) = (mock::domain(&hv, 0x102, 1, 64), Guest::new(&hv, 0x203));
    hv.console_served(served.id, dom0.id);
    let read = || {
        let mut bytes = [0; 32];
        let count = hv.peek_console(dom0.id, &mut bytes);
        hv.consume_console(dom0.id, count);
        bytes[..count].to_vec()
    };
    hv.type_keys(&[b'a', 1, 1, 1, b'b']);
    assert_eq!(read(), [b'a', 0xff, 1, 2, b'b']);
    assert!(hv.screen().contains("Serial input to domain 258"));
    hv.console_output(dom0.id, b"a prompt: ");
    assert_eq!(hv.screen(), "a prompt: ", "the screen is the server's");
    hv.type_keys(&[1, 1, 1, b'c']);
    assert_eq!((read(), other.read(&hv)), (vec![0xff, 0, 0], vec![b'c']));
    // When the one who has the input is gone, the next gets it.
    hv.type_keys(&[1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(read(), [0xff, 1, 2]);
    hv.detach_console(&served).unwrap();
    hv.type_keys(b"d");
    assert_eq!(read(), [0xff, 0, 0, b'd']);
    hv.type_keys(&[1, 1, 1, b'e']);
    assert_eq!((read(), other.read(&hv)), (vec![], vec![b'e']), "its turn is gone too");
}

/// Without a switch character there is no switching.
#[test]
fn switching_can_be_turned_off() {
    let (mut hv, dom0) = mock::machine_with_domain(64);
    let guest = Guest::new(&hv, 1);
    hv.options.console_switch = None;
    hv.type_keys(&[1, 1, 1, 2]);
    assert!(guest.read(&hv).is_empty());
    assert_eq!(hv.peek_console(dom0.id, &mut [0; 8]), 4);
}

/// Input for a guest that does not read waits, and arrives in order when there is room and the guest says so.
#[test]
fn a_full_ring_delays_input() {
    let hv = mock::hypervisor(64);
    let guest = Guest::new(&hv, 1);
    let sent: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8 + 2).collect();
    hv.type_keys(&sent);
    let mut got = guest.read(&hv);
    assert_eq!(got.len(), 1024);
    for _ in 0..4 {
        guest.print(&hv, "");
        got.extend(guest.read(&hv));
    }
    assert!(got == sent);
    // What nobody takes does not grow for ever.
    for _ in 0..10 {
        hv.type_keys(&sent);
    }
    let mut rest = 0;
    for _ in 0..10 {
        rest += guest.read(&hv).len();
        guest.print(&hv, "");
    }
    assert_eq!(rest, 1024 + 4096);
}

/// Long output is written in bursts, each in the time of the domain, and completely; no CPU is given work for it.
#[test]
fn long_output_comes_in_bursts() {
    let hv = mock::hypervisor(64);
    let guest = Guest::new(&hv, 1);
    let text: String = (0..2000u32).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    hv.platform.record.lock().unwrap().raised.clear();
    guest.print(&hv, "");
    guest.put(&hv, &text);
    assert_eq!(hv.send_event(&guest.domain, guest.port), Err(EventError::Unfinished));
    assert_eq!(guest.taken(&hv), 256);
    hv.console_work();
    assert_eq!(guest.taken(&hv), 256, "the rest is written when the domain asks again");
    assert_eq!(guest.send(&hv), 7);
    assert!(!hv.platform.record.lock().unwrap().raised.iter().any(|(_, work)| work.contains(Work::CONSOLE)));
    assert_eq!(hv.screen(), text);
    let page = hv.ring_words(guest.page);
    assert_eq!(word32(page, offset_of!(XenconsInterface, out_cons)), 2000);
    assert_eq!(word32(page, offset_of!(XenconsInterface, out_prod)), 2000);
}

/// An end of a line costs as much as many bytes: a burst has few of them.
#[test]
fn a_burst_has_few_lines() {
    let (hv, dom0) = mock::machine_with_domain(64);
    let guest = Guest::new(&hv, 1);
    guest.put(&hv, &"\n".repeat(100));
    assert_eq!(guest.send(&hv), 13);
    assert_eq!(hv.screen().matches("(d1) \n").count(), 100);
    assert_eq!(hv.console_owner(), super::input::Owner::Domain(dom0.id));
}

/// Where the line has no room, text stays in the rings; it goes on when there is room, the domains in turn, and no further than what
/// was announced.
#[test]
fn text_waits_for_the_line() {
    let hv = mock::hypervisor(64);
    let guests = [Guest::new(&hv, 1), Guest::new(&hv, 2)];
    hv.platform.console_room.store(10, SeqCst);
    for guest in &guests {
        guest.put(&hv, &"x".repeat(600));
        assert_eq!(guest.send(&hv), 1, "no vCPU waits for the line");
        assert_eq!(guest.taken(&hv), 0);
        // What is not announced is nobody's to write.
        guest.put(&hv, &"y".repeat(100));
    }
    let work =
        || hv.platform.record.lock().unwrap().raised.drain(..).any(|(_, work)| work.contains(Work::CONSOLE));
    work();
    hv.console_work();
    assert!(!work() && hv.screen().is_empty(), "there is still no room");
    let mut served = Vec::new();
    for _ in 0..6 {
        // As the platform does when there is room again: for one burst each time.
        hv.platform.console_room.store(500, SeqCst);
        let before = guests.each_ref().map(|guest| guest.taken(&hv));
        hv.console_work();
        work();
        let after = guests.each_ref().map(|guest| guest.taken(&hv));
        served.push((after[0] - before[0], after[1] - before[1]));
    }
    assert_eq!(served, [(256, 0), (0, 256), (256, 0), (0, 256), (88, 0), (0, 88)]);
    hv.platform.console_room.store(usize::MAX, SeqCst);
    hv.console_work();
    assert!(!work());
    assert_eq!(guests.each_ref().map(|guest| guest.taken(&hv)), [600, 600]);
    assert_eq!(guests.each_ref().map(|guest| guest.send(&hv)), [1, 1]);
    assert_eq!(guests.each_ref().map(|guest| guest.taken(&hv)), [700, 700]);
}

/// A line that takes a few bytes at a time. `loud` looks each time whether it can write; its CPU does the work that is raised. Answers
/// how much of 600 bytes was written that wait for the line in the ring of a domain.
fn written_beside(loud: impl Fn(&Hypervisor<MockPlatform>)) -> u32 {
    let (hv, _) = mock::machine_with_domain(64);
    let quiet = Guest::new(&hv, 1);
    hv.platform.console_room.store(10, SeqCst);
    quiet.put(&hv, &"q".repeat(600));
    quiet.send(&hv);
    for _ in 0..2000 {
        // The platform tells of much room only.
        let room = hv.platform.console_room.fetch_add(16, SeqCst);
        let raised = core::mem::take(&mut hv.platform.record.lock().unwrap().raised);
        if room > 1024 || raised.iter().any(|(_, work)| work.contains(Work::CONSOLE)) {
            hv.console_work();
        }
        loud(&hv);
    }
    quiet.taken(&hv)
}

/// A domain that asks again and again whether the line has room does not keep it from those that wait until they are told, nor is
/// it kept from it.
#[test]
fn those_that_wait_for_the_line_have_their_turn() {
    let ring = std::cell::OnceCell::new();
    let written = written_beside(|hv| {
        let guest = ring.get_or_init(|| Guest::new(hv, 2));
        let produced = word32(hv.ring_words(guest.page), offset_of!(XenconsInterface, out_prod));
        let free = 2048 - produced.wrapping_sub(guest.taken(hv));
        guest.put(hv, &"l".repeat(free as usize));
        guest.send(hv);
        let screen = hv.platform.record.lock().unwrap().console.len();
        assert!(screen < 40_000);
    });
    assert_eq!(written, 600, "beside a ring that is always full");
    let bursts = std::cell::Cell::new(0);
    let written = written_beside(|hv| {
        if hv.console_takes_text() {
            hv.console_output(crate::ids::DomId(0), &[b'd'; 256]);
            bursts.set(bursts.get() + 1);
        }
    });
    assert_eq!(written, 600, "beside console_io");
    assert!(bursts.get() > 100, "{bursts:?}");
}

/// Nothing that a terminal of 8 bits or of UTF-8 takes for a control character reaches the line from a domain without the screen.
#[test]
fn no_control_characters_without_the_screen() {
    let (hv, dom0) = mock::machine_with_domain(64);
    for text in [
        &b"a\x85(HV) faked"[..],
        b"a\xc2\x85(HV) faked",
        b"\x9b2Jb",
        b"\xc2\x9b2Jb",
        b"\x1b[2J\r\x08\x7fc",
        b"\xc3\xa4\n",
    ] {
        hv.console_output(crate::ids::DomId(7), text);
    }
    let screen = hv.platform.record.lock().unwrap().console.clone();
    assert_eq!(String::from_utf8_lossy(&screen), "(d7) a(HV) fakeda?(HV) faked2Jb?2Jb[2Jc?\r\n");
    hv.screen();
    // The one who has it writes what it wants.
    hv.console_output(dom0.id, b"\xc3\xa4\x9b");
    assert_eq!(hv.platform.record.lock().unwrap().console, b"\xc3\xa4\x9b");
}

/// What a key asks for is not lost on a slow line.
#[test]
fn answers_to_keys_wait_for_the_line() {
    let (hv, _) = mock::machine_with_domain(64);
    let waits = || hv.platform.record.lock().unwrap().console_waits;
    hv.log(format_args!("not an answer\n"));
    assert_eq!(waits(), 0);
    hv.console_key(b'h');
    let answers = waits();
    assert!(answers > 3);
    hv.log(format_args!("not an answer\n"));
    assert_eq!(waits(), answers);
}

/// The ring's page can become neither a page table nor somebody else's; detaching gives it back and shows the last text.
#[test]
fn the_page_is_held() {
    let (hv, _) = mock::machine_with_domain(64);
    let guest = Guest::new(&hv, 1);
    assert_eq!(hv.attach_console(&guest.domain, guest.page), Err(Errno::EEXIST));
    assert!(hv.get_page_and_type(&guest.domain, guest.page, crate::page::PageType::L1).is_err());
    guest.print(&hv, "last words");
    hv.screen();
    hv.detach_console(&guest.domain).unwrap();
    assert_eq!(hv.screen(), "(d1) last words\n");
    assert!(hv.get_page_and_type(&guest.domain, guest.page, crate::page::PageType::L1).is_ok());
    hv.put_page_and_type(guest.page);
    // Its port goes nowhere, and harms nobody.
    assert_eq!(hv.send_event(&guest.domain, guest.port), Ok(()));
    hv.type_keys(&[1, 1, 1]);
    assert!(hv.screen().contains("to the hypervisor"));
}

/// A domain's teardown gives the page of its ring back while another CPU is about to go on with the text of that ring: the
/// page, which is another domain's by then, is neither read nor written.
#[test]
fn a_ring_that_was_given_back_is_left_alone() {
    let hv: &'static Hypervisor<MockPlatform> = Box::leak(Box::new(mock::hypervisor(64)));
    let (guest, other) = (Guest::new(hv, 1), Guest::new(hv, 2));
    hv.platform.console_room.store(10, SeqCst);
    for guest in [&guest, &other] {
        guest.put(hv, &"x".repeat(100));
        guest.send(hv);
    }
    hv.screen();
    let (domain, page) = (guest.domain.clone(), guest.page);
    *hv.platform.at_room_question.lock().unwrap() = Some(Box::new(move || {
        // The line takes no more of the domain's text.
        hv.domains.begin_dying(&domain);
        hv.detach_console(&domain).unwrap();
        let secret = u64::from_le_bytes([b's'; 8]);
        hv.ring_words(page).iter().for_each(|word| word.store(secret, SeqCst));
        set_word32(hv.ring_words(page), offset_of!(XenconsInterface, out_prod), 100);
        hv.platform.console_room.store(usize::MAX, SeqCst);
    }));
    hv.console.served_last.store(0, SeqCst);
    hv.console_work();
    assert_eq!(guest.taken(hv), u32::from_le_bytes([b's'; 4]), "the index of the ring that was");
    // The other domain has its turn at the next look, which is to be made.
    let raised = core::mem::take(&mut hv.platform.record.lock().unwrap().raised);
    assert!(raised.iter().any(|(_, work)| work.contains(Work::CONSOLE)));
    hv.console_work();
    assert_eq!(other.taken(hv), 100);
    assert!(!hv.screen().contains("ss"));
}

/// The answer to a key is short, however many ports, vCPUs or domains there are: the CPU waits for the line meanwhile.
#[test]
fn answers_to_keys_are_short() {
    let (hv, dom0) = mock::machine_with_domain(64);
    let crowd = mock::domain(&hv, 1, 200, 64);
    for _ in 0..200 {
        hv.bind_ipi(&dom0, crate::ids::VcpuId(0)).unwrap();
    }
    assert!(crowd.vcpu_refs().all(|vcpu| hv.bring_up(&vcpu)));
    for key in b"deq" {
        let before = hv.platform.record.lock().unwrap().console_waits;
        hv.console_key(*key);
        let lines = hv.platform.record.lock().unwrap().console_waits - before;
        assert!((3..150).contains(&lines), "{}: {lines}", char::from(*key));
    }
    assert!(hv.screen().contains("more"));
}

/// The owner of the input ends: the next domain gets it.
#[test]
fn input_survives_its_owner() {
    let hv = mock::hypervisor(64);
    let guests = [Guest::new(&hv, 3), Guest::new(&hv, 4)];
    hv.domains.begin_dying(&guests[0].domain);
    hv.detach_console(&guests[0].domain).unwrap();
    hv.type_keys(b"next");
    assert_eq!(guests[1].read(&hv), b"next");
    hv.domains.begin_dying(&guests[1].domain);
    hv.detach_console(&guests[1].domain).unwrap();
    hv.type_keys(b"nobody");
    assert!(hv.screen().contains("No domain takes serial input"));
}

/// `K`, a number and Enter end a domain; anything else, and dom0, are refused.
#[test]
fn a_key_ends_a_domain() {
    let (hv, _) = mock::machine_with_domain(64);
    let guest = Guest::new(&hv, 1);
    hv.type_keys(&[1, 1, 1, 1, 1, 1]);
    for (keys, answer) in [
        (&b"K0\r"[..], "no such domain"),
        (b"K9\r", "no such domain"),
        (b"K\r", "no such domain"),
        (b"Kq", "Not a domain's number"),
        (b"K99999\r", "Not a domain's number"),
    ] {
        hv.screen();
        hv.type_keys(keys);
        assert!(hv.screen().contains(answer), "{}", String::from_utf8_lossy(keys));
        assert!(!guest.domain.stopped.load(SeqCst));
    }
    hv.type_keys(b"K1\r");
    assert!(guest.domain.stopped.load(SeqCst));
    for key in b"hdegmq" {
        hv.screen();
        hv.type_keys(&[*key]);
        assert!(!hv.screen().is_empty(), "{}", char::from(*key));
    }
}

/// The log keeps whole lines, and a reader that comes back gets what is new.
#[test]
fn the_log_is_read_in_parts() {
    let hv = mock::hypervisor(64);
    hv.log(format_args!("first\n"));
    let part = hv.console.log_part(None, 100);
    assert_eq!((part.start, &part.text[..]), (0, &b"(HV) first\n"[..]));
    hv.log(format_args!("second\n"));
    let part = hv.console.log_part(Some(11), 6);
    assert_eq!((part.start, &part.text[..]), (11, &b"(HV) s"[..]));
    (0..2000).for_each(|n| hv.log(format_args!("line {n}\n")));
    let part = hv.console.log_part(Some(0), 100_000);
    assert_eq!(part.text.len(), 16 * 1024);
    assert!(part.text.ends_with(b"line 1999\n"));
    hv.console.clear_log(part.start + 16 * 1024);
    assert!(hv.console.log_part(None, 100).text.is_empty());
}

proptest! {
    /// Whatever a guest does to its page, the hypervisor writes no more than the ring holds, and its own index never
    /// goes another way than its count.
    #[test]
    fn hostile_rings(steps in prop::collection::vec((0usize..4, any::<u32>(), any::<bool>()), 1..60)) {
        let hv = mock::hypervisor(64);
        let guest = Guest::new(&hv, 1);
        let page = hv.ring_words(guest.page);
        for (index, value, event) in steps {
            set_word32(page, offset_of!(XenconsInterface, in_cons) + 4 * index, value);
            hv.type_keys(b"typed");
            if event {
                hv.screen();
                prop_assert!(guest.send(&hv) <= 2048 / 8 + 1);
                (0..9).for_each(|_| hv.console_work());
                prop_assert!(hv.platform.record.lock().unwrap().console.len() <= 2048);
            }
        }
    }
}
