//! Half-valid values: numbers at boundaries, machine frames, page-table entries, addresses, domains, ports, grant references;
//! and the places where structures made of them are put.
//!
//! Most of each kind are of the attacker's own and right, so that hypercalls get far; the others are wrong in every way that
//! a field can be.

use guest_pv_lib::mmu::Pte;
use xen_abi::arch_x86::HYPERVISOR_VIRT_START;
use xen_abi::xen::{DOMID_INVALID, DOMID_IO, DOMID_SELF, DOMID_XEN};
use zerocopy::{Immutable, IntoBytes};

use super::edge::poke;
use super::pool::{self, PAGES, USER_CODE, USER_DATA, USER_PAGES, place};
use crate::random::Random;

/// Words in which a turn's structures lie.
pub const ARENA: usize = 2048;

/// Once in how many times an argument is what may end this life.
pub const DEADLY: usize = 20_000;

/// Numbers at which something begins or ends.
const BOUNDARIES: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    255,
    256,
    257,
    511,
    512,
    513,
    1023,
    1024,
    4095,
    4096,
    4097,
    0x7ff0,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x1_ffff,
    0x2_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 39,
    1 << 40,
    1 << 47,
    1 << 51,
    1 << 52,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// What one attacking vCPU generates with.
pub struct Cx {
    /// The numbers.
    pub random: Random,
    /// Which vCPU this is.
    pub vcpu: usize,
    /// vCPUs of this domain.
    pub vcpus: usize,
    /// This is the first domain: what it may lawfully do to the machine is left out.
    pub first: bool,
    /// Its own number, the neighbour's and the victim's.
    pub own: u16,
    /// See [`own`](Self::own).
    pub neighbour: u16,
    /// See [`own`](Self::own).
    pub victim: u16,
    /// Where structures lie unless they are put elsewhere.
    pub arena: [u64; ARENA],
    /// Words of it that are taken.
    pub used: usize,
}

impl Cx {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.below(end)
    }

    /// Once in `times`.
    pub fn rarely(&mut self, times: usize) -> bool {
        self.random.once_in(times)
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        self.random.one_of(of)
    }

    /// Any number, often one at a boundary.
    pub fn number(&mut self) -> u64 {
        match self.below(8) {
            0..4 => self.pick(BOUNDARIES),
            4 => 1 << self.below(64),
            5 => (1u64 << self.below(64)).wrapping_sub(1),
            6 => self.below(4096) as u64,
            _ => self.random.any(),
        }
    }

    /// A small count, seldom a boundary: most of these are work that somebody does.
    pub fn count(&mut self) -> u64 {
        match self.below(40) {
            0 => self.number(),
            1 => self.pick(&[0x8000_0000, 0x8000_0001, 0xffff_ffff, 1 << 32, 1 << 31 | 4]),
            2..6 => 0,
            6..10 => self.below(64) as u64,
            _ => 1 + self.below(5) as u64,
        }
    }

    /// A page of the pool.
    pub fn page(&mut self) -> usize {
        self.below(PAGES)
    }

    /// A machine frame.
    pub fn frame(&mut self) -> u64 {
        match self.below(64) {
            0 => {
                let low = self.below(256) as u64;
                if pool::is_program(low) { 0 } else { low }
            }
            1 | 2 => {
                let frame = self.below(place().end as usize) as u64;
                // The program itself is hit often enough.
                if pool::is_program(frame) && !self.rarely(DEADLY) { 0 } else { frame }
            }
            3 if self.rarely(8) => place().root.0,
            4 => place().user_tables[self.below(4)].0,
            5 => place().shared.0,
            6 if self.rarely(DEADLY / 8) => place().image[self.below(8)].0,
            7 => self.pick(&[u64::MAX, 0x7_ffff_ffff, 1 << 40, (1 << 40) - 1, 1 << 52, place().end, 1 << 36]),
            8 => {
                let number = self.number();
                if pool::is_program(number & 0xff_ffff_ffff) { 0 } else { number }
            }
            9 => self.pick(&[0xfee00, 0xfec00, 0xb8, 0xa0, 0xf0]),
            _ => {
                let page = self.page();
                pool::frame(page)
            }
        }
    }

    /// A number that [`frame`](Self::frame) or a pseudo-physical frame can be.
    pub fn gfn(&mut self) -> u64 {
        let small = self.below(5000) as u64;
        if self.rarely(8) && !pool::is_program(small) { small } else { self.frame() }
    }

    /// Flags of a page-table entry.
    pub fn flags(&mut self) -> u64 {
        match self.below(24) {
            0 => 0,
            1 => self.random.any() & 0xfff,
            2 => Pte::PRESENT | 1 << 52,
            3 => Pte::PRESENT | Pte::LARGE | Pte::WRITABLE,
            4 => Pte::PRESENT | Pte::WRITE_THROUGH | Pte::NO_CACHE | Pte::WRITABLE,
            5 => Pte::PRESENT | Pte::WRITABLE | 0x100,
            6 => self.random.any() & 0xfff0_0000_0000_0fff,
            7..11 => Pte::PRESENT | Pte::NO_EXECUTE,
            11..14 => Pte::PRESENT | Pte::USER,
            14..18 => Pte::PRESENT | Pte::WRITABLE | Pte::NO_EXECUTE | 0x60,
            _ => Pte::PRESENT | Pte::WRITABLE | Pte::USER,
        }
    }

    /// A page-table entry.
    pub fn entry(&mut self) -> u64 {
        match self.below(32) {
            0 => 0,
            1 => self.random.any(),
            2 => self.number(),
            3 => {
                let at = self.below(8);
                place().kernel_slots[at].1
            }
            _ => (self.frame() & 0xff_ffff_ffff) << 12 | self.flags(),
        }
    }

    /// Where inside a page: mostly aligned, at times across its end.
    pub fn offset(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4096) as u64,
            1 => 4096 - self.below(72) as u64,
            2 => 0,
            _ => 8 * self.below(512) as u64,
        }
    }

    /// An address through up to four linear entries: the translation that reads page tables as memory.
    fn linear(&mut self) -> u64 {
        let slots = [0, 1, 255, 256, 257, 258, 260, 261, 271, 272, 510, 511];
        let own = self.pick(&slots) as u64;
        let slot = |cx: &mut Self| if cx.rarely(2) { own } else { cx.below(512) as u64 };
        let parts = [own, slot(self), slot(self), slot(self)];
        let address = parts[0] << 39 | parts[1] << 30 | parts[2] << 21 | parts[3] << 12 | self.offset();
        ((address << 16).cast_signed() >> 16).cast_unsigned()
    }

    /// An address that a structure may be at.
    pub fn address(&mut self) -> u64 {
        match self.below(48) {
            0 => 0,
            1 => HYPERVISOR_VIRT_START + (self.random.any() & 0x7ff_ffff_ffff),
            2 => self.pick(&[HYPERVISOR_VIRT_START, 0xffff_82d0_4020_0000, 0xffff_87ff_ffff_fff8]),
            3 => HYPERVISOR_VIRT_START + 8 * self.frame(),
            4 => self.pick(&[
                1 << 47,
                (1 << 47) - 8,
                0x8000_0000_0000_0000,
                0xffff_7fff_ffff_fff8,
                u64::MAX - 7,
            ]),
            5 | 6 => self.linear(),
            7 => self.number(),
            8 => USER_DATA + 4096 * self.below(USER_PAGES + 1) as u64 + self.offset(),
            9 => USER_CODE + self.offset(),
            // Its second half has room for what is written there.
            10..20 => self.arena.as_ptr() as u64 + 8 * self.below(ARENA / 2) as u64,
            _ => self.in_pool(),
        }
    }

    /// An address in the pool.
    fn in_pool(&mut self) -> u64 {
        let page = self.page();
        pool::address(page).wrapping_add(self.offset())
    }

    /// An address at which any number of words may be changed: none of the program's.
    pub fn far(&mut self) -> u64 {
        let at = self.address();
        if is_image(at) { self.in_pool() } else { at }
    }

    /// A pool page's address, to be mapped or flushed.
    pub fn virt(&mut self) -> u64 {
        let at = self.address();
        if self.rarely(16) && (!is_image(at) || self.rarely(DEADLY)) {
            return at;
        }
        let page = self.page();
        pool::address(page)
    }

    /// A domain. The first domain leaves the victim alone, over which it has every right.
    pub fn domid(&mut self) -> u16 {
        let id = self.any_domain();
        if self.first && id == self.victim { DOMID_SELF } else { id }
    }

    fn any_domain(&mut self) -> u16 {
        match self.below(24) {
            0..8 => DOMID_SELF,
            8..11 => self.own,
            11..17 => self.neighbour,
            17 => self.victim,
            18 => 0,
            19 => DOMID_IO,
            20 => DOMID_XEN,
            21 => DOMID_INVALID,
            22 => self.pick(&[0x7000, 0x7fff, 0x7ff3, 0xffff, 5]),
            _ => self.random.any() as u16,
        }
    }

    /// A domain that something is shared with.
    pub fn peer(&mut self) -> u16 {
        if self.rarely(6) {
            return self.domid();
        }
        let (own, neighbour) = (self.own, self.neighbour);
        self.pick(&[own, neighbour, neighbour])
    }

    /// The number that a hypercall has for the owner of tables and pages.
    pub fn foreign(&mut self) -> u64 {
        match self.below(16) {
            0 => u64::from(self.domid()) | (u64::from(self.domid()) + 1) << 16,
            1 if !self.first => self.number(),
            2 | 3 => u64::from(self.domid()),
            _ => u64::from(DOMID_SELF),
        }
    }

    /// An event channel; the console's only when this life is nearly over, for it says what the others came to.
    pub fn port(&mut self) -> u32 {
        let port = self.any_port();
        if port == place().console && !super::is_late() { port + 1 } else { port }
    }

    fn any_port(&mut self) -> u32 {
        match self.below(20) {
            0 => self.number() as u32,
            1 => self.below(4096) as u32,
            2 => self.pick(&[1023, 1024, 4095, 4096, 131_071, 131_072]),
            _ => self.below(40) as u32,
        }
    }

    /// A grant reference.
    pub fn gref(&mut self) -> u32 {
        match self.below(20) {
            0 => self.number() as u32,
            1 => self.below(2048) as u32,
            _ => self.below(96) as u32,
        }
    }

    /// A vCPU of this domain.
    pub fn any_vcpu(&mut self) -> u32 {
        match self.below(12) {
            0 => self.number() as u32,
            1 => self.vcpus as u32,
            _ => self.below(self.vcpus) as u32,
        }
    }

    /// A moment: soon, long past, or never.
    pub fn moment(&mut self) -> u64 {
        match self.below(6) {
            0 => self.number(),
            1 => 0,
            2 => self.pick(&[u64::MAX / 3, u64::MAX / 3 + 1, i64::MAX as u64, u64::MAX - 1000]),
            _ => guest_pv_lib::time::now().wrapping_add(self.below(3_000_000) as u64),
        }
    }

    /// Puts a structure somewhere, mostly into the arena, and answers its address.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, value: &T) -> u64 {
        let bytes = value.as_bytes();
        match self.below(40) {
            0 => self.address(),
            1 | 2 => {
                let at = self.in_pool();
                poke_all(at, bytes);
                at
            }
            _ => self.store(bytes),
        }
    }

    /// Puts some of `count` structures somewhere. Where the hypervisor is told of more than there are, what it writes into the
    /// others must not be the program's.
    pub fn put_some<T: IntoBytes + Immutable>(&mut self, values: &[T], count: u64) -> u64 {
        if count <= values.len() as u64 {
            return self.put(values);
        }
        let at = self.far();
        poke_all(at, values.as_bytes());
        at
    }

    /// Puts a structure that is made with the same numbers.
    pub fn made<T: IntoBytes + Immutable>(&mut self, make: impl FnOnce(&mut Self) -> T) -> u64 {
        let value = make(self);
        self.put(&value)
    }

    /// Puts bytes into the arena.
    pub fn store(&mut self, bytes: &[u8]) -> u64 {
        let words = bytes.len().div_ceil(8);
        if self.used + words > ARENA {
            self.used = 0;
        }
        let at = self.used;
        self.used += words;
        for (slot, word) in self.arena[at..].iter_mut().zip(bytes.chunks(8)) {
            *slot = word_of(word);
        }
        &raw const self.arena[at] as u64
    }

    /// Puts `count` words, each made by `make`, and answers their address.
    pub fn list(&mut self, count: u64, mut make: impl FnMut(&mut Self) -> u64) -> u64 {
        let mut words = [0; 64];
        let there = count.min(16) as usize;
        for word in &mut words[..there] {
            *word = make(self);
        }
        if count == there as u64 { self.put(&words[..there]) } else { self.put_some(&words, count) }
    }
}

/// Whether an address is the program's.
const fn is_image(at: u64) -> bool {
    at >> 31 == 0x1_ffff_ffff
}

/// Stores bytes by whole words.
pub fn poke_all(at: u64, bytes: &[u8]) {
    for (n, word) in bytes.chunks(8).enumerate() {
        poke(at.wrapping_add(8 * n as u64), word_of(word));
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}
