//! The file: streamed, sparse, whole or not there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use proptest::prelude::*;

use crate::dump::layout::{MAX_RUNS, Run};
use crate::dump::tests::fake::{self, Fake};
use crate::dump::writer::{DumpError, Patches, write};
use crate::dump::{DumpFile, Symbols};
use crate::vmi::PhysicalMemory;

const PAGE: usize = 0x1000;

/// Pages by number; those that are not there are zero.
struct Pages(BTreeMap<u64, u8>);

impl PhysicalMemory for Pages {
    fn stretches(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        for (at, page) in (gpa / PAGE as u64..).zip(buf.chunks_mut(PAGE)) {
            page.fill(self.0.get(&at).copied().unwrap_or(0));
        }
        true
    }
}

proptest! {
    #[test]
    fn the_file_is_the_header_and_the_pages_in_order_with_the_patches(
        gaps in prop::collection::vec((0u64..5, 1u64..600), 0..4),
        pages in prop::collection::btree_map(0u64..1200, any::<u8>(), 0..60),
        patches in prop::collection::vec((0u64..0x40_0000, prop::collection::vec(any::<u8>(), 0..9000)), 0..5),
        header in prop::collection::vec(any::<u8>(), 16),
    ) {
        let (mut runs, mut next) = (Vec::new(), 0);
        for (gap, page_count) in gaps {
            runs.push(Run { base_page: next + gap, page_count });
            next += gap + page_count;
        }
        let memory = Pages(pages);
        let mut patched = Patches::default();
        let mut image = vec![0; 0x80_0000];
        memory.read_physical(0, &mut image);
        for (at, bytes) in &patches {
            patched.add(*at, bytes);
            image[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let mut wanted = header.clone();
        for run in &runs {
            let at = run.base_page as usize * PAGE;
            wanted.extend_from_slice(&image[at..at + run.page_count as usize * PAGE]);
        }
        let mut out = Cursor::new(Vec::new());
        let length = write(&mut out, &header, (&memory, &runs), &patched, &|| true).unwrap();
        let mut got = out.into_inner();
        prop_assert!(got.len() as u64 <= length);
        got.resize(length as usize, 0);
        prop_assert!(got == wanted);
    }
}

#[test]
fn pages_of_zeros_take_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.dmp");
    let file = DumpFile::prepare(&path, Duration::ZERO).unwrap();
    let run = Run {
        base_page: 0,
        page_count: 0x10000,
    };
    let memory = Pages(BTreeMap::from([(5, 1), (0xfff0, 2)]));
    file.fill(|out| write(out, &[7; 0x2000], (&memory, &[run]), &Patches::default(), &|| true))
        .unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), 0x2000 + 0x1000_0000);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

/// A disk with room for so many bytes.
struct Small(Cursor<Vec<u8>>, u64);

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.position() + bytes.len() as u64 > self.1 {
            return Err(ErrorKind::StorageFull.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Small {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.dmp");
    let file = DumpFile::prepare(&path, Duration::ZERO).unwrap();
    let run = Run {
        base_page: 0,
        page_count: 0x400,
    };
    let memory = Pages((0..0x400).map(|page| (page, 1)).collect());
    let filled = file.fill(|_| {
        let mut disk = Small(Cursor::default(), 0x10_0000);
        write(&mut disk, &[7; 0x2000], (&memory, &[run]), &Patches::default(), &|| {
            true
        })
    });
    let told = filled.unwrap_err().to_string();
    assert!(told.contains("x.dmp") && told.contains("cannot write"), "{told}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_dump_ends_soon_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::new(1);
    let plan = fake::plan(directory.path());
    let contents = fake.contents(0, &fake.subject(), &plan.symbols).unwrap();
    let written = plan.write(contents, &fake.space, &|| false);
    assert!(matches!(written, Err(DumpError::Interrupted)), "{written:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_earlier_dump_is_gone_before_there_is_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.dmp");
    fs::write(&path, "earlier").unwrap();
    let file = DumpFile::prepare(&path, Duration::ZERO).unwrap();
    assert!(!path.exists());
    file.fill(|out| {
        assert!(!path.exists());
        out.write_all(b"new").map(|()| 3)
    })
    .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_directory_that_is_not_there_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for path in ["missing/x.dmp", "."] {
        let refused = DumpFile::prepare(&directory.path().join(path), Duration::ZERO);
        assert!(refused.is_err(), "{path}: {refused:?}");
    }
}

#[test]
fn more_runs_than_the_header_holds_are_refused() {
    let fake = Fake::new(1);
    let stretches: Vec<(u64, u64)> = (0..=MAX_RUNS as u64).map(|index| (index << 20, 0x1000)).collect();
    let mut contents = fake.contents(0, &fake.subject(), &Symbols::default()).unwrap();
    let runs = contents.describe_memory(&stretches[..MAX_RUNS]).unwrap();
    assert_eq!((runs.len(), contents.header.physical_memory.number_of_runs), (42, 42));
    assert!(matches!(contents.describe_memory(&stretches), Err(DumpError::Runs(43))));
}
