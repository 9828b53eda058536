//! What is said between one client and the machine: bytes in, bytes out, stops in between.
//!
//! Talks to the gdbstub crate's state machine and to the [`Stub`]. It must not know sockets, so that any bytes can be
//! given to it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};

use super::libraries::SymbolFiles;
use super::snapshot::SnapshotFile;
use super::stub::Stub;
use crate::session::Session;
use crate::target::debuggee::{Debuggee, Stop};

/// Longest packet, in bytes; gdb is told.
const PACKET_LIMIT: usize = 0x4000;
/// What a client sends to interrupt: a single byte, no packet.
const INTERRUPT: u8 = 3;
/// What either side sends to have a packet again.
const NOT_ARRIVED: u8 = b'-';
/// Bytes around the payload of a packet.
const FRAME: usize = 4;

/// The sum behind a packet's payload.
fn sum(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// A payload as a packet.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![b'$'];
    packet.extend_from_slice(payload);
    packet.extend_from_slice(format!("#{:02x}", sum(payload)).as_bytes());
    packet
}

/// What the gdbstub crate writes, on its way to the client.
#[derive(Clone, Default)]
struct Outbox(Rc<RefCell<Vec<u8>>>);

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

/// How a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It said that the machine is to go on.
    Detached,
    /// Without a word, or after one that makes no sense.
    Vanished,
    /// It ended the run.
    Killed,
    /// The run has ended.
    Over,
}

/// A conversation with one client. The machine stands still when it begins.
pub struct Conversation {
    machine: Arc<dyn Debuggee>,
    stub: Stub,
    /// `None` once it has broken down.
    state: Option<GdbStubStateMachine<'static, Stub, Outbox>>,
    outbox: Outbox,
    /// What has come of a packet that is not complete.
    packet: Vec<u8>,
    /// Packets are no longer acknowledged.
    no_acknowledgement: bool,
    /// The last packet sent, for a client that says that it did not arrive; it says so once.
    last: Vec<u8>,
    /// Why the machine stands still; `None` while it runs.
    standing: Option<Stop>,
}

impl Conversation {
    /// Begins it at a stop.
    pub fn begin(
        machine: Arc<dyn Debuggee>,
        session: Arc<Session>,
        files: Arc<SymbolFiles>,
        snapshot: Option<SnapshotFile>,
        standing: Stop,
    ) -> Self {
        let mut stub = Stub::new(Arc::clone(&machine), session, files, snapshot);
        stub.stopped(&standing);
        let outbox = Outbox::default();
        let gdb = GdbStub::builder(outbox.clone())
            .packet_buffer_size(PACKET_LIMIT)
            .build();
        let state = gdb.ok().and_then(|gdb| gdb.run_state_machine(&mut stub).ok());
        Self {
            machine,
            stub,
            state,
            outbox,
            packet: Vec::new(),
            no_acknowledgement: false,
            last: Vec::new(),
            standing: Some(standing),
        }
    }

    /// What is to be sent.
    pub fn output(&mut self) -> Vec<u8> {
        let output = std::mem::take(&mut *self.outbox.0.borrow_mut());
        if let Some(start) = output.iter().rposition(|byte| *byte == b'$') {
            self.last = output[start..].to_vec();
        }
        output
    }

    /// Whether it is over, and how.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        match &self.state {
            None => Some(Left::Vanished),
            Some(GdbStubStateMachine::Disconnected(client)) => Some(match client.get_reason() {
                DisconnectReason::Kill => Left::Killed,
                DisconnectReason::Disconnect => Left::Detached,
                DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => Left::Over,
            }),
            Some(_) => None,
        }
    }

    /// Why the machine stands still; `None` while it runs.
    #[must_use]
    pub fn standing(&self) -> Option<&Stop> {
        self.standing.as_ref()
    }

    /// Takes what the client has sent. What makes no sense ends the conversation.
    pub fn receive(&mut self, received: &[u8]) {
        for &byte in received {
            // A running machine can only be interrupted (gdb manual, "Interrupts"): another command to go on must not be
            // left over for the next stop.
            if byte != INTERRUPT && self.state.as_mut().is_some_and(is_running) {
                self.packet.clear();
                continue;
            }
            if byte == NOT_ARRIVED && self.packet.is_empty() {
                let last = std::mem::take(&mut self.last);
                self.outbox.0.borrow_mut().extend(last);
                continue;
            }
            if byte != b'$' && self.packet.is_empty() {
                self.give(&[byte]);
                continue;
            }
            self.packet.push(byte);
            let complete = self.packet.len() >= 4 && self.packet[self.packet.len() - 3] == b'#';
            if complete {
                let packet = std::mem::take(&mut self.packet);
                self.take_packet(&packet);
            } else if self.packet.len() > PACKET_LIMIT + FRAME {
                crate::tell_bounded!("gdb: the debugger is cut off: a packet of more than {PACKET_LIMIT} bytes");
                self.packet.clear();
                self.state = None;
            }
        }
    }

    /// A whole packet: answers what the gdbstub crate does not know or takes otherwise than its senders mean it.
    fn take_packet(&mut self, packet: &[u8]) {
        let (payload, digits) = packet.split_at(packet.len().saturating_sub(3));
        let payload = payload.get(1..).unwrap_or_default();
        let told = std::str::from_utf8(digits.get(1..).unwrap_or_default());
        let told = told.ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if told != Some(sum(payload)) {
            if !self.no_acknowledgement {
                self.outbox.0.borrow_mut().push(NOT_ARRIVED);
            }
            return;
        }
        match payload {
            // lldb and WinDbg mean all processors by it, not the one that stopped.
            b"c" => self.give(&framed(b"vCont;c")),
            // What QEMU has for physical memory, and WinDbg uses.
            b"qqemu.PhyMemMode" => self.answer(if self.stub.physical { b"1" } else { b"0" }),
            b"Qqemu.PhyMemMode:0" | b"Qqemu.PhyMemMode:1" => {
                self.stub.physical = payload.ends_with(b"1");
                self.answer(b"OK");
            }
            _ => {
                if payload.starts_with(b"qSupported") {
                    self.stub.introduce(payload);
                }
                self.give(packet);
                self.no_acknowledgement |= payload == b"QStartNoAckMode";
            }
        }
    }

    fn answer(&mut self, payload: &[u8]) {
        let mut outbox = self.outbox.0.borrow_mut();
        if !self.no_acknowledgement {
            outbox.push(b'+');
        }
        outbox.extend(framed(payload));
    }

    /// Gives bytes to the state machine.
    fn give(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let Some(state) = self.state.take() else { return };
            let next = match state {
                GdbStubStateMachine::Idle(idle) => idle.incoming_data(&mut self.stub, byte),
                GdbStubStateMachine::Running(running) => running.incoming_data(&mut self.stub, byte),
                other => Ok(other),
            };
            let next = next.and_then(|state| match state {
                GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
                    if self.standing.is_none() {
                        self.machine.interrupt();
                    }
                    // The stop itself is told when it has come.
                    interrupted.interrupt_handled(&mut self.stub, None::<MultiThreadStopReason<u64>>)
                }
                other => Ok(other),
            });
            match next {
                Ok(state) => self.state = Some(state),
                Err(problem) => crate::tell_bounded!("gdb: the debugger is cut off: {problem}"),
            }
            if matches!(self.state, Some(GdbStubStateMachine::Running(_))) {
                self.standing = None;
            }
        }
    }

    /// Tells the client a stop, or with `None` the end of the run.
    pub fn tell(&mut self, stop: Option<Stop>) {
        let Some(stop) = stop else {
            if let Some(GdbStubStateMachine::Running(running)) = self.state.take() {
                let told = running.report_stop(&mut self.stub, MultiThreadStopReason::Exited(0));
                self.state = told.ok();
            }
            return;
        };
        match &stop {
            Stop::TrapsLost(count) => crate::tell_bounded!(
                "gdb: {count} of your breakpoints were taken out: the watched routines need their debug registers"
            ),
            Stop::Crashed(_, what) => crate::tell_bounded!("gdb: {what}; the guest can be looked at, but cannot go on"),
            _ => {}
        }
        let reason = self.stub.stopped(&stop);
        self.standing = Some(stop);
        let Some(GdbStubStateMachine::Running(running)) = self.state.take_if(is_running) else {
            return;
        };
        let values = self.stub.expedited();
        let mut expedited = values.iter().map(|(register, value)| (*register, value.as_slice()));
        let told = running.report_stop_with_regs(&mut self.stub, reason, &mut expedited);
        self.state = told.ok();
    }

    /// Takes the client's traps out; gives why the machine stands still, if it does.
    pub fn end(mut self) -> Option<Stop> {
        self.stub.clear();
        self.standing
    }
}

fn is_running(state: &mut GdbStubStateMachine<'static, Stub, Outbox>) -> bool {
    matches!(state, GdbStubStateMachine::Running(_))
}
