//! Reads the ring of the hooks, and hands each record on as the stop that a breakpoint would have made.
//!
//! Records come in the order in which their processors have begun them, each before its routine runs: the order that
//! breakpoints give, too. It must not know what a call means.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::Session;
use super::super::decode;
use super::super::recording::Recording;
use super::super::state::State;
use crate::hooks::{Next, Record, RecordCpu, Ring};
use crate::report::Doubt;
use crate::vmi::recorder::Recorder;
use crate::vmi::recording::Frame;
use crate::vmi::{Action, CpuStop};

/// Records that are taken at once: as long as the session's lock is held for them, no processor is judged.
const BATCH: u64 = 512;
/// How long a record that was begun is waited for, so that its lock word counts: its processor is between two instructions of
/// the stub, and may have been taken off by the host meanwhile.
const PATIENCE: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_micros(20);
/// How long the reader sleeps, if there was something and if there was nothing.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_millis(10);

/// How far the ring is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Until {
    /// As far as records are finished, but not too many.
    Batch,
    /// All that are finished of those that were begun by now: something comes after them. One that is not finished is a call of
    /// a processor that has not come to the routine.
    Call,
    /// The machine goes no further: the calls that are not finished were not made.
    End,
}

/// Why a record means nothing.
struct Broken;

impl Session {
    /// Reads the ring of the hooks until the session is closed.
    pub(crate) fn serve_hooks(&self) {
        let mut pause = SHORT;
        while !self.hooks_over.load(Ordering::Acquire) {
            let taken = {
                let mut state = self.lock_state();
                self.drain(&mut state, Until::Batch)
            };
            if taken >= BATCH {
                continue;
            }
            pause = if taken > 0 { SHORT } else { (2 * pause).min(LONG) };
            std::thread::sleep(pause);
        }
    }

    /// Reads the ring; gives the number of records.
    pub(in crate::session) fn drain(&self, state: &mut State, until: Until) -> u64 {
        if !state.hooks.have_ring() {
            return 0;
        }
        let now = Instant::now();
        let (mut taken, mut all) = (0, false);
        // A guest that goes on writing keeps nobody here.
        let end = state.hooks.in_force().and_then(|in_force| in_force.ring.begun());
        while until != Until::Batch || taken < BATCH {
            let Some(in_force) = state.hooks.in_force() else { break };
            let known = match in_force.next(end) {
                Next::Empty => {
                    all = true;
                    break;
                }
                Next::Call(record) => self.take_record(state, &record),
                Next::Pending if until == Until::Batch => break,
                Next::Pending => {
                    wait_or_skip(&mut in_force.ring, until);
                    continue;
                }
                Next::Broken => Err(Broken),
            };
            if known.is_err() {
                broken(state);
                break;
            }
            taken += 1;
        }
        if until == Until::End {
            end_of_calls(state);
        }
        state.hooks.counts.calls += taken;
        state.hooks.counts.taken(now, taken > 0, all);
        taken
    }

    /// Takes a record as a stop at the routine.
    fn take_record(&self, state: &mut State, record: &Record) -> Result<(), Broken> {
        let watches = state.watching.in_force();
        let processors = state.config.processors;
        let in_force = state.hooks.in_force().ok_or(Broken)?;
        let stub = record.stub();
        let import = in_force.imports.get(stub as usize).ok_or(Broken)?;
        let index = in_force.processors.get(&record.processor());
        let index = index.copied().unwrap_or(record.processor());
        let watch = watches.iter().find(|watch| watch.breakpoint.id == import.watch);
        let watch = watch.filter(|_| index < processors).ok_or(Broken)?;
        let row = watch.rows.iter().find(|row| row.routine as u32 == record.routine());
        let row = row.ok_or(Broken)?;
        let region = in_force.ring.region().clone();
        let place = (record.return_address(), stub);
        let (kernel, at) = (in_force.kernel, (index, import.target));
        let mut cpu = RecordCpu::new(record, at, row, kernel, region.memory());
        let stop = CpuStop::Breakpoint(import.watch);
        let recorder = Recorder::new(&mut cpu, Some(stop), self.recording.is_some());
        let recorder = recorder.hiding(self.in_force.hidden());
        let context = decode::context(&recorder);
        let call = decode::lock_call(&recorder, &watch.rows, context);
        watch.hits.fetch_add(1, Ordering::Relaxed);
        state.hooks.in_record = Some(place);
        let action = state.entered(&recorder, watch, context, call);
        state.hooks.in_record = None;
        let missed = recorder.has_missed();
        record_stop(self.recording.as_ref(), recorder);
        if missed {
            state.hooks.forget_site(place, true);
        }
        if action == Action::Stop {
            if let Some(stop_at) = self.stop_at.get() {
                stop_at(index);
            }
        }
        Ok(())
    }
}

fn record_stop(recording: Option<&Recording>, recorder: Recorder<'_>) {
    if let (Some(recording), Some(stop)) = (recording, recorder.finish()) {
        recording.push(Frame::Stop(Box::new(stop)));
    }
}

/// A record was begun and is not finished. Waits for it a moment, then goes on behind it.
fn wait_or_skip(ring: &mut Ring, until: Until) {
    let began = Instant::now();
    while !ring.is_finished() {
        if until == Until::End || began.elapsed() >= PATIENCE {
            return ring.skip();
        }
        std::thread::sleep(LOOK);
    }
}

/// The machine goes no further: what is not finished has to be a call of a processor that stands in a stub.
fn end_of_calls(state: &mut State) {
    let standing = state.hooks.standing.len();
    let unfinished = state.hooks.in_force().map_or(0, |in_force| in_force.ring.unfinished());
    state.hooks.counts.unfinished = unfinished as u64;
    if unfinished > standing {
        broken(state);
    }
}

/// The guest has written to the ring what no stub writes: nothing more is read, and each call leaves the guest.
fn broken(state: &mut State) {
    state.hooks.pause_for_good();
    state.log.doubt(Doubt::HooksBroken);
}
