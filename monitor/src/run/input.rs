//! Reads those input files of a run that are needed whole.
//!
//! Talks to the file system. Memory and time are bounded whatever the name leads to: it may be a pipe that nobody
//! writes to, or a device without an end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// O_NONBLOCK of x86-64 Linux (asm-generic/fcntl.h).
const NONBLOCK: i32 = 0o4000;
/// How often a pipe is tried again.
const POLL: Duration = Duration::from_millis(2);
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Reads a regular file or a pipe of at most `limit` bytes, which is of use `as_what` (such as ` as the registry file`).
/// A pipe is waited for as long as `patience`, until its first byte and from each to the next.
///
/// # Errors
/// If it cannot be read, is longer or is something else; the message names it.
pub fn read(path: &Path, as_what: &str, limit: u64, patience: Duration) -> anyhow::Result<Vec<u8>> {
    let whole = || {
        let found = fs::metadata(path)?;
        if found.file_type().is_fifo() {
            return pipe(path, limit, patience);
        }
        let size = found.len();
        if size > limit {
            bail!("it has {size} bytes, more than {limit}");
        }
        let mut bytes = Vec::new();
        open_regular(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    whole().with_context(|| format!("cannot use {}{as_what}", path.display()))
}

/// Reads a regular file of at most `limit` bytes, which is of use `as_what`. What people write by hand and programs write
/// as a whole is one: nobody is waited for.
///
/// # Errors
/// If it cannot be read, is longer or is no regular file; the message names it.
pub(crate) fn read_small(path: &Path, as_what: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let whole = || {
        let mut bytes = Vec::new();
        open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            bail!("it has more than {limit} bytes");
        }
        Ok(bytes)
    };
    whole().with_context(|| format!("cannot use {}{as_what}", path.display()))
}

/// Opens a file that is read from more than one place, or more than once.
///
/// # Errors
/// If it cannot be opened or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Not to wait for the writer of a pipe.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

fn pipe(path: &Path, limit: u64, patience: Duration) -> anyhow::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
    let mut last = Instant::now();
    loop {
        match file.read(&mut piece) {
            // Without a writer this looks like an end.
            Ok(0) if !bytes.is_empty() => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
            Ok(count) => {
                bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
                if bytes.len() as u64 > limit {
                    bail!("it has more than {limit} bytes");
                }
                last = Instant::now();
                continue;
            }
        }
        if last.elapsed() >= patience {
            bail!("nobody has written it in the run's time limit");
        }
        thread::sleep(POLL);
    }
}
