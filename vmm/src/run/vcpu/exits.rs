//! Makes one KVM_RUN, and says what its exit means.
//!
//! Talks to KVM and the buses. It must not know breakpoints, nor how vCPUs are stopped.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_debug_exit_arch};
use kvm_ioctls::{MsrExitReason, VcpuExit, VcpuFd, WriteMsrExit};

use crate::run::Error;
use crate::run::coordinator::{Shared, count};
use crate::run::stop::MachineStop;

/// What an exit asks for beyond what was done on the spot.
pub(super) enum Event {
    Handled,
    Debug(kvm_debug_exit_arch),
    MsrWrite { index: u32, data: u64 },
    InternalError,
    Crash,
    Interrupted,
    End(MachineStop),
}

/// KVM_RUN, and everything about the exit that needs the borrowed exit data. The flag says whether KVM needs another
/// KVM_RUN to complete the instruction.
pub(super) fn enter(fd: &mut VcpuFd, shared: &Shared, index: usize) -> Result<(Event, bool), Error> {
    let counters = &shared.cpus[index].counters;
    count(&counters.runs);
    let exit = match fd.run() {
        Ok(exit) => exit,
        Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
            count(&counters.other_exits);
            return Ok((Event::Interrupted, false));
        }
        Err(error) => return Err(Error::kvm("run a virtual processor")(error)),
    };
    let cpu = index as u32;
    match exit {
        VcpuExit::Debug(arch) => Ok((Event::Debug(arch), false)),
        VcpuExit::IoIn(port, data) => {
            count(&counters.pio_exits);
            let (start, length) = (data.as_mut_ptr(), data.len());
            let size = access_size(fd);
            // SAFETY: kvm-ioctls made this slice from the kvm_run mapping, which lives as long as `fd`; the reference
            // to kvm_run was used up above, so no other reference to these bytes exists.
            #[allow(unsafe_code)]
            let data = unsafe { std::slice::from_raw_parts_mut(start, length) };
            data.chunks_mut(size)
                .for_each(|data| shared.pio.read(u64::from(port), data));
            Ok((Event::Handled, true))
        }
        VcpuExit::IoOut(port, data) => {
            count(&counters.pio_exits);
            let (start, length) = (data.as_ptr(), data.len());
            let size = access_size(fd);
            // SAFETY: as above, and nobody writes to the bytes while they are read here.
            #[allow(unsafe_code)]
            let data = unsafe { std::slice::from_raw_parts(start, length) };
            data.chunks(size)
                .for_each(|data| shared.pio.write(u64::from(port), data));
            Ok((Event::Handled, true))
        }
        VcpuExit::MmioRead(address, data) => {
            count(&counters.mmio_exits);
            shared.mmio.read(address, data);
            Ok((Event::Handled, true))
        }
        VcpuExit::MmioWrite(address, data) => {
            count(&counters.mmio_exits);
            shared.mmio.write(address, data);
            Ok((Event::Handled, true))
        }
        VcpuExit::X86Wrmsr(mut exit) => {
            count(&counters.msr_exits);
            Ok((write_msr(&mut exit, shared), true))
        }
        VcpuExit::X86Rdmsr(exit) => {
            count(&counters.msr_exits);
            let known = exit.reason.contains(MsrExitReason::Inval);
            let answer = shared.unknown_msrs.answer(exit.index, false, known);
            *exit.data = 0;
            *exit.error = u8::from(answer.is_fault());
            Ok((Event::Handled, true))
        }
        other => {
            count(&counters.other_exits);
            Ok((rare_exit(&other, cpu), false))
        }
    }
}

/// A write of a register that the monitor asked to see, or that KVM does not perform.
fn write_msr(exit: &mut WriteMsrExit<'_>, shared: &Shared) -> Event {
    let (index, data) = (exit.index, exit.data);
    if exit.reason.contains(MsrExitReason::Filter) {
        return Event::MsrWrite { index, data };
    }
    let known = exit.reason.contains(MsrExitReason::Inval);
    let answer = shared.unknown_msrs.answer(index, true, known);
    *exit.error = u8::from(answer.is_fault());
    Event::Handled
}

/// The exits that end a run, or should not come at all.
fn rare_exit(exit: &VcpuExit<'_>, cpu: u32) -> Event {
    let unexpected = |what: String| Event::End(MachineStop::Failed(Arc::new(Error::UnexpectedExit { cpu, what })));
    match exit {
        VcpuExit::Shutdown => Event::End(MachineStop::TripleFault { cpu }),
        VcpuExit::InternalError => Event::InternalError,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Event::End(MachineStop::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Event::Crash,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Event::End(MachineStop::Reset),
        // The kernel saw a signal of ours, or has nothing to say.
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => Event::Handled,
        VcpuExit::FailEntry(reason, _) => unexpected(format!("an entry failure of the hardware, reason {reason:#x}")),
        other => unexpected(format!("an exit that has no meaning here: {other:?}")),
    }
}

/// Size in bytes of one access of a (string) port instruction that exited; at least 1.
fn access_size(fd: &mut VcpuFd) -> usize {
    // SAFETY: called after KVM_EXIT_IO only, so this is the union's member in use.
    #[allow(unsafe_code)]
    let size = unsafe { fd.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(size.max(1))
}
