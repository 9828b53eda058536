//! The SAS domain: the controller, its phys, and a disk at each of the first of them.
//!
//! Handles are those of configuration pages and events. A disk keeps its handle, its phy and its target identifier when it
//! goes and comes back.

/// DevHandle of the controller.
pub(super) const CONTROLLER_HANDLE: u16 = 1;
/// EnclosureHandle of the one enclosure.
pub(super) const ENCLOSURE_HANDLE: u16 = 1;
/// DevHandle of the first disk.
const FIRST_DISK_HANDLE: u16 = 0x10;

/// DevHandle of a disk.
pub(super) fn disk_handle(disk: usize) -> u16 {
    FIRST_DISK_HANDLE + disk as u16
}

/// The disk with that DevHandle, of so many that there are.
pub(super) fn disk_of_handle(handle: u16, disks: usize) -> Option<usize> {
    let disk = usize::from(handle.checked_sub(FIRST_DISK_HANDLE)?);
    (disk < disks).then_some(disk)
}
