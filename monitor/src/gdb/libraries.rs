//! The guest's modules as gdb asks for them (`qXfer:libraries:read`).
//!
//! gdb loads a module's symbols from a file and moves them to the address of its first section (gdb manual, "Library
//! List Format"). Plain text making.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::session::debugger::LoadedModule;

/// Files on this machine that have the symbols of modules, by the modules' names.
#[derive(Debug, Clone, Default)]
pub struct SymbolFiles(pub Vec<(String, PathBuf)>);

impl SymbolFiles {
    /// Where gdb should look for a module's symbols: a file that is known, else the module's own name, which gdb looks
    /// up in its `solib-search-path`.
    fn path(&self, module: &str) -> String {
        let known = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(module));
        known.map_or_else(|| module.to_owned(), |(_, path)| path.display().to_string())
    }
}

/// The list.
pub(crate) fn xml(modules: &[LoadedModule], files: &SymbolFiles) -> String {
    let mut xml = "<?xml version=\"1.0\"?><library-list version=\"1.0\">".to_owned();
    for module in modules {
        let name = escape(&files.path(&module.name));
        // Writing to a string cannot fail.
        let _ = write!(
            xml,
            "<library name=\"{name}\"><segment address=\"{:#x}\"/></library>",
            module.first_section
        );
    }
    xml.push_str("</library-list>");
    xml
}

/// The guest chooses the names.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&apos;"),
            hostile if crate::escape::is_hostile(hostile) => text.push('?'),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_module_name_stays_a_name() {
        let module = LoadedModule {
            name: "a\"/><b>&'\n.sys".to_owned(),
            base: 0x1000,
            size: 0x1000,
            first_section: 0x2000,
        };
        let list = xml(&[module], &SymbolFiles::default());
        assert!(
            list.contains("name=\"a&quot;/&gt;&lt;b&gt;&amp;&apos;?.sys\""),
            "{list}"
        );
        assert!(list.contains("address=\"0x2000\""), "{list}");
    }

    #[test]
    fn symbols_come_from_the_file_that_is_known() {
        let files = SymbolFiles(vec![("NVME.sys".to_owned(), "/images/debug/nvme.sys".into())]);
        assert_eq!(files.path("nvme.SYS"), "/images/debug/nvme.sys");
        assert_eq!(files.path("other.sys"), "other.sys");
    }
}
