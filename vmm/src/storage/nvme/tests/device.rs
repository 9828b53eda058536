//! Tests of the PCI function and its worker: threads, events, pause and stop. They need no KVM: what it would do is
//! injected.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::IntoBytes;

use super::harness::*;
use crate::bus::Bus;
use crate::devices::testing::LineProbe;
use crate::doorbell::{Doorbell, DoorbellHost, DoorbellMatch};
use crate::irq::{MessageSink, MsiMessage};
use crate::pci::{PciAddress, PciBus, Resources};
use crate::sandbox::Sandbox;
use crate::storage::backend::{Backend, BackendError, MemoryBackend};
use crate::storage::nvme::ranges::PIECE;
use crate::storage::nvme::spec::command::DatasetRange;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::{NvmeConfig, NvmeConfigError, NvmeDevice};
use crate::storage::{Connections, ControllerError, InterruptKind, StorageDevice};

const LIMIT: Duration = Duration::from_secs(20);

/// Vectors in the order in which their messages were sent.
#[derive(Default)]
struct Messages(Mutex<Vec<u16>>);

impl MessageSink for Messages {
    fn set_messages(&self, _: &[(u16, MsiMessage)]) {}
    fn send(&self, vector: u16) {
        self.0.lock().unwrap().push(vector);
    }
}

/// Doorbells in the kernel, without a kernel.
#[derive(Default)]
struct Doorbells {
    connected: Mutex<BTreeSet<u64>>,
    event: Mutex<Option<EventFd>>,
    room: Mutex<Option<usize>>,
}

impl DoorbellHost for Doorbells {
    fn connect(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let mut connected = self.connected.lock().unwrap();
        if self.room.lock().unwrap().is_some_and(|room| connected.len() >= room) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        assert_eq!(doorbell.matches, DoorbellMatch::Any);
        assert!(connected.insert(doorbell.address), "connected twice");
        *self.event.lock().unwrap() = Some(event.try_clone()?);
        Ok(())
    }

    fn disconnect(&self, doorbell: Doorbell, _: &EventFd) -> io::Result<()> {
        assert!(
            self.connected.lock().unwrap().remove(&doorbell.address),
            "was not connected"
        );
        Ok(())
    }
}

struct Bench {
    memory: GuestMemoryMmap,
    device: StorageDevice,
    failed: Receiver<String>,
    messages: Arc<Messages>,
    pin: Arc<LineProbe>,
    doorbells: Arc<Doorbells>,
    pci: PciBus,
    mmio: Arc<Bus>,
    _pio: Arc<Bus>,
}

const WINDOW: u64 = 0xc000_0000;

impl Bench {
    fn new(backend: Box<dyn Backend>) -> Self {
        Self::with_faults(backend, Vec::new())
    }

    fn with_faults(backend: Box<dyn Backend>, faults: Vec<Fault>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let (sender, failed) = std::sync::mpsc::channel();
        let sender = Mutex::new(sender);
        let (messages, doorbells) = (Arc::<Messages>::default(), Arc::<Doorbells>::default());
        let pin = Arc::<LineProbe>::default();
        let config = NvmeConfig {
            queue_pairs: 4,
            faults,
            ..NvmeConfig::default()
        };
        let connections = Connections {
            memory: memory.clone(),
            pin: Arc::clone(&pin) as _,
            vectors: Box::new({
                let messages = Arc::clone(&messages);
                move |_| Ok(messages)
            }),
            doorbells: Arc::clone(&doorbells) as _,
            sandbox: Sandbox::none(),
            on_failure: Box::new(move |what| drop(sender.lock().unwrap().send(what))),
        };
        let device = NvmeDevice::new(config, vec![backend], connections).unwrap();
        let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
        let pci = PciBus::new(&pio, &mmio);
        pci.add(Self::address(), Arc::clone(&device.function)).unwrap();
        let resources = Resources {
            memory: WINDOW..=0xfebf_ffff,
            ports: 0xc000..=0xffff,
        };
        pci.assign_resources(&resources).unwrap();
        // MSI-X on, all vectors unmasked.
        pci.config_write(Self::address(), Self::msix(&pci) + 3, &[0x80]);
        for vector in 0..5 {
            mmio.write(WINDOW + 0x2000 + 16 * vector, &0xfee0_0000u32.to_le_bytes());
            mmio.write(WINDOW + 0x200c + 16 * vector, &[0; 4]);
        }
        Self {
            memory,
            device,
            failed,
            messages,
            pin,
            doorbells,
            pci,
            mmio,
            _pio: pio,
        }
    }

    fn address() -> PciAddress {
        PciAddress::new(4, 0).unwrap()
    }

    fn msix(pci: &PciBus) -> u8 {
        let mut pointer = [0];
        pci.config_read(Self::address(), 0x34, &mut pointer);
        pointer[0]
    }

    fn config(&self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.pci.config_read(Self::address(), offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.mmio.write(WINDOW + offset, &value.to_le_bytes());
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(WINDOW + offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[track_caller]
    fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !what(self) {
            assert!(start.elapsed() < LIMIT, "nothing happens");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn enable(&self) {
        self.write(0x24, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
        self.write(0x28, ADMIN_SQ as u32);
        self.write(0x30, ADMIN_CQ as u32);
        self.write(0x14, CC_ENABLE);
        self.wait_for(|bench| bench.read(0x1c) == 1);
    }

    fn put_command(&self, ring: u64, slot: u32, command: SubmissionEntry) {
        let command = SubmissionEntry {
            command_id: (slot as u16).into(),
            ..command
        };
        self.memory
            .write_slice(command.as_bytes(), GuestAddress(ring + 64 * u64::from(slot)))
            .unwrap();
    }

    /// The status and phase of an entry of a completion queue.
    fn completion(&self, ring: u64, slot: u32) -> u16 {
        self.memory
            .read_obj(GuestAddress(ring + 16 * u64::from(slot) + 14))
            .unwrap()
    }

    fn messages(&self) -> usize {
        self.messages.0.lock().unwrap().len()
    }

    /// Runs the `slot`-th admin command.
    fn admin(&self, slot: u32, command: SubmissionEntry) {
        self.put_command(ADMIN_SQ, slot, command);
        self.write(0x1000, slot + 1);
        self.wait_for(|bench| bench.completion(ADMIN_CQ, slot) == 1);
    }

    /// Queue pair 1, with the first two admin commands.
    fn create_queue_pair(&self) {
        let (sq, cq) = Driver::queue_addresses(1);
        let size = 1 | (IO_ENTRIES - 1) << 16;
        self.admin(0, create_cq(cq, size, 3 | 1 << 16));
        self.admin(1, create_sq(sq, size, 1 | 1 << 16));
    }
}

fn disk() -> Box<dyn Backend> {
    Box::new(MemoryBackend::new(DISK))
}

#[test]
fn the_function_is_an_nvm_express_controller() {
    let bench = Bench::new(disk());
    assert_eq!(bench.config(0x08) >> 8, 0x0001_0802, "class code");
    assert_eq!(bench.config(0x00), 0x10f0_1af4);
    assert_eq!(bench.config(0x3c) >> 8 & 0xff, 1, "INTA#");
    assert_eq!(bench.config(0x10), WINDOW as u32 | 4, "64-bit BAR 0");
    let msix = Bench::msix(&bench.pci);
    assert_eq!(bench.config(msix) >> 16 & 0x7ff, 4, "five vectors");
    assert_eq!((bench.config(msix + 4), bench.config(msix + 8)), (0x2000, 0x3000));
}

#[test]
fn commands_run_on_the_worker_and_interrupt() {
    let bench = Bench::new(disk());
    bench.enable();
    bench.create_queue_pair();
    let (sq, cq) = Driver::queue_addresses(1);
    bench.put_command(sq, 0, blocks(nvm::READ, 0, 1));
    bench.write(0x1008, 1);
    bench.wait_for(|bench| bench.completion(cq, 0) == 1);
    bench.wait_for(|bench| bench.messages() == 3);
    assert_eq!(*bench.messages.0.lock().unwrap(), [0, 0, 1]);
}

#[test]
fn a_paused_worker_touches_nothing_and_then_goes_on() {
    let bench = Bench::new(disk());
    bench.enable();
    bench.device.worker.request_pause();
    bench.device.worker.request_pause();
    bench.device.worker.wait_paused();
    bench.put_command(ADMIN_SQ, 0, identify(1, 0));
    bench.write(0x1000, 1);
    assert_eq!(bench.read(0x1c), 1, "registers answer");
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!((bench.completion(ADMIN_CQ, 0), bench.messages()), (0, 0));
    bench.device.worker.resume();
    bench.wait_for(|bench| bench.completion(ADMIN_CQ, 0) == 1);
    bench.device.worker.resume();
}

/// A backend whose reads and zeroes wait until they are let go, and count themselves first.
struct Slow {
    gate: Arc<Mutex<()>>,
    begun: Arc<AtomicUsize>,
}

impl Slow {
    fn wait(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
    }
}

impl Backend for Slow {
    fn len(&self) -> u64 {
        8 * PIECE
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), BackendError> {
        self.wait();
        Ok(())
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BackendError> {
        Err(BackendError::ReadOnly)
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> Result<(), BackendError> {
        self.wait();
        Ok(())
    }
}

/// A controller with a queue pair on a backend that waits at `gate`, and how many calls of the backend have begun.
fn slow_bench(gate: &Arc<Mutex<()>>) -> (Bench, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let bench = Bench::new(Box::new(Slow {
        gate: Arc::clone(gate),
        begun: Arc::clone(&begun),
    }));
    bench.enable();
    bench.create_queue_pair();
    (bench, begun)
}

#[test]
fn a_pause_waits_for_the_command_in_hand_only_and_vcpus_never_wait() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let (bench, begun) = slow_bench(&gate);
    let (sq, cq) = Driver::queue_addresses(1);
    for slot in 0..3 {
        bench.put_command(sq, slot, blocks(nvm::READ, 0, 1));
    }
    bench.write(0x1008, 3);
    bench.wait_for(|_| begun.load(Ordering::SeqCst) == 1);
    // The worker hangs in the backend; registers answer and doorbells are taken.
    assert_eq!(bench.read(0x1c), 1);
    bench.write(0x100c, 0);
    bench.device.worker.request_pause();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| bench.device.worker.wait_paused());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiter.is_finished(), "a command is in hand");
        drop(held);
        waiter.join().unwrap();
    });
    assert_eq!(
        (bench.completion(cq, 0), bench.completion(cq, 1)),
        (1, 0),
        "one command, not three"
    );
    bench.device.worker.resume();
    bench.wait_for(|bench| bench.completion(cq, 2) == 1);
}

#[test]
fn a_pause_waits_for_one_piece_of_a_deallocated_disk() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let (bench, begun) = slow_bench(&gate);
    let (sq, cq) = Driver::queue_addresses(1);
    let disk = DatasetRange {
        attributes: 0.into(),
        length: ((8 * PIECE / 512) as u32).into(),
        starting_lba: 0.into(),
    };
    bench.memory.write_slice(disk.as_bytes(), GuestAddress(DATA)).unwrap();
    let command = SubmissionEntry {
        dword10: 0.into(),
        dword11: 4.into(),
        ..blocks(nvm::DATASET_MANAGEMENT, 0, 1)
    };
    bench.put_command(sq, 0, command);
    bench.write(0x1008, 1);
    bench.wait_for(|_| begun.load(Ordering::SeqCst) == 1);
    bench.device.worker.request_pause();
    drop(held);
    bench.device.worker.wait_paused();
    assert_eq!(begun.load(Ordering::SeqCst), 1, "the second piece did not begin");
    assert_eq!(bench.completion(cq, 0), 0);
    bench.device.worker.resume();
    bench.wait_for(|bench| bench.completion(cq, 0) == 1);
    assert_eq!(begun.load(Ordering::SeqCst), 8);
}

#[test]
fn stopping_ends_the_thread_even_in_a_pause() {
    let bench = Bench::new(disk());
    bench.enable();
    bench.device.worker.request_pause();
    bench.device.worker.wait_paused();
    bench.device.worker.stop();
    bench.put_command(ADMIN_SQ, 0, identify(1, 0));
    bench.write(0x1000, 1);
    assert_eq!(bench.completion(ADMIN_CQ, 0), 0);
    // At rest for ever: nobody hangs on a thread that is gone.
    bench.device.worker.wait_paused();
}

#[test]
fn bus_mastering_gates_the_worker() {
    let bench = Bench::new(disk());
    bench.enable();
    bench.pci.config_write(Bench::address(), 4, &[2, 0]);
    bench.put_command(ADMIN_SQ, 0, identify(1, 0));
    // The worker may be in the middle of its last look.
    bench.device.worker.request_pause();
    bench.device.worker.wait_paused();
    bench.device.worker.resume();
    bench.write(0x1000, 1);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.completion(ADMIN_CQ, 0), 0);
    bench.pci.config_write(Bench::address(), 4, &[6, 0]);
    bench.wait_for(|bench| bench.completion(ADMIN_CQ, 0) == 1);
}

fn configure_shadow(bench: &Bench, slot: u32) {
    let opcode = admin::DOORBELL_BUFFER_CONFIG;
    bench.admin(
        slot,
        SubmissionEntry {
            prp1: SHADOW.into(),
            prp2: EVENT_INDEX.into(),
            ..command(opcode)
        },
    );
}

#[test]
fn doorbells_are_in_the_kernel_only_with_shadow_doorbells() {
    let bench = Bench::new(disk());
    let connected = || {
        bench
            .doorbells
            .connected
            .lock()
            .unwrap()
            .iter()
            .copied()
            .collect::<Vec<_>>()
    };
    bench.enable();
    bench.create_queue_pair();
    assert!(connected().is_empty());
    configure_shadow(&bench, 2);
    let expected = |base: u64| (1..5).map(|queue| base + 0x1000 + 8 * queue).collect::<Vec<_>>();
    assert_eq!(connected(), expected(WINDOW), "the tails of the four I/O queue pairs");

    let (sq, cq) = Driver::queue_addresses(1);
    bench.put_command(sq, 0, blocks(nvm::READ, 0, 1));
    bench.memory.write_obj(1u32, GuestAddress(SHADOW + 8)).unwrap();
    bench
        .doorbells
        .event
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .write(1)
        .unwrap();
    bench.wait_for(|bench| bench.completion(cq, 0) == 1);

    let address = Bench::address();
    bench.pci.config_write(address, 0x10, &0xd000_0000u32.to_le_bytes());
    assert_eq!(connected(), expected(0xd000_0000));
    let command = bench.config(0x04) as u16;
    bench.pci.config_write(address, 0x04, &(command & !2).to_le_bytes());
    assert!(connected().is_empty(), "memory space is off");
    bench.pci.config_write(address, 0x10, &(WINDOW as u32).to_le_bytes());
    bench.pci.config_write(address, 0x04, &command.to_le_bytes());
    assert_eq!(connected(), expected(WINDOW));

    bench.write(0x14, 0);
    bench.wait_for(|bench| bench.read(0x1c) == 0);
    assert!(connected().is_empty(), "disconnected before the guest sees the reset");
}

#[test]
fn doorbells_beyond_the_kernels_room_go_on_by_exits() {
    let bench = Bench::new(disk());
    *bench.doorbells.room.lock().unwrap() = Some(1);
    bench.enable();
    bench.create_queue_pair();
    configure_shadow(&bench, 2);
    assert_eq!(bench.doorbells.connected.lock().unwrap().len(), 1);
    let (sq, cq) = Driver::queue_addresses(1);
    bench.put_command(sq, 0, blocks(nvm::READ, 0, 1));
    bench.memory.write_obj(1u32, GuestAddress(SHADOW + 8)).unwrap();
    bench.write(0x1008, 1);
    bench.wait_for(|bench| bench.completion(cq, 0) == 1);
}

#[test]
fn without_messages_the_worker_sets_the_pin_and_a_doorbell_releases_it() {
    let bench = Bench::new(disk());
    bench.enable();
    // MSI-X off: the admin queue's entries are told by the pin.
    bench
        .pci
        .config_write(Bench::address(), Bench::msix(&bench.pci) + 3, &[0]);
    bench.put_command(ADMIN_SQ, 0, identify(1, 0));
    bench.write(0x1000, 1);
    bench.wait_for(|bench| bench.pin.level());
    assert_eq!(bench.config(4) >> 19 & 1, 1, "STATUS.InterruptStatus");
    assert!(bench.messages.0.lock().unwrap().is_empty());
    bench.write(0x1004, 1);
    assert!(!bench.pin.level(), "before the vCPU goes on");
    assert_eq!(bench.config(4) >> 19 & 1, 0);
}

#[test]
fn the_pin_takes_over_what_messages_left_and_gives_it_back() {
    let bench = Bench::new(disk());
    bench.enable();
    bench.put_command(ADMIN_SQ, 0, identify(1, 0));
    bench.write(0x1000, 1);
    bench.wait_for(|bench| !bench.messages.0.lock().unwrap().is_empty());
    let control = Bench::msix(&bench.pci) + 3;
    bench.pci.config_write(Bench::address(), control, &[0]);
    bench.wait_for(|bench| bench.pin.level());
    bench.pci.config_write(Bench::address(), control, &[0x80]);
    assert!(!bench.pin.level());
}

#[test]
fn a_controller_offers_what_its_configuration_says() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    for (kind, capabilities) in [
        (InterruptKind::Msix, vec![0x11, 0x05]),
        (InterruptKind::Msi, vec![0x05]),
        (InterruptKind::Intx, vec![]),
    ] {
        let config = NvmeConfig {
            interrupts: kind,
            ..NvmeConfig::default()
        };
        let connections = Connections {
            memory: memory.clone(),
            pin: Arc::<LineProbe>::default(),
            vectors: Box::new(|_| Ok(Arc::<Messages>::default())),
            on_failure: Box::new(|_| {}),
            doorbells: Arc::<Doorbells>::default(),
            sandbox: Sandbox::none(),
        };
        let device = NvmeDevice::new(config, vec![disk()], connections).unwrap();
        let byte = |offset| {
            let mut data = [0];
            device.function.config_read(offset, &mut data);
            data[0]
        };
        let mut found = Vec::new();
        let mut offset = byte(0x34);
        while offset != 0 {
            found.push(byte(offset));
            offset = byte(offset + 1);
        }
        assert_eq!((found, byte(0x3d)), (capabilities, 1), "{kind:?}");
    }
}

#[test]
fn a_device_that_cannot_be_is_refused() {
    for queue_pairs in [0, 65, u16::MAX] {
        let connections = Connections {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap(),
            pin: Arc::<LineProbe>::default(),
            vectors: Box::new(|_| Ok(Arc::<Messages>::default())),
            doorbells: Arc::<Doorbells>::default(),
            sandbox: Sandbox::none(),
            on_failure: Box::new(|_| {}),
        };
        let config = NvmeConfig {
            queue_pairs,
            ..NvmeConfig::default()
        };
        let error = NvmeDevice::new(config, vec![disk()], connections).err().unwrap();
        assert!(
            matches!(error, ControllerError::Nvme(NvmeConfigError::QueuePairs(_))),
            "{error}"
        );
    }
}

#[test]
fn the_worker_delivers_a_delayed_completion_when_its_time_has_come() {
    let time = Duration::from_millis(150);
    let delay = Fault {
        kind: FaultKind::Completion(io(nvm::READ), CompletionFault::Delay(time)),
        after: 0,
        count: 1,
    };
    let bench = Bench::with_faults(disk(), vec![delay]);
    bench.enable();
    bench.create_queue_pair();
    let (sq, cq) = Driver::queue_addresses(1);
    bench.put_command(sq, 0, blocks(nvm::READ, 0, 1));
    bench.put_command(sq, 1, blocks(nvm::FLUSH, 0, 1));
    let began = Instant::now();
    bench.write(0x1008, 2);
    bench.wait_for(|bench| bench.completion(cq, 1) == 1);
    assert!(began.elapsed() >= time, "too early");
    let first: u16 = bench.memory.read_obj(GuestAddress(cq + 12)).unwrap();
    assert_eq!(first, 1, "the flush does not wait");
    let counts = bench.device.faults.as_ref().unwrap().counts();
    assert_eq!((counts[0].matched, counts[0].injected), (1, 1));
}

/// A disk whose program has a defect.
struct Panicking;

impl Backend for Panicking {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), BackendError> {
        panic!("on purpose");
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BackendError> {
        panic!("on purpose");
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> Result<(), BackendError> {
        Ok(())
    }
}

#[test]
fn a_panic_of_the_worker_is_told_and_nobody_waits_for_it() {
    let bench = Bench::new(Box::new(Panicking));
    bench.enable();
    bench.create_queue_pair();
    let (sq, _) = Driver::queue_addresses(1);
    bench.put_command(sq, 0, blocks(nvm::READ, 0, 1));
    bench.write(0x1008, 1);
    let what = bench.failed.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(what.contains("panicked"), "{what}");
    bench.device.worker.request_pause();
    bench.device.worker.wait_paused();
}
