//! The one thread that runs a storage controller: DMA and backend I/O happen here, never on a vCPU.
//!
//! It sleeps on an event that doorbells signal (by a vCPU's exit or by KVM itself), and comes to rest between two
//! commands when the machine pauses. It keeps the time: completions that a fault delays wait here. It must not know
//! what a command does.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::devices::{DeviceWorker, RestPoint};
use crate::sandbox::{JoinHandle, Sandbox, SandboxError};
use crate::storage::WORKER_THREAD;

/// What a call of [`StorageController::process`] has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing until the guest writes a register.
    Idle,
    /// Call again.
    Pending,
}

/// Says which delayed completion is meant. A controller gives none twice.
pub(crate) type Ticket = u64;

/// A controller's state machine, as the worker's thread runs it.
pub trait StorageController: Send + 'static {
    /// The flag that has [`process`](Self::process) return after the command in hand.
    fn attention(&self) -> Attention;

    /// PCI COMMAND.BusMasterEnable: while it is off, guest memory is not touched and no message sent.
    fn set_bus_master(&mut self, enabled: bool);

    /// Acts on what the guest wrote to registers and on the commands that wait. What one call does is bounded.
    fn process(&mut self) -> Progress;

    /// The machine is about to stand still: takes what the guest has told in its memory only, so that it is known by then.
    fn come_to_rest(&mut self) {}

    /// Takes the tickets of completions that were delayed since the last call, and how long each has to wait.
    fn take_delays(&mut self) -> Vec<(Ticket, Duration)> {
        Vec::new()
    }

    /// Whether that completion still waits: a reset makes its ticket mean nothing.
    fn is_delayed(&self, _ticket: Ticket) -> bool {
        false
    }

    /// A delayed completion is due: it is posted by the next [`process`](Self::process). A ticket of before a reset means
    /// nothing.
    fn release(&mut self, _ticket: Ticket) {}
}

/// A flag that asks a controller at work to return from [`StorageController::process`] after the command in hand: because
/// the machine wants it to rest, or because the guest has switched bus mastering off.
#[derive(Clone, Debug, Default)]
pub struct Attention(Arc<AtomicU8>);

/// Bits of [`Attention`].
const REST: u8 = 1;
const NO_BUS_MASTER: u8 = 2;

impl Attention {
    /// Raises or lowers it for a rest.
    pub fn set(&self, wanted: bool) {
        self.put(REST, wanted);
    }

    /// PCI COMMAND.BusMasterEnable, by which it is raised or lowered as well.
    fn set_bus_master(&self, enabled: bool) {
        self.put(NO_BUS_MASTER, !enabled);
    }

    fn is_bus_master(&self) -> bool {
        self.0.load(Ordering::Acquire) & NO_BUS_MASTER == 0
    }

    fn put(&self, bit: u8, set: bool) {
        if set {
            self.0.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Whether it is raised.
    #[must_use]
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// Takes a sentence that says that a worker has ended although nobody asked for it. Called on the worker's thread.
pub(crate) type OnFailure = Box<dyn Fn(String) + Send + Sync>;

/// What vCPUs, the machine and the thread share.
struct Shared {
    attention: Attention,
    /// How often the thread was told to look.
    kicks: AtomicU64,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    kick: EventFd,
    /// Waits for `kick` with a limit; made beforehand, because the thread may make no descriptors.
    kick_or_time: Epoll,
    rest: RestPoint,
    on_failure: OnFailure,
}

impl Shared {
    /// Has the thread look again. Whoever kicks counts first and then asks whether the thread sleeps; the thread goes to sleep
    /// first and then asks for the count: one of the two sees the other. A thread at work costs no system call.
    fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // Fails only when 2^64 - 2 kicks wait already.
            let _ = self.kick.write(1);
        }
    }

    /// The thread's life.
    fn run(&self, mut controller: impl StorageController) {
        let _ended = self.rest.at_rest_when_it_ends();
        let mut delays = Delays::default();
        loop {
            // Before all that is looked at below.
            let seen = self.kicks.load(Ordering::SeqCst);
            let come_to_rest = || {
                controller.set_bus_master(self.attention.is_bus_master());
                controller.come_to_rest();
            };
            if !self.rest.may_work(come_to_rest) {
                break;
            }
            controller.set_bus_master(self.attention.is_bus_master());
            let progress = controller.process();
            delays.add(&mut controller);
            if delays.release(&mut controller) || progress == Progress::Pending {
                continue;
            }
            if let Err(error) = self.sleep(seen, delays.next()) {
                self.fail(&format!("cannot wait for its event ({error})"));
                break;
            }
        }
    }

    /// The controller stands still from here on.
    fn fail(&self, what: &str) {
        let thread = std::thread::current();
        (self.on_failure)(format!("the worker {} {what}", thread.name().unwrap_or_default()));
    }

    /// Sleeps until it is kicked, or so long. It does not if there were other kicks than those that it has seen.
    fn sleep(&self, seen: u64, limit: Option<Duration>) -> io::Result<()> {
        self.asleep.store(true, Ordering::SeqCst);
        let slept = if self.kicks.load(Ordering::SeqCst) == seen {
            self.wait(limit)
        } else {
            Ok(())
        };
        self.asleep.store(false, Ordering::SeqCst);
        slept
    }

    /// Waits for the event, or so long.
    fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        if let Some(limit) = limit {
            // Rounded up, or the last millisecond would be spent spinning.
            let milliseconds = limit.as_millis().saturating_add(1).try_into().unwrap_or(i32::MAX);
            match self.kick_or_time.wait(milliseconds, &mut [EpollEvent::default()]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        self.kick.read().map(drop)
    }
}

/// Completions that wait for their time.
#[derive(Default)]
struct Delays(Vec<(Instant, Ticket)>);

impl Delays {
    /// Takes the controller's new tickets, and forgets those that it has forgotten: a guest may reset it over and over.
    fn add(&mut self, controller: &mut impl StorageController) {
        let tickets = controller.take_delays();
        if tickets.is_empty() {
            return;
        }
        self.0.retain(|&(_, ticket)| controller.is_delayed(ticket));
        let now = Instant::now();
        // A time that no clock can show never comes.
        let due = |(ticket, time)| now.checked_add(time).map(|due| (due, ticket));
        self.0.extend(tickets.into_iter().filter_map(due));
    }

    /// Hands back what is due. Returns whether there was any.
    fn release(&mut self, controller: &mut impl StorageController) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let (now, waiting) = (Instant::now(), self.0.len());
        self.0.sort_unstable();
        self.0.retain(|&(due, ticket)| {
            if due <= now {
                controller.release(ticket);
            }
            due > now
        });
        self.0.len() < waiting
    }

    /// How long to wait for the next one.
    fn next(&self) -> Option<Duration> {
        let next = self.0.iter().map(|(due, _)| *due).min()?;
        Some(next.saturating_duration_since(Instant::now()))
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
    /// The thread cannot be started or limited.
    pub fn start(
        name: &str,
        controller: impl StorageController,
        kick: EventFd,
        sandbox: Sandbox,
        on_failure: OnFailure,
    ) -> Result<Self, SandboxError> {
        let kick_or_time = watch(&kick).map_err(|source| SandboxError::Thread {
            name: name.into(),
            source,
        })?;
        let shared = Arc::new(Shared {
            attention: controller.attention(),
            kicks: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            kick,
            kick_or_time,
            rest: RestPoint::default(),
            on_failure,
        });
        shared.attention.set_bus_master(false);
        let runner = Arc::clone(&shared);
        let body = move || {
            if catch_unwind(AssertUnwindSafe(|| runner.run(controller))).is_err() {
                runner.fail("panicked; this is a defect of the program");
            }
        };
        let thread = sandbox.spawn(&WORKER_THREAD, name, body)?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has the controller look at its registers.
    pub(crate) fn kick(&self) {
        self.shared.kick();
    }

    /// PCI COMMAND.BusMasterEnable, off at first. Once it is off, the controller ends the command in hand and reaches no
    /// memory after that. The vCPU that has switched it off does not wait for that.
    pub fn set_bus_master(&self, enabled: bool) {
        self.shared.attention.set_bus_master(enabled);
        self.kick();
    }
}

/// A descriptor that is ready when `event` has been written to.
fn watch(event: &EventFd) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    epoll.ctl(
        ControlOperation::Add,
        event.as_raw_fd(),
        EpollEvent::new(EventSet::IN, 0),
    )?;
    Ok(epoll)
}

impl DeviceWorker for Worker {
    fn request_pause(&self) {
        self.shared.rest.request_pause();
        self.shared.attention.set(true);
        self.kick();
    }

    fn wait_paused(&self) {
        self.shared.rest.wait_paused();
    }

    fn resume(&self) {
        self.shared.attention.set(false);
        self.shared.rest.resume();
    }

    fn stop(&self) {
        self.shared.rest.stop();
        self.shared.attention.set(true);
        self.kick();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there has been told.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Copies what was asked for to what was seen.
    struct Mirror {
        asked: Arc<AtomicU64>,
        seen: Arc<AtomicU64>,
    }

    impl StorageController for Mirror {
        fn attention(&self) -> Attention {
            Attention::default()
        }
        fn set_bus_master(&mut self, _enabled: bool) {}
        fn process(&mut self) -> Progress {
            let asked = self.asked.load(Ordering::SeqCst);
            // Time for a kick that comes too late to be seen.
            std::thread::yield_now();
            self.seen.store(asked, Ordering::SeqCst);
            Progress::Idle
        }
    }

    /// Kicks it at different moments of its round, and has it rest now and then.
    fn drive(worker: &Worker, asked: &AtomicU64, seen: &AtomicU64) {
        for number in 1..20_000 {
            asked.store(number, Ordering::SeqCst);
            worker.kick();
            (0..number % 97).for_each(|_| std::hint::spin_loop());
            if number % 3 == 0 {
                while seen.load(Ordering::SeqCst) != number {
                    std::thread::yield_now();
                }
            }
            if number % 64 == 0 {
                worker.request_pause();
                worker.wait_paused();
                asked.store(number + 1, Ordering::SeqCst);
                worker.kick();
                assert!(seen.load(Ordering::SeqCst) <= number, "it works while it is to rest");
                worker.resume();
            }
        }
    }

    /// Waits in the middle of its work for a word to go on; tells whether its attention is wanted then.
    struct Gated {
        attention: Attention,
        bus_master: bool,
        entered: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        attended: mpsc::Sender<bool>,
        rested: mpsc::Sender<bool>,
    }

    impl StorageController for Gated {
        fn attention(&self) -> Attention {
            self.attention.clone()
        }
        fn set_bus_master(&mut self, enabled: bool) {
            self.bus_master = enabled;
        }
        fn process(&mut self) -> Progress {
            if self.bus_master {
                self.entered.send(()).unwrap();
                self.go_on.recv().unwrap();
                self.attended.send(self.attention.is_wanted()).unwrap();
            }
            Progress::Idle
        }
        fn come_to_rest(&mut self) {
            self.rested.send(self.bus_master).unwrap();
        }
    }

    #[test]
    fn a_controller_at_work_heeds_that_bus_mastering_is_off_and_comes_to_rest_without_it() {
        const SOON: Duration = Duration::from_secs(60);
        let ((entered, is_in), (go, go_on)) = (mpsc::channel(), mpsc::channel());
        let ((attended, attention), (rested, rest)) = (mpsc::channel(), mpsc::channel());
        let gated = Gated {
            attention: Attention::default(),
            bus_master: false,
            entered,
            go_on,
            attended,
            rested,
        };
        let told = Box::new(|what| panic!("{what}"));
        let worker = Worker::start("gated", gated, Worker::event().unwrap(), Sandbox::none(), told).unwrap();
        worker.set_bus_master(true);
        is_in.recv_timeout(SOON).unwrap();
        go.send(()).unwrap();
        assert_eq!(attention.recv_timeout(SOON), Ok(false));
        worker.kick();
        is_in.recv_timeout(SOON).unwrap();
        worker.set_bus_master(false);
        go.send(()).unwrap();
        assert_eq!(attention.recv_timeout(SOON), Ok(true));
        worker.set_bus_master(true);
        is_in.recv_timeout(SOON).unwrap();
        worker.set_bus_master(false);
        worker.request_pause();
        go.send(()).unwrap();
        worker.wait_paused();
        assert_eq!(rest.try_recv(), Ok(false));
        worker.resume();
    }

    /// Takes what was told only when it comes to rest.
    struct Taker {
        told: Arc<AtomicU64>,
        taken: Arc<AtomicU64>,
    }

    impl StorageController for Taker {
        fn attention(&self) -> Attention {
            Attention::default()
        }
        fn set_bus_master(&mut self, _enabled: bool) {}
        fn process(&mut self) -> Progress {
            Progress::Idle
        }
        fn come_to_rest(&mut self) {
            self.taken.store(self.told.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// Whether or not the thread has noticed the end of the pause before.
    #[test]
    fn what_was_told_before_a_pause_is_taken_when_all_are_at_rest() {
        let (told, taken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let controller = Taker {
            told: Arc::clone(&told),
            taken: Arc::clone(&taken),
        };
        let failed = Box::new(|what| panic!("{what}"));
        let worker = Worker::start("taker", controller, Worker::event().unwrap(), Sandbox::none(), failed).unwrap();
        for number in 1..2000 {
            told.store(number, Ordering::SeqCst);
            worker.request_pause();
            worker.wait_paused();
            assert_eq!(taken.load(Ordering::SeqCst), number);
            worker.resume();
            (0..number % 7 * 1000).for_each(|_| std::hint::spin_loop());
        }
    }

    /// However a kick falls on a thread that goes to sleep or wakes up, the controller looks after it; and so it is with a
    /// pause.
    #[test]
    fn no_kick_and_no_pause_is_lost() {
        let (asked, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mirror = Mirror {
            asked: Arc::clone(&asked),
            seen: Arc::clone(&seen),
        };
        let event = Worker::event().unwrap();
        let told = Box::new(|what| panic!("{what}"));
        let worker = Worker::start("mirror", mirror, event, Sandbox::none(), told).unwrap();
        let (done, end) = mpsc::channel();
        // A thread that waits for ever is left behind.
        std::thread::spawn(move || {
            drive(&worker, &asked, &seen);
            worker.stop();
            done.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_secs(60))
            .expect("a kick or a pause was lost");
    }
}
