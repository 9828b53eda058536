//! PCI configuration space through its ports, and the BARs that it moves, by a hostile guest.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::bus::{Bus, BusDevice};
use storlock_vmm::irq::{MessageSink, MsiMessage};
use storlock_vmm::pci::{
    Bar, CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ConfigPorts, FunctionDescription, Msix, MsixLayout, PciAddress,
    PciBus, PciDevice, PciFunction, Resources,
};

const VECTORS: u16 = 3;
const BAR_SIZE: u64 = 0x4000;

#[derive(Debug, Arbitrary)]
enum Step {
    Select { device: u8, register: u8, raw: Option<u32> },
    PortWrite { port: u8, data: [u8; 4], length: u8 },
    PortRead { port: u8, length: u8 },
    MemoryWrite { offset: u16, data: [u8; 8], length: u8 },
    MemoryRead { offset: u16, length: u8 },
    Signal(u8),
}

struct Device;

impl PciDevice for Device {
    fn bar_read(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= BAR_SIZE);
    }
    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= BAR_SIZE);
    }
    fn bar_moved(&self, _bar: u8, _base: Option<u64>) {}
    fn bus_master_changed(&self, _enabled: bool) {}
}

struct Sink;

impl MessageSink for Sink {
    fn set_messages(&self, changes: &[(u16, MsiMessage)]) {
        assert!(changes.iter().all(|(vector, _)| *vector < VECTORS));
    }
    fn send(&self, vector: u16) {
        assert!(vector < VECTORS);
    }
}

struct NoReset;

impl BusDevice for NoReset {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, _data: &[u8]) {}
}

struct Bench {
    pio: Arc<Bus>,
    mmio: Arc<Bus>,
    msix: Arc<Msix>,
}

impl Bench {
    fn new() -> Self {
        let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
        let pci = Arc::new(PciBus::new(&pio, &mmio));
        let layout = MsixLayout {
            vectors: VECTORS,
            bar: 0,
            table_offset: 0x2000,
            pba_offset: 0x3000,
        };
        let msix = Arc::new(Msix::new(layout, Arc::new(Sink)));
        let mut description = FunctionDescription {
            bars: [Some(Bar::memory64(BAR_SIZE)), None, Some(Bar::io(16)), None, None, None],
            ..FunctionDescription::default()
        };
        let first = PciFunction::new(description.clone(), Some(Arc::clone(&msix)), Arc::new(Device));
        description.bars = [Some(Bar::memory32(0x1000)), None, None, None, None, None];
        let second = PciFunction::new(description, None, Arc::new(Device));
        for (device, function) in [(4, first), (5, second)] {
            let address = PciAddress::new(device, 0).expect("an address");
            pci.add(address, Arc::new(function.expect("a function"))).expect("room");
        }
        let resources = Resources {
            memory: 0xc000_0000..=0xfebf_ffff,
            ports: 0xc000..=0xffff,
        };
        pci.assign_resources(&resources).expect("room");
        let ports = Arc::new(ConfigPorts::new(pci, Arc::new(NoReset)));
        pio.insert(CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ports)
            .expect("free ports");
        Self { pio, mmio, msix }
    }

    fn step(&self, step: &Step) {
        let port = |port: u8| CONFIG_PORTS_BASE + u64::from(port % 8);
        let memory = |offset: u16| 0xc000_0000 + u64::from(offset);
        match *step {
            Step::Select { device, register, raw } => {
                let place = 1 << 31 | u32::from(device % 8) << 11 | u32::from(register & 0xfc);
                let place = raw.unwrap_or(place);
                self.pio.write(CONFIG_PORTS_BASE, &place.to_le_bytes());
            }
            Step::PortWrite { port: at, data, length } => {
                self.pio.write(port(at), &data[..1 + usize::from(length % 4)]);
            }
            Step::PortRead { port: at, length } => {
                self.pio.read(port(at), &mut [0; 4][..1 + usize::from(length % 4)]);
            }
            Step::MemoryWrite { offset, data, length } => {
                self.mmio.write(memory(offset), &data[..1 + usize::from(length % 8)]);
            }
            Step::MemoryRead { offset, length } => {
                self.mmio
                    .read(memory(offset), &mut [0; 8][..1 + usize::from(length % 8)]);
            }
            Step::Signal(vector) => self.msix.signal(u16::from(vector) % VECTORS),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let bench = Bench::new();
    for step in steps.iter().take(256) {
        bench.step(step);
    }
});
