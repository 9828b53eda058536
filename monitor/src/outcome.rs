//! The result of a run: the outcome in Static Driver Verifier's words, and the exit code.
//!
//! Talks to nothing. It must not know how the conditions were found: the session and the command line collect them.

use serde::{Deserialize, Serialize};

/// The outcome of a run, named as Static Driver Verifier names its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest ran to its end, the driver took watched locks, and no contract was broken.
    Completed,
    /// At least one semantic violation.
    Defect,
    /// The driver never took a watched lock.
    NotApplicable,
    /// The run did not show enough for any of the others.
    Inconclusive,
}

impl Outcome {
    /// The outcome as it is written for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Defect => "Defect",
            Self::NotApplicable => "Not applicable",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// One thing that was found to hold at the end of a run. Several may hold; [`exit_code`] says which one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The command line asked for something impossible.
    Usage,
    /// The host failed: no KVM, a file that cannot be read or written, a full disk.
    Infrastructure,
    /// A semantic violation was found.
    Defect,
    /// The guest crashed, hung or did not boot.
    GuestFailed,
    /// The driver never took a watched lock.
    NotApplicable,
    /// The run did not show enough, for instance because the driver was never loaded.
    Inconclusive,
    /// The user interrupted the run; the report is partial.
    Interrupted,
}

impl Condition {
    /// The process exit code for this condition alone.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Defect => 1,
            Self::Usage => 2,
            Self::GuestFailed => 3,
            Self::NotApplicable | Self::Inconclusive => 4,
            Self::Infrastructure => 5,
            Self::Interrupted => 130,
        }
    }
}

/// The order in which exit codes win when several conditions hold. An interrupted run comes first: whoever interrupted it
/// (a shell, a job's time limit) looks for that code, and its report is partial whatever else it says.
const PRECEDENCE: [u8; 6] = [130, 2, 5, 1, 3, 4];

/// The process exit code when all of `conditions` hold; 0 when none does.
#[must_use]
pub(crate) fn exit_code(conditions: &[Condition]) -> u8 {
    PRECEDENCE
        .into_iter()
        .find(|&code| conditions.iter().any(|c| c.exit_code() == code))
        .unwrap_or(0)
}

/// What sets the exit code where it is not the outcome: the code of a run that was interrupted or whose host failed says so,
/// whatever was found until then.
#[must_use]
pub(crate) fn overriding(outcome: Outcome, exit_code: u8) -> Option<&'static str> {
    match (outcome, exit_code) {
        (_, 130) => Some("interrupted"),
        (Outcome::Defect, 5) => Some("the host failed"),
        _ => None,
    }
}

/// The outcome when all of `conditions` hold. A defect stays a defect even if the run ended badly afterwards.
#[must_use]
pub(crate) fn outcome(conditions: &[Condition]) -> Outcome {
    if conditions.contains(&Condition::Defect) {
        Outcome::Defect
    } else if conditions.is_empty() {
        Outcome::Completed
    } else if conditions.iter().all(|&c| c == Condition::NotApplicable) {
        Outcome::NotApplicable
    } else {
        Outcome::Inconclusive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_2_5_1_3_4_0_wins() {
        use Condition::*;
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(&[Inconclusive]), 4);
        assert_eq!(exit_code(&[NotApplicable, GuestFailed]), 3);
        assert_eq!(exit_code(&[GuestFailed, Defect]), 1);
        assert_eq!(exit_code(&[Defect, Infrastructure]), 5);
        assert_eq!(exit_code(&[Infrastructure, Usage]), 2);
        assert_eq!(exit_code(&[Defect, Interrupted]), 130);
        assert_eq!(overriding(Outcome::Defect, 130), Some("interrupted"));
        assert_eq!(overriding(Outcome::Defect, 5), Some("the host failed"));
        assert_eq!(overriding(Outcome::Defect, 1), None);
        assert_eq!(overriding(Outcome::Inconclusive, 5), None);
    }

    #[test]
    fn a_defect_is_a_defect_however_the_run_ended() {
        use Condition::*;
        assert_eq!(outcome(&[GuestFailed, Defect]), Outcome::Defect);
        assert_eq!(outcome(&[Interrupted, Defect]), Outcome::Defect);
    }

    #[test]
    fn a_crashed_run_in_which_no_lock_was_taken_is_inconclusive() {
        use Condition::*;
        assert_eq!(outcome(&[NotApplicable]), Outcome::NotApplicable);
        assert_eq!(outcome(&[NotApplicable, GuestFailed]), Outcome::Inconclusive);
        assert_eq!(outcome(&[]), Outcome::Completed);
    }
}
