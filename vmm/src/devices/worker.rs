//! The trait by which a machine starts, pauses and stops the threads of a device.
//!
//! It must not know what they do.

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
