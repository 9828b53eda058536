//! Everything that a controller remembers besides its registers, in one plain struct that can be saved.
//!
//! It knows which queues there are; what is done with them is the controller's.

use std::collections::BTreeSet;

use super::completion::Withheld;
use super::doorbells::ShadowDoorbells;
use super::events::AsyncEvents;
use super::features::Features;
use super::log_page::{Counters, ErrorLog};
use super::media::Media;
use super::ranges::InHand;
use super::rings::{CompletionQueue, SubmissionQueue};

/// Whether a controller fetches commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// CC.EN is 0.
    #[default]
    Disabled,
    /// CSTS.RDY is 1.
    Running,
    /// After a shutdown: nothing is fetched until the next reset.
    ShutDown,
    /// CSTS.CFS is 1: only a reset helps.
    Fatal,
}

/// The state of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerState {
    /// Whether commands are fetched.
    pub activity: Activity,
    /// Submission queues by identifier, the admin queue first.
    pub submission_queues: Vec<Option<SubmissionQueue>>,
    /// Completion queues by identifier, the admin queue first.
    pub completion_queues: Vec<Option<CompletionQueue>>,
    /// The submission queue whose turn it is.
    pub next_queue: usize,
    /// A command that is done a piece at a time. Its completion queue has room.
    pub in_hand: Option<InHand>,
    /// Set by Doorbell Buffer Config.
    pub shadow: Option<ShadowDoorbells>,
    /// Values of the features.
    pub features: Features,
    /// Asynchronous events.
    pub events: AsyncEvents,
    /// The Error Information log.
    pub error_log: ErrorLog,
    /// What the SMART / Health log counts.
    pub counters: Counters,
    /// Each namespace's medium, by index.
    pub media: Vec<Media>,
    /// Namespaces of which Identify Namespace says something new since the Changed Namespace List was read.
    pub changed_namespaces: BTreeSet<u32>,
    /// Completions that faults keep back.
    pub withheld: Withheld,
}

impl ControllerState {
    /// The state after power on.
    #[must_use]
    pub fn new(queue_pairs: u16, namespaces: usize) -> Self {
        let queues = usize::from(queue_pairs) + 1;
        Self {
            activity: Activity::Disabled,
            submission_queues: vec![None; queues],
            completion_queues: vec![None; queues],
            next_queue: 0,
            in_hand: None,
            shadow: None,
            features: Features::new(queue_pairs, namespaces),
            events: AsyncEvents::default(),
            error_log: ErrorLog::default(),
            counters: Counters::default(),
            media: vec![Media::default(); namespaces],
            changed_namespaces: BTreeSet::new(),
            withheld: Withheld::default(),
        }
    }

    /// Controller Level Reset (section 7.3.2): logs and media survive, all else is as after power on.
    pub(super) fn reset(&mut self) {
        let queue_pairs = self.submission_queues.len() as u16 - 1;
        let namespaces = self.features.error_recovery.len();
        *self = Self {
            error_log: std::mem::take(&mut self.error_log),
            counters: std::mem::take(&mut self.counters),
            media: std::mem::take(&mut self.media),
            withheld: self.withheld.emptied(),
            ..Self::new(queue_pairs, namespaces)
        };
    }

    pub(super) fn submission_queue(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.submission_queues.get_mut(usize::from(id))?.as_mut()
    }

    pub(super) fn completion_queue(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.completion_queues.get_mut(usize::from(id))?.as_mut()
    }
}
