//! Rules on the memory that locks lie in.

mod lock_storage;

pub(super) use lock_storage::LockStorage;
