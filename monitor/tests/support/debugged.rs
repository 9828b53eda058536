//! A run that serves a debugger, and its two kinds of clients.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test that cannot go on has failed; each test program uses a part"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::rsp::Client;
use crate::support::{BUGS, Bug, Run, command, debugger_address, finish};

/// A workload that is short wherever it runs.
const SHORT: &str = "ops=16 threads=2";
/// The driver under test, which breaks a rule.
pub const MINIPORT: &str = "nvme-release-without-acquire";

/// What [`MINIPORT`] does.
pub fn bug() -> Bug {
    *BUGS.iter().find(|(miniport, ..)| *miniport == MINIPORT).unwrap()
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
        let (success, text) = self.gdb_session(commands);
        assert!(success, "{text}");
        text
    }

    /// As [`Self::gdb`], and whether gdb was content.
    pub fn gdb_session(&self, commands: &str) -> (bool, String) {
        let file = self.directory.path().join("commands.gdb");
        fs::write(&file, commands).unwrap();
        // What the server says comes on standard error: in one stream with the rest it stays in order.
        let gdb = Command::new("sh")
            .args(["-c", "exec timeout 300 gdb -nx -batch -x \"$0\" -x \"$1\" 2>&1"])
            .arg(self.script())
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (gdb.status.success(), String::from_utf8_lossy(&gdb.stdout).into_owned())
    }

    /// The run has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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
