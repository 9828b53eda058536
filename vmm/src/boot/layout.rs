//! Decides where in guest memory everything goes, and puts it there.
//!
//! All random choices follow from the seed, so that a run can be repeated. Talks to guest memory.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use zerocopy::IntoBytes as _;

use super::loader_block::{
    LOADER_BLOCK_SIGNATURE, LOADER_BLOCK_VERSION, LoaderBlock, LoaderFile, MemoryRange, RangeKind,
};
use super::paging::{LARGE_PAGE, PAGE, Page, PageTables};
use super::{BootError, BootInfo, BootRequest, GDT, KERNEL_FILE, KernelImage, STACK_SIZE};
use crate::memory::{GuestRam, LOW_RAM_LIMIT, PhysicalAccessError, RamRange};

/// The kernel's base is this plus 1 GiB to 256 GiB, in steps of 2 MiB.
const KERNEL_AREA: u64 = 0xffff_f800_0000_0000;
/// The direct map's base is this plus 0 to 64 TiB, in steps of 1 GiB.
const DIRECT_MAP_AREA: u64 = 0xffff_8000_0000_0000;
const GIB: u64 = 1 << 30;
/// Below this nothing is placed: PC software has habits there.
const FIRST_PLACE: u64 = 1 << 20;
pub(super) const COMMAND_LINE_LIMIT: usize = 4095;
/// The LAPIC timer's input clock on KVM.
const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Places found so far; all in low RAM.
struct Places {
    taken: Vec<(u64, u64, RangeKind)>,
    next: u64,
    end: u64,
}

impl Places {
    /// The next free place of `bytes`, page-aligned.
    fn take(&mut self, what: &str, bytes: u64, kind: RangeKind) -> Result<u64, BootError> {
        let full = || BootError::Space {
            what: what.to_owned(),
            bytes,
        };
        let length = bytes.max(1).checked_next_multiple_of(PAGE).ok_or_else(full)?;
        let mut base = self.next;
        for &(other, size, _) in &self.taken {
            if base < other + size && other < base.saturating_add(length) {
                base = other + size;
            }
        }
        if base.checked_add(length).is_none_or(|end| end > self.end) {
            return Err(full());
        }
        self.next = base + length;
        self.taken.push((base, length, kind));
        Ok(base)
    }

    /// All of RAM, in order, by what it holds.
    fn ranges(&self, ram: impl Iterator<Item = RamRange>) -> Vec<MemoryRange> {
        let mut taken = self.taken.clone();
        taken.sort_by_key(|&(base, ..)| base);
        let mut ranges = Vec::new();
        for RamRange { base, length } in ram {
            let mut at = base;
            for &(start, size, kind) in taken
                .iter()
                .filter(|&&(start, ..)| start >= base && start < base + length)
            {
                if start > at {
                    ranges.push(MemoryRange::new(at, start - at, RangeKind::Free));
                }
                ranges.push(MemoryRange::new(start, size, kind));
                at = start + size;
            }
            if at < base + length {
                ranges.push(MemoryRange::new(at, base + length - at, RangeKind::Free));
            }
        }
        ranges
    }
}

/// Random choices of one boot.
struct Chosen {
    kernel_base: u64,
    kernel_physical: u64,
    direct_map_base: u64,
}

fn choose(seed: u64, kernel: &KernelImage, low_end: u64) -> Result<Chosen, BootError> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    // The remainder's bias is of no account for ranges this small.
    let mut below = |limit: u64| random.next_u64() % limit.max(1);
    let kernel_base = KERNEL_AREA + GIB + below(255 * GIB / LARGE_PAGE) * LARGE_PAGE;
    let direct_map_base = DIRECT_MAP_AREA + below(64 << 10) * GIB;
    let size = u64::from(kernel.size());
    let room = low_end
        .checked_sub(2 * FIRST_PLACE + size)
        .ok_or_else(|| BootError::Space {
            what: kernel.name().to_owned(),
            bytes: size,
        })?;
    let kernel_physical = 2 * FIRST_PLACE + below(room / PAGE + 1) * PAGE;
    Ok(Chosen {
        kernel_base,
        kernel_physical,
        direct_map_base,
    })
}

/// Puts a kernel, its files, tables, stacks and the loader block into RAM for `cpus` processors. `tsc_hz` is the
/// frequency of the time-stamp counter in Hz, 0 if unknown.
///
/// # Errors
/// [`BootError`] if something is malformed or does not fit.
pub fn load(ram: &GuestRam, request: &BootRequest, cpus: u32, tsc_hz: u64) -> Result<BootInfo, BootError> {
    let kernel = &request.kernel;
    let low_end = ram.size().min(LOW_RAM_LIMIT);
    let chosen = choose(request.seed, kernel, low_end)?;
    let virtual_of = |physical: u64| chosen.direct_map_base + physical;
    let mut places = Places {
        taken: vec![
            (0, FIRST_PLACE, RangeKind::Loader),
            (chosen.kernel_physical, u64::from(kernel.size()), RangeKind::Kernel),
        ],
        next: FIRST_PLACE,
        end: low_end,
    };
    write(ram, chosen.kernel_physical, &kernel.relocated(chosen.kernel_base)?)?;

    let tables = build_tables(ram, kernel, &chosen, 0).size();
    let cr3 = places.take("the page tables", tables, RangeKind::Loader)?;
    write(ram, cr3, &build_tables(ram, kernel, &chosen, cr3).bytes())?;

    let stacks = places.take(
        "the processors' stacks",
        u64::from(cpus) * STACK_SIZE,
        RangeKind::Loader,
    )?;
    let gdt = places.take("the descriptor table", size_of_val(&GDT) as u64, RangeKind::Loader)?;
    let gdt_bytes: Vec<u8> = GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(ram, gdt, &gdt_bytes)?;

    let command_line = place_command_line(ram, &mut places, &request.command_line)?;
    let files = place_files(ram, &mut places, request, chosen.direct_map_base)?;
    let files_at = places.take("the list of files", files.len() as u64 * 88, RangeKind::Loader)?;
    write(ram, files_at, files.as_bytes())?;

    let block = LoaderBlock {
        signature: LOADER_BLOCK_SIGNATURE.into(),
        version: LOADER_BLOCK_VERSION.into(),
        size: (size_of::<LoaderBlock>() as u32).into(),
        seed: request.seed.into(),
        kernel_base: chosen.kernel_base.into(),
        kernel_size: kernel.size().into(),
        processor_count: cpus.into(),
        direct_map_base: chosen.direct_map_base.into(),
        physical_memory_end: ram.end().into(),
        cr3: cr3.into(),
        memory_ranges: 0.into(),
        memory_range_count: 0.into(),
        file_count: (files.len() as u32).into(),
        files: virtual_of(files_at).into(),
        command_line: virtual_of(command_line).into(),
        tsc_frequency: tsc_hz.into(),
        apic_timer_frequency: APIC_TIMER_HZ.into(),
    };
    let block_at = place_block(ram, &mut places, block)?;
    Ok(BootInfo {
        kernel_base: chosen.kernel_base,
        kernel_physical: chosen.kernel_physical,
        entry_point: chosen.kernel_base + u64::from(kernel.entry()),
        direct_map_base: chosen.direct_map_base,
        cr3,
        loader_block: virtual_of(block_at),
        gdt: virtual_of(gdt),
        stacks: virtual_of(stacks),
    })
}

/// Puts the block and, behind it, the list of memory ranges in place; the block comes last because its own page splits
/// a range.
fn place_block(ram: &GuestRam, places: &mut Places, mut block: LoaderBlock) -> Result<u64, BootError> {
    // Each piece taken makes at most two more ranges, and each stretch of RAM one.
    let room = (places.taken.len() * 2 + 8) * size_of::<MemoryRange>();
    let block_at = places.take(
        "the loader block",
        (size_of::<LoaderBlock>() + room) as u64,
        RangeKind::Loader,
    )?;
    let ranges_at = block_at + size_of::<LoaderBlock>() as u64;
    let ranges = places.ranges(ram.ranges());
    write(ram, ranges_at, ranges.as_bytes())?;
    block.memory_ranges = (block.direct_map_base.get() + ranges_at).into();
    block.memory_range_count = (ranges.len() as u32).into();
    write(ram, block_at, block.as_bytes())?;
    Ok(block_at)
}

fn build_tables(ram: &GuestRam, kernel: &KernelImage, chosen: &Chosen, base: u64) -> PageTables {
    let mut tables = PageTables::new(base);
    for (offset, access) in (0..).step_by(PAGE as usize).zip(kernel.pages()) {
        tables.map(
            chosen.kernel_base + offset,
            Page {
                physical: chosen.kernel_physical + offset,
                writable: access.writable,
                executable: access.executable,
            },
        );
    }
    for RamRange { base, length } in ram.ranges() {
        for physical in (base..base + length).step_by(LARGE_PAGE as usize) {
            tables.map_large(
                chosen.direct_map_base + physical,
                Page {
                    physical,
                    writable: true,
                    executable: false,
                },
            );
        }
    }
    tables
}

fn place_command_line(ram: &GuestRam, places: &mut Places, text: &str) -> Result<u64, BootError> {
    BootRequest::check_command_line(text)?;
    // RAM is zero, so the terminating zero is there.
    let place = places.take("the command line", text.len() as u64 + 1, RangeKind::Loader)?;
    write(ram, place, text.as_bytes())?;
    Ok(place)
}

fn place_files(
    ram: &GuestRam,
    places: &mut Places,
    request: &BootRequest,
    direct_map_base: u64,
) -> Result<Vec<LoaderFile>, BootError> {
    let kernel = (request.kernel.name(), KERNEL_FILE, request.kernel.file());
    let others = request.files.iter().map(|file| (&*file.name, file.kind, &*file.data));
    std::iter::once(kernel)
        .chain(others)
        .map(|(name, kind, data)| {
            let place = places.take(name, data.len() as u64, RangeKind::File)?;
            write(ram, place, data)?;
            LoaderFile::new(name, direct_map_base + place, data.len() as u64, kind)
        })
        .collect()
}

fn write(ram: &GuestRam, address: u64, data: &[u8]) -> Result<(), BootError> {
    ram.write(address, data)
        .map_err(|PhysicalAccessError { address, length }| BootError::Space {
            what: format!("the data for {address:#x}"),
            bytes: length,
        })
}
