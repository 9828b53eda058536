//! Reads a Windows x64 guest from outside: images, the kernel, its modules, its processors, its stacks.
//!
//! Everything here works on [`GuestMemory`](crate::vmi::GuestMemory) and on what any Windows x64 guest shows: PE
//! headers, exports, documented structure fields. It must not know locks, KVM or how the guest was stopped. The guest
//! is hostile: every size, count and link read from it is bounded before it is used.

pub mod arguments;
pub mod caller;
pub mod code_view;
mod coff;
pub(crate) mod debug_print;
pub(crate) mod debugger_data;
mod dwarf;
pub mod exports;
pub mod file;
pub mod image;
pub mod imports;
pub mod kernel;
mod lines;
pub mod modules;
mod pages;
pub mod pdb;
pub mod processor;
pub(crate) mod shared_user_data;
mod strings;
pub mod symbols;
pub mod unwind;

pub use caller::{Attribution, Caller, UnknownReason, attribute};
pub use code_view::CodeView;
pub use debugger_data::{DebuggerData, DebuggerDataError};
pub use exports::{Export, ExportTarget, Exports};
pub use file::FileImage;
pub use image::{Directory, Image, ImageError, Section};
pub use imports::{Import, ImportName, Imports};
pub(crate) use kernel::KERNEL;
pub use kernel::{Kernel, KernelError, Witness};
pub use modules::{Module, ModuleListError, Modules};
pub use processor::{Processor, ProcessorError};
pub use shared_user_data::SharedUserData;
pub use symbols::{Location, SymbolTable, Symbols};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
