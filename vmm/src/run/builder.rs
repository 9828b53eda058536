//! Builds a machine from its configuration, boots and starts it, all on one thread.
//!
//! Talks to every part of this crate that a machine is made of. It must not know why the guest is run.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, MsrList, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::config::{AtReset, MachineConfig, check};
use super::coordinator::{Control, Restart, Shared};
use super::power_on::{PoweredChips, PoweredCpu};
use super::threads::{COORDINATOR_THREAD, VCPU_THREAD};
use super::vcpu::{self, Method, Vcpu};
use super::{MachineHandle, RunningMachine, board, probe};
use crate::boot::{self, BootInfo, BootRequest, FirmwareRequest, LinuxInfo, LinuxRequest};
use crate::bus::{Bus, BusDevice as _};
use crate::cpuid::Features;
use crate::debug::{Breakpoint, StepOver};
use crate::devices::board::Board;
use crate::devices::pflash::Flash;
use crate::devices::power::PowerManagement;
use crate::devices::ramfb::{RAMFB_FILE, RAMFB_LENGTH, RamFb};
use crate::devices::rtc::RtcTimer;
use crate::devices::serial::SerialPort;
use crate::devices::{DeviceWorker, GuestClock};
use crate::firmware::Platform;
use crate::irq::{InterruptLine, IrqRouter};
use crate::kvm::Capabilities;
use crate::kvm::unwrapped::supported_machine_checks;
use crate::memory::GuestRam;
use crate::msr::UnknownMsrs;
use crate::pci::{INTA, PciAddress, PciBus};
use crate::rom::Rom;
use crate::run::Error;
use crate::sandbox::Sandbox;
use crate::storage::backend::HostFailures;
use crate::storage::{InFlight, Refusals};
use crate::{hyperv, msr};

/// A machine that has not been started: devices can be added, a kernel booted.
pub struct Machine {
    shared: Arc<Shared>,
    irq: Arc<IrqRouter>,
    board: Board,
    vcpus: Vec<VcpuFd>,
    method: Method,
    sandbox: Sandbox,
    address_bits: u32,
    at_reset: AtReset,
    variable_failures: HostFailures,
    msr_exits: Vec<u32>,
    /// The MSRs that KVM saves.
    saved_msrs: MsrList,
    booted: bool,
}

impl Machine {
    /// Makes a virtual machine with its RAM, processors, interrupt controllers, timer and the devices of a PC.
    ///
    /// # Errors
    /// [`Error`] if the configuration makes no sense, this KVM cannot do it, or no way of stepping over works.
    pub fn new(kvm: &Kvm, config: MachineConfig) -> Result<Self, Error> {
        let capabilities = Capabilities::of(kvm);
        check(&config, &capabilities)?;
        let step_over = step_over(kvm, &config)?;
        let has_software_breakpoints = config.software_breakpoints && probe::software_breakpoints_work(kvm)?;
        vcpu::install_signal_handler()?;
        let ram = GuestRam::new(config.memory)?;
        let vm = create_vm(kvm, &ram)?;
        let mut features = Features::of(kvm, config.hyperv)?;
        let (host, usual) = (features.host_address_bits(), features.usual_address_bits());
        features.limit_address_bits(config.address_width.bits(host, usual, ram.end())?);
        let machine_checks = supported_machine_checks(kvm)?;
        let vcpus = (0..config.cpus)
            .map(|index| create_vcpu(&vm, &features, machine_checks, (index, config.cpus)))
            .collect::<Result<Vec<_>, _>>()?;
        if capabilities.unknown_msrs {
            msr::report_accesses(&vm)?;
        }
        if !config.msr_exits.is_empty() {
            msr::set_filter(&vm, &config.msr_exits)?;
        }
        let buses = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
        let clock = Arc::new(GuestClock::new());
        let shared = Arc::new(Shared::new(
            ram,
            Arc::new(vm),
            buses,
            UnknownMsrs::new(config.ignore_unknown_msrs),
            config.handler,
            clock,
            config.cpus,
        ));
        shared
            .has_software_breakpoints
            .store(has_software_breakpoints, Ordering::Relaxed);
        let irq = IrqRouter::new(Arc::clone(&shared.vm))?;
        let board = board::connect(&shared, &irq, [config.serial, config.serial2], config.debug_console)?;
        Ok(Self {
            shared,
            irq,
            board,
            vcpus,
            method: Method {
                step_over,
                sync_registers: capabilities.sync_registers,
                block_interrupts: capabilities.block_interrupts,
                avx: features.avx(),
            },
            sandbox: config.sandbox,
            address_bits: features.address_bits,
            at_reset: config.at_reset,
            variable_failures: HostFailures::default(),
            msr_exits: config.msr_exits,
            saved_msrs: kvm
                .get_msr_index_list()
                .map_err(Error::kvm("list the model-specific registers"))?,
            booted: false,
        })
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.shared.ram
    }

    /// The port I/O bus.
    #[must_use]
    pub fn pio(&self) -> &Arc<Bus> {
        &self.shared.pio
    }

    /// The memory-mapped I/O bus.
    #[must_use]
    pub fn mmio(&self) -> &Arc<Bus> {
        &self.shared.mmio
    }

    /// The virtual machine, for interrupts and doorbells by eventfd.
    #[must_use]
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.shared.vm
    }

    /// The maker of interrupt lines and vectors.
    #[must_use]
    pub fn irq(&self) -> &Arc<IrqRouter> {
        &self.irq
    }

    /// PCI bus 0. Functions added before [`Machine::boot`] get addresses for their BARs there.
    #[must_use]
    pub fn pci(&self) -> &Arc<PciBus> {
        &self.board.pci
    }

    /// The first serial port, for input.
    #[must_use]
    pub fn serial(&self) -> &Arc<SerialPort> {
        &self.board.serial
    }

    /// Power management, with the power button.
    #[must_use]
    pub fn power(&self) -> &Arc<PowerManagement> {
        &self.board.power
    }

    /// What the host failed to do with the file of the firmware's variables.
    #[must_use]
    pub fn variable_failures(&self) -> HostFailures {
        self.variable_failures.clone()
    }

    /// The clock that devices show to the guest; it stands still while the machine is paused.
    #[must_use]
    pub fn clock(&self) -> &Arc<GuestClock> {
        &self.shared.clock
    }

    /// The way of stepping over in force.
    #[must_use]
    pub fn step_over(&self) -> StepOver {
        self.method.step_over
    }

    /// The limits of this machine's threads, for those of its devices.
    #[must_use]
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox
    }

    /// A handle by which other threads can stop the machine, also before it is started.
    #[must_use]
    pub fn handle(&self) -> MachineHandle {
        MachineHandle::new(Arc::clone(&self.shared))
    }

    /// Has a device's threads paused, resumed and ended with the machine.
    pub fn add_worker(&mut self, worker: Arc<dyn DeviceWorker>) {
        let mut workers = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(worker);
    }

    /// Has what a storage controller owes its host told by [`MachineHandle::in_flight`].
    pub(crate) fn add_in_flight(&self, in_flight: Arc<InFlight>) {
        let mut all = self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(in_flight);
    }

    /// Has the commands that a storage controller refuses told by [`MachineHandle::unserved`].
    pub(crate) fn add_refusals(&self, refusals: Arc<Refusals>) {
        let mut all = self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(refusals);
    }

    /// Takes it for granted that stop points by INT3 work.
    pub(crate) fn assume_software_breakpoints(&self) {
        self.shared.has_software_breakpoints.store(true, Ordering::Relaxed);
    }

    /// Makes any write to port `port` power the machine off. For guests too small for ACPI.
    ///
    /// # Errors
    /// [`Error::Bus`] if a device is there already.
    pub fn end_at_port(&mut self, port: u64) -> Result<(), Error> {
        board::end_at_port(&self.shared, port)
    }

    /// The INTx pin of a function on PCI bus 0, of those that use INTA#. Where it leads is up to the guest: the PIRQ route
    /// control registers connect it to an input of the interrupt controllers.
    #[must_use]
    pub(crate) fn interrupt_pin(&self, address: PciAddress) -> Arc<dyn InterruptLine> {
        self.board.pirq.pin(address.device(), INTA - 1)
    }

    /// Puts a kernel and its files into memory, gives the PCI functions their addresses and puts every vCPU at the
    /// kernel's entry point.
    ///
    /// # Errors
    /// [`Error::Boot`] if something cannot be loaded, [`Error::Pci`] if the functions need more space than there is, [`Error::Kvm`] if KVM refuses.
    pub fn boot(&mut self, request: &BootRequest) -> Result<BootInfo, Error> {
        self.board.configure_pci(&board::pci_resources())?;
        let tsc_hz = self
            .vcpus
            .first()
            .and_then(|vcpu| vcpu.get_tsc_khz().ok())
            .map_or(0, |khz| u64::from(khz) * 1000);
        let info = boot::load(&self.shared.ram, request, self.vcpus.len() as u32, tsc_hz)?;
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            boot::set_entry_state(vcpu, &info, index)?;
        }
        self.booted = true;
        Ok(info)
    }

    /// Puts a Linux kernel into memory, gives the PCI functions their addresses and puts the first vCPU at the kernel's entry
    /// point; the kernel starts the others.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_linux(&mut self, request: &LinuxRequest) -> Result<LinuxInfo, Error> {
        let platform = self.platform();
        self.board.configure_pci(&board::pci_resources())?;
        let info = boot::load_linux(&self.shared.ram, request, &platform)?;
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            boot::set_linux_entry_state(vcpu, &info, index)?;
        }
        self.booted = true;
        Ok(info)
    }

    /// Puts firmware where processors begin after a reset and tells it of the machine. It gives the PCI functions their
    /// addresses itself. A reset starts it again ([`AtReset`]).
    ///
    /// # Errors
    /// [`Error::Boot`] if it does not fit, [`Error::Kvm`] if KVM refuses.
    ///
    /// Returns the display if the request asks for one.
    pub fn boot_firmware(&mut self, request: FirmwareRequest) -> Result<Option<Arc<RamFb>>, Error> {
        let (code_at, variables_at) = request.places()?;
        let platform = self.platform();
        boot::tell_firmware(&self.board.fw_cfg, &platform, request.kernel.as_ref())?;
        // The slots of RAM come first.
        let slot = platform.ram.len() as u32;
        let code = Rom::new(&self.shared.vm, slot, code_at, &request.code.data, None)?;
        let code = code.with_shadow(self.shared.ram.clone());
        code.map(true)?;
        code.show_to_host(&self.shared.ram);
        code.reset();
        let length = request.code.data.len() as u64;
        self.shared.mmio.insert(code_at, length, Arc::new(code))?;
        if let (Some(at), Some(store)) = (variables_at, request.variables) {
            let array = Rom::new(&self.shared.vm, slot + 1, at, &store.content, store.file)?;
            let array = array.with_failures(self.variable_failures.clone());
            array.map(true)?;
            array.show_to_host(&self.shared.ram);
            let length = store.content.len() as u64;
            self.shared
                .mmio
                .insert(at, length, Arc::new(Flash::new(Arc::new(array))))?;
        }
        let display = request.display.then(|| Arc::new(RamFb::new(self.shared.ram.clone())));
        if let Some(display) = &display {
            let fw_cfg = &self.board.fw_cfg;
            fw_cfg.add_writable_file(RAMFB_FILE, RAMFB_LENGTH, Arc::clone(display) as _)?;
        }
        self.prepare_restart()?;
        self.booted = true;
        Ok(display)
    }

    /// Keeps what a reset puts back.
    fn prepare_restart(&self) -> Result<(), Error> {
        if self.at_reset == AtReset::End {
            return Ok(());
        }
        let cpus = self.vcpus.iter().map(|vcpu| PoweredCpu::save(vcpu, &self.saved_msrs));
        let restart = Restart {
            cpus: cpus.collect::<Result<_, _>>()?,
            chips: PoweredChips::save(&self.shared.vm)?,
            msr_exits: self.msr_exits.clone(),
            at_triple_fault: self.at_reset == AtReset::RestartAtTripleFault,
            count: AtomicU64::new(0),
        };
        // A machine boots once.
        let _ = self.shared.restart.set(restart);
        Ok(())
    }

    /// The description of this machine for firmware and operating system.
    fn platform(&self) -> Platform {
        Platform {
            cpus: self.vcpus.len() as u32,
            ram: self.shared.ram.ranges().collect(),
            address_bits: self.address_bits,
        }
    }

    /// Arms breakpoints before the first instruction.
    ///
    /// # Errors
    /// [`Error::Breakpoints`] if the set is refused.
    pub fn set_breakpoints(&mut self, set: &[Breakpoint]) -> Result<(), Error> {
        self.shared.set_breakpoints(set, None).map_err(Error::Breakpoints)
    }

    /// Starts all threads and the guest.
    ///
    /// # Errors
    /// See [`Machine::start_paused`].
    pub fn start(self) -> Result<RunningMachine, Error> {
        let machine = self.start_paused()?;
        // A handle may have stopped it already; then waiting for it says so.
        let _ = machine.resume();
        Ok(machine)
    }

    /// Starts all threads; the guest waits for [`RunningMachine::resume`].
    ///
    /// # Errors
    /// [`Error::Configuration`] if nothing was booted, [`Error::Sandbox`] if a thread cannot be started or
    /// limited.
    pub fn start_paused(mut self) -> Result<RunningMachine, Error> {
        if !self.booted {
            return Err(Error::Configuration {
                what: "a machine has to be booted before it is started".into(),
            });
        }
        let cpus = self.vcpus.len();
        let sandbox = self.sandbox;
        self.add_worker(Arc::new(RtcTimer::start(Arc::clone(&self.board.rtc), sandbox)?));
        // From here on dropping the machine ends and joins what has been started.
        let mut machine = RunningMachine::new(self.shared, cpus + 1, self.method.step_over);
        for (index, fd) in (0..).zip(self.vcpus) {
            let vcpu = Vcpu::new(index, fd, Arc::clone(machine.shared()), self.method);
            machine.add_thread(sandbox.spawn(&VCPU_THREAD, &format!("vcpu{index}"), move || vcpu.run())?);
        }
        let shared = Arc::clone(machine.shared());
        machine.add_thread(sandbox.spawn(&COORDINATOR_THREAD, "coordinator", move || shared.run_coordinator())?);
        // A vCPU takes its resume action when it stops being parked; one that parks after the resume would miss it.
        let parked = |control: &mut Control| control.cpus.iter().all(|cpu| cpu.parked);
        drop(machine.shared().wait_until(machine.shared().lock(), None, parked));
        Ok(machine)
    }
}

/// The way past a breakpoint: the one that is asked for, or else the best that works.
fn step_over(kvm: &Kvm, config: &MachineConfig) -> Result<StepOver, Error> {
    match (config.step_over, &config.handler) {
        (Some(method), _) => Ok(method),
        (None, Some(_)) => probe::choose(kvm),
        // Without a handler there are no hits.
        (None, None) => Ok(StepOver::ResumeFlag),
    }
}

/// Pages that some Intel processors need for real mode; between the I/O APIC and the firmware.
const TSS_ADDRESS: usize = 0xfeff_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfeff_c000;

fn create_vm(kvm: &Kvm, ram: &GuestRam) -> Result<VmFd, Error> {
    let vm = kvm.create_vm().map_err(Error::kvm("create a virtual machine"))?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(Error::kvm("place the identity map page"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(Error::kvm("place the task state pages"))?;
    vm.create_irq_chip()
        .map_err(Error::kvm("create the interrupt controllers"))?;
    // The speaker's port 61h belongs to the PIT; guests calibrate clocks with it.
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(Error::kvm("create the timer"))?;
    ram.register(&vm)?;
    Ok(vm)
}

/// Makes processor `index` of `count`.
fn create_vcpu(
    vm: &VmFd,
    features: &Features,
    machine_checks: u64,
    (index, count): (u32, u32),
) -> Result<VcpuFd, Error> {
    let vcpu = vm
        .create_vcpu(u64::from(index))
        .map_err(Error::kvm("create a processor"))?;
    let cpuid = features.for_vcpu(index, count)?;
    vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("set the CPUID features"))?;
    if features.hyperv() {
        hyperv::enable_synthetic_interrupts(&vcpu)?;
    }
    msr::set_up(&vcpu, machine_checks)?;
    Ok(vcpu)
}
