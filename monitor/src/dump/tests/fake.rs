//! A machine that is made up: a few pages of physical memory in two stretches, a kernel with a debugger data block, and
//! processors with control regions.

use std::collections::BTreeMap;
use std::path::Path;

use crate::dump::context::context;
use crate::dump::{Contents, DumpError, DumpFile, Plan, ProcessorRegisters, Subject, Symbols};
use crate::report::BugCheck;
use crate::vmi::debuggee::{AllRegisters, DebuggedCpu, Page, RegisterError};
use crate::vmi::fake::Space;
use crate::vmi::{CpuState, GuestMemory, PhysicalMemory, ReadError, Registers, SpecialRegisters};
use crate::windows::testing::{CODE, DATA, PeBuilder};
use crate::windows::{Exports, Image, Kernel, Witness};
use zerocopy::IntoBytes as _;

pub(super) const KERNEL: u64 = 0xffff_f805_1000_0000;
const KPCRS: u64 = 0xffff_f805_2000_0000;
/// Where the contexts are kept: each crosses a page.
const CONTEXTS_AT: u64 = 0xffff_f805_3000_0000;
/// Where that is in physical memory.
pub(super) const CONTEXTS: u64 = 0x1_0000_0000;
const SHARED: u64 = 0xffff_f780_0000_0000;
const OFFSET_PRCB_CONTEXT: u16 = 0x700;
/// Physical memory: below and above the hole.
const LOW: (u64, u64) = (0, 0x40_000);
const HIGH: (u64, u64) = (CONTEXTS, 0x5000);
/// Where the block is in the kernel, and the array of the processor blocks behind it.
pub(super) const RVA_BLOCK: u32 = 0x2200;
const RVA_PROCESSOR_BLOCK: u32 = 0x2800;

/// GUID of the kernel's PDB.
pub(super) const GUID: [u8; 16] = *b"0123456789abcdef";

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fake {
    /// By page number.
    physical: BTreeMap<u64, Vec<u8>>,
    /// Virtual to physical page numbers.
    map: BTreeMap<u64, u64>,
    next_low: u64,
    pub(super) registers: Vec<AllRegisters>,
}

pub(super) fn context_place(cpu: u64) -> u64 {
    CONTEXTS_AT + cpu * 0x2000 + 0xf80
}

/// The debugger data block of the fake.
pub(super) fn block_for() -> Vec<u8> {
    let mut block = vec![0; 0x380];
    let mut put = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
    put(0x10, b"KDBG");
    put(0x14, &0x380u32.to_le_bytes());
    put(0x18, &KERNEL.to_le_bytes());
    put(0x50, &0xffff_f805_1000_2f00u64.to_le_bytes());
    put(0x218, &(KERNEL + u64::from(RVA_PROCESSOR_BLOCK)).to_le_bytes());
    put(0x338, &OFFSET_PRCB_CONTEXT.to_le_bytes());
    block
}

impl Fake {
    pub(super) fn new(cpus: u64) -> Self {
        let mut fake = Self {
            physical: BTreeMap::new(),
            map: BTreeMap::new(),
            next_low: 4,
            registers: Vec::new(),
        };
        for (base, length) in [LOW, HIGH] {
            for page in base / 0x1000..(base + length) / 0x1000 {
                fake.physical.insert(page, vec![0; 0x1000]);
            }
        }
        for page in 0..HIGH.1 / 0x1000 {
            fake.map.insert(CONTEXTS_AT / 0x1000 + page, CONTEXTS / 0x1000 + page);
        }
        fake.add_kernel();
        for cpu in 0..cpus {
            fake.add_processor(cpu);
        }
        fake.write(SHARED + 8, &77u64.to_le_bytes());
        fake.write(SHARED + 0x14, &0x01da_0000_0000_0001u64.to_le_bytes());
        fake.write(SHARED + 0x260, &19045u32.to_le_bytes());
        fake.write(SHARED + 0x264, &1u32.to_le_bytes());
        fake.write(SHARED + 0x2d0, &0x110u32.to_le_bytes());
        fake
    }

    fn add_kernel(&mut self) {
        let mut builder = PeBuilder::new(KERNEL);
        let mut text = vec![0x90; 0x100];
        // IMAGE_DEBUG_DIRECTORY: type CodeView, and where the record is.
        text[0x2c..0x30].copy_from_slice(&2u32.to_le_bytes());
        text[0x34..0x38].copy_from_slice(&0x1040u32.to_le_bytes());
        let record = [b"RSDS", &GUID[..], &[3, 0, 0, 0], b"ntkrnlmp.pdb\0"].concat();
        text[0x40..0x40 + record.len()].copy_from_slice(&record);
        builder.section(".text", CODE, text);
        builder.section(".data", DATA, vec![0; 0x1000]);
        builder.directory(6, 0x1020, 28);
        let mut space = Space::default();
        builder.map(&mut space);
        let mut image = vec![0; 0x3000];
        space.read(KERNEL, &mut image).unwrap();
        self.write(KERNEL, &image);
        self.write(KERNEL + u64::from(RVA_BLOCK), &block_for());
    }

    fn add_processor(&mut self, cpu: u64) {
        let kpcr = KPCRS + cpu * 0x2000;
        self.write(kpcr + 0x18, &kpcr.to_le_bytes());
        self.write(kpcr + 0x20, &(kpcr + 0x180).to_le_bytes());
        self.write(kpcr + 0x1a4, &(cpu as u32).to_le_bytes());
        self.write(
            kpcr + 0x180 + u64::from(OFFSET_PRCB_CONTEXT),
            &context_place(cpu).to_le_bytes(),
        );
        let place = KERNEL + u64::from(RVA_PROCESSOR_BLOCK) + 8 * cpu;
        self.write(place, &(kpcr + 0x180).to_le_bytes());
        let general = Registers {
            gpr: std::array::from_fn(|number| 0x1000 * (cpu + 1) + number as u64),
            rip: 0x2000 + cpu,
            rflags: 0x246,
        };
        self.registers.push(AllRegisters {
            general,
            selectors: [0x10, 0x18, 0x2b, 0x2b, 0x53, 0x2b],
            // One of them in user mode.
            gs_base: if cpu == 0 { kpcr } else { 0x7ff0_0000 },
            kernel_gs_base: if cpu == 0 { 0 } else { kpcr },
            cr3: 0x8000_0000_0000_3002 + (cpu << 12),
            ..AllRegisters::default()
        });
    }

    /// Maps what is not mapped yet and writes.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let next = self.next_low;
            let page = *self.map.entry(at / 0x1000).or_insert(next);
            self.next_low += u64::from(page == next);
            self.physical.get_mut(&page).unwrap()[(at % 0x1000) as usize] = *byte;
        }
    }

    pub(super) fn physical(&self, address: u64) -> Option<u64> {
        let page = self.map.get(&(address / 0x1000))?;
        Some(page * 0x1000 + address % 0x1000)
    }

    pub(super) fn pages(&self) -> u64 {
        self.physical.len() as u64
    }

    pub(super) fn subject(&self) -> Subject {
        Subject {
            bug_check: BugCheck {
                code: 0xe053_4c4b,
                parameters: [1, 2, 3, 4],
            },
            comment: "a violation".to_owned(),
            event: 4,
            kernel: Kernel {
                image: Image::read(&self.cpu(0), KERNEL).unwrap(),
                exports: Exports::default(),
                witness: Witness::Both,
                other: None,
            },
        }
    }

    pub(super) fn cpu(&self, cpu: u32) -> FakeCpu<'_> {
        FakeCpu { fake: self, cpu }
    }

    pub(super) fn contents(&self, cpu: u32, subject: &Subject, symbols: &Symbols) -> Result<Contents, DumpError> {
        let processors = (0..self.registers.len() as u32).map(|cpu| ProcessorRegisters::read(&self.cpu(cpu)).unwrap());
        let processors: Vec<_> = processors.collect();
        Contents::read(&self.cpu(cpu), &processors, subject, symbols)
    }

    /// Each page as the file is to have it, by physical address.
    pub(super) fn memory_with_contexts(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut with = self.clone();
        for (cpu, registers) in (0..).zip(&self.registers) {
            with.write(context_place(cpu), context(registers).as_bytes());
        }
        with.physical
            .into_iter()
            .map(|(page, bytes)| (page * 0x1000, bytes))
            .collect()
    }
}

/// A dump into `x.dmp` of this directory, without symbols.
pub(super) fn plan(directory: &Path) -> Plan {
    Plan {
        file: DumpFile::prepare(&directory.join("x.dmp"), std::time::Duration::ZERO).unwrap(),
        symbols: Symbols::default(),
    }
}

impl PhysicalMemory for Fake {
    fn stretches(&self) -> Vec<(u64, u64)> {
        vec![LOW, HIGH]
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        for (at, byte) in (gpa..).zip(buf) {
            match self.physical.get(&(at / 0x1000)) {
                Some(page) => *byte = page[(at % 0x1000) as usize],
                None => return false,
            }
        }
        true
    }
}

pub(super) struct FakeCpu<'a> {
    fake: &'a Fake,
    cpu: u32,
}

impl GuestMemory for FakeCpu<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (offset, byte) in buf.iter_mut().enumerate() {
            let at = gva.checked_add(offset as u64).ok_or(ReadError::Invalid(gva))?;
            let physical = self.fake.physical(at).ok_or(ReadError::NotMapped(at))?;
            *byte = self.fake.physical[&(physical / 0x1000)][(physical % 0x1000) as usize];
        }
        Ok(())
    }
}

impl CpuState for FakeCpu<'_> {
    fn index(&self) -> u32 {
        self.cpu
    }

    fn registers(&self) -> Registers {
        self.fake.registers[self.cpu as usize].general
    }

    fn special(&self) -> SpecialRegisters {
        SpecialRegisters::default()
    }
}

impl DebuggedCpu for FakeCpu<'_> {
    fn as_cpu_state(&self) -> &dyn CpuState {
        self
    }

    fn all(&self) -> Result<AllRegisters, RegisterError> {
        Ok(self.fake.registers[self.cpu as usize])
    }

    fn set_all(&mut self, _: &AllRegisters) -> Result<(), RegisterError> {
        panic!("a dump changes no registers")
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), ReadError> {
        panic!("a dump changes no memory")
    }

    fn translate(&self, gva: u64) -> Result<Page, ReadError> {
        let physical = self.fake.physical(gva).ok_or(ReadError::NotMapped(gva))?;
        Ok(Page {
            physical,
            size: 0x1000,
            writable: true,
            user: false,
            executable: true,
        })
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.fake.read_physical(gpa, buf)
    }
}
