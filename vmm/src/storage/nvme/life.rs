//! The controller's state: disabled, running, shut down or failed, as CC asks and CSTS reports (NVMe 1.4, sections
//! 3.1.5, 3.1.6, 7.3 and 7.6).
//!
//! It knows the registers and the admin queues that they describe. It must not know what a reset or a shutdown does to
//! other parts.

use std::sync::Arc;

use super::registers::RegisterFile;
use super::rings::{CompletionQueue, SubmissionQueue};
use super::spec::command::{COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE};
use super::spec::registers::{Configuration, aqa};
use crate::storage::dma::DmaMemory;

/// Whether a controller fetches commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
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

/// What the registers ask for.
pub(super) struct Asked {
    /// A controller reset, or one of the NVM subsystem.
    pub(super) reset: bool,
    /// A fault has the controller fail.
    pub(super) fatal: bool,
    /// CC.
    pub(super) configuration: Configuration,
}

/// Whether the controller is at work.
pub(super) struct Life {
    registers: Arc<RegisterFile>,
    activity: Activity,
}

impl Life {
    /// Disabled.
    pub(super) fn new(registers: Arc<RegisterFile>) -> Self {
        Self {
            registers,
            activity: Activity::Disabled,
        }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity
    }

    pub(super) fn is_running(&self) -> bool {
        self.activity == Activity::Running
    }

    pub(super) fn configuration(&self) -> Configuration {
        self.registers.lock().configuration()
    }

    /// Takes what the guest asked for, but a shutdown. A reset is asked for until it [has been done](Self::reset).
    pub(super) fn take_asked(&self) -> Asked {
        let mut registers = self.registers.lock();
        Asked {
            reset: registers.wants_reset(),
            fatal: registers.take_fatal(),
            configuration: registers.configuration(),
        }
    }

    /// Whether a shutdown was asked for (CC.SHN); it is occurring from now on.
    pub(super) fn take_shutdown(&self) -> bool {
        self.registers.lock().take_shutdown()
    }

    /// Everything that was to be made durable is.
    pub(super) fn shut_down(&mut self) {
        if self.is_running() {
            self.activity = Activity::ShutDown;
        }
        self.registers.lock().finish_shutdown();
    }

    /// A reset has been done.
    pub(super) fn reset(&mut self) {
        self.activity = Activity::Disabled;
        self.registers.lock().finish_reset();
    }

    /// Checks the configuration; the admin queues if the controller can be enabled (section 7.6.1).
    pub(super) fn admin_queues(
        &self,
        configuration: Configuration,
        memory: &dyn DmaMemory,
    ) -> Option<(SubmissionQueue, CompletionQueue)> {
        let (attributes, submission_base, completion_base) = self.registers.lock().admin_queues();
        let submission_entries = aqa::submission_entries(attributes);
        let completion_entries = aqa::completion_entries(attributes);
        // A queue has two entries or more.
        let fits = |base: u64, entries: u32, size: u64| {
            entries >= 2 && memory.contains(base, (u64::from(entries) * size) as usize)
        };
        let usable = configuration.command_set() == 0
            && configuration.memory_page_size() == 0
            && configuration.arbitration() == 0
            && fits(submission_base, submission_entries, SUBMISSION_ENTRY_SIZE)
            && fits(completion_base, completion_entries, COMPLETION_ENTRY_SIZE);
        if !usable {
            tracing::warn!(
                ?configuration,
                attributes,
                submission_base,
                completion_base,
                "NVMe controller cannot be enabled"
            );
            return None;
        }
        let submission = SubmissionQueue::new(submission_base, submission_entries, 0);
        let completion = CompletionQueue::new(completion_base, completion_entries, Some(0));
        Some((submission, completion))
    }

    /// The admin queues are there.
    pub(super) fn start(&mut self) {
        self.activity = Activity::Running;
        self.registers.lock().set_ready();
    }

    /// Controller Fatal Status (section 9.5): a queue cannot be used; only a reset helps.
    pub(super) fn fail(&mut self) {
        self.activity = Activity::Fatal;
        self.registers.lock().set_fatal();
    }
}
