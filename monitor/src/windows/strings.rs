//! Bounded strings from guest memory.

use crate::vmi::{GuestMemory, PAGE_SIZE, ReadError};

/// Reads the NUL-terminated string at `address`, at most `limit` bytes of it, page by page, so that a string at the
/// end of the last mapped page is read without touching the next one. `None` if there is no NUL within the limit.
pub(super) fn read_c_string(
    memory: &(impl GuestMemory + ?Sized),
    address: u64,
    limit: usize,
) -> Result<Option<String>, ReadError> {
    let bytes = read_c_bytes(memory, address, limit)?;
    Ok(bytes.map(|bytes| printable(&bytes)))
}

/// As [`read_c_string`], the bytes as they are.
pub(super) fn read_c_bytes(
    memory: &(impl GuestMemory + ?Sized),
    address: u64,
    limit: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut bytes = Vec::new();
    let mut at = address;
    while bytes.len() < limit {
        let to_page_end = (PAGE_SIZE - at % PAGE_SIZE) as usize;
        let start = bytes.len();
        // Names are short: read little, so that the common case is one small read.
        bytes.resize(start + to_page_end.min(limit - start).min(64), 0);
        memory.read(at, &mut bytes[start..])?;
        if let Some(end) = bytes[start..].iter().position(|&byte| byte == 0) {
            bytes.truncate(start + end);
            return Ok(Some(bytes));
        }
        at = match at.checked_add((bytes.len() - start) as u64) {
            Some(next) => next,
            None => return Err(ReadError::Invalid(address)),
        };
    }
    Ok(None)
}

/// The string that starts at `offset` of `bytes` and ends at a NUL within `limit` bytes.
pub(super) fn c_string_in(bytes: &[u8], offset: usize, limit: usize) -> Option<String> {
    let tail = bytes.get(offset..)?;
    let tail = &tail[..tail.len().min(limit)];
    let end = tail.iter().position(|&byte| byte == 0)?;
    Some(printable(&tail[..end]))
}

/// Guest bytes as text that is safe to print: printable ASCII as it is, everything else escaped.
pub(super) fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
