//! The four debug registers of one vCPU: which breakpoint, stop point or awaited return each of them holds.
//!
//! Breakpoints take registers first, then stop points, then awaited returns, until none is left. It builds the
//! requests; the vCPU loop makes them. It must not know KVM's file descriptors. Sources: Intel SDM volume 3, 19.2.4
//! (DR7), 19.2.3 (DR6).
#![forbid(unsafe_code)]

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};

use super::{BREAKPOINT_LIMIT, Breakpoint, FirstInstruction, StopPoint, StopPointKind};

/// DR6.BS: a single step.
pub(crate) const DR6_BS: u64 = 1 << 14;
/// DR6 with nothing recorded: the bits that always read as one.
pub(crate) const DR6_NONE: u64 = 0xffff_0ff0;

/// A return that is waited for on one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Catch {
    pub(crate) return_address: u64,
    pub(crate) stack_pointer: u64,
    pub(crate) cookie: u64,
}

/// What one debug register is for.
#[derive(Debug, Clone)]
enum Slot {
    Free,
    Breakpoint {
        breakpoint: Breakpoint,
        first: Option<FirstInstruction>,
    },
    StopPoint(StopPoint),
    Catch {
        catch: Catch,
        age: u64,
    },
}

impl Slot {
    fn address(&self) -> Option<u64> {
        match self {
            Self::Free => None,
            Self::Breakpoint { breakpoint, .. } => Some(breakpoint.address),
            Self::StopPoint(stop_point) => Some(stop_point.address),
            Self::Catch { catch, .. } => Some(catch.return_address),
        }
    }

    /// Where an instruction is not executed but reported.
    fn instruction(&self) -> Option<u64> {
        match self {
            Self::StopPoint(stop_point) if stop_point.kind != StopPointKind::HardwareBreakpoint => None,
            other => other.address(),
        }
    }

    /// Its R/W and LEN fields of DR7, as they stand for register 0.
    fn condition(&self) -> u64 {
        match self {
            Self::StopPoint(stop_point) => stop_point.condition(),
            // Execution, one byte.
            _ => 0,
        }
    }
}

/// What a debug exit was, as far as the registers of one vCPU tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    /// A breakpoint of the set, by id, in this slot.
    Breakpoint { id: u32, slot: usize },
    /// A return address that is waited for was reached; whether by the right frame is for the caller to see.
    Return { slot: usize },
}

/// The debug registers of one vCPU.
#[derive(Debug)]
pub(crate) struct DebugRegisters {
    slots: [Slot; BREAKPOINT_LIMIT],
    /// All stop points, those included that share the register of a breakpoint.
    stop_points: Vec<StopPoint>,
    /// Some of them are INT3 instructions.
    software: bool,
    clock: u64,
}

impl DebugRegisters {
    pub(crate) fn new() -> Self {
        Self {
            slots: [const { Slot::Free }; BREAKPOINT_LIMIT],
            stop_points: Vec::new(),
            software: false,
            clock: 0,
        }
    }

    /// Puts a new set in force. Catches stay as far as registers are left for them. The caller has made sure that
    /// there are not too many stop points.
    pub(crate) fn set(&mut self, set: &[Breakpoint], stop_points: &[StopPoint]) {
        let old = std::mem::replace(&mut self.slots, [const { Slot::Free }; BREAKPOINT_LIMIT]);
        self.stop_points = stop_points.to_vec();
        self.software = stop_points
            .iter()
            .any(|stop_point| stop_point.needs_software_breakpoint(set));
        let breakpoints = set.iter().map(|&breakpoint| Slot::Breakpoint {
            breakpoint,
            first: None,
        });
        let own = stop_points
            .iter()
            .filter(|stop_point| stop_point.needs_register(set))
            .copied()
            .map(Slot::StopPoint);
        let catches = old.into_iter().filter(|slot| matches!(slot, Slot::Catch { .. }));
        for (place, slot) in self.slots.iter_mut().zip(breakpoints.chain(own).chain(catches)) {
            *place = slot;
        }
    }

    /// The stop point on executing the instruction at `pc`, if it caused a debug exit with `dr6` or shares the register
    /// of a breakpoint that did.
    pub(crate) fn executed(&self, pc: u64, dr6: u64) -> Option<StopPoint> {
        let hit =
            (0..BREAKPOINT_LIMIT).any(|slot| dr6 & (1 << slot) != 0 && self.slots[slot].instruction() == Some(pc));
        self.stop_points
            .iter()
            .find(|stop_point| stop_point.is_code() && stop_point.address == pc)
            .copied()
            .filter(|_| hit)
    }

    /// The stop point by INT3 at `pc`.
    pub(crate) fn software_breakpoint(&self, pc: u64) -> Option<StopPoint> {
        let at =
            |stop_point: &&StopPoint| stop_point.kind == StopPointKind::SoftwareBreakpoint && stop_point.address == pc;
        self.stop_points.iter().find(at).copied()
    }

    /// The stop point on an access to data that caused a debug exit with `dr6`.
    pub(crate) fn accessed(&self, dr6: u64) -> Option<StopPoint> {
        (0..BREAKPOINT_LIMIT).find_map(|slot| match self.slots[slot] {
            Slot::StopPoint(stop_point)
                if stop_point.kind != StopPointKind::HardwareBreakpoint && dr6 & (1 << slot) != 0 =>
            {
                Some(stop_point)
            }
            _ => None,
        })
    }

    /// Waits for a return; says whether a debug register could be had for it.
    pub(crate) fn catch(&mut self, catch: Catch) -> bool {
        self.clock += 1;
        let same = |slot: &Slot| {
            matches!(slot, Slot::Catch { catch: old, .. }
                if (old.return_address, old.stack_pointer) == (catch.return_address, catch.stack_pointer))
        };
        let place = self.slots.iter().position(same).or_else(|| {
            // A free register counts as the oldest.
            let age = |slot: &Slot| match slot {
                Slot::Free => Some(0),
                Slot::Catch { age, .. } => Some(*age),
                Slot::Breakpoint { .. } | Slot::StopPoint(_) => None,
            };
            (0..BREAKPOINT_LIMIT)
                .filter_map(|index| age(&self.slots[index]).map(|age| (age, index)))
                .min()
                .map(|(_, index)| index)
        });
        if let Some(index) = place {
            self.slots[index] = Slot::Catch { catch, age: self.clock };
        }
        place.is_some()
    }

    /// The catch in `slot` if it is for this stack pointer; it is then over.
    pub(crate) fn take_catch(&mut self, slot: usize, stack_pointer: u64) -> Option<Catch> {
        match self.slots.get(slot) {
            Some(Slot::Catch { catch, .. }) if catch.stack_pointer == stack_pointer => {
                let catch = *catch;
                self.slots[slot] = Slot::Free;
                Some(catch)
            }
            _ => None,
        }
    }

    /// Which breakpoint or return a debug exit at `pc` with `dr6` belongs to. `stack_pointer` tells apart several catches
    /// of one address.
    pub(crate) fn classify(&self, pc: u64, dr6: u64, stack_pointer: u64) -> Option<Hit> {
        let ours = |slot: &Slot| matches!(slot, Slot::Breakpoint { .. } | Slot::Catch { .. });
        let hits = || {
            (0..BREAKPOINT_LIMIT).filter(|&slot| {
                dr6 & (1 << slot) != 0 && ours(&self.slots[slot]) && self.slots[slot].address() == Some(pc)
            })
        };
        let breakpoint = hits().find_map(|slot| match &self.slots[slot] {
            Slot::Breakpoint { breakpoint, .. } => Some(Hit::Breakpoint {
                id: breakpoint.id,
                slot,
            }),
            _ => None,
        });
        let exact = || {
            hits().find(
                |&slot| matches!(&self.slots[slot], Slot::Catch { catch, .. } if catch.stack_pointer == stack_pointer),
            )
        };
        breakpoint.or_else(|| exact().or_else(|| hits().next()).map(|slot| Hit::Return { slot }))
    }

    /// The decoded first instruction kept with the breakpoint in `slot`.
    pub(crate) fn first_instruction(&mut self, slot: usize) -> Option<&mut Option<FirstInstruction>> {
        match self.slots.get_mut(slot) {
            Some(Slot::Breakpoint { first, .. }) => Some(first),
            _ => None,
        }
    }

    /// The request for `KVM_SET_GUEST_DEBUG` that puts these registers in force.
    pub(crate) fn armed(&self) -> kvm_guest_debug {
        self.request(None)
    }

    /// The request that arms all but the register of `pc` and steps one instruction, with interrupts held back where
    /// KVM can.
    pub(crate) fn stepping(&self, pc: u64, block_interrupts: bool) -> kvm_guest_debug {
        let mut request = self.request(Some(pc));
        request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        if block_interrupts {
            request.control |= KVM_GUESTDBG_BLOCKIRQ;
        }
        request
    }

    /// The request that puts these registers in force and gives the guest a debug exception.
    pub(crate) fn injecting(&self) -> kvm_guest_debug {
        let mut request = self.request(None);
        request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
        request
    }

    /// The request that puts these registers in force and gives the guest the exception of its own INT3.
    pub(crate) fn injecting_breakpoint(&self) -> kvm_guest_debug {
        let mut request = self.request(None);
        request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP;
        request
    }

    fn request(&self, except: Option<u64>) -> kvm_guest_debug {
        let mut request = kvm_guest_debug::default();
        // Bit 10 always reads as one; bit 9 (exact) is what debuggers set.
        let mut dr7 = 0x600;
        for (index, slot) in self.slots.iter().enumerate() {
            let left_out = except.is_some() && slot.instruction() == except;
            if let Some(address) = slot.address().filter(|_| !left_out) {
                request.arch.debugreg[index] = address;
                // Global enable.
                dr7 |= 2 << (2 * index) | slot.condition() << (4 * index);
                request.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
            }
        }
        if self.software {
            request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        }
        request.arch.debugreg[7] = dr7;
        request
    }
}
