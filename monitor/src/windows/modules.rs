//! The guest's loaded modules, from `PsLoadedModuleList`.
//!
//! Windows 10 and later export the head of the list. Where it is not exported, any entry leads to it: the links form a
//! ring, and the head is the one place of the ring that lies in the kernel's own data. Each entry is an
//! `LDR_DATA_TABLE_ENTRY`. The list is empty until the kernel's initialisation fills it, so modules are looked up when they
//! are needed, and read again when an address is in none of those known. Talks to [`GuestMemory`]. It must not know which
//! module matters.

use std::collections::HashMap;

use super::image::{Image, ImageError};
use crate::escape;
use crate::vmi::{GuestMemory, ReadError};

/// Offset of `Blink` in a `LIST_ENTRY`.
const BLINK: u64 = 8;
// LDR_DATA_TABLE_ENTRY, x64.
/// Offset of `DllBase` in an entry.
pub(crate) const DLL_BASE: u64 = 0x30;
const BASE_DLL_NAME: u64 = 0x58;
const ENTRY_BYTES: usize = 0x68;
/// A machine with thousands of drivers does not exist; a list that long is damaged or a loop.
const MAX_MODULES: usize = 4096;
/// The longest file name, in bytes of UTF-16.
const MAX_NAME: usize = 520;
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// Why the list ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModuleListError {
    /// The head is zero: the kernel has not set up the list yet.
    #[error("the module list is not set up yet")]
    NotYet,
    /// A link or an entry cannot be read.
    #[error("the module list breaks after {after} entries: {source}")]
    Unreadable {
        /// Entries read before.
        after: usize,
        /// What cannot be read.
        source: ReadError,
    },
    /// A link leads back to an entry other than the head, to no kernel address, or the list is too long.
    #[error("the module list is damaged after {0} entries")]
    Damaged(usize),
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its file name, without a path; unprintable characters are escaped.
    pub name: String,
    /// Guest virtual address of its image.
    pub base: u64,
    /// Bytes it takes.
    pub size: u32,
}

impl Module {
    /// The address relative to the module's base, if it lies in the module.
    #[must_use]
    pub fn rva(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.base)?;
        u32::try_from(offset).ok().filter(|&rva| rva < self.size)
    }

    /// Whether this is the module of that file name; case does not matter, as in Windows.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether the two share addresses.
    #[must_use]
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let end = |module: &Self| module.base.saturating_add(u64::from(module.size));
        self.base < end(other) && other.base < end(self)
    }

    /// Reads its headers.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn image(&self, memory: &(impl GuestMemory + ?Sized)) -> Result<Image, ImageError> {
        Image::read(memory, self.base)
    }
}

/// The modules that were in the list when it was last read, in load order.
#[derive(Debug, Clone, Default)]
pub struct Modules {
    head: u64,
    /// The head's backward link when the list was last read: the entry inserted last. 0: not read yet.
    last: u64,
    /// That entry's `DllBase`.
    last_base: u64,
    /// As the guest has it.
    listed: Vec<Module>,
    /// As it is taken to be: the pinned modules, and of what the guest lists all that is not in their place.
    list: Vec<Module>,
    /// The kernel, which is there before the list is.
    kernel: Option<Module>,
    /// Modules that stay in their place whatever the guest's list says of it.
    pinned: Vec<Module>,
    headers: HashMap<u64, Option<Image>>,
}

impl Modules {
    /// A list that is read through the head at this address, the export `PsLoadedModuleList`. Nothing is read yet.
    #[must_use]
    pub fn new(head: u64) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }

    /// As [`Modules::new`], with the kernel known from the start: its own list is empty for a while.
    #[cfg(test)]
    pub(crate) fn with_kernel(head: u64, kernel: &Image) -> Self {
        let module = Module {
            name: super::KERNEL.into(),
            base: kernel.base,
            size: kernel.size,
        };
        let headers = HashMap::from([(kernel.base, Some(kernel.clone()))]);
        Self {
            head,
            listed: vec![module.clone()],
            list: vec![module.clone()],
            kernel: Some(module),
            headers,
            ..Self::default()
        }
    }

    /// Reads the list again. What is read before an error is kept: a list that another processor is changing at this
    /// moment, or a damaged one, still names most modules.
    ///
    /// # Errors
    /// [`ModuleListError`] if the list does not end at its head.
    pub fn refresh(&mut self, memory: &(impl GuestMemory + ?Sized)) -> Result<(), ModuleListError> {
        let mut list = Vec::new();
        self.last = memory.read_u64(self.head.wrapping_add(BLINK)).unwrap_or(0);
        self.last_base = base_of(memory, self.last);
        let result = walk(memory, self.head, &mut list);
        let listed = |kernel: &&Module| list.iter().any(|module| module.base == kernel.base);
        if let Some(kernel) = self.kernel.as_ref().filter(|kernel| !listed(kernel)) {
            list.insert(0, kernel.clone());
        }
        if result.is_ok() || list.len() >= self.listed.len() {
            self.listed = list;
            self.settle();
        }
        result
    }

    /// Puts the list together from what the guest has and what is pinned.
    fn settle(&mut self) {
        // Each where the list has something in its place, in load order, or else behind all.
        let mut pinned = self.pinned.clone();
        let mut list = Vec::new();
        for listed in &self.listed {
            let mut places = pinned.iter();
            if let Some(place) = places.position(|pinned| pinned.overlaps(listed)) {
                list.push(pinned.remove(place));
            } else if !self.pinned.iter().any(|pinned| pinned.overlaps(listed)) {
                list.push(listed.clone());
            }
        }
        list.append(&mut pinned);
        // Headers are kept for modules that are still where they were.
        let same = |base: &u64| {
            list.iter()
                .any(|module| module.base == *base && self.list.contains(module))
        };
        self.headers.retain(|base, headers| headers.is_some() && same(base));
        self.list = list;
    }

    /// Takes a module to be where it is now, under this name, until [`Modules::unpin`]: a driver can change its entry of
    /// the guest's list.
    pub fn pin(&mut self, module: Module) {
        self.pinned.retain(|pinned| !pinned.overlaps(&module));
        self.pinned.push(module);
        self.settle();
    }

    /// Takes the guest's word again for what is at the base of a pinned module.
    pub(crate) fn unpin(&mut self, base: u64) {
        self.pinned.retain(|pinned| pinned.base != base);
        self.settle();
    }

    /// The modules as the guest's own list had them when it was last read.
    #[must_use]
    pub(crate) fn listed(&self) -> &[Module] {
        &self.listed
    }

    /// The modules known.
    #[must_use]
    pub fn known(&self) -> &[Module] {
        &self.list
    }

    /// The known module of that file name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Module> {
        self.list.iter().find(|module| module.is_named(name))
    }

    /// The known module that the address lies in.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<&Module> {
        self.list.iter().find(|module| module.rva(address).is_some())
    }

    /// The headers of the module that the address lies in, read once per module.
    pub(crate) fn image_at(&mut self, memory: &(impl GuestMemory + ?Sized), address: u64) -> Option<&Image> {
        let module = self.find(memory, address)?.clone();
        let headers = self
            .headers
            .entry(module.base)
            .or_insert_with(|| module.image(memory).ok());
        headers.as_ref().filter(|image| image.rva(address).is_some())
    }

    /// Whether the entry inserted last is another one than when the list was read. Modules are inserted at the end, so
    /// that this one read sees each of them come, but none go that was not the last.
    pub(crate) fn has_grown(&self, memory: &(impl GuestMemory + ?Sized)) -> bool {
        memory
            .read_u64(self.head.wrapping_add(BLINK))
            .is_ok_and(|last| last != 0 && last != self.last)
    }

    /// Whether the entry inserted last describes another image than when the list was read: the memory of an entry that
    /// was taken out may serve for the next one.
    pub(crate) fn last_was_replaced(&self, memory: &(impl GuestMemory + ?Sized)) -> bool {
        self.last != 0 && base_of(memory, self.last) != self.last_base
    }

    /// The module that the address lies in; the list is read again if none of those known contains it and another
    /// module was loaded since.
    pub fn find(&mut self, memory: &(impl GuestMemory + ?Sized), address: u64) -> Option<&Module> {
        if self.at(address).is_none() && self.has_grown(memory) {
            // Whatever could be read is what there is to search.
            let _ = self.refresh(memory);
        }
        self.at(address)
    }
}

/// The head of the list that has the `entry`, of a module at `base`: where the ring of links passes through the kernel's
/// writable data. `None` if the entry is none of that module, or if the ring does not lead through the kernel once and back.
#[must_use]
pub(crate) fn head_of_list(memory: &(impl GuestMemory + ?Sized), entry: u64, base: u64, kernel: &Image) -> Option<u64> {
    let is_head = |address: u64| {
        let section = kernel.rva(address).and_then(|rva| kernel.section(rva));
        section.is_some_and(|section| section.is_writable() && !section.is_executable())
    };
    if entry < LOWEST_KERNEL_ADDRESS || base_of(memory, entry) != base {
        return None;
    }
    let (mut at, mut head, mut has_kernel) = (entry, None, base == kernel.base);
    for _ in 0..=MAX_MODULES {
        let next = memory.read_u64(at).ok().filter(|&next| next >= LOWEST_KERNEL_ADDRESS)?;
        // A ring is linked both ways: memory that only looks like an entry is not.
        if memory.read_u64(next.checked_add(BLINK)?) != Ok(at) {
            return None;
        }
        if next == entry {
            return head.filter(|_| has_kernel);
        }
        if is_head(next) {
            if head.replace(next).is_some() {
                return None;
            }
        } else {
            has_kernel |= base_of(memory, next) == kernel.base;
        }
        at = next;
    }
    None
}

/// `DllBase` of the entry at this address, 0 if it cannot be read.
fn base_of(memory: &(impl GuestMemory + ?Sized), entry: u64) -> u64 {
    memory.read_u64(entry.wrapping_add(DLL_BASE)).unwrap_or(0)
}

fn walk(memory: &(impl GuestMemory + ?Sized), head: u64, list: &mut Vec<Module>) -> Result<(), ModuleListError> {
    let unreadable = |after| move |source| ModuleListError::Unreadable { after, source };
    let mut entry = memory.read_u64(head).map_err(unreadable(0))?;
    if entry == 0 {
        return Err(ModuleListError::NotYet);
    }
    // Brent's method: a mark that moves ahead by powers of two meets any loop that does not lead through the head.
    let (mut mark, mut steps, mut limit) = (head, 0usize, 1usize);
    for index in 0..MAX_MODULES {
        if entry == head {
            return Ok(());
        }
        if entry < LOWEST_KERNEL_ADDRESS || entry == mark || entry.checked_add(ENTRY_BYTES as u64).is_none() {
            return Err(ModuleListError::Damaged(index));
        }
        if steps == limit {
            (mark, steps, limit) = (entry, 0, limit * 2);
        }
        steps += 1;
        let mut bytes = [0; ENTRY_BYTES];
        memory.read(entry, &mut bytes).map_err(unreadable(index))?;
        if let Some(module) = parse_entry(memory, &bytes) {
            list.push(module);
        }
        entry = field_u64(&bytes, 0);
    }
    Err(ModuleListError::Damaged(MAX_MODULES))
}

/// An entry as a module; `None` for one that has no image (yet).
fn parse_entry(memory: &(impl GuestMemory + ?Sized), bytes: &[u8; ENTRY_BYTES]) -> Option<Module> {
    let base = field_u64(bytes, DLL_BASE);
    let size = field_u64(bytes, DLL_BASE + 0x10) as u32;
    let length = usize::from(field_u64(bytes, BASE_DLL_NAME) as u16) & !1;
    let buffer = field_u64(bytes, BASE_DLL_NAME + 8);
    if base < LOWEST_KERNEL_ADDRESS || size == 0 || base.checked_add(u64::from(size)).is_none() {
        return None;
    }
    let mut name = vec![0; length.min(MAX_NAME)];
    let name = match memory.read(buffer, &mut name) {
        Ok(()) => utf16(&name),
        Err(_) => String::from("?"),
    };
    Some(Module { name, base, size })
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let decoded = char::decode_utf16(units).map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER));
    escape::line(&decoded.collect::<String>()).into_owned()
}

fn field_u64(bytes: &[u8; ENTRY_BYTES], offset: u64) -> u64 {
    bytes
        .get(offset as usize..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |field| u64::from_le_bytes(*field))
}
