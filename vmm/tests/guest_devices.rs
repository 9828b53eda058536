//! Devices as a guest meets them: a long-mode guest moves a BAR, takes MSI-X interrupts from a device's own thread
//! through irqfd, finds a pending bit, rings a doorbell in the kernel, and switches the machine off by ACPI. Needs /dev/kvm.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]
#![expect(unsafe_code, reason = "the guest is assembled into this program")]

use std::arch::global_asm;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_ioctls::Kvm;
use storlock_vmm::boot::{BootInfo, BootRequest, KernelImage};
use storlock_vmm::doorbell::{Doorbell, DoorbellHost, DoorbellMatch, KvmDoorbells};
use storlock_vmm::pci::{Bar, FunctionDescription, Msix, MsixLayout, PciAddress, PciDevice, PciFunction};
use storlock_vmm::run::{Machine, MachineConfig, MachineStop};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where the guest sees the last gigabyte below 4 GiB: BARs and the local APIC.
const WINDOW: u64 = 0x80_0000_0000;
/// First guest-physical address of the window.
const WINDOW_PHYSICAL: u64 = 0xc000_0000;
/// Code selector of the loader.
const CODE_SELECTOR: u64 = 0x10;

// Pages of the guest image: code, interrupt descriptor table, page directory pointers, page directory, results.
global_asm!(
    r#"
    .pushsection .rodata.storlock_guest, "a"
    .balign 4096
    .globl storlock_guest_start, storlock_guest_end
storlock_guest_start:
    // The descriptor of the table is made here, as its address is only known now.
    lea rax, [rip + guest_idt]
    mov word ptr [rip + guest_idtr], 0xfff
    mov qword ptr [rip + guest_idtr + 2], rax
    lidt [rip + guest_idtr]
    mov rdi, 0x803ee00000           // local APIC in the window
    mov dword ptr [rdi + 0xf0], 0x1ff // spurious vector register: software enable
    // BAR 0 of 00:04.0 moves to 0xd0000000.
    mov eax, 0x80002010
    mov edx, 0xcf8
    out dx, eax
    mov eax, 0xd0000000
    mov edx, 0xcfc
    out dx, eax
    mov rbx, 0x8010000000           // the same in the window
    mov dword ptr [rbx + 16], 7     // a doorbell in the kernel: does not reach the device
    // Message control, the upper half of the dword at 0x40: enable MSI-X.
    mov eax, 0x80002040
    mov edx, 0xcf8
    out dx, eax
    mov eax, 0x8000
    mov edx, 0xcfe
    out dx, ax
    // Vector 1 sends 0x41, vector 2 will send 0x42 and stays masked.
    mov dword ptr [rbx + 0x1010], 0xfee00000
    mov dword ptr [rbx + 0x1014], 0
    mov dword ptr [rbx + 0x1018], 0x41
    mov dword ptr [rbx + 0x101c], 0
    mov dword ptr [rbx + 0x1020], 0xfee00000
    mov dword ptr [rbx + 0x1028], 0x42
    // Ask the device for vector 2, wait until it has signalled, and keep the pending bits.
    mov dword ptr [rbx], 2
2:  cmp dword ptr [rbx + 4], 1
    jne 2b
    mov eax, dword ptr [rbx + 0x1800]
    mov dword ptr [rip + guest_pending_bits], eax
    // Three interrupts by vector 1, each asked for when the one before has come.
    xor esi, esi
3:  mov dword ptr [rbx], 1
    inc esi
4:  cli
    cmp dword ptr [rip + guest_first_count], esi
    jae 5f
    sti
    hlt
    jmp 4b
5:  cmp esi, 3
    jb 3b
    // Unmask vector 2: what was pending comes now.
    mov eax, dword ptr [rip + guest_second_count]
    mov dword ptr [rip + guest_count_while_masked], eax
    mov dword ptr [rbx + 0x102c], 0
6:  cli
    cmp dword ptr [rip + guest_second_count], 1
    jae 7f
    sti
    hlt
    jmp 6b
7:  mov eax, dword ptr [rbx + 0x1800]
    mov dword ptr [rip + guest_bits_at_end], eax
    mov edx, 0xb004
    mov eax, 0x2000                 // SLP_EN with SLP_TYP 0
    out dx, ax
8:  hlt
    jmp 8b
guest_first_handler:
    inc dword ptr [rip + guest_first_count]
    mov dword ptr [rdi + 0xb0], 0   // end of interrupt
    iretq
guest_second_handler:
    inc dword ptr [rip + guest_second_count]
    mov dword ptr [rdi + 0xb0], 0
    iretq
    .balign 4096
guest_idt:
    .skip 4096
    .skip 8192                      // page tables
guest_results:
guest_first_count:      .long 0
guest_second_count:     .long 0
guest_pending_bits:     .long 0
guest_count_while_masked: .long 0xffffffff
guest_bits_at_end:      .long 0xffffffff
    .balign 8
guest_handlers:
    .quad guest_first_handler - storlock_guest_start
    .quad guest_second_handler - storlock_guest_start
guest_idtr:             .skip 16
storlock_guest_end:
    .popsection
"#
);

/// Page numbers of [`guest_image`].
const IDT_PAGE: u64 = 1;
const POINTERS_PAGE: u64 = 2;
const DIRECTORY_PAGE: u64 = 3;
const RESULTS_PAGE: u64 = 4;
/// Offset of the handlers' offsets in the results page.
const HANDLERS: u64 = 24;

fn guest_image() -> &'static [u8] {
    unsafe extern "C" {
        static storlock_guest_start: u8;
        static storlock_guest_end: u8;
    }
    let (start, end) = (&raw const storlock_guest_start, &raw const storlock_guest_end);
    // SAFETY: both symbols are in the same read-only section above, the end behind the start.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start).unsigned_abs()) }
}

/// Offset of the doorbell.
const DOORBELL: u64 = 16;

/// A write of `n` to offset 0 makes a thread of its own signal vector `n`; offset 4 reads how many were signalled; a
/// write to offset 16 is an event that user space is not told of.
struct Ringer {
    requests: Mutex<Sender<u16>>,
    signalled: Arc<Mutex<u32>>,
    doorbells: KvmDoorbells,
    doorbell: Mutex<Option<Doorbell>>,
    rung: EventFd,
}

impl Ringer {
    fn new(msix: Arc<Msix>, doorbells: KvmDoorbells, rung: EventFd) -> Arc<Self> {
        let (sender, receiver): (_, Receiver<u16>) = channel();
        let signalled = Arc::new(Mutex::new(0));
        let count = Arc::clone(&signalled);
        // Ends when the device, and with it the sender, goes.
        std::thread::spawn(move || {
            for vector in receiver {
                msix.signal(vector);
                *count.lock().unwrap() += 1;
            }
        });
        Arc::new(Self {
            requests: Mutex::new(sender),
            signalled,
            doorbells,
            doorbell: Mutex::default(),
            rung,
        })
    }
}

impl PciDevice for Ringer {
    fn bar_read(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        let value = if offset == 4 {
            *self.signalled.lock().unwrap()
        } else {
            u32::MAX
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8]) {
        assert_eq!(offset, 0, "the doorbell is in the kernel");
        self.requests.lock().unwrap().send(u16::from(data[0])).unwrap();
    }

    fn bar_moved(&self, _bar: u8, base: Option<u64>) {
        let mut doorbell = self.doorbell.lock().unwrap();
        if let Some(old) = doorbell.take() {
            self.doorbells.disconnect(old, &self.rung).unwrap();
        }
        *doorbell = base.map(|base| Doorbell {
            address: base + DOORBELL,
            matches: DoorbellMatch::Any,
        });
        if let Some(new) = *doorbell {
            self.doorbells.connect(new, &self.rung).unwrap();
        }
    }
}

/// Puts a [`Ringer`] at 00:04.0 whose doorbell adds to `rung`.
fn plug_ringer(machine: &Machine, rung: EventFd) {
    let layout = MsixLayout {
        vectors: 3,
        bar: 0,
        table_offset: 0x1000,
        pba_offset: 0x1800,
    };
    let msix = Arc::new(Msix::new(layout, machine.irq().message_vectors(3).unwrap()));
    let ringer = Ringer::new(Arc::clone(&msix), KvmDoorbells::new(Arc::clone(machine.vm())), rung);
    let description = FunctionDescription {
        vendor_id: 0x1234,
        device_id: 0x5678,
        class_code: [0xff, 0, 0],
        bars: [Some(Bar::memory64(0x2000)), None, None, None, None, None],
        ..FunctionDescription::default()
    };
    let function = PciFunction::new(description, msix.into(), ringer).unwrap();
    machine
        .pci()
        .add(PciAddress::new(4, 0).unwrap(), Arc::new(function))
        .unwrap();
}

/// Maps the window and points the vectors at their handlers.
fn finish_guest(machine: &Machine, info: &BootInfo) {
    let page = |number: u64| info.kernel_physical + number * 4096;
    let store = |address: u64, value: u64| machine.ram().write(address, &value.to_le_bytes()).unwrap();
    // Present and writable; the entry for the window in the page map level 4 is free.
    store(info.cr3 + 8 * (WINDOW >> 39), page(POINTERS_PAGE) | 3);
    store(page(POINTERS_PAGE), page(DIRECTORY_PAGE) | 3);
    for index in 0..512 {
        // 2 MiB pages, not cached.
        store(
            page(DIRECTORY_PAGE) + 8 * index,
            (WINDOW_PHYSICAL + (index << 21)) | 0x93,
        );
    }
    for index in 0..2 {
        let handler = info.kernel_base
            + machine
                .ram()
                .load_u64(page(RESULTS_PAGE) + HANDLERS + 8 * index)
                .unwrap();
        // A 64-bit interrupt gate (Intel SDM volume 3, figure 6-8).
        let low = (handler & 0xffff) | CODE_SELECTOR << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        store(page(IDT_PAGE) + 16 * (0x41 + index), low);
        store(page(IDT_PAGE) + 16 * (0x41 + index) + 8, handler >> 32);
    }
}

#[test]
fn a_guest_takes_msix_interrupts_by_irqfd_from_a_bar_that_it_moved() {
    let kvm = Kvm::new().expect("this test needs /dev/kvm");
    let config = MachineConfig {
        memory: 16 << 20,
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(&kvm, config).unwrap();
    let rung = EventFd::new(EFD_NONBLOCK).unwrap();
    plug_ringer(&machine, rung.try_clone().unwrap());
    let request = BootRequest {
        kernel: KernelImage::from_code("devices", guest_image()).unwrap(),
        files: Vec::new(),
        command_line: String::new(),
        seed: 1,
    };
    let info = machine.boot(&request).unwrap();
    finish_guest(&machine, &info);
    let running = machine.start().unwrap();
    let reason = running.wait(Some(Duration::from_secs(30)));
    assert!(
        matches!(reason, MachineStop::PowerOff),
        "{reason}: {:?}",
        results(&running, &info)
    );
    // Counts of both vectors, pending bits while vector 2 was masked, its count until then, pending bits at the end.
    assert_eq!(results(&running, &info), [3, 1, 0b100, 0, 0]);
    assert_eq!(rung.read().unwrap(), 1, "the doorbell");
}

fn results(running: &storlock_vmm::run::RunningMachine, info: &BootInfo) -> [u32; 5] {
    let mut bytes = [0; 20];
    running
        .ram()
        .read(info.kernel_physical + RESULTS_PAGE * 4096, &mut bytes)
        .unwrap();
    std::array::from_fn(|index| u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap()))
}
