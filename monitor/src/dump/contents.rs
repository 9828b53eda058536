//! What a dump holds beside the pages: the header, and the bytes that differ in the file from the guest's memory.
//!
//! Talks to the violating processor of a stopped machine and to the readers of Windows structures. It must not know how
//! files are written. The guest is hostile: its pointers are translated by its own page tables only, and what they lead
//! to changes only the file, never the guest's memory.

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::context::context;
use super::layout::{
    CONTEXT_BYTES, DUMP_TYPE_FULL, ExceptionRecord, HEADER_BYTES, Header, KD_SECONDARY_VERSION, MACHINE_AMD64,
    PAGE_BYTES, PhysicalMemory, Run, SIGNATURE, STATUS_BREAKPOINT, VALID_DUMP,
};
use super::writer::{DumpError, Patches};
use super::{Subject, Symbols};
use crate::vmi::PAGE_SIZE;
use crate::vmi::debuggee::{AllRegisters, DebuggedCpu};
use crate::windows::{DebuggerData, Processor, SharedUserData};

/// The address in CR3, without flags, the process context identifier, and bit 63 of a written value.
const TABLE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Offset of `Prcb` in the KPCR.
const PRCB: u64 = 0x180;
/// What `NtBuildNumber` says of a free build, in bits 28 to 31.
const FREE_BUILD: u32 = 0xf;

/// A processor of the stopped machine.
#[derive(Debug, Clone)]
pub(crate) struct ProcessorRegisters {
    /// Number of the virtual processor.
    pub cpu: u32,
    /// Its registers.
    pub registers: AllRegisters,
    /// What the guest says of it; `None` if it shows no processor control region, as before its kernel has started it.
    pub processor: Option<Processor>,
}

impl ProcessorRegisters {
    /// Reads a processor.
    ///
    /// # Errors
    /// [`DumpError::Processor`] if the machine does not give its registers.
    pub(crate) fn read(cpu: &dyn DebuggedCpu) -> Result<Self, DumpError> {
        let registers = cpu.all().map_err(|error| DumpError::Processor(error.to_string()))?;
        let processor = Processor::read(cpu, registers.gs_base, registers.kernel_gs_base).ok();
        Ok(Self {
            cpu: cpu.index(),
            registers,
            processor,
        })
    }
}

/// Everything that is written beside the pages.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    /// The header, complete.
    pub header: Box<Header>,
    /// What differs in the pages.
    pub(crate) patches: Patches,
    /// Parts of a Windows dump that this one lacks, a sentence each.
    pub missing: Vec<String>,
}

impl Contents {
    /// Puts the contents together. `cpu` is the violating processor, by whose page tables memory is read; `processors` are
    /// all processors.
    ///
    /// # Errors
    /// [`DumpError::Processor`] if the violating one is not among them.
    pub(crate) fn read(
        cpu: &dyn DebuggedCpu,
        processors: &[ProcessorRegisters],
        subject: &Subject,
        symbols: &Symbols,
    ) -> Result<Self, DumpError> {
        let guilty = processors.iter().find(|processor| processor.cpu == cpu.index());
        let guilty = guilty.ok_or_else(|| DumpError::Processor(format!("vCPU {} is gone", cpu.index())))?;
        let mut header = header(cpu, &guilty.registers, subject);
        let shown = processors.iter().filter(|processor| processor.processor.is_some());
        header.number_processors = shown.count().max(1) as u32;
        let mut contents = Self {
            header,
            patches: Patches::default(),
            missing: Vec::new(),
        };
        match symbols.debugger_data(cpu, &subject.kernel.image) {
            Ok(data) => contents.add_debugger_data(cpu, processors, &data),
            Err(missing) => contents.missing.push(missing),
        }
        Ok(contents)
    }

    /// Lists the runs of physical memory in the header.
    ///
    /// # Errors
    /// [`DumpError::Runs`] if it has too many pieces.
    pub(crate) fn describe_memory(&mut self, stretches: &[(u64, u64)]) -> Result<Vec<Run>, DumpError> {
        let runs = stretches.iter().map(|&(base, length)| Run {
            base_page: base / PAGE_BYTES,
            page_count: length / PAGE_BYTES,
        });
        let runs: Vec<Run> = runs.collect();
        let memory = &mut self.header.physical_memory;
        let places = memory.runs.get_mut(..runs.len());
        places.ok_or(DumpError::Runs(runs.len()))?.copy_from_slice(&runs);
        memory.number_of_runs = runs.len() as u32;
        memory.number_of_pages = runs.iter().map(|run| run.page_count).sum();
        self.header.required_dump_space = HEADER_BYTES + memory.number_of_pages * PAGE_BYTES;
        Ok(runs)
    }

    fn add_debugger_data(&mut self, cpu: &dyn DebuggedCpu, processors: &[ProcessorRegisters], data: &DebuggerData) {
        self.header.kd_debugger_data_block = data.address;
        self.header.ps_active_process_head = data.ps_active_process_head();
        self.header.pfn_data_base = data.mm_pfn_database();
        if self.header.ps_loaded_module_list == 0 {
            self.header.ps_loaded_module_list = data.ps_loaded_module_list();
        }
        if data.encoded && !self.patch(cpu, data.address, data.bytes()) {
            let what = "the debugger data block (KDBG) stays encoded: its memory cannot be found";
            self.missing.push(what.to_owned());
        }
        let Some(offset) = data.offset_prcb_context() else {
            let what = "the contexts of the processors: the debugger data block (KDBG) of this kernel does not say where they \
                        are kept, so that the registers of the violating one are in the file's header alone";
            return self.missing.push(what.to_owned());
        };
        for processor in processors {
            if let Err(reason) = self.add_context(cpu, processor, data, offset) {
                let what = format!("the context of vCPU {}: {reason}", processor.cpu);
                self.missing.push(what);
            }
        }
    }

    /// Puts a processor's registers where Windows would have saved them.
    fn add_context(
        &mut self,
        cpu: &dyn DebuggedCpu,
        of: &ProcessorRegisters,
        data: &DebuggerData,
        offset: u16,
    ) -> Result<(), &'static str> {
        let processor = of
            .processor
            .ok_or("the guest shows no processor control region of it")?;
        let place = data
            .ki_processor_block()
            .checked_add(8 * u64::from(processor.number))
            .ok_or("KiProcessorBlock is no address")?;
        let block = cpu.read_u64(place).map_err(|_| "KiProcessorBlock cannot be read")?;
        if block != processor.kpcr.wrapping_add(PRCB) {
            return Err("KiProcessorBlock does not name its processor block");
        }
        let pointer = block
            .checked_add(u64::from(offset))
            .and_then(|at| cpu.read_u64(at).ok())
            .ok_or("its processor block cannot be read")?;
        if self.patch(cpu, pointer, context(&of.registers).as_bytes()) {
            Ok(())
        } else {
            Err("its processor block has no place for it")
        }
    }

    /// Has the file hold `bytes` at a guest virtual address; `false` if not all of it is mapped, then nothing is changed.
    fn patch(&mut self, cpu: &dyn DebuggedCpu, address: u64, bytes: &[u8]) -> bool {
        let mut patches = Vec::new();
        let (mut at, mut left) = (address, bytes);
        while !left.is_empty() {
            let here = (PAGE_SIZE - at % PAGE_SIZE).min(left.len() as u64);
            let (now, later) = left.split_at(here as usize);
            let Ok(page) = cpu.translate(at) else { return false };
            patches.push((page.physical, now));
            left = later;
            let Some(next) = at.checked_add(here) else {
                return left.is_empty();
            };
            at = next;
        }
        for (physical, bytes) in patches {
            self.patches.add(physical, bytes);
        }
        true
    }
}

/// All of the header that does not depend on other processors or the debugger data block.
fn header(cpu: &dyn DebuggedCpu, registers: &AllRegisters, subject: &Subject) -> Box<Header> {
    let shared = SharedUserData::read(cpu);
    let exported = subject.kernel.address_of("NtBuildNumber");
    let build = exported.and_then(|at| cpu.read_u32(at).ok()).unwrap_or(shared.build);
    let kind = match build >> 28 {
        0 => FREE_BUILD,
        kind => kind,
    };
    let mut header = Header {
        signature: SIGNATURE,
        valid_dump: VALID_DUMP,
        major_version: kind,
        minor_version: build & 0xffff,
        directory_table_base: registers.cr3 & TABLE_ADDRESS,
        ps_loaded_module_list: subject.kernel.address_of("PsLoadedModuleList").unwrap_or(0),
        machine_image_type: MACHINE_AMD64,
        bug_check_code: subject.bug_check.code as u32,
        bug_check_parameters: subject.bug_check.parameters,
        physical_memory: PhysicalMemory::new_zeroed(),
        exception: ExceptionRecord {
            code: STATUS_BREAKPOINT,
            address: registers.general.rip,
            ..ExceptionRecord::new_zeroed()
        },
        dump_type: DUMP_TYPE_FULL,
        system_time: shared.system_time,
        system_up_time: shared.interrupt_time,
        product_type: shared.product_type,
        suite_mask: shared.suite_mask,
        kd_secondary_version: KD_SECONDARY_VERSION,
        ..Header::new_zeroed()
    };
    if let Some(place) = header.context.first_chunk_mut::<CONTEXT_BYTES>() {
        place.copy_from_slice(context(registers).as_bytes());
    }
    // A byte is left for the terminating zero.
    for (place, byte) in header.comment.iter_mut().take(127).zip(subject.comment.bytes()) {
        *place = if byte.is_ascii_graphic() || byte == b' ' {
            byte
        } else {
            b'?'
        };
    }
    Box::new(header)
}
