//! A gdb server on a machine that is made up.

use std::sync::Arc;
use std::time::Duration;

use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::super::{Address, OnDisconnect, Served, Socket, SymbolFiles};
use super::rsp::Client;
use crate::notices::Silent;
use crate::session::{Config, Session};
use crate::vmi::fake::{FakeMachine, FakeState};

/// Where the machine has memory.
pub(super) const MEMORY: std::ops::Range<u64> = 0x1000..0x3000;

/// A server on a machine that runs.
pub(super) struct Scene {
    pub(super) machine: FakeMachine,
    pub(super) address: String,
    pub(super) thread: JoinHandle<()>,
}

impl Scene {
    pub(super) fn new(on_disconnect: OnDisconnect) -> Self {
        let (machine, stops) = FakeMachine::new(2, MEMORY);
        {
            let mut state = machine.state();
            state.running = true;
            state.registers[0].general.rip = 0x1234;
            state.registers[1].general.rip = 0x5678;
        }
        let socket = Socket::open(&Address::read("127.0.0.1:0".as_ref()).unwrap()).unwrap();
        let address = socket.address().to_string();
        let served = Served {
            machine: Arc::new(machine.clone()),
            stops,
            session: Arc::new(Session::new(Config::default(), None, None)),
            files: SymbolFiles::default(),
            snapshot: None,
            on_disconnect,
            notices: Arc::new(Silent),
        };
        let thread = socket.serve(served, Sandbox::none()).unwrap();
        Self {
            machine,
            address,
            thread,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Waits for the machine to be as it should.
    pub(super) fn until(&self, condition: impl Fn(&FakeState) -> bool) {
        for _ in 0..500 {
            if condition(&self.machine.state()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("that never comes");
    }

    /// The run ends; so does the server.
    pub(super) fn end(self) {
        self.machine.state().stops = None;
        self.thread.join().unwrap();
    }
}
