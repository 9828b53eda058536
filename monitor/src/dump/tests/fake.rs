//! A machine that is made up: a few pages of physical memory in two stretches, a kernel with a debugger data block, and
//! processors with control regions.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use crate::dump::context::context;
use crate::dump::{Contents, DumpError, DumpFile, Plan, ProcessorRegisters, Subject, Symbols};
use crate::report::BugCheck;
use crate::vmi::debuggee::AllRegisters;
use crate::vmi::fake::{FakeProcessor, FakeState, Space};
use crate::vmi::{GuestMemory, Registers};
use crate::windows::kernel::Witness;
use crate::windows::testing::{CODE, DATA, PeBuilder};
use crate::windows::{Exports, Image, Kernel};
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

#[derive(Clone, Default)]
pub(super) struct Fake(FakeState);

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

impl Deref for Fake {
    type Target = FakeState;

    fn deref(&self) -> &FakeState {
        &self.0
    }
}

impl DerefMut for Fake {
    fn deref_mut(&mut self) -> &mut FakeState {
        &mut self.0
    }
}

impl Fake {
    pub(super) fn new(cpus: u64) -> Self {
        let mut fake = Self(FakeState {
            space: Space::with_memory(&[LOW, HIGH], 0x4000),
            ..FakeState::default()
        });
        for offset in (0..HIGH.1).step_by(0x1000) {
            fake.space.back(CONTEXTS_AT + offset, CONTEXTS + offset);
        }
        fake.add_kernel();
        for cpu in 0..cpus {
            fake.add_processor(cpu);
        }
        fake.space.write(SHARED + 8, &77u64.to_le_bytes());
        fake.space.write(SHARED + 0x14, &0x01da_0000_0000_0001u64.to_le_bytes());
        fake.space.write(SHARED + 0x260, &19045u32.to_le_bytes());
        fake.space.write(SHARED + 0x264, &1u32.to_le_bytes());
        fake.space.write(SHARED + 0x2d0, &0x110u32.to_le_bytes());
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
        self.space.write(KERNEL, &image);
        self.space.write(KERNEL + u64::from(RVA_BLOCK), &block_for());
    }

    fn add_processor(&mut self, cpu: u64) {
        let kpcr = KPCRS + cpu * 0x2000;
        self.space.write(kpcr + 0x18, &kpcr.to_le_bytes());
        self.space.write(kpcr + 0x20, &(kpcr + 0x180).to_le_bytes());
        self.space.write(kpcr + 0x1a4, &(cpu as u32).to_le_bytes());
        self.space.write(
            kpcr + 0x180 + u64::from(OFFSET_PRCB_CONTEXT),
            &context_place(cpu).to_le_bytes(),
        );
        let place = KERNEL + u64::from(RVA_PROCESSOR_BLOCK) + 8 * cpu;
        self.space.write(place, &(kpcr + 0x180).to_le_bytes());
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

    pub(super) fn pages(&self) -> u64 {
        self.space.frames().len() as u64
    }

    pub(super) fn subject(&self) -> Subject {
        Subject {
            reason: crate::report::DumpReason::Violation,
            bug_check: BugCheck {
                code: 0xe053_4c4b,
                parameters: [1, 2, 3, 4],
            },
            comment: "a violation".to_owned(),
            event: 4,
            kernel: Kernel {
                image: Image::read(&self.space, KERNEL).unwrap(),
                exports: Exports::default(),
                witness: Witness::Both,
                other: None,
            },
        }
    }

    /// A processor of a copy of the machine.
    pub(super) fn cpu(&self, index: u32) -> FakeProcessor<Box<FakeState>> {
        let state = Box::new(self.0.clone());
        FakeProcessor { index, state }
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
            with.space.write(context_place(cpu), context(registers).as_bytes());
        }
        with.space.frames()
    }
}

/// A dump into `x.dmp` of this directory, without symbols.
pub(super) fn plan(directory: &Path) -> Plan {
    Plan {
        file: DumpFile::prepare(&directory.join("x.dmp"), std::time::Duration::ZERO).unwrap(),
        symbols: Symbols::default(),
    }
}
