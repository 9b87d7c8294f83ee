//! What other CPUs want one CPU to flush from its TLB: a protocol of three words, without a lock.
//!
//! Whoever asks writes down *what* first and counts `asked` up then. The CPU reads `asked`, takes what is written down, flushes that,
//! and says in `done` how far it had read. So a request that is counted in `done` was written down before the flush began, by whichever
//! look it was taken. Where several want the same page, it is that page; where they want different things, it is everything.

use crate::ids::GuestVirt;
use crate::platform::Flush;
use crate::sync::Word;
use core::sync::atomic::AtomicU64;

/// Nobody wants anything.
const NOTHING: u64 = 0;
/// Everything is wanted.
const EVERYTHING: u64 = 2;
/// One page: its address, and this bit.
const PAGE: u64 = 1;

const fn code(what: Flush) -> u64 {
    match what {
        Flush::All => EVERYTHING,
        Flush::Page(va) => va.0 & !0xfff | PAGE,
    }
}

/// The requests to one CPU.
#[derive(Debug, Default)]
pub struct FlushRequests(Words<AtomicU64>);

#[derive(Debug, Default)]
struct Words<W> {
    /// What is wanted since the CPU looked last.
    what: W,
    /// Requests so far.
    asked: W,
    /// Requests that are done.
    done: W,
}

impl FlushRequests {
    /// Nobody asked yet.
    pub const fn new() -> Self {
        let [what, asked, done] = [const { AtomicU64::new(0) }; 3];
        Self(Words { what, asked, done })
    }

    /// Asks; the CPU has to be interrupted then. The answer is for [`FlushRequests::is_done`].
    pub fn ask(&self, what: Flush) -> u64 {
        self.0.ask(what)
    }

    /// On the CPU itself, one look at a time: does what was asked for.
    pub fn serve(&self, flush: impl FnOnce(Flush)) {
        self.0.serve(flush);
    }

    /// Whether a request was done.
    pub fn is_done(&self, request: u64) -> bool {
        self.0.is_done(request)
    }
}

impl<W: Word> Words<W> {
    fn ask(&self, what: Flush) -> u64 {
        let wanted = code(what);
        // Even a word that is not to change is written: the CPU must not have taken it between here and the counting.
        change(&self.what, |now| if now == NOTHING || now == wanted { wanted } else { EVERYTHING });
        change(&self.asked, |now| now.wrapping_add(1)).wrapping_add(1)
    }

    fn serve(&self, flush: impl FnOnce(Flush)) {
        let asked = self.asked.read();
        if asked == self.done.read() {
            return;
        }
        match change(&self.what, |_| NOTHING) {
            // It was taken, and flushed, by the look before.
            NOTHING => {}
            what if what & PAGE != 0 => flush(Flush::Page(GuestVirt(what & !PAGE))),
            _ => flush(Flush::All),
        }
        change(&self.done, |_| asked);
    }

    fn is_done(&self, request: u64) -> bool {
        self.done.read().wrapping_sub(request).cast_signed() >= 0
    }
}

/// Replaces a word by what `by` makes of it; answers what it was.
fn change<W: Word>(word: &W, by: impl Fn(u64) -> u64) -> u64 {
    let mut now = word.read();
    loop {
        match word.replace(now, by(now)) {
            Ok(old) => return old,
            Err(other) => now = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as Checked;
    use loom::thread;
    use std::vec;
    use std::vec::Vec;

    const PAGES: [u64; 2] = [0x1000, 0xffff_ffff_ffff_f000];

    fn served(requests: &FlushRequests) -> Vec<Flush> {
        let mut all = vec![];
        requests.serve(|what| all.push(what));
        all
    }

    #[test]
    fn one_page_stays_one_page() {
        let requests = FlushRequests::new();
        assert!(served(&requests).is_empty() && requests.is_done(0));
        let page = |va| Flush::Page(GuestVirt(va));
        let first = requests.ask(page(0x1234));
        let second = requests.ask(page(0x1000));
        assert!(!requests.is_done(first));
        assert_eq!(served(&requests), [page(0x1000)]);
        assert!(requests.is_done(first) && requests.is_done(second));
        assert!(served(&requests).is_empty());
        requests.ask(page(0));
        assert_eq!(served(&requests), [page(0)], "page 0 is a page, too");
        requests.ask(page(0x1000));
        requests.ask(page(0x2000));
        assert_eq!(served(&requests), [Flush::All]);
        requests.ask(Flush::All);
        let last = requests.ask(page(0x1000));
        assert!(!requests.is_done(last));
        assert_eq!(served(&requests), [Flush::All]);
        assert!(requests.is_done(last));
    }

    /// Two CPUs change an entry each and have a third one flush: what is said to be done was flushed after the change.
    fn two_ask(what: [Flush; 2]) {
        loom::model(move || {
            let world: Arc<(Words<Checked>, [Checked; 2], [Checked; 2])> = Arc::default();
            let askers = [0, 1].map(|n| {
                let world = world.clone();
                thread::spawn(move || {
                    let (requests, entries, seen) = &*world;
                    entries[n].set_bits(1);
                    let request = requests.ask(what[n]);
                    if requests.is_done(request) {
                        assert_eq!(seen[n].read(), 1, "done before it was flushed");
                    }
                    request
                })
            });
            let (requests, entries, seen) = &*world;
            let look = || {
                requests.serve(|what| {
                    for n in 0..2 {
                        if matches!(what, Flush::All) || what == Flush::Page(GuestVirt(PAGES[n])) {
                            seen[n].set_bits(entries[n].read());
                        }
                    }
                });
            };
            look();
            let asked = askers.map(|asker| asker.join().unwrap());
            look();
            assert!(asked.iter().all(|request| requests.is_done(*request)));
            assert!(seen.iter().all(|seen| seen.read() == 1));
        });
    }

    #[test]
    fn different_pages() {
        two_ask(PAGES.map(|va| Flush::Page(GuestVirt(va))));
    }

    #[test]
    fn a_page_and_everything() {
        two_ask([Flush::Page(GuestVirt(PAGES[0])), Flush::All]);
    }
}
