//! What a machine did not do that its guest asked of it: so that a guest that does not boot tells whether that was the
//! machine's fault.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};

use super::MachineHandle;
use crate::bus::UnassignedPlace;
use crate::firmware::{TablePorts, table_ports};
use crate::msr::MsrAccess;
use crate::storage::{InFlight, RefusedCommand};
use crate::tally::Counts;

/// Counts so far.
#[derive(Debug, Clone)]
pub struct Unserved {
    /// Accesses to MSRs that KVM did not perform.
    pub msrs: Counts<MsrAccess>,
    /// Accesses to ports that no device answered.
    pub ports: Counts<UnassignedPlace>,
    /// Accesses to memory that no device answered.
    pub memory: Counts<UnassignedPlace>,
    /// Commands that storage controllers refused.
    pub commands: Vec<RefusedCommand>,
    /// How often others were that have no place of their own.
    pub other_commands: u64,
    /// Ports that the ACPI tables name, of which at least one is answered by nobody.
    pub table_ports: Vec<TablePorts>,
}

impl MachineHandle {
    /// What the storage controllers owe their host, in the order in which they were plugged in.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Arc<InFlight>> {
        let all = self.shared().in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// What the machine did not do so far.
    #[must_use]
    pub fn unserved(&self) -> Unserved {
        let shared = self.shared();
        let refusals = shared.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut commands, mut other_commands) = (Vec::new(), 0);
        for controller in refusals.iter() {
            let (refused, others) = controller.in_words();
            commands.extend(refused);
            other_commands += others;
        }
        let is_answered = |port: u16| shared.pio.answers(port.into());
        let table_ports = table_ports().filter(|ports| !ports.is_in_kernel && !ports.range().all(is_answered));
        Unserved {
            msrs: shared.unknown_msrs.counts(),
            ports: shared.pio.unassigned(),
            memory: shared.mmio.unassigned(),
            commands,
            other_commands,
            table_ports: table_ports.collect(),
        }
    }
}
