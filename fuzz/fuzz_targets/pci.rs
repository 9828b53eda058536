//! PCI configuration space through its ports, and the BARs that it moves, by a hostile guest.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::bus::{Bus, BusDevice};
use storlock_vmm::irq::{InterruptLine, InterruptMode, MessageSink, MsiMessage};
use storlock_vmm::pci::{
    Bar, CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ConfigPorts, FunctionDescription, Interrupts, Intx, Msi, Msix,
    MsixLayout, PciAddress, PciBus, PciDevice, PciFunction, Resources,
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
    Pin(bool),
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

/// Takes messages of so many vectors.
struct Sink(u16);

impl MessageSink for Sink {
    fn set_messages(&self, changes: &[(u16, MsiMessage)]) {
        assert!(changes.iter().all(|(vector, _)| *vector < self.0));
    }
    fn send(&self, vector: u16) {
        assert!(vector < self.0);
    }
}

#[derive(Default)]
struct Line(AtomicBool);

impl InterruptLine for Line {
    fn set_level(&self, asserted: bool) {
        self.0.store(asserted, Ordering::Relaxed);
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
    interrupts: Interrupts,
    line: Arc<Line>,
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
        let line = Arc::<Line>::default();
        let interrupts = Interrupts {
            msix: Some(Arc::new(Msix::new(layout, Arc::new(Sink(VECTORS))))),
            msi: Some(Arc::new(Msi::new(VECTORS, Arc::new(Sink(Msi::messages_for(VECTORS)))))),
            intx: Some(Arc::new(Intx::new(Arc::clone(&line) as _))),
        };
        let mut description = FunctionDescription {
            bars: [Some(Bar::memory64(BAR_SIZE)), None, Some(Bar::io(16)), None, None, None],
            ..FunctionDescription::default()
        };
        let first = PciFunction::new(description.clone(), interrupts.clone(), Arc::new(Device));
        description.bars = [Some(Bar::memory32(0x1000)), None, None, None, None, None];
        let second = PciFunction::new(description, Interrupts::default(), Arc::new(Device));
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
        Self {
            pio,
            mmio,
            interrupts,
            line,
        }
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
            Step::Signal(vector) => self.interrupts.signal(vector.into()),
            Step::Pin(level) => self.interrupts.set_level(level),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let bench = Bench::new();
    for step in steps.iter().take(256) {
        bench.step(step);
        let by_message = bench.interrupts.mode() != InterruptMode::Intx;
        assert!(
            !(by_message && bench.line.0.load(Ordering::Relaxed)),
            "one way at a time"
        );
    }
});
