//! Plans the runs: the job, its fault plans, the share of one machine, and the choices of each iteration.
//!
//! Everything here is a pure function of the job's text and of numbers. It must not know the result of any run.

pub(crate) mod choices;
pub(crate) mod faults;
pub(crate) mod job;
pub(crate) mod random;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod shard;
pub(crate) mod systematic;
pub(crate) mod vocabulary;

pub(crate) use self::choices::{Choice, Chosen};
pub(crate) use self::job::{Job, Profile};
pub(crate) use self::settings::{JobError, JobFile, SerialFinding};
pub(crate) use self::shard::Shard;
