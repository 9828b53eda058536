//! A file that is open for writing, of whatever kind.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{OutputError, Place, Progress, lock};

/// O_NONBLOCK of x86-64 Linux (asm-generic/fcntl.h), and the error of open(2) for a named pipe without a reader.
const NONBLOCK: i32 = 0o4000;
const NO_READER: i32 = 6;
/// How often a pipe is tried again.
const POLL: Duration = Duration::from_millis(2);
/// Bytes that are written at once, so that a slow reader can be distinguished from one that does not read.
const PIECE: usize = 64 << 10;

/// Writes to a regular file, or to something special without waiting for its reader in the kernel.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    special: bool,
    progress: Progress,
    /// Bytes written, and where the next ones belong; they differ where a special file is left behind.
    written: u64,
    position: u64,
}

impl OutputFile {
    /// Opens `path` to be written from its beginning. A regular file is made if it is not there, and locked before it is
    /// emptied. For the reader of a named pipe it waits as long as `patience`.
    ///
    /// # Errors
    /// [`OutputError`]
    pub fn open(path: &Path, patience: Duration) -> Result<Self, OutputError> {
        let place = Place::of(path);
        if place.is_special() {
            let file = open_special(place.path(), patience)?;
            return Ok(Self::new(file, true));
        }
        let failed = || OutputError::file(path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(place.path()).map_err(failed())?;
        lock(&file, path)?;
        let here = std::fs::metadata(place.path()).map_err(failed())?;
        let ours = file.metadata().map_err(failed())?;
        if (here.dev(), here.ino()) != (ours.dev(), ours.ino()) {
            // Another run has put its own there between the two.
            return Err(OutputError::InUse(path.display().to_string()));
        }
        file.set_len(0).map_err(failed())?;
        Ok(Self::new(file, false))
    }

    pub(super) fn new(file: File, special: bool) -> Self {
        Self {
            file,
            special,
            progress: Progress::default(),
            written: 0,
            position: 0,
        }
    }

    /// How far it is, and the way to have a write end that waits for a reader.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The file, if it is a regular one.
    #[must_use]
    pub fn regular(&self) -> Option<&File> {
        (!self.special).then_some(&self.file)
    }

    /// Brings the file to a length that is not below what was written.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn end_at(&mut self, length: u64) -> io::Result<()> {
        if !self.special {
            return self.file.set_len(length);
        }
        self.position = length;
        self.catch_up()
    }

    /// Writes the zeroes that a regular file has in a hole.
    fn catch_up(&mut self) -> io::Result<()> {
        while self.written < self.position {
            let zeroes = [0; 4096];
            let count = (self.position - self.written).min(zeroes.len() as u64) as usize;
            self.written += self.write_some(&zeroes[..count])? as u64;
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        let began = Instant::now();
        loop {
            match self.file.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.progress.is_over(began.elapsed()) {
                        let text = "its reader takes nothing";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    thread::sleep(POLL);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    self.progress.step();
                    return other;
                }
            }
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.special {
            self.catch_up()?;
        }
        let count = self.write_some(bytes)?;
        self.written += count as u64;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In a special file forwards only: what is left out becomes zeroes when something follows.
impl Seek for OutputFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if !self.special {
            self.position = self.file.seek(to)?;
            return Ok(self.position);
        }
        match to {
            SeekFrom::Start(position) if position >= self.written => self.position = position,
            _ => return Err(io::ErrorKind::NotSeekable.into()),
        }
        Ok(self.position)
    }
}

fn open_special(path: &Path, patience: Duration) -> Result<File, OutputError> {
    let kind = std::fs::metadata(path).map_err(OutputError::file(path))?.file_type();
    if kind.is_socket() {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Ok(File::from(OwnedFd::from(stream)))
        };
        return connect().map_err(OutputError::file(path));
    }
    let began = Instant::now();
    loop {
        match OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path) {
            Err(error) if kind.is_fifo() && error.raw_os_error() == Some(NO_READER) => {
                if began.elapsed() >= patience {
                    return Err(OutputError::NoReader(path.display().to_string()));
                }
                thread::sleep(10 * POLL);
            }
            other => return other.map_err(OutputError::file(path)),
        }
    }
}
