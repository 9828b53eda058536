//! What can go wrong with KVM itself, in words that tell the user what to do.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use thiserror::Error;

/// KVM is not there, lacks something, or refused a request.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device node is not there.
    #[error(
        "{path} does not exist: load the kernel module (`modprobe kvm_amd` or `kvm_intel`, virtualization has to be \
         enabled in the firmware), or use a machine that has KVM"
    )]
    Missing {
        /// The node looked for.
        path: PathBuf,
    },
    /// The device node is there, but this user may not open it.
    #[error(
        "no permission to open {path}: join its group (usually `adduser $USER kvm`, then log in again) or run as root"
    )]
    Permission {
        /// The node.
        path: PathBuf,
    },
    /// The device node cannot be opened for another reason, or is no KVM device.
    #[error(
        "cannot open {path}: {source}: is it the KVM device, and is virtualization not in use by another hypervisor?"
    )]
    Open {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel speaks another KVM API (`KVM_GET_API_VERSION`, always 12 since Linux 2.6.22).
    #[error("{path} speaks KVM API version {version}, 12 is needed: use a Linux kernel of 2.6.22 or newer")]
    ApiVersion {
        /// The node.
        path: PathBuf,
        /// Version reported.
        version: i32,
    },
    /// The kernel lacks a feature without which nothing works.
    #[error("this KVM lacks {feature}, which is needed: {advice}")]
    Feature {
        /// Name of the capability as in the KVM documentation.
        feature: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// One KVM request failed.
    #[error("KVM refused to {action}: {source}")]
    Refused {
        /// What was asked for, as a verb phrase.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A list is longer than KVM takes.
    #[error("{0} is too long")]
    TooLong(&'static str),
}

impl KvmError {
    /// For `map_err` on a `kvm-ioctls` call.
    pub(crate) fn refused(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Refused {
            action,
            source: std::io::Error::from_raw_os_error(error.errno()),
        }
    }
}
