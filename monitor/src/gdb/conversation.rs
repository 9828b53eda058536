//! The conversation of one client with the machine: bytes in, bytes out, stops in between.
//!
//! Talks to the gdbstub crate's state machine and to the [`Stub`]. It must not know sockets, so that tests can give it
//! any bytes. Each packet is answered or, if it makes no sense, refused; the [`filter`](super::filter) checks it before
//! the crate sees it. Only the packets that are meant to end the conversation end it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};

use super::command::{Command, Malformed};
use super::filter::{self, Passage};
use super::libraries::SymbolFiles;
use super::packet::{NOT_ARRIVED, PACKET_LIMIT, PAYLOAD_LIMIT, Received, Receiver, framed};
use super::snapshot::SnapshotFile;
use super::stub::{EINVAL, Errno, Stub};
use crate::notices::Notices;
use crate::session::Session;
use crate::vmi::debuggee::{Debuggee, DebuggeeStop};

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
    /// Without a word.
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
    receiver: Receiver,
    /// `None` if it has broken down, which no packet that passes the filter does.
    engine: Option<GdbStubStateMachine<'static, Stub, Outbox>>,
    /// What is to be sent.
    outbox: Outbox,
    /// Packets are no longer acknowledged.
    no_acknowledgement: bool,
    /// The last packet sent, for a client that says that it did not arrive; it says so once.
    last: Vec<u8>,
    /// Why the machine stands still; `None` while it runs.
    standing: Option<DebuggeeStop>,
}

impl Conversation {
    /// Begins it at a stop. What the client cannot be told goes to `notices`.
    pub fn begin(
        machine: Arc<dyn Debuggee>,
        session: Arc<Session>,
        files: Arc<SymbolFiles>,
        snapshot: Option<SnapshotFile>,
        notices: Arc<dyn Notices>,
        standing: DebuggeeStop,
    ) -> Self {
        let mut stub = Stub::new(Arc::clone(&machine), session, files, snapshot, notices);
        stub.stopped(&standing);
        let outbox = Outbox::default();
        let gdb = GdbStub::builder(outbox.clone())
            .packet_buffer_size(PACKET_LIMIT)
            .build();
        let engine = gdb.ok().and_then(|gdb| gdb.run_state_machine(&mut stub).ok());
        let mut begun = Self {
            machine,
            stub,
            receiver: Receiver::default(),
            engine,
            outbox,
            no_acknowledgement: false,
            last: Vec::new(),
            standing: Some(standing),
        };
        // Acknowledgements are given here, where packets are found.
        begun.give_quietly(b"QStartNoAckMode");
        begun.select_current();
        begun
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
        match &self.engine {
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
    pub fn standing(&self) -> Option<&DebuggeeStop> {
        self.standing.as_ref()
    }

    /// Takes what the client has sent.
    pub fn receive(&mut self, received: &[u8]) {
        for &byte in received {
            if self.left().is_some() {
                return;
            }
            if self.standing.is_some() {
                if let Some(received) = self.receiver.take(byte) {
                    self.take(received);
                }
                continue;
            }
            // A running machine can only be interrupted (gdb manual, "Interrupts"): another command to go on must not be
            // left over for the next stop.
            if Receiver::default().take(byte) == Some(Received::Interrupt) {
                self.machine.interrupt();
            }
        }
    }

    /// One packet or sign, while the machine stands still.
    fn take(&mut self, received: Received) {
        match received {
            Received::Packet(payload) => {
                self.acknowledge();
                self.answer(&payload);
            }
            Received::TooLong => {
                self.acknowledge();
                self.refuse(EINVAL);
            }
            // Without acknowledgements the client would not send it again.
            Received::Damaged if self.no_acknowledgement => self.refuse(EINVAL),
            Received::Damaged => self.outbox.0.borrow_mut().push(NOT_ARRIVED),
            Received::NotArrived if self.no_acknowledgement => {}
            Received::NotArrived => {
                let last = std::mem::take(&mut self.last);
                self.outbox.0.borrow_mut().extend(last);
            }
            // It stands still.
            Received::Interrupt => {}
        }
    }

    fn acknowledge(&mut self) {
        if !self.no_acknowledgement {
            self.outbox.0.borrow_mut().push(b'+');
        }
    }

    fn send(&mut self, payload: &[u8]) {
        self.outbox.0.borrow_mut().extend(framed(payload));
    }

    fn refuse(&mut self, Errno(number): Errno) {
        self.send(format!("E{number:02x}").as_bytes());
    }

    fn answer(&mut self, payload: &[u8]) {
        let passage = match Command::parse(payload) {
            Ok(command) => {
                self.no_acknowledgement |= command == Command::StartNoAckMode;
                // The crate ends the session without an answer.
                if command == Command::Kill(true) {
                    self.send(b"OK");
                }
                filter::pass(command, &mut self.stub)
            }
            Err(Malformed) => Err(EINVAL),
        };
        match passage {
            Ok(Passage::On(payload)) if payload.len() <= PAYLOAD_LIMIT => self.give(&payload),
            Ok(Passage::On(_)) => self.refuse(EINVAL),
            Ok(Passage::Answer(text)) => self.send(text.as_bytes()),
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Gives a packet to the gdbstub crate.
    fn give(&mut self, payload: &[u8]) {
        for byte in framed(payload) {
            let next = match self.engine.take() {
                Some(GdbStubStateMachine::Idle(idle)) => idle.incoming_data(&mut self.stub, byte),
                Some(other) => Ok(other),
                None => return,
            };
            match next {
                Ok(engine) => self.engine = Some(engine),
                Err(problem) => self
                    .stub
                    .notices
                    .say_bounded(&format!("gdb: the debugger is cut off: {problem}")),
            }
        }
        if self.engine.as_mut().is_some_and(is_running) {
            self.standing = None;
        }
    }

    /// As [`Conversation::give`], but the client did not ask for it and gets no answer.
    fn give_quietly(&mut self, payload: &[u8]) {
        let before = self.outbox.0.borrow().len();
        self.give(payload);
        self.outbox.0.borrow_mut().truncate(before);
    }

    /// Memory and registers are those of the processor that the last stop was about.
    fn select_current(&mut self) {
        let select = filter::select(self.stub.current);
        self.give_quietly(select.as_bytes());
    }

    /// Tells the client a stop, or with `None` the end of the run.
    pub fn tell(&mut self, stop: Option<DebuggeeStop>) {
        let Some(stop) = stop else {
            if let Some(GdbStubStateMachine::Running(running)) = self.engine.take_if(is_running) {
                let told = running.report_stop(&mut self.stub, MultiThreadStopReason::Exited(0));
                self.engine = told.ok();
            }
            return;
        };
        match &stop {
            DebuggeeStop::StopPointsLost(count) => self.stub.notices.say_bounded(&format!(
                "gdb: {count} of your breakpoints were taken out: the watched routines need their debug registers"
            )),
            DebuggeeStop::Crashed(_, what) => self
                .stub
                .notices
                .say_bounded(&format!("gdb: {what}; the guest can be looked at, but cannot go on")),
            _ => {}
        }
        let reason = self.stub.stopped(&stop);
        self.standing = Some(stop);
        let Some(GdbStubStateMachine::Running(running)) = self.engine.take_if(is_running) else {
            self.select_current();
            return;
        };
        let values = self.stub.expedited();
        let mut expedited = values.iter().map(|(register, value)| (*register, value.as_slice()));
        let told = running.report_stop_with_regs(&mut self.stub, reason, &mut expedited);
        self.engine = told.ok();
    }

    /// Takes the client's stop points out; gives why the machine stands still, if it does.
    #[must_use]
    pub fn end(mut self) -> Option<DebuggeeStop> {
        self.stub.clear();
        self.standing
    }
}

fn is_running(state: &mut GdbStubStateMachine<'static, Stub, Outbox>) -> bool {
    matches!(state, GdbStubStateMachine::Running(_))
}
