//! Interrupt delivery by the real KVM, seen in the local APIC without running a guest. Needs /dev/kvm.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_irqchip, kvm_irqchip__bindgen_ty_1,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use storlock_vmm::doorbell::{Doorbell, DoorbellHost, DoorbellMatch, KvmDoorbells};
use storlock_vmm::irq::{InterruptLine, IrqError, IrqRouter, MessageSink, MsiMessage};
use vmm_sys_util::eventfd::EventFd;

/// Offsets of the local APIC (Intel SDM volume 3, table 11-1).
const SPURIOUS_VECTOR: usize = 0xf0;
const INTERRUPT_REQUEST: usize = 0x200;

fn machine() -> (Arc<VmFd>, VcpuFd, Arc<IrqRouter>) {
    let kvm = Kvm::new().expect("this test needs /dev/kvm");
    let vm = Arc::new(kvm.create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    // Software enable; the spurious vector does not matter.
    lapic.regs[SPURIOUS_VECTOR + 1] = 1;
    vcpu.set_lapic(&lapic).unwrap();
    let router = IrqRouter::new(Arc::clone(&vm)).unwrap();
    (vm, vcpu, router)
}

/// Whether the local APIC has a request for `vector`; delivery by irqfd may take a moment.
fn requested(vcpu: &VcpuFd, vector: u8) -> bool {
    let limit = Instant::now() + Duration::from_millis(500);
    loop {
        let lapic = vcpu.get_lapic().unwrap();
        let byte = lapic.regs[INTERRUPT_REQUEST + usize::from(vector / 32) * 0x10 + usize::from(vector / 8 % 4)];
        if byte.to_ne_bytes()[0] >> (vector % 8) & 1 != 0 {
            return true;
        }
        if Instant::now() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_message_reaches_the_local_apic_and_can_be_moved() {
    let (_vm, vcpu, router) = machine();
    let (first, second) = (router.message_vectors(2).unwrap(), router.message_vectors(3).unwrap());
    let message = |data| MsiMessage {
        address: 0xfee0_0000,
        data,
    };
    first.set_messages(&[(0, message(0x41)), (1, message(0x42))]);
    second.set_messages(&[(2, message(0x53))]);
    first.send(1);
    second.send(2);
    assert!(requested(&vcpu, 0x42) && requested(&vcpu, 0x53));
    first.set_messages(&[(0, message(0x61))]);
    first.send(0);
    assert!(requested(&vcpu, 0x61));
    assert!(!requested(&vcpu, 0x41));
}

#[test]
fn a_message_to_memory_or_an_unknown_vector_does_nothing() {
    let (_vm, vcpu, router) = machine();
    let vectors = router.message_vectors(1).unwrap();
    vectors.set_messages(&[(
        0,
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x41,
        },
    )]);
    vectors.set_messages(&[
        (
            0,
            MsiMessage {
                address: 0x1000,
                data: 0x41,
            },
        ),
        (9, MsiMessage::default()),
    ]);
    vectors.send(0);
    vectors.send(9);
    assert!(!requested(&vcpu, 0x41));
}

#[test]
fn vectors_are_given_out_until_the_table_is_full() {
    let (_vm, _vcpu, router) = machine();
    assert!(matches!(
        router.message_vectors(u16::MAX),
        Err(IrqError::NoRoom(u16::MAX))
    ));
    router.message_vectors(64).unwrap();
}

/// Has input `pin` of the I/O APIC send `vector` to APIC 0; all other inputs are masked.
fn route_pin(vm: &VmFd, pin: usize, vector: u8, level: bool) {
    let entry = |bits| kvm_ioapic_state__bindgen_ty_1 { bits };
    let mut ioapic = kvm_ioapic_state {
        base_address: 0xfec0_0000,
        redirtbl: [entry(1 << 16); 24],
        ..Default::default()
    };
    ioapic.redirtbl[pin] = entry(u64::from(vector) | u64::from(level) << 15);
    let chip = kvm_irqchip__bindgen_ty_1 { ioapic };
    vm.set_irqchip(&kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        chip,
        ..Default::default()
    })
    .unwrap();
}

#[test]
fn lines_reach_the_local_apic_by_the_default_routes() {
    let (vm, vcpu, router) = machine();
    route_pin(&vm, 4, 0x71, false);
    router.line(4).pulse();
    assert!(requested(&vcpu, 0x71));
    route_pin(&vm, 10, 0x72, true);
    router.line(10).set_level(true);
    assert!(requested(&vcpu, 0x72));
}

#[test]
fn doorbells_can_be_connected_once_and_taken_back() {
    let (vm, ..) = machine();
    let (doorbells, event) = (KvmDoorbells::new(vm), EventFd::new(0).unwrap());
    for matches in [
        DoorbellMatch::Any,
        DoorbellMatch::Word(1),
        DoorbellMatch::DoubleWord(1),
        DoorbellMatch::QuadWord(1),
    ] {
        let doorbell = Doorbell {
            address: 0xc000_1000,
            matches,
        };
        doorbells.connect(doorbell, &event).unwrap();
        assert!(doorbells.connect(doorbell, &event).is_err());
        doorbells.disconnect(doorbell, &event).unwrap();
        assert!(doorbells.disconnect(doorbell, &event).is_err());
    }
}
