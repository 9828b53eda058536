//! Measures what one breakpoint hit costs by each way of stepping over that works here.
//!
//! `hits [CALLS]`: one processor calls a routine CALLS (10000) times, with and without a breakpoint on it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storlock_vmm::Error;
use storlock_vmm::boot::{BootRequest, KernelImage};
use storlock_vmm::capabilities::{Capabilities, probe_step_over};
use storlock_vmm::debug::{Breakpoint, DebugHandler, HitAction, StepOver, StoppedCpu};
use storlock_vmm::kvm;
use storlock_vmm::machine::{CpuStatistics, ExitReason, Machine, MachineConfig};

/// Reads what a handler at the entry of a routine typically reads: the return address.
struct Reader;

impl DebugHandler for Reader {
    fn breakpoint(&self, cpu: &mut StoppedCpu<'_>, _: u32) -> HitAction {
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

fn guest(calls: u32) -> Vec<u8> {
    let mut code = vec![0xb9]; // mov ecx, calls
    code.extend(calls.to_le_bytes());
    code.extend([0xe8, 9, 0, 0, 0]); // again: call routine
    code.extend([0xff, 0xc9, 0x75, 0xf7]); // dec ecx; jnz again
    code.extend([0xe6, 0x80, 0xf4, 0xeb, 0xfd]); // out 80h, al; hlt
    code.extend([0x53, 0x5b, 0xc3]); // routine: push rbx; pop rbx; ret
    code
}

fn measure(calls: u32, step_over: Option<StepOver>) -> Result<(Duration, CpuStatistics), Error> {
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE))?;
    let config = MachineConfig {
        memory: 16 << 20,
        handler: Some(Arc::new(Reader)),
        step_over: step_over.or(Some(StepOver::SingleStep)),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(&kvm, config)?;
    machine.end_at_port(0x80)?;
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
    if !matches!(reason, ExitReason::PowerOff) {
        println!("the guest did not come to its end: {reason}");
    }
    let statistics = running.statistics().first().copied().unwrap_or_default();
    Ok((elapsed, statistics))
}

fn run(calls: u32) -> Result<(), Error> {
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE))?;
    println!("{:?}", Capabilities::of(&kvm));
    let (without, _) = measure(calls, None)?;
    println!("without a breakpoint: {without:?}");
    for result in probe_step_over(&kvm)? {
        if let Err(reason) = result.outcome {
            println!("{}: does not work here ({reason})", result.method);
            continue;
        }
        let (with, statistics) = measure(calls, Some(result.method))?;
        let each = with.saturating_sub(without) / calls.max(1);
        println!("{}: {each:?} a hit; {statistics:?}", result.method);
    }
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
