//! Functions and lines of a driver, from its PDB: the public symbols, and the procedures and lines of each compiled
//! file ("C13 line information").
//!
//! Talks to an open file. It must not know what names are for. Every number is checked before it is used, and there is
//! a limit on what is kept. Streams of compiled files are read one after the other.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::msf::{Msf, u16_at, u32_at};
use super::sections::Sections;
use super::{
    DEBUG_INFORMATION, HEADER, INFORMATION, INFORMATION_GUID, INFORMATION_HEAD, NO_STREAM, PARTS, PdbError, SYMBOLS,
    further_streams, publics,
};
use crate::windows::lines::{LineTable, LineTableBuilder};
use crate::windows::strings::printable;
use crate::windows::symbols::Symbol;

/// The list of compiled files, in bytes, and how many of them are read.
const MAX_LIST: u32 = 16 << 20;
const MAX_COMPILED: usize = 1 << 14;
/// The stream of one compiled file, and those of all together.
const MAX_STREAM: u32 = 32 << 20;
const MAX_STREAMS: u64 = 512 << 20;
/// The table of strings, and the list of named streams that names it.
const MAX_STRINGS: u32 = 32 << 20;
const MAX_NAMED: u32 = 1 << 16;
/// Functions that are kept, and bytes of their names; the longest name.
const MAX_FUNCTIONS: usize = 1 << 17;
const MAX_NAMES: usize = 16 << 20;
const MAX_NAME: usize = 1024;
/// Names of source files that are looked up in one compiled file.
const MAX_LOOKUPS: usize = 1 << 14;

/// Fields of a compiled file in the list, whose names follow it.
const COMPILED: usize = 64;
const COMPILED_STREAM: usize = 34;
const COMPILED_SYMBOLS: usize = 36;
const COMPILED_C11: usize = 40;
const COMPILED_C13: usize = 44;
/// What the name of the table of strings is.
const NAMES: &[u8] = b"/names";
const NAMES_HEAD: usize = 12;

/// Procedures: offset, section and name in the record.
const PROCEDURES: [u16; 4] = [0x110f, 0x1110, 0x1146, 0x1147];
const PROCEDURE_OFFSET: usize = 32;
const PROCEDURE_SECTION: usize = 36;
const PROCEDURE_NAME: usize = 39;

/// Parts of line information: kind, length, contents.
const PART: usize = 8;
const LINES: u32 = 0xf2;
const CHECKSUMS: u32 = 0xf4;
const LINES_HEAD: usize = 12;
const BLOCK_HEAD: usize = 12;
/// The bits of a line's number, and numbers that say that there is none.
const LINE: u32 = 0x00ff_ffff;
const NO_LINE: [u32; 2] = [0x00fe_efee, 0x00f0_0f00];

/// What a driver's PDB says of its code.
#[derive(Debug)]
pub struct DriverPdb {
    /// The GUID as the image that it belongs to has it.
    pub(crate) guid: [u8; 16],
    pub(in crate::windows) functions: Vec<Symbol>,
    pub(in crate::windows) lines: LineTable,
}

impl DriverPdb {
    /// Reads which image a PDB belongs to, and nothing else.
    ///
    /// # Errors
    /// [`PdbError`].
    pub(crate) fn guid(file: impl Read + Seek) -> Result<[u8; 16], PdbError> {
        guid(&mut Msf::open(file)?)
    }

    /// Reads a PDB. What cannot be read of a compiled file is left out.
    ///
    /// # Errors
    /// [`PdbError`] if it is none, or has no list of sections: no address can be told then.
    pub fn read(file: impl Read + Seek) -> Result<Self, PdbError> {
        let mut pdb = Msf::open(file)?;
        let guid = guid(&mut pdb)?;
        let mut header = [0; HEADER];
        pdb.read(DEBUG_INFORMATION, 0, &mut header)?;
        let streams = further_streams(&mut pdb, &header)?;
        let sections = Sections::read(&mut pdb, &streams)?;
        let mut reader = Reader {
            sections,
            strings: strings(&mut pdb).unwrap_or_default(),
            functions: Vec::new(),
            names: 0,
            lines: LineTableBuilder::default(),
        };
        reader.publics(&mut pdb, &header)?;
        reader.compiled_files(&mut pdb, &header)?;
        Ok(Self {
            guid,
            functions: reader.functions,
            lines: reader.lines.finish(),
        })
    }
}

fn guid(pdb: &mut Msf<impl Read + Seek>) -> Result<[u8; 16], PdbError> {
    let mut head = [0; INFORMATION_HEAD];
    pdb.read(INFORMATION, 0, &mut head)?;
    let guid = head.get(INFORMATION_GUID..).and_then(<[u8]>::first_chunk).copied();
    Ok(guid.unwrap_or_default())
}

/// The table of strings that names of source files are in.
fn strings(pdb: &mut Msf<impl Read + Seek>) -> Result<Vec<u8>, PdbError> {
    let length = pdb.size(INFORMATION).min(INFORMATION_HEAD as u32 + MAX_NAMED);
    let mut bytes = vec![0; length as usize];
    pdb.read(INFORMATION, 0, &mut bytes)?;
    let named = bytes.get(INFORMATION_HEAD..).and_then(named_stream);
    let stream = named.ok_or_else(|| PdbError::malformed("it has no table of strings"))?;
    pdb.whole(stream, MAX_STRINGS, "a table of strings")
}

/// The number of the stream `/names`: a buffer of names and, behind it, a hash table of (place in the buffer, stream).
fn named_stream(bytes: &[u8]) -> Option<u16> {
    let length = u32_at(bytes, 0)? as usize;
    let names = bytes.get(4..)?.get(..length)?;
    let table = bytes.get(4 + length..)?;
    let size = (u32_at(table, 0)? as usize).min(MAX_NAMED as usize / 8);
    // Two sets of bits, of the places in use and of those that were: each a number of words and the words.
    let mut at = 8;
    for _ in 0..2 {
        at += 4 + 4 * u32_at(table, at)? as usize;
    }
    (0..size).find_map(|entry| {
        let (name, stream) = (
            u32_at(table, at + 8 * entry)? as usize,
            u32_at(table, at + 8 * entry + 4)?,
        );
        let is_it = names.get(name..)?.strip_prefix(NAMES)?.first() == Some(&0);
        u16::try_from(stream).ok().filter(|_| is_it)
    })
}

/// A zero-terminated name at the front of some bytes, without what may act on a terminal.
fn name(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    printable(bytes.get(..end).unwrap_or_default())
}

struct Reader {
    sections: Sections,
    strings: Vec<u8>,
    functions: Vec<Symbol>,
    names: usize,
    lines: LineTableBuilder,
}

impl Reader {
    fn function(&mut self, section: u16, offset: u32, rank: u8, bytes: &[u8]) {
        let name = name(bytes);
        let room = self.functions.len() < MAX_FUNCTIONS && self.names + name.len() <= MAX_NAMES;
        if let (Some(rva), true, false) = (self.sections.place(section, offset), room, name.is_empty()) {
            self.names += name.len();
            self.functions.push(Symbol { rva, rank, name });
        }
    }

    fn publics(&mut self, pdb: &mut Msf<impl Read + Seek>, header: &[u8; HEADER]) -> Result<(), PdbError> {
        let stream = u16_at(header, SYMBOLS).unwrap_or(NO_STREAM);
        // A procedure of the same address has the better name: without decoration.
        publics(pdb, stream, |name, section, offset| {
            self.function(section, offset, 2, name);
        })
    }

    fn compiled_files(&mut self, pdb: &mut Msf<impl Read + Seek>, header: &[u8; HEADER]) -> Result<(), PdbError> {
        let [first, ..] = PARTS;
        let length = u32_at(header, first).unwrap_or(0);
        if length > MAX_LIST {
            return Err(PdbError::malformed(format!(
                "a list of compiled files of {length} bytes"
            )));
        }
        let mut list = vec![0; length as usize];
        pdb.read(DEBUG_INFORMATION, HEADER as u32, &mut list)?;
        let (mut at, mut read) = (0, 0_u64);
        for _ in 0..MAX_COMPILED {
            let Some(entry) = list.get(at..).filter(|rest| rest.len() >= COMPILED) else {
                break;
            };
            let names = entry.get(COMPILED..).unwrap_or_default();
            let mut ends = names
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == 0)
                .map(|(place, _)| place + 1);
            let Some(names) = ends.nth(1) else { break };
            at = (at + COMPILED + names).next_multiple_of(4);
            let stream = u16_at(entry, COMPILED_STREAM).unwrap_or(NO_STREAM);
            read += u64::from(pdb.size(stream));
            if read > MAX_STREAMS {
                break;
            }
            if stream == NO_STREAM {
                continue;
            }
            let Ok(bytes) = pdb.whole(stream, MAX_STREAM, "a compiled file") else {
                continue;
            };
            let sizes =
                [COMPILED_SYMBOLS, COMPILED_C11, COMPILED_C13].map(|at| u32_at(entry, at).unwrap_or(0) as usize);
            self.compiled_file(&bytes, sizes);
        }
        Ok(())
    }

    /// A stream: a signature and symbols, lines of an old form, lines.
    fn compiled_file(&mut self, bytes: &[u8], [symbols, old, lines]: [usize; 3]) {
        self.procedures(bytes.get(4..symbols).unwrap_or_default());
        let lines = symbols
            .checked_add(old)
            .and_then(|start| bytes.get(start..start.checked_add(lines)?))
            .unwrap_or_default();
        let checksums = parts(lines)
            .find(|(kind, _)| *kind == CHECKSUMS)
            .map(|(_, part)| part)
            .unwrap_or_default();
        let mut files = HashMap::new();
        for (_, part) in parts(lines).filter(|(kind, _)| *kind == LINES) {
            if self.line_part(part, checksums, &mut files).is_none() {
                return;
            }
        }
    }

    fn procedures(&mut self, mut bytes: &[u8]) {
        while let Some(length) = u16_at(bytes, 0) {
            let Some((record, rest)) = bytes.split_at_checked(2 + usize::from(length)) else {
                return;
            };
            bytes = rest;
            let kind = u16_at(record, 2);
            if !kind.is_some_and(|kind| PROCEDURES.contains(&kind)) {
                continue;
            }
            if let (Some(offset), Some(section), Some(name)) = (
                u32_at(record, PROCEDURE_OFFSET),
                u16_at(record, PROCEDURE_SECTION),
                record.get(PROCEDURE_NAME..),
            ) {
                self.function(section, offset, 0, name);
            }
        }
    }

    /// The lines of one piece of code; `None` if there is no room for more.
    fn line_part(&mut self, part: &[u8], checksums: &[u8], files: &mut HashMap<u32, Option<u32>>) -> Option<()> {
        let (Some(start), Some(section), Some(size)) = (u32_at(part, 0), u16_at(part, 4), u32_at(part, 8)) else {
            return Some(());
        };
        let mut blocks = part.get(LINES_HEAD..).unwrap_or_default();
        while let (Some(file), Some(count), Some(length)) = (u32_at(blocks, 0), u32_at(blocks, 4), u32_at(blocks, 8)) {
            let length = (length as usize).max(BLOCK_HEAD);
            let Some((block, rest)) = blocks.split_at_checked(length) else {
                break;
            };
            blocks = rest;
            if files.len() >= MAX_LOOKUPS && !files.contains_key(&file) {
                continue;
            }
            let number = *files.entry(file).or_insert_with(|| {
                let place = u32_at(checksums, file as usize)?;
                let place = NAMES_HEAD.checked_add(place as usize)?;
                self.lines.file(&name(self.strings.get(place..)?))
            });
            let rows = block
                .get(BLOCK_HEAD..)
                .unwrap_or_default()
                .chunks_exact(8)
                .take(count as usize);
            for row in rows {
                let (Some(offset), Some(line)) = (u32_at(row, 0), u32_at(row, 4)) else {
                    continue;
                };
                let line = Some(line & LINE).filter(|line| *line != 0 && !NO_LINE.contains(line));
                let Some(rva) = start
                    .checked_add(offset)
                    .and_then(|at| self.sections.place(section, at))
                else {
                    continue;
                };
                let known = line.and_then(|line| Some((number?, line)));
                if !self.lines.row(rva, known) {
                    return None;
                }
            }
        }
        let end = start.checked_add(size).and_then(|at| self.sections.place(section, at));
        if let Some(end) = end {
            self.lines.row(end, None);
        }
        Some(())
    }
}

/// Parts of line information, by kind.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, length) = (u32_at(bytes, 0)?, u32_at(bytes, 4)? as usize);
        let part = bytes.get(PART..)?.get(..length)?;
        let next = PART.checked_add(length)?.next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind, part))
    })
}
