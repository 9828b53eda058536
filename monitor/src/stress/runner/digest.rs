//! Digests of the files that a job uses. They show whether two nights, or two shards, have run the same thing.

use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::RunnerError;
use crate::report::ImageRole;
use crate::run::input::open_regular;
use crate::run::spec::RunSpec;
use crate::stress::case::FileDigest;
use crate::stress::planning::Job;
use crate::stress::planning::run::files;

/// Largest file that is part of a guest's description.
const SIZE_LIMIT: u64 = 1 << 30;

/// Digests of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    /// The files.
    pub files: Vec<FileDigest>,
    /// Of all that decides what the iterations are.
    pub identity: String,
    /// Of the guest and its files.
    pub setup: String,
}

impl Digests {
    /// Name and digest of the driver's file.
    #[must_use]
    pub(crate) fn driver(&self, run: &RunSpec) -> Option<(String, Option<String>)> {
        let name = run.driver.as_ref()?.file_name()?.to_string_lossy().into_owned();
        let file = self.files.iter().find(|file| file.role == ImageRole::Target.text());
        Some((name, file.map(|file| file.sha256.clone())))
    }
}

/// Reads the files of a job's runs. A driver that is in the guest only is none.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn digests(job: &Job, run: &RunSpec) -> Result<Digests, RunnerError> {
    let files = file_digests(run)?;
    let identity = job.identity();
    let listed = format!("{files:?}");
    let of = |what: &serde_json::Value| format!("{:x}", Sha256::digest(format!("{what}\n{listed}")));
    let guest = serde_json::json!([identity["guest"], identity["cpus"]]);
    Ok(Digests {
        identity: of(&identity),
        setup: of(&guest),
        files,
    })
}

/// Digests of the files of a run.
///
/// # Errors
/// If one cannot be read.
pub(super) fn file_digests(run: &RunSpec) -> Result<Vec<FileDigest>, RunnerError> {
    let mut digests = Vec::new();
    for (role, path) in files(run) {
        let in_guest = role == ImageRole::Target.text() && run.firmware.is_some() && !path.exists();
        if in_guest {
            continue;
        }
        let sha256 = of_file(&path).map_err(super::io(format!("the {role} {}", path.display())))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        digests.push(FileDigest {
            role: role.to_owned(),
            name,
            sha256,
        });
    }
    Ok(digests)
}

fn of_file(path: &Path) -> io::Result<String> {
    // What is no regular file has no contents that could be the same tomorrow, and may have no end.
    let mut file = open_regular(path)?.take(SIZE_LIMIT);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}
