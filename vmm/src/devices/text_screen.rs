//! What a guest wrote where a VGA in text mode has its characters. This machine has no VGA, and RAM is there: a boot
//! loader that writes without asking leaves its last words.

use crate::memory::GuestRam;

/// Guest-physical address of the characters of colour text modes.
const CHARACTERS: u64 = 0xb8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;

/// The lines that have text, without what is empty behind it; none if the memory does not look like text.
#[must_use]
pub fn text_screen(ram: &GuestRam) -> Vec<String> {
    let mut cells = [0; COLUMNS * ROWS * 2];
    match ram.read(CHARACTERS, &mut cells) {
        Ok(()) => lines(&cells),
        Err(_) => Vec::new(),
    }
}

/// A character and its attribute each; an attribute of 0 is black on black, which no text has.
fn lines(cells: &[u8]) -> Vec<String> {
    let is_text = |cell: &[u8]| match cell[0] {
        0 | b' ' => true,
        0x21..=0x7e | 0xb0..=0xdf => cell[1] != 0,
        _ => false,
    };
    if !cells.chunks_exact(2).all(is_text) {
        return Vec::new();
    }
    let rows = cells.chunks_exact(2 * COLUMNS).map(|row| {
        let characters = row.chunks_exact(2).map(|cell| match cell[0] {
            character @ b' '..=0x7e => char::from(character),
            0 => ' ',
            // Box drawing.
            _ => '#',
        });
        characters.collect::<String>().trim_end().to_owned()
    });
    rows.filter(|row| !row.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn screen(text: &[u8], attribute: u8) -> Vec<u8> {
        let mut cells = [0x20, 0x07].repeat(COLUMNS * ROWS);
        for (cell, character) in cells.chunks_exact_mut(2).zip(text) {
            cell.copy_from_slice(&[*character, attribute]);
        }
        cells
    }

    #[test]
    fn text_is_read_by_lines_and_other_content_is_none() {
        let mut text = b"\xc9\xcd Disk error".to_vec();
        text.resize(2 * COLUMNS, b' ');
        text.extend(b"Press a key");
        assert_eq!(lines(&screen(&text, 7)), ["## Disk error", "Press a key"]);
        assert!(lines(&screen(&text, 0)).is_empty(), "invisible");
        assert!(lines(&screen(b"\x01\x02", 7)).is_empty(), "no text");
        assert!(lines(&[0; COLUMNS * ROWS * 2]).is_empty());
    }

    #[test]
    fn it_is_read_where_a_vga_has_it() {
        let ram = GuestRam::new(16 << 20).unwrap();
        assert!(text_screen(&ram).is_empty());
        ram.write(CHARACTERS + 2 * 80, b"H\x07i\x07").unwrap();
        assert_eq!(text_screen(&ram), ["Hi"]);
    }

    proptest! {
        #[test]
        fn no_content_is_more_than_a_screen(cells in prop::collection::vec(any::<u8>(), COLUMNS * ROWS * 2)) {
            let lines = lines(&cells);
            prop_assert!(lines.len() <= ROWS && lines.iter().all(|line| line.len() <= COLUMNS));
        }
    }
}
