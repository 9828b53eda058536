//! Makes the description of each run of a job from its choices.
//!
//! Talks to nothing.

use std::path::PathBuf;

use super::choices::Chosen;
use super::job::Job;
use crate::report::ImageRole;
use crate::run::spec::{RunSpec, Size};

/// Largest event trace of a run.
const TRACE_LIMIT: Size = Size(64 << 20);

impl Job {
    /// A run of the job.
    #[must_use]
    pub(crate) fn describe(&self, chosen: &Chosen) -> RunSpec {
        let mut spec = self.guest.clone();
        spec.cpus = chosen.cpus;
        spec.seed = Some(chosen.seed);
        // Every fault of a plan was checked.
        spec.fault = chosen.faults.iter().filter_map(|fault| fault.parse().ok()).collect();
        spec.output_limit = Size(spec.output_limit.0.min(TRACE_LIMIT.0));
        spec
    }
}

/// The files that decide what a run does, with the word for each.
#[must_use]
pub(crate) fn files(spec: &RunSpec) -> Vec<(&'static str, PathBuf)> {
    let single = [
        (ImageRole::Target.text(), spec.driver.as_deref()),
        (ImageRole::Kernel.text(), spec.kernel.as_deref()),
        ("RAM disk", spec.initrd.as_deref()),
        (ImageRole::PortDriver.text(), spec.port_driver.as_deref()),
        ("registry file", spec.registry.as_deref()),
        ("firmware", spec.firmware.as_ref().and_then(|firmware| firmware.file())),
    ];
    let single = single.into_iter().filter_map(|(what, path)| Some((what, path?)));
    let load = spec.load.iter().map(|path| (ImageRole::Driver.text(), &**path));
    single.chain(load).map(|(what, path)| (what, path.to_owned())).collect()
}
