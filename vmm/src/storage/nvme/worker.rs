//! The one thread that runs a [`Controller`]: DMA and backend I/O happen here, never on a vCPU.
//!
//! It sleeps on an event that doorbells ring (by a vCPU's exit or, with shadow doorbells, by KVM itself), and comes to
//! rest between two commands when the machine pauses. It must not know what a command does.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::controller::{Controller, Progress};
use super::registers::RegisterFile;
use crate::machine::DeviceWorker;

/// What the machine wants of the thread, and what the thread says of itself.
#[derive(Debug, Default)]
struct Control {
    pause: bool,
    stop: bool,
    /// The thread touches nothing; set and cleared by the thread only.
    at_rest: bool,
}

/// What vCPUs, the machine and the thread share.
struct Shared {
    registers: Arc<RegisterFile>,
    bus_master: AtomicBool,
    kick: EventFd,
    control: Mutex<Control>,
    changed: Condvar,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kick(&self) {
        // Fails only when 2^64 - 2 kicks wait already.
        let _ = self.kick.write(1);
    }

    /// The thread's life.
    fn run(&self, mut controller: Controller) {
        // Whatever ends the thread, nobody may wait for it for ever.
        let _at_rest = AtRest(self);
        while self.may_work() {
            controller.set_bus_master(self.bus_master.load(Ordering::Acquire));
            if controller.process() == Progress::Idle {
                if let Err(error) = self.kick.read() {
                    tracing::error!(%error, "the event of an NVMe worker cannot be read; the controller stands still");
                    break;
                }
            }
        }
    }

    /// Rests while a pause lasts. `false`: it is over.
    fn may_work(&self) -> bool {
        let mut control = self.control();
        while control.pause && !control.stop {
            control.at_rest = true;
            self.changed.notify_all();
            control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
        control.at_rest = false;
        !control.stop
    }
}

/// Says on drop that the thread touches nothing any more.
struct AtRest<'a>(&'a Shared);

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        self.0.control().at_rest = true;
        self.0.changed.notify_all();
    }
}

/// The handle of a controller's thread. Dropping it ends the thread.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Makes the event that [`start`](Self::start) takes.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn event() -> io::Result<EventFd> {
        EventFd::new(EFD_CLOEXEC)
    }

    /// Starts the thread. Whoever writes to `kick` (made by [`event`](Self::event)) has the controller look.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(name: String, controller: Controller, kick: EventFd) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            registers: controller.registers(),
            bus_master: AtomicBool::new(false),
            kick,
            control: Mutex::default(),
            changed: Condvar::new(),
        });
        let runner = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || runner.run(controller))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The registers of the controller.
    #[must_use]
    pub fn registers(&self) -> &RegisterFile {
        &self.shared.registers
    }

    /// Has the controller look at its registers.
    pub fn kick(&self) {
        self.shared.kick();
    }

    /// PCI COMMAND.BusMasterEnable, off at first.
    pub fn set_bus_master(&self, enabled: bool) {
        self.shared.bus_master.store(enabled, Ordering::Release);
        self.kick();
    }
}

impl DeviceWorker for Worker {
    fn request_pause(&self) {
        let mut control = self.shared.control();
        control.pause = true;
        self.shared.registers.interrupt_work();
        drop(control);
        self.kick();
    }

    fn wait_paused(&self) {
        let mut control = self.shared.control();
        while !control.at_rest {
            control = self
                .shared
                .changed
                .wait(control)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn resume(&self) {
        let mut control = self.shared.control();
        control.pause = false;
        self.shared.registers.calm();
        drop(control);
        self.shared.changed.notify_all();
    }

    fn stop(&self) {
        let mut control = self.shared.control();
        control.stop = true;
        self.shared.registers.interrupt_work();
        drop(control);
        self.shared.changed.notify_all();
        self.kick();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            if thread.join().is_err() {
                tracing::error!("an NVMe worker panicked");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}
