//! The callbacks that the driver under test has registered with the port driver: at `StorPortInitialize`, and in the
//! configuration that its `HwStorFindAdapter` fills in. With them a stack shows which callback runs.
//!
//! If the lock routines leave a debug register, it waits for these two calls when the driver starts, then for one by which
//! the driver asks for concurrent channels, if that is not seen anyway, and is then given back. Talks to the guest's structures and to the processor that stopped. It must not know what follows for a lock.

mod port;
mod running;

use storlock_check::contract::{Callback, PortModel, SystemModule};
use storlock_check::event::{EventKind, PortTold};

use self::port::{Asked, EXTENDED};
use self::running::Frames;
pub(crate) use self::running::function_at;
use super::entries::export_name;
use super::state::State;
use crate::report::{Location, Note};
use crate::vmi::recorder::Recorder;
use crate::vmi::{Breakpoint, CpuState, GuestMemory};
use crate::windows::arguments::Coming;
use crate::windows::unwind::Function;
use crate::windows::{Image, Imports};

/// The export by which a miniport registers.
const INITIALIZE: &str = "StorPortInitialize";
const PORT_DRIVER: &str = "storport.sys";
/// `DriverStart` of a `DRIVER_OBJECT`.
const DRIVER_START: u64 = 0x18;
/// Fields of `HW_INITIALIZATION_DATA` that are callbacks (`storport/ns-storport-_hw_initialization_data`).
const REGISTERED: [(u64, Callback); 12] = [
    (0x08, Callback::HwStorInitialize),
    (0x10, Callback::HwStorStartIo),
    (0x18, Callback::HwStorInterrupt),
    (FIND_ADAPTER, Callback::HwStorFindAdapter),
    (0x28, Callback::HwStorResetBus),
    (0x78, Callback::HwStorAdapterControl),
    (0x80, Callback::HwStorBuildIo),
    (0x88, Callback::HwStorFreeAdapterResources),
    (0x90, Callback::HwStorProcessServiceRequest),
    (0x98, Callback::HwStorCompleteServiceIrp),
    (0xb0, Callback::HwStorTracingEnabled),
    (0xc8, Callback::HwStorUnitControl),
];
const FIND_ADAPTER: u64 = 0x20;
/// `HwInitializationDataSize`, and the size of `VIRTUAL_HW_INITIALIZATION_DATA`, which ends there; `FeatureSupport` with the
/// bit that a virtual miniport sets.
const SIZE: u64 = 0;
const VIRTUAL_SIZE: u32 = 0xb0;
const FEATURE_SUPPORT: u64 = 0xb8;
const VIRTUAL_MINIPORT: u32 = 1;
/// Where `HwStorFindAdapter` has its `ConfigInfo`, above RSP at its entry: a virtual miniport's has one argument more before.
const CONFIG_INFO: u64 = 0x28;
const VIRTUAL_CONFIG_INFO: u64 = 0x30;
/// `HwMSInterruptRoutine` in `PORT_CONFIGURATION_INFORMATION`.
const MESSAGE_ROUTINE: u64 = 0x98;
/// The longest jump instruction that incremental linking puts before a function.
const JUMP: u64 = 5;
/// Functions that are known to be callbacks: a guest can name any number of them.
const LIMIT: usize = 256;

/// Values of the selector of an export of the port driver that are no lock calls, and by which the driver tells of callbacks
/// or of how the port driver is to run it: [`Callbacks::told`] wants to see these calls, all of them.
pub(super) fn attention(module: SystemModule, export: &str) -> Vec<u32> {
    port::attention(&export_name(module, export))
}

/// What a debug register waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Initialize,
    FindAdapter,
    /// A call by which the driver may ask for concurrent channels.
    Performance,
}

/// A callback's function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// Its first instruction, and the pointer that leads there.
    begin: u64,
    pointer: u64,
    /// `None`: it is the function of several callbacks, as where the linker has found them to be alike.
    callback: Option<Callback>,
}

/// The callbacks.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    wait: Option<(Breakpoint, Wait)>,
    known: Vec<Known>,
    /// How the code of the driver at that base comes to these, once somebody has asked.
    coming: Option<(u64, Vec<Coming>)>,
    is_virtual: bool,
    /// `PORT_CONFIGURATION_INFORMATION` of the adapter that was found first, and the device extension of that.
    config: Option<u64>,
    adapter: u64,
    frames: Frames,
    asked: Asked,
    /// `Some`: `asked` is what a debug register has waited for, which tells of the first adapter only; calls of that export
    /// so far.
    waited_for: Option<u32>,
    /// What the checker has been told of the first adapter.
    port_told: Option<PortModel>,
    /// Lock routines that it imports, and must not if it is a physical miniport.
    prohibited: Vec<String>,
}

impl Callbacks {
    /// Whether the breakpoint with this number waits for one of the calls.
    pub(crate) fn waits_at(&self, id: u32) -> bool {
        self.wait.is_some_and(|(breakpoint, _)| breakpoint.id == id)
    }

    /// The machine starts again.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The callback that runs on this stack: the function of the driver under test, whose image is at `base`, that the port
    /// driver or the kernel has called.
    pub(crate) fn running(&self, memory: &impl GuestMemory, base: u64, stack: &[Location]) -> Option<Callback> {
        if self.known.is_empty() {
            return None;
        }
        let image = Image::read(memory, base).ok()?;
        let own = |location: &&Location| image.rva(location.address).is_some();
        let outermost = stack
            .iter()
            .skip_while(|location| !own(location))
            .take_while(own)
            .last()?;
        let function = Function::find(memory, &image, outermost.address.wrapping_sub(1)).ok()??;
        self.at(
            memory,
            &image,
            image.address(function.primary(memory, &image).ok()?.begin),
        )
    }

    /// The callback whose function begins there.
    fn at(&self, memory: &impl GuestMemory, image: &Image, begin: u64) -> Option<Callback> {
        let known = self.known.iter().find(|known| known.begin == begin);
        let of_message = || {
            let routine = memory.read_u64(self.config?.checked_add(MESSAGE_ROUTINE)?).ok()?;
            image.rva(routine)?;
            (begins_at(memory, routine) == begin).then_some(Callback::HwStorMSInterruptRoutine)
        };
        known.map_or_else(of_message, |known| known.callback)
    }

    /// Notes a callback, to whose function the pointer leads.
    fn note(&mut self, memory: &impl GuestMemory, pointer: u64, callback: Callback) {
        let begin = begins_at(memory, pointer);
        if let Some(known) = self.known.iter_mut().find(|known| known.begin == begin) {
            if known.callback.is_some_and(|other| other != callback) {
                known.callback = None;
                self.frames.clear();
            }
        } else if self.known.len() < LIMIT {
            self.known.push(Known {
                begin,
                pointer,
                callback: Some(callback),
            });
            self.frames.clear();
        }
    }

    /// Notes the callbacks that a miniport whose image is at `base` registers; gives the address of its `HwStorFindAdapter`.
    fn registered(&mut self, memory: &impl GuestMemory, image: &Image, data: u64) -> Option<u64> {
        let field = |offset: u64| data.checked_add(offset);
        let size = memory.read_u32(field(SIZE)?).ok()?;
        let features = memory
            .read_u32(field(FEATURE_SUPPORT)?)
            .ok()
            .filter(|_| size > VIRTUAL_SIZE);
        self.is_virtual = size == VIRTUAL_SIZE || features.is_some_and(|features| features & VIRTUAL_MINIPORT != 0);
        let mut find_adapter = None;
        for (offset, callback) in REGISTERED {
            let there = offset + 8 <= u64::from(size);
            let address = field(offset).filter(|_| there).and_then(|at| memory.read_u64(at).ok());
            let Some(address) = address.filter(|&address| image.rva(address).is_some()) else {
                continue;
            };
            if offset == FIND_ADAPTER {
                find_adapter = Some(address);
            }
            self.note(memory, address, callback);
        }
        find_adapter
    }
}

/// The start of the function that a pointer leads to: incremental linking puts a jump before it.
fn begins_at(memory: &impl GuestMemory, address: u64) -> u64 {
    let mut bytes = [0; JUMP as usize];
    if memory.read(address, &mut bytes).is_err() {
        return address;
    }
    match bytes {
        [0xe9, displacement @ ..] => address
            .wrapping_add(JUMP)
            .wrapping_add_signed(i64::from(i32::from_le_bytes(displacement))),
        _ => address,
    }
}

/// Has a debug register wait for the driver's registration, if one is free.
pub(super) fn wait_for_registration(state: &mut State, cpu: &mut Recorder<'_>, imports: &Imports) {
    if imports.get(INITIALIZE).is_none() || !state.watching.has_room() {
        return;
    }
    if let Some(address) = port_export(state, &*cpu, INITIALIZE) {
        wait_at(state, cpu, Some((address, Wait::Initialize)));
    }
}

/// Where an export of the port driver is.
fn port_export(state: &State, cpu: &impl CpuState, export: &str) -> Option<u64> {
    let (image, exports) = state.guest.exports_of(cpu, PORT_DRIVER).ok()?;
    exports.rva(export).map(|rva| image.address(rva))
}

/// The next thing to wait for, if the driver may ask for concurrent channels unseen and a register can be spared.
fn wait_for_performance(state: &mut State, cpu: &Recorder<'_>) -> Option<(u64, Wait)> {
    if state.callbacks.asked == Asked::No || !state.watching.can_spare() {
        return None;
    }
    let address = port_export(state, cpu, EXTENDED)?;
    state.callbacks.asked = Asked::No;
    state.callbacks.waited_for = Some(0);
    Some((address, Wait::Performance))
}

/// The breakpoint that waits for one of the calls was hit.
pub(super) fn reached(state: &mut State, cpu: &mut Recorder<'_>) {
    let Some((_, wait)) = state.callbacks.wait else { return };
    let registers = cpu.registers();
    let Some(base) = state.target.module().map(|module| module.base) else {
        return;
    };
    let next = match wait {
        Wait::Initialize => {
            let driver = registers
                .rcx()
                .checked_add(DRIVER_START)
                .and_then(|at| cpu.read_u64(at).ok());
            if driver != Some(base) {
                return; // Another miniport.
            }
            let find_adapter = Image::read(&*cpu, base)
                .ok()
                .and_then(|image| state.callbacks.registered(&*cpu, &image, registers.r8()));
            if let Some(port) = state.callbacks.registered_port() {
                state.ledger.append(EventKind::PortTold(PortTold { adapter: 0, port }));
            }
            if let Some(routines) = state.callbacks.prohibited() {
                state.log.note_once(Note::ProhibitedImports { routines });
            }
            find_adapter.map(|address| (address, Wait::FindAdapter))
        }
        Wait::FindAdapter => {
            let offset = if state.callbacks.is_virtual {
                VIRTUAL_CONFIG_INFO
            } else {
                CONFIG_INFO
            };
            let at = registers.rsp().checked_add(offset);
            state.callbacks.adapter = registers.rcx();
            state.callbacks.config = at.and_then(|at| cpu.read_u64(at).ok());
            wait_for_performance(state, cpu)
        }
        Wait::Performance if state.callbacks.asked_or_not(&*cpu) => return,
        Wait::Performance => None,
    };
    wait_at(state, cpu, next);
}

/// Moves the breakpoint to the next call to wait for, or gives its register back.
fn wait_at(state: &mut State, cpu: &mut Recorder<'_>, next: Option<(u64, Wait)>) {
    let next = next.map(|(address, wait)| (state.watching.new_breakpoint(address), wait));
    state.callbacks.wait = next;
    let extra = next.map(|(breakpoint, _)| breakpoint);
    if let Err(error) = state.watching.set_extra(cpu, extra) {
        tracing::debug!("the driver's callbacks are not known: {error}");
        state.callbacks.wait = None;
        if state.callbacks.waited_for.is_some() {
            state.callbacks.asked = Asked::Perhaps;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::report::ModuleInfo;
    use crate::vmi::ReadError;
    use crate::vmi::fake::Space;
    use crate::windows::testing::{CODE, PeBuilder};

    const BASE: u64 = 0x1_4000_0000;
    const TEXT: u64 = BASE + 0x1000;

    /// Counts how often all of the code is read.
    struct Counting(Space, Cell<u32>);

    impl GuestMemory for Counting {
        fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            let code = gva == TEXT && buf.len() >= 0x20;
            self.1.set(self.1.get() + u32::from(code));
            self.0.read(gva, buf)
        }
    }

    #[test]
    fn the_code_is_read_once_for_all_callbacks_that_are_known() {
        let mut image = PeBuilder::new(BASE);
        // Two functions that return, the second of which is called, and jumped to, by a third and a fourth.
        let mut code = vec![0x33, 0xc0, 0xc3, 0x33, 0xc0, 0xc3];
        code.extend([0xe8, 0xf8, 0xff, 0xff, 0xff, 0xc3]);
        code.extend([0x33, 0xc0, 0xe9, 0xf0, 0xff, 0xff, 0xff]);
        code.resize(0x40, 0xcc);
        image.section(".text", CODE, code);
        let mut space = Space::default();
        image.map(&mut space);
        let memory = Counting(space, Cell::new(0));
        let driver = ModuleInfo {
            name: "target.sys".to_owned(),
            base: BASE,
            size: 0x2000,
        };
        let mut callbacks = Callbacks::default();
        callbacks.note(&memory, TEXT, Callback::HwStorStartIo);
        callbacks.note(&memory, TEXT + 3, Callback::HwStorBuildIo);
        // It is no code of the driver, of which nothing can be told.
        callbacks.note(&memory, 0xffff_f800_0000_0000, Callback::HwStorTimer);
        let told: Vec<Coming> = callbacks.coming(&memory, &driver).to_vec();
        let both = Coming { any: true, jump: true };
        let neither = Coming {
            any: false,
            jump: false,
        };
        assert_eq!(told, [neither, both, Coming::UNTOLD]);
        callbacks.coming(&memory, &driver);
        assert_eq!(memory.1.get(), 1);
        // Another callback is known since.
        callbacks.note(&memory, TEXT + 6, Callback::HwStorInterrupt);
        assert_eq!(callbacks.coming(&memory, &driver).len(), 4);
        assert_eq!(memory.1.get(), 2);
    }
}
