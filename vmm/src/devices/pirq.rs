//! The PIRQ router of the PIIX3: INTx pins of PCI slots, four PIRQ lines, and the inputs of the interrupt controllers
//! that the route control registers connect them to (Intel 82371SB data sheet, "PIRQRC[A:D]").
//!
//! Talks to interrupt lines. It must not know where the registers are ([`super::chipset`] does).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::InterruptLine;

/// PIRQ lines, and pins of a slot.
const LINKS: usize = 4;
/// Inputs that a route control register can name.
const INPUTS: usize = 16;
/// Slots of a bus.
const SLOTS: usize = 32;
/// PIRQRC: routing is off.
const ROUTE_OFF: u8 = 1 << 7;
const ROUTE_INPUT: u8 = 0x0f;
/// Inputs that belong to the timer, the keyboard, the cascade, the clock and the coprocessor: not for PIRQs.
const RESERVED_INPUTS: u16 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 13;

/// The PIRQ line (0 for A) of pin `pin` (0 for INTA#) of slot `slot`: they rotate, as boards of this chip set wire them.
#[must_use]
pub const fn link(slot: u8, pin: u8) -> usize {
    (slot as usize + pin as usize + LINKS - 1) % LINKS
}

/// What the guest can change, and what the devices assert.
#[derive(Debug, Clone)]
struct PirqState {
    routes: [u8; LINKS],
    /// Which slots assert each pin: bit n for slot n.
    asserted: [u32; LINKS],
    /// The level of each input.
    levels: u16,
}

/// The router.
pub struct PirqRouter {
    inputs: Vec<Arc<dyn InterruptLine>>,
    state: Mutex<PirqState>,
}

impl PirqRouter {
    /// All routes off. `inputs` are inputs 0 to 15 of the interrupt controllers.
    #[must_use]
    pub fn new(inputs: [Arc<dyn InterruptLine>; INPUTS]) -> Arc<Self> {
        Arc::new(Self {
            inputs: inputs.into(),
            state: Mutex::new(PirqState {
                routes: [ROUTE_OFF; LINKS],
                asserted: [0; LINKS],
                levels: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, PirqState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Route control register `index` (0 to 3) now holds `value`.
    pub(crate) fn set_route(&self, index: usize, value: u8) {
        let mut state = self.lock();
        if let Some(route) = state.routes.get_mut(index) {
            *route = value;
            self.update(&mut state);
        }
    }

    /// Pin `pin` (0 to 3) of slot `slot` (0 to 31), for its device.
    #[must_use]
    pub fn pin(self: &Arc<Self>, slot: u8, pin: u8) -> Arc<dyn InterruptLine> {
        Arc::new(Pin {
            router: Arc::clone(self),
            slot: slot % SLOTS as u8,
            number: pin % LINKS as u8,
        })
    }

    fn set_pin(&self, slot: u8, pin: u8, asserted: bool) {
        let mut state = self.lock();
        let bits = &mut state.asserted[usize::from(pin)];
        let before = *bits;
        if asserted {
            *bits |= 1 << slot;
        } else {
            *bits &= !(1 << slot);
        }
        if *bits != before {
            self.update(&mut state);
        }
    }

    /// Sets the inputs whose level has changed: each is the OR of all pins routed to it.
    fn update(&self, state: &mut PirqState) {
        let mut levels = 0u16;
        for (pin, slots) in (0u8..).zip(state.asserted) {
            for slot in (0..SLOTS as u8).filter(|slot| slots & 1 << slot != 0) {
                let route = state.routes[link(slot, pin)];
                if route & ROUTE_OFF == 0 {
                    levels |= (1 << (route & ROUTE_INPUT)) & !RESERVED_INPUTS;
                }
            }
        }
        let changed = levels ^ state.levels;
        for (index, input) in self.inputs.iter().enumerate() {
            if changed & 1 << index != 0 {
                input.set_level(levels & 1 << index != 0);
            }
        }
        state.levels = levels;
    }
}

/// One pin of a slot.
struct Pin {
    router: Arc<PirqRouter>,
    slot: u8,
    number: u8,
}

impl InterruptLine for Pin {
    fn set_level(&self, asserted: bool) {
        self.router.set_pin(self.slot, self.number, asserted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::LineProbe;

    fn router() -> (Arc<PirqRouter>, Vec<Arc<LineProbe>>) {
        let probes: Vec<_> = (0..INPUTS).map(|_| Arc::new(LineProbe::default())).collect();
        let inputs = std::array::from_fn(|index| probes[index].clone() as Arc<dyn InterruptLine>);
        (PirqRouter::new(inputs), probes)
    }

    #[test]
    fn a_pin_reaches_the_input_that_its_link_is_routed_to() {
        let (router, probes) = router();
        let pin = router.pin(4, 0);
        pin.set_level(true);
        assert!(probes.iter().all(|probe| !probe.level()), "routing is off");
        router.set_route(link(4, 0), 10);
        assert!(probes[10].level());
        router.set_route(link(4, 0), 11);
        assert!(!probes[10].level() && probes[11].level());
        pin.set_level(false);
        assert!(!probes[11].level());
    }

    #[test]
    fn an_input_stays_asserted_until_the_last_pin_is_released() {
        let (router, probes) = router();
        (0..LINKS).for_each(|index| router.set_route(index, 5));
        let (first, second) = (router.pin(4, 0), router.pin(9, 2));
        first.set_level(true);
        second.set_level(true);
        first.set_level(false);
        assert!(probes[5].level());
        second.set_level(false);
        assert!(!probes[5].level());
        assert_eq!(probes[5].pulses(), 1);
    }

    #[test]
    fn inputs_of_the_board_are_not_reached() {
        let (router, probes) = router();
        router.pin(4, 0).set_level(true);
        for route in 0..=0xff {
            router.set_route(link(4, 0), route);
        }
        for reserved in [0, 1, 2, 8, 13] {
            assert_eq!(probes[reserved].pulses(), 0, "input {reserved}");
        }
    }
}
