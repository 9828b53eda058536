//! Where a debugger can connect: a TCP port or a Unix socket.
//!
//! Talks to the operating system. It must not know what is said on the connection.

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// An address as it stands on the command line: `ADDR:PORT`, `:PORT` (on the loopback) or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(text: &OsStr) -> Result<Self, String> {
        if let Some(path) = Self::socket(text) {
            if path.as_os_str().is_empty() {
                return Err("`unix:` needs the path of a socket behind it".to_owned());
            }
            if let Err(error) = UnixAddress::from_pathname(path) {
                return Err(format!("{} cannot be the path of a socket: {error}", path.display()));
            }
            return Ok(Self::Unix(path.to_owned()));
        }
        let text = text.to_string_lossy();
        let full = if text.starts_with(':') {
            format!("127.0.0.1{text}")
        } else {
            text.to_string()
        };
        let resolved = full.to_socket_addrs().ok().and_then(|mut found| found.next());
        resolved
            .map(Self::Tcp)
            .ok_or_else(|| format!("`{text}` is no address: use ADDR:PORT such as 127.0.0.1:1234, :1234, or unix:PATH"))
    }

    /// The path of the Unix socket that a text means.
    #[must_use]
    pub(crate) fn socket(text: &OsStr) -> Option<&Path> {
        let path = text.as_bytes().strip_prefix(b"unix:")?;
        Some(Path::new(OsStr::from_bytes(path)))
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for Address {
    /// As gdb's `target remote` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A socket that listens.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Starts to listen. To be called in a runtime.
    ///
    /// # Errors
    /// What the system says; an address in use for example.
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?, path.clone()))
            }
        }
    }

    /// The address, with the port that the system has chosen for port 0.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Packets are small and each waits for its answer.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that a run which was killed has left: nobody listens on it any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_local_unless_they_are_not() {
        let parse = |text: &str| Address::read(text.as_ref());
        assert!(parse(":1234").unwrap().is_local());
        assert!(parse("127.0.0.1:0").unwrap().is_local());
        assert!(parse("[::1]:1").unwrap().is_local());
        assert!(parse("unix:/tmp/x").unwrap().is_local());
        assert!(!parse("0.0.0.0:1234").unwrap().is_local());
        for wrong in ["", "1234", "unix:", "127.0.0.1", ":66000"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("gdb"));
        let path = directory.path().join("gdb");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address).unwrap();
        assert!(Listener::bind(&address).is_err());
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&address).is_err());
    }
}
