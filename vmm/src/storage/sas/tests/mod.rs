//! The controller under test, as a driver sees it.

mod events;
mod faults;
mod harness;
mod hostile;
mod in_flight;
mod interrupts;
mod life;
mod model;
mod pages;
mod refusals;
mod resets;
mod scsi_io;
mod sgl;
mod start;
mod task_management;
mod vocabulary;
