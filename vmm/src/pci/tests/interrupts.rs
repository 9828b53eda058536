//! MSI, the pin, and which of the ways to interrupt is in use: registers, and a model of the rules.

use std::sync::Arc;

use proptest::prelude::*;

use super::{BAR_SIZE, LAYOUT, Probe, Recorder, probe};
use crate::bus::Bus;
use crate::devices::testing::LineProbe;
use crate::irq::{InterruptMode, MsiMessage};
use crate::pci::{
    Bar, Command, FunctionDescription, Interrupts, Intx, MSI_CAPABILITY_ID, MSIX_CAPABILITY_ID, Msi, Msix, PciAddress,
    PciBus, PciFunction, Resources,
};

const PLACE: PciAddress = match PciAddress::new(6, 0) {
    Some(address) => address,
    None => unreachable!(),
};
/// Offsets of the capabilities: MSI-X takes 12 bytes.
const MSIX: u8 = 0x40;
const MSI: u8 = 0x4c;
const MSI_ON: u8 = 1;

struct Setup {
    pci: PciBus,
    mmio: Arc<Bus>,
    _pio: Arc<Bus>,
    _device: Arc<Probe>,
    interrupts: Interrupts,
    line: Arc<LineProbe>,
    msi: Arc<Recorder>,
    msix: Arc<Recorder>,
}

fn setup() -> Setup {
    setup_with(Arc::default(), Arc::default())
}

fn setup_with(msi: Arc<Recorder>, msix: Arc<Recorder>) -> Setup {
    let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
    let line = Arc::<LineProbe>::default();
    let interrupts = Interrupts {
        msix: Some(Arc::new(Msix::new(LAYOUT, msix.clone()))),
        msi: Some(Arc::new(Msi::new(3, msi.clone()))),
        intx: Some(Arc::new(Intx::new(line.clone()))),
    };
    let description = FunctionDescription {
        bars: [Some(Bar::memory64(BAR_SIZE)), None, None, None, None, None],
        ..FunctionDescription::default()
    };
    let device = probe(10);
    let function = PciFunction::new(description, interrupts.clone(), device.clone()).unwrap();
    let pci = PciBus::new(&pio, &mmio);
    pci.add(PLACE, Arc::new(function)).unwrap();
    let resources = Resources {
        memory: 0xc000_0000..=0xfebf_ffff,
        ports: 0xc000..=0xffff,
    };
    pci.assign_resources(&resources).unwrap();
    Setup {
        pci,
        mmio,
        _pio: pio,
        _device: device,
        interrupts,
        line,
        msi,
        msix,
    }
}

impl Setup {
    fn read(&self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.pci.config_read(PLACE, offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u8, data: &[u8]) {
        self.pci.config_write(PLACE, offset, data);
    }

    fn enable_msi(&self, messages_log2: u8) {
        self.write(MSI + 4, &0xfee0_1000u32.to_le_bytes());
        self.write(MSI + 12, &0x51u16.to_le_bytes());
        self.write(MSI + 2, &[MSI_ON | messages_log2 << 4]);
    }

    fn sent(&self) -> Vec<u32> {
        let mut sent = self.msi.sent.lock().unwrap();
        std::mem::take(&mut *sent)
            .iter()
            .map(|(_, message)| message.data)
            .collect()
    }

    fn status(&self) -> bool {
        self.read(4) >> 19 & 1 != 0
    }
}

#[test]
fn the_capabilities_and_the_pin_are_announced() {
    let setup = setup();
    assert_eq!(setup.read(0x34) as u8, MSIX);
    assert_eq!(
        setup.read(MSIX) & 0xffff,
        u32::from(MSI) << 8 | u32::from(MSIX_CAPABILITY_ID)
    );
    // 64-bit, 4 messages for 3 vectors, no masks.
    assert_eq!(setup.read(MSI), 0x0084_0000 | u32::from(MSI_CAPABILITY_ID));
    assert_eq!(setup.read(0x3c), 0x100);
    assert_eq!([1, 2, 3, 17, 33, 65].map(Msi::messages_for), [1, 2, 4, 32, 32, 32]);
}

#[test]
fn msi_registers_keep_what_they_have() {
    let setup = setup();
    for offset in (MSI..MSI + 16).step_by(4) {
        setup.write(offset, &[0xff; 4]);
    }
    assert_eq!(setup.read(MSI), 0x00f5_0000 | u32::from(MSI_CAPABILITY_ID));
    assert_eq!((setup.read(MSI + 4), setup.read(MSI + 8)), (0xffff_fffc, u32::MAX));
    assert_eq!(setup.read(MSI + 12), 0xffff);
    assert_eq!(
        setup.interrupts.mode(),
        InterruptMode::Msi { messages: 4 },
        "no more than it has"
    );
}

#[test]
fn each_message_has_its_number_in_the_low_bits_of_the_data() {
    let setup = setup();
    setup.enable_msi(2);
    (0..4).for_each(|vector| setup.interrupts.signal(vector));
    assert_eq!(setup.sent(), [0x50, 0x51, 0x52, 0x53]);
    assert_eq!(setup.msi.messages.lock().unwrap()[&3].address, 0xfee0_1000);
    setup.enable_msi(1);
    (0..4).for_each(|vector| setup.interrupts.signal(vector));
    assert_eq!(setup.sent(), [0x50, 0x51, 0x50, 0x51], "two were allocated");
    setup.enable_msi(0);
    setup.interrupts.signal(2);
    assert_eq!(setup.sent(), [0x51], "the data as it is");
    setup.write(MSI + 2, &[0]);
    setup.interrupts.signal(0);
    assert!(setup.sent().is_empty());
}

#[test]
fn an_msi_message_waits_for_bus_mastering() {
    let setup = setup();
    setup.enable_msi(2);
    setup.write(4, &[3, 0]);
    setup.interrupts.signal(1);
    setup.interrupts.signal(1);
    assert!(setup.sent().is_empty());
    setup.write(4, &[7, 0]);
    assert_eq!(setup.sent(), [0x51], "one, as a pending bit would");
}

#[test]
fn both_kinds_of_message_can_share_a_sink() {
    let sink = Arc::<Recorder>::default();
    let setup = setup_with(sink.clone(), sink);
    setup.mmio.write(0xc000_2000, &0xfee0_2000u32.to_le_bytes());
    setup.mmio.write(0xc000_2008, &0x61u32.to_le_bytes());
    setup.mmio.write(0xc000_200c, &[0; 4]);
    for _ in 0..2 {
        setup.enable_msi(0);
        setup.interrupts.signal(0);
        assert_eq!(setup.sent(), [0x51]);
        // Both on: MSI-X wins.
        setup.write(MSIX + 3, &[0x80]);
        setup.interrupts.signal(0);
        assert_eq!(setup.sent(), [0x61]);
        setup.write(MSI + 2, &[0]);
        setup.interrupts.signal(0);
        assert_eq!(setup.sent(), [0x61]);
        setup.write(MSIX + 3, &[0]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pending(bool),
    Signal(u16),
    Command(u16),
    Msi(u8),
    Msix(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Pending),
        any::<u16>().prop_map(|vector| Step::Signal(vector % 8)),
        any::<u16>().prop_map(Step::Command),
        any::<u8>().prop_map(Step::Msi),
        prop::sample::select(vec![0u8, 0x80, 0xff]).prop_map(Step::Msix),
    ]
}

proptest! {
    /// At every moment the line is asserted if and only if the device is pending, the guest has not disabled the pin, and
    /// no kind of message is on; the status bit does not heed the disable bit; each message goes the one way that is on.
    #[test]
    fn one_way_is_in_use_at_a_time(steps in prop::collection::vec(step(), 1..80)) {
        let setup = setup();
        (0..3u64).for_each(|vector| setup.mmio.write(0xc000_200c + 16 * vector, &[0; 4]));
        let (mut pending, mut command, mut msi, mut msix) = (false, 7u16, 0u8, 0u8);
        for step in steps {
            let (mut by_msi, mut by_msix) = (0, 0);
            match step {
                Step::Pending(level) => {
                    pending = level;
                    setup.interrupts.set_level(level);
                }
                Step::Signal(vector) => {
                    by_msix = usize::from(msix & 0x80 != 0 && vector < 3 && msix & 0x40 == 0);
                    by_msi = usize::from(msi & MSI_ON != 0 && msix & 0x80 == 0);
                    setup.interrupts.signal(vector);
                }
                // Bus mastering and decoding stay on: what waits for them has tests of its own.
                Step::Command(value) => {
                    command = value | 7;
                    setup.write(4, &command.to_le_bytes());
                }
                Step::Msi(control) => {
                    msi = control;
                    setup.write(MSI + 2, &[control]);
                }
                Step::Msix(control) => {
                    // What the function mask held back is not this test's business.
                    setup.write(MSIX + 3, &[control]);
                    msix = control;
                }
            }
            let superseded = msi & MSI_ON != 0 || msix & 0x80 != 0;
            let disabled = command & Command::INTERRUPT_DISABLE.bits() != 0;
            prop_assert_eq!(setup.line.level(), pending && !disabled && !superseded);
            prop_assert_eq!(setup.status(), pending && !superseded);
            let sent = |recorder: &Recorder| std::mem::take(&mut *recorder.sent.lock().unwrap()).len();
            prop_assert_eq!(sent(&setup.msi), by_msi);
            let through_msix = sent(&setup.msix);
            if let Step::Signal(_) = step {
                prop_assert_eq!(through_msix, by_msix);
            }
        }
    }

    /// Whatever is written to the capability, messages stay within those that the function has.
    #[test]
    fn hostile_msi_registers_are_harmless(
        writes in prop::collection::vec((MSI..MSI + 16, any::<u32>()), 1..40), vector in any::<u16>()
    ) {
        let setup = setup();
        for (offset, value) in writes {
            setup.write(offset, &value.to_le_bytes());
            setup.interrupts.signal(vector);
            let messages: Vec<MsiMessage> = setup.msi.messages.lock().unwrap().values().copied().collect();
            prop_assert!(messages.len() <= 4);
        }
    }
}
