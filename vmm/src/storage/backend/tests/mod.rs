//! Backends against an array of bytes, and what disk images refuse.

mod crashes;
mod damage;
mod hardship;
mod images;
pub(super) mod journal;
mod locks;
mod model;
mod snapshots;
mod steps;
mod tables;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::VolatileSlice;

use super::{Backend, BackendError, ImageBackend, ImageFormat, ImageOptions, MemoryBackend, OpenError};

const MEBIBYTE: u64 = 1 << 20;
/// How long a lock that nobody holds on purpose may last.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of its own for each test.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs qemu-img on images that nobody uses (see [`settled`]); what it prints.
fn qemu_img(arguments: &[&str]) -> String {
    let began = Instant::now();
    loop {
        let output = Command::new("qemu-img").args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("qemu-img: {error}; scripts/setup lint installs it"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return text;
        }
        let locked = text.contains("lock") && began.elapsed() < PATIENCE;
        assert!(locked, "qemu-img {arguments:?}: {text}");
    }
}

/// A sparse raw file.
fn raw(directory: &Path, length: u64) -> PathBuf {
    let path = directory.join("disk.img");
    File::create(&path).unwrap().set_len(length).unwrap();
    path
}

/// A VMDK image with flat extents that holds what the image `source` does.
fn vmdk_of(directory: &Path, source: &Path) -> PathBuf {
    let path = directory.join("disk.vmdk");
    let options = ["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat"];
    qemu_img(&[&options[..], &[text(source), text(&path)]].concat());
    path
}

/// A qcow2 image with small clusters, so that few bytes touch many.
fn qcow2(directory: &Path, length: u64) -> PathBuf {
    let path = directory.join("disk.qcow2");
    let options = [
        "create",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4096",
        text(&path),
        &length.to_string(),
    ];
    qemu_img(&options);
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(path: &Path, options: &ImageOptions) -> Result<ImageBackend, OpenError> {
    ImageBackend::open(path, 512, options)
}

/// Opens an image that nobody uses. A test beside this one may be starting a process, which has the files of all of them,
/// and with them their locks, for a moment.
fn settled(path: &Path, options: &ImageOptions) -> Result<ImageBackend, OpenError> {
    let began = Instant::now();
    loop {
        match open(path, options) {
            Err(OpenError::InUse { .. }) if began.elapsed() < PATIENCE => thread::yield_now(),
            result => return result,
        }
    }
}

fn opened(path: &Path, options: &ImageOptions) -> ImageBackend {
    settled(path, options).unwrap()
}

fn writable(path: &Path) -> ImageBackend {
    opened(path, &ImageOptions::default())
}

fn read_only() -> ImageOptions {
    ImageOptions {
        read_only: true,
        ..ImageOptions::default()
    }
}

fn snapshot(limit: u64) -> ImageOptions {
    ImageOptions {
        snapshot: Some(limit),
        ..ImageOptions::default()
    }
}

/// The message of an image that is refused; it has to name the file.
fn refused(path: &Path, options: &ImageOptions) -> String {
    let message = settled(path, options).unwrap_err().to_string();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name), "{message}");
    message
}

/// The bytes of a disk as qemu-img sees them.
fn as_qemu_reads_it(image: &Path) -> Vec<u8> {
    let copy = image.with_extension("copy");
    qemu_img(&["convert", "-O", "raw", text(image), text(&copy)]);
    fs::read(copy).unwrap()
}

fn all(disk: &mut impl Backend) -> Vec<u8> {
    let mut bytes = vec![0; disk.len() as usize];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

/// A buffer as a guest's memory: in pieces, of which some are empty and none is aligned.
fn pieces(buffer: &mut [u8]) -> Vec<VolatileSlice<'_>> {
    const SIZES: [usize; 6] = [1, 511, 0, 3333, 4096, 77];
    let length = buffer.len();
    let whole = VolatileSlice::from(buffer);
    let mut at = 0;
    let sizes = SIZES.iter().cycle().map_while(|size| {
        let piece = whole.subslice(at, (*size).min(length - at)).unwrap();
        at += piece.len();
        (at < length || !piece.is_empty()).then_some(piece)
    });
    sizes.collect()
}

#[test]
fn deallocation_gives_room_back() {
    let directory = directory();
    for path in [raw(directory.path(), MEBIBYTE), qcow2(directory.path(), MEBIBYTE)] {
        let mut disk = writable(&path);
        disk.write(0, &vec![1; MEBIBYTE as usize]).unwrap();
        disk.flush().unwrap();
        let before = fs::metadata(&path).unwrap().blocks();
        // Not whole clusters.
        disk.discard(512, MEBIBYTE - 1024).unwrap();
        disk.flush().unwrap();
        let after = fs::metadata(&path).unwrap().blocks();
        assert!(
            after < before / 4,
            "{}: {after} of {before} blocks left",
            path.display()
        );
        let bytes = all(&mut disk);
        assert!(bytes[..512] == [1; 512] && bytes[MEBIBYTE as usize - 512..] == [1; 512]);
        assert!(bytes[512..MEBIBYTE as usize - 512].iter().all(|&byte| byte == 0));
        drop(disk);
        if path.extension().unwrap() == "qcow2" {
            qemu_img(&["check", text(&path)]);
        } else {
            assert_eq!(fs::metadata(&path).unwrap().len(), MEBIBYTE);
        }
    }
}

#[test]
fn zeroes_without_deallocation_keep_the_room_of_a_raw_disk() {
    let directory = directory();
    let path = raw(directory.path(), MEBIBYTE);
    let mut disk = writable(&path);
    disk.write_zeroes(0, MEBIBYTE, false).unwrap();
    disk.flush().unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= MEBIBYTE);
}

#[test]
fn odd_sizes_are_refused_with_the_name_of_the_file() {
    for (length, block_size) in [(0, 512), (511, 512), (4096 + 512, 4096)] {
        let directory = directory();
        let path = raw(directory.path(), length);
        let error = ImageBackend::open(&path, block_size, &ImageOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::OddSize { .. }));
        assert!(error.to_string().contains("disk.img"), "{error}");
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = directory();
    let missing = open(&directory.path().join("none.img"), &read_only()).unwrap_err();
    assert!(matches!(missing, OpenError::Open { .. }) && missing.to_string().contains("none.img"));
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [directory.path(), &pipe] {
        let error = open(path, &read_only()).unwrap_err();
        assert!(matches!(error, OpenError::NotADisk { .. }), "{error}");
    }
}

#[test]
fn read_only_disks_are_read_and_not_changed() {
    let directory = directory();
    for path in [raw(directory.path(), 4096), qcow2(directory.path(), 4096)] {
        let mut disk = writable(&path);
        disk.write(0, &[7; 4096]).unwrap();
        drop(disk);
        let before = fs::read(&path).unwrap();
        let mut disk = opened(&path, &read_only());
        assert!(disk.is_read_only());
        assert_eq!(all(&mut disk), [7; 4096]);
        assert!(matches!(disk.write(0, &[1; 512]), Err(BackendError::ReadOnly)));
        assert!(matches!(disk.write_zeroes(0, 512, false), Err(BackendError::ReadOnly)));
        assert!(matches!(disk.discard(0, 512), Err(BackendError::ReadOnly)));
        disk.flush().unwrap();
        drop(disk);
        assert!(fs::read(&path).unwrap() == before);
    }
}

#[test]
fn a_full_disk_is_told_apart_from_a_broken_one() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        let full = BackendError::from(std::io::Error::from_raw_os_error(errno));
        assert!(matches!(full, BackendError::NoSpace), "{errno}");
    }
    let broken = BackendError::from(std::io::Error::from_raw_os_error(libc::EIO));
    assert!(matches!(broken, BackendError::Io(_)));
}

#[test]
fn a_file_that_is_cut_fails_everything_that_follows() {
    let directory = directory();
    for path in [raw(directory.path(), MEBIBYTE), qcow2(directory.path(), MEBIBYTE)] {
        let mut disk = writable(&path);
        disk.write(0, &vec![3; MEBIBYTE as usize]).unwrap();
        disk.flush().unwrap();
        let cut = MEBIBYTE / 2;
        File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let lost = disk.read(MEBIBYTE - 512, &mut [0; 512]);
        assert!(matches!(lost, Err(BackendError::Io(_))), "{}: {lost:?}", path.display());
        let lost = disk.read_into(MEBIBYTE - 512, &pieces(&mut [0; 512]));
        assert!(matches!(lost, Err(BackendError::Io(_))), "{}: {lost:?}", path.display());
        // Nothing may make the file as long as it was, with a hole in it.
        assert!(matches!(
            disk.write(MEBIBYTE - 512, &[1; 512]),
            Err(BackendError::Io(_))
        ));
        assert!(matches!(disk.flush(), Err(BackendError::Io(_))));
        drop(disk);
        assert_eq!(fs::metadata(&path).unwrap().len(), cut);
    }
}

#[test]
fn a_cut_is_seen_before_an_access_too() {
    type Access = fn(&mut ImageBackend, u64) -> Result<(), BackendError>;
    let accesses: [Access; 4] = [
        |disk, offset| disk.read(offset, &mut [0; 512]),
        |disk, offset| disk.read_into(offset, &pieces(&mut [0; 512])),
        |disk, offset| disk.write(offset, &[1; 512]),
        |disk, offset| disk.write_from(offset, &pieces(&mut [1; 512])),
    ];
    for access in accesses {
        let directory = directory();
        let path = raw(directory.path(), MEBIBYTE);
        let mut disk = writable(&path);
        File::options().write(true).open(&path).unwrap().set_len(512).unwrap();
        let error = access(&mut disk, MEBIBYTE - 512).unwrap_err();
        assert!(error.to_string().contains("somebody has cut it"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 512);
    }
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn zeroing_memory_that_was_never_written_takes_none() {
    let size = 1 << 30;
    let mut backend = MemoryBackend::new(size);
    backend.write(5 << 20, &[7; 4096]).unwrap();
    let before = resident();
    backend.discard(0, size as u64).unwrap();
    // Other tests run meanwhile.
    let taken = resident().saturating_sub(before);
    assert!(taken < size as u64 / 4, "{taken} bytes more are in use");
    let mut data = [1; 8192];
    backend.read(5 << 20, &mut data).unwrap();
    assert_eq!(data, [0; 8192]);
}
