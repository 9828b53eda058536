//! Where a finished report goes: the report directory, and standard output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use storlock_vmm::host::lock_exclusively;
use storlock_vmm::sandbox::Sandbox;

use super::debugger::{SCRIPT_FILE, SNAPSHOT_FILE};
use super::run::{Arguments, Format, SERIAL_FILE, TRACE_FILE};
use super::{Failure, dump};
use crate::escape;
use crate::outcome::{self, Condition};
use crate::output::{Cut, Outlet, OutputFile, PATIENCE, Place, Progress, WhenFull, is_special, partial_of, replace};
use crate::report::render::{RENDERERS, Renderer, json, text};
use crate::report::{ConditionNote, Report};

/// Name of the report for people in the report directory.
pub const TEXT_FILE: &str = "report.txt";
/// Name of the report for programs in the report directory.
pub const JSON_FILE: &str = "report.json";
/// All names of a run in its report directory, the reports first.
pub const REPORT_FILES: [&str; 6] = [
    TEXT_FILE,
    JSON_FILE,
    SERIAL_FILE,
    TRACE_FILE,
    SCRIPT_FILE,
    SNAPSHOT_FILE,
];
/// As it is called in messages.
pub const STANDARD_OUTPUT: &str = "standard output";

/// A report directory, which is one run's.
#[derive(Debug)]
pub struct ReportDirectory {
    path: PathBuf,
    /// Reports that do not become files because something special has their name: a named pipe.
    special: Mutex<Vec<(&'static str, Option<OutputFile>)>>,
    /// It stays open: it holds the lock, and the limits on files know a directory by its inode, of which some file systems
    /// (9p) make a new one for a directory that nobody has open.
    _handle: File,
}

impl ReportDirectory {
    /// Locks the directory, if there is one, and removes the files `names` of an earlier run: whatever fails from here on,
    /// they are not taken for this run's.
    ///
    /// # Errors
    /// If another run has it, or a file cannot be removed.
    pub fn claim(path: &Path, names: &[&str]) -> anyhow::Result<Option<Self>> {
        if !path.is_dir() {
            // Making it says what is wrong with it.
            return Ok(None);
        }
        let claimed = Self::open(path)?;
        for name in names {
            let file = path.join(name);
            for path in [partial_of(&file), file] {
                clear(&path)
                    .with_context(|| format!("cannot remove what an earlier run has left, {}", path.display()))?;
            }
        }
        Ok(Some(claimed))
    }

    /// Makes the directory. `patience` is how long the reader of a report is waited for that is to go into a named pipe.
    ///
    /// # Errors
    /// If it cannot be made, or another run has it.
    pub fn create(path: &Path, claimed: Option<Self>, patience: Duration) -> anyhow::Result<Self> {
        let what = || format!("cannot create the report directory {}", path.display());
        let directory = if let Some(claimed) = claimed {
            claimed
        } else {
            fs::create_dir_all(path).with_context(what)?;
            Self::open(path)?
        };
        for name in RENDERERS.iter().map(|format| format.file_name()) {
            let place = path.join(name);
            if is_special(&place) {
                let file =
                    OutputFile::open(&place, patience).with_context(|| format!("cannot write {}", place.display()))?;
                let mut special = directory.special.lock().unwrap_or_else(PoisonError::into_inner);
                special.push((name, Some(file)));
            }
        }
        // A directory that cannot be written to is told now and not after the run.
        let probe = partial_of(&path.join(JSON_FILE));
        let tried = File::create(&probe).and_then(|_| fs::remove_file(&probe));
        tried.with_context(|| format!("cannot write to the report directory {}", path.display()))?;
        Ok(directory)
    }

    fn open(path: &Path) -> anyhow::Result<Self> {
        let handle =
            File::open(path).with_context(|| format!("cannot open the report directory {}", path.display()))?;
        match lock_exclusively(&handle) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(
                "the report directory {} is in use by another run: give each run one of its own (--report-dir)",
                path.display()
            ),
            Ok(()) => {}
            Err(error) => crate::tell!(
                "note: the report directory {} cannot be locked against a second run: {error}",
                path.display()
            ),
        }
        Ok(Self {
            path: path.to_owned(),
            special: Mutex::default(),
            _handle: handle,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has reports in named pipes end when their readers take nothing any more at `deadline`.
    pub fn give_up_at(&self, deadline: Instant) {
        let special = self.special.lock().unwrap_or_else(PoisonError::into_inner);
        for file in special.iter().filter_map(|(_, file)| file.as_ref()) {
            file.progress().give_up_at(deadline);
        }
    }

    /// Writes the report in every format; gives the errors.
    fn write(&self, report: &Report) -> Vec<Cut> {
        let written = RENDERERS.iter().map(|format| {
            let name = format.file_name();
            let path = self.path.join(name);
            let written = render(report, *format).and_then(|bytes| self.write_one(name, &path, &bytes));
            written.err().map(|error| (path, error))
        });
        let failed = written.flatten().map(|(path, error)| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                Cut::by(&error, &path.display().to_string())
            } else {
                Cut::Failure(format!("cannot write {}: {error}", path.display()))
            }
        });
        failed.collect()
    }

    fn write_one(&self, name: &str, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut special = self.special.lock().unwrap_or_else(PoisonError::into_inner);
        match special.iter_mut().find(|(there, _)| *there == name) {
            // Once: what is in a pipe cannot be replaced. The reader finds its end when it is closed.
            Some((_, file)) => file.take().map_or(Ok(()), |mut file| file.write_all(bytes)),
            None => replace(path, bytes),
        }
    }
}

/// Removes a file that has one of a run's own names; a link leads elsewhere and only goes itself.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(_) if is_special(path) => Ok(()),
        Ok(_) => fs::remove_file(path),
    }
}

/// Locks the run's report directory, if it is there, and removes what an earlier run has left in all its outputs.
///
/// # Errors
/// [`Failure`] if another run uses one of them, or it cannot be removed.
pub fn clear_outputs(arguments: &Arguments) -> Result<Option<ReportDirectory>, Failure> {
    let directory = ReportDirectory::claim(&arguments.report_dir, &REPORT_FILES).map_err(Failure::infrastructure)?;
    let named = [
        ("--record", &arguments.record, false),
        ("--serial", &arguments.serial, false),
        ("--screenshot", &arguments.screenshot, true),
        (dump::OPTION, &arguments.dump_on_violation, true),
    ];
    for (option, path, whole) in named {
        let Some(path) = path.as_deref().filter(|path| path.as_os_str() != "-") else {
            continue;
        };
        let place = Place::of(path);
        let mut cleared = Ok(());
        if whole && !place.is_special() {
            // First: it is what another run has locked.
            cleared = Place::of(&partial_of(place.path())).clear();
        }
        cleared
            .and_then(|()| place.clear())
            .with_context(|| format!("{option}: cannot remove what an earlier run has left"))
            .map_err(Failure::infrastructure)?;
    }
    Ok(directory)
}

fn render(report: &Report, format: &dyn Renderer) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    format.render(report, &mut bytes)?;
    Ok(bytes)
}

/// Writes the report files and prints the report by `print`, which says what kept it from that. Gives the exit code of the
/// process. A report that cannot be written is still printed, and one that cannot be printed is in its files, which say
/// so.
#[must_use]
pub fn finish(
    report: &mut Report,
    directory: Option<&ReportDirectory>,
    format: Format,
    print: impl FnOnce(&[u8]) -> Vec<ConditionNote>,
) -> u8 {
    settle(report, Vec::new());
    if let Some(directory) = directory {
        let mut failures = Vec::new();
        for cut in directory.write(report) {
            match cut {
                Cut::Failure(text) => failures.push(infrastructure(text)),
                Cut::Note(text) => report.notes.push(text),
            }
        }
        if settle(report, failures) {
            // The file that could be written is to say so as well; the errors are known by now.
            let _ = directory.write(report);
        }
    }
    let format: &dyn Renderer = match format {
        Format::Text => &text::Text,
        Format::Json => &json::Json,
    };
    let printed = match render(report, format) {
        Ok(bytes) => print(&bytes),
        Err(error) => vec![infrastructure(format!("the report cannot be printed: {error}"))],
    };
    if settle(report, printed) {
        if let Some(directory) = directory {
            let _ = directory.write(report);
        }
    }
    report.exit_code
}

/// Adds conditions, also on standard error, and what follows from all of them. Says whether there was one to add.
fn settle(report: &mut Report, added: Vec<ConditionNote>) -> bool {
    let any = !added.is_empty();
    for note in added {
        if note.condition == Condition::Infrastructure {
            crate::tell!("error: {}", note.reason);
        }
        report.conditions.push(note);
    }
    let held: Vec<Condition> = report.conditions.iter().map(|note| note.condition).collect();
    report.exit_code = outcome::exit_code(&held);
    report.outcome = outcome::outcome(&held);
    any
}

/// A failure of the host as a report has it.
#[must_use]
pub fn infrastructure(reason: String) -> ConditionNote {
    ConditionNote {
        condition: Condition::Infrastructure,
        reason,
    }
}

/// Prints a finished text. Whoever closed standard output does not want to read more.
///
/// # Errors
/// Any other reason why it cannot be printed: a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    put(escape::lines(text).as_bytes()).map_err(|reason| Failure::infrastructure(anyhow!(reason)))
}

/// Writes to standard output, or says in a sentence why not.
fn put(bytes: &[u8]) -> Result<(), String> {
    let out = &mut io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("{STANDARD_OUTPUT} is incomplete: {error}"))
        }
        _ => Ok(()),
    }
}

/// As [`print()`], for a rendered report.
#[must_use]
pub fn print_report(text: &[u8]) -> Vec<ConditionNote> {
    put(text).err().map(infrastructure).into_iter().collect()
}

/// Standard output by a thread of its own, so that a run whose report nobody reads comes to its end.
pub struct Printer(Outlet);

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be started or limited.
    pub fn start(sandbox: Sandbox) -> anyhow::Result<Self> {
        let start = || {
            let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            let way = (usize::MAX, u64::MAX);
            Outlet::start("stdout", out, Progress::default(), way, WhenFull::LeaveOut, sandbox)
        };
        start().map(Self).context(STANDARD_OUTPUT)
    }

    /// Prints a text. A reader that takes nothing is waited for until `deadline`, or `interrupted`.
    ///
    /// # Errors
    /// Why it was not printed whole, in a sentence. Whoever closed standard output does not want to read more.
    pub fn print(&self, text: &[u8], deadline: Option<Instant>, interrupted: &dyn Fn() -> bool) -> Result<(), String> {
        self.0.push(text);
        let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let ending = self.0.finish(|stall| stall < PATIENCE || !(late() || interrupted()));
        match ending.cut(STANDARD_OUTPUT, u64::MAX) {
            Some(Cut::Failure(text)) => Err(text),
            _ => Ok(()),
        }
    }
}
