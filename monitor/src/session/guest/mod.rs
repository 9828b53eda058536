//! What is known of the guest so far: its kernel, its modules, the names in them.
//!
//! Talks to the readers of Windows structures. It must not know which module is under test, what is watched, or what a
//! call means.

mod imports;
mod modules;
mod names;

use std::collections::HashMap;

use storlock_check::contract::{CONTRACTS, SystemModule};

pub(crate) use self::modules::{ModuleId, ModuleMap};
pub(crate) use self::names::Names;
use super::config::Config;
use crate::report::{BugCheck, ModuleInfo};
use crate::vmi::GuestMemory;
use crate::windows::{Exports, Image, Imports, Kernel, Module, ModuleListError, Modules};

/// The exported record of a bug check: code and four parameters.
const BUG_CHECK_DATA: &str = "KiBugCheckData";

/// A bug check code has 32 bits, and the variable that holds one has 64.
fn bug_check_code(variable: u64) -> u64 {
    u64::from(variable as u32)
}

/// By what the head of the module list was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListWitness {
    /// The kernel exports it.
    Export,
    /// The first driver object.
    DriverObject,
    /// The debugger data block.
    DebuggerData,
    /// Both of these.
    Both,
}

impl std::fmt::Display for ListWitness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Export => "the kernel's export",
            Self::DriverObject => "the first driver object",
            Self::DebuggerData => "the debugger data block (KDBG)",
            Self::Both => "the first driver object and the debugger data block (KDBG)",
        })
    }
}

/// What is known of the guest.
#[derive(Debug)]
pub(crate) struct Guest {
    kernel: Option<Kernel>,
    names: Names,
    list_witness: Option<ListWitness>,
    /// As of the last reading of the list.
    modules: ModuleMap,
}

impl Guest {
    /// Nothing is known but the names in the files that the run was started with.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            kernel: None,
            names: Names::new(config.symbols.clone()),
            list_witness: None,
            modules: ModuleMap::new(&config.target),
        }
    }

    /// The machine starts again: no image is where it was.
    pub(crate) fn forget(&mut self) {
        self.kernel = None;
        self.names.set_list(None);
        self.list_witness = None;
        self.modules.replace([]);
    }

    /// The kernel was found.
    pub(crate) fn set_kernel(&mut self, kernel: Kernel) {
        self.kernel = Some(kernel);
    }

    /// The head of the module list was found. Nothing is read yet.
    pub(crate) fn set_module_list(&mut self, head: u64, witness: ListWitness) {
        self.names.set_list(Some(Modules::new(head)));
        self.list_witness = Some(witness);
    }

    /// By what the head of the module list was found.
    pub(crate) fn list_witness(&self) -> Option<ListWitness> {
        self.list_witness
    }

    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// Base address of the kernel, 0 if it is not known.
    pub(crate) fn kernel_base(&self) -> u64 {
        self.kernel.as_ref().map_or(0, |kernel| kernel.image.base)
    }

    /// Address of an export of the kernel.
    pub(crate) fn kernel_export(&self, name: &str) -> Option<u64> {
        self.kernel.as_ref()?.address_of(name)
    }

    pub(crate) fn modules(&self) -> &ModuleMap {
        &self.modules
    }

    /// For replays of event traces, which tell the modules one by one.
    pub(crate) fn modules_mut(&mut self) -> &mut ModuleMap {
        &mut self.modules
    }

    /// The modules as the report lists them.
    pub(crate) fn module_list(&self) -> Vec<ModuleInfo> {
        self.modules.all().cloned().collect()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn names_mut(&mut self) -> &mut Names {
        &mut self.names
    }

    /// Whether modules were loaded since the list was last read.
    pub(crate) fn list_has_grown(&self, memory: &impl GuestMemory) -> bool {
        self.names.list().is_some_and(|list| list.has_grown(memory))
    }

    /// Whether the module list is another than when it was read last, as far as a call shows that returns to this address.
    pub(crate) fn list_has_changed(&self, memory: &impl GuestMemory, return_address: u64) -> bool {
        let Some(list) = self.names.list() else { return false };
        let unknown = self.modules.find(return_address).is_none();
        list.has_grown(memory) || unknown && list.last_was_replaced(memory)
    }

    /// Reads the module list again, and takes the modules from it.
    pub(crate) fn refresh_modules(&mut self, memory: &impl GuestMemory) {
        if let Err(error) = self.refresh_list(memory) {
            tracing::debug!("{error}");
        }
        self.settle_modules();
    }

    /// Reads the module list again; without one there is nothing to read.
    ///
    /// # Errors
    /// As [`Modules::refresh`]; what was read before is kept.
    pub(crate) fn refresh_list(&mut self, memory: &impl GuestMemory) -> Result<(), ModuleListError> {
        self.names.list_mut().map_or(Ok(()), |list| list.refresh(memory))
    }

    /// Takes the modules from the list as it was last read.
    pub(crate) fn settle_modules(&mut self) {
        if let Some(list) = self.names.list() {
            self.modules.replace(list.known().iter().map(ModuleInfo::from));
        }
    }

    /// The modules as the guest's own list had them when it was last read; `None` if no list is known.
    pub(crate) fn listed(&self) -> Option<&[Module]> {
        self.names.list().map(Modules::listed)
    }

    /// The modules of the list as it was last read, with those that are pinned; `None` if no list is known.
    pub(crate) fn known(&self) -> Option<&[Module]> {
        self.names.list().map(Modules::known)
    }

    /// Takes a module to be where it is, whatever the list says, until [`Guest::unpin`].
    pub(crate) fn pin(&mut self, module: Module) {
        if let Some(list) = self.names.list_mut() {
            list.pin(module);
        }
    }

    /// Takes the list's word again for what is at this base.
    pub(crate) fn unpin(&mut self, base: u64) {
        if let Some(list) = self.names.list_mut() {
            list.unpin(base);
        }
    }

    /// Headers and exports of a loaded module.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub(crate) fn exports_of(&self, memory: &impl GuestMemory, module: &str) -> Result<(Image, Exports), String> {
        let (info, _) = self
            .modules
            .by_name(module)
            .ok_or_else(|| format!("{module} is not loaded"))?;
        let image = Image::read(memory, info.base).map_err(|error| format!("{module}: {error}"))?;
        let exports = Exports::read(memory, &image).map_err(|error| format!("{module}: {error}"))?;
        Ok((image, exports))
    }

    /// Where the guest's exports of lock routines are.
    pub(crate) fn lock_exports(&self, memory: &impl GuestMemory) -> HashMap<u64, (SystemModule, &'static str)> {
        let storport = self.exports_of(memory, SystemModule::Storport.file_name()).ok();
        let address = |module, export: &str| match module {
            SystemModule::Ntoskrnl => self.kernel_export(export),
            SystemModule::Storport => {
                let (image, exports) = storport.as_ref()?;
                Some(image.address(exports.rva(export)?))
            }
        };
        let rows = CONTRACTS.iter();
        rows.filter_map(|row| Some((address(row.module, row.export)?, (row.module, row.export))))
            .collect()
    }

    /// Gives the imports of the driver at `base` the names that they turn out to have. What keeps none is not known; what is
    /// known to be no lock routine is left out.
    pub(crate) fn recognise(&self, memory: &impl GuestMemory, base: u64, imports: &Imports) -> Imports {
        imports::recognise(self, memory, base, imports)
    }

    /// The bug check that the kernel has recorded.
    pub(crate) fn bug_check(&self, memory: &impl GuestMemory) -> Option<BugCheck> {
        let address = self.kernel_export(BUG_CHECK_DATA)?;
        let field = |index: u64| memory.read_u64(address.checked_add(index * 8)?).ok();
        let code = field(0).map(bug_check_code).filter(|&code| code != 0)?;
        Some(BugCheck {
            code,
            parameters: [field(1)?, field(2)?, field(3)?, field(4)?],
        })
    }

    /// Whether the kernel has recorded a bug check.
    pub(crate) fn has_bug_checked(&self, memory: &impl GuestMemory) -> bool {
        let address = self.kernel_export(BUG_CHECK_DATA);
        address.is_some_and(|address| memory.read_u64(address).is_ok_and(|code| bug_check_code(code) != 0))
    }
}

impl From<&Module> for ModuleInfo {
    fn from(module: &Module) -> Self {
        Self {
            name: module.name.clone(),
            base: module.base,
            size: u64::from(module.size),
        }
    }
}

impl ModuleInfo {
    /// Whether the address lies in the module.
    pub(crate) fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.size
    }
}
