//! The front end of a display: one connector, one frame buffer.
//!
//! The back end may read the frame buffer at any time, and is told when a picture is complete
//! ([`present`](Screen::present)).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use xen_abi::io::displif::{
    XENDISPL_EVENT_PAGE_SIZE, XENDISPL_FIELD_BE_VERSIONS, XENDISPL_FIELD_EVT_CHANNEL,
    XENDISPL_FIELD_EVT_RING_REF, XENDISPL_FIELD_FE_VERSION, XENDISPL_FIELD_REQ_CHANNEL,
    XENDISPL_FIELD_REQ_RING_REF, XENDISPL_FIELD_RESOLUTION, XENDISPL_IN_RING_LEN, XENDISPL_IN_RING_OFFS,
    XENDISPL_OP_DBUF_CREATE, XENDISPL_OP_FB_ATTACH, XENDISPL_OP_PG_FLIP, XENDISPL_OP_SET_CONFIG,
    XenDisplifRing, XendisplDbufCreateReq, XendisplEvt, XendisplFbAttachReq, XendisplPageFlipReq,
    XendisplReq, XendisplSetConfigReq,
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::events::{Consumer, Layout};
use super::input::page_and_port;
use super::{FORMAT, MAX_SIDE, PIXEL};
use crate::ring::Front;
use crate::transport::{Access, Granted, PAGE_SIZE, Port, Transport};
use crate::xenbus::{Driver, End, Error, Nodes, Role};

/// The protocol version that is spoken.
const VERSION: &str = "1";
/// The names of the only buffer and of the only frame buffer.
const BUFFER: u64 = 1;
const FRAME: u64 = 1;
/// References in a page of the directory, behind that of the next.
const REFS_IN_PAGE: usize = PAGE_SIZE / 4 - 1;

/// The page of displif.
#[derive(Debug)]
pub struct EventPage;

impl Layout for EventPage {
    type Event = XendisplEvt;
    const OFFSET: usize = XENDISPL_IN_RING_OFFS;
    // A constant of 63.
    const SLOTS: u32 = XENDISPL_IN_RING_LEN as u32;
}

const _: () = assert!(XENDISPL_EVENT_PAGE_SIZE == PAGE_SIZE);

/// What is shared while the device is connected.
struct Shared<T: Transport> {
    ring: Front<XenDisplifRing, T::Granted>,
    port: T::Port,
    events: Consumer<EventPage, T::Granted>,
    events_port: T::Port,
    pixels: T::Granted,
    /// The pages that list those of `pixels`.
    directory: T::Granted,
}

/// The driver: `xenbus::Device<T, Screen<T>>` connects it.
pub struct Screen<T: Transport> {
    width: u32,
    height: u32,
    shared: Option<Shared<T>>,
    next: u16,
    /// Pictures that were presented and not taken.
    under_way: u32,
    failed: Option<&'static str>,
}

impl<T: Transport> Default for Screen<T> {
    fn default() -> Self {
        Self { width: 0, height: 0, shared: None, next: 0, under_way: 0, failed: None }
    }
}

impl<T: Transport> Screen<T> {
    /// Pixels in a line, and lines.
    #[must_use]
    pub const fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Colours a pixel: 0x00RRGGBB. Those outside of the screen are not seen.
    pub fn set(&mut self, x: u32, y: u32, colour: u32) {
        if x < self.width
            && y < self.height
            && let Some(shared) = &self.shared
        {
            let at = y as usize * self.width as usize + x as usize;
            shared.pixels[at].store(colour.to_le(), Relaxed);
        }
    }

    /// Shows the picture as it is now. False: the last one is still being taken.
    ///
    /// # Errors
    ///
    /// Why the device should be closed.
    pub fn present(&mut self) -> Result<bool, Error> {
        self.poll()?;
        if self.shared.is_none() || self.under_way > 0 {
            return Ok(false);
        }
        self.under_way = 1;
        self.request(XENDISPL_OP_PG_FLIP, &XendisplPageFlipReq { fb_cookie: FRAME })?;
        Ok(true)
    }

    /// Takes the back end's answers; true: pictures can be presented.
    ///
    /// # Errors
    ///
    /// Why the device should be closed.
    pub fn poll(&mut self) -> Result<bool, Error> {
        let Some(shared) = &mut self.shared else { return Ok(false) };
        let _ = (shared.port.take(), shared.events_port.take());
        let corrupt = Error::Peer("the back end's ring indices are impossible");
        // At most as many as there are requests: none is made here.
        while let Some(response) = shared.ring.pop().map_err(|_| corrupt)? {
            if response.status != 0 {
                self.failed = Some("the back end refused a request");
            }
            if response.operation == XENDISPL_OP_PG_FLIP {
                self.under_way = 0;
            }
        }
        // That a picture is seen changes nothing here. A back end that goes on telling takes a page's worth of a call.
        for _ in 0..EventPage::SLOTS {
            if shared.events.pop().map_err(|_| corrupt)?.is_none() {
                break;
            }
        }
        match self.failed {
            Some(why) => Err(Error::Peer(why)),
            None => Ok(self.under_way == 0),
        }
    }

    /// Before sleeping: asks for an event with the next answer. True: one is there.
    #[must_use = "true means: do not sleep"]
    pub fn sleep(&mut self) -> bool {
        self.shared.as_mut().is_some_and(|shared| shared.ring.finish().unwrap_or(true))
    }

    fn request<P: IntoBytes + Immutable>(&mut self, operation: u8, payload: &P) -> Result<(), Error> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let mut request = XendisplReq { id: self.next, operation, ..XendisplReq::new_zeroed() };
        self.next = self.next.wrapping_add(1);
        request.op[..size_of::<P>()].copy_from_slice(payload.as_bytes());
        shared.ring.push(&request).map_err(|_| Error::Peer("the back end answers nothing"))?;
        if shared.ring.publish() {
            shared.port.notify();
        }
        Ok(())
    }
}

/// The size that `text` tells, e.g. `800x600`.
fn size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.trim().split_once('x')?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=MAX_SIDE).contains(side));
    Some((side(width)?, side(height)?))
}

impl<T: Transport> Driver<T> for Screen<T> {
    const ROLE: Role = Role::Front;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let text: String = end.own(&format!("0/{XENDISPL_FIELD_RESOLUTION}")).unwrap_or_default();
        (self.width, self.height) = size(&text).ok_or(Error::Peer("the display has no resolution"))?;
        let versions: String = end.peers(XENDISPL_FIELD_BE_VERSIONS).unwrap_or_default();
        if !versions.split(',').any(|version| version.trim() == VERSION) {
            return Err(Error::Peer("the back end does not know version 1"));
        }
        let (ring, port) = page_and_port(end)?;
        let (events, events_port) = page_and_port(end)?;
        let mut nodes = Nodes::new();
        nodes.set(XENDISPL_FIELD_FE_VERSION, VERSION);
        nodes.set(format!("0/{XENDISPL_FIELD_REQ_RING_REF}"), ring.refs()[0].0);
        nodes.set(format!("0/{XENDISPL_FIELD_REQ_CHANNEL}"), port.number());
        nodes.set(format!("0/{XENDISPL_FIELD_EVT_RING_REF}"), events.refs()[0].0);
        nodes.set(format!("0/{XENDISPL_FIELD_EVT_CHANNEL}"), events_port.number());
        let pixels =
            lend(end, (self.width as usize * self.height as usize * PIXEL as usize).div_ceil(PAGE_SIZE))?;
        let directory = lend_directory(end, &pixels)?;
        // A page holds a ring: the size of a message is a constant.
        let ring = Front::new(ring).map_err(|_| Error::Peer("no ring"))?;
        self.shared =
            Some(Shared { ring, port, events: Consumer::new(events), events_port, pixels, directory });
        (self.under_way, self.failed) = (0, None);
        Ok(nodes)
    }

    fn connect(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        let (width, height) = (self.width, self.height);
        let gref_directory = self.shared.as_ref().map_or(0, |shared| shared.directory.refs()[0].0);
        let create = XendisplDbufCreateReq {
            dbuf_cookie: BUFFER,
            width,
            height,
            bpp: PIXEL * 8,
            buffer_sz: width * height * PIXEL,
            gref_directory,
            ..XendisplDbufCreateReq::new_zeroed()
        };
        self.request(XENDISPL_OP_DBUF_CREATE, &create)?;
        let attach = XendisplFbAttachReq {
            dbuf_cookie: BUFFER,
            fb_cookie: FRAME,
            width,
            height,
            pixel_format: FORMAT,
            ..XendisplFbAttachReq::new_zeroed()
        };
        self.request(XENDISPL_OP_FB_ATTACH, &attach)?;
        let bpp = PIXEL * 8;
        let config = XendisplSetConfigReq {
            fb_cookie: FRAME,
            width,
            height,
            bpp,
            ..XendisplSetConfigReq::new_zeroed()
        };
        self.request(XENDISPL_OP_SET_CONFIG, &config)?;
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.shared = None;
    }
}

/// Pages that the back end may read.
fn lend<T: Transport>(end: &End<T>, pages: usize) -> Result<T::Granted, Error> {
    let buffer = end.transport().buffer(pages)?;
    Ok(end.transport().lend(buffer, end.peer(), Access::ReadOnly).map_err(|(error, _)| error)?)
}

/// The pages that list the references of `pixels`; each begins with the reference of the next.
fn lend_directory<T: Transport>(end: &End<T>, pixels: &T::Granted) -> Result<T::Granted, Error> {
    let lists: Vec<_> = pixels.refs().chunks(REFS_IN_PAGE).collect();
    let directory = lend(end, lists.len())?;
    for (number, list) in lists.into_iter().enumerate() {
        let words = &directory[number * (PAGE_SIZE / 4)..];
        words[0].store(directory.refs().get(number + 1).map_or(0, |next| next.0), Relaxed);
        words[1..].iter().zip(list).for_each(|(word, reference)| word.store(reference.0, Relaxed));
    }
    Ok(directory)
}

#[cfg(feature = "embedded-graphics")]
mod draw {
    use embedded_graphics_core::Pixel;
    use embedded_graphics_core::draw_target::DrawTarget;
    use embedded_graphics_core::geometry::{OriginDimensions, Size};
    use embedded_graphics_core::pixelcolor::{IntoStorage, Rgb888};

    use super::{Screen, Transport};

    impl<T: Transport> OriginDimensions for Screen<T> {
        fn size(&self) -> Size {
            Size::new(self.width, self.height)
        }
    }

    impl<T: Transport> DrawTarget for Screen<T> {
        type Color = Rgb888;
        type Error = core::convert::Infallible;

        fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
            for Pixel(at, colour) in pixels {
                if let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) {
                    self.set(x, y, colour.into_storage());
                }
            }
            Ok(())
        }
    }
}

impl<T: Transport> core::fmt::Debug for Screen<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Screen")
            .field("width", &self.width)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}
