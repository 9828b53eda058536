//! What the NVM Express Base Specification 1.4 defines: registers, entries of queues, opcodes, status codes, data
//! structures. It knows nothing of what this controller makes of them.

pub mod command;
pub mod features;
pub mod identify;
pub mod log_page;
pub mod registers;
pub mod status;
