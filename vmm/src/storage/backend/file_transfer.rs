//! Transfers between a file and pieces of memory that a guest may change at the same time.
//!
//! The kernel copies between the file and that memory; no Rust reference to the memory exists at any time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

use crate::storage::segments::{length, part};

/// Most pieces that one system call takes (limits.h, IOV_MAX).
const PIECE_LIMIT: usize = 1024;

/// `preadv` or `pwritev`.
type Transfer = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t;

/// Fills the pieces from the file, as far as the file goes, and says how far that was.
///
/// # Errors
/// The host failed.
pub(super) fn read_at(file: &File, pieces: &[VolatileSlice<'_>], offset: u64) -> io::Result<u64> {
    transfer(libc::preadv, file, pieces, offset)
}

/// Writes all pieces to the file.
///
/// # Errors
/// The host failed; some may have been written.
pub(super) fn write_all_at(file: &File, pieces: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    if transfer(libc::pwritev, file, pieces, offset)? < length(pieces) {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Goes on until everything is transferred or nothing is transferred any more.
fn transfer(call: Transfer, file: &File, pieces: &[VolatileSlice<'_>], offset: u64) -> io::Result<u64> {
    let total = length(pieces);
    let mut done = 0;
    while done < total {
        let rest = part(pieces, done, total - done);
        let guards: Vec<_> = rest
            .iter()
            .take(PIECE_LIMIT)
            .map(VolatileSlice::ptr_guard_mut)
            .collect();
        let vectors: Vec<libc::iovec> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        let place = offset
            .checked_add(done)
            .and_then(|place| libc::off_t::try_from(place).ok());
        let place = place.ok_or(io::ErrorKind::FileTooLarge)?;
        let number = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
        // SAFETY: each vector is memory that the guard keeps mapped for as long as it lives, which is behind this call.
        // Others may access that memory meanwhile: the kernel copies byte by byte and makes nothing of the content.
        #[allow(unsafe_code)]
        let count = unsafe { call(file.as_raw_fd(), vectors.as_ptr(), number, place) };
        match u64::try_from(count) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::segments::gathered;

    #[test]
    fn any_range_of_the_pieces_goes_to_a_file_and_comes_back() {
        let mut memory: Vec<u8> = (0..=255).collect();
        let whole = VolatileSlice::from(&mut memory[..]);
        let pieces: Vec<_> = [(0, 7), (7, 1), (100, 0), (200, 56), (8, 92)]
            .map(|(offset, length)| whole.subslice(offset, length).unwrap())
            .into();
        let bytes: Vec<u8> = (0..8).chain(200..=255).chain(8..100).collect();
        assert_eq!(length(&pieces), bytes.len() as u64);
        for offset in 0..bytes.len() {
            for count in [0, 1, 2, 9, bytes.len()] {
                let count = count.min(bytes.len() - offset);
                let file = tempfile::tempfile().unwrap();
                write_all_at(&file, &part(&pieces, offset as u64, count as u64), 3).unwrap();
                let mut copy = [0; 160];
                let target = VolatileSlice::from(&mut copy[..]);
                assert_eq!(read_at(&file, &[target], 3).unwrap(), count as u64);
                assert_eq!(copy[..count], bytes[offset..][..count]);
                assert_eq!(gathered(&part(&pieces, offset as u64, count as u64)), copy[..count]);
                assert!(copy[count..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_no_limit() {
        let mut memory: Vec<u8> = (0..3000_u32).map(|index| index as u8).collect();
        let whole = VolatileSlice::from(&mut memory[..]);
        let pieces: Vec<_> = (0..3000).map(|at| whole.subslice(at, 1).unwrap()).collect();
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, &pieces, 0).unwrap();
        let mut copy = [0; 3000];
        let target = VolatileSlice::from(&mut copy[..]);
        assert_eq!(read_at(&file, &[target], 0).unwrap(), 3000);
        assert_eq!(copy[..], memory);
    }
}
