//! Interrupts on KVM: lines by KVM_IRQ_LINE, messages by irqfd and GSI routing.
//!
//! Numbers of KVM's in-kernel controllers and the routing table: Linux documentation "virt/kvm/api", KVM_SET_GSI_ROUTING
//! and KVM_IRQFD. It must not know devices.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::kvm::requests::{KVM_IRQ_LINE, KVM_SET_GSI_ROUTING};

use super::{InterruptLine, MessageSink, MsiMessage};

/// Failure of KVM's interrupt delivery while the machine is built.
#[derive(Debug, Error)]
pub enum IrqError {
    /// All routing table entries are in use.
    #[error("KVM has no room for {0} more interrupt vectors")]
    NoRoom(u16),
    /// KVM or the system refused a request.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was asked for, as a verb phrase.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What a thread that sets lines asks of KVM. Messages are sent by an event.
pub(crate) const LINE_REQUESTS: &[u32] = &[KVM_IRQ_LINE];
/// What a thread asks of KVM that sets lines and routes messages.
pub(crate) const REQUESTS: &[u32] = &[KVM_IRQ_LINE, KVM_SET_GSI_ROUTING];

fn os(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> IrqError {
    move |error| IrqError::Os {
        action,
        source: error.into(),
    }
}

/// Inputs of the I/O APIC, and the first GSI free for messages.
const IOAPIC_PINS: u32 = 24;
/// Input of the I/O APIC that the timer is connected to.
const TIMER_PIN: u32 = 2;
/// Inputs of one PIC.
const PIC_PINS: u32 = 8;

/// What may change of the routing table.
#[derive(Default)]
struct Routes {
    /// Message by GSI.
    messages: BTreeMap<u32, MsiMessage>,
    /// GSIs from [`IOAPIC_PINS`] up that have been given out.
    allocated: u32,
}

impl Routes {
    /// The whole table: GSI n is input n of the I/O APIC and, below 16, of the PICs, except that the timer, GSI 0, is
    /// input 2 of the I/O APIC as on every PC; then the messages.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let mut entries = Vec::new();
        for gsi in 0..IOAPIC_PINS {
            match gsi / PIC_PINS {
                0 => entries.push(irqchip_route(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
                1 => entries.push(irqchip_route(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_PINS)),
                _ => {}
            }
            match gsi {
                0 => entries.push(irqchip_route(gsi, KVM_IRQCHIP_IOAPIC, TIMER_PIN)),
                // Taken by the timer; at the PICs it is the cascade.
                TIMER_PIN => {}
                _ => entries.push(irqchip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi)),
            }
        }
        entries.extend(self.messages.iter().map(|(gsi, message)| message_route(*gsi, *message)));
        entries
    }

    /// How many more GSIs the table has room for.
    fn free(&self) -> u32 {
        // The default routes of the 16 legacy inputs take two entries each.
        (KVM_MAX_IRQ_ROUTES as u32).saturating_sub(IOAPIC_PINS + 2 * PIC_PINS + self.allocated)
    }
}

fn irqchip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let u = kvm_irq_routing_entry__bindgen_ty_1 {
        irqchip: kvm_irq_routing_irqchip { irqchip, pin },
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u,
        ..Default::default()
    }
}

fn message_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// The routing table of one virtual machine, and the maker of interrupt lines and vectors.
pub struct IrqRouter {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

impl IrqRouter {
    /// For a virtual machine whose in-kernel interrupt controllers have been created.
    ///
    /// # Errors
    /// [`IrqError::Os`] if KVM does not take the routing table.
    pub fn new(vm: Arc<VmFd>) -> Result<Arc<Self>, IrqError> {
        let router = Self {
            vm,
            routes: Mutex::default(),
        };
        router.apply(&router.lock())?;
        Ok(Arc::new(router))
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, routes: &Routes) -> Result<(), IrqError> {
        const ACTION: &str = "set the interrupt routing table";
        let routing = KvmIrqRouting::from_entries(&routes.entries())
            .map_err(|_| IrqError::NoRoom(routes.messages.len() as u16))?;
        self.vm.set_gsi_routing(&routing).map_err(os(ACTION))
    }

    /// Input `gsi` (0 to 23) of the I/O APIC, and of the PICs if below 16. For edges, and for levels that the device
    /// itself releases.
    #[must_use]
    pub fn line(&self, gsi: u32) -> Arc<KvmLine> {
        Arc::new(KvmLine {
            vm: Arc::clone(&self.vm),
            gsi,
        })
    }

    /// `count` interrupt vectors for one function, all sending nothing yet.
    ///
    /// # Errors
    /// [`IrqError::NoRoom`] if the routing table is full; [`IrqError::Os`] if KVM or the system lacks resources.
    pub fn message_vectors(self: &Arc<Self>, count: u16) -> Result<Arc<MessageVectors>, IrqError> {
        let mut routes = self.lock();
        if u32::from(count) > routes.free() {
            return Err(IrqError::NoRoom(count));
        }
        let first_gsi = IOAPIC_PINS + routes.allocated;
        let mut events = Vec::with_capacity(usize::from(count));
        for gsi in first_gsi..first_gsi + u32::from(count) {
            let event = event()?;
            self.vm
                .register_irqfd(&event, gsi)
                .map_err(os("register an interrupt vector"))?;
            events.push(event);
        }
        routes.allocated += u32::from(count);
        Ok(Arc::new(MessageVectors {
            router: Arc::clone(self),
            first_gsi,
            events,
        }))
    }

    /// Routes these GSIs to these messages. What cannot be routed sends nothing from now on: the guest chose it.
    fn set_messages(&self, changes: impl Iterator<Item = (u32, MsiMessage)>) {
        let mut routes = self.lock();
        let mut touched = Vec::new();
        for (gsi, message) in changes {
            if message.is_interrupt() {
                routes.messages.insert(gsi, message);
            } else {
                routes.messages.remove(&gsi);
                tracing::warn!(
                    gsi,
                    ?message,
                    "the guest's message does not go to a local APIC; it is dropped"
                );
            }
            touched.push(gsi);
        }
        if let Err(error) = self.apply(&routes) {
            tracing::warn!(%error, ?touched, "the guest's messages cannot be routed; they are dropped");
            routes.messages.retain(|gsi, _| !touched.contains(gsi));
            if let Err(error) = self.apply(&routes) {
                tracing::error!(%error, "interrupt routes are out of date");
            }
        }
    }
}

/// Non-blocking, so that no device worker can hang on it.
fn event() -> Result<EventFd, IrqError> {
    EventFd::new(EFD_NONBLOCK).map_err(|source| IrqError::Os {
        action: "create an event descriptor",
        source,
    })
}

/// Writes to an event descriptor. It fails only when the counter is full, and then the event is pending anyway.
fn notify(event: &EventFd) {
    if let Err(error) = event.write(1) {
        tracing::debug!(%error, "event descriptor not written");
    }
}

/// A line set by KVM_IRQ_LINE.
pub struct KvmLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl InterruptLine for KvmLine {
    fn set_level(&self, asserted: bool) {
        if let Err(error) = self.vm.set_irq_line(self.gsi, asserted) {
            tracing::error!(gsi = self.gsi, %error, "interrupt line not set");
        }
    }
}

/// The vectors of one function, one GSI and one irqfd each.
pub struct MessageVectors {
    router: Arc<IrqRouter>,
    first_gsi: u32,
    events: Vec<EventFd>,
}

impl MessageSink for MessageVectors {
    fn set_messages(&self, changes: &[(u16, MsiMessage)]) {
        let known = changes
            .iter()
            .filter(|(vector, _)| usize::from(*vector) < self.events.len());
        self.router
            .set_messages(known.map(|(vector, message)| (self.first_gsi + u32::from(*vector), *message)));
    }

    fn send(&self, vector: u16) {
        if let Some(event) = self.events.get(usize::from(vector)) {
            notify(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_kept_in_front_of_the_messages() {
        let mut routes = Routes::default();
        routes.messages.insert(
            30,
            MsiMessage {
                address: 0xfee0_1000,
                data: 0x51,
            },
        );
        let entries = routes.entries();
        let gsis: Vec<_> = entries.iter().map(|entry| (entry.gsi, entry.type_)).collect();
        // GSI 2 is the cascade of the PICs only.
        let twice = (0..16).flat_map(|gsi| vec![(gsi, KVM_IRQ_ROUTING_IRQCHIP); if gsi == 2 { 1 } else { 2 }]);
        let once = (16..24).map(|gsi| (gsi, KVM_IRQ_ROUTING_IRQCHIP));
        let expected: Vec<_> = twice.chain(once).chain([(30, KVM_IRQ_ROUTING_MSI)]).collect();
        assert_eq!(gsis, expected);
    }
}
