//! Rules on the order in which locks are taken.

mod lock_order;

pub(super) use lock_order::LockOrder;
