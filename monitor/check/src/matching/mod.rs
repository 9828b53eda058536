//! From calls to facts: which acquire a release belongs to, who certainly holds what, since when, and what is not known.
//!
//! Fed with events. It has the [rules](crate::rules) judge the [`Facts`] of each, and keeps and counts what they find; which
//! of them are about what is forbidden it must not know.
//!
//! An acquire that was entered is an *attempt*. Entered below `DISPATCH_LEVEL` it belongs to its thread, which may still
//! be interrupted by a DPC that takes the same lock, or moved to another processor; entered at or above, to its
//! processor. An attempt is enough to make a release legal; only one that has proved to have come back with the lock (a
//! caught return, code of the same level running on its processor, or its own frame being left) can make somebody
//! else's call wrong. A hold is over, released or not, when its thread runs below `DISPATCH_LEVEL` outside of the frame
//! of the acquire, or its processor does.

mod acquire;
mod agents;
mod core;
mod facts;
mod history;
mod look;
mod memory;
mod naming;
mod open_questions;
mod order;
mod record;
mod records;
mod release;
mod release_facts;
mod report;
mod standstill;
mod state;
mod storport;

pub(crate) use self::core::{Core, Gap, Port};
pub(crate) use agents::Ended;
pub(crate) use facts::{Fact, Facts, Pairing, ReleaseFacts, Restored, Shown, Site};
pub use history::HISTORY;
pub use look::OpenAcquire;
pub(crate) use memory::Addresses;
pub use open_questions::OpenQuestion;
pub(crate) use order::{CHAINS, Chain, LockOrder};
pub(crate) use record::Open;
pub use report::{Outcome, Statistics};
pub(crate) use state::{Binding, Bound, LockState, Thread};
