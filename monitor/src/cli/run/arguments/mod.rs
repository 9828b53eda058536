//! The options of `storlock run`, and how they become the description of a run.
//!
//! Reads the file that `--spec` names. Defaults and contradictions between options are not decided here, but by the
//! description: an option that was not given leaves its field as it is.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::cli::diagnostics::tell;
use crate::cli::options::Switch;
use crate::gdb::OnDisconnect;
use crate::report::{Format, Word};
use crate::run::spec::{
    AfterDeadlock, Carrier, Disk, DumpOn, Export, FilePath, Firmware, Hooks, Interrupts, Limit, OnViolation,
    OutputPath, PlannedFault, RuleChoice, RunSpec, SIZE_LIMIT, Size, disk, fault,
};
use crate::run::{Failure, input};

const REPORT_DIR: &str = "--report-dir";

/// Options of `storlock run`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the command line.
pub struct Arguments {
    /// Run what this JSON file describes: the output of --print-spec, or the report.json of an earlier run, whose
    /// outputs are not written again; - is standard input. Other options replace fields of the file. Relative paths in
    /// the file count from the working directory
    #[arg(long, value_name = "FILE|-")]
    pub spec: Option<PathBuf>,
    /// Run nothing; print the description of the run that the options ask for, with every default and a chosen seed
    #[arg(long)]
    pub(crate) print_spec: bool,
    /// Driver under test: a Storport miniport for x64. With --firmware, its name in the guest, such as mydriver.sys;
    /// if that is also the path of a file here, symbols and imports are read from the file. Leave the option out to
    /// boot Linux, or firmware without a driver to watch
    #[arg(long, value_name = "FILE|NAME")]
    pub driver: Option<PathBuf>,
    /// Kernel to boot: an NT-compatible one, or Linux (bzImage) [default: the test kernel that comes with Storlock]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for a Linux kernel [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Boot by UEFI firmware (OVMF) instead of entering a kernel directly; FILE is the firmware's code [default FILE:
    /// the installed OVMF]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "an option whose value may be left out")]
    pub firmware: Option<Option<PathBuf>>,
    /// With --firmware: the file that keeps the firmware's variables; if it does not exist, it is made from the
    /// firmware's template [default: none, the variables are lost at the end of the run]
    #[arg(long, value_name = "FILE")]
    pub variables: Option<PathBuf>,
    /// With --firmware: give the guest a display, and write its last picture to this PNG file [default: no display]
    #[arg(long, value_name = "FILE")]
    pub(crate) screenshot: Option<PathBuf>,
    /// End the run when the guest is reset. Without this option a guest that boots by firmware starts again; a reset
    /// of a kernel that is entered directly always ends the run
    #[arg(long)]
    pub(crate) no_reboot: bool,
    /// With --firmware: a triple fault resets the machine, as on a PC. Without this option it ends the run as a crash
    #[arg(long)]
    pub(crate) reboot_at_triple_fault: bool,
    /// Show the guest Hyper-V's interface, which Windows needs, instead of KVM's [default: on with --firmware
    /// and --driver, else off]
    #[arg(long, value_enum, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub(crate) hyperv: Option<Switch>,
    /// Number of bits of a guest-physical address that CPUID reports, 36 to 52. Firmware puts 64-bit BARs at the upper
    /// end of this space, and some guests do not boot with 46 bits or more [default: with --firmware 40 on processors
    /// by AMD, 39 on others, more if memory needs it; else as many as KVM can map]
    #[arg(long, value_name = "N")]
    pub(crate) phys_bits: Option<u32>,
    /// Let MSRs that neither KVM nor Storlock knows read as 0 and take any value. Without this option they raise #GP,
    /// as on a processor. The report lists them either way
    #[arg(long)]
    pub(crate) ignore_msrs: bool,
    /// Port driver for the test kernel [default: the storport.sys that comes with Storlock]
    #[arg(long, value_name = "FILE")]
    pub(crate) port_driver: Option<PathBuf>,
    /// Further driver for the test kernel to load; may be given several times
    #[arg(long, value_name = "FILE")]
    pub load: Vec<PathBuf>,
    /// Registry file (.reg) with parameters of the drivers, for the test kernel
    #[arg(long, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Number of virtual processors, 1 to 64 [default: 2]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Guest memory [default: 256M; 4G with --firmware and --driver]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Seed of every random choice; the same seed repeats the choices [default: a new seed, which the report names]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Longest time that the guest may run; a guest that runs longer counts as hung. The time in which a debugger
    /// holds the guest does not count [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub time_limit: Option<Limit>,
    /// At the time limit and at the first Ctrl-C, press the power button and give the guest this long to shut down.
    /// Not with --gdb [default: 60s with --firmware and --driver; else the guest is stopped at once]
    #[arg(long, value_name = "DURATION")]
    pub(crate) shutdown_grace: Option<Limit>,
    /// Directory for report.txt, report.json, serial.log and the event trace; files of an earlier run are replaced
    /// [default: storlock-report]
    #[arg(long, value_name = "DIR")]
    pub report_dir: Option<PathBuf>,
    /// Record the run in this file, for `storlock replay` [default: no recording]
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Largest size of the recording and of the event trace, each; what does not fit is left out, and the report says
    /// so [default: 16G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) output_limit: Option<Size>,
    /// How the report is printed on standard output [default: text]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Also write the report to this file, in the format of the name's ending; may be given several times
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Format of --report files whose names do not end in one
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) report_format: Option<Format>,
    /// An emulated disk, such as win.qcow2,snapshot; may be given several times [default: mem:64M]
    #[arg(long, value_name = "FILE|mem:SIZE[,OPTION...]", long_help = disk::help(), value_parser = disk_parser())]
    pub disk: Vec<Disk>,
    /// A machine without disks
    #[arg(long, conflicts_with = "disk")]
    pub(crate) no_disk: bool,
    /// The best kind of interrupts that the storage controllers offer; choose a lesser one to see how a driver works
    /// without MSI-X or MSI [default: msix]
    #[arg(long, value_enum, value_name = "KIND")]
    pub interrupts: Option<Interrupts>,
    /// Inject a fault into the storage controller of the driver under test, such as fail:read,after=3; may be given
    /// several times
    #[arg(long, value_name = "SPEC", long_help = fault::help())]
    pub fault: Vec<PlannedFault>,
    /// The KVM device [default: /dev/kvm]
    #[arg(long, value_name = "PATH")]
    pub kvm: Option<PathBuf>,
    /// Command line of the guest's kernel [default: empty]
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Also copy the guest's serial output to this file, byte by byte; - is standard error, where control characters
    /// of the guest reach your terminal unchanged [default: no copy]
    #[arg(long, value_name = "FILE|-")]
    pub serial: Option<PathBuf>,
    /// Directory with unstripped builds and PDBs of the images, for names in reports, and with the kernel's PDB, for
    /// crash dumps; or one PDB [default: `debug` beside an image or beside its directory]
    #[arg(long, value_name = "DIR|FILE.pdb")]
    pub symbols: Option<PathBuf>,
    /// At the first violation write a crash dump of the whole machine for WinDbg; see docs/dump.md [default: no dump]
    #[arg(long, value_name = "FILE.dmp")]
    pub(crate) dump_on_violation: Option<PathBuf>,
    /// Write a crash dump of the whole machine for WinDbg, once: at the first of what --dump-on names; see docs/dump.md
    /// [default: no dump]
    #[arg(long, value_name = "FILE.dmp")]
    pub(crate) dump: Option<PathBuf>,
    /// What --dump is written at: violation (the first that makes the outcome Defect), reset (of a storage controller, by
    /// the guest, with requests outstanding), timeout (--time-limit) or hang (a processor waits for a lock at the time
    /// limit, or for itself); may be given several times [default: all of them]
    #[arg(long, value_name = "WHAT")]
    pub(crate) dump_on: Vec<DumpOn>,
    /// Log what drivers print by DbgPrint and similar routines. The log uses the debug registers that the lock
    /// routines leave, less one that catches returns of lock routines
    #[arg(long)]
    pub(crate) debug_print: bool,
    /// When the driver is loaded, print how the debug registers are used and why
    #[arg(long)]
    pub(crate) explain: bool,
    /// Check in the guest what Storlock relies on, and report the results; use this for the first run with each build
    /// of Windows (docs/windows.md)
    #[arg(long)]
    pub check_guest: bool,
    /// Put exported data of a guest module into the report, as they were when the watch began and at the end; may be
    /// given several times
    #[arg(long, value_name = "MODULE!NAME:BYTES")]
    pub(crate) dump_export: Vec<Export>,
    /// Serve gdb at a TCP address (:PORT is on the loopback) or a Unix socket; see docs/gdb.md. Takes the place of a
    /// shutdown grace in --spec [default: no debugger]
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    pub gdb: Option<OsString>,
    /// With --gdb: hold the guest before its first instruction until a debugger lets it go
    #[arg(long)]
    pub(crate) gdb_wait: bool,
    /// With --gdb: allow an address that other machines reach. Whoever connects controls the guest
    #[arg(long)]
    pub(crate) gdb_expose: bool,
    /// With --gdb: what to do at a new violation [default: stop]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_violation: Option<OnViolation>,
    /// With --gdb: what to do when a debugger disconnects without detaching [default: pause]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Switch a rule off, or apply it only to calls that return into these modules; may be given several times.
    /// docs/rules.md has the names of the rules
    #[arg(long, value_name = "NAME=off|MODULE,...")]
    pub rule: Vec<RuleChoice>,
    /// What to do when a processor acquires a lock that it certainly holds, and so would wait for ever [default: end]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) after_deadlock: Option<AfterDeadlock>,
    /// Experimental: watch lock routines by hooks in the import table of the driver instead of by breakpoints: no limit of
    /// four routines, and most calls do not leave the guest; see docs/hooks.md [default: breakpoints]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) hooks: Option<Hooks>,
    /// Let a run be Completed in which lock routines took turns with the debug registers, because the driver imports more of
    /// them than there are
    #[arg(long)]
    pub(crate) accept_turns: bool,
    /// Run without the sandbox, which limits this program's system calls and files while the guest runs
    #[arg(long)]
    pub(crate) no_sandbox: bool,
}

impl Arguments {
    /// The description of the run: that of `--spec`, or the defaults, with what the options say instead.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be read or is no description of a run.
    pub fn spec(&self) -> Result<RunSpec, Failure> {
        let (mut spec, earlier) = match &self.spec {
            None => (RunSpec::default(), Vec::new()),
            Some(path) => read(path)?,
        };
        self.say_files(&mut spec);
        self.say_machine(&mut spec);
        self.say_watch(&mut spec);
        self.tell_left_out(&spec, &earlier);
        Ok(spec)
    }

    /// Tells which outputs of a report's run are not written again.
    fn tell_left_out(&self, spec: &RunSpec, earlier: &[OutputPath]) {
        let mut named: Vec<_> = spec.outputs().iter().map(|output| output.option).collect();
        named.extend(self.report_dir.is_some().then_some(REPORT_DIR));
        let left_out = earlier.iter().filter(|output| !named.contains(&output.option));
        let left_out: Vec<_> = left_out
            .map(|OutputPath { option, path, .. }| format!("{option} {}", path.display()))
            .collect();
        if left_out.is_empty() {
            return;
        }
        let list = left_out.join(", ");
        tell!("note: not taken from the report, whose files stay as they are: {list}; name the outputs that you want");
        if list.contains("--screenshot") {
            tell!("note: without --screenshot the guest has no display");
        }
    }

    /// What is read and written.
    fn say_files(&self, spec: &mut RunSpec) {
        let files = [
            (&self.driver, &mut spec.driver),
            (&self.kernel, &mut spec.kernel),
            (&self.initrd, &mut spec.initrd),
            (&self.variables, &mut spec.variables),
            (&self.screenshot, &mut spec.screenshot),
            (&self.port_driver, &mut spec.port_driver),
            (&self.registry, &mut spec.registry),
            (&self.record, &mut spec.record),
            (&self.serial, &mut spec.serial),
            (&self.symbols, &mut spec.symbols),
            (&self.dump_on_violation, &mut spec.dump_on_violation),
            (&self.dump, &mut spec.dump),
        ];
        for (given, field) in files {
            say_some(given.clone().map(Into::into), field);
        }
        say(self.report_dir.clone().map(Into::into), &mut spec.report_dir);
        say(self.kvm.clone().map(Into::into), &mut spec.kvm);
        say_some(self.firmware.clone().map(Firmware::from), &mut spec.firmware);
        let load: Vec<_> = self.load.iter().cloned().map(Into::into).collect();
        say_list(&load, &mut spec.load);
        say(self.output_limit, &mut spec.output_limit);
        say(self.format, &mut spec.format);
        let report: Vec<_> = self.report.iter().cloned().map(Into::into).collect();
        say_list(&report, &mut spec.report);
        say_some(self.report_format, &mut spec.report_format);
    }

    /// The machine and what it is to do.
    fn say_machine(&self, spec: &mut RunSpec) {
        spec.no_reboot |= self.no_reboot;
        spec.reboot_at_triple_fault |= self.reboot_at_triple_fault;
        say_some(self.hyperv.map(|switch| switch == Switch::On), &mut spec.hyperv);
        say_some(self.phys_bits, &mut spec.phys_bits);
        spec.ignore_msrs |= self.ignore_msrs;
        say(self.cpus, &mut spec.cpus);
        say_some(self.memory, &mut spec.memory);
        say_some(self.seed, &mut spec.seed);
        say(self.time_limit, &mut spec.time_limit);
        say_some(self.shutdown_grace, &mut spec.shutdown_grace);
        say_list(&self.disk, &mut spec.disk);
        if self.no_disk {
            spec.disk.clear();
        }
        say(self.interrupts, &mut spec.interrupts);
        say_list(&self.fault, &mut spec.fault);
        say(self.append.clone(), &mut spec.append);
        spec.no_sandbox |= self.no_sandbox;
    }

    /// What is watched, and by whom.
    fn say_watch(&self, spec: &mut RunSpec) {
        spec.debug_print |= self.debug_print;
        spec.explain |= self.explain;
        spec.accept_turns |= self.accept_turns;
        say_some(self.hooks, &mut spec.hooks);
        spec.check_guest |= self.check_guest;
        say_list(&self.dump_export, &mut spec.dump_export);
        say_list(&self.dump_on, &mut spec.dump_on);
        if self.gdb.is_some() && self.shutdown_grace.is_none() {
            // It takes the place of what it excludes.
            spec.shutdown_grace = None;
        }
        say_some(self.gdb.clone().map(|address| FilePath(address.into())), &mut spec.gdb);
        spec.gdb_wait |= self.gdb_wait;
        spec.gdb_expose |= self.gdb_expose;
        say_some(self.on_violation, &mut spec.on_violation);
        say_some(self.after_deadlock, &mut spec.after_deadlock);
        say_list(&self.rule, &mut spec.rule);
        say_some(self.on_disconnect, &mut spec.on_disconnect);
    }
}

fn say<T>(given: Option<T>, field: &mut T) {
    if let Some(given) = given {
        *field = given;
    }
}

fn say_some<T>(given: Option<T>, field: &mut Option<T>) {
    if given.is_some() {
        *field = given;
    }
}

fn say_list<T: Clone>(given: &[T], field: &mut Vec<T>) {
    if !given.is_empty() {
        *field = given.to_vec();
    }
}

fn disk_parser() -> impl TypedValueParser<Value = Disk> {
    OsStringValueParser::new().try_map(|text| Disk::read(&text))
}

/// Reads the description that `--spec` names. That in a report is without the outputs of its run, which would be lost;
/// they are given beside it.
fn read(path: &Path) -> Result<(RunSpec, Vec<OutputPath>), Failure> {
    let (name, text) = if path.as_os_str() == "-" {
        let mut text = Vec::new();
        let read = io::stdin().lock().take(SIZE_LIMIT).read_to_end(&mut text);
        let text = read.map(|_| text).context("--spec -: cannot read standard input");
        (OsStr::new("standard input"), text)
    } else {
        let as_what = " as the description of a run (--spec FILE; - is standard input, which may be a pipe)";
        (path.as_os_str(), input::read_small(path, as_what, SIZE_LIMIT))
    };
    let read = RunSpec::from_json(&text.map_err(Failure::infrastructure)?);
    let (spec, carrier) = read
        .with_context(|| format!("--spec: {} describes no run", name.display()))
        .map_err(Failure::usage)?;
    Ok(match carrier {
        Carrier::File => (spec, Vec::new()),
        Carrier::Report => {
            let mut earlier = spec.outputs();
            if spec.report_dir != RunSpec::default().report_dir {
                earlier.push(OutputPath {
                    option: REPORT_DIR,
                    path: spec.report_dir.clone(),
                    whole: false,
                });
            }
            (spec.without_outputs(), earlier)
        }
    })
}

/// The command line of a run with the options that it was given, and before them (the last may be `--`) the seed that was
/// chosen for it.
#[must_use]
pub(crate) fn as_given(options: impl Iterator<Item = OsString>, seed: Option<u64>) -> Vec<Word> {
    let mut words = vec!["storlock".into(), "run".into()];
    if let Some(seed) = seed {
        words.extend(["--seed".into(), seed.to_string().into()]);
    }
    words.extend(options.map(Word));
    words
}

/// The command line that asks for what a description says: a field has the name of its option, and a value is written in
/// the same way, but for those that are told apart here.
#[must_use]
pub fn command_line(spec: &RunSpec) -> Vec<Word> {
    let mut words = vec!["storlock".into(), "run".into()];
    let mut fields = match spec.to_value() {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let driver = fields.remove_entry("driver");
    for (field, value) in driver.into_iter().chain(fields) {
        let name = format!("--{}", field.replace('_', "-"));
        match (field.as_str(), value) {
            ("schema" | "decided" | "disk" | "firmware", _) => {}
            ("hyperv", Value::Bool(false)) => words.push("--hyperv=off".into()),
            (_, Value::Bool(true)) => words.push(name.into()),
            (_, Value::Array(values)) => values.iter().for_each(|value| push(&mut words, &name, &text(value))),
            (_, value) => push(&mut words, &name, &text(&value)),
        }
    }
    if spec.disk.is_empty() {
        words.push("--no-disk".into());
    }
    for disk in &spec.disk {
        push(&mut words, "--disk", &disk.written());
    }
    // Last: its value may be left out.
    match &spec.firmware {
        Some(Firmware::Installed) => words.push("--firmware".into()),
        Some(Firmware::File(code)) => push(&mut words, "--firmware", code.as_os_str()),
        None => {}
    }
    words
}

/// What an option is given for a value.
fn text(value: &Value) -> OsString {
    match Word::deserialize(value) {
        Ok(Word(text)) => text,
        // A number.
        Err(_) => value.to_string().into(),
    }
}

/// Adds an option and its value. What a value begins with must not make it an option.
fn push(words: &mut Vec<Word>, name: &str, value: &OsStr) {
    if value.as_bytes().starts_with(b"-") {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        words.push(Word(word));
    } else {
        words.extend([name.into(), Word(value.to_owned())]);
    }
}

#[cfg(test)]
pub(crate) mod tests;
