//! Why a kernel cannot be started.

use core::fmt;
use hypervisor_unpack as unpack;
use xen_abi::errno::Errno;

/// Why the first domain could not be built. [`fmt::Display`] gives one sentence for whoever booted the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The module is neither an ELF file nor a bzImage.
    NotAKernel,
    /// The bzImage has no payload that can be found by its setup header, or the header is damaged.
    BadBzImage(&'static str),
    /// The payload is compressed in a way that is not understood.
    UnknownCompression([u8; 4]),
    /// The payload is compressed in a way that is known and deliberately not supported.
    UnsupportedCompression(&'static str),
    /// The payload does not decompress.
    BadPayload(&'static str),
    /// The payload would unpack to more bytes than a kernel can have.
    PayloadTooLarge(u64),
    /// The ELF file is damaged.
    BadElf(&'static str),
    /// The ELF file is not for x86-64.
    WrongMachine,
    /// Neither Xen ELF notes nor a `__xen_guest` section.
    NoXenNotes,
    /// A Xen note has a value that makes no sense.
    BadNote {
        /// Name of the note.
        name: &'static str,
        /// Its value.
        value: u64,
    },
    /// A Xen note that is text has a value that makes no sense.
    BadNoteText {
        /// Name of the note.
        name: &'static str,
    },
    /// The kernel demands a feature (bit number of features.h) that a PV guest does not get here.
    FeatureRequired(u32),
    /// The kernel demands a feature whose name is not known.
    UnknownFeatureRequired,
    /// The kernel says that it cannot be dom0.
    NotForDom0,
    /// The kernel is for a hypervisor of another version.
    WrongXenVersion,
    /// The kernel, its modules and what goes with them do not fit into the address range where it wants them.
    LayoutTooLarge,
    /// There is less memory than the first domain needs.
    TooLittleMemory {
        /// Pages that it needs.
        needed: u64,
        /// Pages that it could have.
        available: u64,
    },
    /// The command line is longer than `MAX_GUEST_CMDLINE` less its terminator.
    CommandLineTooLong(usize),
    /// The hypervisor itself ran out of memory while it built the domain.
    OutOfMemory,
    /// Frames were taken away from the domain while it was built.
    FramesTaken,
    /// The page tables that were built did not pass their own checks.
    PageTablesRefused,
    /// Another part of the hypervisor refused.
    Refused(Errno),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotAKernel => f.write_str("the kernel module is neither an ELF file nor a bzImage"),
            Self::BadBzImage(what) => write!(f, "the bzImage is damaged: {what}"),
            Self::UnknownCompression(magic) => {
                write!(f, "the bzImage's payload starts with {magic:02x?}, which no known compression does")
            }
            Self::UnsupportedCompression(name) => {
                write!(f, "the bzImage's payload is compressed by {name}, which is not supported: use gzip, xz, lzma, lz4 or zstd")
            }
            Self::BadPayload(what) => write!(f, "the bzImage's payload does not unpack: {what}"),
            Self::PayloadTooLarge(size) => write!(f, "the bzImage's payload claims to unpack to {size} bytes, too many for a kernel"),
            Self::BadElf(what) => write!(f, "the kernel's ELF file is damaged: {what}"),
            Self::WrongMachine => f.write_str("the kernel is not a 64-bit x86 ELF file"),
            Self::NoXenNotes => f.write_str("the kernel has no Xen ELF notes: it was not built as a Xen PV guest"),
            Self::BadNote { name, value } => write!(f, "the kernel's Xen note {name} has the impossible value {value:#x}"),
            Self::BadNoteText { name } => write!(f, "the kernel's Xen note {name} has a text that cannot be understood"),
            Self::FeatureRequired(bit) => {
                write!(f, "the kernel requires Xen feature {bit}, which a PV guest does not have here")
            }
            Self::UnknownFeatureRequired => f.write_str("the kernel requires a Xen feature whose name is unknown here"),
            Self::NotForDom0 => f.write_str("the kernel says that it cannot be the first domain (dom0)"),
            Self::WrongXenVersion => f.write_str("the kernel's Xen notes ask for something else than xen-3.0"),
            Self::LayoutTooLarge => {
                f.write_str("the kernel, its initrd and page tables do not fit into the address range where the kernel wants them")
            }
            Self::TooLittleMemory { needed, available } => write!(
                f,
                "too little memory: it needs {} MiB and can have {} MiB",
                needed.div_ceil(256),
                available / 256
            ),
            Self::CommandLineTooLong(length) => {
                write!(f, "the kernel's command line has {length} bytes, at most 1023 can be passed")
            }
            Self::OutOfMemory => f.write_str("the hypervisor ran out of memory while it built the domain"),
            Self::FramesTaken => f.write_str("frames were taken away meanwhile"),
            Self::PageTablesRefused => f.write_str("the domain's page tables were refused by the page-type checks"),
            Self::Refused(errno) => write!(f, "the domain was refused with errno {}", errno.0),
        }
    }
}

impl From<Errno> for BuildError {
    fn from(errno: Errno) -> Self {
        if errno == Errno::ENOMEM { Self::OutOfMemory } else { Self::Refused(errno) }
    }
}

impl From<unpack::Error> for BuildError {
    fn from(error: unpack::Error) -> Self {
        match error {
            unpack::Error::Unknown(magic) => Self::UnknownCompression(magic),
            unpack::Error::Unsupported(name) => Self::UnsupportedCompression(name),
            unpack::Error::Damaged(what) => Self::BadPayload(what),
            unpack::Error::TooLarge(size) => Self::PayloadTooLarge(size),
            unpack::Error::OutOfMemory => Self::OutOfMemory,
        }
    }
}

impl core::error::Error for BuildError {}
