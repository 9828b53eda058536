//! A disk image as somebody may hand it on: the first byte chooses the format and how it is opened, the rest is the file.
//! What can be opened is read, written and flushed; whatever the image says, nothing may panic, hang or take much memory.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use storlock_vmm::storage::backend::{Backend, ImageBackend, ImageFormat, ImageOptions};
use vm_memory::VolatileSlice;

/// A directory of this process in memory; the fuzzer ends by exiting, so the next one with this number takes it over.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    // A panic within the driver of a format is caught by the backend: here it counts.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    let directory = PathBuf::from(format!("/dev/shm/storlock-fuzz-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory in memory");
    directory
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, contents)) = data.split_first() else {
        return;
    };
    let (extension, format) = match choice & 3 {
        0 => ("img", None),
        1 => ("vmdk", Some(ImageFormat::Vmdk)),
        _ => ("qcow2", Some(ImageFormat::Qcow2)),
    };
    let path = DIRECTORY.join("disk").with_extension(extension);
    fs::write(&path, contents).expect("room in memory");
    let options = ImageOptions {
        format,
        read_only: choice & 4 != 0,
        snapshot: (choice & 12 == 8).then_some(1 << 20),
        backing: None,
    };
    let Ok(mut disk) = ImageBackend::open(&path, 512, &options) else {
        return;
    };
    let mut block = [0; 4096];
    for place in 0..8 {
        let offset = disk.len() / 8 * place / 512 * 512;
        let length = block.len().min((disk.len() - offset) as usize);
        let _ = disk.read(offset, &mut block[..length]);
        let _ = disk.write(offset, &block[..length]);
        let guest = [VolatileSlice::from(&mut block[..length])];
        let _ = disk.read_into(offset, &guest);
        let _ = disk.write_from(offset, &guest);
        let _ = disk.write_zeroes(offset, length as u64, place % 2 == 0);
    }
    let _ = disk.discard(0, disk.len().min(1 << 20));
    let _ = disk.flush();
});
