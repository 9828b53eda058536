//! Tests of the search for the kernel and of the processor's own block.

use proptest::prelude::*;

use crate::vmi::fake::Space;
use crate::windows::kernel::{KernelError, find_image};
use crate::windows::testing::{CODE, DATA, INIT_CODE, PeBuilder};
use crate::windows::{Kernel, Processor, ProcessorError, Witness};

const BASE: u64 = 0xffff_f801_2340_0000;
const IDT: u64 = 0xffff_f780_0000_0000;
const TEXT: u64 = BASE + 0x1000;
const DATA_AT: u64 = TEXT + 0x8000;
const INIT_AT: u64 = DATA_AT + 0x1000;

fn kernel_at(base: u64) -> PeBuilder {
    let mut builder = PeBuilder::new(base);
    builder.section(".text", CODE, vec![0xcc; 0x8000]);
    builder.section(".data", DATA, vec![0; 0x1000]);
    builder.section("INIT", INIT_CODE, vec![0xcc; 0x1000]);
    builder.exports(
        "ntoskrnl.exe",
        &[("PsLoadedModuleList", Ok(0x9000)), ("KeReleaseSpinLock", Ok(0x1100))],
    );
    builder
}

fn guest() -> Space {
    let mut space = Space::default();
    kernel_at(BASE).map(&mut space);
    space
}

fn write_gate(space: &mut Space, handler: u64, access: u8) {
    let bytes = handler.to_le_bytes();
    let mut gate = [bytes[0], bytes[1], 0x10, 0, 0, access, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    gate[6..12].copy_from_slice(&bytes[2..8]);
    space.write(IDT + 14 * 16, &gate);
}

#[test]
fn both_witnesses_lead_to_the_kernel_and_its_exports() {
    let mut space = guest();
    write_gate(&mut space, TEXT + 0x20, 0x8e);
    let kernel = Kernel::find(&space, TEXT + 0x7ffe, IDT, 0xfff).unwrap();
    assert_eq!((kernel.image.base, kernel.witness), (BASE, Witness::Both));
    assert_eq!(kernel.address_of("KeReleaseSpinLock"), Some(BASE + 0x1100));
    assert_eq!(kernel.address_of("KeAcquireSpinLock"), None);
}

#[test]
fn without_an_interrupt_table_the_system_call_entry_is_enough() {
    let mut space = guest();
    assert_eq!(Kernel::find(&space, TEXT, 0, 0).unwrap().witness, Witness::SystemCall);
    write_gate(&mut space, TEXT, 0x0e); // A gate that is not present.
    assert_eq!(
        Kernel::find(&space, TEXT, IDT, 0xfff).unwrap().witness,
        Witness::SystemCall
    );
    write_gate(&mut space, TEXT, 0x8e); // Present, but outside of the table's limit.
    assert_eq!(
        Kernel::find(&space, TEXT, IDT, 14 * 16 + 14).unwrap().witness,
        Witness::SystemCall
    );
}

#[test]
fn the_interrupt_table_wins_over_the_system_call_entry() {
    let mut space = guest();
    let other = BASE - 0x40_0000;
    kernel_at(other).map(&mut space);
    write_gate(&mut space, TEXT, 0x8e);
    let kernel = Kernel::find(&space, other + 0x1000, IDT, 0xfff).unwrap();
    assert_eq!((kernel.image.base, kernel.witness), (BASE, Witness::PageFault));
    let kernel = Kernel::find(&space, 0x1000, IDT, 0xfff).unwrap();
    assert_eq!((kernel.image.base, kernel.witness), (BASE, Witness::PageFault));
}

#[test]
fn an_image_inside_of_the_kernel_is_not_taken_for_it() {
    let mut space = guest();
    // A smaller image in the kernel's own code pages, which ends before the start address.
    let mut inner = PeBuilder::new(TEXT + 0x1000);
    inner.section(".text", CODE, vec![0x90; 0x100]);
    inner.map(&mut space);
    // And one that reaches over the start address with a section that is not code.
    let mut data = PeBuilder::new(TEXT + 0x3000);
    data.section(".data", DATA, vec![0; 0x2000]);
    data.map(&mut space);
    assert_eq!(find_image(&space, TEXT + 0x4800).unwrap().base, BASE);
    assert_eq!(find_image(&space, TEXT + 0x2f00).unwrap().base, BASE);
}

#[test]
fn an_entry_in_data_or_discardable_code_finds_nothing() {
    let space = guest();
    for start in [DATA_AT, INIT_AT, BASE + 0x10] {
        let Err(KernelError::NotFound { rejected, last, .. }) = find_image(&space, start) else {
            panic!("{start:#x} was taken for an entry point");
        };
        assert_eq!(rejected, 1);
        assert!(last.is_some());
    }
    assert!(find_image(&space, TEXT).is_ok());
    assert_eq!(
        find_image(&space, 0x7ff0_0000_0000).unwrap_err(),
        KernelError::NoKernelAddress(0x7ff0_0000_0000)
    );
}

#[test]
fn pages_that_are_not_mapped_are_stepped_over_up_to_the_limit() {
    let mut space = guest();
    for page in 0..4 {
        space.unmap(TEXT + page * 0x1000);
    }
    assert_eq!(find_image(&space, TEXT + 0x5000).unwrap().base, BASE);
    space.unmap(BASE);
    space.reads.set(0);
    assert!(find_image(&space, TEXT + 0x5000).is_err());
    assert!(space.reads.get() <= (32 << 20) / 4096, "{} reads", space.reads.get());
}

#[test]
fn the_processor_block_is_checked_against_itself() {
    const KPCR: u64 = 0xffff_f800_0000_1000;
    let mut space = Space::default();
    space.write_u64(KPCR + 0x18, KPCR);
    space.write_u64(KPCR + 0x20, KPCR + 0x180);
    space.write_u64(KPCR + 0x188, 0xffff_9000_0000_0040);
    space.write(KPCR + 0x1a4, &3u32.to_le_bytes());
    let expected = Processor {
        kpcr: KPCR,
        thread: 0xffff_9000_0000_0040,
        number: 3,
    };
    assert_eq!(Processor::read(&space, KPCR, 0), Ok(expected));
    // Around SWAPGS the other base is the kernel's.
    assert_eq!(Processor::read(&space, 0x7ff0_0000, KPCR), Ok(expected));
    space.write_u64(KPCR + 0x20, KPCR);
    assert_eq!(Processor::read(&space, KPCR, 0), Err(ProcessorError::NotThere(KPCR)));
    assert!(matches!(
        Processor::read(&space, 0, 0),
        Err(ProcessorError::Unreadable { gs_base: 0, .. })
    ));
}

proptest! {
    #[test]
    fn the_kernel_is_found_from_everywhere_in_its_code(offset in 0u64..0x8000, slide in 0u64..0x2_0000) {
        let base = 0xffff_f800_0000_0000 + slide * 0x20_0000;
        let mut space = Space::default();
        kernel_at(base).map(&mut space);
        prop_assert_eq!(find_image(&space, base + 0x1000 + offset).unwrap().base, base);
    }

    #[test]
    fn a_hostile_page_below_never_hides_the_kernel_or_panics(
        edits in prop::collection::vec((0u64..0x400, any::<u32>()), 0..6), page in 1u64..7,
    ) {
        let mut space = guest();
        let at = TEXT + page * 0x1000;
        let mut inner = PeBuilder::new(at);
        inner.section(".rdata", DATA, vec![0; 0x100]);
        inner.map(&mut space);
        for (offset, value) in edits {
            space.write(at + offset, &value.to_le_bytes());
        }
        // The one thing an attacker inside of the kernel's pages can do is to pose as an image that has the address
        // in plain code.
        let image = find_image(&space, TEXT + 0x7fff).unwrap();
        prop_assert!(image.base == BASE || image.section(image.rva(TEXT + 0x7fff).unwrap()).unwrap().is_executable());
    }
}
