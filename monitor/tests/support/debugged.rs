//! A run that serves a debugger, and its two kinds of clients.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test that cannot go on has failed; each test program uses a part"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::rsp::Client;
use crate::support::zoo::{self, Bug};
use crate::support::{Run, command, debugger_address, finish};

/// A workload that is short wherever it runs.
const SHORT: &str = "ops=16 threads=2";
/// The driver under test, which breaks a rule.
pub const MINIPORT: &str = "nvme-release-without-acquire";

/// What [`MINIPORT`] does.
pub fn bug() -> &'static Bug {
    zoo::bug(MINIPORT)
}

/// A run that serves a debugger.
pub struct Debugged {
    pub directory: tempfile::TempDir,
    pub child: Child,
    pub address: String,
}

impl Debugged {
    /// Starts one with a short workload.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(SHORT, arguments)
    }

    /// Starts one.
    pub fn start_with(workload: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = vec!["--gdb", "127.0.0.1:0", "--seed", "7", "--append", workload];
        all.extend(arguments);
        let mut child = command(directory.path(), MINIPORT, &all)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let address = debugger_address(directory.path(), &mut child);
        Self {
            directory,
            child,
            address,
        }
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("report/attach.gdb")
    }

    /// Runs gdb's commands in one session; gives all that it prints.
    pub fn gdb(&self, commands: &str) -> String {
        let file = self.directory.path().join("commands.gdb");
        fs::write(&file, commands).unwrap();
        let gdb = self.gdb_with(&file).output().unwrap();
        let text = String::from_utf8_lossy(&gdb.stdout).into_owned();
        assert!(gdb.status.success(), "{text}");
        text
    }

    /// A session whose course is left to chance (`random_session.py`): all that gdb prints, of which the last line is
    /// what became of it. `pauses` is what the run does when a client vanishes.
    pub fn random_session(&self, seed: u64, watches: bool, pauses: bool) -> String {
        let session = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/random_session.py");
        let said = |word: bool| if word { "yes" } else { "" };
        let mut gdb = self.gdb_with(Path::new(session));
        gdb.env("SEED", seed.to_string()).env("ATTACH", self.script());
        gdb.env("WATCHES", said(watches)).env("PAUSES", said(pauses));
        String::from_utf8_lossy(&gdb.output().unwrap().stdout).into_owned()
    }

    /// gdb, attached, with commands or a script. What the server says comes on standard error: in one stream with the
    /// rest it stays in order.
    fn gdb_with(&self, commands: &Path) -> Command {
        let mut gdb = Command::new("sh");
        gdb.args(["-c", "exec timeout 300 gdb -nx -batch -x \"$0\" -x \"$1\" 2>&1"]);
        gdb.arg(self.script()).arg(commands).stdin(Stdio::null());
        gdb
    }

    /// A client that sends what the test says.
    pub fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Waits for the end.
    pub fn end(self) -> Run {
        Run {
            output: finish(self.child),
            directory: self.directory,
        }
    }
}
