//! Dumps of a machine that is made up: what is in the file, read by itself and by a reader of others' making.

mod fake;
mod file;
mod hostile;

use std::array;

use kdmp_parser::parse::KernelDumpParser;
use kdmp_parser::phys;
use zerocopy::IntoBytes as _;

use self::fake::{Fake, GUID, KERNEL, RVA_BLOCK, block_for};
use super::context::context;
use super::*;
use crate::windows::debugger_data::DebuggerDataPlaces;

#[test]
fn another_reader_finds_header_registers_and_every_page() {
    let fake = Fake::new(2);
    let directory = tempfile::tempdir().unwrap();
    let plan = fake::plan(directory.path());
    let subject = fake.subject();
    let contents = fake.contents(1, &subject, &plan.symbols).unwrap();
    let bytes = plan.write(contents, &fake.space, &|| true).unwrap();
    let file = directory.path().join("x.dmp");
    assert_eq!(bytes, file.metadata().unwrap().len());
    assert_eq!(bytes, 0x2000 + fake.pages() * 0x1000);

    let parser = KernelDumpParser::new(&file).unwrap();
    let header = parser.headers();
    assert_eq!((header.major_version, header.minor_version), (15, 19045));
    assert_eq!((header.machine_image_type, header.number_processors), (0x8664, 2));
    assert_eq!(
        header.directory_table_base,
        fake.registers[1].cr3 & 0x000f_ffff_ffff_f000
    );
    assert_eq!(u64::from(header.bug_check_code), subject.bug_check.code);
    assert_eq!(header.bug_check_code_parameters, subject.bug_check.parameters);
    assert_eq!((header.system_time, header.system_up_time), (0x01da_0000_0000_0001, 77));
    assert_eq!((header.product_type, header.suite_mask), (1, 0x110));
    assert_eq!(header.required_dump_space, i64::try_from(bytes).unwrap());
    assert!(header.comment.starts_with(subject.comment.as_bytes()));
    assert_eq!(header.kd_debugger_data_block, KERNEL + u64::from(RVA_BLOCK));
    assert_eq!(
        parser.exception_record().exception_address,
        fake.registers[1].general.rip
    );
    let registers = parser.context_record();
    assert_eq!(
        (registers.rip, registers.rsp),
        (0x2001, fake.registers[1].general.rsp())
    );
    assert_eq!((registers.seg_cs, registers.seg_ss), (0x10, 0x18));

    let mut expected = fake.memory_with_contexts();
    assert_eq!(parser.physmem().len() as u64, fake.pages());
    let reader = phys::Reader::new(&parser);
    for (address, _) in parser.physmem() {
        let mut page = [0; 0x1000];
        reader.read_exact(address, &mut page).unwrap();
        let wanted = expected.remove(&u64::from(address)).unwrap();
        assert!(page == *wanted, "{address:?}");
    }
    assert!(expected.is_empty());
}

#[test]
fn contexts_go_where_the_guest_keeps_them_and_the_guest_stays_as_it_was() {
    let fake = Fake::new(2);
    let before = fake.space.frames();
    let contents = fake.contents(0, &fake.subject(), &Symbols::default()).unwrap();
    assert_eq!(contents.missing, [""; 0]);
    let mut wanted = writer::Patches::default();
    for cpu in 0..2u64 {
        let registers = &fake.registers[cpu as usize];
        for (at, byte) in (fake::context_place(cpu)..).zip(context(registers).as_bytes()) {
            wanted.add(fake.space.physical(at).unwrap(), &[*byte]);
        }
    }
    let page = |patches: &writer::Patches| array::from_fn::<_, 4, _>(|page| patched(patches, &fake, page as u64));
    assert_eq!(page(&contents.patches), page(&wanted));
    assert_eq!(fake.space.frames(), before);
}

/// The page of the fake's memory as the file has it.
fn patched(patches: &writer::Patches, fake: &Fake, page: u64) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    let run = layout::Run {
        base_page: fake::CONTEXTS / 0x1000 + page,
        page_count: 1,
    };
    writer::write(&mut out, &[], (&fake.space, &[run]), patches, &|| true).unwrap();
    let mut bytes = out.into_inner();
    bytes.resize(0x1000, 0);
    bytes
}

#[test]
fn a_kernel_that_does_not_tell_where_contexts_are_gives_a_dump_that_says_so() {
    let mut fake = Fake::new(2);
    // As long as that of Windows Server 2003.
    fake.space
        .write(KERNEL + u64::from(RVA_BLOCK) + 0x14, &0x318u32.to_le_bytes());
    let contents = fake.contents(0, &fake.subject(), &Symbols::default()).unwrap();
    assert_eq!(contents.header.kd_debugger_data_block, KERNEL + u64::from(RVA_BLOCK));
    let [missing] = contents.missing.as_slice() else {
        panic!("{:?}", contents.missing)
    };
    assert!(missing.contains("does not say where they are kept"), "{missing}");
}

#[test]
fn what_is_missing_without_the_debugger_data_is_said_with_what_to_do() {
    let mut fake = Fake::new(2);
    fake.space.write(KERNEL + u64::from(RVA_BLOCK) + 0x10, b"xxxx");
    let contents = fake.contents(0, &fake.subject(), &Symbols::default()).unwrap();
    assert_eq!(contents.header.kd_debugger_data_block, 0);
    let [missing] = contents.missing.as_slice() else {
        panic!("{:?}", contents.missing)
    };
    let identifier = "33323130353437363839616263646566".to_owned() + "3";
    for wanted in ["KDBG", "ntkrnlmp.pdb", &identifier, "--symbols", "bcdedit /debug on"] {
        assert!(missing.contains(wanted), "{missing}");
    }
    assert_eq!(contents.patches, writer::Patches::default());
}

#[test]
fn an_encoded_block_is_plain_in_the_file() {
    let mut fake = Fake::new(1);
    let (never, always) = (0x1111_2222_3333_4444_u64, 0x5555_6666_7777_8888_u64);
    let address = KERNEL + u64::from(RVA_BLOCK);
    let plain = block_for();
    let words = plain.chunks_exact(8).map(|word| {
        let turned = (u64::from_le_bytes(word.try_into().unwrap()) ^ always).swap_bytes() ^ (address - 0x80);
        turned.rotate_right((never & 63) as u32) ^ never
    });
    let encoded: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    fake.space.write(address, &encoded);
    fake.space.write(address - 0x90, &never.to_le_bytes());
    fake.space.write(address - 0x88, &always.to_le_bytes());
    let pdb = |guid| KernelPdb {
        guid,
        places: DebuggerDataPlaces {
            block: RVA_BLOCK,
            encoding: Some([RVA_BLOCK - 0x90, RVA_BLOCK - 0x88, RVA_BLOCK - 0x80]),
        },
    };
    let other = Symbols {
        pdbs: vec![pdb([7; 16])],
    };
    let contents = fake.contents(0, &fake.subject(), &other).unwrap();
    assert!(contents.missing[0].contains("other builds"), "{:?}", contents.missing);
    let symbols = Symbols {
        pdbs: vec![pdb([7; 16]), pdb(GUID)],
    };
    let contents = fake.contents(0, &fake.subject(), &symbols).unwrap();
    assert_eq!(contents.missing, [""; 0]);
    let mut out = std::io::Cursor::new(Vec::new());
    let page = fake.space.physical(address & !0xfff).unwrap() / 0x1000;
    let run = layout::Run {
        base_page: page,
        page_count: 1,
    };
    writer::write(&mut out, &[], (&fake.space, &[run]), &contents.patches, &|| true).unwrap();
    let at = (address & 0xfff) as usize;
    assert_eq!(out.into_inner()[at..at + plain.len()], plain);
}

#[test]
fn a_processor_that_the_guest_has_not_started_is_not_counted_but_told() {
    let mut fake = Fake::new(2);
    fake.registers[1].gs_base = 0;
    fake.registers[1].kernel_gs_base = 0;
    let contents = fake.contents(0, &fake.subject(), &Symbols::default()).unwrap();
    assert_eq!(contents.header.number_processors, 1);
    assert_eq!(contents.missing.len(), 1);
    assert!(contents.missing[0].contains("vCPU 1"), "{:?}", contents.missing);
}
