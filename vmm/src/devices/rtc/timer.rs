//! The thread that raises the clock's interrupts when they are due.
//!
//! It sleeps while no interrupt is enabled. When the machine pauses it comes to rest: guest time stands still then, so
//! no period passes. It must not know registers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Rtc;
use crate::devices::{DeviceWorker, RestPoint};
use crate::irq;
use crate::sandbox::{JoinHandle, Sandbox, SandboxError, ThreadProfile};

/// The thread does not look more often than this, however late it is: the shortest period is 122 us.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);

/// Raises the interrupts of one clock.
pub struct RtcTimer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    rtc: Arc<Rtc>,
    rest: RestPoint,
}

impl Shared {
    /// Changes what is wanted of the thread, and wakes it wherever it sleeps.
    fn order(&self, change: impl FnOnce(&RestPoint)) {
        // The thread looks at what is wanted and falls asleep under the clock's lock: with it held it cannot be in between.
        let state = self.rtc.lock();
        change(&self.rest);
        drop(state);
        self.rtc.changed.notify_all();
    }

    /// The thread's life.
    fn run(&self) {
        let _ended = self.rest.at_rest_when_it_ends();
        while self.rest.may_work(|| ()) {
            let mut state = self.rtc.lock();
            if self.rest.is_wanted() {
                continue;
            }
            match self.rtc.tick(&mut state) {
                None => drop(self.rtc.changed.wait(state).unwrap_or_else(PoisonError::into_inner)),
                Some(time) => {
                    let sleep = self.rtc.changed.wait_timeout(state, time.max(SHORTEST_SLEEP));
                    drop(sleep.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }
}

/// Sets the level of the clock's interrupt, as the sandbox limits it.
pub static TIMER_THREAD: ThreadProfile = ThreadProfile {
    requests: &[irq::LINE_REQUESTS],
    ..ThreadProfile::new("clock timer")
};

impl RtcTimer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`SandboxError`] if the host makes no thread.
    pub fn start(rtc: Arc<Rtc>, sandbox: Sandbox) -> Result<Self, SandboxError> {
        let shared = Arc::new(Shared {
            rtc,
            rest: RestPoint::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = sandbox.spawn(&TIMER_THREAD, "rtc", move || of_thread.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl DeviceWorker for RtcTimer {
    fn request_pause(&self) {
        self.shared.order(RestPoint::request_pause);
    }

    fn wait_paused(&self) {
        self.shared.rest.wait_paused();
    }

    fn resume(&self) {
        self.shared.order(RestPoint::resume);
    }

    fn stop(&self) {
        self.shared.order(RestPoint::stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bus::BusDevice;
    use crate::devices::GuestClock;
    use crate::devices::rtc::MemorySizes;
    use crate::devices::testing::LineProbe;

    /// Waits until there have been `count` edges; the time limit is for a host that is busy.
    fn wait_for(line: &LineProbe, count: usize) {
        let began = Instant::now();
        while line.pulses() < count {
            assert!(began.elapsed() < Duration::from_secs(20), "{} edges", line.pulses());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_periodic_interrupt_comes_by_itself_and_a_pause_holds_it_back() {
        let (clock, line) = (Arc::new(GuestClock::new()), Arc::new(LineProbe::default()));
        let memory = MemorySizes { low: 1 << 20, high: 0 };
        let rtc = Arc::new(Rtc::new(clock.clone(), line.clone(), memory));
        let timer = RtcTimer::start(Arc::clone(&rtc), Sandbox::none()).unwrap();
        // 8192 Hz. Nobody reads register C: each period has an edge of its own all the same.
        for (index, value) in [(0x0a, 0x23), (0x0b, 0x42)] {
            rtc.write(0, &[index]);
            rtc.write(1, &[value]);
        }
        wait_for(&line, 100);
        timer.request_pause();
        timer.wait_paused();
        clock.pause();
        let before = line.pulses();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(line.pulses(), before);
        clock.resume();
        timer.resume();
        wait_for(&line, before + 100);
        timer.request_pause();
        timer.wait_paused();
        timer.stop();
    }

    #[test]
    fn it_ends_while_it_sleeps() {
        let (clock, line) = (Arc::new(GuestClock::new()), Arc::new(LineProbe::default()));
        let memory = MemorySizes { low: 1 << 20, high: 0 };
        let timer = RtcTimer::start(Arc::new(Rtc::new(clock, line, memory)), Sandbox::none()).unwrap();
        timer.stop();
    }
}
