//! The KVM device: opening it, and what it can do. Talks to `/dev/kvm` only. It must not know machines.

mod capabilities;
pub(crate) mod clock;
mod error;
pub(crate) mod requests;
pub(crate) mod unwrapped;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kvm_ioctls::Kvm;

pub use capabilities::{Capabilities, Flavour};
pub use error::KvmError;

/// Where Linux puts the KVM device.
pub const DEFAULT_DEVICE: &str = "/dev/kvm";

/// The KVM API version that every kernel since 2.6.22 reports (Linux `Documentation/virt/kvm/api.rst`, 4.1).
const API_VERSION: i32 = 12;

/// Opens a KVM device and checks that it speaks the API version this crate was written for.
///
/// # Errors
/// [`KvmError::Missing`], [`KvmError::Permission`], [`KvmError::Open`] or [`KvmError::ApiVersion`], each with advice.
pub fn open(path: &Path) -> Result<Kvm, KvmError> {
    let open_error = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => KvmError::Missing { path: path.into() },
        std::io::ErrorKind::PermissionDenied => KvmError::Permission { path: path.into() },
        _ => KvmError::Open {
            path: path.into(),
            source,
        },
    };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| open_error(error.into()))?;
    let kvm = Kvm::new_with_path(name).map_err(|error| open_error(std::io::Error::from_raw_os_error(error.errno())))?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        // A file that is no KVM device answers the request with ENOTTY or EINVAL, which arrives here as -1.
        version if version < 0 => Err(open_error(std::io::Error::last_os_error())),
        version => Err(KvmError::ApiVersion {
            path: path.into(),
            version,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_device_is_told_apart_from_a_wrong_one() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            open(&directory.path().join("kvm")),
            Err(KvmError::Missing { .. })
        ));
        let file = directory.path().join("file");
        std::fs::write(&file, b"no device").unwrap();
        assert!(matches!(open(&file), Err(KvmError::Open { .. })));
    }
}
