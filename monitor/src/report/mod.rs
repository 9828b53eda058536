//! The report of a run: typed data, and one renderer a format.
//!
//! [`model`], [`watched`], [`choice`], [`end`](mod@end), [`finding`] and [`reason`] are the data: what was seen, as numbers, addresses and words
//! of the field, without sentences. Renderers ([`render`]) put them into words. The session fills the data in. A renderer must not know how
//! anything was found. `docs/report.md` documents both.

pub(crate) mod choice;
pub(crate) mod conformance;
pub(crate) mod coverage;
pub mod end;
pub mod finding;
pub mod in_flight;
pub mod model;
pub mod reason;
pub mod render;
pub mod timeline;
pub mod watched;
pub mod word;

pub use choice::*;
pub(crate) use coverage::*;
pub use end::*;
pub use finding::*;
pub use in_flight::*;
pub use model::*;
pub use reason::*;
pub(crate) use render::told::{choice as told_choice, gaps as told_gaps, notes as told_notes};
pub use render::{Format, json, text};
pub use watched::*;
pub use word::Word;
