//! Measures what one breakpoint hit costs by each way of stepping over that works here, beside a bare floor: the same
//! guest, the same registers and the same step over in nothing but a loop around KVM_RUN.
//!
//! `hits [CALLS]`: one processor calls a routine CALLS (10000) times with a breakpoint on it. Machine and floor take
//! turns, so that what else the host does falls on both. Prints a table in Markdown.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

mod bare;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use storlock_vmm::boot::{BootRequest, KernelImage};
use storlock_vmm::debug::{Breakpoint, HitAction, StepOver};
use storlock_vmm::kvm;
use storlock_vmm::kvm::Capabilities;
use storlock_vmm::run::probe_step_over;
use storlock_vmm::run::{CpuStatistics, Machine, MachineConfig, MachineStop};
use storlock_vmm::run::{DebugHandler, StoppedCpu};

type Failure = Box<dyn std::error::Error>;

/// Turns of machine and floor.
const ROUNDS: u32 = 5;

/// Reads what a handler at the entry of a routine typically reads, the return address, and notes the time.
struct Reader(Mutex<Vec<Instant>>);

impl DebugHandler for Reader {
    fn breakpoint(&self, cpu: &mut StoppedCpu<'_>, _: u32) -> HitAction {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
        let mut return_address = [0; 8];
        match cpu.read_virtual(cpu.registers().rsp, &mut return_address) {
            Ok(()) => HitAction::Resume,
            Err(_) => HitAction::Stop,
        }
    }

    fn caught_return(&self, _: &mut StoppedCpu<'_>, _: u64) -> HitAction {
        HitAction::Resume
    }

    fn msr_write(&self, _: &mut StoppedCpu<'_>, _: u32, _: u64) -> HitAction {
        HitAction::Resume
    }
}

/// Offset of the routine in [`guest`].
const ROUTINE: u64 = 0x13;
/// Port that the guest writes to at its end.
const END_PORT: u16 = 0x80;

fn guest(calls: u32) -> Vec<u8> {
    let mut code = vec![0xb9]; // mov ecx, calls
    code.extend(calls.to_le_bytes());
    code.extend([0xe8, 9, 0, 0, 0]); // again: call routine
    code.extend([0xff, 0xc9, 0x75, 0xf7]); // dec ecx; jnz again
    code.extend([0xe6, END_PORT as u8, 0xf4, 0xeb, 0xfd]); // out 80h, al; hlt
    code.extend([0x53, 0x5b, 0xc3]); // routine: push rbx; pop rbx; ret
    code
}

/// Times from hit to hit in nanoseconds.
fn periods(times: &[Instant]) -> Vec<u64> {
    let pairs = times.windows(2);
    pairs.map(|pair| (pair[1] - pair[0]).as_nanos() as u64).collect()
}

/// Runs the guest in a whole machine; without a method there is no breakpoint.
fn measure(kvm: &Kvm, calls: u32, step_over: Option<StepOver>) -> Result<(Duration, Vec<u64>, CpuStatistics), Failure> {
    let reader = Arc::new(Reader(Mutex::new(Vec::with_capacity(calls as usize))));
    let config = MachineConfig {
        memory: 16 << 20,
        handler: Some(Arc::clone(&reader) as _),
        step_over: step_over.or(Some(StepOver::SingleStep)),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(kvm, config)?;
    machine.end_at_port(END_PORT.into())?;
    let info = machine.boot(&BootRequest {
        kernel: KernelImage::from_code("hits", &guest(calls))?,
        files: Vec::new(),
        command_line: String::new(),
        seed: 1,
    })?;
    if step_over.is_some() {
        let address = info.kernel_base + ROUTINE;
        machine.set_breakpoints(&[Breakpoint { id: 0, address }])?;
    }
    let running = machine.start()?;
    let start = Instant::now();
    let reason = running.wait(Some(Duration::from_secs(600)));
    let elapsed = start.elapsed();
    if !matches!(reason, MachineStop::PowerOff) {
        return Err(format!("the guest did not come to its end: {reason}").into());
    }
    let statistics = running.statistics().first().copied().unwrap_or_default();
    drop(running);
    let times = reader.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((elapsed, periods(&times), statistics))
}

/// The 50th, 90th and 99th percentile, in microseconds.
fn percentiles(mut times: Vec<u64>) -> [f64; 3] {
    times.sort_unstable();
    [50, 90, 99].map(|percent| {
        let at = times.len() * percent / 100;
        times
            .get(at)
            .map_or(f64::NAN, |&time| Duration::from_nanos(time).as_secs_f64() * 1e6)
    })
}

fn print_row(name: &str, [p50, p90, p99]: [f64; 3], ratio: Option<f64>) {
    let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    println!("| {name} | {p50:.1} | {p90:.1} | {p99:.1} | {ratio} |");
}

fn run(calls: u32) -> Result<(), Failure> {
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE))?;
    let capabilities = Capabilities::of(&kvm);
    println!("{capabilities:?}");
    let (without, ..) = measure(&kvm, calls, None)?;
    println!("{calls} calls without a breakpoint, whole run: {without:?}\n");
    println!("| from one hit to the next, µs | p50 | p90 | p99 | p50 of the floor's |\n|---|---|---|---|---|");
    let mut notes = Vec::new();
    for result in probe_step_over(&kvm)? {
        let method = result.method;
        if let Err(reason) = result.outcome {
            notes.push(format!("{method}: does not work here ({reason})"));
            continue;
        }
        let (mut whole, mut floor) = (Vec::new(), Vec::new());
        let mut last = CpuStatistics::default();
        for _ in 0..ROUNDS {
            let each = (calls / ROUNDS).max(1);
            floor.extend(periods(&bare::hits(
                &kvm,
                &guest(each),
                method,
                capabilities.sync_registers,
            )?));
            let (_, times, statistics) = measure(&kvm, each, Some(method))?;
            whole.extend(times);
            last = statistics;
        }
        let (whole, floor) = (percentiles(whole), percentiles(floor));
        print_row(&format!("{method}, bare floor"), floor, None);
        print_row(&format!("{method}, machine"), whole, Some(whole[0] / floor[0]));
        notes.push(format!("{method}, the last of {ROUNDS} rounds: {last:?}"));
    }
    println!("\n{}", notes.join("\n"));
    Ok(())
}

fn main() -> ExitCode {
    let calls = std::env::args()
        .nth(1)
        .and_then(|calls| calls.parse().ok())
        .unwrap_or(10_000);
    match run(calls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
