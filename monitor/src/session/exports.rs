//! Exported data of the guest that the command line asked for, read at arming and at the end.

use super::config::ExportRequest;
use super::state::State;
use crate::report::DumpedExport;
use crate::vmi::GuestMemory;
use crate::windows::{Exports, Image};

impl State {
    /// Reads every asked-for export and hands its bytes, in hexadecimal, to `keep`.
    pub(crate) fn dump_exports(
        &mut self,
        memory: &impl GuestMemory,
        requests: &[ExportRequest],
        keep: impl Fn(&mut DumpedExport, String),
    ) {
        let mut exports = std::mem::take(&mut self.exports);
        for (request, export) in requests.iter().zip(&mut exports) {
            match self.read_export(memory, request) {
                Ok((address, bytes)) => {
                    export.address = Some(address);
                    export.error = None;
                    keep(export, bytes);
                }
                Err(error) => export.error = Some(error),
            }
        }
        self.exports = exports;
    }

    fn read_export(&self, memory: &impl GuestMemory, request: &ExportRequest) -> Result<(u64, String), String> {
        let kernel = self.kernel.as_ref().ok_or("the kernel was not found")?;
        let is_kernel = ["nt", "ntoskrnl", "ntoskrnl.exe"]
            .iter()
            .any(|n| request.module.eq_ignore_ascii_case(n));
        let address = if is_kernel {
            kernel.address_of(&request.name)
        } else {
            let (info, _) = self
                .modules
                .by_name(&request.module)
                .ok_or_else(|| format!("{} is not loaded", request.module))?;
            let image = Image::read(memory, info.base).map_err(|error| error.to_string())?;
            let exports = Exports::read(memory, &image).map_err(|error| error.to_string())?;
            exports.rva(&request.name).map(|rva| image.address(rva))
        };
        let address = address.ok_or("there is no such export")?;
        let mut bytes = vec![0; request.length.min(ExportRequest::LIMIT) as usize];
        memory.read(address, &mut bytes).map_err(|error| error.to_string())?;
        Ok((address, hex(&bytes)))
    }
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
