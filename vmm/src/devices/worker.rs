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
    /// The thread touches nothing; set and cleared by the thread only.
    at_rest: bool,
}

impl RestPoint {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants the thread to rest. Whoever calls wakes it if it sleeps elsewhere; so after [`stop`](Self::stop).
    pub(crate) fn request_pause(&self) {
        self.control().pause = true;
    }

    /// Waits until the thread rests, or has ended.
    pub(crate) fn wait_paused(&self) {
        let mut control = self.control();
        while !control.at_rest {
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

    /// Called by the thread: rests while a pause lasts. `false`: it is to end.
    pub(crate) fn may_work(&self) -> bool {
        let mut control = self.control();
        while control.pause && !control.stop {
            control.at_rest = true;
            self.changed.notify_all();
            control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
        control.at_rest = false;
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
        self.0.control().at_rest = true;
        self.0.changed.notify_all();
    }
}
