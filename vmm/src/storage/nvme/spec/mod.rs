//! What the NVM Express Base Specification 1.4 defines: registers, entries of queues, opcodes, status codes, data
//! structures. It must not know how this controller uses them.

pub(crate) mod command;
pub(crate) mod features;
pub(crate) mod identify;
pub(crate) mod log_page;
pub(crate) mod registers;
pub(crate) mod status;
