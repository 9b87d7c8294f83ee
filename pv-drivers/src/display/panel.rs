//! The back end of a display: maps what the front end draws in, and hands its pictures to a [`Panel`].
//!
//! Buffers and frame buffers have names that the front end chooses. How many there are, and how large, is limited. A
//! buffer is mapped for reading from its creation to its destruction. Both take as many rounds as they need: a round maps,
//! unmaps and shows `STEP` pages and the rest of the request that it is at.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::Ordering::Relaxed;

use xen_abi::io::displif::{
    XENDISPL_EVT_PG_FLIP, XENDISPL_FIELD_BE_VERSIONS, XENDISPL_FIELD_EVT_CHANNEL,
    XENDISPL_FIELD_EVT_RING_REF, XENDISPL_FIELD_REQ_CHANNEL, XENDISPL_FIELD_REQ_RING_REF,
    XENDISPL_OP_DBUF_CREATE, XENDISPL_OP_DBUF_DESTROY, XENDISPL_OP_FB_ATTACH, XENDISPL_OP_FB_DETACH,
    XENDISPL_OP_PG_FLIP, XENDISPL_OP_SET_CONFIG, XenDisplifRing, XendisplDbufCreateReq,
    XendisplDbufDestroyReq, XendisplEvt, XendisplFbAttachReq, XendisplFbDetachReq, XendisplPageFlipReq,
    XendisplPgFlipEvt, XendisplReq, XendisplResp, XendisplSetConfigReq,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::events::Producer;
use super::input::map_page_and_port;
use super::screen::EventPage;
use super::{FORMAT, MAX_SIDE, PIXEL};
use crate::ring::Back;
use crate::transport::{DomId, Errno, GrantRef, PAGE_SIZE, Port, ReadWord, Transport};
use crate::xenbus::{self, Driver, End, Error, Nodes, Role};

/// Buffers, and frame buffers, of a front end.
const MAX_BUFFERS: usize = 8;
/// Pages of all its buffers together: 128 MiB.
const MAX_PAGES: usize = 32768;
/// Pages that are mapped at once: a picture of 1920 by 1080.
const STEP: usize = 2048;
/// Pixels in them.
const STEP_PIXELS: usize = STEP * PAGE_SIZE / PIXEL as usize;

/// A picture in a front end's memory, which may change while it is read.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// [`STEP_PIXELS`] each, the last one perhaps fewer.
    pixels: &'a [&'a [ReadWord]],
    /// Pixels from one line to the next in memory.
    stride: u32,
}

impl Picture<'_> {
    /// A pixel, 0x00RRGGBB; none outside of the picture.
    #[must_use]
    pub fn get(&self, x: u32, y: u32) -> Option<u32> {
        let inside = x < self.width && y < self.height;
        let at = y as usize * self.stride as usize + x as usize;
        let word = self.pixels.get(at / STEP_PIXELS).and_then(|step| step.get(at % STEP_PIXELS));
        word.filter(|_| inside).map(|word| u32::from_le(word.load(Relaxed)) & 0x00ff_ffff)
    }
}

/// Whatever shows pictures: a graphics card, a window, a screenshot.
pub trait Panel: Send {
    /// A new picture is complete.
    fn show(&mut self, picture: &Picture<'_>);

    /// Nothing is to be shown.
    fn clear(&mut self) {}
}

/// Mapped pages of a front end.
struct Buffer<M> {
    /// [`STEP`] pages each, the last one perhaps fewer.
    pixels: Vec<M>,
    width: u32,
    height: u32,
}

/// A buffer that is being made.
struct Creating<M> {
    request: XendisplReq,
    cookie: u64,
    buffer: Buffer<M>,
    /// Pages that are not mapped yet, and the page that lists the next of them.
    left: usize,
    list: GrantRef,
    /// References that were listed and are not mapped yet.
    refs: Vec<GrantRef>,
}

/// The driver of one front end's display: `xenbus::Device<T, Display<T>>` connects it, [`poll`](Self::poll) serves.
pub struct Display<T: Transport> {
    panel: Box<dyn Panel>,
    connection: Option<Connection<T>>,
    broken: bool,
}

struct Connection<T: Transport> {
    transport: T,
    domain: DomId,
    ring: Back<XenDisplifRing, T::Mapped>,
    port: T::Port,
    events: Producer<EventPage, T::Mapped>,
    events_port: T::Port,
    buffers: BTreeMap<u64, Buffer<T::MappedReadOnly>>,
    /// Frame buffers: their buffer, width and height.
    frames: BTreeMap<u64, (u64, u32, u32)>,
    creating: Option<Creating<T::MappedReadOnly>>,
    /// What was mapped for buffers that are gone.
    leaving: Vec<T::MappedReadOnly>,
    /// Pages that are mapped or will be.
    pages: usize,
    /// Pages that this round mapped, unmapped or showed.
    spent: usize,
}

impl<T: Transport> Display<T> {
    /// A display that is seen on `panel`.
    #[must_use]
    pub fn new(panel: Box<dyn Panel>) -> Self {
        Self { panel, connection: None, broken: false }
    }

    /// Does what the front end asks for; true: there was something.
    pub fn poll(&mut self) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.broken) else { return false };
        let _ = (connection.port.take(), connection.events_port.take());
        let moved = connection.serve(&mut *self.panel);
        self.broken = moved.is_none();
        moved.unwrap_or(true)
    }

    /// Whether the front end does not keep to the protocol.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }
}

/// Closes a device whose front end does not keep to the protocol; true: it did.
pub fn check<T: Transport>(device: &mut xenbus::Device<T, Display<T>>) -> bool {
    let broken = device.is_connected() && device.driver().is_broken();
    if broken {
        device.fail(&Error::Peer("the front end's ring indices are impossible"));
    }
    broken
}

/// The payload of a request.
fn payload<P: FromBytes>(request: &XendisplReq) -> Result<P, Errno> {
    P::read_from_prefix(&request.op).map(|(payload, _)| payload).map_err(|_| Errno::EINVAL)
}

impl<T: Transport> Connection<T> {
    /// Answers what is on the ring; none: the ring is broken.
    fn serve(&mut self, panel: &mut dyn Panel) -> Option<bool> {
        self.spent = 0;
        let mut moved = self.unmap();
        // A front end that goes on asking takes no more of a round than that.
        for _ in 0..self.ring.slots() {
            if self.spent >= STEP {
                break;
            }
            let (request, done) = match self.creating.take() {
                Some(creating) => (creating.request, self.go_on(creating)),
                None => {
                    let Some(request) = self.ring.pop().ok()? else { break };
                    (request, self.order(&request, panel))
                }
            };
            moved = true;
            if self.creating.is_some() {
                continue;
            }
            let mut response = XendisplResp::new_zeroed();
            response.id = request.id;
            response.operation = request.operation;
            response.status = done.err().map_or(0, |errno| -errno.0);
            self.ring.push(&response).ok()?;
        }
        if moved && self.ring.publish() {
            self.port.notify();
        }
        Some(self.ring.finish().ok()? | moved)
    }

    /// Unmaps pages of buffers that are gone; whether there were some.
    fn unmap(&mut self) -> bool {
        let Some(step) = self.leaving.pop() else { return false };
        let pages = step.len() * 4 / PAGE_SIZE;
        (self.pages, self.spent) = (self.pages - pages, self.spent + pages);
        true
    }

    fn order(&mut self, request: &XendisplReq, panel: &mut dyn Panel) -> Result<(), Errno> {
        match request.operation {
            XENDISPL_OP_DBUF_CREATE => self.create(request, &payload(request)?),
            XENDISPL_OP_DBUF_DESTROY => {
                let XendisplDbufDestroyReq { dbuf_cookie } = payload(request)?;
                let buffer = self.buffers.remove(&dbuf_cookie).ok_or(Errno::ENOENT)?;
                self.leaving.extend(buffer.pixels);
                self.frames.retain(|_, (buffer, ..)| *buffer != dbuf_cookie);
                Ok(())
            }
            XENDISPL_OP_FB_ATTACH => self.attach(&payload(request)?),
            XENDISPL_OP_FB_DETACH => {
                let XendisplFbDetachReq { fb_cookie } = payload(request)?;
                self.frames.remove(&fb_cookie).map(drop).ok_or(Errno::ENOENT)
            }
            XENDISPL_OP_SET_CONFIG => {
                let config: XendisplSetConfigReq = payload(request)?;
                if config.fb_cookie == 0 {
                    panel.clear();
                    return Ok(());
                }
                self.show(config.fb_cookie, panel)
            }
            XENDISPL_OP_PG_FLIP => {
                let XendisplPageFlipReq { fb_cookie } = payload(request)?;
                self.show(fb_cookie, panel)?;
                self.tell_shown(fb_cookie);
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn create(&mut self, order: &XendisplReq, request: &XendisplDbufCreateReq) -> Result<(), Errno> {
        let (width, height) = (request.width, request.height);
        let sides = (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height);
        let plain = request.bpp == PIXEL * 8 && request.flags == 0 && request.data_ofs == 0;
        // Sides are bounded: the product fits.
        let fits = sides && request.buffer_sz >= width * height * PIXEL;
        if !(sides && plain && fits) || request.dbuf_cookie == 0 {
            return Err(Errno::EINVAL);
        }
        let pages = (request.buffer_sz as usize).div_ceil(PAGE_SIZE);
        if self.buffers.contains_key(&request.dbuf_cookie) {
            return Err(Errno::EEXIST);
        }
        if self.buffers.len() >= MAX_BUFFERS || self.pages + pages > MAX_PAGES {
            return Err(Errno::ENOSPC);
        }
        self.pages += pages;
        self.go_on(Creating {
            request: *order,
            cookie: request.dbuf_cookie,
            buffer: Buffer { pixels: Vec::new(), width, height },
            left: pages,
            list: GrantRef(request.gref_directory),
            refs: Vec::new(),
        })
    }

    /// Maps the next pages of a buffer.
    fn go_on(&mut self, mut creating: Creating<T::MappedReadOnly>) -> Result<(), Errno> {
        let pages = creating.left.min(STEP);
        let mapped = self.list(&mut creating, pages).and_then(|()| self.map(&creating.refs[..pages]));
        self.spent += pages;
        let Creating { buffer, left, refs, .. } = &mut creating;
        match mapped {
            Ok(step) => {
                buffer.pixels.push(step);
                refs.drain(..pages);
                *left -= pages;
            }
            Err(errno) => {
                self.pages -= *left;
                self.leaving.append(&mut buffer.pixels);
                return Err(errno);
            }
        }
        if *left > 0 {
            self.creating = Some(creating);
        } else {
            self.buffers.insert(creating.cookie, creating.buffer);
        }
        Ok(())
    }

    fn map(&self, refs: &[GrantRef]) -> Result<T::MappedReadOnly, Errno> {
        self.transport.map_read_only(self.domain, refs).map_err(|_| Errno::EINVAL)
    }

    /// Reads the pages that list references, each of which names the next, until `pages` of them are known.
    fn list(&self, creating: &mut Creating<T::MappedReadOnly>, pages: usize) -> Result<(), Errno> {
        let Creating { refs, list, left, .. } = creating;
        while refs.len() < pages {
            let page = self.map(&[*list])?;
            let listed = page[1..].iter().take(*left - refs.len());
            refs.extend(listed.map(|word| GrantRef(word.load(Relaxed))));
            *list = GrantRef(page[0].load(Relaxed));
        }
        Ok(())
    }

    fn attach(&mut self, request: &XendisplFbAttachReq) -> Result<(), Errno> {
        let buffer = self.buffers.get(&request.dbuf_cookie).ok_or(Errno::ENOENT)?;
        let inside =
            (1..=buffer.width).contains(&request.width) && (1..=buffer.height).contains(&request.height);
        if !inside || request.pixel_format != FORMAT || request.fb_cookie == 0 {
            return Err(Errno::EINVAL);
        }
        if self.frames.contains_key(&request.fb_cookie) {
            return Err(Errno::EEXIST);
        }
        if self.frames.len() >= MAX_BUFFERS {
            return Err(Errno::ENOSPC);
        }
        self.frames.insert(request.fb_cookie, (request.dbuf_cookie, request.width, request.height));
        Ok(())
    }

    fn show(&mut self, frame: u64, panel: &mut dyn Panel) -> Result<(), Errno> {
        let (buffer, width, height) = *self.frames.get(&frame).ok_or(Errno::ENOENT)?;
        let buffer = self.buffers.get(&buffer).ok_or(Errno::ENOENT)?;
        // Sides are bounded: the product fits.
        self.spent += ((width * height * PIXEL) as usize).div_ceil(PAGE_SIZE);
        let pixels: Vec<&[ReadWord]> = buffer.pixels.iter().map(Deref::deref).collect();
        panel.show(&Picture { width, height, pixels: &pixels, stride: buffer.width });
        Ok(())
    }

    /// Tells the front end that a picture is seen. One that does not read its events misses some.
    fn tell_shown(&mut self, fb_cookie: u64) {
        let mut event = XendisplEvt::new_zeroed();
        event.type_ = XENDISPL_EVT_PG_FLIP;
        let payload = XendisplPgFlipEvt { fb_cookie };
        event.op[..size_of_val(&payload)].copy_from_slice(payload.as_bytes());
        if self.events.push(&event) {
            self.events_port.notify();
        }
    }
}

impl<T: Transport> Driver<T> for Display<T> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        let mut nodes = Nodes::new();
        nodes.set(XENDISPL_FIELD_BE_VERSIONS, 1);
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let key = |name: &str| format!("0/{name}");
        let map = |page: &str, port: &str| map_page_and_port(end, &key(page), &key(port));
        let (ring, port) = map(XENDISPL_FIELD_REQ_RING_REF, XENDISPL_FIELD_REQ_CHANNEL)?;
        let (events, events_port) = map(XENDISPL_FIELD_EVT_RING_REF, XENDISPL_FIELD_EVT_CHANNEL)?;
        self.connection = Some(Connection {
            transport: end.transport().clone(),
            domain: end.peer(),
            ring: Back::attach(ring)
                .map_err(|_| Error::Peer("the front end's ring indices are impossible"))?,
            port,
            events: Producer::new(events),
            events_port,
            buffers: BTreeMap::new(),
            frames: BTreeMap::new(),
            creating: None,
            leaving: Vec::new(),
            pages: 0,
            spent: 0,
        });
        self.broken = false;
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.connection = None;
        self.panel.clear();
    }
}

impl<T: Transport> core::fmt::Debug for Display<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Display").field("broken", &self.broken).finish_non_exhaustive()
    }
}
