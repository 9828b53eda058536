//! A gdb server for the guest. The machine can stop for the debugger at the very call that breaks a contract.
//!
//! Talks to the machine by [`Debuggee`] and to the session; the protocol is the gdbstub crate's. It must not know KVM.
//! All of it runs on one thread, which has its own sandbox profile.

mod breakpoints;
mod command;
mod commands;
mod conversation;
mod filter;
mod libraries;
mod listener;
mod packet;
mod registers;
mod resume;
mod server;
mod snapshot;
mod stub;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::Context as _;
use storlock_vmm::sandbox::{JoinHandle, Sandbox, SandboxError};
use tokio::sync::mpsc::UnboundedReceiver;

pub use conversation::{Conversation, Left};
pub use libraries::SymbolFiles;
pub use listener::Address;
use listener::Listener;
pub use server::OnDisconnect;
use server::Server;
pub use snapshot::SnapshotFile;

use crate::notices::Notices;
use crate::session::Session;
use crate::threads;
use crate::vmi::debuggee::{Debuggee, DebuggeeStop};

/// A socket that listens and is not served yet.
pub(crate) struct Socket {
    runtime: tokio::runtime::Runtime,
    listener: Listener,
    address: Address,
}

/// What a server works on.
pub(crate) struct Served {
    /// The machine.
    pub machine: Arc<dyn Debuggee>,
    /// Its stops.
    pub stops: UnboundedReceiver<DebuggeeStop>,
    /// The session that watches it.
    pub session: Arc<Session>,
    /// Where symbols of modules are.
    pub files: SymbolFiles,
    /// Where `monitor storlock snapshot` writes.
    pub snapshot: Option<SnapshotFile>,
    /// What the machine does when a client vanishes.
    pub on_disconnect: OnDisconnect,
    /// Takes lines for the user that cannot be shown in the debugger.
    pub notices: Arc<dyn Notices>,
}

impl Socket {
    /// Listens.
    ///
    /// # Errors
    /// If nothing can listen at the address.
    pub(crate) fn open(address: &Address) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _guard = runtime.enter();
            Listener::bind(address).with_context(|| format!("cannot listen for a debugger at {address}"))?
        };
        let address = listener.address()?;
        Ok(Self {
            runtime,
            listener,
            address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Serves debuggers on a thread of its own until the run is over.
    ///
    /// # Errors
    /// If the thread cannot be started or limited.
    pub(crate) fn serve(self, served: Served, sandbox: Sandbox) -> anyhow::Result<JoinHandle<()>> {
        let (ready, started) = mpsc::channel();
        let body = move || {
            let Self {
                runtime,
                listener,
                address,
            } = self;
            let limited = limit(sandbox, &address);
            let go_on = limited.is_ok();
            // The receiver waits below.
            let _ = ready.send(limited);
            if !go_on {
                return;
            }
            let machine = Arc::clone(&served.machine);
            let conversations = Server {
                listener,
                address,
                machine: served.machine,
                session: served.session,
                files: Arc::new(served.files),
                snapshot: served.snapshot,
                stops: served.stops,
                on_disconnect: served.on_disconnect,
                notices: served.notices,
                standing: None,
                stand: false,
                waiting: None,
            };
            let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(conversations.serve())));
            if let Err(panic) = ended {
                // Nobody could let the machine go any more.
                machine.end();
                resume_unwind(panic);
            }
        };
        let thread = Sandbox::none().spawn(&threads::DEBUGGER, "gdb", body)?;
        started
            .recv()
            .context("the debugger's thread ended before it began")??;
        Ok(thread)
    }
}

/// The thread opens no file and removes none but its own socket.
fn limit(sandbox: Sandbox, address: &Address) -> Result<(), SandboxError> {
    match address {
        Address::Tcp(_) => sandbox.limit_files(&[])?,
        Address::Unix(path) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            sandbox.limit_files_to_removal(parent.unwrap_or(Path::new(".")))?
        }
    };
    sandbox.enter(&threads::DEBUGGER)
}
