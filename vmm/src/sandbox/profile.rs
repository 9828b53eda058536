//! Profiles: declare, where a thread is started, what that kind of thread may ask of the kernel.
#![forbid(unsafe_code)]

use libc::c_long;

/// What an argument has to be. The kernel takes the lower half of an `int`; what is above it is left to chance.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// An `int` that is one of `values`, but for the bits `free`.
    Int {
        /// Which argument, from 0.
        index: u8,
        /// Bits that may be set beside.
        free: u32,
        /// The values.
        values: &'static [u32],
    },
    /// A null pointer.
    Null(u8),
    /// The number of this process.
    ThisProcess(u8),
    /// A descriptor, but not of standard input, output or error.
    NotStandard(u8),
}

impl Argument {
    /// The `int` argument `index` is one of `values`.
    #[must_use]
    pub const fn int(index: u8, values: &'static [u32]) -> Self {
        Self::Int { index, free: 0, values }
    }

    /// The `int` argument `index` is one of `values`, and any of the bits `free` may be set beside.
    #[must_use]
    pub const fn bits(index: u8, free: u32, values: &'static [u32]) -> Self {
        Self::Int { index, free, values }
    }
}

/// A system call that is allowed if all of its arguments are as they have to be. Two of the same number are alternatives.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub(super) number: c_long,
    pub(super) arguments: &'static [Argument],
}

impl Call {
    /// Allowed whatever its arguments.
    #[must_use]
    pub const fn any(number: c_long) -> Self {
        Self { number, arguments: &[] }
    }

    /// Allowed with these arguments.
    #[must_use]
    pub const fn only(number: c_long, arguments: &'static [Argument]) -> Self {
        Self { number, arguments }
    }
}

/// A kind of thread. Beside what every thread does (memory of its own, locks, sleeping, reading and writing what is open)
/// it may do what is listed here, and nothing else.
///
/// A list comes from reading the code and from strace on runs to every kind of end. An entry says beside it what it can
/// do at worst where that is not plain. A thread's own memory is no bound: whoever has taken a thread over can do all
/// that any kind of thread may, by way of the others.
#[derive(Debug)]
pub struct ThreadProfile {
    /// As it is named in messages.
    pub name: &'static str,
    /// System calls, in groups.
    pub calls: &'static [&'static [Call]],
    /// Requests to devices (ioctl) by number, in groups.
    pub requests: &'static [&'static [u32]],
    /// Whether its calls name files. A thread whose calls name none is kept from all of them, should such a call slip into
    /// its list; where they do, whoever starts the thread says which files.
    pub names_files: bool,
}

impl ThreadProfile {
    /// One that may do nothing beside.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            calls: &[],
            requests: &[],
            names_files: false,
        }
    }

    /// All calls, but for its requests to devices.
    pub(super) fn all_calls(&self) -> impl Iterator<Item = &'static Call> {
        super::calls::EVERYWHERE
            .iter()
            .chain(self.calls.iter().copied().flatten())
    }

    /// All requests to devices.
    pub(super) fn all_requests(&self) -> Vec<u32> {
        self.requests.iter().copied().flatten().copied().collect()
    }
}
