//! What the NVM Express Base Specification 1.4 defines: registers, entries of queues, opcodes, status codes, data
//! structures. It must not know how this controller uses them.

pub mod command;
pub mod features;
pub(crate) mod identify;
pub(crate) mod log_page;
pub mod registers;
pub mod status;
