//! The report of a run: typed data, and one renderer a format.
//!
//! [`model`] and [`finding`] are the data: what was seen, by numbers, addresses and names of the field, without sentences
//! about it. Renderers ([`render`]) put them into words. The session fills the data in; it must not know how they are
//! shown, nor they how anything was found. `docs/report.md` documents both.

pub mod finding;
pub mod model;
pub mod render;

pub use finding::*;
pub use model::*;
pub use render::{json, text};
