//! The pages of xenstore and console, which the domain builder set aside, as words.

use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};

use crate::random::Random;

/// A whole page of the image, over which a frame is mapped.
#[repr(C, align(4096))]
struct Slot([AtomicU32; 1024]);

static STORE: Slot = Slot([const { AtomicU32::new(0) }; 1024]);
static CONSOLE: Slot = Slot([const { AtomicU32::new(0) }; 1024]);

/// A page that the domain shares with whoever serves it.
#[derive(Clone, Copy, Debug)]
pub struct GuestPage(&'static [AtomicU32]);

/// The page of xenstore.
pub fn store(frame: Mfn) -> Option<GuestPage> {
    map(&STORE, frame)
}

/// The page of the console.
pub fn console(frame: Mfn) -> Option<GuestPage> {
    map(&CONSOLE, frame)
}

fn map(slot: &'static Slot, frame: Mfn) -> Option<GuestPage> {
    // SAFETY: the page belongs to `slot` alone, whose type allows any contents and any change; the frame is one that the
    // domain builder set aside for sharing, and everything else in this kernel reaches it by atomics, too.
    unsafe { update_va_mapping(&raw const *slot as u64, Pte::data(frame), Flush::All) }.ok()?;
    Some(GuestPage(&slot.0))
}

impl Deref for GuestPage {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        self.0
    }
}

impl GuestPage {
    /// Writes something somewhere, often into one of the `count` words from `first` on, which are the indices.
    pub fn scribble(&self, random: &mut Random, first: usize, count: usize) {
        for _ in 0..=random.below(4) {
            let at = if random.once_in(3) { random.below(self.len()) } else { first + random.below(count) };
            self[at].store(random.number(), Relaxed);
        }
    }
}
