//! Images for tests, built from bytes. The builder knows the formats independently of the readers under test, so that a
//! mistake in one shows against the other.

use crate::vmi::PAGE_SIZE;
use crate::vmi::fake::Space;

pub(crate) const CODE: u32 = 0x6000_0020;
pub(crate) const DATA: u32 = 0xc000_0040;
pub(crate) const READ_ONLY: u32 = 0x4000_0040;
pub(crate) const INIT_CODE: u32 = 0x6200_0020;
const DISCARDABLE: u32 = 0x0200_0000;
pub(crate) const EXPORT: usize = 0;
pub(crate) const IMPORT: usize = 1;
pub(crate) const EXCEPTION: usize = 3;

/// Builds a PE64 image, section by section, each at the next page.
#[derive(Clone)]
pub(crate) struct PeBuilder {
    pub(crate) base: u64,
    sections: Vec<(&'static str, u32, Vec<u8>)>,
    directories: [(u32, u32); 16],
}

impl PeBuilder {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            sections: Vec::new(),
            directories: [(0, 0); 16],
        }
    }

    /// Where the next section will begin.
    pub(crate) fn next_rva(&self) -> u32 {
        0x1000
            + self
                .sections
                .iter()
                .map(|(_, _, bytes)| page_up(bytes.len()))
                .sum::<u32>()
    }

    pub(crate) fn section(&mut self, name: &'static str, characteristics: u32, bytes: Vec<u8>) -> u32 {
        let rva = self.next_rva();
        self.sections.push((name, characteristics, bytes));
        rva
    }

    pub(crate) fn directory(&mut self, index: usize, rva: u32, size: u32) {
        self.directories[index] = (rva, size);
    }

    /// An export section; a target of `Err` is a forwarder.
    pub(crate) fn exports(&mut self, module: &str, exports: &[(&str, Result<u32, &str>)]) {
        let rva = self.next_rva();
        let count = exports.len() as u32;
        let (functions, names) = (rva + 40, rva + 40 + 4 * count);
        let ordinals = names + 4 * count;
        let mut strings = Vec::new();
        let strings_rva = ordinals + 2 * count;
        let mut string = |text: &str| {
            let at = strings_rva + strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut bytes = Vec::new();
        for value in [0, 0, 0, string(module), 1, count, count, functions, names, ordinals] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let mut order: Vec<usize> = (0..exports.len()).collect();
        order.sort_by_key(|&index| exports[index].0);
        for (_, target) in exports {
            let value = match target {
                Ok(rva) => *rva,
                Err(forwarder) => string(forwarder),
            };
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        for &index in &order {
            bytes.extend_from_slice(&string(exports[index].0).to_le_bytes());
        }
        for &index in &order {
            bytes.extend_from_slice(&(index as u16).to_le_bytes());
        }
        bytes.extend_from_slice(&strings);
        self.directory(EXPORT, rva, bytes.len() as u32);
        self.section(".edata", READ_ONLY, bytes);
    }

    /// An import section; returns the slot of each import, in order. A name such as `#7` is an ordinal.
    pub(crate) fn imports(&mut self, modules: &[(&str, &[&str])]) -> Vec<u32> {
        let rva = self.next_rva();
        let total: usize = modules.iter().map(|(_, names)| names.len() + 1).sum();
        let lookup = rva + 20 * (modules.len() as u32 + 1);
        let slots = lookup + 8 * total as u32;
        let strings_rva = slots + 8 * total as u32;
        let (mut descriptors, mut thunks, mut strings, mut result) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (module, names) in modules {
            let first = thunks.len() as u32;
            for name in *names {
                result.push(slots + thunks.len() as u32);
                if let Some(ordinal) = name.strip_prefix('#') {
                    let ordinal: u64 = ordinal.parse().unwrap();
                    thunks.extend_from_slice(&(1 << 63 | ordinal).to_le_bytes());
                    continue;
                }
                thunks.extend_from_slice(&u64::from(strings_rva + strings.len() as u32).to_le_bytes());
                strings.extend_from_slice(&[0, 0]);
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
            }
            thunks.extend_from_slice(&[0; 8]);
            for value in [lookup + first, 0, 0, strings_rva + strings.len() as u32, slots + first] {
                descriptors.extend_from_slice(&value.to_le_bytes());
            }
            strings.extend_from_slice(module.as_bytes());
            strings.push(0);
        }
        descriptors.extend_from_slice(&[0; 20]);
        let bytes = [descriptors, thunks.clone(), thunks, strings].concat();
        self.directory(IMPORT, rva, 20 * (modules.len() as u32 + 1));
        self.section(".idata", DATA, bytes);
        result
    }

    /// As [`PeBuilder::imports`], in a section that may be thrown away after initialisation.
    pub(crate) fn discardable_imports(&mut self, modules: &[(&str, &[&str])]) {
        self.imports(modules);
        if let Some((name, characteristics, _)) = self.sections.last_mut() {
            *name = "INIT";
            *characteristics |= DISCARDABLE;
        }
    }

    /// A section with one function, which calls the import of each slot with this first argument.
    pub(crate) fn calls(&mut self, section: &'static str, calls: &[(u32, u32)]) {
        let rva = self.next_rva();
        let mut code = Vec::new();
        for (argument, slot) in calls {
            code.push(0xb9); // mov ecx, argument
            code.extend(argument.to_le_bytes());
            code.extend([0xff, 0x15]); // call [slot]
            let next = rva + code.len() as u32 + 4;
            code.extend(slot.wrapping_sub(next).to_le_bytes());
        }
        code.push(0xc3);
        self.section(section, CODE, code);
    }

    fn headers(&self) -> Vec<u8> {
        let mut out = vec![0; 0x80];
        out[..2].copy_from_slice(b"MZ");
        out[0x3c..0x40].copy_from_slice(&0x80u32.to_le_bytes());
        out.extend_from_slice(b"PE\0\0");
        for value in [
            0x8664,
            self.sections.len() as u16,
            0x1111,
            0x2222,
            0,
            0,
            0,
            0,
            240,
            0x22,
        ] {
            out.extend_from_slice(&u16::to_le_bytes(value));
        }
        let mut optional = vec![0; 240];
        let mut put = |at: usize, bytes: &[u8]| optional[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0x20bu16.to_le_bytes());
        put(16, &0x1000u32.to_le_bytes());
        put(24, &self.base.to_le_bytes());
        put(32, &0x1000u32.to_le_bytes());
        put(36, &0x200u32.to_le_bytes());
        put(56, &self.next_rva().to_le_bytes());
        put(60, &0x400u32.to_le_bytes());
        put(108, &16u32.to_le_bytes());
        for (index, (rva, size)) in self.directories.iter().enumerate() {
            put(112 + index * 8, &rva.to_le_bytes());
            put(116 + index * 8, &size.to_le_bytes());
        }
        out.extend_from_slice(&optional);
        let (mut rva, mut offset) = (0x1000, 0x400);
        for (name, characteristics, bytes) in &self.sections {
            let mut header = vec![0; 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            let raw = bytes.len().next_multiple_of(0x200) as u32;
            for (at, value) in [
                (8, bytes.len() as u32),
                (12, rva),
                (16, raw),
                (20, offset),
                (36, *characteristics),
            ] {
                header[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(&header);
            rva += page_up(bytes.len());
            offset += raw;
        }
        out.resize(0x400, 0);
        out
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        let mut out = self.headers();
        for (_, _, bytes) in &self.sections {
            out.extend_from_slice(bytes);
            out.resize(out.len().next_multiple_of(0x200), 0);
        }
        out
    }

    /// Maps the image into a space, at its base.
    pub(crate) fn map(&self, space: &mut Space) {
        space.write(self.base, &self.headers());
        let mut at = self.base + 0x1000;
        for (_, _, bytes) in &self.sections {
            space.write(at, &vec![0; page_up(bytes.len()) as usize]);
            space.write(at, bytes);
            at += u64::from(page_up(bytes.len()));
        }
    }
}

fn page_up(length: usize) -> u32 {
    length.next_multiple_of(PAGE_SIZE as usize) as u32
}
