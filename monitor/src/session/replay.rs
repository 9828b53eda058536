//! Runs a session on a recording instead of a guest, and a checker on an event trace.
//!
//! Talks to the recording and trace readers. It must not know the command line. A recording runs the same code as a
//! live guest. A trace holds less (no memory), so its report has only the first frames of a stack, and no symbols.

use std::collections::HashSet;
use std::io::Read;
use std::time::Instant;

use storlock_check::checker::Response;
use storlock_check::event::{CallerAttributed, Event, EventKind};
use storlock_check::finding::Finding;
use storlock_check::trace::EndMark;

use super::Session;
use super::config::{Config, End, EndKind};
use super::findings::Attribution;
use super::guest::{ModuleId, ModuleMap};
use super::state::State;
use super::timeline::TimelineBuilder;
use super::trace_reader::{TraceReadError, TraceReader};
use super::unknown::UnknownCaller;
use crate::report::timeline::Timeline;
use crate::report::{Called, ModuleInfo, Note, Report, StackEnd};
use crate::vmi::recording::{Frame, Reader, RecordedStop, RecordingError};
use crate::vmi::replay::ReplayCpu;

/// Why a recording gives no report at all.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read from its start.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The file is neither a recording nor an event trace.
    #[error(transparent)]
    Trace(#[from] TraceReadError),
}

/// Replays a recording. If it is damaged further on, the report covers what is whole and says so.
///
/// # Errors
/// [`ReplayError`] if not even its header is whole.
pub fn recording(input: impl Read) -> Result<Report, ReplayError> {
    let mut reader = Reader::new(input)?;
    let mut config = header(&mut reader)?;
    config.run.replayed = true;
    let mut replay = Replay {
        processors: config.processors,
        session: Session::new(config, None, None),
        looked_at: 0,
        end: None,
    };
    replay.session.lock().ledger.begin_timeline();
    let damage = loop {
        let place = reader.place();
        match reader.next() {
            Ok(Some(frame)) => {
                if let Err(what) = replay.take(frame) {
                    break Some(place.damaged(what));
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let mut end = replay.end.unwrap_or_default();
    end.failures.extend(damage.map(|error| error.to_string()));
    Ok(with_timeline(&replay.session, &end))
}

fn with_timeline(session: &Session, end: &End) -> Report {
    let mut report = session.report(end);
    report.timeline = session.lock().ledger.take_timeline();
    session.name_places(&mut report);
    report
}

/// Adds to a report the timeline of its run's event trace. Reading ends at `until` at the latest.
///
/// # Errors
/// [`TraceReadError`] if not even the header can be read.
pub(crate) fn draw_timeline(
    report: &mut Report,
    trace: impl Read,
    until: Option<Instant>,
) -> Result<(), TraceReadError> {
    let marks = report.findings.iter().flat_map(|v| [v.event, v.call_event]).collect();
    report.timeline = Some(timeline(trace, &marks, until)?);
    Ok(())
}

/// The timeline of a run, from its event trace. `marks`: numbers of events to mark. It ends at `until` at the latest, and says
/// so, and where the trace is damaged.
///
/// # Errors
/// [`TraceReadError`] if not even the header can be read.
fn timeline(input: impl Read, marks: &HashSet<u64>, until: Option<Instant>) -> Result<Timeline, TraceReadError> {
    let mut events = TraceReader::new(input)?;
    let mut builder = TimelineBuilder::default();
    let mut count = 0_u64;
    let cut = loop {
        count += 1;
        if count % 4096 == 0 && until.is_some_and(|until| Instant::now() >= until) {
            break Some(
                "to draw the rest would have taken too long: storlock report on the event trace shows all".to_owned(),
            );
        }
        match events.next() {
            Ok(Some(event)) => builder.observe(&event, events.time(), marks.contains(&event.sequence)),
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Ok(Timeline {
        cut,
        ..builder.finish()
    })
}

fn header(reader: &mut Reader<impl Read>) -> Result<Config, RecordingError> {
    let place = reader.place();
    let Some(Frame::Header(json)) = reader.next()? else {
        return Err(place.damaged("the recording does not begin with a header"));
    };
    let config: Config =
        serde_json::from_slice(&json).map_err(|error| place.damaged(format!("its header makes no sense: {error}")))?;
    config
        .check()
        .map_err(|what| place.damaged(format!("its header makes no sense: {what}")))?;
    Ok(config)
}

/// A recording that is being replayed.
struct Replay {
    session: Session,
    processors: u32,
    /// Bit n: there was the last look at processor n.
    looked_at: u64,
    end: Option<End>,
}

impl Replay {
    /// Takes the next frame, or says why no run can have written it here.
    fn take(&mut self, frame: Frame) -> Result<(), String> {
        if self.end.is_some() {
            return Err("it follows the end of the run".to_owned());
        }
        match frame {
            Frame::Header(_) => return Err("it is a second header".to_owned()),
            Frame::Stop(stop) => self.stop(&stop)?,
            Frame::Fault(fault) => self.session.fault_injected(fault),
            Frame::End(json) => {
                let end = serde_json::from_slice(&json);
                self.end = Some(end.map_err(|error| format!("the end of the run makes no sense: {error}"))?);
            }
        }
        Ok(())
    }

    fn stop(&mut self, stop: &RecordedStop) -> Result<(), String> {
        if stop.vcpu >= self.processors {
            let (vcpu, count) = (stop.vcpu, self.processors);
            return Err(format!("processor {vcpu} of a machine with {count} stopped"));
        }
        let mut cpu = ReplayCpu::new(stop);
        if let Some(reason) = stop.reason {
            // What the machine would do is in the recording.
            let _ = self.session.handle(&mut cpu, reason);
            return Ok(());
        }
        let bit = 1u64.checked_shl(stop.vcpu).unwrap_or(0);
        if self.looked_at & bit != 0 {
            return Err(format!("it is a second last look at processor {}", stop.vcpu));
        }
        self.looked_at |= bit;
        self.session.look(&mut cpu);
        Ok(())
    }
}

/// Checks an event trace again. If it is damaged further on, the report covers what is whole and says so.
///
/// # Errors
/// [`ReplayError`] if it cannot be read or is no trace.
pub fn trace(input: impl Read) -> Result<Report, ReplayError> {
    let mut events = TraceReader::new(input)?;
    let mut config = Config::default();
    config.run.replayed = true;
    let session = Session::new(config, None, None);
    let mut end = End {
        kind: EndKind::NotRecorded,
        ..End::default()
    };
    let mut state = session.lock();
    state.ledger.begin_timeline();
    let damaged = loop {
        match events.next() {
            Ok(Some(event)) => replay(&mut state, &event, events.time()),
            Ok(None) => break false,
            Err(error) => {
                end.failures.push(error.to_string());
                break true;
            }
        }
    };
    match events.end() {
        _ if damaged => {}
        Some(EndMark::Complete) => {}
        Some(EndMark::DiskFull) => end.failures.push("the trace ends early: the disk was full".to_owned()),
        Some(EndMark::CutOff) => end.kind = EndKind::Stopped,
        None => end
            .failures
            .push("the trace was cut off: it has no end mark".to_owned()),
    }
    state.log.note(Note::FromTrace);
    drop(state);
    Ok(with_timeline(&session, &end))
}

/// Takes an event of a trace.
fn replay(state: &mut State, event: &Event, time: Option<u64>) {
    match &event.kind {
        EventKind::ModuleLoad(module) => module_loaded(state, module),
        EventKind::ModuleUnload { base, .. } => state.guest.modules_mut().remove(*base),
        EventKind::Restored => {
            state.discovery.restart();
            state.guest.forget();
            state.target.forget();
        }
        EventKind::WatchSetChanged(_) => {
            state.discovery.armed();
            if let Some(driver) = state.target.module() {
                state.coverage.watched(driver);
            }
            state.watching.armed(event.sequence);
        }
        EventKind::LockCall(call) => {
            let found = state.guest.modules().find(call.context.return_address);
            let module = found.map_or(ModuleId::UNKNOWN, |(_, id)| id);
            let by_target = state.target.id() == Some(module);
            state.ledger.count_hit(module, by_target, Some(call.routine));
        }
        _ => {}
    }
    let (response, not_judged) = state.ledger.replay(event, time);
    match (&event.kind, state.target.module()) {
        (EventKind::FaultInjected { .. }, _) => state.coverage.fault_injected(),
        (EventKind::LockCall(call), Some(driver)) => state.coverage.replayed(driver, call, event.sequence),
        _ => {}
    }
    if let EventKind::LockCall(call) = &event.kind
        && not_judged
    {
        let (modules, return_address) = (state.guest.modules(), call.context.return_address);
        let by_target = state.target.is_at(modules, return_address);
        state.ledger.not_judged(call, || UnknownCaller {
            place: modules.locate(return_address, 1),
            by_target,
            jumped_from: None,
        });
    }
    let told = match &event.kind {
        EventKind::CallerAttributed(told) => Some(told),
        _ => None,
    };
    if let Some(told) = told.filter(|told| told.target) {
        let caller = state.guest.modules().locate(told.caller, 0);
        state.ledger.not_judged_of_target(told.call, caller);
    }
    place(state, &response, told);
}

/// Notes where new findings come from, as far as events tell.
pub(super) fn place(state: &mut State, response: &Response, told: Option<&CallerAttributed>) {
    for found in response.findings().filter(|found| found.first) {
        if let Some((index, finding)) = found
            .index
            .and_then(|index| Some((index, state.ledger.finding(index)?)))
        {
            let mut attribution = attribution(state.guest.modules(), finding, told);
            attribution.name_places(state.guest.names(), &state.guest.module_list());
            state.ledger.attribute(index, attribution);
        }
    }
}

fn module_loaded(state: &mut State, module: &storlock_check::event::Module) {
    let info = ModuleInfo {
        name: module.name.clone(),
        base: module.base,
        size: module.size,
    };
    state.guest.modules_mut().add(info.clone());
    if let Some((_, id)) = state.guest.modules().find(module.base).filter(|_| module.target) {
        if state.discovery.is_armed() {
            state.coverage.watched(&info);
        }
        state.target.set(info, id);
    }
}

/// Names the modules of a finding's addresses; `told`: who made the call, if the trace says that.
fn attribution(modules: &ModuleMap, finding: &Finding, told: Option<&CallerAttributed>) -> Attribution {
    let return_address = finding.call.context.return_address;
    let places = finding.code_addresses();
    let mut attribution = Attribution {
        caller: modules.locate(return_address, 1),
        places: places.map(|at| (at, modules.locate(at, 1))).collect(),
        ..Attribution::default()
    };
    if let Some(told) = told {
        if told.caller != return_address {
            let caller = modules.locate(told.caller, 0);
            let returns_to = std::mem::replace(&mut attribution.caller, caller);
            attribution.called = Called::TailCall { returns_to };
        }
        let frames = told.frames.iter().take_while(|&&frame| frame != 0);
        let outer = frames.map(|&frame| modules.locate(frame, 1));
        attribution.stack = std::iter::once(attribution.caller.clone()).chain(outer).collect();
        attribution.stack_end = Some(StackEnd::FromTrace);
    }
    attribution
}
