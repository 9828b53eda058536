//! Lines of source by address, from any kind of debugging information.
//!
//! Talks to nothing. It must not know formats. A file may claim any number of lines and names, so there is a limit on
//! what is kept.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Rows and file names that are kept of one image, and bytes of these names. Drivers have some 10,000 rows.
const MAX_ROWS: usize = 1 << 19;
/// Places where a function was inlined that are kept of one image.
const MAX_INLINED: usize = 1 << 17;
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
    inlined: Vec<Inlined>,
}

/// Code of a function that was inlined into another: where it is, and the other one's line that calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inlined {
    start: u32,
    end: u32,
    call: (u32, u32),
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

    /// The addresses from `start` to before `end` are a function's that was inlined: they get the line that calls it, which
    /// belongs to the function that the code is part of. False if there is no room for more.
    pub(super) fn inlined(&mut self, start: u32, end: u32, call: (u32, u32)) -> bool {
        if self.inlined.len() >= MAX_INLINED {
            return false;
        }
        if start < end {
            self.inlined.push(Inlined { start, end, call });
        }
        true
    }

    /// The table. Of rows with one address the last counts, but an end never covers the beginning of what follows.
    pub(super) fn finish(mut self) -> LineTable {
        self.sort();
        if !self.inlined.is_empty() {
            self.put_calls();
            self.sort();
        }
        self.table.rows.shrink_to_fit();
        self.table
    }

    /// Puts the lines of calls in place of the lines of what was inlined. The rows are sorted.
    fn put_calls(&mut self) {
        self.inlined.sort_unstable();
        let rows = std::mem::take(&mut self.table.rows);
        let mut rest = rows.iter().copied().peekable();
        let mut kept = Vec::with_capacity(rows.len());
        let (mut last, mut done) = ((0, 0), 0);
        for Inlined { start, end, call } in self.inlined.drain(..) {
            // Code belongs to one call; a file that says otherwise is wrong.
            if start < done {
                continue;
            }
            while let Some((rva, file, line)) = rest.next_if(|row| row.0 < start) {
                last = (file, line);
                kept.push((rva, file, line));
            }
            kept.push((start, call.0, call.1));
            while let Some((_, file, line)) = rest.next_if(|row| row.0 <= end) {
                last = (file, line);
            }
            kept.push((end, last.0, last.1));
            done = end;
        }
        kept.extend(rest);
        self.table.rows = kept;
    }

    fn sort(&mut self) {
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
        self.table.rows = kept;
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
    fn what_was_inlined_has_the_line_of_its_call_and_nothing_else_has() {
        let mut builder = LineTableBuilder::default();
        let (a, h) = (builder.file("a.c").unwrap(), builder.file("h.h").unwrap());
        for (rva, file, line) in [
            (0x10, a, 1),
            (0x20, h, 4),
            (0x28, h, 5),
            (0x30, a, 3),
            (0x40, h, 4),
            (0x50, h, 9),
        ] {
            builder.row(rva, Some((file, line)));
        }
        builder.row(0x60, None);
        // Not in order; one overlaps another, one is empty.
        for (start, end, line) in [(0x40, 0x48, 7), (0x20, 0x30, 2), (0x2c, 0x38, 8), (0x50, 0x50, 8)] {
            assert!(builder.inlined(start, end, (a, line)));
        }
        let table = builder.finish();
        let lines =
            [0x10, 0x1f, 0x20, 0x2f, 0x30, 0x3f, 0x40, 0x47, 0x48, 0x50, 0x5f].map(|rva| table.find(rva).unwrap());
        let of_a = |line| ("a.c", line);
        assert_eq!(
            lines,
            [
                of_a(1),
                of_a(1),
                of_a(2),
                of_a(2),
                of_a(3),
                of_a(3),
                of_a(7),
                of_a(7),
                ("h.h", 4),
                ("h.h", 9),
                ("h.h", 9)
            ]
        );
        assert_eq!(table.find(0x60), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut builder = LineTableBuilder::default();
        let long = "x".repeat(1 << 20);
        let taken = (0..8).filter(|n| builder.file(&format!("{n}{long}")).is_some()).count();
        assert_eq!(taken, 3);
        let rows = (0..1 << 20).filter(|n| builder.row(*n, Some((0, 1)))).count();
        assert_eq!(rows, MAX_ROWS);
        let inlined = (0..1 << 20).filter(|n| builder.inlined(*n, n + 1, (0, 1))).count();
        assert_eq!(inlined, MAX_INLINED);
    }
}
