//! A PE image as `storlock run` and `storlock symbols` read it: headers, exports, imports, symbols, debug directory, debugger data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storlock::windows::{CodeView, DebuggerData, Exports, FileImage, Imports, Symbols};

fuzz_target!(|data: &[u8]| {
    let Ok(file) = FileImage::parse(data.to_vec()) else {
        return;
    };
    if let Ok(exports) = Exports::read(&file, file.image()) {
        for export in exports.entries() {
            let name = export.name.as_deref().unwrap_or_default();
            let _ = exports.get(name);
        }
        let _ = Symbols::from_exports(file.image(), &exports).nearest(0x1000);
    }
    if let Ok(imports) = Imports::read(&file, file.image()) {
        for import in imports.entries() {
            let found = imports.get("KeAcquireSpinLock").is_some();
            assert!(found || !import.is_named("KeAcquireSpinLock"));
        }
    }
    let _ = Symbols::from_file(&file).nearest(u32::MAX);
    let _ = CodeView::read(&file, file.image()).map(|code_view| code_view.identifier());
    let _ = DebuggerData::find(&file, file.image());
});
