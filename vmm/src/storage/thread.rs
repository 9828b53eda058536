//! The sandbox profile of a controller's worker thread.
#![forbid(unsafe_code)]

use crate::sandbox::Argument::{self, NotStandard};
use crate::sandbox::{Call, ThreadProfile};
use crate::{doorbell, irq};

/// Does a controller's DMA and its backend's I/O; connects doorbells and gives them back, and sets the level of a pin.
pub static WORKER_THREAD: ThreadProfile = ThreadProfile {
    calls: &[IMAGES],
    requests: &[irq::LINE_REQUESTS, doorbell::REQUESTS],
    ..ThreadProfile::new("device worker")
};

const PUNCH_HOLE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
const ZERO_RANGE: u32 = (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u32;

/// To and from disk images; those under others and what is read-only are open for reading only.
const IMAGES: &[Call] = &[
    Call::only(libc::SYS_pread64, &[NotStandard(0)]),
    Call::only(libc::SYS_pwrite64, &[NotStandard(0)]),
    // Between a disk image and the guest's memory.
    Call::only(libc::SYS_preadv, &[NotStandard(0)]),
    Call::only(libc::SYS_pwritev, &[NotStandard(0)]),
    Call::any(libc::SYS_fdatasync),
    // Zeroes in a file that keeps its length.
    Call::only(
        libc::SYS_fallocate,
        &[NotStandard(0), Argument::int(1, &[PUNCH_HOLE, ZERO_RANGE])],
    ),
    // Where a disk image ends, to see that nobody has cut it.
    Call::only(libc::SYS_lseek, &[NotStandard(0)]),
    Call::any(libc::SYS_epoll_wait),
    Call::any(libc::SYS_epoll_pwait),
];
