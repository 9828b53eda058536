//! Files that the command line names and that are read whole.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Reads a file of at most `limit` bytes, which is of use `as_what` (such as ` as the registry file`).
///
/// # Errors
/// If it cannot be read or is longer; the message names it.
pub(super) fn read(path: &Path, as_what: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let whole = || {
        let size = fs::metadata(path)?.len();
        if size > limit {
            bail!("it has {size} bytes, more than {limit}");
        }
        Ok(fs::read(path)?)
    };
    whole().with_context(|| format!("cannot use {}{as_what}", path.display()))
}
