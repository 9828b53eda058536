//! How a storage controller is plugged into a machine.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::doorbell::KvmDoorbells;
use crate::irq::MessageSink;
use crate::pci::PciAddress;
use crate::run::Machine;
use crate::storage::{Connections, ControllerError, FaultInjector, StorageDevice};

impl Machine {
    /// Has `make` make a controller and plugs it in at `address`. Returns the fault plan at work, if there is one.
    ///
    /// # Errors
    /// Those of `make`, and [`ControllerError::Pci`].
    pub fn attach_storage(
        &mut self,
        address: PciAddress,
        make: impl FnOnce(Connections) -> Result<StorageDevice, ControllerError>,
    ) -> Result<Option<Arc<FaultInjector>>, ControllerError> {
        let (irq, handle) = (Arc::clone(self.irq()), self.handle());
        let connections = Connections {
            memory: self.ram().map().clone(),
            pin: self.interrupt_pin(address),
            vectors: Box::new(move |count| Ok(irq.message_vectors(count)? as Arc<dyn MessageSink>)),
            doorbells: Arc::new(KvmDoorbells::new(Arc::clone(self.vm()))),
            sandbox: self.sandbox(),
            on_failure: Box::new(move |what| handle.fail(what)),
        };
        let device = make(connections)?;
        self.pci().add(address, device.function)?;
        self.add_worker(device.worker);
        self.add_refusals(device.refusals);
        self.add_in_flight(device.in_flight);
        Ok(device.faults)
    }
}
