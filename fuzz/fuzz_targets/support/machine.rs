//! The debugger of a fuzz target, and the machine that it debugs.

use std::sync::Arc;

use storlock::gdb::{Conversation, SymbolFiles};
use storlock::notices::Silent;
use storlock::session::{Config, Session};
use storlock::vmi::debuggee::DebuggeeStop;
use storlock::vmi::fake::FakeMachine;

/// Processors of the machine.
pub const CPUS: u32 = 3;

/// A debugger's conversation about `machine`, which stands still.
pub fn converse(machine: &FakeMachine) -> Conversation {
    Conversation::begin(
        Arc::new(machine.clone()),
        Arc::new(Session::new(Config::default(), None, None)),
        Arc::new(SymbolFiles::default()),
        None,
        Arc::new(Silent),
        DebuggeeStop::Start,
    )
}
