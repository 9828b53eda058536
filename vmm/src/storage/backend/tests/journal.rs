//! A journal of what the calling thread writes to files, by which a test can let the host stop, or fail, at any of the
//! writes.

use std::cell::{Cell, RefCell};
use std::io;

/// One call to the host.
#[derive(Debug, Clone)]
pub(in crate::storage::backend) enum Change {
    Write(u64, Vec<u8>),
    Zeroes(u64, u64),
    Sync,
}

thread_local! {
    /// Calls until one fails.
    static FAILS: Cell<Option<usize>> = const { Cell::new(None) };
    static JOURNAL: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
}

/// Keeps what `change` makes, if this thread keeps a journal.
///
/// # Errors
/// The test wants this call to fail.
pub(in crate::storage::backend) fn note(change: impl FnOnce() -> Change) -> io::Result<()> {
    let fails = FAILS.get();
    FAILS.set(fails.and_then(|calls| calls.checked_sub(1)));
    if fails == Some(0) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    JOURNAL.with_borrow_mut(|journal| journal.as_mut().map(|journal| journal.push(change())));
    Ok(())
}

/// Has one call of this thread fail, after `calls` others.
pub(super) fn fail_after(calls: usize) {
    FAILS.set(Some(calls));
}

/// Has none fail. Returns whether it was still to come.
pub(super) fn fail_no_more() -> bool {
    FAILS.take().is_some()
}

/// Begins an empty one.
pub(super) fn begin() {
    JOURNAL.set(Some(Vec::new()));
}

/// How many calls there were so far.
pub(super) fn length() -> usize {
    JOURNAL.with_borrow(|journal| journal.as_ref().map_or(0, Vec::len))
}

/// Ends it.
pub(super) fn end() -> Vec<Change> {
    JOURNAL.take().unwrap_or_default()
}

impl Change {
    /// Does it once more, to `file`; of a write only the sectors that `keep` chooses.
    pub(super) fn apply(&self, file: &mut Vec<u8>, mut keep: impl FnMut() -> bool) {
        match self {
            Self::Write(offset, data) => {
                for (sector, piece) in data.chunks(512).enumerate() {
                    let start = *offset as usize + sector * 512;
                    if keep() {
                        file.resize(file.len().max(start + piece.len()), 0);
                        file[start..start + piece.len()].copy_from_slice(piece);
                    }
                }
            }
            Self::Zeroes(offset, length) => {
                let end = file.len().min((offset + length) as usize);
                if keep() {
                    file[end.min(*offset as usize)..end].fill(0);
                }
            }
            Self::Sync => {}
        }
    }
}
