//! The names of the lock routines, and sets of them.

use serde::{Deserialize, Serialize};

macro_rules! routines {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A lock routine, by the name that the WDK gives it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Routine { $($(#[$doc])* $name),* }

        impl Routine {
            /// All routines, in the order of the contract table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name that the WDK gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

routines! {
    /// What the `KeAcquireSpinLock` macro calls on x64.
    KeAcquireSpinLockRaiseToDpc,
    /// Releases an ordinary spin lock and goes back to the old IRQL.
    KeReleaseSpinLock,
    /// Acquire when the caller already is at `DISPATCH_LEVEL` or above.
    KeAcquireSpinLockAtDpcLevel,
    /// Release that leaves the IRQL alone.
    KeReleaseSpinLockFromDpcLevel,
    /// Acquire only if the lock is free.
    KeTryToAcquireSpinLockAtDpcLevel,
    /// In-stack queued acquire.
    KeAcquireInStackQueuedSpinLock,
    /// In-stack queued release.
    KeReleaseInStackQueuedSpinLock,
    /// In-stack queued acquire at `DISPATCH_LEVEL` or above.
    KeAcquireInStackQueuedSpinLockAtDpcLevel,
    /// In-stack queued release that leaves the IRQL alone.
    KeReleaseInStackQueuedSpinLockFromDpcLevel,
    /// Acquire in a threaded DPC.
    KeAcquireSpinLockForDpc,
    /// Release in a threaded DPC.
    KeReleaseSpinLockForDpc,
    /// In-stack queued acquire in a threaded DPC.
    KeAcquireInStackQueuedSpinLockForDpc,
    /// In-stack queued release in a threaded DPC.
    KeReleaseInStackQueuedSpinLockForDpc,
    /// Acquires the lock of an interrupt object.
    KeAcquireInterruptSpinLock,
    /// Releases the lock of an interrupt object.
    KeReleaseInterruptSpinLock,
    /// Shared acquire of an `EX_SPIN_LOCK`.
    ExAcquireSpinLockShared,
    /// Exclusive acquire of an `EX_SPIN_LOCK`.
    ExAcquireSpinLockExclusive,
    /// Shared release of an `EX_SPIN_LOCK`.
    ExReleaseSpinLockShared,
    /// Exclusive release of an `EX_SPIN_LOCK`.
    ExReleaseSpinLockExclusive,
    /// Shared acquire at `DISPATCH_LEVEL` or above.
    ExAcquireSpinLockSharedAtDpcLevel,
    /// Exclusive acquire at `DISPATCH_LEVEL` or above.
    ExAcquireSpinLockExclusiveAtDpcLevel,
    /// Shared release that leaves the IRQL alone.
    ExReleaseSpinLockSharedFromDpcLevel,
    /// Exclusive release that leaves the IRQL alone.
    ExReleaseSpinLockExclusiveFromDpcLevel,
    /// Turns a shared hold into an exclusive one if nobody else shares it.
    ExTryConvertSharedSpinLockExclusive,
    /// Acquires the cancel spin lock.
    IoAcquireCancelSpinLock,
    /// Releases the cancel spin lock.
    IoReleaseCancelSpinLock,
    /// `StorPortNotification(AcquireSpinLock, ...)`.
    StorPortAcquireSpinLock,
    /// `StorPortNotification(ReleaseSpinLock, ...)`.
    StorPortReleaseSpinLock,
    /// `StorPortExtendedFunction(ExtFunctionAcquireMSISpinLock, ...)`.
    StorPortAcquireMSISpinLock,
    /// `StorPortExtendedFunction(ExtFunctionReleaseMSISpinLock, ...)`.
    StorPortReleaseMSISpinLock,
    /// `StorPortExtendedFunction(ExtFunctionAcquireSpinLock, ...)`.
    StorPortAcquireSpinLockEx,
}

impl Routine {
    /// The routine with this number in the contract table.
    #[must_use]
    pub fn from_index(index: u64) -> Option<Self> {
        usize::try_from(index)
            .ok()
            .and_then(|index| Self::ALL.get(index))
            .copied()
    }

    /// The routine of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|routine| routine.name() == name)
    }
}

impl std::fmt::Display for Routine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of lock routines.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoutineSet(u64);

impl RoutineSet {
    /// No routine.
    pub const EMPTY: Self = Self(0);
    /// Every routine of the table.
    pub const ALL: Self = Self((1 << Routine::ALL.len()) - 1);

    /// A set of the given routines.
    #[must_use]
    pub const fn of(routines: &[Routine]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < routines.len() {
            bits |= 1 << routines[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// As a bit mask: bit n is routine n of the table.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a bit mask; unknown bits are dropped.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Whether `routine` is in the set.
    #[must_use]
    pub const fn contains(self, routine: Routine) -> bool {
        self.0 >> routine as u8 & 1 != 0
    }

    /// Whether every routine of `other` is in the set.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Routines in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Routines in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Routines of this set that are not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of routines.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Adds a routine.
    pub const fn insert(&mut self, routine: Routine) {
        self.0 |= 1 << routine as u8;
    }

    /// The routines, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Routine> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let routine = Routine::ALL.get(bits.trailing_zeros() as usize).copied()?;
            bits &= bits - 1;
            Some(routine)
        })
    }
}

impl FromIterator<Routine> for RoutineSet {
    fn from_iter<I: IntoIterator<Item = Routine>>(routines: I) -> Self {
        let mut set = Self::EMPTY;
        for routine in routines {
            set.insert(routine);
        }
        set
    }
}

impl std::fmt::Debug for RoutineSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
