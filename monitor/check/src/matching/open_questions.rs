//! What is not known of the driver under test: the one list of what keeps a run without a violation from being Completed.
//!
//! The checker counts; whoever reports a run makes a sentence of each kind that has occurred. A kind that is added here counts
//! for the outcome at once.

use serde::{Deserialize, Serialize};

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One kind of what is not known of the driver under test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum OpenQuestion { $($(#[$doc])* $name),* }

        impl OpenQuestion {
            /// All kinds, in the order in which they are told.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

questions! {
    /// Suspicions about the driver, repetitions included.
    SuspectCalls,
    /// Releases that concern the driver and of which nothing could be said: the lock may have been held before the watch began.
    UnknownReleases,
    /// Conversions that concern the driver, by callers whose shared hold was not seen.
    UnknownConversions,
    /// Calls that concern the driver and whose handle could not be read: an acquire's argument, or what is in that of a
    /// release. Which of them belong together is a guess.
    UnreadableHandles,
    /// Lock calls of the driver that make no sense, e.g. by a processor that is none.
    IgnoredCalls,
    /// Acquires of the driver that are over without a release being seen, and of which nothing was found: they may have failed,
    /// or were released unseen, or not at all; or nothing will be seen of them any more, since the memory of the lock is gone or
    /// there was no room for them.
    LostHolds,
    /// Holds of the driver that were certain, and whose lock word was clear.
    ContradictedWords,
    /// Releases by the driver that go back to another IRQL than that before the acquire, and of which that is not told: whether
    /// the driver had raised it itself is not seen, or whether that acquire is their own.
    UndoneRaises,
}

/// How often each was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenQuestions([u64; OpenQuestion::ALL.len()]);

impl OpenQuestions {
    /// Asks so often more.
    pub(crate) const fn add(&mut self, question: OpenQuestion, times: u64) {
        self.0[question as usize] += times;
    }

    /// Asks so often in all.
    pub(crate) const fn set(&mut self, question: OpenQuestion, times: u64) {
        self.0[question as usize] = times;
    }

    pub(crate) const fn count(&self, question: OpenQuestion) -> u64 {
        self.0[question as usize]
    }

    /// Those that were asked at all, in the order in which they are told.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (OpenQuestion, u64)> + '_ {
        let counted = OpenQuestion::ALL
            .iter()
            .map(|&question| (question, self.count(question)));
        counted.filter(|(_, times)| *times > 0)
    }
}
