//! What a PC may have and this one has not, as far as system software is known to look for it: accesses that nobody
//! answers and that mean no harm.

/// Where, from first to last.
type Place = (u64, u64, &'static str);

/// Ports.
const PORTS: [Place; 21] = [
    (0x00, 0x0f, "DMA controller"),
    (0x2e, 0x2f, "Super I/O chip"),
    (0x4e, 0x4f, "Super I/O chip"),
    (0x80, 0x80, "POST code, or a delay"),
    (0x81, 0x8f, "DMA page registers, or a delay"),
    (0xc0, 0xdf, "DMA controller"),
    (0xed, 0xed, "delay"),
    (0xf0, 0xff, "numeric coprocessor"),
    (0x170, 0x177, "second IDE channel"),
    (0x1f0, 0x1f7, "first IDE channel"),
    (0x200, 0x207, "game port"),
    (0x278, 0x27f, "LPT2"),
    (0x2e8, 0x2ef, "COM4"),
    (0x376, 0x377, "second IDE channel"),
    (0x378, 0x37f, "LPT1"),
    (0x3b0, 0x3df, "VGA"),
    (0x3e8, 0x3ef, "COM3"),
    (0x3f0, 0x3f7, "floppy controller, first IDE channel"),
    (0xb2, 0xb3, "SMI command"),
    (0xa79, 0xa79, "ISA Plug and Play"),
    (0xaf00, 0xaf1f, "CPU hot-plug"),
];
/// Memory.
const MEMORY: [Place; 3] = [
    (0xe000_0000, 0xefff_ffff, "memory-mapped PCI configuration"),
    (0xfed0_0000, 0xfed0_03ff, "HPET"),
    (0xfed4_0000, 0xfed4_4fff, "TPM"),
];

fn find(places: &[Place], address: u64) -> Option<&'static str> {
    let place = places
        .iter()
        .find(|(first, last, _)| (*first..=*last).contains(&address));
    place.map(|(_, _, what)| *what)
}

/// What a PC may have at a port and this one has not; `None`: nothing that system software is known to look for.
#[must_use]
pub fn absent_at_port(port: u64) -> Option<&'static str> {
    find(&PORTS, port)
}

/// The same for memory.
#[must_use]
pub fn absent_at_address(address: u64) -> Option<&'static str> {
    find(&MEMORY, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firmware_and_linux_were_seen_to_look_for_is_known() {
        for port in [0xaf00, 0xaf05, 0x2e, 0x4f, 0x87, 0x2e9, 0x3e9] {
            assert!(absent_at_port(port).is_some(), "{port:#x}");
        }
        assert_eq!(absent_at_address(0xfed4_0000), Some("TPM"));
        // Places of devices that are there.
        for port in [0x60, 0x64, 0x70, 0x92, 0x3f8, 0x402, 0x510, 0xcf8, 0xcf9, 0xb000] {
            assert_eq!(absent_at_port(port), None, "{port:#x}");
        }
        assert_eq!(absent_at_address(0xfee0_0000), None);
    }
}
