//! Finds the module that an address lies in, and remembers the modules across hits.
//!
//! Talks to nothing: the session fills it from the guest's module list. It must not know what an address is used for. A
//! module keeps its number when the list is read again, so that counters can be kept by number.

use crate::report::{Location, ModuleInfo};

/// Names that have a number of their own; all others share one. The guest chooses names, so their number is bounded.
const LIMIT: usize = 1024;

/// Number of a module name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModuleId(u16);

impl ModuleId {
    /// Addresses in no known module.
    pub(crate) const UNKNOWN: Self = Self(0);
    /// Modules beyond the limit.
    pub(crate) const OTHERS: Self = Self(1);

    /// As an index into an array, below 1026.
    #[must_use]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Back from [`ModuleId::index`].
    #[must_use]
    pub(crate) fn from_index(index: usize) -> Self {
        Self(u16::try_from(index).unwrap_or(0))
    }
}

/// Modules known so far, by base address. They do not overlap.
#[derive(Debug)]
pub(crate) struct ModuleMap {
    modules: Vec<(ModuleInfo, ModuleId)>,
    names: Vec<String>,
}

impl ModuleMap {
    /// A map that knows no module yet. The driver under test has a number of its own however many names come before it.
    pub(crate) fn new(target: &str) -> Self {
        Self {
            modules: Vec::new(),
            names: vec!["(unknown)".to_owned(), "(others)".to_owned(), target.to_owned()],
        }
    }

    /// Replaces what is known. Of two that overlap the one listed first is kept: the guest may lie.
    pub(crate) fn replace(&mut self, modules: impl IntoIterator<Item = ModuleInfo>) {
        self.modules.clear();
        for module in modules {
            self.insert(module);
        }
    }

    /// Adds a module unless it overlaps one that is known.
    fn insert(&mut self, module: ModuleInfo) {
        let Some(end) = module.base.checked_add(module.size) else {
            return;
        };
        let place = self.modules.partition_point(|(m, _)| m.base < module.base);
        let before = place.checked_sub(1).and_then(|i| self.modules.get(i));
        let free_before = before.is_none_or(|(m, _)| m.base + m.size <= module.base);
        let free_after = self.modules.get(place).is_none_or(|(m, _)| end <= m.base);
        if free_before && free_after && module.size > 0 {
            let id = self.number(&module.name);
            self.modules.insert(place, (module, id));
        }
    }

    fn number(&mut self, name: &str) -> ModuleId {
        let known = self.names.iter_mut().enumerate();
        if let Some((index, known)) = { known }.find(|(_, known)| known.eq_ignore_ascii_case(name)) {
            // As the guest spells it.
            name.clone_into(known);
            return ModuleId::from_index(index);
        }
        if self.names.len() >= LIMIT {
            return ModuleId::OTHERS;
        }
        self.names.push(name.to_owned());
        ModuleId::from_index(self.names.len() - 1)
    }

    /// The module that holds `address`, and its number.
    #[must_use]
    pub(crate) fn find(&self, address: u64) -> Option<(&ModuleInfo, ModuleId)> {
        let after = self.modules.partition_point(|(m, _)| m.base <= address);
        let (module, id) = self.modules.get(after.checked_sub(1)?)?;
        (address - module.base < module.size).then_some((module, *id))
    }

    /// Module and offset of an address that is `before` bytes behind the one that counts.
    pub(crate) fn locate(&self, address: u64, before: u64) -> Location {
        let mut location = Location::unknown(address);
        if let Some((module, _)) = self.find(address.wrapping_sub(before)) {
            location.module = Some(module.name.clone());
            location.offset = Some(address - module.base);
        }
        location
    }

    /// Adds a module, in place of any that it overlaps.
    pub(crate) fn add(&mut self, module: ModuleInfo) {
        let end = module.base.saturating_add(module.size);
        self.modules
            .retain(|(m, _)| m.base >= end || module.base >= m.base + m.size);
        if self.modules.len() < LIMIT {
            self.insert(module);
        }
    }

    /// Takes the module at this address away.
    pub(crate) fn remove(&mut self, base: u64) {
        self.modules.retain(|(module, _)| module.base != base);
    }

    /// The first module of this name, whatever the case, and its number.
    #[must_use]
    pub(crate) fn by_name(&self, name: &str) -> Option<(&ModuleInfo, ModuleId)> {
        self.modules
            .iter()
            .find(|(m, _)| m.name.eq_ignore_ascii_case(name))
            .map(|(m, id)| (m, *id))
    }

    /// The name behind a number.
    #[must_use]
    pub(crate) fn name(&self, id: ModuleId) -> &str {
        self.names.get(id.index()).map_or("(unknown)", String::as_str)
    }

    /// All modules by base address.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ModuleInfo> {
        self.modules.iter().map(|(m, _)| m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, base: u64, size: u64) -> ModuleInfo {
        ModuleInfo {
            name: name.to_owned(),
            base,
            size,
        }
    }

    #[test]
    fn an_address_belongs_to_the_module_around_it_and_to_no_other() {
        let mut map = ModuleMap::new("a.sys");
        map.replace([module("b.sys", 0x3000, 0x1000), module("a.sys", 0x1000, 0x1000)]);
        assert_eq!(map.find(0x1000).unwrap().0.name, "a.sys");
        assert_eq!(map.find(0x1fff).unwrap().0.name, "a.sys");
        assert!(map.find(0x2000).is_none());
        assert!(map.find(0xfff).is_none());
        assert_eq!(map.by_name("B.SYS").unwrap().0.base, 0x3000);
    }

    #[test]
    fn overlapping_wrapping_and_empty_entries_are_left_out() {
        let mut map = ModuleMap::new("a.sys");
        map.replace([
            module("a.sys", 0x1000, 0x1000),
            module("overlaps", 0x1800, 0x1000),
            module("wraps", u64::MAX - 1, 0x1000),
            module("empty", 0x9000, 0),
        ]);
        assert_eq!(map.all().count(), 1);
    }

    #[test]
    fn the_driver_under_test_has_its_own_number_behind_any_number_of_names() {
        let mut map = ModuleMap::new("target.sys");
        let other = |index: u64| module(&format!("{index}.sys"), index << 16, 0x1000);
        map.replace((1..2000).map(other).chain([module("Target.SYS", 5000 << 16, 0x1000)]));
        let (_, others) = map.by_name("1999.sys").unwrap();
        let (_, target) = map.by_name("target.sys").unwrap();
        assert_eq!(others, ModuleId::OTHERS);
        assert_ne!(target, others);
        assert_eq!(map.name(target), "Target.SYS");
    }

    #[test]
    fn a_module_keeps_its_number_when_the_list_is_read_again() {
        let mut map = ModuleMap::new("a.sys");
        map.replace([module("a.sys", 0x1000, 0x1000)]);
        let (_, id) = map.by_name("a.sys").unwrap();
        map.replace([module("new.sys", 0x0, 0x1000), module("a.sys", 0x8000, 0x1000)]);
        assert_eq!(map.find(0x8000).unwrap().1, id);
        assert_eq!(map.name(id), "a.sys");
    }
}
