//! Fakes that unit tests inject into devices.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Clock, PowerControl, PowerEvent};
use crate::irq::InterruptLine;

/// Counts rising edges.
#[derive(Default)]
pub(crate) struct LineProbe(Mutex<(bool, usize)>);

impl LineProbe {
    pub(crate) fn pulses(&self) -> usize {
        self.0.lock().unwrap().1
    }

    pub(crate) fn level(&self) -> bool {
        self.0.lock().unwrap().0
    }
}

impl InterruptLine for LineProbe {
    fn set_level(&self, asserted: bool) {
        let mut state = self.0.lock().unwrap();
        state.1 += usize::from(asserted && !state.0);
        state.0 = asserted;
    }
}

/// A writer whose bytes can be looked at.
#[derive(Clone, Default)]
pub(crate) struct SharedOutput(Arc<Mutex<Vec<u8>>>);

impl SharedOutput {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for SharedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Notes what was asked for.
#[derive(Default)]
pub(crate) struct PowerProbe(Mutex<Vec<PowerEvent>>);

impl PowerProbe {
    pub(crate) fn events(&self) -> Vec<PowerEvent> {
        self.0.lock().unwrap().clone()
    }
}

impl PowerControl for PowerProbe {
    fn request(&self, event: PowerEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A clock that the test sets; both of its times are the same.
#[derive(Default)]
pub(crate) struct FakeClock(Mutex<Duration>);

impl FakeClock {
    pub(crate) fn set(&self, time: Duration) {
        *self.0.lock().unwrap() = time;
    }
}

impl Clock for FakeClock {
    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> Duration {
        self.elapsed()
    }
}
