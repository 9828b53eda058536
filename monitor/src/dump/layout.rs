//! The structures of a 64-bit Windows crash dump as plain data, with every offset checked at compile time.
//!
//! Sources: `DUMP_HEADER64`, `PHYSICAL_MEMORY_DESCRIPTOR64` and `EXCEPTION_RECORD64` of Microsoft's Win32 metadata
//! (`Windows.Win32.System.Diagnostics.Debug`), `CONTEXT` and `XSAVE_FORMAT` of winnt.h for x64. Talks to nothing.

use std::mem::offset_of;

use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Bytes of a page, in the file as in the guest.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Bytes of the header; the pages follow it.
pub(crate) const HEADER_BYTES: u64 = 0x2000;
/// How a file begins: `Signature` and `ValidDump`.
pub(crate) const SIGNATURE: [u8; 4] = *b"PAGE";
pub(crate) const VALID_DUMP: [u8; 4] = *b"DU64";
/// Runs of physical memory that fit into the header.
pub(crate) const MAX_RUNS: usize = 42;
/// `DumpType` of a dump with all physical memory, run by run.
pub(crate) const DUMP_TYPE_FULL: u32 = 1;
/// `IMAGE_FILE_MACHINE_AMD64`.
pub(crate) const MACHINE_AMD64: u32 = 0x8664;
/// `STATUS_BREAKPOINT`: what Windows' own dumps name as the exception of a bug check.
pub(crate) const STATUS_BREAKPOINT: u32 = 0x8000_0003;
/// `KD_SECONDARY_VERSION_AMD64_CONTEXT` of wdbgexts.h: contexts have the layout of [`Context`].
pub(crate) const KD_SECONDARY_VERSION: u8 = 2;
/// `CONTEXT_AMD64` with the control, integer, segment and floating point parts; the debug registers are left out.
pub(crate) const CONTEXT_FLAGS: u32 = 0x0010_0000 | 0x1 | 0x2 | 0x4 | 0x8;

/// `DUMP_HEADER64`: the first two pages of the file.
#[repr(C)]
#[derive(Debug, Clone, FromZeros, IntoBytes, Immutable)]
#[allow(missing_docs)] // The names are the header file's.
pub(crate) struct Header {
    pub signature: [u8; 4],
    pub(crate) valid_dump: [u8; 4],
    /// 0xF for a free build, 0xC for a checked one.
    pub(crate) major_version: u32,
    /// The build number.
    pub(crate) minor_version: u32,
    pub(crate) directory_table_base: u64,
    pub(crate) pfn_data_base: u64,
    pub(crate) ps_loaded_module_list: u64,
    pub(crate) ps_active_process_head: u64,
    pub(crate) machine_image_type: u32,
    pub number_processors: u32,
    pub bug_check_code: u32,
    pub(crate) padding1: u32,
    pub(crate) bug_check_parameters: [u64; 4],
    pub(crate) version_user: [u8; 32],
    pub kd_debugger_data_block: u64,
    pub(crate) physical_memory: PhysicalMemory,
    pub(crate) padding2: [u64; 2],
    /// Has room for more than a [`Context`].
    pub context: [u8; CONTEXT_ROOM],
    pub(crate) exception: ExceptionRecord,
    pub(crate) dump_type: u32,
    pub(crate) padding3: u32,
    /// Bytes of the whole file.
    pub(crate) required_dump_space: u64,
    /// 100 ns since the year 1601.
    pub system_time: u64,
    pub comment: [u8; 128],
    /// 100 ns since the start of the guest.
    pub system_up_time: u64,
    pub(crate) mini_dump_fields: u32,
    pub(crate) secondary_data_state: u32,
    pub(crate) product_type: u32,
    pub(crate) suite_mask: u32,
    pub(crate) writer_status: u32,
    pub(crate) unused: u8,
    pub(crate) kd_secondary_version: u8,
    pub(crate) padding4: [u8; 2],
    pub attributes: u32,
    pub(crate) boot_id: u32,
    pub(crate) reserved: [u8; 4008],
}

/// Bytes that [`Header`] has for the context.
const CONTEXT_ROOM: usize = 3000;

/// `PHYSICAL_MEMORY_DESCRIPTOR64` with all the runs that the header has room for.
#[repr(C)]
#[derive(Debug, Clone, FromZeros, IntoBytes, Immutable)]
#[allow(missing_docs)] // As above.
pub(crate) struct PhysicalMemory {
    pub(crate) number_of_runs: u32,
    pub(crate) padding: u32,
    pub(crate) number_of_pages: u64,
    pub runs: [Run; MAX_RUNS],
}

/// `PHYSICAL_MEMORY_RUN64`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromZeros, IntoBytes, Immutable)]
pub(crate) struct Run {
    /// Number of its first page.
    pub(crate) base_page: u64,
    /// How many pages it has.
    pub(crate) page_count: u64,
}

/// `EXCEPTION_RECORD64`.
#[repr(C)]
#[derive(Debug, Clone, FromZeros, IntoBytes, Immutable)]
#[allow(missing_docs)] // As above.
pub(crate) struct ExceptionRecord {
    pub code: u32,
    pub flags: u32,
    pub record: u64,
    pub address: u64,
    pub(crate) number_parameters: u32,
    pub(crate) padding: u32,
    pub information: [u64; 15],
}

/// `CONTEXT` of an x64 processor.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq, FromZeros, IntoBytes, Immutable)]
#[allow(missing_docs, clippy::struct_field_names)] // As above.
pub(crate) struct Context {
    pub(crate) home: [u64; 6],
    pub(crate) context_flags: u32,
    pub(crate) mxcsr: u32,
    /// CS, DS, ES, FS, GS, SS.
    pub(crate) segments: [u16; 6],
    pub(crate) eflags: u32,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub(crate) general: [u64; 16],
    pub rip: u64,
    pub(crate) floating: FloatingSave,
    pub(crate) vector_registers: [[u8; 16]; 26],
    pub(crate) vector_control: u64,
    pub(crate) debug_control: u64,
    pub(crate) last_branch_to_rip: u64,
    pub(crate) last_branch_from_rip: u64,
    pub(crate) last_exception_to_rip: u64,
    pub(crate) last_exception_from_rip: u64,
}

/// `XSAVE_FORMAT`: what FXSAVE stores. The last instruction and operand are kept in 64 bits, which fill the fields for
/// offset and selector.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq, FromZeros, IntoBytes, Immutable)]
#[allow(missing_docs)] // As above.
pub(crate) struct FloatingSave {
    pub(crate) control_word: u16,
    pub(crate) status_word: u16,
    pub(crate) tag_word: u8,
    pub(crate) reserved1: u8,
    pub(crate) error_opcode: u16,
    pub(crate) error_address: u64,
    pub(crate) data_address: u64,
    pub(crate) mxcsr: u32,
    pub(crate) mxcsr_mask: u32,
    pub(crate) float_registers: [[u8; 16]; 8],
    pub(crate) xmm_registers: [[u8; 16]; 16],
    pub(crate) reserved4: [u8; 96],
}

/// Bytes of a [`Context`].
pub(crate) const CONTEXT_BYTES: usize = size_of::<Context>();

macro_rules! offsets {
    ($type:ident: $($($field:ident).+ = $offset:expr),* $(,)?) => {
        $(const _: () = assert!(offset_of!($type, $($field).+) == $offset);)*
    };
}

offsets!(Header:
    valid_dump = 4, major_version = 8, minor_version = 0xc, directory_table_base = 0x10, pfn_data_base = 0x18,
    ps_loaded_module_list = 0x20, ps_active_process_head = 0x28, machine_image_type = 0x30, number_processors = 0x34,
    bug_check_code = 0x38, bug_check_parameters = 0x40, version_user = 0x60, kd_debugger_data_block = 0x80,
    physical_memory = 0x88, physical_memory.number_of_pages = 0x90, physical_memory.runs = 0x98, context = 0x348,
    exception = 0xf00, dump_type = 0xf98, required_dump_space = 0xfa0, system_time = 0xfa8, comment = 0xfb0,
    system_up_time = 0x1030, mini_dump_fields = 0x1038, secondary_data_state = 0x103c, product_type = 0x1040,
    suite_mask = 0x1044, writer_status = 0x1048, kd_secondary_version = 0x104d, attributes = 0x1050, boot_id = 0x1054,
);
offsets!(ExceptionRecord: record = 8, address = 0x10, number_parameters = 0x18, information = 0x20);
offsets!(Context:
    context_flags = 0x30, mxcsr = 0x34, segments = 0x38, eflags = 0x44, debug = 0x48, general = 0x78, rip = 0xf8,
    floating = 0x100, floating.mxcsr = 0x118, floating.float_registers = 0x120, floating.xmm_registers = 0x1a0,
    vector_registers = 0x300, vector_control = 0x4a0, debug_control = 0x4a8, last_exception_from_rip = 0x4c8,
);
const _: () = assert!(size_of::<Header>() as u64 == HEADER_BYTES);
const _: () = assert!(size_of::<PhysicalMemory>() <= 700);
const _: () = assert!(size_of::<ExceptionRecord>() == 0x98);
const _: () = assert!(CONTEXT_BYTES == 0x4d0 && CONTEXT_BYTES <= CONTEXT_ROOM);
const _: () = assert!(size_of::<FloatingSave>() == 512);
