//! Why a thread could not be started or limited.
#![forbid(unsafe_code)]

use thiserror::Error;

/// See the module.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Name of the thread.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel does not support the limits.
    #[error("cannot {action}: {reason}; --no-sandbox runs without it")]
    Limit {
        /// What was to be done, as a verb phrase.
        action: &'static str,
        /// Why not.
        reason: String,
    },
}
