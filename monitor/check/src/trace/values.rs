//! Checks whether an event of a trace can have its values. A guest can pass anything to a routine; the values that the
//! host takes from its processors, and the numbers that the monitor gives out, are limited.

use super::{HIGHEST_IRQL, TraceError};
use crate::checker::MAX_PROCESSORS;
use crate::event::{Context, Event, EventKind};

/// Checks an event that follows the one with sequence number `before`.
pub(super) fn check(event: &Event, before: Option<u64>) -> Result<(), TraceError> {
    if before.is_some_and(|before| event.sequence <= before) {
        return Err(TraceError::Impossible(
            "a sequence number that is not above the one before",
        ));
    }
    match &event.kind {
        EventKind::LockCall(call) => context(&call.context),
        EventKind::LockReturn(returned) => {
            if returned.call >= event.sequence {
                return Err(TraceError::Impossible("the return of a call that comes later"));
            }
            context(&returned.context)
        }
        EventKind::CallerAttributed(told) => {
            if told.call >= event.sequence {
                return Err(TraceError::Impossible("the caller of a call that comes later"));
            }
            Ok(())
        }
        EventKind::InCallback(told) => context(&told.context),
        &EventKind::IrqlSeen { processor, irql } => place(processor, irql),
        EventKind::ProcessorStopped(stopped) => context(stopped),
        EventKind::StillHeld(told) => {
            if told.acquire >= event.sequence {
                return Err(TraceError::Impossible("the end of a hold that comes later"));
            }
            context(&told.stopped)
        }
        EventKind::ModuleLoad(module) => range(module.base, module.size),
        &EventKind::ModuleUnload { base, size } => range(base, size),
        &EventKind::MemoryFreed { address, length } => range(address, length),
        EventKind::WatchSetChanged(watch) => {
            if !(1..=MAX_PROCESSORS).contains(&watch.processors) {
                return Err(TraceError::Impossible(
                    "a machine with no processors, or more than there can be",
                ));
            }
            Ok(())
        }
        EventKind::PortTold(_) | EventKind::FaultInjected { .. } | EventKind::Restored => Ok(()),
    }
}

fn context(context: &Context) -> Result<(), TraceError> {
    place(context.processor, context.irql)
}

fn place(processor: u32, irql: u8) -> Result<(), TraceError> {
    if processor >= MAX_PROCESSORS {
        return Err(TraceError::Impossible("a processor number that no machine has"));
    }
    if irql > HIGHEST_IRQL {
        return Err(TraceError::Impossible("an IRQL above 15"));
    }
    Ok(())
}

fn range(base: u64, size: u64) -> Result<(), TraceError> {
    match base.checked_add(size) {
        Some(_) => Ok(()),
        None => Err(TraceError::Impossible("memory beyond the end of the address space")),
    }
}
