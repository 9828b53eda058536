//! A run that watches a driver, from its description to its report.
//!
//! Talks to the machine, the session, the debugger's server and the run's files. It must not know how a
//! violation is found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use storlock_vmm::sandbox::JoinHandle;

use super::boot::{self, WatchedBoot};
use super::guest::Guest;
use super::images::ImageFile;
use super::report_directory::{Outputs, ReportDirectory, TRACE_FILE};
use super::report_files::{ReportFile, Reports};
use super::running::Ended;
use super::spec::{AfterDeadlock, CheckedSpec, Hooks};
use super::{
    Failure, Host, create_directory, debugger, dump_plan, firmware, limit_files, machine_options, of_machine, symbols,
};
use crate::output::{OutputFile, WholeFile};
use crate::report::{DumpReason, ImageRole, Note, Report, RuleSettings, RunInfo};
use crate::session::recording::Recording;
use crate::session::replay;
use crate::session::trace::Trace;
use crate::session::{Config, DriverFile, Session};
use crate::vmi::RunControl;

/// How long the thread that serves debuggers may take to see the end of a run.
const DEBUGGER_END: Duration = Duration::from_millis(300);

/// How long reading the event trace for the timeline may take; the second if the user has interrupted the run.
const DRAWING: Duration = Duration::from_secs(3);
const DRAWING_INTERRUPTED: Duration = Duration::from_millis(200);

/// A run that is ready to start.
pub struct WatchedRun {
    checked: CheckedSpec,
    guest: Guest,
    session: Arc<Session>,
    reports: Reports,
    debugger: Option<JoinHandle<()>>,
    screenshot: Option<WholeFile>,
    /// The event trace, to be read when it is whole; none if it goes into a pipe.
    trace: Option<File>,
    outputs: Arc<Outputs>,
}

/// A run that is over.
pub struct Finished {
    /// What it came to.
    pub report: Report,
    /// Where the report is to be written.
    pub reports: Reports,
    /// When nobody who reads an output is waited for any more.
    pub deadline: Option<Instant>,
}

impl WatchedRun {
    pub(super) fn prepare(
        checked: CheckedSpec,
        claimed: Option<ReportDirectory>,
        host: &Host,
        outputs: &Arc<Outputs>,
    ) -> Result<Self, Failure> {
        let notices = &*host.notices;
        let Some(driver) = checked.spec.driver.clone() else {
            return Err(Failure::usage(anyhow!("there is no driver to watch")));
        };
        let WatchedBoot { target, images, start } = boot::watched(&checked, &driver, notices)?;
        let directory = create_directory(&checked, claimed, notices)?;
        let reports = ReportFile::prepare_all(&checked.reports, checked.time_limit())
            .map_err(|error| Failure::infrastructure(error.context("--report")))?;
        let dump = dump_plan::plan(&checked, &images)?;
        let socket = debugger::open(&checked, notices)?;
        let screenshot = firmware::prepare_screenshot(&checked).map_err(Failure::infrastructure)?;
        let streams = Streams::open(&checked, outputs).map_err(Failure::infrastructure)?;
        let trace = streams
            .trace
            .regular()
            .and_then(|_| File::open(trace_path(&checked)).ok());
        let options = machine_options(&checked, host);
        let mut guest = Guest::prepare(&options, start, outputs).map_err(of_machine)?;
        let config = config(&checked, target, &images, host, &guest).map_err(Failure::infrastructure)?;
        // A recording of the run is held against the same limits.
        config.check().map_err(|what| Failure::infrastructure(anyhow!(what)))?;
        let session = open_session(&checked, config, streams, host).map_err(Failure::infrastructure)?;
        let session = Arc::new(session);
        let mut renamed = vec![directory.path()];
        renamed.extend(reports.iter().filter_map(ReportFile::renamed_in));
        renamed.extend(dump.iter().filter_map(|plan| plan.file.renamed_in()));
        renamed.extend(screenshot.iter().filter_map(WholeFile::renamed_in));
        let renamed: Vec<PathBuf> = renamed.into_iter().map(Path::to_owned).collect();
        if let Some(plan) = dump {
            let on = checked.spec.dump_wish().map_or_else(Vec::new, |wish| wish.on);
            if on.contains(&DumpReason::Violation) {
                session.dump_first_violation();
            }
            guest.dump_to(plan, on);
        }
        let debugger = match socket {
            Some(socket) => {
                let terms = (host.sandbox, &host.notices);
                let serving = debugger::serve(&checked, socket, &images, &mut guest, &session, outputs, terms);
                Some(serving.map_err(Failure::infrastructure)?)
            }
            None => None,
        };
        let renamed: Vec<&Path> = renamed.iter().map(PathBuf::as_path).collect();
        limit_files(host, &renamed).map_err(Failure::infrastructure)?;
        Ok(Self {
            checked,
            guest,
            session,
            reports: Reports::new(Some(directory), reports),
            debugger,
            screenshot,
            trace,
            outputs: Arc::clone(outputs),
        })
    }

    /// What is run.
    #[must_use]
    pub fn spec(&self) -> &CheckedSpec {
        &self.checked
    }

    /// Who judges.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// By which another thread can end the run early, also before it is started.
    #[must_use]
    pub fn control(&self) -> Arc<dyn RunControl> {
        self.guest.control()
    }

    /// Runs the guest to its end. A stop counts as an interruption if `interrupted` says so then. From here on there is a report,
    /// whatever happens.
    ///
    /// # Errors
    /// [`Failure`] if the guest cannot be started.
    pub fn run(self, interrupted: &dyn Fn() -> bool) -> Result<Finished, Failure> {
        let limit = self.checked.time_limit();
        let deadline = Instant::now().checked_add(limit);
        let running = self.guest.start(&self.session).context("the guest cannot be started");
        let running = running.map_err(|error| {
            self.outputs.remove();
            Failure::infrastructure(error)
        })?;
        let Ended { mut end, picture } = running.wait(limit, interrupted);
        if let Some(screenshot) = &self.screenshot {
            deadline.inspect(|deadline| screenshot.progress().give_up_at(*deadline));
            end.note(firmware::write_screenshot(screenshot, picture.as_ref()));
        }
        if let Some(debugger) = self.debugger {
            // It has seen the end of the run, too.
            if let Some(Err(_)) = debugger.join_within(DEBUGGER_END) {
                let text = "the thread that serves debuggers panicked; this is a defect of the program";
                end.failures.push(text.to_owned());
            }
        }
        deadline.inspect(|deadline| self.reports.give_up_at(*deadline));
        let mut report = self.session.report(&end);
        let patience = if interrupted() { DRAWING_INTERRUPTED } else { DRAWING };
        let trace = self
            .trace
            .and_then(|trace| replay::draw_timeline(&mut report, trace, Instant::now().checked_add(patience)).err());
        self.session.name_places(&mut report);
        if let Some(error) = trace {
            report.notes.push(Note::NoTimeline { why: error.to_string() });
        }
        Ok(Finished {
            report,
            reports: self.reports,
            deadline,
        })
    }
}

/// What the session is told before the guest starts.
fn config(
    checked: &CheckedSpec,
    target: String,
    images: &[ImageFile],
    host: &Host,
    guest: &Guest,
) -> anyhow::Result<Config> {
    let spec = &checked.spec;
    let symbols = symbols::table(images, &target, spec.symbols.as_deref(), &*host.notices);
    let file = images.iter().find(|image| image.role == ImageRole::Target);
    let target_file = file.map(|file| DriverFile::read(&file.image));
    Ok(Config {
        target,
        target_file: target_file
            .transpose()
            .context("the imports of the driver under test")?,
        processors: spec.cpus,
        breakpoints: Guest::breakpoints(),
        step_over: guest.step_over(),
        debug_print: spec.debug_print,
        explain: spec.explain,
        import_hooks: spec.hooks == Some(Hooks::Imports),
        accept_turns: spec.accept_turns,
        rules: RuleSettings::new(spec.rule.iter().map(|rule| rule.0.clone())),
        after_deadlock_go_on: spec.after_deadlock == Some(AfterDeadlock::GoOn),
        check_guest: spec.check_guest,
        exports: spec.exports(),
        symbols,
        run: RunInfo {
            command_line: host.command_line.clone(),
            spec: spec.to_value(),
            seed: checked.seed,
            cpus: spec.cpus,
            memory: checked.memory,
            images: images.iter().map(ImageFile::info).collect(),
            ..RunInfo::default()
        },
    })
}

/// The files that are written while the guest runs.
struct Streams {
    trace: OutputFile,
    recording: Option<OutputFile>,
}

impl Streams {
    fn open(checked: &CheckedSpec, outputs: &Outputs) -> anyhow::Result<Self> {
        let open = |path: &Path| outputs.open(path, checked.time_limit());
        let path = trace_path(checked);
        let trace = open(&path).with_context(|| format!("cannot write the event trace {}", path.display()))?;
        let recording = checked
            .spec
            .record
            .as_deref()
            .map(|path| open(path).with_context(|| format!("cannot write the recording {}", path.display())));
        Ok(Self {
            trace,
            recording: recording.transpose()?,
        })
    }
}

fn trace_path(checked: &CheckedSpec) -> PathBuf {
    checked.spec.report_dir.join(TRACE_FILE)
}

fn open_session(checked: &CheckedSpec, config: Config, streams: Streams, host: &Host) -> anyhow::Result<Session> {
    let (path, limit) = (trace_path(checked), checked.spec.output_limit.0);
    let trace = Trace::create(streams.trace, &path, limit, host.sandbox)
        .with_context(|| format!("cannot write the event trace {}", path.display()))?;
    let recording = match streams.recording {
        Some(file) => {
            let header = serde_json::to_vec(&config).context("the recording's header")?;
            let recording = Recording::create(file, limit, header, host.sandbox);
            Some(recording.context("cannot write the recording")?)
        }
        None => None,
    };
    Ok(Session::new(config, Some(trace), recording))
}
