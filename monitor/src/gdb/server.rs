//! The gdb server's loop: one client at a time, the machine's stops, and what happens without a client.
//!
//! Talks to the socket, to the gdbstub crate's state machine and to the [`Stub`]. Whatever a client sends or fails to
//! read, the machine ends up in the state that the policy names.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::UnboundedReceiver;

use super::libraries::SymbolFiles;
use super::listener::{Address, Listener, Stream};
use super::stub::Stub;
use crate::session::Session;
use crate::target::debuggee::{Debuggee, Stop};

/// Longest packet, in bytes; gdb is told.
const PACKET_LIMIT: usize = 0x4000;
/// How long a client may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of the machine when a client vanishes without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It stands still until another one attaches.
    Pause,
    /// It goes on.
    Resume,
}

/// What the gdbstub crate writes, on its way to the socket.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Rc<RefCell<Vec<u8>>>);

impl Outbox {
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl Connection for Outbox {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.borrow_mut().push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

type Machine = GdbStubStateMachine<'static, Stub, Outbox>;

/// How a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Detached,
    /// Without a word, or after one that makes no sense.
    Vanished,
    Killed,
    /// The run has ended.
    Over,
}

/// The server of one run.
pub(crate) struct Server {
    pub(crate) listener: Listener,
    pub(crate) address: Address,
    pub(crate) machine: Arc<dyn Debuggee>,
    pub(crate) session: Arc<Session>,
    pub(crate) files: Arc<SymbolFiles>,
    pub(crate) snapshot: Option<File>,
    pub(crate) stops: UnboundedReceiver<Stop>,
    pub(crate) on_disconnect: OnDisconnect,
    /// Why the machine stands still; `None` while it runs.
    pub(crate) standing: Option<Stop>,
}

impl Server {
    /// Serves clients until the run is over.
    pub(crate) async fn serve(mut self) {
        loop {
            let left = tokio::select! {
                stop = self.stops.recv() => match stop {
                    Some(stop) => {
                        self.unattended(stop);
                        continue;
                    }
                    None => Left::Over,
                },
                client = self.listener.accept() => match client {
                    Ok(stream) => self.client(stream).await,
                    Err(error) => {
                        tracing::warn!("a debugger could not connect: {error}");
                        // Too many open files, for example: not to be asked again at once.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            match left {
                Left::Over => return,
                Left::Killed => self.machine.end(),
                Left::Detached => self.go_on(),
                Left::Vanished => self.vanished(),
            }
        }
    }

    /// The machine has stopped and nobody is attached.
    fn unattended(&mut self, stop: Stop) {
        let why = match &stop {
            Stop::Start => "the guest waits at its first instruction",
            Stop::Violation(_) => "stopped at a violation",
            Stop::Interrupted => "paused, since the debugger has vanished",
            // Nobody's traps and steps; and a guest that has crashed is not kept for somebody who may never come.
            Stop::Trap(..) | Stop::Stepped(_) | Stop::TrapsLost(_) | Stop::Crashed(..) => {
                self.machine.resume(Vec::new());
                return;
            }
        };
        eprintln!("gdb: {why}; attach with: target remote {}", self.address);
        self.standing = Some(stop);
    }

    fn go_on(&mut self) {
        if self.standing.take().is_some() {
            self.machine.resume(Vec::new());
        }
    }

    fn vanished(&mut self) {
        match (self.on_disconnect, &self.standing) {
            (OnDisconnect::Resume, _) => self.go_on(),
            (OnDisconnect::Pause, None) => self.machine.interrupt(),
            (OnDisconnect::Pause, Some(Stop::Crashed(..))) => self.go_on(),
            (OnDisconnect::Pause, Some(_)) => {
                eprintln!(
                    "gdb: the debugger has vanished, the machine stands still; attach with: target remote {}",
                    self.address
                );
            }
        }
    }

    /// Serves one client until it leaves. The machine is stopped for it.
    async fn client(&mut self, mut stream: Box<dyn Stream>) -> Left {
        if self.standing.is_none() {
            self.machine.interrupt();
            match self.stops.recv().await {
                Some(stop) => self.standing = Some(stop),
                None => return Left::Over,
            }
        }
        let snapshot = self.snapshot.as_ref().and_then(|file| file.try_clone().ok());
        let mut stub = Stub::new(
            Arc::clone(&self.machine),
            Arc::clone(&self.session),
            Arc::clone(&self.files),
            snapshot,
        );
        if let Some(stop) = &self.standing {
            stub.stopped(stop);
        }
        let left = self.talk(&mut stream, &mut stub).await;
        stub.clear();
        left
    }

    async fn talk(&mut self, stream: &mut Box<dyn Stream>, stub: &mut Stub) -> Left {
        let outbox = Outbox::default();
        let Ok(gdb) = GdbStub::builder(outbox.clone()).packet_buffer_size(PACKET_LIMIT).build() else {
            return Left::Vanished;
        };
        let Ok(mut state) = gdb.run_state_machine(stub) else {
            return Left::Vanished;
        };
        let mut buffer = [0; 4096];
        loop {
            if !send(stream, &outbox).await {
                return Left::Vanished;
            }
            if let GdbStubStateMachine::Disconnected(client) = &state {
                return how(client.get_reason());
            }
            tokio::select! {
                stop = self.stops.recv() => {
                    let told = self.tell(stub, state, stop);
                    let Some(next) = told else {
                        let _ = send(stream, &outbox).await;
                        return Left::Over;
                    };
                    state = next;
                }
                read = stream.read(&mut buffer) => {
                    let Some(received) = read.ok().filter(|count| *count > 0).map(|count| &buffer[..count]) else {
                        return Left::Vanished;
                    };
                    match self.feed(stub, state, received) {
                        Ok(next) => state = next,
                        Err(problem) => {
                            eprintln!("gdb: the debugger is cut off: {problem}");
                            return Left::Vanished;
                        }
                    }
                }
                other = self.listener.accept() => {
                    if other.is_ok() {
                        eprintln!("gdb: a second debugger was turned away: one is attached");
                    }
                }
            }
        }
    }

    /// Tells the client a stop, or the end; `None` if that was the end of all.
    fn tell(&mut self, stub: &mut Stub, state: Machine, stop: Option<Stop>) -> Option<Machine> {
        let Some(stop) = stop else {
            if let GdbStubStateMachine::Running(running) = state {
                // What is sent is all that matters.
                let _ = running.report_stop(stub, MultiThreadStopReason::Exited(0));
            }
            return None;
        };
        match &stop {
            Stop::TrapsLost(count) => eprintln!(
                "gdb: {count} of your breakpoints were taken out: the watched routines need their debug registers"
            ),
            Stop::Crashed(_, what) => eprintln!("gdb: {what}; the guest can be looked at, but cannot go on"),
            _ => {}
        }
        let reason = stub.stopped(&stop);
        self.standing = Some(stop);
        let GdbStubStateMachine::Running(running) = state else {
            return Some(state);
        };
        let values = stub.expedited();
        let mut expedited = values.iter().map(|(register, value)| (*register, value.as_slice()));
        running.report_stop_with_regs(stub, reason, &mut expedited).ok()
    }

    /// Gives what the client has sent to the state machine.
    fn feed(&mut self, stub: &mut Stub, mut state: Machine, received: &[u8]) -> Result<Machine, String> {
        for &byte in received {
            let next = match state {
                GdbStubStateMachine::Idle(idle) => idle.incoming_data(stub, byte),
                GdbStubStateMachine::Running(running) => running.incoming_data(stub, byte),
                disconnected => Ok(disconnected),
            };
            state = next.map_err(|error| error.to_string())?;
            if let GdbStubStateMachine::CtrlCInterrupt(interrupted) = state {
                if self.standing.is_none() {
                    self.machine.interrupt();
                }
                // The stop itself is told when it has come.
                let next = interrupted.interrupt_handled(stub, None::<MultiThreadStopReason<u64>>);
                state = next.map_err(|error| error.to_string())?;
            }
            if matches!(state, GdbStubStateMachine::Running(_)) {
                self.standing = None;
            }
        }
        Ok(state)
    }
}

fn how(reason: DisconnectReason) -> Left {
    match reason {
        DisconnectReason::Kill => Left::Killed,
        DisconnectReason::Disconnect => Left::Detached,
        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => Left::Over,
    }
}

/// Empties the outbox into the socket; `false` if the client does not take it.
async fn send(stream: &mut Box<dyn Stream>, outbox: &Outbox) -> bool {
    let bytes = outbox.take();
    if bytes.is_empty() {
        return true;
    }
    matches!(tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await, Ok(Ok(())))
}
