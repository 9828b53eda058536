//! Functions and lines from the DWARF that some compilers leave in an image's file (DWARF 2 to 5).
//!
//! Talks to the file's bytes, through gimli. It must not know what names are for. A file comes from outside, so names
//! are truncated, and there is a limit on what is kept and on what is read repeatedly: time grows only with the size of
//! the file.

use std::collections::HashMap;

use gimli::{AttributeValue, EndianSlice, LittleEndian, Section as _, SectionId, Unit};

use super::file::FileImage;
use super::lines::{LineTable, LineTableBuilder};
use super::strings::{c_string_in, printable};
use super::symbols::Symbol;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;

/// Bytes of a record of the COFF symbol table, behind which the long names of sections are.
const RECORD: usize = 18;
/// The longest name of a section, a function or a file, in bytes.
const MAX_NAME: usize = 1024;
/// Functions that are kept, and bytes of their names.
const MAX_FUNCTIONS: usize = 1 << 16;
const MAX_NAMES: usize = 8 << 20;
/// Bytes of abbreviations that units may make the reader look at, all together: units may share a table.
const MAX_ABBREVIATIONS: usize = 1 << 30;
const MAX_UNITS: usize = 1 << 14;
/// Names of files that are looked up in one file's programs of lines.
const MAX_FILES: usize = 1 << 16;

/// What the debugging information of a file says of its code.
#[derive(Debug, Default)]
pub(super) struct DebugInfo {
    pub(super) functions: Vec<Symbol>,
    pub(super) lines: LineTable,
}

/// Reads it. What cannot be read is left out; without DWARF there is nothing.
pub(super) fn read(file: &FileImage) -> DebugInfo {
    let section = |id: SectionId| -> Result<Slice<'_>, gimli::Error> {
        Ok(EndianSlice::new(section(file, id.name()), LittleEndian))
    };
    let Ok(dwarf) = Dwarf::load(section) else {
        return DebugInfo::default();
    };
    let mut found = Found {
        base: file.image().preferred_base,
        size: file.image().size,
        functions: Vec::new(),
        names: 0,
        lines: LineTableBuilder::default(),
        files: 0,
    };
    let all = dwarf.debug_abbrev.reader().len();
    let (mut units, mut abbreviations, mut count) = (dwarf.units(), 0, 0);
    while let Ok(Some(header)) = units.next() {
        let offset = header.debug_abbrev_offset().0;
        abbreviations += all.saturating_sub(offset);
        count += 1;
        if abbreviations > MAX_ABBREVIATIONS || count > MAX_UNITS {
            break;
        }
        if let Ok(unit) = dwarf.unit(header) {
            found.functions(&dwarf, &unit);
            found.lines(&dwarf, &unit);
        }
    }
    DebugInfo {
        functions: found.functions,
        lines: found.lines.finish(),
    }
}

/// The bytes of a section; none if there is none of that name.
fn section<'a>(file: &'a FileImage, name: &str) -> &'a [u8] {
    let image = file.image();
    let (offset, count) = image.symbol_table;
    let strings = (offset as usize)
        .checked_add((count as usize).saturating_mul(RECORD))
        .filter(|_| offset != 0)
        .and_then(|start| file.data().get(start..))
        .unwrap_or_default();
    let is_named = |own: &str| match own.strip_prefix('/').and_then(|number| number.parse().ok()) {
        Some(place) => c_string_in(strings, place, MAX_NAME).as_deref() == Some(name),
        None => own == name,
    };
    let found = image.sections.iter().find(|section| is_named(&section.name));
    let bytes = found.and_then(|section| {
        let start = section.file_offset as usize;
        let length = section.file_size.min(section.size) as usize;
        file.data().get(start..start.checked_add(length)?)
    });
    bytes.unwrap_or_default()
}

struct Found {
    base: u64,
    size: u32,
    functions: Vec<Symbol>,
    names: usize,
    lines: LineTableBuilder,
    files: usize,
}

impl Found {
    /// Where an address is in the image.
    fn rva(&self, address: u64) -> Option<u32> {
        let rva = u32::try_from(address.checked_sub(self.base)?).ok()?;
        (rva < self.size).then_some(rva)
    }

    fn functions(&mut self, dwarf: &Dwarf<'_>, unit: &Unit<Slice<'_>>) {
        let mut entries = unit.entries();
        while let Ok(Some((_, entry))) = entries.next_dfs() {
            if entry.tag() != gimli::DW_TAG_subprogram {
                continue;
            }
            let name = entry.attr_value(gimli::DW_AT_name).ok().flatten();
            let Some(AttributeValue::Addr(address)) = entry.attr_value(gimli::DW_AT_low_pc).ok().flatten() else {
                continue;
            };
            let name = name.and_then(|value| string(dwarf, &value)).unwrap_or_default();
            if self.functions.len() >= MAX_FUNCTIONS || self.names + name.len() > MAX_NAMES {
                return;
            }
            if let (Some(rva), false) = (self.rva(address), name.is_empty()) {
                self.names += name.len();
                self.functions.push(Symbol { rva, rank: 0, name });
            }
        }
    }

    fn lines(&mut self, dwarf: &Dwarf<'_>, unit: &Unit<Slice<'_>>) {
        let Some(program) = unit.line_program.clone() else {
            return;
        };
        let directory = unit.comp_dir.map(|name| text(name.slice())).unwrap_or_default();
        let mut files = Files::default();
        self.inlined(dwarf, unit, program.header(), &mut files, &directory);
        let mut rows = program.rows();
        while let Ok(Some((header, row))) = rows.next_row() {
            let Some(rva) = self.rva(row.address()) else { continue };
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
            let place = line.filter(|_| !row.end_sequence()).and_then(|line| {
                let number = files.number(row.file_index(), |index| self.file(dwarf, header, index, &directory))?;
                Some((number, line))
            });
            if !self.lines.row(rva, place) {
                return;
            }
        }
    }

    /// Where a unit has functions inlined, and the lines that call them. Of a function that was inlined into one that was
    /// inlined itself the outermost call counts: it is a line of the function that the code is named after.
    fn inlined(
        &mut self,
        dwarf: &Dwarf<'_>,
        unit: &Unit<Slice<'_>>,
        header: &gimli::LineProgramHeader<Slice<'_>>,
        files: &mut Files,
        directory: &str,
    ) {
        let mut entries = unit.entries();
        let (mut depth, mut outermost) = (0_isize, None);
        while let Ok(Some((step, entry))) = entries.next_dfs() {
            depth += step;
            if outermost.is_some_and(|outermost| depth > outermost) {
                continue;
            }
            outermost = None;
            if entry.tag() != gimli::DW_TAG_inlined_subroutine {
                continue;
            }
            outermost = Some(depth);
            let line = entry.attr_value(gimli::DW_AT_call_line).ok().flatten();
            let line = line.and_then(|value| u32::try_from(value.udata_value()?).ok());
            let file = match entry.attr_value(gimli::DW_AT_call_file) {
                Ok(Some(AttributeValue::FileIndex(index))) => {
                    files.number(index, |index| self.file(dwarf, header, index, directory))
                }
                _ => None,
            };
            let (Some(file), Some(line), Ok(mut ranges)) = (file, line, dwarf.die_ranges(unit, entry)) else {
                continue;
            };
            while let Ok(Some(range)) = ranges.next() {
                let (start, end) = (self.rva(range.begin), self.rva(range.end));
                if let (Some(start), Some(end)) = (start, end)
                    && !self.lines.inlined(start, end, (file, line))
                {
                    return;
                }
            }
        }
    }

    /// The number of a file of a program of lines.
    fn file(
        &mut self,
        dwarf: &Dwarf<'_>,
        header: &gimli::LineProgramHeader<Slice<'_>>,
        index: u64,
        compiled_in: &str,
    ) -> Option<u32> {
        self.files += 1;
        if self.files > MAX_FILES {
            return None;
        }
        let file = header.file(index)?;
        let name = string(dwarf, &file.path_name())?;
        let directory = file
            .directory(header)
            .and_then(|value| string(dwarf, &value))
            .unwrap_or_default();
        let path = join(&join(compiled_in, &directory), &name);
        self.lines.file(&path)
    }
}

/// The numbers that the files of one unit's program of lines have in the table: each is looked up once.
#[derive(Default)]
struct Files(HashMap<u64, Option<u32>>);

impl Files {
    /// The number of the file with that index, which `look_up` finds if it is not known yet.
    fn number(&mut self, index: u64, look_up: impl FnOnce(u64) -> Option<u32>) -> Option<u32> {
        *self.0.entry(index).or_insert_with(|| look_up(index))
    }
}

/// A path below a directory, as compilers note them: of Windows or not.
fn join(directory: &str, path: &str) -> String {
    let is_absolute = path.starts_with(['/', '\\']) || path.get(1..2) == Some(":");
    if is_absolute || directory.is_empty() || directory == "." {
        return path.to_owned();
    }
    if path.is_empty() || path == "." {
        return directory.to_owned();
    }
    format!("{}/{path}", directory.trim_end_matches('/'))
}

/// A text of an attribute, which never costs more than its first bytes.
fn string(dwarf: &Dwarf<'_>, value: &AttributeValue<Slice<'_>>) -> Option<String> {
    let from = |section: Slice<'_>, offset: usize| Some(text(section.slice().get(offset..)?));
    match *value {
        AttributeValue::String(name) => Some(text(name.slice())),
        AttributeValue::DebugStrRef(offset) => from(*dwarf.debug_str.reader(), offset.0),
        AttributeValue::DebugLineStrRef(offset) => from(*dwarf.debug_line_str.reader(), offset.0),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    printable(bytes.get(..end).unwrap_or_default())
}
