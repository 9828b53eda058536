//! Reads exported data of the guest that the user asked for (`--dump-export`), at arming and at the end.
//!
//! Talks to the readers of images. It must not know what the data mean.

use super::config::ExportRequest;
use super::guest::Guest;
use crate::report::DumpedExport;
use crate::vmi::GuestMemory;
use crate::windows::KERNEL;

/// The exports that were asked for, and what was read of them.
#[derive(Debug, Default)]
pub(crate) struct ExportDumps {
    asked: Vec<(ExportRequest, DumpedExport)>,
}

impl ExportDumps {
    pub(crate) fn new(requests: &[ExportRequest]) -> Self {
        let dump = |request: &ExportRequest| DumpedExport {
            name: request.to_string(),
            ..DumpedExport::default()
        };
        let asked = requests.iter().map(|request| (request.clone(), dump(request)));
        Self { asked: asked.collect() }
    }

    /// Reads all of them: the breakpoints are in force.
    pub(crate) fn read_at_arming(&mut self, guest: &Guest, memory: &impl GuestMemory) {
        self.read(guest, memory, |export, bytes| export.at_arming = Some(bytes));
    }

    /// Reads all of them: the machine has stopped for good.
    pub(crate) fn read_at_end(&mut self, guest: &Guest, memory: &impl GuestMemory) {
        self.read(guest, memory, |export, bytes| export.at_end = Some(bytes));
    }

    /// As the report has them.
    pub(crate) fn list(&self) -> Vec<DumpedExport> {
        self.asked.iter().map(|(_, export)| export.clone()).collect()
    }

    /// Reads every export and hands its bytes, in hexadecimal, to `keep`.
    fn read(&mut self, guest: &Guest, memory: &impl GuestMemory, keep: impl Fn(&mut DumpedExport, String)) {
        for (request, export) in &mut self.asked {
            match read(guest, memory, request) {
                Ok((address, bytes)) => {
                    export.address = Some(address);
                    export.error = None;
                    keep(export, bytes);
                }
                Err(error) => export.error = Some(error),
            }
        }
    }
}

fn read(guest: &Guest, memory: &impl GuestMemory, request: &ExportRequest) -> Result<(u64, String), String> {
    let kernel = guest.kernel().ok_or("the kernel was not found")?;
    let is_kernel = ["nt", "ntoskrnl", KERNEL]
        .iter()
        .any(|n| request.module.eq_ignore_ascii_case(n));
    let address = if is_kernel {
        kernel.address_of(&request.name)
    } else {
        let (image, exports) = guest.exports_of(memory, &request.module)?;
        exports.rva(&request.name).map(|rva| image.address(rva))
    };
    let address = address.ok_or("there is no such export")?;
    let mut bytes = vec![0; request.length.min(ExportRequest::LIMIT) as usize];
    memory.read(address, &mut bytes).map_err(|error| error.to_string())?;
    Ok((address, hex(&bytes)))
}

/// Bytes in hexadecimal, in the order of their addresses.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}
