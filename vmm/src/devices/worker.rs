//! How a machine pauses and stops the threads of a device: the trait that it calls, and where such a thread rests.
//!
//! It must not know what they do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A device's own threads (such as the workers of a storage controller), as the machine pauses and ends them.
///
/// The machine calls from its coordinator thread, never from a vCPU's. After [`DeviceWorker::wait_paused`] and until
/// [`DeviceWorker::resume`] the device touches neither guest memory nor its backend and raises no interrupt; what the
/// guest asked for meanwhile waits.
pub trait DeviceWorker: Send + Sync {
    /// Asks the workers to come to rest at the next safe point. Returns at once. May come when they rest already.
    fn request_pause(&self);

    /// Waits until they rest.
    fn wait_paused(&self);

    /// Lets them work again. May come when they do already.
    fn resume(&self);

    /// Ends the threads and waits for them; called once, at rest. Nothing else is called afterwards.
    fn stop(&self);
}

/// Where the one thread of a device rests while the machine is paused. The machine's side calls what [`DeviceWorker`]
/// has; the thread's side asks [`may_work`](Self::may_work) between two pieces of work.
#[derive(Debug, Default)]
pub(crate) struct RestPoint {
    control: Mutex<Control>,
    changed: Condvar,
}

/// What the machine wants of the thread, and what the thread says of itself.
#[derive(Debug, Default)]
struct Control {
    pause: bool,
    stop: bool,
    /// How many pauses there were, this one included.
    pauses: u64,
    /// The pause for which the thread touches nothing; 0: it works. Written by the thread only.
    rests_for: u64,
    /// The thread touches nothing any more.
    ended: bool,
}

impl RestPoint {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants the thread to rest. Whoever calls wakes it if it sleeps elsewhere; so after [`stop`](Self::stop).
    pub(crate) fn request_pause(&self) {
        let mut control = self.control();
        if !control.pause {
            control.pause = true;
            control.pauses += 1;
        }
        drop(control);
        // It may not have noticed that an earlier pause is over.
        self.changed.notify_all();
    }

    /// Waits until the thread rests for the pause that was asked for last, or has ended.
    pub(crate) fn wait_paused(&self) {
        let mut control = self.control();
        while !control.ended && (control.rests_for == 0 || control.rests_for != control.pauses) {
            control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the thread work again.
    pub(crate) fn resume(&self) {
        self.control().pause = false;
        self.changed.notify_all();
    }

    /// Wants the thread to end.
    pub(crate) fn stop(&self) {
        self.control().stop = true;
        self.changed.notify_all();
    }

    /// Whether the thread is to come back to [`may_work`](Self::may_work).
    pub(crate) fn is_wanted(&self) -> bool {
        let control = self.control();
        control.pause || control.stop
    }

    /// Called by the thread: rests while a pause lasts. `false`: it is to end. `come_to_rest` is called once for each pause,
    /// before the thread counts as resting: between two pauses the guest has run, even if this thread has not.
    pub(crate) fn may_work(&self, mut come_to_rest: impl FnMut()) -> bool {
        let mut control = self.control();
        while control.pause && !control.stop {
            let pause = control.pauses;
            if control.rests_for == pause {
                control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            control.rests_for = 0;
            drop(control);
            come_to_rest();
            control = self.control();
            control.rests_for = pause;
            self.changed.notify_all();
        }
        control.rests_for = 0;
        !control.stop
    }

    /// Held by the thread for its life: whatever ends it, nobody waits for it for ever.
    pub(crate) fn at_rest_when_it_ends(&self) -> impl Drop + '_ {
        Ended(self)
    }
}

/// Says on drop that the thread touches nothing any more.
struct Ended<'a>(&'a RestPoint);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.control().ended = true;
        self.0.changed.notify_all();
    }
}
