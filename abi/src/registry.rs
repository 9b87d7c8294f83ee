//! What this crate claims, as data: every wire structure and every constant with its C spelling.
//!
//! The macros `wire!` and `consts!` (`macros.rs`) fill the tables while they define the
//! items, so an item cannot exist without being registered. The tests read [`crate::ABI`] and compare it with
//! a C compiler's view of Xen's headers; other tools may use it to print a structure by field.

/// How an item is spelled in Xen's C headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CName {
    /// The C spelling: a type (`struct evtchn_send`), a member (`u.port`) or a constant expression.
    Is(&'static str),
    /// C has no name for it in the headers that the check compiles; the text says why.
    Absent(&'static str),
}

/// One member of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The Rust name.
    pub name: &'static str,
    /// The C designator below the structure.
    pub c: CName,
    /// Offset from the start of the structure, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Whether it is a signed integer.
    pub signed: bool,
}

/// One wire structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The Rust name.
    pub name: &'static str,
    /// The C type.
    pub c: CName,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// The members, in the order of declaration.
    pub fields: &'static [Field],
}

/// The value of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer; a negative one is sign-extended to 64 bits.
    Int(u64),
    /// A string literal, without its terminator.
    Str(&'static str),
}

/// One constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Const {
    /// The Rust name.
    pub name: &'static str,
    /// The C constant expression.
    pub c: CName,
    /// The value.
    pub value: Value,
}

/// What one file of this crate defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The source file, relative to the workspace or to the package.
    pub file: &'static str,
    /// The C headers to include, below `/usr/include/xen`; none for a module that only groups others.
    pub includes: &'static [&'static str],
    /// The structures of the file.
    pub layouts: &'static [Layout],
    /// The constants of the file.
    pub consts: &'static [Const],
    /// The modules below it.
    pub children: &'static [Module],
}

impl Module {
    /// Calls `visit` for this module and for every one below it.
    pub fn walk(&self, visit: &mut impl FnMut(&Module)) {
        visit(self);
        for child in self.children {
            child.walk(visit);
        }
    }
}

/// Whether a type, as the macros see it written, is a signed integer.
#[must_use]
pub const fn is_signed(ty: &str) -> bool {
    matches!(ty.as_bytes(), [b'i', b'0'..=b'9', ..])
}

/// Turns a constant of any supported type into a [`Value`], in a constant expression.
#[derive(Clone, Copy, Debug)]
pub struct Of<T>(pub T);

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Of<$t> {
            /// The registered form of the constant.
            #[must_use]
            pub const fn value(self) -> Value {
                Value::Int(self.0 as u64)
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64);

impl Of<&'static str> {
    /// The registered form of the constant.
    #[must_use]
    pub const fn value(self) -> Value {
        Value::Str(self.0)
    }
}
