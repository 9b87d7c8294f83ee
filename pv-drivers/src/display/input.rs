//! Keyboard and pointer (`io/kbdif.h`), both ends.

use xen_abi::io::kbdif::{
    XENKBD_FIELD_EVT_CHANNEL, XENKBD_FIELD_FEAT_ABS_POINTER, XENKBD_FIELD_HEIGHT,
    XENKBD_FIELD_REQ_ABS_POINTER, XENKBD_FIELD_RING_GREF, XENKBD_FIELD_WIDTH, XENKBD_IN_RING_LEN,
    XENKBD_IN_RING_OFFS, XENKBD_TYPE_KEY, XENKBD_TYPE_MOTION, XENKBD_TYPE_POS, XenkbdInEvent, XenkbdKey,
    XenkbdMotion, XenkbdPosition,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::events::{Consumer, Corrupt, Layout, Producer};
use crate::transport::{Access, GrantRef, Granted, Port, Transport};
use crate::xenbus::{Driver, End, Error, Nodes, Role};

/// The page of kbdif.
#[derive(Debug)]
pub struct InPage;

impl Layout for InPage {
    type Event = XenkbdInEvent;
    const OFFSET: usize = XENKBD_IN_RING_OFFS;
    // A constant of 51.
    const SLOTS: u32 = XENKBD_IN_RING_LEN as u32;
}

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key or a button of the pointer.
    Key {
        /// Linux's number for it (`KEY_*`, `BTN_*`).
        code: u32,
        /// Down, or up.
        pressed: bool,
    },
    /// The pointer moved by so much.
    Motion {
        /// To the right.
        x: i32,
        /// Downwards.
        y: i32,
        /// The wheel.
        wheel: i32,
    },
    /// The pointer is at a place of the screen.
    Position {
        /// From the left.
        x: i32,
        /// From the top.
        y: i32,
        /// The wheel.
        wheel: i32,
    },
}

impl Input {
    fn to_slot(self) -> XenkbdInEvent {
        match self {
            Self::Key { code: keycode, pressed } => {
                let (type_, pressed) = (XENKBD_TYPE_KEY, u8::from(pressed));
                as_slot(&XenkbdKey { type_, pressed, keycode, ..XenkbdKey::new_zeroed() })
            }
            Self::Motion { x: rel_x, y: rel_y, wheel: rel_z } => as_slot(&XenkbdMotion {
                type_: XENKBD_TYPE_MOTION,
                rel_x,
                rel_y,
                rel_z,
                ..XenkbdMotion::new_zeroed()
            }),
            Self::Position { x: abs_x, y: abs_y, wheel: rel_z } => as_slot(&XenkbdPosition {
                type_: XENKBD_TYPE_POS,
                abs_x,
                abs_y,
                rel_z,
                ..XenkbdPosition::new_zeroed()
            }),
        }
    }

    /// None for a type that is not known here: it is to be ignored.
    fn from_slot(slot: &XenkbdInEvent) -> Option<Self> {
        match slot.pad[0] {
            XENKBD_TYPE_KEY => {
                let (key, _) = XenkbdKey::read_from_prefix(&slot.pad).ok()?;
                Some(Self::Key { code: key.keycode, pressed: key.pressed != 0 })
            }
            XENKBD_TYPE_MOTION => {
                let (motion, _) = XenkbdMotion::read_from_prefix(&slot.pad).ok()?;
                Some(Self::Motion { x: motion.rel_x, y: motion.rel_y, wheel: motion.rel_z })
            }
            XENKBD_TYPE_POS => {
                let (position, _) = XenkbdPosition::read_from_prefix(&slot.pad).ok()?;
                Some(Self::Position { x: position.abs_x, y: position.abs_y, wheel: position.rel_z })
            }
            _ => None,
        }
    }
}

/// An event in a slot.
fn as_slot<E: IntoBytes + Immutable>(event: &E) -> XenkbdInEvent {
    let mut slot = XenkbdInEvent::new_zeroed();
    slot.pad[..size_of::<E>()].copy_from_slice(event.as_bytes());
    slot
}

/// One end of the page, and of the event channel.
struct Connection<E, T: Transport> {
    events: E,
    port: T::Port,
}

/// The front end: `xenbus::Device<T, Keyboard<T>>` connects it.
pub struct Keyboard<T: Transport> {
    connection: Option<Connection<Consumer<InPage, T::Granted>, T>>,
}

impl<T: Transport> Default for Keyboard<T> {
    fn default() -> Self {
        Self { connection: None }
    }
}

impl<T: Transport> Keyboard<T> {
    /// What was done next; none where there is nothing, or after a page's worth of events that are not known here.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]: the device should be closed.
    pub fn take(&mut self) -> Result<Option<Input>, Corrupt> {
        let Some(Connection { events, port }) = &mut self.connection else { return Ok(None) };
        let _ = port.take();
        for _ in 0..InPage::SLOTS {
            let Some(slot) = events.pop()? else { break };
            if let Some(input) = Input::from_slot(&slot) {
                return Ok(Some(input));
            }
        }
        Ok(None)
    }
}

impl<T: Transport> Driver<T> for Keyboard<T> {
    const ROLE: Role = Role::Front;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let (page, port) = page_and_port(end)?;
        let mut nodes = Nodes::new();
        nodes.set(XENKBD_FIELD_RING_GREF, page.refs()[0].0);
        nodes.set(XENKBD_FIELD_EVT_CHANNEL, port.number());
        if end.peer_has(XENKBD_FIELD_FEAT_ABS_POINTER) {
            nodes.set(XENKBD_FIELD_REQ_ABS_POINTER, 1);
        }
        self.connection = Some(Connection { events: Consumer::new(page), port });
        Ok(nodes)
    }

    fn connect(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.connection = None;
    }
}

/// A page that the other end may write, and a port that it may bind to.
pub(super) fn page_and_port<T: Transport>(end: &End<T>) -> Result<(T::Granted, T::Port), Error> {
    let (transport, peer) = (end.transport(), end.peer());
    let page = transport.lend(transport.buffer(1)?, peer, Access::ReadWrite).map_err(|(error, _)| error)?;
    Ok((page, transport.listen(peer)?))
}

/// The back end: `xenbus::Device<T, Source<T>>` connects it.
pub struct Source<T: Transport> {
    size: (u32, u32),
    connection: Option<Connection<Producer<InPage, T::Mapped>, T>>,
    absolute: bool,
}

impl<T: Transport> Source<T> {
    /// A keyboard, and a pointer on a screen of that width and height.
    #[must_use]
    pub const fn new(size: (u32, u32)) -> Self {
        Self { size, connection: None, absolute: false }
    }

    /// Whether the front end wants to know where the pointer is, not how it moves.
    #[must_use]
    pub const fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// Tells the front end. False: it is not connected, or reads too slowly, and the input is lost.
    pub fn send(&mut self, input: Input) -> bool {
        let Some(Connection { events, port }) = &mut self.connection else { return false };
        let sent = events.push(&input.to_slot());
        port.notify();
        sent
    }
}

impl<T: Transport> Driver<T> for Source<T> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        let mut nodes = Nodes::new();
        nodes.set(XENKBD_FIELD_FEAT_ABS_POINTER, 1);
        nodes.set(XENKBD_FIELD_WIDTH, self.size.0);
        nodes.set(XENKBD_FIELD_HEIGHT, self.size.1);
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let (page, port) = map_page_and_port(end, XENKBD_FIELD_RING_GREF, XENKBD_FIELD_EVT_CHANNEL)?;
        self.absolute = end.peer_has(XENKBD_FIELD_REQ_ABS_POINTER);
        self.connection = Some(Connection { events: Producer::new(page), port });
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.connection = None;
    }
}

/// Maps a page that the front end names, and binds to its port.
pub(super) fn map_page_and_port<T: Transport>(
    end: &End<T>,
    page: &str,
    port: &str,
) -> Result<(T::Mapped, T::Port), Error> {
    let (reference, port) = end
        .peers(page)
        .zip(end.peers(port))
        .ok_or(Error::Peer("the front end names no page or no event channel"))?;
    let mapped = end.transport().map(end.peer(), &[GrantRef(reference)], Access::ReadWrite)?;
    Ok((mapped, end.transport().connect(end.peer(), port)?))
}

impl<T: Transport> core::fmt::Debug for Keyboard<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keyboard").field("is_connected", &self.connection.is_some()).finish()
    }
}

impl<T: Transport> core::fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Source")
            .field("size", &self.size)
            .field("absolute", &self.absolute)
            .finish_non_exhaustive()
    }
}
