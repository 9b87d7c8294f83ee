//! The console (`io/console.h`): two byte rings in one page, input to the domain that has the console and output from it.
//!
//! - [`Page`] is the page, at either end. The first console of a domain is no device: its page and port are told at the
//!   start of the domain, and whoever serves it wraps the page in this.
//! - [`Front`] and [`Back`] are the ends of a further console, a device of the kind `console` with states in
//!   xenstore (`ring-ref`, `port`).
//!
//! There is no suppression of events in this protocol: each end sends one when it put bytes there, and when it took
//! some, so that the other end can put more.

#[cfg(test)]
mod tests;

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use guest_pv_lib::byte_ring::{ByteRing, Corrupt};
use xen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface};

use crate::transport::{Access, GrantRef, Granted, PAGE_SIZE, Port, Transport};
use crate::xenbus::{Device, Driver, End, Error, Nodes, Role};

/// Node: the reference of the page.
const RING_REF: &str = "ring-ref";
/// Node: the event channel.
const PORT: &str = "port";

/// The page of a console.
#[derive(Debug)]
pub struct Page<M>(M);

impl<M: Deref<Target = [AtomicU32]>> Page<M> {
    /// The console in this memory; none where it is less than a page.
    #[must_use]
    pub fn new(memory: M) -> Option<Self> {
        (memory.len() * 4 >= PAGE_SIZE).then_some(Self(memory))
    }

    fn ring(&self, start: usize, size: u32, produced: usize, consumed: usize) -> ByteRing<'_> {
        let words = &self.0[start / 4..start / 4 + size as usize / 4];
        ByteRing::new(words, &self.0[produced / 4], &self.0[consumed / 4])
    }

    /// Input: the serving end produces, the domain consumes.
    #[must_use]
    pub fn input(&self) -> ByteRing<'_> {
        use core::mem::offset_of;
        let (produced, consumed) =
            (offset_of!(XenconsInterface, in_prod), offset_of!(XenconsInterface, in_cons));
        self.ring(offset_of!(XenconsInterface, in_), XENCONS_IN_SIZE, produced, consumed)
    }

    /// Output: the domain produces, the serving end consumes.
    #[must_use]
    pub fn output(&self) -> ByteRing<'_> {
        use core::mem::offset_of;
        let (produced, consumed) =
            (offset_of!(XenconsInterface, out_prod), offset_of!(XenconsInterface, out_cons));
        self.ring(offset_of!(XenconsInterface, out), XENCONS_OUT_SIZE, produced, consumed)
    }
}

/// A connected console.
struct Line<M, P> {
    page: Page<M>,
    port: P,
}

impl<M: Deref<Target = [AtomicU32]>, P: Port> Line<M, P> {
    /// Puts bytes into a ring; how many found room.
    fn put(&self, ring: ByteRing<'_>, bytes: &[u8]) -> Result<usize, Corrupt> {
        let _ = self.port.take();
        let count = ring.push(bytes)?;
        if count > 0 {
            self.port.notify();
        }
        Ok(count)
    }

    /// Takes bytes from a ring.
    fn take(&self, ring: ByteRing<'_>, into: &mut [u8]) -> Result<usize, Corrupt> {
        let _ = self.port.take();
        let count = ring.pop(into)?;
        if count > 0 {
            self.port.notify();
        }
        Ok(count)
    }
}

/// Defines an end: what it does with its driver's line is the same but for the direction.
macro_rules! end {
    ($(#[$meta:meta])* $name:ident, $driver:ident, $memory:ident, reads $reads:ident, writes $writes:ident) => {
        $(#[$meta])*
        pub struct $name<T: Transport> {
            device: Device<T, $driver<T>>,
        }

        /// What xenbus drives.
        struct $driver<T: Transport>(Option<Line<T::$memory, T::Port>>);

        impl<T: Transport> $name<T> {
            /// The console that `end` describes.
            #[must_use]
            pub fn new(end: End<T>) -> Self {
                Self { device: Device::new(end, $driver(None)) }
            }

            /// Takes part in the connection; true where something changed.
            pub fn poll(&mut self) -> bool {
                self.device.poll()
            }

            /// Takes bytes that the other end sent; how many there were.
            pub fn read(&mut self, into: &mut [u8]) -> usize {
                self.with(|line| line.take(line.page.$reads(), into))
            }

            /// Sends bytes to the other end; how many there was room for.
            pub fn write(&mut self, bytes: &[u8]) -> usize {
                self.with(|line| line.put(line.page.$writes(), bytes))
            }

            fn with(
                &mut self,
                work: impl FnOnce(&Line<T::$memory, T::Port>) -> Result<usize, Corrupt>,
            ) -> usize {
                if !self.device.is_connected() {
                    return 0;
                }
                match self.device.driver().0.as_ref().map(work) {
                    Some(Ok(count)) => count,
                    Some(Err(Corrupt)) => {
                        self.device.fail(&Error::Peer("the console's indices cannot be"));
                        0
                    }
                    None => 0,
                }
            }

            /// The end, for its states.
            #[must_use]
            pub fn end(&self) -> &End<T> {
                self.device.end()
            }

            /// Whether both ends use it.
            #[must_use]
            pub fn is_connected(&self) -> bool {
                self.device.is_connected()
            }

            /// Whether it has closed and nothing is shared.
            #[must_use]
            pub fn is_closed(&self) -> bool {
                self.device.is_closed()
            }

            /// Ends the connection.
            pub fn close(&mut self) {
                self.device.close();
            }

            /// Begins anew after the domain was restored, as [`Device::resume`] does.
            ///
            /// # Errors
            ///
            /// As there.
            pub fn resume(&mut self) -> Result<(), Error> {
                self.device.resume()
            }
        }

        impl<T: Transport> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("end", self.device.end()).finish_non_exhaustive()
            }
        }
    };
}

end! {
    /// The end that has the console: writes output, reads input.
    Front, FrontDriver, Granted, reads input, writes output
}

end! {
    /// The end that serves it: reads output, writes input.
    Back, BackDriver, Mapped, reads output, writes input
}

impl<T: Transport> Driver<T> for FrontDriver<T> {
    const ROLE: Role = Role::Front;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let transport = end.transport();
        let memory = transport.lend(transport.buffer(1)?, end.peer(), Access::ReadWrite);
        let memory = memory.map_err(|(error, _)| error)?;
        let port = transport.listen(end.peer())?;
        let mut nodes = Nodes::new();
        nodes.set(RING_REF, memory.refs().first().map_or(0, |reference| reference.0));
        nodes.set(PORT, port.number());
        let page = Page::new(memory).ok_or(crate::transport::Error::OutOfRange)?;
        self.0 = Some(Line { page, port });
        Ok(nodes)
    }

    fn connect(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.0 = None;
    }
}

impl<T: Transport> Driver<T> for BackDriver<T> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        Ok(Nodes::new())
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let reference = end.peers(RING_REF).ok_or(Error::Peer("the reference of the page is missing"))?;
        let port = end.peers(PORT).ok_or(Error::Peer("the event channel is missing"))?;
        let memory = end.transport().map(end.peer(), &[GrantRef(reference)], Access::ReadWrite)?;
        let page = Page::new(memory).ok_or(crate::transport::Error::OutOfRange)?;
        self.0 = Some(Line { page, port: end.transport().connect(end.peer(), port)? });
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.0 = None;
    }
}
