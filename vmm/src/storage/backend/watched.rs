//! A backend whose host failures are remembered beside the guest's error status.
//!
//! The guest gets an error status for a full or broken disk of the host, and may crash because of it. The user has to
//! be told that the host was the cause.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::VolatileSlice;

use super::{Backend, BackendError};

/// What has gone wrong so far, shared between a [`WatchedBackend`] and whoever asks.
#[derive(Debug, Clone, Default)]
pub struct HostFailures(Arc<Mutex<Failures>>);

#[derive(Debug, Default)]
struct Failures {
    first: Option<String>,
    count: u64,
}

impl HostFailures {
    /// The first failure in words and how many there were; nothing if the host did all it was asked to.
    #[must_use]
    pub fn summary(&self) -> Option<(String, u64)> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.first.clone().map(|first| (first, failures.count))
    }

    fn note<T>(&self, result: Result<T, BackendError>) -> Result<T, BackendError> {
        if let Err(error @ (BackendError::NoSpace | BackendError::Io(_))) = &result {
            self.add(error);
        }
        result
    }

    /// Notes a failure.
    pub(crate) fn add(&self, error: &dyn ToString) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        failures.first.get_or_insert_with(|| error.to_string());
    }
}

/// Passes everything on to another backend and notes the failures that are the host's, not the guest's.
#[derive(Debug)]
pub struct WatchedBackend<B: Backend> {
    inner: B,
    failures: HostFailures,
}

impl<B: Backend> WatchedBackend<B> {
    /// Watches `inner`.
    pub fn new(inner: B) -> Self {
        Self {
            inner,
            failures: HostFailures::default(),
        }
    }

    /// Where the failures can be read, also after the backend has been given away.
    #[must_use]
    pub fn failures(&self) -> HostFailures {
        self.failures.clone()
    }
}

impl<B: Backend> Drop for WatchedBackend<B> {
    fn drop(&mut self) {
        // The last moment at which a failure can be told.
        let _ = self.close();
    }
}

impl<B: Backend> Backend for WatchedBackend<B> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.failures.note(self.inner.read(offset, buffer))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.failures.note(self.inner.write(offset, data))
    }

    fn read_into(&mut self, offset: u64, target: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        self.failures.note(self.inner.read_into(offset, target))
    }

    fn write_from(&mut self, offset: u64, source: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        self.failures.note(self.inner.write_from(offset, source))
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        self.failures.note(self.inner.flush())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.failures.note(self.inner.close())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError> {
        self.failures.note(self.inner.write_zeroes(offset, length, deallocate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::backend::MemoryBackend;

    /// A host that has run out of space.
    struct Full(MemoryBackend);

    impl Backend for Full {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn is_read_only(&self) -> bool {
            false
        }
        fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
            self.0.read(offset, buffer)
        }
        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BackendError> {
            Err(BackendError::NoSpace)
        }
        fn flush(&mut self) -> Result<(), BackendError> {
            Ok(())
        }
        fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> Result<(), BackendError> {
            Err(BackendError::Io(std::io::Error::other("gone")))
        }
    }

    #[test]
    fn only_failures_of_the_host_are_noted() {
        let mut disk = WatchedBackend::new(Full(MemoryBackend::new(512)));
        let failures = disk.failures();
        assert!(disk.read(512, &mut [0]).is_err(), "out of range: the guest's fault");
        assert_eq!(failures.summary(), None);
        assert!(disk.write(0, &[1]).is_err());
        assert!(disk.discard(0, 1).is_err());
        assert_eq!(failures.summary(), Some((BackendError::NoSpace.to_string(), 2)));
    }
}
