//! Memory of the driver domain: headers of packets, and packets that pass through it (those of a wire, and those to be
//! completed).

use super::super::MAX_PACKET;
use super::super::back::HEADER;
use crate::transport::{Error, PAGE_SIZE, Transport, words};

/// Headers that are copied in a round. They are kept at the start.
pub const HEADERS: usize = 512;
/// Bytes for them.
const HEADER_BYTES: usize = HEADERS * HEADER;
/// Packets begin at multiples of this.
const ALIGN: usize = 64;
/// Room for the largest packet.
pub const LARGEST: usize = MAX_PACKET.next_multiple_of(ALIGN);
/// Behind the headers: two for late frames, two for those of wires as well, and one that only what is to be completed has.
const ALL: usize = HEADER_BYTES + 5 * LARGEST;
/// Frames of wires and late ones in a round, at most.
pub const FRAMES: usize = 4 * LARGEST / ALIGN;
/// Pages.
const PAGES: usize = ALL / PAGE_SIZE;

/// A place for one packet.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its first byte.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
}

/// The memory. It is handed out from the start on, and taken back all at once.
pub struct Staging<T: Transport> {
    pub memory: T::Memory,
    used: usize,
}

impl<T: Transport> Staging<T> {
    pub fn new(transport: &T) -> Result<Self, Error> {
        Ok(Self { memory: transport.memory(PAGES)?, used: HEADER_BYTES })
    }

    /// Forgets what is there.
    pub fn clear(&mut self) {
        self.used = HEADER_BYTES;
    }

    /// Whether there is room for any frame of a wire. Behind it there is room for any packet that is to be completed, in every
    /// round.
    pub const fn has_room_for_wire(&self) -> bool {
        self.used + 2 * LARGEST <= ALL
    }

    /// The same for a frame that was completed before: behind it there is room for those of wires too.
    pub const fn has_room_for_late(&self) -> bool {
        self.used + LARGEST <= HEADER_BYTES + 2 * LARGEST
    }

    /// Keeps a frame; none: there is no room.
    pub fn put(&mut self, frame: &[u8]) -> Option<Place> {
        let (place, used) = place(self.used, frame.len())?;
        words::store(&self.memory, place.offset, frame);
        self.used = used;
        Some(place)
    }

    /// The memory, and a way to hand out places in it while it is borrowed.
    pub fn split(&mut self) -> (&T::Memory, Places<'_>) {
        (&self.memory, Places { used: &mut self.used })
    }
}

/// Hands out places.
pub struct Places<'a> {
    used: &'a mut usize,
}

impl Places<'_> {
    /// Bytes that are there.
    pub const fn rest(&self) -> usize {
        ALL - *self.used
    }

    /// A place for `length` bytes; none: there is no room.
    pub fn take(&mut self, length: usize) -> Option<Place> {
        let (place, used) = place(*self.used, length)?;
        *self.used = used;
        Some(place)
    }
}

/// A place behind `used` bytes, and how many are used then.
fn place(used: usize, length: usize) -> Option<(Place, usize)> {
    let end = used.checked_add(length)?.checked_next_multiple_of(ALIGN)?;
    (end <= ALL).then_some((Place { offset: used, length }, end))
}

/// The place of header number `number`.
pub const fn header_place(number: usize) -> usize {
    number * HEADER
}

/// The places of headers, in the order in which they are handed out in a round.
pub fn header_places() -> impl FnMut() -> usize {
    let mut numbers = 0..;
    move || numbers.next().map_or(0, header_place)
}
