//! The commands `monitor storlock ...` of gdb: they show what the session knows, and set a few things.
//!
//! Talks to the session and to the stopped machine. It must not know gdb's protocol.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::escape;
use crate::session::Session;
use crate::vmi::debuggee::{AllRegisters, DebuggedCpu, Debuggee, ask};

use super::breakpoints::Policy;
use super::registers::Register;
use super::snapshot::SnapshotFile;

/// Most bytes of physical memory that one command shows.
const DUMP_LIMIT: u64 = 4096;

/// Each command, its arguments and what it does.
const COMMANDS: [(&str, &str, &str); 15] = [
    (
        "violation",
        "[CPU]",
        "what broke the contract, where a processor is stopped for it",
    ),
    ("violations", "", "everything found so far"),
    (
        "locks",
        "[ADDRESS]",
        "acquires that are open, by processor; or what happened to the lock there",
    ),
    ("modules", "", "the guest's modules"),
    (
        "processors",
        "",
        "where each processor is, and how long it ran on when the machine was stopped",
    ),
    ("irql", "", "each processor's IRQL"),
    (
        "callstack",
        "[CPU]",
        "a processor's call stack by the images' unwind tables",
    ),
    ("phys", "ADDRESS [BYTES]", "guest physical memory, at most 4096 bytes"),
    (
        "translate",
        "ADDRESS [CPU]",
        "where a virtual address leads by a processor's page tables",
    ),
    (
        "breakpoints",
        "[mixed|soft|hard]",
        "what the four debug registers are used for; or what `break` takes from now on: int3 when none is left, always, never",
    ),
    ("rules", "", "the rules, and which of them stop the machine"),
    (
        "ignore",
        "RULE",
        "no longer stop at violations of this rule; they are still reported",
    ),
    ("arm", "RULE", "stop at violations of this rule again"),
    ("report", "", "the report as if the run ended here"),
    (
        "snapshot",
        "",
        "write all of this and all registers to the snapshot file in the report directory",
    ),
];

/// Carries out commands.
pub(crate) struct Commands<'a> {
    pub(crate) machine: &'a dyn Debuggee,
    pub(crate) session: &'a std::sync::Arc<Session>,
    /// The processor meant when none is named.
    pub(crate) cpu: u32,
    /// Where snapshots go.
    pub(crate) snapshot: Option<&'a mut SnapshotFile>,
    /// What software breakpoints take.
    pub(super) policy: &'a mut Policy,
}

/// The output of a command, or what is wrong with it.
type Answer = Result<String, String>;

impl Commands<'_> {
    /// Carries out one command line and gives what is printed, each line ended.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace().peekable();
        words.next_if_eq(&"storlock");
        let command = words.next().unwrap_or("help");
        let arguments: Vec<&str> = words.collect();
        let answer = self.answer(command, &arguments);
        let text = answer.unwrap_or_else(|problem| format!("{problem}\n"));
        escape::lines(&text).into_owned()
    }

    fn answer(&mut self, command: &str, arguments: &[&str]) -> Answer {
        let usage = COMMANDS.iter().find(|(name, ..)| *name == command);
        let Some((_, form, _)) = usage else {
            return Ok(match command {
                "help" => help(),
                other => format!("there is no command `{other}`\n{}", help()),
            });
        };
        let most = form.split_whitespace().count();
        let least = form.split_whitespace().filter(|word| !word.starts_with('[')).count();
        if !(least..=most).contains(&arguments.len()) {
            return Err(format!("usage: monitor storlock {command} {form}"));
        }
        let number = |index: usize| arguments.get(index).map(|text| number(text)).transpose();
        match command {
            "violation" => self.violation(number(0)?),
            "violations" => Ok(self.session.violations_text()),
            "locks" => self.locks(number(0)?),
            "modules" => self.modules(),
            "processors" => self.processors(),
            "irql" => self.irql(),
            "callstack" => self.callstack(number(0)?),
            "phys" => self.physical(number(0)?.unwrap_or(0), number(1)?.unwrap_or(128)),
            "translate" => self.translate(number(0)?.unwrap_or(0), number(1)?),
            "breakpoints" => {
                if let Some(word) = arguments.first() {
                    *self.policy = Policy::parse(word)?;
                }
                Ok(self.breakpoints())
            }
            "rules" => Ok(self.session.rules_text()),
            "ignore" | "arm" => {
                self.session.arm_rule(arguments[0], command == "arm")?;
                Ok(self.session.rules_text())
            }
            "report" => Ok(self.session.report_so_far()),
            _ => self.snapshot(),
        }
    }

    fn cpu(&self, number: Option<u64>) -> Result<u32, String> {
        let count = self.machine.processors();
        let cpu = number.map_or(Ok(self.cpu), u32::try_from);
        cpu.ok()
            .filter(|cpu| *cpu < count)
            .ok_or_else(|| format!("the processors are 0 to {}", count - 1))
    }

    fn ask<R: Send + 'static>(
        &self,
        cpu: u32,
        question: impl FnOnce(&mut dyn DebuggedCpu, &Session) -> R + Send + 'static,
    ) -> Result<R, String> {
        let session = std::sync::Arc::clone(self.session);
        ask(self.machine, cpu, move |cpu| question(cpu, &session)).ok_or_else(|| "the run is over".to_owned())
    }

    fn violation(&self, cpu: Option<u64>) -> Answer {
        let cpu = self.cpu(cpu)?;
        let text = self.session.finding_text(cpu);
        Ok(text.unwrap_or_else(|| format!("processor {cpu} has not been stopped for a violation\n")))
    }

    fn locks(&self, address: Option<u64>) -> Answer {
        self.ask(self.cpu, move |cpu, session| {
            session.locks_text(cpu.as_cpu_state(), address)
        })
    }

    fn modules(&self) -> Answer {
        let modules = self.ask(self.cpu, |cpu, session| session.loaded_modules(cpu.as_cpu_state()))?;
        let mut text = String::new();
        for module in &modules {
            let _ = writeln!(text, "{:#018x} {:>#10x}  {}", module.base, module.size, module.name);
        }
        if modules.is_empty() {
            text.push_str("the guest's kernel has not been found yet\n");
        }
        Ok(text)
    }

    fn processors(&self) -> Answer {
        let ran_on = self.machine.ran_on();
        let mut text = String::new();
        for cpu in 0..self.machine.processors() {
            let line = self.ask(cpu, |cpu, session| session.processor_text(cpu.as_cpu_state()))?;
            let ran = match ran_on.get(cpu as usize).copied().flatten() {
                Some(time) => format!("stood still {} us after the stop was asked for", time.as_micros()),
                None => "stood still already".to_owned(),
            };
            let _ = writeln!(text, "{line}\n        {ran}");
        }
        Ok(text)
    }

    fn irql(&self) -> Answer {
        let mut text = String::new();
        for cpu in 0..self.machine.processors() {
            let irql = self.ask(cpu, |cpu, _| cpu.special().irql())?;
            let _ = writeln!(text, "vCPU {cpu:<2} IRQL {}", crate::report::text::irql_text(irql));
        }
        Ok(text)
    }

    fn callstack(&self, cpu: Option<u64>) -> Answer {
        let cpu = self.cpu(cpu)?;
        self.ask(cpu, |cpu, session| session.stack_text(cpu.as_cpu_state()))
    }

    fn physical(&self, address: u64, bytes: u64) -> Answer {
        if bytes == 0 || bytes > DUMP_LIMIT {
            return Err(format!("1 to {DUMP_LIMIT} bytes can be shown at once"));
        }
        let read = self.ask(self.cpu, move |cpu, _| {
            let mut data = vec![0; bytes as usize];
            cpu.read_physical(address, &mut data).then_some(data)
        })?;
        let data = read.ok_or_else(|| format!("{bytes} bytes at physical {address:#x} are not all memory"))?;
        let mut text = String::new();
        for (at, row) in (address..).step_by(16).zip(data.chunks(16)) {
            let _ = write!(text, "{at:#014x} ");
            for byte in row {
                let _ = write!(text, " {byte:02x}");
            }
            text.push('\n');
        }
        Ok(text)
    }

    fn translate(&self, address: u64, cpu: Option<u64>) -> Answer {
        let cpu = self.cpu(cpu)?;
        let page = self.ask(cpu, move |cpu, _| cpu.translate(address))?;
        let page = page.map_err(|error| error.to_string())?;
        let flag = |set: bool, yes: &'static str, no: &'static str| if set { yes } else { no };
        Ok(format!(
            "virtual {address:#x} is physical {:#x}: a page of {} KiB, {}, {}, {}\n",
            page.physical,
            page.size >> 10,
            flag(page.writable, "writable", "read-only"),
            flag(page.executable, "executable", "not executable"),
            flag(page.user, "for user mode too", "for the kernel only"),
        ))
    }

    fn breakpoints(&self) -> String {
        let used = self.machine.in_use();
        let mut text = String::new();
        for line in &used.registers {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(
            text,
            "{} of 4 debug registers in use; a breakpoint on a watched routine needs none of its own",
            used.registers.len()
        );
        for address in &used.software {
            let _ = writeln!(text, "your breakpoint by int3 at {address:#x}");
        }
        let _ = writeln!(text, "a software breakpoint takes {}", self.policy);
        if !self.machine.has_software_breakpoints() {
            let _ = writeln!(
                text,
                "int3 does not come out of this KVM, so that a debug register is all it can take"
            );
        }
        text
    }

    fn snapshot(&mut self) -> Answer {
        let mut text = String::from("=== snapshot of a stopped run\n");
        for cpu in 0..self.machine.processors() {
            let all = self.ask(cpu, |cpu, _| cpu.all())?;
            let _ = writeln!(text, "--- processor {cpu}");
            match all {
                Ok(all) => text.push_str(&registers_text(&all)),
                Err(error) => {
                    let _ = writeln!(text, "{error}");
                }
            }
            text.push_str(&self.callstack(Some(u64::from(cpu)))?);
            if let Some(violation) = self.session.finding_text(cpu) {
                text.push_str(&violation);
            }
        }
        for (head, part) in [
            ("processors", self.processors()?),
            ("modules", self.modules()?),
            ("locks", self.locks(None)?),
            ("debug registers", self.breakpoints()),
            ("report so far", self.session.report_so_far()),
        ] {
            let _ = write!(text, "--- {head}\n{part}");
        }
        let file = self.snapshot.as_mut().ok_or("this run has no snapshot file")?;
        file.write_all(text.as_bytes())
            .map_err(|error| format!("the snapshot cannot be written: {error}"))?;
        Ok(format!(
            "{} bytes added to the snapshot file in the report directory\n",
            text.len()
        ))
    }
}

fn help() -> String {
    let mut text = String::from("monitor storlock COMMAND:\n");
    for (name, arguments, what) in COMMANDS {
        let _ = writeln!(text, "  {:<28} {what}", format!("{name} {arguments}"));
    }
    text
}

fn registers_text(all: &AllRegisters) -> String {
    let mut text = String::new();
    for register in Register::all_of(all) {
        let value = register.get(all);
        let _ = write!(text, "{:<10} ", register.name());
        for byte in value[..register.size()].iter().rev() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

/// A number as gdb and C write it.
fn number(text: &str) -> Result<u64, String> {
    let plain = text.replace(['`', '_'], "");
    let parsed = match plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => plain.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number: write 0x... or a decimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_c_or_as_windbg_prints_them() {
        assert_eq!(number("0xfffff800`00001000"), Ok(0xffff_f800_0000_1000));
        assert_eq!(number("16"), Ok(16));
        assert!(number("rip").is_err());
    }

    #[test]
    fn the_help_names_every_command_once() {
        let text = help();
        for (name, ..) in COMMANDS {
            assert_eq!(text.matches(&format!("\n  {name} ")).count(), 1, "{name}");
        }
    }
}
