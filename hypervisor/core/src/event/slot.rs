//! Ports as words: what a port is bound to, in 64 bits that a sender reads without a lock.

use crate::ids::{DomId, Port, VcpuId};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Once;

/// Ports whose memory is allocated together: a chunk fills one page.
pub const CHUNK: usize = 512;
/// Bytes of what is kept for them.
pub(super) const CHUNK_BYTES: usize = CHUNK * size_of::<Slot>();
/// Ports become valid in steps of this many, as in Xen: `EVTCHNOP_status` and others tell a valid free port from one
/// that never was.
pub const STEP: u32 = 64;
/// Most ports of the FIFO ABI (`EVTCHN_FIFO_NR_CHANNELS`), and so of any domain.
pub const MAX_PORTS: u32 = 1 << 17;

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: it may be allocated.
    Free,
    /// Nothing yet: this domain may bind to it.
    Unbound(DomId),
    /// A port of a domain, which is bound to this one.
    Interdomain(DomId, Port),
    /// A physical interrupt, by the domain's own number.
    Pirq(u32),
    /// A virtual interrupt.
    Virq(u32),
    /// The domain's own vCPUs.
    Ipi,
    /// The hypervisor, which serves the domain's console ring.
    Console,
}

/// Everything about a port, decoded.
///
/// | bits   | meaning                                                     |
/// |--------|-------------------------------------------------------------|
/// | 2..0   | kind of the binding                                         |
/// | 3      | lock                                                        |
/// | 4      | an event came before the FIFO's word of this port was there |
/// | 8..5   | FIFO priority                                               |
/// | 22..9  | vCPU that is notified                                       |
/// | 40..23 | the other end's port, pirq or virq                          |
/// | 56..41 | the other end's domain                                      |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(u64);

const LOCKED: u64 = 1 << 3;
const SAVED: u64 = 1 << 4;
const PRIORITY_SHIFT: u32 = 5;
const VCPU_SHIFT: u32 = 9;
const VCPU_BITS: u64 = 0x3fff;
const NUMBER_SHIFT: u32 = 23;
const NUMBER_BITS: u64 = 0x3_ffff;
const DOMAIN_SHIFT: u32 = 41;
const DOMAIN_BITS: u64 = 0xffff;
const BINDING: u64 = 7 | NUMBER_BITS << NUMBER_SHIFT | DOMAIN_BITS << DOMAIN_SHIFT;

/// Numbers (of pirqs, virqs, vCPUs) that a slot can hold are below these.
pub const MAX_NUMBER: u32 = NUMBER_BITS as u32;
/// Most vCPUs that a slot can tell apart.
pub const MAX_VCPUS: u32 = VCPU_BITS as u32 + 1;

impl Word {
    fn number(self) -> u32 {
        (self.0 >> NUMBER_SHIFT & NUMBER_BITS) as u32
    }

    fn domain(self) -> DomId {
        DomId((self.0 >> DOMAIN_SHIFT & DOMAIN_BITS) as u16)
    }

    /// What the port is bound to.
    pub fn binding(self) -> Binding {
        match self.0 & 7 {
            1 => Binding::Unbound(self.domain()),
            2 => Binding::Interdomain(self.domain(), Port(self.number())),
            3 => Binding::Pirq(self.number()),
            4 => Binding::Virq(self.number()),
            5 => Binding::Ipi,
            6 => Binding::Console,
            _ => Binding::Free,
        }
    }

    fn encode(binding: Binding) -> u64 {
        let number = |n: u32| (u64::from(n) & NUMBER_BITS) << NUMBER_SHIFT;
        let domain = |d: DomId| u64::from(d.0) << DOMAIN_SHIFT;
        match binding {
            Binding::Free => 0,
            Binding::Unbound(d) => 1 | domain(d),
            Binding::Interdomain(d, port) => 2 | domain(d) | number(port.0),
            Binding::Pirq(n) => 3 | number(n),
            Binding::Virq(n) => 4 | number(n),
            Binding::Ipi => 5,
            Binding::Console => 6,
        }
    }

    /// The vCPU that its events notify.
    pub fn vcpu(self) -> VcpuId {
        VcpuId((self.0 >> VCPU_SHIFT & VCPU_BITS) as u32)
    }

    /// Its queue with the FIFO ABI, 0 (first) to 15.
    pub fn priority(self) -> usize {
        (self.0 >> PRIORITY_SHIFT & 15) as usize
    }

    /// Whether an event waits for the FIFO's word of this port.
    pub fn has_saved_event(self) -> bool {
        self.0 & SAVED != 0
    }
}

/// A port.
#[derive(Debug)]
pub struct Slot(AtomicU64);

/// The lock bit of a slot, held.
pub struct SlotGuard<'a>(&'a Slot);

impl Slot {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The port as it is now.
    pub fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    /// Takes the lock bit. Held only for a handful of instructions, so it spins.
    pub fn lock(&self) -> SlotGuard<'_> {
        while self.0.fetch_or(LOCKED, Ordering::Acquire) & LOCKED != 0 {
            while self.0.load(Ordering::Relaxed) & LOCKED != 0 {
                spin_loop();
            }
        }
        SlotGuard(self)
    }

    fn replace(&self, field: u64, value: u64) {
        // The loop ends: a failure means that another CPU changed a flag, which each does once per event.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |w| Some(w & !field | value));
    }

    /// Sets the FIFO queue of future events; `priority` is below 16.
    pub fn set_priority(&self, priority: u32) {
        self.replace(15 << PRIORITY_SHIFT, u64::from(priority & 15) << PRIORITY_SHIFT);
    }

    /// Remembers an event that cannot be shown to the guest yet.
    pub fn save_event(&self) {
        self.0.fetch_or(SAVED, Ordering::AcqRel);
    }

    /// Takes a remembered event; answers whether there was one.
    pub fn take_saved_event(&self) -> bool {
        self.0.fetch_and(!SAVED, Ordering::AcqRel) & SAVED != 0
    }

    /// Sets the vCPU that future events notify. The caller holds the domain's mutex.
    pub fn set_vcpu(&self, vcpu: VcpuId) {
        self.replace(VCPU_BITS << VCPU_SHIFT, (u64::from(vcpu.0) & VCPU_BITS) << VCPU_SHIFT);
    }
}

impl SlotGuard<'_> {
    /// The port as it is now.
    pub fn load(&self) -> Word {
        self.0.load()
    }

    /// The slot whose lock bit this is.
    pub fn slot(&self) -> &Slot {
        self.0
    }

    /// Binds the port; vCPU, priority and a remembered event stay as they are.
    pub fn set_binding(&self, binding: Binding) {
        self.0.replace(BINDING, Word::encode(binding));
    }

    /// Frees the port and forgets everything about it.
    pub fn clear(&self) {
        self.0.replace(!LOCKED, 0);
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_and(!LOCKED, Ordering::Release);
    }
}

/// All ports of a domain.
#[derive(Debug)]
pub struct SlotTable {
    /// Ports below this are valid: their chunks are there.
    valid: AtomicU32,
    chunks: Box<[Once<Box<[Slot]>>]>,
}

/// There is no memory for more ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl SlotTable {
    /// No valid port yet.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(MAX_PORTS as usize / CHUNK).map_err(|_| OutOfMemory)?;
        chunks.resize_with(MAX_PORTS as usize / CHUNK, Once::new);
        Ok(Self { valid: AtomicU32::new(0), chunks: chunks.into_boxed_slice() })
    }

    /// The port's slot, if the port is valid.
    pub fn get(&self, port: Port) -> Option<&Slot> {
        if port.0 >= self.valid() {
            return None;
        }
        let index = port.0 as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The slots of ports `n * STEP` to `n * STEP + STEP - 1`, which become valid together; `None` while they are not.
    pub fn step(&self, n: u32) -> Option<&[Slot]> {
        let first = n.checked_mul(STEP).filter(|first| *first < self.valid())? as usize;
        self.chunks.get(first / CHUNK)?.get()?.get(first % CHUNK..)?.get(..STEP as usize)
    }

    /// One more than the highest valid port.
    pub fn valid(&self) -> u32 {
        self.valid.load(Ordering::Acquire)
    }

    /// Makes ports valid up to `port`, which is below [`MAX_PORTS`]. The caller holds the domain's mutex.
    pub fn grow_to(&self, port: Port) -> Result<(), OutOfMemory> {
        while self.valid() <= port.0 {
            let valid = self.valid();
            let chunk = self.chunks.get(valid as usize / CHUNK).ok_or(OutOfMemory)?;
            chunk.try_call_once(new_chunk)?;
            self.valid.store(valid + STEP, Ordering::Release);
        }
        Ok(())
    }
}

fn new_chunk() -> Result<Box<[Slot]>, OutOfMemory> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(CHUNK).map_err(|_| OutOfMemory)?;
    slots.resize_with(CHUNK, Slot::new);
    Ok(slots.into_boxed_slice())
}
