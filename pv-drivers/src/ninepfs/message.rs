//! The layout of 9P2000.L: little-endian numbers, and strings and data with their length before them.

use alloc::vec::Vec;

/// Kinds of requests. The answer to each has the next number, or is [`RLERROR`](kind::RLERROR).
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of the protocol")]
    pub const RLERROR: u8 = 7;
    pub const TSTATFS: u8 = 8;
    pub const TLOPEN: u8 = 12;
    pub const TLCREATE: u8 = 14;
    pub const TSYMLINK: u8 = 16;
    pub const TREADLINK: u8 = 22;
    pub const TGETATTR: u8 = 24;
    pub const TSETATTR: u8 = 26;
    pub const TREADDIR: u8 = 40;
    pub const TFSYNC: u8 = 50;
    pub const TLOCK: u8 = 52;
    pub const TGETLOCK: u8 = 54;
    pub const TLINK: u8 = 70;
    pub const TMKDIR: u8 = 72;
    pub const TRENAMEAT: u8 = 74;
    pub const TUNLINKAT: u8 = 76;
    pub const TVERSION: u8 = 100;
    pub const TATTACH: u8 = 104;
    pub const TFLUSH: u8 = 108;
    pub const TWALK: u8 = 110;
    pub const TREAD: u8 = 116;
    pub const TWRITE: u8 = 118;
    pub const TCLUNK: u8 = 120;
}

/// What an error answer says: a number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    #![expect(missing_docs, reason = "the names are Linux's")]
    pub const EPERM: Self = Self(1);
    pub const ENOENT: Self = Self(2);
    pub const EIO: Self = Self(5);
    pub const EBADF: Self = Self(9);
    pub const EEXIST: Self = Self(17);
    pub const ENOTDIR: Self = Self(20);
    pub const EISDIR: Self = Self(21);
    pub const EINVAL: Self = Self(22);
    pub const ENFILE: Self = Self(23);
    pub const EFBIG: Self = Self(27);
    pub const ENOSPC: Self = Self(28);
    pub const EROFS: Self = Self(30);
    pub const ENAMETOOLONG: Self = Self(36);
    pub const ENOTEMPTY: Self = Self(39);
    pub const EOPNOTSUPP: Self = Self(95);
}

/// Bytes before each message's fields: size of the whole, kind, tag.
pub const HEADER: usize = xen_abi::io::ninepfs::XEN_9PFS_HEADER_SIZE;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole message.
    pub size: u32,
    /// What it is.
    pub kind: u8,
    /// Which request it belongs to.
    pub tag: u16,
}

impl Header {
    /// Reads it.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, d, kind, low, high] = *bytes;
        Self { size: u32::from_le_bytes([a, b, c, d]), kind, tag: u16::from_le_bytes([low, high]) }
    }
}

/// Takes fields off a message. What is not there is [`Code::EINVAL`].
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The fields in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Code> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Code::EINVAL)?;
        self.0 = rest;
        Ok(*field)
    }

    /// A number of one byte.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn u8(&mut self) -> Result<u8, Code> {
        self.array().map(u8::from_le_bytes)
    }

    /// A number of two bytes.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn u16(&mut self) -> Result<u16, Code> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn u32(&mut self) -> Result<u32, Code> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn u64(&mut self) -> Result<u64, Code> {
        self.array().map(u64::from_le_bytes)
    }

    /// As many bytes as `length` says.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Code> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Code::EINVAL)?;
        self.0 = rest;
        Ok(field)
    }

    /// A string: two bytes of length, and its bytes.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn string(&mut self) -> Result<&'a [u8], Code> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// Data: four bytes of length, and its bytes.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn data(&mut self) -> Result<&'a [u8], Code> {
        let length = usize::try_from(self.u32()?).map_err(|_| Code::EINVAL)?;
        self.bytes(length)
    }

    /// What the server calls a file: kind, version and number.
    ///
    /// # Errors
    ///
    /// [`Code::EINVAL`].
    pub fn qid(&mut self) -> Result<(u8, u32, u64), Code> {
        Ok((self.u8()?, self.u32()?, self.u64()?))
    }

    /// Whether every field was taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message that is being written.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins a message, in place of the last one.
    pub fn begin(&mut self, kind: u8, tag: u16) {
        self.0.clear();
        self.0.extend([0; 4]);
        self.0.push(kind);
        self.0.extend(tag.to_le_bytes());
    }

    /// The message, complete.
    pub fn finish(&mut self) -> &[u8] {
        // Bounded by the size of a message that both ends agreed to.
        let size = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&size.to_le_bytes());
        &self.0
    }

    /// What was written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes so far.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "of a message there is always a header")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a number of one byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Adds a number of two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    /// Adds a number of four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    /// Adds a number of eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Adds a string, cut where its length cannot be told.
    pub fn string(&mut self, text: &[u8]) {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.0.extend(&text[..length.into()]);
    }

    /// Adds data, cut where its length cannot be told.
    pub fn data(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.0.extend(&bytes[..length as usize]);
    }

    /// Adds data of `length` bytes, which `fill` writes over zeros. It is at most a message.
    pub fn data_with(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
        let start = self.0.len();
        self.0.resize(start + length, 0);
        fill(&mut self.0[start..]);
    }

    /// Adds what the server calls a file.
    pub fn qid(&mut self, (kind, version, path): (u8, u32, u64)) {
        self.u8(kind);
        self.u32(version);
        self.u64(path);
    }
}
