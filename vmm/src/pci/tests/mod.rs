//! PCI as the guest sees it: through the configuration ports and the BARs on the buses.

mod interrupts;
mod msix;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::bus::{Bus, BusDevice};
use crate::irq::{MessageSink, MsiMessage};

const NVME: PciAddress = match PciAddress::new(4, 0) {
    Some(address) => address,
    None => unreachable!(),
};
const OTHER: PciAddress = match PciAddress::new(5, 0) {
    Some(address) => address,
    None => unreachable!(),
};

/// Answers BAR reads with its name and notes where its BARs went.
struct Probe {
    name: u8,
    moves: Mutex<Vec<(u8, Option<u64>)>>,
    bus_master: Mutex<Vec<bool>>,
    writes: Mutex<Vec<(u8, u64, Vec<u8>)>>,
}

impl PciDevice for Probe {
    fn bar_read(&self, bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(self.name + bar);
    }
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.writes.lock().unwrap().push((bar, offset, data.to_vec()));
    }
    fn bar_moved(&self, bar: u8, base: Option<u64>) {
        self.moves.lock().unwrap().push((bar, base));
    }
    fn bus_master_changed(&self, enabled: bool) {
        self.bus_master.lock().unwrap().push(enabled);
    }
}

/// Records what the MSI-X logic asks for.
#[derive(Default)]
struct Recorder {
    messages: Mutex<BTreeMap<u16, MsiMessage>>,
    sent: Mutex<Vec<(u16, MsiMessage)>>,
}

impl MessageSink for Recorder {
    fn set_messages(&self, changes: &[(u16, MsiMessage)]) {
        self.messages.lock().unwrap().extend(changes.iter().copied());
    }
    fn send(&self, vector: u16) {
        let message = self.messages.lock().unwrap().get(&vector).copied().unwrap();
        self.sent.lock().unwrap().push((vector, message));
    }
}

struct ResetProbe(Mutex<Vec<u8>>);

impl BusDevice for ResetProbe {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn write(&self, _offset: u64, data: &[u8]) {
        self.0.lock().unwrap().extend(data);
    }
}

/// A bus with two functions: 00:04.0 has a 64-bit BAR 0 with MSI-X and I/O BAR 2, 00:05.0 a 32-bit BAR 0.
struct Setup {
    pio: Arc<Bus>,
    mmio: Arc<Bus>,
    pci: Arc<PciBus>,
    nvme: Arc<Probe>,
    other: Arc<Probe>,
    msix: Arc<Msix>,
    sink: Arc<Recorder>,
    reset: Arc<ResetProbe>,
}

const LAYOUT: MsixLayout = MsixLayout {
    vectors: 3,
    bar: 0,
    table_offset: 0x2000,
    pba_offset: 0x3000,
};
const BAR_SIZE: u64 = 0x4000;

fn probe(name: u8) -> Arc<Probe> {
    Arc::new(Probe {
        name,
        moves: Mutex::default(),
        bus_master: Mutex::default(),
        writes: Mutex::default(),
    })
}

fn setup() -> Setup {
    let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
    let pci = Arc::new(PciBus::new(&pio, &mmio));
    let (nvme, other, sink) = (probe(10), probe(20), Arc::new(Recorder::default()));
    let msix = Arc::new(Msix::new(LAYOUT, sink.clone()));
    let mut description = FunctionDescription {
        vendor_id: 0x1b36,
        device_id: 0x0010,
        class_code: [1, 8, 2],
        bars: [Some(Bar::memory64(BAR_SIZE)), None, Some(Bar::io(16)), None, None, None],
        ..FunctionDescription::default()
    };
    let function = PciFunction::new(description.clone(), msix.clone().into(), nvme.clone()).unwrap();
    pci.add(NVME, Arc::new(function)).unwrap();
    description.bars = [Some(Bar::memory32(0x1000)), None, None, None, None, None];
    pci.add(
        OTHER,
        Arc::new(PciFunction::new(description, Interrupts::default(), other.clone()).unwrap()),
    )
    .unwrap();
    let reset = Arc::new(ResetProbe(Mutex::default()));
    let ports = Arc::new(ConfigPorts::new(pci.clone(), reset.clone()));
    pio.insert(CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ports).unwrap();
    Setup {
        pio,
        mmio,
        pci,
        nvme,
        other,
        msix,
        sink,
        reset,
    }
}

impl Setup {
    fn select(&self, address: PciAddress, register: u8) {
        let place = u32::from(address.device()) << 11 | u32::from(address.function()) << 8;
        self.pio
            .write(0xcf8, &(1 << 31 | place | u32::from(register & 0xfc)).to_le_bytes());
    }

    fn read(&self, address: PciAddress, register: u8, data: &mut [u8]) {
        self.select(address, register);
        self.pio.read(0xcfc + u64::from(register & 3), data);
    }

    fn read_u32(&self, address: PciAddress, register: u8) -> u32 {
        let mut data = [0; 4];
        self.read(address, register, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, address: PciAddress, register: u8, data: &[u8]) {
        self.select(address, register);
        self.pio.write(0xcfc + u64::from(register & 3), data);
    }

    fn write_u32(&self, address: PciAddress, register: u8, value: u32) {
        self.write(address, register, &value.to_le_bytes());
    }

    fn memory_byte(&self, address: u64) -> u8 {
        let mut data = [0];
        self.mmio.read(address, &mut data);
        data[0]
    }

    fn assign(&self) {
        let resources = Resources {
            memory: 0xc000_0000..=0xfebf_ffff,
            ports: 0xc000..=0xffff,
        };
        self.pci.assign_resources(&resources).unwrap();
    }

    fn table_write(&self, vector: u64, register: u64, value: u32) {
        self.mmio
            .write(0xc000_2000 + 16 * vector + register, &value.to_le_bytes());
    }
}

#[test]
fn firmware_layout_decodes_every_bar() {
    let setup = setup();
    setup.assign();
    assert_eq!(setup.read_u32(NVME, 0x10), 0xc000_0004);
    assert_eq!(setup.read_u32(NVME, 0x18), 0xc001);
    assert_eq!(setup.read_u32(OTHER, 0x10), 0xc000_4000);
    assert_eq!(setup.read_u32(NVME, 4) & 0xffff, 7);
    assert_eq!(
        (setup.memory_byte(0xc000_1000), setup.memory_byte(0xc000_4fff)),
        (10, 20)
    );
    let mut byte = [0];
    setup.pio.read(0xc00f, &mut byte);
    assert_eq!(byte, [12]);
    assert_eq!(
        *setup.nvme.moves.lock().unwrap(),
        [(0, Some(0xc000_0000)), (2, Some(0xc000))]
    );
    assert_eq!(*setup.nvme.bus_master.lock().unwrap(), [true]);
}

#[test]
fn firmware_layout_fails_when_there_is_no_room() {
    let resources = Resources {
        memory: 0xc000_0000..=0xc000_3fff,
        ports: 0xc000..=0xffff,
    };
    assert_eq!(
        setup().pci.assign_resources(&resources),
        Err(PciError::NoRoom { address: OTHER, bar: 0 })
    );
}

#[test]
fn sizing_gives_the_size_and_leaves_no_trace_on_the_bus() {
    let setup = setup();
    setup.assign();
    for register in [0x10, 0x14] {
        setup.write_u32(NVME, register, u32::MAX);
    }
    assert_eq!(setup.read_u32(NVME, 0x10), !(BAR_SIZE as u32 - 1) | 4);
    assert_eq!(setup.read_u32(NVME, 0x14), u32::MAX);
    assert_eq!(setup.memory_byte(u64::MAX), 0xff);
    setup.write_u32(NVME, 0x18, u32::MAX);
    assert_eq!(setup.read_u32(NVME, 0x18), 0xffff_fff1);
    setup.write_u32(NVME, 0x24, u32::MAX);
    assert_eq!(setup.read_u32(NVME, 0x24), 0, "a BAR that is not there");
    setup.write_u32(NVME, 0x30, u32::MAX);
    assert_eq!(setup.read_u32(NVME, 0x30), 0, "no expansion ROM");
}

#[test]
fn a_bar_moves_while_the_machine_runs() {
    let setup = setup();
    setup.assign();
    setup.write_u32(NVME, 0x14, 0xe0);
    assert_eq!(
        (setup.memory_byte(0xc000_0000), setup.memory_byte(0xe0_c000_0000)),
        (0xff, 10)
    );
    setup.write(NVME, 4, &[5, 0]);
    assert_eq!(setup.memory_byte(0xe0_c000_0000), 0xff);
    setup.write(NVME, 4, &[7, 0]);
    assert_eq!(setup.memory_byte(0xe0_c000_3fff), 10);
    let moves = [(0, Some(0xe0_c000_0000)), (0, None), (0, Some(0xe0_c000_0000))];
    assert_eq!(setup.nvme.moves.lock().unwrap()[2..], moves);
}

#[test]
fn a_bar_of_zero_is_not_assigned() {
    let setup = setup();
    setup.assign();
    setup.write_u32(OTHER, 0x10, 0);
    assert_eq!(setup.memory_byte(0), 0xff);
    assert_eq!(setup.other.moves.lock().unwrap().last(), Some(&(0, None)));
}

#[test]
fn accesses_while_a_bar_moves_meet_the_device_or_nobody() {
    let setup = setup();
    setup.assign();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut met = 0;
                loop {
                    let last_round = stop.load(std::sync::atomic::Ordering::SeqCst);
                    for address in [0xd000_0000, 0xe000_0000] {
                        let byte = setup.memory_byte(address);
                        assert!(byte == 10 || byte == 0xff, "{byte}");
                        met += u32::from(byte == 10);
                    }
                    if last_round {
                        break met;
                    }
                }
            })
        });
        for _ in 0..1000 {
            setup.write_u32(NVME, 0x10, 0xd000_0000);
            setup.write_u32(NVME, 0x10, 0xe000_0000);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // In its last round at the latest each meets the device once.
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    assert_eq!(setup.nvme.moves.lock().unwrap().len(), 2002);
}

#[test]
fn two_bars_can_change_places_one_after_the_other() {
    let setup = setup();
    setup.assign();
    setup.write_u32(OTHER, 0x10, 0xc000_0000);
    assert_eq!(setup.memory_byte(0xc000_0000), 10, "the first function wins");
    setup.write_u32(NVME, 0x10, 0xc000_4000);
    assert_eq!(
        (setup.memory_byte(0xc000_0000), setup.memory_byte(0xc000_4000)),
        (20, 10)
    );
    assert_eq!(
        setup.other.moves.lock().unwrap()[1..],
        [(0, None), (0, Some(0xc000_0000))]
    );
}

#[test]
fn functions_that_are_not_there_read_all_ones() {
    let setup = setup();
    let nowhere = PciAddress::new(31, 7).unwrap();
    setup.write_u32(nowhere, 0x10, 1);
    assert_eq!(setup.read_u32(nowhere, 0), u32::MAX);
    setup.pio.write(0xcf8, &(1u32 << 31 | 1 << 16 | 4 << 11).to_le_bytes());
    let mut data = [0; 4];
    setup.pio.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4], "bus 1");
    setup.pio.write(0xcf8, &(4u32 << 11).to_le_bytes());
    setup.pio.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4], "not enabled");
}

#[test]
fn config_address_takes_whole_accesses_only_and_yields_0xcf9() {
    let setup = setup();
    setup.pio.write(0xcf8, &u32::MAX.to_le_bytes());
    setup.pio.write(0xcf8, &[0, 0]);
    setup.pio.write(0xcf9, &[6]);
    let (mut address, mut byte) = ([0; 4], [0]);
    setup.pio.read(0xcf8, &mut address);
    setup.pio.read(0xcf9, &mut byte);
    assert_eq!((u32::from_le_bytes(address), byte), (0x80ff_fffc, [0x5a]));
    assert_eq!(*setup.reset.0.lock().unwrap(), [6]);
}

#[test]
fn impossible_descriptions_are_refused() {
    let error = |bars, msix: Option<MsixLayout>| {
        let description = FunctionDescription {
            bars,
            ..FunctionDescription::default()
        };
        let msix = msix.map(|layout| Arc::new(Msix::new(layout, Arc::new(Recorder::default()))));
        let interrupts = Interrupts {
            msix,
            ..Interrupts::default()
        };
        PciFunction::new(description, interrupts, probe(0)).err().unwrap()
    };
    let bar = Some(Bar::memory64(0x4000));
    assert_eq!(
        error([None, None, None, None, None, bar], None),
        ConfigSpaceError::BadBar(5)
    );
    assert_eq!(
        error([bar, bar, None, None, None, None], None),
        ConfigSpaceError::BadBar(1)
    );
    assert_eq!(
        error([Some(Bar::memory32(0x1001)), None, None, None, None, None], None),
        ConfigSpaceError::BadBar(0)
    );
    let bars = [bar, None, None, None, None, None];
    let bad = |layout: MsixLayout| ConfigSpaceError::BadMsix {
        vectors: layout.vectors,
        bar: layout.bar,
    };
    for layout in [
        MsixLayout { bar: 1, ..LAYOUT },
        MsixLayout { vectors: 0, ..LAYOUT },
        MsixLayout {
            pba_offset: 0x2028,
            ..LAYOUT
        },
        MsixLayout {
            pba_offset: 0x4000,
            ..LAYOUT
        },
        MsixLayout {
            table_offset: 0x2004,
            ..LAYOUT
        },
    ] {
        assert_eq!(error(bars, Some(layout)), bad(layout));
    }
}

proptest! {
    /// Reads and writes of every size and alignment agree with a byte array and its mask of writable bits.
    #[test]
    fn config_space_agrees_with_a_byte_array(
        accesses in prop::collection::vec((any::<u8>(), 0..3u32, any::<u32>(), any::<bool>()), 1..80)
    ) {
        let setup = setup();
        let mut model: Vec<u8> = (0..=255).map(|register| {
            let mut byte = [0];
            setup.read(OTHER, register, &mut byte);
            byte[0]
        }).collect();
        let mut writable = [0u8; 256];
        writable[0x04..0x06].copy_from_slice(&0x0547u16.to_le_bytes());
        writable[0x0c..0x0e].fill(0xff);
        writable[0x10..0x14].copy_from_slice(&0xffff_f000u32.to_le_bytes());
        writable[0x3c] = 0xff;
        for (register, size, value, write) in accesses {
            // Within the four ports of CONFIG_DATA, as the guest can only reach one dword at a time.
            let length = (1usize << size).min(4 - usize::from(register & 3));
            let bytes = &value.to_le_bytes()[..length];
            let place = usize::from(register);
            if write {
                setup.write(OTHER, register, bytes);
                for (at, byte) in (place..).zip(bytes) {
                    model[at] = model[at] & !writable[at] | byte & writable[at];
                }
            }
            let mut read = vec![0; length];
            setup.read(OTHER, register, &mut read);
            prop_assert_eq!(&read[..], &model[place..place + length]);
        }
    }

    /// No port, register, address, length or value makes anything panic.
    #[test]
    fn hostile_accesses_are_harmless(
        accesses in prop::collection::vec((0xcf0..0xd08u64, 0..9usize, any::<u64>()), 1..60),
        memory in prop::collection::vec((0..BAR_SIZE + 8, 0..9usize, any::<u64>()), 1..60),
    ) {
        let setup = setup();
        setup.assign();
        for (offset, length, value) in memory {
            let mut data = value.to_le_bytes()[..length].to_vec();
            setup.mmio.write(0xc000_0000 + offset, &data);
            setup.mmio.read(0xc000_0000 + (offset & !0xfff), &mut data);
        }
        for (port, length, value) in accesses {
            let mut data = value.to_le_bytes()[..length].to_vec();
            setup.pio.write(0xcf8, &(1u32 << 31 | 4 << 11 | value as u32 & 0xfc).to_le_bytes());
            setup.pio.write(port, &data);
            setup.pio.read(port, &mut data);
        }
        setup.msix.signal(u16::MAX);
    }
}
