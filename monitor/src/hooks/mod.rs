//! Hooks in the import table of the driver under test: code for the guest that writes a record of each lock call into a
//! ring in the guest's memory, and the reader of that ring.
//!
//! Pure but for the guest memory that it is handed. It knows the contract table and the layout of its own memory; it must
//! not know who asks for that memory, what a call means, or when the ring is read. `docs/adr/0010-import-hooks.md` says
//! what is written where, and why.

mod record;
mod ring;
mod stub;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::record::{Record, RecordCpu};
pub(crate) use self::ring::{Next, Region, Ring};
pub(crate) use self::stub::{Stub, generate};

/// The parts of the guest memory that the hooks share, as offsets from its first byte.
pub(crate) mod layout {
    /// Bytes of a page.
    const PAGE: u64 = crate::vmi::PAGE_SIZE;
    /// How many records have been begun, and in its top bit whether the ring is closed. Changed by the guest.
    pub(crate) const HEAD: u64 = 0;
    /// How many records have been read. Changed by the host; in a cache line of its own.
    pub(crate) const TAIL: u64 = 0x40;
    /// The stubs.
    pub(crate) const CODE: u64 = PAGE;
    pub(crate) const CODE_BYTES: u64 = 16 * PAGE;
    /// The call sites whose calls are written: one 32-bit word for each value of the low 16 bits of an address.
    pub(crate) const SITES: u64 = CODE + CODE_BYTES;
    const SITES_BYTES: u64 = 4 << 16;
    /// The records.
    pub(crate) const RING: u64 = SITES + SITES_BYTES;
    pub(crate) const RECORDS: u64 = 2048;
    pub(crate) const RECORD_BYTES: u64 = 512;
    /// All of it.
    pub(crate) const BYTES: u64 = RING + RECORDS * RECORD_BYTES;
    /// What is asked for: an allocator need not give a whole number of pages at the start of one.
    pub(crate) const ALLOCATION: u64 = BYTES + PAGE;
    /// In [`HEAD`]: no record is begun.
    pub(crate) const CLOSED: u64 = 1 << 63;

    /// Fields of a record.
    pub(crate) mod field {
        /// Its number plus one, written last.
        pub(crate) const COMMIT: u64 = 0;
        pub(crate) const STUB: u64 = 8;
        pub(crate) const ROUTINE: u64 = 12;
        pub(crate) const PROCESSOR: u64 = 16;
        /// 1: [`WORD`] was read.
        pub(crate) const HAS_WORD: u64 = 20;
        pub(crate) const THREAD: u64 = 24;
        pub(crate) const CR8: u64 = 32;
        pub(crate) const FLAGS: u64 = 40;
        pub(crate) const RSP: u64 = 48;
        pub(crate) const RCX: u64 = 56;
        pub(crate) const RDX: u64 = 64;
        pub(crate) const R8: u64 = 72;
        pub(crate) const R9: u64 = 80;
        /// The lock word.
        pub(crate) const WORD: u64 = 88;
        /// What a handle says: the field that leads to the lock, and the kind of a `STOR_LOCK_HANDLE`.
        pub(crate) const HANDLE: u64 = 96;
        pub(crate) const KIND: u64 = 104;
        /// Quadwords of the stack that follow.
        pub(crate) const COUNT: u64 = 108;
        /// RAX, RBX, RBP, RSI, RDI, R10 to R15: what a caller has called by, and what frames are found by.
        pub(crate) const OTHERS: u64 = 112;
        /// The processor's own block (`KPCR`), which names itself at 18h.
        pub(crate) const PROCESSOR_BLOCK: u64 = 200;
        pub(crate) const STACK: u64 = 208;
        pub(crate) const MOST: u64 = (super::RECORD_BYTES - STACK) / 8;
    }
}

/// Bytes of the caller's stack that a record has, if they are in one page.
pub(crate) const RECORDED_STACK: usize = 8 * layout::field::MOST as usize;

/// What a call site is to the site table: by the return address of a call and the stub that it has come to. Calls that follow
/// one another in the code have different ones.
pub(crate) fn site_key(return_address: u64, stub: u32) -> u32 {
    return_address as u32 ^ stub_key(stub)
}

/// What the stub makes of a return address, by exclusive or.
pub(crate) fn stub_key(stub: u32) -> u32 {
    stub.wrapping_mul(0x9e37_79b1)
}
