//! Names and lines for addresses: from exports, from the COFF symbols and the DWARF that some linkers leave in a file,
//! and from PDBs.
//!
//! Talks to the module list and the readers of these. It must not know what the names are shown for. A name is the
//! nearest one at or below the address in the same section, with the distance: a hint, not a claim that the address
//! belongs to that routine. If the image's unwind tables show that the address belongs to another routine, it has no
//! name.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::code_view::CodeView;
use super::coff;
use super::dwarf;
use super::exports::{ExportTarget, Exports};
use super::file::FileImage;
use super::image::Image;
use super::lines::LineTable;
use super::modules::Modules;
use super::pdb::DriverPdb;
use super::unwind::Function;
use crate::vmi::GuestMemory;

/// Modules whose names are kept; a guest may show any number of them.
const MAX_READ: usize = 64;
/// Names that are kept of modules as the guest has them, all together; a Windows kernel exports some 3000.
const MAX_NAMES: usize = 1 << 18;

/// How far behind an export an address may be to be called by its name, in bytes. Few routines of a kernel are longer; what
/// lies further behind belongs to routines that are not exported.
const EXPORT_REACH: u32 = 0x1000;
/// The same for other names; a file that has them has most functions.
const REACH: u32 = 0x1_0000;

/// A name and where it is, relative to the image's base. Sorted by address; of names at one address the best is first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Symbol {
    pub(super) rva: u32,
    /// 0 for a function, [`DOCUMENTED`] or [`UNDOCUMENTED`] for an export, 2 for anything else.
    pub(super) rank: u8,
    pub(super) name: String,
}

/// Ranks of exports.
const DOCUMENTED: u8 = 1;
const UNDOCUMENTED: u8 = 3;

/// What documented routines of kernel and port drivers begin with. An export of the same code with another prefix (`Kf`, `Ki`,
/// `Exf`, `Nt`) is what a header's macro or the system itself calls.
const DOCUMENTED_PREFIXES: [&str; 20] = [
    "Ke", "Ex", "Io", "Mm", "Ob", "Ps", "Po", "Rtl", "Se", "Zw", "Hal", "Cc", "Cm", "FsRtl", "Dbg", "Etw", "Wmi", "Kd",
    "StorPort", "Tm",
];

/// Whether the name is one of a documented routine that drivers call: a documented prefix and then a word.
fn looks_documented(name: &str) -> bool {
    let rests = DOCUMENTED_PREFIXES
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix));
    let mut words = rests.map(|rest| rest.starts_with(|letter: char| letter.is_ascii_uppercase()));
    words.any(|is_word| is_word)
}

/// The names of one image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Symbols {
    /// Sorted by address.
    #[serde(rename = "symbols")]
    names: Vec<Symbol>,
    /// Sections as (first, end), so that no name reaches into another section.
    sections: Vec<(u32, u32)>,
    /// Lines of source.
    #[serde(default, skip_serializing_if = "LineTable::is_empty")]
    lines: LineTable,
}

impl Symbols {
    /// The names that an image exports.
    #[must_use]
    pub fn from_exports(image: &Image, exports: &Exports) -> Self {
        let symbol = |export: &super::Export| match (&export.name, &export.target) {
            (Some(name), ExportTarget::Rva(rva)) => Some(Symbol {
                rva: *rva,
                rank: if looks_documented(name) {
                    DOCUMENTED
                } else {
                    UNDOCUMENTED
                },
                name: name.clone(),
            }),
            _ => None,
        };
        Self::new(image, exports.entries().iter().filter_map(symbol).collect())
    }

    /// The names in a file: its exports and its COFF symbols. What cannot be read of them is left out.
    #[must_use]
    pub fn from_file(file: &FileImage) -> Self {
        let image = file.image();
        let exports = Exports::read(file, image).unwrap_or_default();
        let mut symbols = Self::from_exports(image, &exports).names;
        symbols.extend(coff::symbols(file));
        let dwarf = dwarf::read(file);
        symbols.extend(dwarf.functions);
        Self {
            lines: dwarf.lines,
            ..Self::new(image, symbols)
        }
    }

    /// These, and what the PDB of the same build says.
    #[must_use]
    pub(crate) fn with_pdb(self, pdb: DriverPdb) -> Self {
        let Self {
            names: mut symbols,
            sections,
            lines,
        } = self;
        symbols.extend(pdb.functions);
        symbols.sort();
        symbols.dedup_by_key(|symbol| symbol.rva);
        let lines = if lines.is_empty() { pdb.lines } else { lines };
        Self {
            names: symbols,
            sections,
            lines,
        }
    }

    /// What a PDB says, without the image that it belongs to.
    #[must_use]
    pub fn from_pdb(pdb: DriverPdb) -> Self {
        let whole = Self {
            sections: vec![(0, u32::MAX)],
            ..Self::default()
        };
        whole.with_pdb(pdb)
    }

    /// File and line of source of an address.
    #[must_use]
    pub fn line(&self, rva: u32) -> Option<(&str, u32)> {
        self.lines.find(rva)
    }

    fn new(image: &Image, mut symbols: Vec<Symbol>) -> Self {
        symbols.sort();
        symbols.dedup_by_key(|symbol| symbol.rva);
        let sections = image
            .sections
            .iter()
            .map(|section| (section.rva, section.rva.saturating_add(section.size)));
        Self {
            names: symbols,
            sections: sections.collect(),
            lines: LineTable::default(),
        }
    }

    /// The name nearest to an address at or below it, and the distance in bytes.
    #[must_use]
    pub fn nearest(&self, rva: u32) -> Option<(&str, u32)> {
        let behind = self.names.partition_point(|symbol| symbol.rva <= rva);
        let symbol = self.names.get(behind.checked_sub(1)?)?;
        let (first, end) = self
            .sections
            .iter()
            .copied()
            .find(|&(first, end)| (first..end).contains(&rva))?;
        // A recording's symbols need not be sorted.
        let distance = rva.checked_sub(symbol.rva)?;
        let reach = if symbol.rank == DOCUMENTED || symbol.rank == UNDOCUMENTED {
            EXPORT_REACH
        } else {
            REACH
        };
        (distance < reach && (first..end).contains(&symbol.rva)).then_some((symbol.name.as_str(), distance))
    }
}

/// An address as people want to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The address.
    pub address: u64,
    /// File name of its module and the offset there; `None` if it is in no known module.
    pub module: Option<(String, u32)>,
    /// The nearest name and the distance from it.
    pub symbol: Option<(String, u32)>,
    /// File and line of source.
    pub source: Option<(String, u32)>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((module, offset)) = &self.module else {
            return write!(f, "{:#x}", self.address);
        };
        write!(f, "{module}+{offset:#x}")?;
        match &self.symbol {
            Some((name, 0)) => write!(f, " ({name})"),
            Some((name, distance)) => write!(f, " ({name}+{distance:#x})"),
            None => Ok(()),
        }
    }
}

/// The names of all modules of a guest, each read when it is first needed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SymbolTable {
    files: Vec<(String, Image, Symbols)>,
    /// Of images whose files are not known, by the GUID that names the PDB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pdbs: Vec<([u8; 16], Symbols)>,
    /// By base and size, so that another module loaded at the same base is not given the old names.
    #[serde(skip)]
    read: HashMap<(u64, u32), Names>,
}

/// Where the names of a module are.
#[derive(Debug, Clone)]
enum Names {
    /// With those of the file that has this place in the list.
    File(usize),
    /// Those of the PDB that has this place in the list.
    Pdb(usize),
    /// They are what it exports.
    Exports(Symbols),
}

impl Names {
    fn count(&self) -> usize {
        match self {
            Self::File(_) | Self::Pdb(_) => 0,
            Self::Exports(symbols) => symbols.names.len(),
        }
    }
}

/// A name and the distance from it in bytes; or a file and a line in it.
pub type Near<'a> = (&'a str, u32);

impl SymbolTable {
    /// Names of an image that may be loaded under `name`. Used only if the loaded image is the same build as `image`.
    pub fn add(&mut self, name: &str, image: &Image, symbols: Symbols) {
        self.files.push((name.to_owned(), image.clone(), symbols));
    }

    /// What a PDB says, for the image that names it, if one is loaded whose file is not known.
    pub(crate) fn add_pdb(&mut self, pdb: DriverPdb) {
        self.pdbs.push((pdb.guid, Symbols::from_pdb(pdb)));
    }

    /// Nearest name, and file and line, of an address in the file of a module of that name and size. It is not made sure that the
    /// guest has loaded that very file.
    #[must_use]
    pub(crate) fn in_file(&self, module: &str, size: u64, rva: u32) -> (Option<Near<'_>>, Option<Near<'_>>) {
        let is_it =
            |file: &&(String, Image, Symbols)| file.0.eq_ignore_ascii_case(module) && u64::from(file.1.size) == size;
        let file = self.files.iter().find(is_it);
        file.map_or((None, None), |(.., symbols)| (symbols.nearest(rva), symbols.line(rva)))
    }

    /// Module, offset and nearest name of an address.
    pub(crate) fn locate(
        &mut self,
        memory: &(impl GuestMemory + ?Sized),
        modules: &mut Modules,
        address: u64,
    ) -> Location {
        let Some(module) = modules.find(memory, address).cloned() else {
            return Location {
                address,
                module: None,
                symbol: None,
                source: None,
            };
        };
        let offset = (address - module.base) as u32;
        let (files, pdbs) = (&self.files, &self.pdbs);
        let held: usize = self.read.values().map(Names::count).sum();
        if self.read.len() >= MAX_READ || held >= MAX_NAMES {
            self.read.clear();
        }
        let names = self.read.entry((module.base, module.size)).or_insert_with(|| {
            let Some(image) = modules.image_at(memory, address) else {
                return Names::Exports(Symbols::default());
            };
            let same = |file: &(String, Image, Symbols)| module.is_named(&file.0) && is_same_build(&file.1, image);
            if let Some(place) = files.iter().position(same) {
                return Names::File(place);
            }
            if !pdbs.is_empty()
                && let Some(named) = CodeView::read(memory, image)
                && let Some(place) = pdbs.iter().position(|(guid, _)| *guid == named.guid)
            {
                return Names::Pdb(place);
            }
            let exports = Exports::read(memory, image).unwrap_or_default();
            Names::Exports(Symbols::from_exports(image, &exports))
        });
        let none = Symbols::default();
        let symbols = match names {
            Names::File(place) => files.get(*place).map_or(&none, |(_, _, symbols)| symbols),
            Names::Pdb(place) => pdbs.get(*place).map_or(&none, |(_, symbols)| symbols),
            Names::Exports(symbols) => symbols,
        };
        let symbol = symbols
            .nearest(offset)
            .map(|(name, distance)| (name.to_owned(), distance));
        let image = modules.image_at(memory, address);
        let symbol =
            symbol.filter(|&(_, distance)| image.is_none_or(|image| is_one_function(memory, image, address, distance)));
        Location {
            address,
            module: Some((module.name, offset)),
            symbol,
            source: symbols.line(offset).map(|(file, line)| (file.to_owned(), line)),
        }
    }
}

/// Whether the code at `address` and that at `distance` before it may be of one function: the image's unwind tables tell where
/// the function of the address begins. Code without an entry there, such as a leaf function, may be of any.
fn is_one_function(memory: &(impl GuestMemory + ?Sized), image: &Image, address: u64, distance: u32) -> bool {
    let function = Function::find(memory, image, address).ok().flatten();
    let Some((part, rva)) = function.zip(image.rva(address)) else {
        return true;
    };
    let named = rva.saturating_sub(distance);
    let whole = part.primary(memory, image).unwrap_or(part);
    named >= part.begin || (whole.begin..whole.end).contains(&named)
}

fn is_same_build(file: &Image, loaded: &Image) -> bool {
    (file.size, file.time_date_stamp, file.check_sum, file.entry_point)
        == (
            loaded.size,
            loaded.time_date_stamp,
            loaded.check_sum,
            loaded.entry_point,
        )
}
