//! Rules on the IRQL at which lock routines are called and to which they go back.

mod ke_release_spin_lock;
mod lock_routine;

pub(super) use ke_release_spin_lock::KeReleaseSpinLock;
pub(super) use lock_routine::LockRoutine;
