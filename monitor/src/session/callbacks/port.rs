//! How the port driver runs the driver under test, as far as that decides which locks it holds around a callback: what the
//! driver has put into its configuration, and what it has asked for by calls.
//!
//! Talks to the guest's structures. It must not know what follows for a lock.

use storlock_check::contract::{Callback, PortHold, PortModel, Role, contract};
use storlock_check::event::{InCallback, LockCall, LockOperand, PortTold};
use storlock_check::identity::{INTERRUPT_LOCK, START_IO_LOCK};

use super::{Callbacks, Known};
use crate::report::ModuleInfo;
use crate::session::guest::Names;
use crate::session::watching::{Watch, Watching};
use crate::vmi::{CpuState, GuestMemory};
use crate::watch::{Uses, prohibited_imports};
use crate::windows::arguments::{Coming, image_comes_to};
use crate::windows::{Image, Imports};

/// `SynchronizationModel` and `InterruptSynchronizationMode` in `PORT_CONFIGURATION_INFORMATION`, and their values
/// `StorSynchronizeHalfDuplex` and `InterruptSynchronizePerMessage`; each is the least or the greatest.
const SYNCHRONIZATION_MODEL: u64 = 0x94;
const HALF_DUPLEX: u32 = 0;
const FULL_DUPLEX: u32 = 1;
const INTERRUPT_MODE: u64 = 0xa0;
const PER_MESSAGE: u32 = 2;

/// `SCSI_NOTIFICATION_TYPE` values by which a driver names a callback, and which argument that is: the third or the fourth.
const NOTIFICATION: &str = "storport!StorPortNotification";
const NAMED: [(u32, bool, Callback); 5] = [
    (6, false, Callback::HwStorTimer),
    (0x1000, false, Callback::HwStorPassiveInitializeRoutine),
    (0x1001, true, Callback::HwStorDpcRoutine),
    (0x1009, true, Callback::HwStorDpcRoutine),
    (0x100a, true, Callback::HwStorDpcRoutine),
];

/// The export, and the function code, by which a driver asks for concurrent channels; `Flags` and `ConcurrentChannels` in
/// the `PERF_CONFIGURATION_DATA` that it gives, and the flag.
pub(super) const EXTENDED: &str = "StorPortExtendedFunction";
const EXTENDED_NAME: &str = "storport!StorPortExtendedFunction";
const INITIALIZE_PERFORMANCE: u32 = 0xe;
const FLAGS: u64 = 8;
const CHANNELS: u64 = 0xc;
const CONCURRENT: u32 = 2;
/// Calls of that export that are waited for at most: it does many things, and asks for channels only while the driver
/// initialises (`storport/nf-storport-storportinitializeperfopts`).
const CALLS: u32 = 2048;

/// The codes of an export, named as debuggers do, by which [`Callbacks::told`] learns something.
pub(super) fn attention(export: &str) -> Vec<u32> {
    match export {
        NOTIFICATION => NAMED.iter().map(|(code, ..)| *code).collect(),
        EXTENDED_NAME => vec![INITIALIZE_PERFORMANCE],
        _ => Vec::new(),
    }
}

/// Whether the driver has asked for several concurrent channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// Its code cannot, or every call by which it could is seen and none has.
    #[default]
    No,
    /// It may have.
    Perhaps,
}

impl Callbacks {
    /// The driver under test is about to run, with these imports: whether it can ask for concurrent channels unseen.
    pub(crate) fn may_ask(&mut self, imports: &Imports, uses: &Uses, watching: &Watching) {
        let can = imports
            .get(EXTENDED)
            .is_some_and(|import| uses.may_pass(import, INITIALIZE_PERFORMANCE));
        let seen = watching.always_watches(EXTENDED_NAME);
        self.asked = if can && !seen { Asked::Perhaps } else { Asked::No };
        self.prohibited = prohibited_imports(imports);
    }

    /// How the port driver runs the driver, if that has registered.
    pub(super) fn registered_port(&self) -> Option<PortModel> {
        let mut port = PortModel::empty();
        port.set(PortModel::VIRTUAL, self.is_virtual);
        (!self.known.is_empty()).then_some(port)
    }

    /// The lock routines that the driver imports although it has registered as a physical miniport.
    pub(super) fn prohibited(&self) -> Option<Vec<String>> {
        let physical = !self.is_virtual && !self.known.is_empty();
        (physical && !self.prohibited.is_empty()).then(|| self.prohibited.clone())
    }

    /// The driver under test calls an export for something that is no lock call: it may name a callback, or ask for
    /// concurrent channels.
    pub(crate) fn told(&mut self, cpu: &impl CpuState, watch: &Watch, driver: &ModuleInfo) {
        if self.known.is_empty() {
            return;
        }
        let registers = cpu.registers();
        let code = registers.rcx() as u32;
        let is_of = |name: &str| watch.names.iter().any(|own| own == name);
        if is_of(NOTIFICATION) {
            let named = NAMED.iter().find(|(number, ..)| *number == code);
            let Some(&(_, fourth, callback)) = named else { return };
            let pointer = if fourth { registers.r9() } else { registers.r8() };
            if driver.contains(pointer) {
                self.note(cpu, pointer, callback);
            }
        } else if is_of(EXTENDED_NAME) && asks_for_channels(cpu) {
            self.asked = Asked::Perhaps;
        }
    }

    /// The export by which the driver may ask for concurrent channels is called, by whomever, and no lock call is looked for
    /// there. Whether that is to be waited for still.
    pub(super) fn asked_or_not(&mut self, cpu: &impl CpuState) -> bool {
        let calls = self.waited_for.map_or(CALLS, |calls| calls.saturating_add(1));
        self.waited_for = Some(calls);
        let registers = cpu.registers();
        let initializes = registers.rcx() as u32 == INITIALIZE_PERFORMANCE && registers.rdx() == self.adapter;
        if calls >= CALLS || (initializes && asks_for_channels(cpu)) {
            self.asked = Asked::Perhaps;
        }
        self.asked == Asked::No
    }

    /// What the checker has to know of the first adapter of the driver, for a call that takes the lock of a message, or one that may
    /// be that of the interrupt, if that is news. The driver sets the mode in HwStorFindAdapter, so nothing is known there.
    pub(crate) fn port_of(
        &mut self,
        cpu: &impl CpuState,
        names: &mut Names,
        driver: &ModuleInfo,
        call: &LockCall,
    ) -> Option<PortTold> {
        let enough = match call.operand {
            LockOperand::Msi { .. } => self.port_told.is_some_and(|port| port.contains(PortModel::PER_MESSAGE)),
            LockOperand::StorPort { kind, .. } => {
                self.port_told.is_some() || !matches!(kind, START_IO_LOCK | INTERRUPT_LOCK)
            }
            _ => true,
        };
        let adapter = call.operand.adapter().filter(|&adapter| adapter == self.adapter)?;
        if enough || self.known.is_empty() || !driver.contains(call.context.return_address) {
            return None;
        }
        let port = self.model(cpu, Some(adapter));
        let news = port.contains(PortModel::MODE_KNOWN) && self.port_told != Some(port);
        if !news || self.calling(cpu, names, driver, false) == Some(Callback::HwStorFindAdapter) {
            return None;
        }
        self.port_told = Some(port);
        Some(PortTold { adapter, port })
    }

    /// The same when the machine has stopped for good, and a callback that has acquired a lock is over: of a lock that was taken
    /// in HwStorFindAdapter nothing has been told.
    pub(crate) fn port_at_end(&mut self, memory: &impl GuestMemory) -> Option<PortTold> {
        let adapter = self.adapter;
        let port = self.model(memory, Some(adapter));
        let news = self.port_told.is_none() && !self.known.is_empty() && port.contains(PortModel::MODE_KNOWN);
        self.port_told = self.port_told.or(news.then_some(port));
        news.then_some(PortTold { adapter, port })
    }

    /// The callback that makes an acquire, if the port driver holds the lock around that callback, or may.
    pub(crate) fn making(
        &mut self,
        cpu: &impl CpuState,
        names: &mut Names,
        driver: &ModuleInfo,
        call: &LockCall,
    ) -> Option<(InCallback, PortHold)> {
        let asks = matches!(call.operand, LockOperand::StorPort { .. } | LockOperand::Msi { .. });
        let acquires = contract(call.routine).role == Role::Acquire;
        if !asks || !acquires || self.known.is_empty() || !driver.contains(call.context.return_address) {
            return None;
        }
        let callback = self.calling(cpu, names, driver, false)?;
        let told = |port| InCallback {
            callback,
            port,
            context: call.context,
        };
        let hold = |port| callback.port_hold(port, &call.operand, call.context.irql);
        let mut port = self.model(cpu, call.operand.adapter());
        if hold(port) == PortHold::No || self.calling(cpu, names, driver, true) != Some(callback) {
            return None;
        }
        // A call would have left a frame of the driver outside of this one.
        self.coming(cpu, driver);
        let coming = self.coming.iter().flat_map(|(_, all)| all);
        let mut known = self.known.iter().zip(coming);
        let jumped_to = known.any(|(known, coming)| known.callback == Some(callback) && coming.jump);
        port.set(PortModel::CALLED_BY_DRIVER, jumped_to);
        Some((told(port), hold(port)))
    }

    /// What is known of the port driver's ways with an adapter of the driver.
    pub(crate) fn model(&self, memory: &impl GuestMemory, adapter: Option<u64>) -> PortModel {
        let field = |offset: u64| memory.read_u32(self.config?.checked_add(offset)?).ok();
        let duplex = field(SYNCHRONIZATION_MODEL).filter(|&model| model <= FULL_DUPLEX);
        let mode = field(INTERRUPT_MODE).filter(|&mode| mode <= PER_MESSAGE);
        let mut port = PortModel::empty();
        port.set(PortModel::VIRTUAL, self.is_virtual);
        let first_only = self.waited_for.is_some() && adapter != Some(self.adapter);
        port.set(PortModel::MAY_BE_CONCURRENT, self.asked == Asked::Perhaps || first_only);
        let configured = duplex.zip(mode).filter(|_| adapter == Some(self.adapter));
        if let Some((duplex, mode)) = configured {
            port.set(PortModel::HALF_DUPLEX, duplex == HALF_DUPLEX);
            port.set(PortModel::PER_MESSAGE, mode == PER_MESSAGE);
            port.insert(PortModel::MODE_KNOWN);
        }
        port
    }
}

impl Callbacks {
    /// How code of the driver itself may come to the functions of the callbacks, in their order. The driver's code is decoded
    /// once for all that are known.
    pub(super) fn coming(&mut self, memory: &impl GuestMemory, driver: &ModuleInfo) -> &[Coming] {
        let known = self.coming.as_ref();
        let holds = known.is_some_and(|(base, all)| *base == driver.base && all.len() == self.known.len());
        if !holds {
            let all = self.read_coming(memory, driver);
            self.coming = Some((driver.base, all));
        }
        self.coming.as_ref().map_or(&[], |(_, all)| all)
    }

    fn read_coming(&self, memory: &impl GuestMemory, driver: &ModuleInfo) -> Vec<Coming> {
        let Ok(image) = Image::read(memory, driver.base) else {
            return vec![Coming::UNTOLD; self.known.len()];
        };
        let places = |known: &Known| image.rva(known.pointer).zip(image.rva(known.begin));
        let inside = self.known.iter().filter_map(places);
        let mut told = image_comes_to(memory, &image, inside).into_iter();
        let one = |known: &Known| places(known).and_then(|_| told.next());
        self.known
            .iter()
            .map(one)
            .map(|told| told.unwrap_or(Coming::UNTOLD))
            .collect()
    }
}

/// Whether a call of the export that does that asks for several concurrent channels, or may.
fn asks_for_channels(cpu: &impl CpuState) -> bool {
    let registers = cpu.registers();
    if registers.rcx() as u32 != INITIALIZE_PERFORMANCE || registers.r8() as u8 != 0 {
        return false;
    }
    let field = |offset| registers.r9().checked_add(offset).and_then(|at| cpu.read_u32(at).ok());
    match (field(FLAGS), field(CHANNELS)) {
        (Some(flags), Some(channels)) => flags & CONCURRENT != 0 && channels > 1,
        _ => true,
    }
}
