//! Tests with images whose tables contradict each other, made by hand from a sound one: they are refused before
//! anything is written to them, with a sentence that says what is wrong; a read-only user can still use them.

use super::*;

const CLUSTER: usize = 4096;
const COPIED: u64 = 1 << 63;

/// A sound image and the places of its tables.
struct Image {
    bytes: Vec<u8>,
    l1: usize,
    l2: usize,
    blocks: usize,
    block: usize,
    /// The first cluster with data.
    data: usize,
}

impl Image {
    fn new() -> Self {
        let directory = directory();
        let path = qcow2(directory.path(), 8 * MEBIBYTE);
        writable(&path).write(0, &vec![1; 64 * 1024]).unwrap();
        let mut image = Self {
            bytes: fs::read(&path).unwrap(),
            l1: 0,
            l2: 0,
            blocks: 0,
            block: 0,
            data: 0,
        };
        (image.l1, image.blocks) = (image.get(40), image.get(48));
        (image.l2, image.block) = (image.get(image.l1), image.get(image.blocks));
        image.data = image.get(image.l2);
        image
    }

    /// The place that is at `at`.
    fn get(&self, at: usize) -> usize {
        let entry = u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap());
        (entry & 0x00ff_ffff_ffff_fe00) as usize
    }

    fn set(mut self, at: usize, entry: u64) -> Self {
        self.bytes[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        self
    }

    fn set_word(mut self, at: usize, word: u32) -> Self {
        self.bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        self
    }

    /// The second guest cluster is at `place`.
    fn lead(self, place: usize) -> Self {
        let at = self.l2 + 8;
        self.set(at, COPIED | place as u64)
    }

    /// As after a kill, when counts may be put right.
    fn marked(mut self) -> Self {
        self.bytes[79] |= 1;
        self
    }
}

type Damage = fn(Image) -> Image;

/// What is wrong, how it is made, and what is said of it.
const DAMAGES: [(&str, Damage, &str); 24] = [
    ("data beyond the end", |image| image.lead(1 << 48), "the file ends at"),
    (
        "data in the L1 table",
        |image| {
            let at = image.l1;
            image.lead(at)
        },
        "where one of its tables is",
    ),
    (
        "data in an L2 table",
        |image| {
            let at = image.l2;
            image.lead(at)
        },
        "where one of its tables is",
    ),
    (
        "data in the counts' table",
        |image| {
            let at = image.blocks;
            image.lead(at)
        },
        "where one of its tables is",
    ),
    (
        "data in the counts",
        |image| {
            let at = image.block;
            image.lead(at)
        },
        "where one of its tables is",
    ),
    (
        "data twice",
        |image| {
            let at = image.data;
            image.lead(at)
        },
        "has 2 references",
    ),
    (
        "data not at a cluster",
        |image| {
            let at = image.data + 512;
            image.lead(at)
        },
        "has the entry",
    ),
    (
        "data with unknown bits",
        |image| {
            let at = image.l2 + 8;
            image.set(at, 0x3f00_0000_0000_0000)
        },
        "has the entry",
    ),
    (
        "compressed data in a table",
        |image| {
            let (at, place) = (image.l2 + 8, image.l1 as u64 + 600);
            image.set(at, 1 << 62 | place)
        },
        "where one of its tables is",
    ),
    (
        "L2 table with unknown bits",
        |image| {
            let at = image.l1 + 8;
            image.set(at, COPIED | 1 << 60)
        },
        "has the entry",
    ),
    (
        "L2 table in the L1 table",
        |image| {
            let at = image.l1;
            image.set(at + 8, COPIED | at as u64)
        },
        "lies where another table does",
    ),
    (
        "L2 table in the counts",
        |image| {
            let (at, to) = (image.l1 + 8, image.block);
            image.set(at, COPIED | to as u64)
        },
        "lies where another table does",
    ),
    (
        "L2 table twice",
        |image| {
            let (at, to) = (image.l1 + 8, image.l2);
            image.set(at, COPIED | to as u64)
        },
        "has 2 references",
    ),
    (
        "L2 table in data",
        |image| {
            let (at, to) = (image.l1 + 8, image.data);
            image.set(at, COPIED | to as u64)
        },
        "where one of its tables is",
    ),
    (
        "L2 table beyond the end",
        |image| {
            let at = image.l1 + 8;
            image.set(at, COPIED | 1 << 30)
        },
        "the file ends at",
    ),
    (
        "counts in the L1 table",
        |image| {
            let (at, to) = (image.blocks + 8, image.l1);
            image.set(at, to as u64)
        },
        "lies where another table does",
    ),
    (
        "counts beyond the end",
        |image| {
            let at = image.blocks + 8;
            image.set(at, 1 << 40)
        },
        "the file ends at",
    ),
    (
        "L1 table in the header",
        |image| image.set(40, 0),
        "is not within the file",
    ),
    (
        "L1 table beyond the end",
        |image| image.set(40, 1 << 30),
        "is not within the file",
    ),
    (
        "L1 table in the counts",
        |image| {
            let to = image.block;
            image.set(40, to as u64)
        },
        "lies where another table does",
    ),
    (
        "L1 table too small",
        |image| image.set_word(36, 3),
        "has 3 entries where a disk of 8388608 bytes needs 4",
    ),
    (
        "counts' table in the L1 table",
        |image| {
            let to = image.l1;
            image.set(48, to as u64)
        },
        "",
    ),
    (
        "size near the largest",
        |image| image.set(24, (1 << 63) - 512),
        "too large",
    ),
    (
        "snapshots in a table",
        |image| {
            let to = image.l2;
            image.set(64, to as u64).set_word(60, 1)
        },
        "",
    ),
];

#[test]
fn an_image_whose_tables_contradict_each_other_is_refused_and_not_changed() {
    for (name, damage, why) in DAMAGES {
        for image in [damage(Image::new()), damage(Image::new()).marked()] {
            let directory = directory();
            let path = directory.path().join("bad.qcow2");
            fs::write(&path, &image.bytes).unwrap();
            let message = match settled(&path, &ImageOptions::default()) {
                Ok(_) => panic!("{name}: opened"),
                Err(error) => error.to_string(),
            };
            assert!(
                message.contains(why) && message.contains("bad.qcow2"),
                "{name}: {message}"
            );
            assert!(fs::read(&path).unwrap() == image.bytes, "{name}: changed");
        }
    }
}

#[test]
fn an_image_that_counts_too_little_is_refused_unless_its_user_was_cut_off() {
    let image = Image::new();
    let count = image.block + image.data / CLUSTER * 2;
    assert_eq!(image.bytes[count..count + 2], [0, 1]);
    let mut bytes = image.bytes;
    bytes[count + 1] = 0;
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    fs::write(&path, &bytes).unwrap();
    let message = refused(&path, &ImageOptions::default());
    assert!(
        message.contains("1 clusters that are in use") && message.contains("qemu-img check -r all"),
        "{message}"
    );
    assert!(fs::read(&path).unwrap() == bytes);
    // It can be read.
    assert!(all(&mut opened(&path, &snapshot(MEBIBYTE)))[..8192] == [1; 8192]);
    bytes[79] |= 1;
    // A leaked cluster, too.
    bytes[count + 201] = 1;
    bytes.resize(bytes.len().max((image.data / CLUSTER + 101) * CLUSTER), 0);
    fs::write(&path, &bytes).unwrap();
    // A reader changes nothing.
    assert!(all(&mut opened(&path, &read_only()))[..8192] == [1; 8192]);
    assert!(fs::read(&path).unwrap() == bytes);
    let disk = writable(&path);
    let told = disk.recovery().unwrap();
    assert!(told.contains("1 were too low, 1 too high"), "{told}");
    drop(disk);
    qemu_img(&["check", text(&path)]);
    assert_eq!(fs::read(&path).unwrap()[79] & 1, 0, "closed in order");
    assert_eq!(writable(&path).recovery(), None);
}

#[test]
fn an_image_is_marked_from_its_first_change_until_it_is_closed() {
    let directory = directory();
    let path = qcow2(directory.path(), MEBIBYTE);
    let mark = || fs::read(&path).unwrap()[79] & 1;
    let mut disk = writable(&path);
    disk.read(0, &mut [0; 512]).unwrap();
    assert_eq!(mark(), 0, "nothing was changed");
    disk.write(0, &[1; 512]).unwrap();
    disk.flush().unwrap();
    assert_eq!(mark(), 1);
    drop(disk);
    assert_eq!(mark(), 0);
    // Nothing but the guest's data: no table can be old.
    let mut disk = writable(&path);
    disk.write_from(0, &pieces(&mut [2; 512])).unwrap();
    assert_eq!(mark(), 0);
    drop(disk);
    assert!(all(&mut opened(&path, &read_only()))[..512] == [2; 512]);
}

#[test]
fn an_image_with_bitmaps_is_opened_and_closed() {
    let directory = directory();
    let path = qcow2(directory.path(), MEBIBYTE);
    qemu_img(&["bitmap", "--add", text(&path), "changes"]);
    // imago writes the header on opening: the bitmaps are not kept up to date.
    drop(writable(&path));
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[79] & 1, 0);
    assert!(steps::is_leaked(&path, "the bitmap's clusters"));
    bytes[79] |= 1;
    fs::write(&path, &bytes).unwrap();
    let told = writable(&path).recovery().unwrap();
    assert!(
        told.contains("are right"),
        "clusters that no table here knows are left alone: {told}"
    );
}

#[test]
fn what_was_not_flushed_is_there_after_an_image_was_closed() {
    let directory = directory();
    for path in [raw(directory.path(), MEBIBYTE), qcow2(directory.path(), MEBIBYTE)] {
        writable(&path).write(8192, &[7; 8192]).unwrap();
        let bytes = all(&mut opened(&path, &read_only()));
        assert!(bytes[..8192] == [0; 8192] && bytes[8192..16384] == [7; 8192]);
    }
}

#[test]
fn a_hole_of_exbibytes_is_checked_in_no_time() {
    let directory = directory();
    let path = qcow2(directory.path(), 8 * MEBIBYTE);
    let file = File::options().write(true).open(&path).unwrap();
    // As long as this file system lets it be.
    let length = (30..=62)
        .rev()
        .map(|bits| 1 << bits)
        .find(|&length| file.set_len(length).is_ok());
    let began = Instant::now();
    let mut disk = writable(&path);
    disk.write(0, &[1; 512]).unwrap();
    drop(disk);
    assert!(began.elapsed() < PATIENCE, "{length:?}: {:?}", began.elapsed());
}
