//! The values of command line options: --fault, --disk, --dump-export, sizes, times, addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storlock::gdb::Address;
use storlock::run::spec::{Disk, Export, Limit, PlannedFault, Size, check_disks};
use storlock::session::ExportRequest;

fuzz_target!(|text: &str| {
    if let Ok(fault) = text.parse::<PlannedFault>() {
        let again: PlannedFault = fault.text.parse().expect("it was taken once");
        assert_eq!(again, fault);
    }
    if let Ok(disk) = Disk::read(text.as_ref()) {
        let _ = check_disks(&[disk.clone(), disk]);
    }
    if let Ok(export) = text.parse::<Export>() {
        assert!(export.0.length <= ExportRequest::LIMIT);
    }
    let _ = text.parse::<Size>();
    let _ = text.parse::<Limit>();
    let _ = Address::read(text.as_ref()).map(|address| address.to_string());
});
