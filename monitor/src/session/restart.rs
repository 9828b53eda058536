//! A reset of the guest in the middle of a run: what was known of the kernel and of locks is void, what was found stays.
//!
//! The machine has taken the breakpoints away and intercepts writes of LSTAR again, so that the kernel is found as at the
//! first start. It must not know how a machine is reset.

use storlock_check::event::EventKind;

use super::Session;
use super::state::{Stage, State};

impl Session {
    /// The machine starts again.
    pub(crate) fn restart(&self, state: &mut State) {
        let note = match state.stage {
            Stage::Armed => {
                // Locks that were held are gone with the memory that they were in, and so is every image: other code may
                // be loaded where the driver under test was.
                self.check(state, EventKind::Restored);
                "the guest was reset while its locks were watched: locks held then are forgotten, and the driver under test is looked for again"
            }
            Stage::Booting | Stage::Waiting(_) | Stage::Failed(_) => {
                "the guest was reset before its locks were watched: its kernel is looked for again"
            }
        };
        state.milestone(note);
        if !state.notes.iter().any(|known| known == note) {
            state.notes.push(note.to_owned());
        }
        state.stage = Stage::Booting;
        state.kernel = None;
        state.no_kernel = None;
        state.guest_checks = self.config.check_guest.then(Box::default);
        state.list = None;
        state.modules.replace([]);
        state.target = None;
        state.places.clear();
        state.returns.clear();
        state.seen_low = 0;
        state.bug_checked = false;
    }
}
