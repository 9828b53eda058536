//! Persistent reservations (SPC-4, 5.12): who may write or read, and PERSISTENT RESERVE IN and OUT.
//!
//! Registrations do not survive the run (PTPL_C is 0). It knows initiators, not ports or units.

use std::collections::BTreeMap;

use super::cdb::Cdb;
use super::commands::Access;
use super::exchange::{Exchange, Failure, Initiator, Outcome};
use super::sense::Sense;
use super::spec::{PROTOCOL_SAS, asc, reservation_type as kind, sense_key, service_action};
use super::unit::LogicalUnit;

/// Registrations that are kept.
const REGISTRATION_LIMIT: usize = 64;
/// Bytes of the parameter list without SPEC_I_PT.
const PARAMETER_LIST: u32 = 24;
/// Byte 20 of it: SPEC_I_PT, ALL_TG_PT and APTPL, of which there is none.
const REGISTER_FLAGS: u8 = 0x08 | 0x04 | 0x01;

/// A reservation of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Who made it. With the types for all registrants every one of them holds it.
    pub holder: Initiator,
    /// TYPE.
    pub kind: u8,
}

/// Registrations and the reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    keys: BTreeMap<Initiator, u64>,
    reservation: Option<Reservation>,
}

/// What happened to other initiators.
type Told = Vec<(Initiator, u16)>;

impl Reservation {
    fn is_for_all(self) -> bool {
        matches!(
            self.kind,
            kind::WRITE_EXCLUSIVE_ALL_REGISTRANTS | kind::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
        )
    }

    fn is_for_registrants(self) -> bool {
        self.is_for_all()
            || matches!(
                self.kind,
                kind::WRITE_EXCLUSIVE_REGISTRANTS_ONLY | kind::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
            )
    }

    fn excludes_reading(self) -> bool {
        matches!(
            self.kind,
            kind::EXCLUSIVE_ACCESS | kind::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY | kind::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
        )
    }
}

impl Reservations {
    /// Whether a reservation keeps the initiator from such a command.
    pub(super) fn excludes(&self, initiator: Initiator, access: Access) -> bool {
        let Some(reservation) = self.reservation else {
            return false;
        };
        if self.holds(initiator) || reservation.is_for_registrants() && self.keys.contains_key(&initiator) {
            return false;
        }
        match access {
            Access::Free => false,
            Access::Read => reservation.excludes_reading(),
            Access::Write => true,
        }
    }

    fn holds(&self, initiator: Initiator) -> bool {
        self.reservation.is_some_and(|reservation| {
            reservation.holder == initiator || reservation.is_for_all() && self.keys.contains_key(&initiator)
        })
    }

    /// The initiator has to be registered with that key.
    fn check_key(&self, initiator: Initiator, key: u64) -> Result<(), Failure> {
        if self.keys.get(&initiator) == Some(&key) {
            Ok(())
        } else {
            Err(Failure::ReservationConflict)
        }
    }

    fn others(&self, than: Initiator, code: u16) -> Told {
        let others = self.keys.keys().filter(|&&other| other != than);
        others.map(|&other| (other, code)).collect()
    }

    fn register(&mut self, initiator: Initiator, key: u64) -> Result<Told, Failure> {
        let mut told = Told::new();
        if key == 0 {
            told = self.unregister(initiator);
        } else if self.keys.len() >= REGISTRATION_LIMIT && !self.keys.contains_key(&initiator) {
            let code = asc::INSUFFICIENT_REGISTRATION_RESOURCES;
            return Err(Sense::new(sense_key::ILLEGAL_REQUEST, code).into());
        } else {
            self.keys.insert(initiator, key);
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(told)
    }

    /// A registration goes, and the reservation with it if nobody holds it any more.
    fn unregister(&mut self, initiator: Initiator) -> Told {
        let held = self.holds(initiator);
        self.keys.remove(&initiator);
        match self.reservation {
            Some(reservation) if held && reservation.is_for_all() && !self.keys.is_empty() => {
                // Any of the others holds it as well.
                let holder = self.keys.keys().next().copied().unwrap_or(initiator);
                self.reservation = Some(Reservation { holder, ..reservation });
                Told::new()
            }
            Some(reservation) if held => {
                self.reservation = None;
                if reservation.is_for_registrants() {
                    self.others(initiator, asc::RESERVATIONS_RELEASED)
                } else {
                    Told::new()
                }
            }
            _ => Told::new(),
        }
    }

    fn reserve(&mut self, initiator: Initiator, kind: u8) -> Result<Told, Failure> {
        match self.reservation {
            None => {
                self.reservation = Some(Reservation {
                    holder: initiator,
                    kind,
                });
                Ok(Told::new())
            }
            Some(reservation) if self.holds(initiator) && reservation.kind == kind => Ok(Told::new()),
            Some(_) => Err(Failure::ReservationConflict),
        }
    }

    fn release(&mut self, initiator: Initiator, kind: u8) -> Result<Told, Failure> {
        let Some(reservation) = self.reservation.filter(|_| self.holds(initiator)) else {
            return Ok(Told::new());
        };
        if reservation.kind != kind {
            return Err(Sense::illegal(asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into());
        }
        self.reservation = None;
        if reservation.is_for_registrants() {
            return Ok(self.others(initiator, asc::RESERVATIONS_RELEASED));
        }
        Ok(Told::new())
    }

    fn clear(&mut self, initiator: Initiator) -> Told {
        let told = self.others(initiator, asc::RESERVATIONS_PREEMPTED);
        self.keys.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        told
    }

    /// Registrations with the key `victim` go; the reservation, if one of them holds it, becomes the initiator's.
    fn preempt(&mut self, initiator: Initiator, victim: u64, kind: u8) -> Result<Told, Failure> {
        let for_all = self.reservation.is_some_and(Reservation::is_for_all);
        if victim == 0 && !for_all {
            return Err(Sense::parameter_byte(8).into());
        }
        let takes_over = match self.reservation {
            Some(_) if for_all => victim == 0,
            Some(reservation) => self.keys.get(&reservation.holder) == Some(&victim),
            None => false,
        };
        let victims: Vec<Initiator> = self
            .keys
            .iter()
            .filter(|&(&other, &key)| other != initiator && (key == victim || victim == 0 && for_all))
            .map(|(&other, _)| other)
            .collect();
        if victims.is_empty() && !takes_over {
            return Err(Failure::ReservationConflict);
        }
        let mut told = Told::new();
        for victim in victims {
            self.keys.remove(&victim);
            told.push((victim, asc::REGISTRATIONS_PREEMPTED));
        }
        if takes_over {
            let changed = self.reservation.is_some_and(|old| old.kind != kind);
            self.reservation = Some(Reservation {
                holder: initiator,
                kind,
            });
            if changed {
                told.extend(self.others(initiator, asc::RESERVATIONS_RELEASED));
            }
        } else if let Some(reservation) = self.reservation.filter(|_| for_all) {
            // Who made it may have gone; every registrant holds it.
            if !self.keys.contains_key(&reservation.holder) {
                self.reservation = Some(Reservation {
                    holder: initiator,
                    ..reservation
                });
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(told)
    }

    /// The header of most parameter data: PRGENERATION and ADDITIONAL LENGTH.
    fn with_header(&self, content: &[u8]) -> Vec<u8> {
        let mut data = self.generation.to_be_bytes().to_vec();
        data.extend((content.len() as u32).to_be_bytes());
        data.extend(content);
        data
    }
}

impl LogicalUnit {
    /// PERSISTENT RESERVE OUT (SPC-4, 6.16).
    pub(super) fn persistent_reserve_out(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        if cdb.u32(5) != PARAMETER_LIST {
            return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        let list = exchange.receive(PARAMETER_LIST)?;
        let fields = Cdb::new(&list);
        let (key, new_key, flags) = (fields.u64(0), fields.u64(8), fields.byte(20));
        let initiator = exchange.initiator;
        let action = cdb.service_action();
        let registers = matches!(
            action,
            service_action::REGISTER | service_action::REGISTER_AND_IGNORE_EXISTING_KEY
        );
        let reservations = &mut self.state.reservations;
        if registers {
            let wrong = flags & REGISTER_FLAGS;
            if wrong != 0 {
                return Err(Sense::parameter_bit(20, 7 - wrong.leading_zeros() as u8).into());
            }
            let registered = reservations.keys.get(&initiator).copied().unwrap_or(0);
            if action == service_action::REGISTER && key != registered {
                return Err(Failure::ReservationConflict);
            }
        } else {
            reservations.check_key(initiator, key)?;
        }
        let told = match action {
            _ if registers => reservations.register(initiator, new_key)?,
            service_action::RESERVE => reservations.reserve(initiator, scope_and_type(cdb)?)?,
            service_action::RELEASE => reservations.release(initiator, scope_and_type(cdb)?)?,
            service_action::CLEAR => reservations.clear(initiator),
            // There is never a command of another to abort.
            _ => reservations.preempt(initiator, new_key, scope_and_type(cdb)?)?,
        };
        for (other, code) in told {
            self.state.attentions.add(other, code);
        }
        Ok(())
    }

    /// READ KEYS (SPC-4, 6.15.2).
    pub(super) fn read_keys(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let reservations = &self.state.reservations;
        let keys: Vec<u8> = reservations.keys.values().flat_map(|key| key.to_be_bytes()).collect();
        exchange.send(&reservations.with_header(&keys), cdb.u16(7).into());
        Ok(())
    }

    /// READ RESERVATION (SPC-4, 6.15.3).
    pub(super) fn read_reservation(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let reservations = &self.state.reservations;
        let mut content = Vec::new();
        if let Some(reservation) = reservations.reservation {
            let key = reservations.keys.get(&reservation.holder);
            let key = key.filter(|_| !reservation.is_for_all()).copied().unwrap_or(0);
            content.extend(key.to_be_bytes());
            content.extend([0, 0, 0, 0, 0, reservation.kind, 0, 0]);
        }
        exchange.send(&reservations.with_header(&content), cdb.u16(7).into());
        Ok(())
    }

    /// REPORT CAPABILITIES (SPC-4, 6.15.4): all types, nothing else.
    pub(super) fn report_reservation_capabilities(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        // LENGTH; nothing of byte 2; TMV; PERSISTENT RESERVATION TYPE MASK.
        exchange.send(&[0, 8, 0, 0x80, 0xea, 0x01, 0, 0], cdb.u16(7).into());
        Ok(())
    }

    /// READ FULL STATUS (SPC-4, 6.15.5).
    pub(super) fn read_full_reservation_status(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let reservations = &self.state.reservations;
        let mut content = Vec::new();
        for (&initiator, key) in &reservations.keys {
            let held = reservations.reservation.filter(|_| reservations.holds(initiator));
            content.extend(key.to_be_bytes());
            content.extend([0; 4]);
            content.extend([u8::from(held.is_some()), held.map_or(0, |held| held.kind)]);
            content.extend([0, 0, 0, 0, 0, 1]);
            // TransportID of SAS (SPC-4, 7.6.4.6).
            content.extend(24_u32.to_be_bytes());
            content.extend([PROTOCOL_SAS, 0, 0, 0]);
            content.extend(initiator.0.to_be_bytes());
            content.extend([0; 12]);
        }
        exchange.send(&reservations.with_header(&content), cdb.u16(7).into());
        Ok(())
    }
}

/// TYPE of the command; its SCOPE has to be the unit.
fn scope_and_type(cdb: Cdb<'_>) -> Result<u8, Sense> {
    let (scope, kind) = (cdb.byte(2) >> 4, cdb.byte(2) & 0xf);
    if scope != 0 {
        return Err(Sense::cdb_bit(2, 7));
    }
    let known = [
        kind::WRITE_EXCLUSIVE,
        kind::EXCLUSIVE_ACCESS,
        kind::WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        kind::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
        kind::WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        kind::EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    ];
    if known.contains(&kind) {
        Ok(kind)
    } else {
        Err(Sense::cdb_bit(2, 3))
    }
}
