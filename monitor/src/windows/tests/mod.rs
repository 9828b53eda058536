//! Unit tests of the readers, each beside a guest that [`crate::windows::testing`] makes.

mod caller;
mod debug_info;
mod debugger_data;
mod image;
mod kernel;
mod modules;
mod pdb;
mod symbols;
