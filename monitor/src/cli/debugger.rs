//! The debugger's part of `storlock run`: the socket, the files, and the script that has gdb attach.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::Failure;
use super::images::ImageFile;
use super::run::{Arguments, OnViolation};
use crate::gdb::{Address, Served, SnapshotFile, Socket, SymbolFiles};
use crate::machine::Guest;
use crate::output::{OutputFile, replace};
use crate::session::Session;

/// Its option, for messages.
pub const OPTION: &str = "--gdb";
/// Name of gdb's script in the report directory.
pub const SCRIPT_FILE: &str = "attach.gdb";
/// Name of the file for snapshots in the report directory.
pub const SNAPSHOT_FILE: &str = "snapshots.txt";

/// Listens, if a debugger is asked for.
///
/// # Errors
/// [`Failure`] if the address is not only this machine's and nobody said that it may be so, or cannot be had.
pub fn open(arguments: &Arguments) -> Result<Option<Socket>, Failure> {
    let Some(address) = &arguments.gdb else {
        return Ok(None);
    };
    if !address.is_local() {
        if !arguments.gdb_expose {
            return Err(Failure::usage(anyhow!(
                "other machines can reach {address}, and whoever connects controls the guest: use 127.0.0.1 or unix:PATH \
                 (and ssh -L from elsewhere), or say --gdb-expose"
            )));
        }
        crate::tell!("warning: everybody who reaches {address} can read and change the guest: there is no password");
    }
    Socket::open(address).map(Some).map_err(Failure::infrastructure)
}

/// Starts to serve debuggers, and writes the script for gdb. To be called before the files are limited.
///
/// # Errors
/// If a file cannot be written or the thread not be started.
pub fn serve(
    arguments: &Arguments,
    socket: Socket,
    images: &[ImageFile],
    guest: &mut Guest,
    session: &Arc<Session>,
    sandbox: Sandbox,
) -> anyhow::Result<JoinHandle<()>> {
    let directory = &arguments.report_dir;
    let files = symbol_files(arguments, images);
    let script = directory.join(SCRIPT_FILE);
    replace(&script, attach_script(socket.address(), &files).as_bytes())
        .with_context(|| format!("cannot write {}", script.display()))?;
    let snapshots = directory.join(SNAPSHOT_FILE);
    let snapshot = OutputFile::open(&snapshots, arguments.time_limit.0)
        .with_context(|| format!("cannot write {}", snapshots.display()))?;
    crate::tell!(
        "gdb: listening at {}; attach with: gdb -x {}",
        socket.address(),
        script.display()
    );
    session.stop_on_violations(arguments.on_violation == OnViolation::Stop);
    let (machine, stops) = guest.debug(arguments.gdb_wait);
    let served = Served {
        machine: Arc::new(machine),
        stops,
        session: Arc::clone(session),
        files,
        snapshot: Some(SnapshotFile::new(snapshot)),
        on_disconnect: arguments.on_disconnect,
    };
    socket.serve(served, sandbox)
}

/// For each image the file with its symbols.
fn symbol_files(arguments: &Arguments, images: &[ImageFile]) -> SymbolFiles {
    let file = |image: &ImageFile| {
        let unstripped = image.unstripped(arguments.symbols.as_deref());
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
         # Modules are loaded while the guest runs.\ndefine breakpoint-stop\nsharedlibrary\nend\n",
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
