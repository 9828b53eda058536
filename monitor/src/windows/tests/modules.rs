//! Tests of the module list: every shape of list ends, and what can be read is known.

use proptest::prelude::*;

use crate::vmi::fake::Space;
use crate::windows::modules::head_of_list;
use crate::windows::testing::{CODE, DATA, PeBuilder};
use crate::windows::{Image, ModuleListError, Modules};

const HEAD: u64 = 0xffff_f800_0000_9000;
const ENTRIES: u64 = 0xffff_9a00_0000_0000;
const IMAGES: u64 = 0xffff_f880_0000_0000;

fn entry(index: usize) -> u64 {
    ENTRIES + index as u64 * 0x200
}

fn write_entry(space: &mut Space, index: usize, name: &str) {
    let at = entry(index);
    let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    space.write_u64(at + 0x30, IMAGES + index as u64 * 0x1_0000);
    space.write(at + 0x40, &0x8000u32.to_le_bytes());
    space.write(at + 0x58, &(utf16.len() as u16).to_le_bytes());
    space.write_u64(at + 0x60, at + 0x100);
    space.write(at + 0x100, &utf16);
    if utf16.is_empty() {
        space.write(at + 0x100, &[0]);
    }
}

/// A list whose entry `i` links to `links[i]`; index 0 is the head.
fn list(names: &[&str]) -> Space {
    let mut space = Space::default();
    for (index, name) in names.iter().enumerate() {
        write_entry(&mut space, index, name);
        space.write_u64(
            entry(index),
            if index + 1 == names.len() {
                HEAD
            } else {
                entry(index + 1)
            },
        );
    }
    space.write_u64(HEAD, if names.is_empty() { HEAD } else { entry(0) });
    space.write_u64(HEAD + 8, if names.is_empty() { HEAD } else { entry(names.len() - 1) });
    space
}

#[test]
fn modules_are_known_by_name_and_by_address() {
    let space = list(&["ntoskrnl.exe", "storport.sys", "Target.sys"]);
    let mut modules = Modules::new(HEAD);
    modules.refresh(&space).unwrap();
    assert_eq!(modules.named("TARGET.SYS").unwrap().base, IMAGES + 0x2_0000);
    assert_eq!(modules.at(IMAGES + 0x1_7fff).unwrap().name, "storport.sys");
    assert_eq!(modules.at(IMAGES + 0x1_8000), None);
    assert_eq!(
        modules.at(IMAGES + 0x2_0010).unwrap().rva(IMAGES + 0x2_0010),
        Some(0x10)
    );
}

#[test]
fn a_module_loaded_later_is_found_and_nothing_is_read_twice_without_need() {
    let mut space = list(&["ntoskrnl.exe"]);
    let mut modules = Modules::new(HEAD);
    assert_eq!(modules.find(&space, IMAGES + 5).unwrap().name, "ntoskrnl.exe");
    space.reads.set(0);
    assert!(modules.find(&space, IMAGES + 0x1_0005).is_none());
    assert_eq!(space.reads.get(), 1, "an unchanged list is not walked again");
    write_entry(&mut space, 1, "late.sys");
    space.write_u64(entry(1), HEAD);
    space.write_u64(entry(0), entry(1));
    space.write_u64(HEAD + 8, entry(1));
    assert_eq!(modules.find(&space, IMAGES + 0x1_0005).unwrap().name, "late.sys");
}

#[test]
fn a_list_that_is_not_set_up_or_not_mapped_says_so() {
    let mut space = Space::default();
    assert!(matches!(
        Modules::new(HEAD).refresh(&space),
        Err(ModuleListError::Unreadable { after: 0, .. })
    ));
    space.write_u64(HEAD, 0);
    assert_eq!(Modules::new(HEAD).refresh(&space), Err(ModuleListError::NotYet));
    assert_eq!(Modules::new(HEAD).refresh(&list(&[])), Ok(()));
}

#[test]
fn what_was_read_before_the_break_is_kept() {
    let mut space = list(&["a.sys", "b.sys", "c.sys"]);
    space.write_u64(entry(1), ENTRIES + 0x10_0000);
    let mut modules = Modules::new(HEAD);
    assert!(matches!(
        modules.refresh(&space),
        Err(ModuleListError::Unreadable { after: 2, .. })
    ));
    assert!(modules.named("b.sys").is_some());
}

#[test]
fn names_of_the_guest_cannot_carry_control_characters() {
    let space = list(&["a\u{1b}[2J.sys", ""]);
    let mut modules = Modules::new(HEAD);
    modules.refresh(&space).unwrap();
    assert_eq!(modules.known()[0].name, "a\\x1b[2J.sys");
    assert_eq!(modules.known()[1].name, "");
}

proptest! {
    /// Any graph of links: the walk succeeds exactly if the links lead back to the head, and reads a bounded amount.
    #[test]
    fn every_list_ends(links in prop::collection::vec(0usize..12, 12)) {
        let mut space = list(&["x.sys"; 12]);
        // 0 stands for the head, i for entry i - 1; the head links to the first entry.
        let address = |link: usize| if link == 0 { HEAD } else { entry(link - 1) };
        for (index, &link) in links.iter().enumerate() {
            space.write_u64(entry(index), address(link));
        }
        let mut expected = Vec::new();
        let mut at = 1;
        while at != 0 && !expected.contains(&at) {
            expected.push(at);
            at = links[at - 1];
        }
        let mut modules = Modules::new(HEAD);
        let result = modules.refresh(&space);
        if at == 0 {
            prop_assert_eq!(result, Ok(()));
            let bases: Vec<u64> = modules.known().iter().map(|module| module.base).collect();
            let expected: Vec<u64> = expected.iter().map(|&at| IMAGES + (at as u64 - 1) * 0x1_0000).collect();
            prop_assert_eq!(bases, expected);
        } else {
            prop_assert!(matches!(result, Err(ModuleListError::Damaged(_))));
        }
        prop_assert!(space.reads.get() < 200, "{} reads", space.reads.get());
    }
}

#[test]
fn a_pinned_module_stays_where_it_is_whatever_the_list_says() {
    let mut space = list(&["ntoskrnl.exe", "storport.sys", "Target.sys", "late.sys"]);
    let mut modules = Modules::new(HEAD);
    modules.refresh(&space).unwrap();
    let target = modules.named("target.sys").unwrap().clone();
    modules.pin(target.clone());
    let names =
        |modules: &Modules| -> Vec<String> { modules.known().iter().map(|module| module.name.clone()).collect() };
    let whole = ["ntoskrnl.exe", "storport.sys", "Target.sys", "late.sys"];
    assert_eq!(names(&modules), whole);
    // Another name, another base, another size; then two entries in its place.
    write_entry(&mut space, 2, "innocent.sys");
    space.write_u64(entry(2) + 0x30, target.base + 0x1000);
    space.write_u64(entry(3) + 0x30, target.base + 0x7000);
    modules.refresh(&space).unwrap();
    assert_eq!(names(&modules), &whole[..3]);
    assert_eq!(modules.at(target.base + 0x7fff), Some(&target));
    assert_eq!(modules.listed().len(), 4);
    // Gone from the list, and at last believed.
    space.write_u64(entry(1), HEAD);
    modules.refresh(&space).unwrap();
    assert_eq!(names(&modules), &whole[..3]);
    modules.unpin(target.base);
    assert_eq!(names(&modules), &whole[..2]);
}

/// A kernel with its list head in writable data, and a ring of entries that leads through it.
fn ring() -> (Space, Image, u64) {
    let mut builder = PeBuilder::new(IMAGES);
    builder.section(".text", CODE, vec![0x90; 0x1000]);
    let head = IMAGES + u64::from(builder.section(".data", DATA, vec![0; 0x100])) + 0x40;
    let mut space = Space::default();
    for (index, name) in ["ntoskrnl.exe", "hal.dll", "storport.sys"].iter().enumerate() {
        write_entry(&mut space, index, name);
    }
    builder.map(&mut space);
    let places = [head, entry(0), entry(1), entry(2)];
    for (index, &place) in places.iter().enumerate() {
        space.write_u64(place, places[(index + 1) % 4]);
        space.write_u64(place + 8, places[(index + 3) % 4]);
    }
    let image = Image::read(&space, IMAGES).unwrap();
    (space, image, head)
}

#[test]
fn any_entry_leads_to_the_head_of_its_list() {
    let (space, kernel, head) = ring();
    for index in 0..3 {
        let base = IMAGES + index as u64 * 0x1_0000;
        assert_eq!(head_of_list(&space, entry(index), base, &kernel), Some(head), "{index}");
    }
}

#[test]
fn what_is_no_entry_leads_to_no_head() {
    let (space, kernel, head) = ring();
    let found = |space: &Space, at: u64| head_of_list(space, at, IMAGES + 0x2_0000, &kernel);
    assert_eq!(found(&space, entry(2)), Some(head));
    assert_eq!(found(&space, entry(1)), None, "the entry of another module");
    assert_eq!(found(&space, 0), None);
    assert_eq!(found(&space, u64::MAX), None);
    for (what, at, value) in [
        ("a link back that is another's", entry(1) + 8, entry(1)),
        ("a link to nowhere", entry(0), 0xffff_ffff_ffff_f000),
        ("a loop beside the head", entry(0), entry(0)),
        ("a link to user memory", entry(2), 0x1000),
        ("a head in code", entry(2), IMAGES + 0x1000),
    ] {
        let mut damaged = space.clone();
        damaged.write_u64(at, value);
        assert_eq!(found(&damaged, entry(2)), None, "{what}");
    }
    // A ring without the kernel is another list.
    let mut other = space.clone();
    other.write_u64(entry(0) + 0x30, IMAGES + 0x7_0000);
    assert_eq!(found(&other, entry(2)), None);
    // A ring of millions ends.
    let mut long = space;
    for index in 3..5000 {
        long.write_u64(entry(index), entry(index + 1));
        long.write_u64(entry(index + 1) + 8, entry(index));
    }
    long.write_u64(entry(2), entry(3));
    long.write_u64(entry(3) + 8, entry(2));
    assert_eq!(found(&long, entry(2)), None);
}
