//! Which callback makes a call: told from the stack, by the return addresses of the driver's frames.
//!
//! A whole stack is unwound once for each return address; then the sizes of the frames are known, and a call costs one read
//! of the guest. Where locks depend on it the stack is unwound again. It must not know what a call does.

use std::collections::HashMap;

use storlock_check::contract::Callback;

use super::{Callbacks, PORT_DRIVER};
use crate::hooks::RECORDED_STACK;
use crate::report::ModuleInfo;
use crate::session::guest::Names;
use crate::vmi::{CpuState, PAGE_SIZE};
use crate::windows::unwind::{Frame, Function};
use crate::windows::{Image, KERNEL};

/// Bytes of a stack in which frames are followed by their sizes.
const WINDOW: usize = 0x800;
/// Frames of the driver that are followed.
const DEPTH: usize = 24;
/// Return addresses that are remembered.
const KNOWN: usize = 4096;

/// A return address of the driver.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes from its place on the stack to that of the next one.
    size: usize,
    /// The callback in whose function it is.
    callback: Option<Callback>,
}

/// A frame's size is not known: the stack has to be unwound.
struct NotFollowed;

/// What is remembered of return addresses.
#[derive(Debug, Default)]
pub(super) struct Frames(HashMap<u64, Known>);

impl Frames {
    /// Forgets them: another function is known to be a callback.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The callback at the outer end of the driver's frames.
    fn followed(&self, cpu: &impl CpuState, driver: &ModuleInfo) -> Result<Option<Callback>, NotFollowed> {
        let mut stack = [0; WINDOW];
        let top = cpu.registers().rsp();
        if cpu.read(top, &mut stack).is_err() {
            // It may end with this page, or be as much of it as a hook keeps.
            let left = (PAGE_SIZE - top % PAGE_SIZE) as usize;
            let mut read = |bytes: usize| {
                let stack = stack.get_mut(..bytes.min(left)).ok_or(NotFollowed)?;
                cpu.read(top, stack).map_err(|_| NotFollowed)
            };
            read(left).or_else(|_| read(RECORDED_STACK))?;
        }
        let word = |at: usize| {
            let word = stack.get(at..at + 8).and_then(<[u8]>::first_chunk);
            word.map(|word| u64::from_le_bytes(*word)).ok_or(NotFollowed)
        };
        let mut at = 0;
        for _ in 0..DEPTH {
            let frame = self.0.get(&word(at)?).ok_or(NotFollowed)?;
            at += frame.size;
            if !driver.contains(word(at)?) {
                return Ok(frame.callback);
            }
        }
        Err(NotFollowed)
    }
}

impl Callbacks {
    /// The callback that makes the call which the processor is about to enter, to return into the driver; only the function
    /// that the port driver or the kernel has called counts. `exact`: the stack is unwound, whatever is remembered.
    pub(crate) fn calling(
        &mut self,
        cpu: &impl CpuState,
        names: &mut Names,
        driver: &ModuleInfo,
        exact: bool,
    ) -> Option<Callback> {
        if self.known.is_empty() {
            return None;
        }
        if !exact && let Ok(callback) = self.frames.followed(cpu, driver) {
            return callback;
        }
        let image = Image::read(cpu, driver.base).ok()?;
        let (own, next) = names.frames_of(cpu, driver);
        let outer = own.iter().skip(1).chain(&next);
        let sizes = own
            .iter()
            .zip(outer)
            .map(|(inner, outer)| outer.rsp.wrapping_sub(inner.rsp));
        let mut known = Vec::new();
        for (frame, size) in own.iter().zip(sizes) {
            let callback = self.function_of(cpu, &image, frame);
            let size = usize::try_from(size).map_or(WINDOW, |size| size.min(WINDOW));
            known.push((frame.rip, size, callback));
        }
        if self.frames.0.len() + known.len() > KNOWN {
            self.frames.clear();
        }
        let calling = known.last().and_then(|(.., callback)| *callback);
        let known = known.into_iter();
        let known = known.map(|(rip, size, callback)| (rip, Known { size, callback }));
        self.frames.0.extend(known);
        // A callback is a function that the port driver calls; but it may jump to an interrupt routine, as its own last act.
        let calls = |module: &str| next.is_some_and(|next| names.is_in(next.rip, module));
        calling.filter(|callback| calls(PORT_DRIVER) || callback.is_interrupt_routine() && calls(KERNEL))
    }

    /// The callback whose function begins there.
    pub(crate) fn of_function(&self, cpu: &impl CpuState, driver: &ModuleInfo, begin: u64) -> Option<Callback> {
        let image = (!self.known.is_empty()).then(|| Image::read(cpu, driver.base).ok())??;
        self.at(cpu, &image, begin)
    }

    /// The callback whose function a frame is of.
    fn function_of(&self, cpu: &impl CpuState, image: &Image, frame: &Frame) -> Option<Callback> {
        self.at(cpu, image, begin_of(cpu, image, frame)?)
    }

    /// Where the function to which a call returns begins, if that is a callback and no code of the driver itself calls it: then
    /// the port driver has.
    pub(crate) fn function_behind(
        &mut self,
        cpu: &impl CpuState,
        driver: &ModuleInfo,
        return_address: u64,
    ) -> Option<u64> {
        let image = Image::read(cpu, driver.base).ok()?;
        let frame = Frame {
            rip: return_address,
            rsp: 0,
            exact: false,
        };
        let begin = begin_of(cpu, &image, &frame)?;
        self.at(cpu, &image, begin)?;
        let known = self.known.iter().position(|known| known.begin == begin);
        let coming = known.and_then(|known| self.coming(cpu, driver).get(known));
        (!coming.is_some_and(|coming| coming.any)).then_some(begin)
    }
}

/// Where the function of a frame of the driver begins.
pub(crate) fn function_at(cpu: &impl CpuState, driver: &ModuleInfo, frame: &Frame) -> Option<u64> {
    begin_of(cpu, &Image::read(cpu, driver.base).ok()?, frame)
}

/// Where the function of a frame begins.
fn begin_of(cpu: &impl CpuState, image: &Image, frame: &Frame) -> Option<u64> {
    let inside = frame.rip.wrapping_sub(u64::from(!frame.exact));
    let function = Function::find(cpu, image, inside).ok()??;
    Some(image.address(function.primary(cpu, image).ok()?.begin))
}
