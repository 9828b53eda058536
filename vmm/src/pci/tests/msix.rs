//! MSI-X against a model of its rules.

use proptest::prelude::*;

use super::{NVME, setup};
use crate::irq::MsiMessage;

#[test]
fn msix_is_announced_and_sends_what_the_table_says() {
    let setup = setup();
    setup.assign();
    let pointer = setup.read_u32(NVME, 0x34) as u8;
    assert_eq!(setup.read_u32(NVME, pointer), 0x0002_0011);
    assert_eq!(
        (setup.read_u32(NVME, pointer + 4), setup.read_u32(NVME, pointer + 8)),
        (0x2000, 0x3000)
    );
    setup.table_write(1, 0, 0xfee0_0003);
    setup.table_write(1, 8, 0x41);
    setup.table_write(1, 12, 0);
    setup.msix.signal(1);
    assert!(setup.sink.sent.lock().unwrap().is_empty(), "not enabled yet");
    setup.write(NVME, pointer + 2, &[0, 0x80]);
    setup.msix.signal(1);
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 0x41,
    };
    assert_eq!(*setup.sink.sent.lock().unwrap(), [(1, message)]);
    assert!(
        setup.nvme.writes.lock().unwrap().is_empty(),
        "the device does not see the table"
    );
}

#[test]
fn no_message_leaves_before_bus_mastering_is_on() {
    let setup = setup();
    setup.assign();
    setup.table_write(0, 12, 0);
    setup.write(NVME, 0x42, &[0, 0x80]);
    setup.write(NVME, 4, &[3, 0]);
    setup.msix.signal(0);
    assert!(setup.sink.sent.lock().unwrap().is_empty());
    setup.write(NVME, 4, &[7, 0]);
    assert_eq!(setup.sink.sent.lock().unwrap().len(), 1);
}

/// One step of guest or device against the MSI-X logic.
#[derive(Debug, Clone)]
enum Step {
    Signal(u16),
    Mask(u16, bool),
    Data(u16, u32),
    Control { enabled: bool, masked: bool },
    BusMaster(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4u16).prop_map(Step::Signal),
        3 => (0..3u16, any::<bool>()).prop_map(|(vector, masked)| Step::Mask(vector, masked)),
        1 => (0..3u16, 0..4u32).prop_map(|(vector, data)| Step::Data(vector, data)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(enabled, masked)| Step::Control { enabled, masked }),
        1 => any::<bool>().prop_map(Step::BusMaster),
    ]
}

/// The rules of PCI 6.8.2 and nothing else.
#[derive(Default)]
struct MsixModel {
    enabled: bool,
    function_masked: bool,
    bus_master: bool,
    unmasked: [bool; 3],
    pending: [bool; 3],
    data: [u32; 3],
    sent: Vec<(u16, u32)>,
}

impl MsixModel {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Signal(vector) if vector < 3 && self.enabled => self.pending[usize::from(vector)] = true,
            Step::Signal(_) => {}
            Step::Mask(vector, masked) => self.unmasked[usize::from(vector)] = !masked,
            Step::Data(vector, data) => self.data[usize::from(vector)] = data,
            Step::Control { enabled, masked } => (self.enabled, self.function_masked) = (enabled, masked),
            Step::BusMaster(on) => self.bus_master = on,
        }
        for vector in 0..3 {
            let open = self.enabled && self.bus_master && !self.function_masked && self.unmasked[vector];
            if open && std::mem::take(&mut self.pending[vector]) {
                self.sent.push((vector as u16, self.data[vector]));
            }
        }
    }
}

proptest! {
    /// Masks, pending bits and messages are as the model says after every step.
    #[test]
    fn msix_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let (setup, mut model) = (setup(), MsixModel { bus_master: true, ..MsixModel::default() });
        setup.assign();
        for step in &steps {
            model.apply(step);
            match *step {
                Step::Signal(vector) => setup.msix.signal(vector),
                Step::Mask(vector, masked) => setup.table_write(u64::from(vector), 12, u32::from(masked)),
                Step::Data(vector, data) => setup.table_write(u64::from(vector), 8, data),
                Step::Control { enabled, masked } => {
                    setup.write(NVME, 0x43, &[u8::from(enabled) << 7 | u8::from(masked) << 6]);
                }
                Step::BusMaster(on) => setup.write(NVME, 4, &[3 | u8::from(on) << 2]),
            }
            let pending = (0..3).map(|vector| u8::from(model.pending[vector]) << vector).sum::<u8>();
            prop_assert_eq!(setup.memory_byte(0xc000_3000), pending);
            let sent: Vec<_> = setup.sink.sent.lock().unwrap().iter().map(|(vector, m)| (*vector, m.data)).collect();
            prop_assert_eq!(&sent, &model.sent);
        }
    }
}
