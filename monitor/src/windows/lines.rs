//! Lines of source by address, from any kind of debugging information.
//!
//! Talks to nothing. It must not know formats. A file may claim any number of lines and names, so there is a limit on
//! what is kept.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Rows and file names that are kept of one image, and bytes of these names. Drivers have some 10,000 rows.
const MAX_ROWS: usize = 1 << 19;
const MAX_FILES: usize = 1 << 14;
const MAX_NAMES: usize = 4 << 20;

/// The lines of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LineTable {
    files: Vec<String>,
    /// Address relative to the image's base, index of the file, line: from there to the next row. Line 0: no line. Sorted.
    rows: Vec<(u32, u32, u32)>,
}

impl LineTable {
    /// File and line of an address.
    pub(super) fn find(&self, rva: u32) -> Option<(&str, u32)> {
        let after = self.rows.partition_point(|&(start, ..)| start <= rva);
        let &(_, file, line) = self.rows.get(after.checked_sub(1)?)?;
        let file = self.files.get(file as usize)?;
        (line != 0).then_some((file.as_str(), line))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A table that is being read.
#[derive(Debug, Default)]
pub(super) struct LineTableBuilder {
    table: LineTable,
    numbers: HashMap<String, u32>,
    names: usize,
}

impl LineTableBuilder {
    /// The number of a file; `None` if there is no room for its name.
    pub(super) fn file(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.table.files.len() >= MAX_FILES || self.names + name.len() > MAX_NAMES {
            return None;
        }
        self.names += name.len();
        let number = self.table.files.len() as u32;
        self.table.files.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }

    /// From this address on it is that line; `None`: no line. False if there is no room for more.
    pub(super) fn row(&mut self, rva: u32, line: Option<(u32, u32)>) -> bool {
        if self.table.rows.len() >= MAX_ROWS {
            return false;
        }
        let (file, line) = line.unwrap_or((0, 0));
        self.table.rows.push((rva, file, line));
        true
    }

    /// The table. Of rows with one address the last counts, but an end never covers the beginning of what follows.
    pub(super) fn finish(mut self) -> LineTable {
        let rows = &mut self.table.rows;
        rows.sort_by_key(|&(rva, _, line)| (rva, line != 0));
        let mut kept: Vec<(u32, u32, u32)> = Vec::with_capacity(rows.len());
        for &row in rows.iter() {
            match kept.last_mut() {
                Some(last) if last.0 == row.0 => *last = row,
                Some(last) if (last.1, last.2) == (row.1, row.2) => {}
                _ => kept.push(row),
            }
        }
        kept.shrink_to_fit();
        self.table.rows = kept;
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reaches_to_the_next_row_and_not_beyond_the_end_of_its_code() {
        let mut builder = LineTableBuilder::default();
        let (a, b) = (builder.file("a.c").unwrap(), builder.file("b.c").unwrap());
        assert_eq!(builder.file("a.c"), Some(a));
        builder.row(0x30, None);
        builder.row(0x10, Some((a, 7)));
        builder.row(0x20, Some((b, 9)));
        // Another function begins where one ends.
        builder.row(0x20, None);
        let table = builder.finish();
        assert_eq!(table.find(0xf), None);
        assert_eq!(table.find(0x1f), Some(("a.c", 7)));
        assert_eq!(table.find(0x20), Some(("b.c", 9)));
        assert_eq!(table.find(0x30), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut builder = LineTableBuilder::default();
        let long = "x".repeat(1 << 20);
        let taken = (0..8).filter(|n| builder.file(&format!("{n}{long}")).is_some()).count();
        assert_eq!(taken, 3);
        let rows = (0..1 << 20).filter(|n| builder.row(*n, Some((0, 1)))).count();
        assert_eq!(rows, MAX_ROWS);
    }
}
