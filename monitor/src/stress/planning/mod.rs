//! What to run: the job, its fault plans, the share of one machine, and the choices of each iteration.
//!
//! Everything here is a pure function of the job's text and of numbers. It must not know the result of any run.

pub mod choices;
pub mod faults;
pub mod job;
pub mod random;
pub mod run;
pub mod settings;
pub mod shard;
pub mod systematic;
pub mod vocabulary;

pub use self::choices::{Choice, Chosen};
pub use self::job::{Job, Profile, Seeds};
pub use self::settings::{JobError, JobFile, SerialFinding};
pub use self::shard::Shard;
