//! The guest's modules as gdb asks for them (`qXfer:libraries:read`).
//!
//! gdb loads a module's symbols from a file and moves them to the address of its first section (gdb manual, "Library
//! List Format"). It only makes text.

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
        known.map_or_else(|| file_name(module), |(_, path)| path.display().to_string())
    }
}

/// A module's name as one that names no directory, whatever the guest has chosen: gdb opens files by it. Separators, the
/// colon of `target:` and of drives, a tilde in front, and control characters are replaced.
fn file_name(module: &str) -> String {
    let plain = |(place, character): (usize, char)| match character {
        '/' | '\\' | ':' => '_',
        '~' if place == 0 => '_',
        control if control.is_control() => '_',
        other => other,
    };
    let name: String = module.chars().enumerate().map(plain).collect();
    let name = name.trim();
    if name.chars().all(|character| character == '.') {
        return "(no name)".to_owned();
    }
    name.to_owned()
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
            list.contains("name=\"a&quot;_&gt;&lt;b&gt;&amp;&apos;_.sys\""),
            "{list}"
        );
        assert!(list.contains("address=\"0x2000\""), "{list}");
    }

    #[test]
    fn a_module_s_name_is_no_path_on_this_machine() {
        let files = SymbolFiles::default();
        for (name, path) in [
            ("/etc/passwd", "_etc_passwd"),
            ("..\\..\\x.sys", ".._.._x.sys"),
            ("../x.sys", ".._x.sys"),
            ("target:/proc/self/mem", "target__proc_self_mem"),
            ("C:x.sys", "C_x.sys"),
            ("~root", "_root"),
            ("a~1.sys", "a~1.sys"),
            ("..", "(no name)"),
            ("", "(no name)"),
            ("  ", "(no name)"),
            ("a\u{1b}[2J\n.sys", "a_[2J_.sys"),
            ("nvme.sys", "nvme.sys"),
        ] {
            assert_eq!(files.path(name), path);
        }
    }

    #[test]
    fn symbols_come_from_the_file_that_is_known() {
        let files = SymbolFiles(vec![("NVME.sys".to_owned(), "/images/debug/nvme.sys".into())]);
        assert_eq!(files.path("nvme.SYS"), "/images/debug/nvme.sys");
        assert_eq!(files.path("other.sys"), "other.sys");
    }
}
