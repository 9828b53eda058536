//! The file that `monitor storlock snapshot` writes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::output::OutputFile;

/// Most bytes of all snapshots of a run.
const LIMIT: u64 = 64 << 20;

/// Shared by all clients of a run.
#[derive(Debug, Clone)]
pub struct SnapshotFile(Arc<Mutex<(OutputFile, u64)>>);

impl SnapshotFile {
    /// What is written goes to `file`.
    #[must_use]
    pub fn new(file: OutputFile) -> Self {
        Self(Arc::new(Mutex::new((file, LIMIT))))
    }
}

impl Write for SnapshotFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (file, left) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *left < bytes.len() as u64 {
            let text = format!("the snapshot file has reached its limit of {LIMIT} bytes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        let count = file.write(bytes)?;
        *left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
