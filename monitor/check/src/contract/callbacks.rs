//! The callbacks of a miniport, and which of its locks the port driver holds around each.
//!
//! The table is that of `storport/nf-storport-storportacquirespinlock`; for the requests to HwStorAdapterControl it is that of
//! `storport/nc-storport-hw_adapter_control`. It must not know how a running callback is recognised.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::event::{DISPATCH_LEVEL, LockOperand};
use crate::identity::{INTERRUPT_LOCK, START_IO_LOCK};

macro_rules! callbacks {
    ($($name:ident = $number:literal, $held:expr;)*) => {
        /// A callback of a miniport, by the WDK's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the WDK documents them")]
        pub enum Callback { $($name),* }

        impl Callback {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The callback's number, for good: it is written into traces.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$name => $number),* }
            }

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Which lock the port driver holds meanwhile.
            const fn held(self) -> Held {
                match self { $(Self::$name => $held),* }
            }
        }
    };
}

callbacks! {
    HwStorInitialize = 1, Held::Interrupt;
    HwStorStartIo = 2, Held::StartIoOfOneChannel;
    HwStorInterrupt = 3, Held::Interrupt;
    HwStorFindAdapter = 4, Held::None;
    HwStorResetBus = 5, Held::StartIo;
    HwStorAdapterControl = 6, Held::InterruptIfRaised;
    HwStorBuildIo = 7, Held::None;
    HwStorFreeAdapterResources = 8, Held::None;
    HwStorProcessServiceRequest = 9, Held::None;
    HwStorCompleteServiceIrp = 10, Held::None;
    HwStorTracingEnabled = 11, Held::None;
    HwStorUnitControl = 12, Held::None;
    HwStorMSInterruptRoutine = 13, Held::Interrupt;
    HwStorTimer = 14, Held::StartIo;
    HwStorDpcRoutine = 15, Held::None;
    HwStorPassiveInitializeRoutine = 16, Held::None;
}

impl Callback {
    /// The callback with this number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|callback| callback.number() == number)
    }
}

/// What the port driver holds around a callback. In the half duplex model its StartIo lock is the interrupt lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Nothing.
    None,
    /// The StartIo lock, unless the miniport has asked for several concurrent channels.
    StartIoOfOneChannel,
    /// The StartIo lock.
    StartIo,
    /// The interrupt lock: in per-message mode that of the message.
    Interrupt,
    /// The interrupt lock for some requests, which are made at the IRQL of the device; nothing for those made below.
    InterruptIfRaised,
}

bitflags! {
    /// What is known of how the port driver runs a miniport.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PortModel: u8 {
        /// It is a virtual miniport.
        const VIRTUAL = 1;
        /// `SynchronizationModel` is `StorSynchronizeHalfDuplex`.
        const HALF_DUPLEX = 1 << 1;
        /// The driver may have asked for several concurrent channels.
        const MAY_BE_CONCURRENT = 1 << 2;
        /// `InterruptSynchronizationMode` is `InterruptSynchronizePerMessage`.
        const PER_MESSAGE = 1 << 3;
        /// The driver itself jumps to the callback's function: it may run in another callback that ended so.
        const CALLED_BY_DRIVER = 1 << 4;
        /// `SynchronizationModel` and `InterruptSynchronizationMode` could be read.
        const MODE_KNOWN = 1 << 5;
    }
}

impl Serialize for PortModel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.bits())
    }
}

impl<'de> Deserialize<'de> for PortModel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(Self::from_bits_truncate)
    }
}

/// Whether the port driver holds the lock of an acquire around a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortHold {
    /// It does not, as far as the table tells.
    No,
    /// It does, unless the driver has asked it not to.
    Perhaps,
    /// It does.
    Certainly,
}

impl Callback {
    /// Whether the port driver holds the lock that is asked for in this callback at `irql`.
    ///
    /// A second witness is the IRQL: the interrupt lock is held above `DISPATCH_LEVEL`, if there is an interrupt at all, and
    /// any other at or above it.
    #[must_use]
    pub const fn port_hold(self, port: PortModel, operand: &LockOperand, irql: u8) -> PortHold {
        if port.contains(PortModel::VIRTUAL) {
            return PortHold::No;
        }
        let half = port.contains(PortModel::HALF_DUPLEX);
        let (start_io, interrupt, message) = match *operand {
            LockOperand::StorPort { kind, .. } => (kind == START_IO_LOCK, kind == INTERRUPT_LOCK, false),
            LockOperand::Msi { .. } => (false, false, port.contains(PortModel::PER_MESSAGE)),
            _ => (false, false, false),
        };
        let by_interrupt = irql > DISPATCH_LEVEL && (interrupt || half && start_io);
        let by_start_io = if half {
            by_interrupt
        } else {
            start_io && irql >= DISPATCH_LEVEL
        };
        let of_message = message && irql > DISPATCH_LEVEL && matches!(self, Self::HwStorMSInterruptRoutine);
        let holds = match self.held() {
            Held::None => false,
            Held::Interrupt | Held::InterruptIfRaised => by_interrupt || of_message,
            Held::StartIo | Held::StartIoOfOneChannel => by_start_io,
        };
        let channels = matches!(self.held(), Held::StartIoOfOneChannel) && port.contains(PortModel::MAY_BE_CONCURRENT);
        // An interrupt routine is told by its IRQL, too.
        let called = !matches!(self.held(), Held::Interrupt) && port.contains(PortModel::CALLED_BY_DRIVER);
        match (holds, channels || called) {
            (false, _) => PortHold::No,
            (true, true) => PortHold::Perhaps,
            (true, false) => PortHold::Certainly,
        }
    }

    /// Whether it serves an interrupt.
    #[must_use]
    pub const fn is_interrupt_routine(self) -> bool {
        matches!(self, Self::HwStorInterrupt | Self::HwStorMSInterruptRoutine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stor(kind: u32) -> LockOperand {
        LockOperand::StorPort {
            adapter: 0xad,
            kind,
            context: 0,
            handle: 0x700,
        }
    }

    #[test]
    fn the_table_of_the_acquires_page_holds() {
        use Callback as C;
        use PortHold::{Certainly, No, Perhaps};
        let message = LockOperand::Msi {
            adapter: 0xad,
            message: 1,
        };
        let full = PortModel::empty();
        let rows: [(Callback, PortModel, LockOperand, u8, PortHold); 23] = [
            (C::HwStorStartIo, full, stor(2), 2, Certainly),
            (C::HwStorStartIo, full, stor(3), 2, No),
            (C::HwStorStartIo, full, stor(1), 2, No),
            (C::HwStorStartIo, PortModel::MAY_BE_CONCURRENT, stor(2), 2, Perhaps),
            (C::HwStorStartIo, PortModel::CALLED_BY_DRIVER, stor(2), 2, Perhaps),
            (C::HwStorStartIo, PortModel::VIRTUAL, stor(2), 2, No),
            (C::HwStorStartIo, PortModel::HALF_DUPLEX, stor(3), 5, Certainly),
            (C::HwStorStartIo, PortModel::HALF_DUPLEX, stor(2), 5, Certainly),
            (C::HwStorStartIo, PortModel::HALF_DUPLEX, stor(2), 2, No),
            (C::HwStorBuildIo, full, stor(2), 2, No),
            (C::HwStorDpcRoutine, full, stor(2), 2, No),
            (C::HwStorTimer, PortModel::MAY_BE_CONCURRENT, stor(2), 2, Certainly),
            (C::HwStorTimer, full, stor(3), 2, No),
            (C::HwStorResetBus, full, stor(2), 2, Certainly),
            (C::HwStorInterrupt, full, stor(3), 5, Certainly),
            (C::HwStorInterrupt, full, stor(3), 2, No),
            (C::HwStorInitialize, full, stor(3), 5, Certainly),
            (C::HwStorAdapterControl, full, stor(3), 5, Certainly),
            (C::HwStorAdapterControl, full, stor(3), 0, No),
            (C::HwStorAdapterControl, full, stor(2), 0, No),
            (
                C::HwStorMSInterruptRoutine,
                PortModel::PER_MESSAGE,
                message,
                5,
                Certainly,
            ),
            (C::HwStorMSInterruptRoutine, full, message, 5, No),
            (C::HwStorInterrupt, PortModel::PER_MESSAGE, message, 5, No),
        ];
        for (callback, port, operand, irql, expected) in rows {
            let found = callback.port_hold(port, &operand, irql);
            assert_eq!(found, expected, "{callback:?} {port:?} {operand:?} at {irql}");
        }
    }

    #[test]
    fn numbers_are_the_callbacks_own() {
        for &callback in Callback::ALL {
            assert_eq!(Callback::of_number(callback.number()), Some(callback));
        }
        assert_eq!(Callback::of_number(0), None);
    }
}
