//! Loads a hostile kernel and files into guest memory: the PE loader and the loader block.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storlock_vmm::boot::{self, BootFile, BootRequest, KernelImage};
use storlock_vmm::memory::GuestRam;

const MEMORY: u64 = 16 << 20;
// Any bytes are an image as they are, so that real images serve as seeds; what else the loader is given comes from
// their end.
fuzz_target!(|data: &[u8]| {
    let (image, rest) = data.split_at(data.len().saturating_sub(16));
    let byte = |index: usize| rest.get(index).copied().unwrap_or_default();
    let kernel = if byte(0) % 8 == 7 {
        KernelImage::from_code("kernel", image)
    } else {
        KernelImage::parse("kernel", data.to_vec())
    };
    let Ok(kernel) = kernel else { return };
    let text = |from: usize| String::from_utf8_lossy(image.get(from..).unwrap_or_default()).into_owned();
    let file = |index: u8| BootFile {
        name: text(usize::from(byte(2)) * usize::from(index))
            .chars()
            .take(40)
            .collect(),
        kind: u32::from(index) % 5,
        data: image[image.len() / (usize::from(index) + 1)..].to_vec(),
    };
    let request = BootRequest {
        kernel,
        files: (0..byte(1) % 8).map(file).collect(),
        command_line: text(usize::from(byte(3)))
            .chars()
            .take(usize::from(byte(4)) * 32)
            .collect(),
        seed: u64::from_le_bytes(std::array::from_fn(|index| byte(8 + index))),
    };
    let ram = GuestRam::new(MEMORY).expect("memory");
    let cpus = u32::from(byte(5) % 64) + 1;
    if let Ok(info) = boot::load(&ram, &request, cpus, u64::from(byte(6)) << 32) {
        assert!(info.kernel_physical + u64::from(request.kernel.size()) <= MEMORY);
        assert!(info.loader_block >= info.direct_map_base);
    }
});
