//! Reads the COFF symbol table that some linkers leave in an image's file (PE format, "COFF Symbol Table").
//!
//! Talks to the file's bytes. It must not know what the names are for. Many symbols may point into one string, so a
//! small file could make very many long names: there is a limit on what is kept.

use super::file::FileImage;
use super::image::Image;
use super::strings::{c_string_in, printable};
use super::symbols::Symbol;

/// Bytes of a symbol record.
const RECORD: usize = 18;
/// Records that are looked at in one file.
const MAX_RECORDS: usize = 1 << 20;
/// Symbols that are kept of one file: a kernel has some ten thousand.
pub(super) const MAX_SYMBOLS: usize = 1 << 18;
/// Bytes of names that are kept of one file, escaped. With an average of 64 they suffice for all symbols.
pub(super) const MAX_NAMES: usize = 16 << 20;
/// The longest name, in bytes.
const MAX_NAME: usize = 1024;
const CLASS_EXTERNAL: u8 = 2;
const CLASS_STATIC: u8 = 3;
/// Derived type "function", in the bits above the base type.
const TYPE_FUNCTION: u16 = 0x20;

/// The symbols of a file that lie in its sections; those beyond the limits are left out.
pub(super) fn symbols(file: &FileImage) -> Vec<Symbol> {
    let (offset, count) = file.image().symbol_table;
    let (offset, count) = (offset as usize, count as usize);
    let Some(records) = file.data().get(offset..).filter(|_| offset != 0) else {
        return Vec::new();
    };
    let strings = count
        .checked_mul(RECORD)
        .and_then(|length| records.get(length..))
        .unwrap_or_default();
    let mut symbols = Vec::new();
    let mut room = MAX_NAMES;
    let mut auxiliary = 0;
    for record in records.chunks_exact(RECORD).take(count.min(MAX_RECORDS)) {
        if auxiliary > 0 {
            auxiliary -= 1;
            continue;
        }
        auxiliary = usize::from(record[17]);
        let Some(symbol) = symbol(file.image(), record, strings) else {
            continue;
        };
        let Some(left) = room
            .checked_sub(symbol.name.len())
            .filter(|_| symbols.len() < MAX_SYMBOLS)
        else {
            break;
        };
        room = left;
        symbols.push(symbol);
    }
    symbols
}

fn symbol(image: &Image, record: &[u8], strings: &[u8]) -> Option<Symbol> {
    let field = |at: usize| record.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let section = usize::from(u16::from_le_bytes(*record.get(12..)?.first_chunk()?));
    let kind = u16::from_le_bytes(*record.get(14..)?.first_chunk()?);
    let class = *record.get(16)?;
    // Sections count from 1; 0 and the numbers from 0xfffe on are no sections.
    let section = image.sections.get(section.checked_sub(1)?)?;
    let name = if field(0)? == 0 {
        c_string_in(strings, field(4)? as usize, MAX_NAME)?
    } else {
        let short = record.get(..8)?;
        let end = short.iter().position(|&byte| byte == 0).unwrap_or(short.len());
        printable(&short[..end])
    };
    let rva = section
        .rva
        .checked_add(field(8)?)
        .filter(|&rva| section.contains(rva))?;
    let is_label = matches!(class, CLASS_EXTERNAL | CLASS_STATIC) && !name.is_empty() && !name.starts_with('.');
    let rank = if kind == TYPE_FUNCTION { 0 } else { 2 };
    is_label.then_some(Symbol { rva, rank, name })
}
