//! The debugger's part of `storlock run`: the socket, the files, and the script by which gdb attaches.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::Failure;
use super::guest::Guest;
use super::images::ImageFile;
use super::report_directory::{Outputs, SCRIPT_FILE, SNAPSHOT_FILE};
use super::spec::{CheckedSpec, OnViolation};
use crate::gdb::{Address, Served, SnapshotFile, Socket, SymbolFiles};
use crate::notices::Notices;
use crate::output::replace;
use crate::session::Session;

/// Listens, if a debugger is asked for.
///
/// # Errors
/// [`Failure`] if nothing can listen at the address.
pub(super) fn open(checked: &CheckedSpec, notices: &dyn Notices) -> Result<Option<Socket>, Failure> {
    let Some(address) = &checked.gdb else {
        return Ok(None);
    };
    if !address.is_local() {
        notices.say(&format!(
            "warning: everybody who reaches {address} can read and change the guest: there is no password"
        ));
    }
    Socket::open(address).map(Some).map_err(Failure::infrastructure)
}

/// Starts to serve debuggers, and writes the script for gdb. To be called before the files are limited.
///
/// # Errors
/// If a file cannot be written or the thread not be started.
pub(super) fn serve(
    checked: &CheckedSpec,
    socket: Socket,
    images: &[ImageFile],
    guest: &mut Guest,
    session: &Arc<Session>,
    outputs: &Outputs,
    (sandbox, notices): (Sandbox, &Arc<dyn Notices>),
) -> anyhow::Result<JoinHandle<()>> {
    let directory = &checked.spec.report_dir;
    let files = symbol_files(checked, images);
    let script = directory.join(SCRIPT_FILE);
    replace(&script, attach_script(socket.address(), &files).as_bytes())
        .with_context(|| format!("cannot write {}", script.display()))?;
    outputs.add(&script);
    let snapshots = directory.join(SNAPSHOT_FILE);
    let snapshot = outputs
        .open(&snapshots, checked.time_limit())
        .with_context(|| format!("cannot write {}", snapshots.display()))?;
    notices.say(&format!(
        "gdb: listening at {}; attach with: gdb -x {}",
        socket.address(),
        script.display()
    ));
    session.stop_on_violations(checked.on_violation == OnViolation::Stop);
    let (machine, stops) = guest.debug(checked.spec.gdb_wait);
    let served = Served {
        machine: Arc::new(machine),
        stops,
        session: Arc::clone(session),
        files,
        snapshot: Some(SnapshotFile::new(snapshot)),
        on_disconnect: checked.on_disconnect,
        notices: Arc::clone(notices),
    };
    socket.serve(served, sandbox)
}

/// For each image the file with its symbols.
fn symbol_files(checked: &CheckedSpec, images: &[ImageFile]) -> SymbolFiles {
    let file = |image: &ImageFile| {
        let unstripped = image.unstripped(checked.spec.symbols.as_deref());
        let path = unstripped.map_or_else(|| image.path.clone(), |(path, _)| path);
        (image.name.clone(), absolute(&path))
    };
    SymbolFiles(images.iter().map(file).collect())
}

/// gdb may be started elsewhere.
fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What gdb needs to be told before and after it attaches.
fn attach_script(address: &Address, files: &SymbolFiles) -> String {
    let mut script = String::from(
        "# Attaches gdb to a storlock run, with the symbols of its modules: gdb -x attach.gdb\n\
         set confirm off\nset pagination off\n\
         # The machine is no Linux process: modules come from the list that storlock gives.\n\
         set architecture i386:x86-64\nset osabi none\n\
         # Symbol files are this machine's.\nset sysroot /\n\
         # Modules are loaded while the guest runs.\ndefine hook-stop\nsharedlibrary\nend\n",
    );
    let mut directories: Vec<&Path> = files.0.iter().filter_map(|(_, path)| path.parent()).collect();
    directories.sort_unstable();
    directories.dedup();
    let joined: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(script, "set solib-search-path {}", joined.join(":"));
    let _ = writeln!(script, "target remote {address}");
    script
}
