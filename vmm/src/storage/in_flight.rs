//! The requests that a controller owes its host: how far each has come. It answers who lost a request that never came
//! back.
//!
//! A controller's queues fill it in: a request was fetched, its completion kept back or posted, an interrupt sent, the
//! completion taken by the host, or given up by it. What was taken is forgotten, so it holds what is outstanding; a reset
//! moves that to the list of what the last reset has cut off. Its size is bounded. It must not know what a command does: the words come
//! from the controller.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::fault::{CommandCode, FaultVocabulary};
use super::interrupts::InterruptSink;

/// Requests of one controller that are kept. More are counted only.
const REQUESTS: usize = 4096;
/// Completions that one queue can hold; beyond that the host is not believed.
const COMPLETIONS: usize = 1 << 16;
/// Requests that the last reset has cut off, and of those that the host has ended the last ones, as far as they are kept.
const CUT_OFF: usize = 256;

/// How a host names a request, as long as it is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The queue that it was submitted to; 0 where there is one.
    pub queue: u16,
    /// The command identifier, or the message's context.
    pub id: u32,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The command.
    pub command: CommandCode,
    /// The disk that it is for, if it is for one.
    pub disk: Option<u32>,
    /// First logical block, and how many, where the command has that.
    pub blocks: Option<(u64, u32)>,
}

/// Why the controller does not answer, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBack {
    /// A fault of the plan: the completion is never posted.
    Dropped,
    /// A fault of the plan: it is posted later.
    Delayed,
    /// The controller has come to a fatal error.
    Fatal,
}

/// By what a completion is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Announced {
    /// A message of MSI-X or MSI.
    Message(u16),
    /// The pin.
    Pin,
}

/// A request, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Its name.
    pub id: RequestId,
    /// What it asks for.
    pub asked: Asked,
    /// When the controller fetched it.
    pub fetched: Instant,
    /// Why there is no completion, if that is known.
    pub kept_back: Option<KeptBack>,
    /// When its completion was posted, if it was; of several, the first.
    pub posted: Option<Instant>,
    /// By what it is to be announced, if the host wants an interrupt for it. It is not while the host masks that.
    pub due: Option<Announced>,
    /// When and by what an interrupt was sent for it, if it was.
    pub announced: Option<(Instant, Announced)>,
    /// The vector by which that interrupted a processor, where it is known.
    pub processor_vector: Option<u8>,
    /// When the host has asked for its abort, or has ended it by task management.
    pub given_up: Option<Instant>,
}

/// All that is outstanding at a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlightSnapshot {
    /// Requests, by the order in which they were fetched.
    pub outstanding: Vec<Outstanding>,
    /// Requests that were too many to be kept.
    pub not_kept: u64,
    /// The last reset that has cut requests off: when, and which.
    pub cut_off: Option<(Instant, Vec<Outstanding>)>,
    /// Requests that the host has ended without a completion: the last ones, the latest last.
    pub given_up: Vec<Outstanding>,
}

#[derive(Debug, Default)]
struct State {
    /// By a number that counts fetched requests.
    open: BTreeMap<u64, Outstanding>,
    /// The newest request of each name.
    names: HashMap<RequestId, u64>,
    /// By completion queue, in the order of their posting: whose completion it is, if it is one of these.
    posted: HashMap<u16, VecDeque<Option<u64>>>,
    /// Requests whose interrupt is due and was not sent, by what it is; and some of others.
    due: HashMap<Announced, Vec<u64>>,
    next: u64,
    not_kept: u64,
    cut_off: Option<(Instant, Vec<Outstanding>)>,
    given_up: VecDeque<Outstanding>,
}

/// Told of the first reset that cuts requests off.
type Observer = Box<dyn Fn() + Send + Sync>;

/// The requests that one controller owes its host.
pub struct InFlight {
    controller: String,
    words: &'static FaultVocabulary,
    state: Mutex<State>,
    observer: OnceLock<Observer>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight")
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

impl InFlight {
    /// None so far. `words` name the commands of the controller of that name.
    #[must_use]
    pub fn new(controller: String, words: &'static FaultVocabulary) -> Self {
        Self {
            controller,
            words,
            state: Mutex::default(),
            observer: OnceLock::new(),
        }
    }

    /// Has `observer` called at the first reset that cuts requests off, on the thread that carries it out. It must not
    /// wait. A second one is not heard.
    pub fn observe_reset(&self, observer: impl Fn() + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Has the messages noted that a controller sends by that sink.
    pub fn observe_messages(this: &Arc<Self>, sink: &dyn InterruptSink) {
        let own = Arc::clone(this);
        sink.observe_sent(Arc::new(move |message, processor_vector| {
            own.sent(Announced::Message(message), processor_vector);
        }));
    }

    /// Name of the controller, such as `nvme0`.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.controller
    }

    /// The name of a command, as a fault plan has it.
    #[must_use]
    pub fn command(&self, command: CommandCode) -> String {
        self.words.command_name(command)
    }

    /// What is outstanding now.
    #[must_use]
    pub fn snapshot(&self) -> InFlightSnapshot {
        let state = self.lock();
        InFlightSnapshot {
            outstanding: state.open.values().cloned().collect(),
            not_kept: state.not_kept,
            cut_off: state.cut_off.clone(),
            given_up: state.given_up.iter().cloned().collect(),
        }
    }

    /// A request was fetched.
    pub fn fetched(&self, id: RequestId, asked: Asked) {
        let mut state = self.lock();
        if state.open.len() >= REQUESTS {
            state.not_kept += 1;
            return;
        }
        let number = state.next;
        state.next += 1;
        let request = Outstanding {
            id,
            asked,
            fetched: Instant::now(),
            kept_back: None,
            posted: None,
            due: None,
            announced: None,
            processor_vector: None,
            given_up: None,
        };
        state.open.insert(number, request);
        state.names.insert(id, number);
    }

    /// The completion of a request is kept back.
    pub fn kept_back(&self, id: RequestId, why: KeptBack) {
        let mut state = self.lock();
        let number = state.names.get(&id).copied();
        if let Some(request) = number.and_then(|number| state.open.get_mut(&number)) {
            request.kept_back = Some(why);
        }
    }

    /// No request is answered any more until a reset, not even one whose answer was to come later.
    pub fn failed(&self) {
        for request in self.lock().open.values_mut().filter(|request| request.posted.is_none()) {
            if request.kept_back != Some(KeptBack::Dropped) {
                request.kept_back = Some(KeptBack::Fatal);
            }
        }
    }

    /// A completion of that name was posted to a completion queue, of a request or of nothing.
    pub fn posted(&self, queue: u16, id: RequestId) {
        let mut state = self.lock();
        let number = state.names.get(&id).copied();
        if let Some(request) = number.and_then(|number| state.open.get_mut(&number)) {
            request.posted.get_or_insert_with(Instant::now);
        }
        let posted = state.posted.entry(queue).or_default();
        if posted.len() < COMPLETIONS {
            posted.push_back(number);
        }
    }

    /// An interrupt is due for what was posted to a completion queue. It counts as masked until it is [sent](Self::sent).
    pub fn due(&self, queue: u16, by: Announced) {
        let mut state = self.lock();
        let State { open, posted, due, .. } = &mut *state;
        let due = due.entry(by).or_default();
        // From the newest on: what was due before is behind.
        for number in posted.get(&queue).into_iter().flatten().rev().flatten() {
            match open.get_mut(number) {
                Some(request) if request.announced.is_none() && request.due != Some(by) => {
                    request.due = Some(by);
                    due.push(*number);
                }
                Some(_) => break,
                None => {}
            }
        }
        if due.len() > 2 * REQUESTS {
            // A host that masks it and looks by itself.
            due.retain(|number| open.contains_key(number));
        }
    }

    /// An interrupt was sent: for all requests for which it is due.
    pub fn sent(&self, by: Announced, processor_vector: Option<u8>) {
        let now = Instant::now();
        let mut state = self.lock();
        let State { open, due, .. } = &mut *state;
        for number in due.get_mut(&by).map(std::mem::take).into_iter().flatten() {
            if let Some(request) = open.get_mut(&number).filter(|request| request.due == Some(by)) {
                request.announced = Some((now, by));
                request.processor_vector = processor_vector;
            }
        }
    }

    /// The host has asked for the abort of a request, which is not ended by that.
    pub fn abort_asked(&self, id: RequestId) {
        let mut state = self.lock();
        let number = state.names.get(&id).copied();
        if let Some(request) = number.and_then(|number| state.open.get_mut(&number)) {
            request.given_up.get_or_insert_with(Instant::now);
        }
    }

    /// The host has ended these requests: nothing is owed for them any more. Those that have a completion stay.
    pub fn given_up(&self, is_meant: impl Fn(&Outstanding) -> bool) {
        let now = Instant::now();
        let mut state = self.lock();
        let State {
            open, names, given_up, ..
        } = &mut *state;
        open.retain(|number, request| {
            if request.posted.is_some() || !is_meant(request) {
                return true;
            }
            if names.get(&request.id) == Some(number) {
                names.remove(&request.id);
            }
            given_up.push_back(Outstanding {
                given_up: Some(now),
                ..request.clone()
            });
            false
        });
        let over = given_up.len().saturating_sub(CUT_OFF);
        given_up.drain(..over);
    }

    /// The host has taken so many completions of a queue, the oldest first.
    pub fn taken(&self, queue: u16, count: u32) {
        let mut state = self.lock();
        let State {
            open, names, posted, ..
        } = &mut *state;
        let Some(posted) = posted.get_mut(&queue) else { return };
        let count = posted.len().min(count as usize);
        for number in posted.drain(..count).flatten() {
            let Some(request) = open.remove(&number) else { continue };
            if names.get(&request.id) == Some(&number) {
                names.remove(&request.id);
            }
        }
    }

    /// A submission queue has ended, and with it its requests.
    pub fn queue_ended(&self, queue: u16) {
        let mut state = self.lock();
        state.open.retain(|_, request| request.id.queue != queue);
        state.names.retain(|id, _| id.queue != queue);
    }

    /// The controller is reset: nothing is owed any more.
    pub fn reset(&self) {
        let mut state = self.lock();
        let State {
            open,
            names,
            posted,
            due,
            ..
        } = &mut *state;
        let cut_off: Vec<Outstanding> = open.values().take(CUT_OFF).cloned().collect();
        open.clear();
        names.clear();
        posted.clear();
        due.clear();
        if cut_off.is_empty() {
            return;
        }
        state.cut_off = Some((Instant::now(), cut_off));
        drop(state);
        if let Some(observer) = self.observer.get() {
            observer();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn ledger() -> InFlight {
        InFlight::new("nvme0".to_owned(), &crate::storage::nvme::NVME.faults)
    }

    const READ: Asked = Asked {
        command: CommandCode { class: 1, code: 2 },
        disk: Some(1),
        blocks: Some((8, 1)),
    };

    fn id(queue: u16, id: u32) -> RequestId {
        RequestId { queue, id }
    }

    fn ids(ledger: &InFlight) -> Vec<u32> {
        let all = ledger.snapshot().outstanding;
        all.iter().map(|request| request.id.id).collect()
    }

    #[test]
    fn each_step_is_noted_until_the_host_has_taken_the_completion() {
        let ledger = ledger();
        for number in 0..4 {
            ledger.fetched(id(1, number), READ);
        }
        ledger.kept_back(id(1, 0), KeptBack::Dropped);
        ledger.posted(1, id(1, 1));
        ledger.due(1, Announced::Message(3));
        ledger.sent(Announced::Message(3), Some(0x61));
        ledger.posted(1, id(1, 2));
        let all = ledger.snapshot().outstanding;
        let steps = |request: &Outstanding| {
            let by = request.announced.map(|(_, by)| by);
            (
                request.kept_back,
                request.posted.is_some(),
                by,
                request.processor_vector,
            )
        };
        let expected = [
            (Some(KeptBack::Dropped), false, None, None),
            (None, true, Some(Announced::Message(3)), Some(0x61)),
            (None, true, None, None),
            (None, false, None, None),
        ];
        assert_eq!(all.iter().map(steps).collect::<Vec<_>>(), expected);
        ledger.taken(1, 1);
        assert_eq!(ids(&ledger), [0, 2, 3]);
        ledger.failed();
        let all = ledger.snapshot().outstanding;
        let why: Vec<_> = all.iter().map(|request| request.kept_back).collect();
        assert_eq!(why, [Some(KeptBack::Dropped), None, Some(KeptBack::Fatal)]);
        assert_eq!(ledger.command(READ.command), "read");
    }

    #[test]
    fn a_name_that_is_used_again_is_another_request() {
        let ledger = ledger();
        ledger.fetched(id(1, 7), READ);
        ledger.posted(1, id(1, 7));
        // The host has seen it, and tells that later.
        ledger.fetched(id(1, 7), READ);
        ledger.posted(1, id(1, 9)); // of nothing
        ledger.taken(1, 2);
        assert_eq!(ids(&ledger), [7]);
        ledger.posted(1, id(1, 7));
        ledger.posted(1, id(1, 7)); // twice
        ledger.taken(1, 2);
        ledger.taken(1, 9);
        ledger.taken(5, 1);
        assert_eq!(ids(&ledger), [0; 0]);
    }

    #[test]
    fn what_is_due_is_masked_until_it_is_sent() {
        let ledger = ledger();
        for number in 0..3 {
            let (queue, message) = if number == 2 { (2, 4) } else { (1, 3) };
            ledger.fetched(id(queue, number), READ);
            ledger.posted(queue, id(queue, number));
            ledger.due(queue, Announced::Message(message));
        }
        ledger.sent(Announced::Message(5), None);
        let told = || {
            let all = ledger.snapshot().outstanding;
            let one = |request: &Outstanding| request.announced.map(|(_, by)| by);
            all.iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(told(), [None; 3]);
        ledger.sent(Announced::Message(3), None);
        let by = Some(Announced::Message(3));
        assert_eq!(told(), [by, by, None]);
        // A host that never lets it be sent does not make the list grow.
        for number in 0..4 * REQUESTS as u32 {
            ledger.fetched(id(2, number), READ);
            ledger.posted(2, id(2, number));
            ledger.due(2, Announced::Pin);
            ledger.taken(2, 1);
        }
        assert!(ledger.lock().due[&Announced::Pin].len() <= 2 * REQUESTS);
    }

    #[test]
    fn what_the_host_has_ended_is_owed_no_more_and_no_reset_cuts_it_off() {
        let ledger = ledger();
        for number in 0..3 * CUT_OFF as u32 {
            ledger.fetched(id(1, 7), READ);
            ledger.kept_back(id(1, 7), KeptBack::Dropped);
            ledger.given_up(|request| request.kept_back == Some(KeptBack::Dropped));
            assert!(ledger.snapshot().given_up.len() <= CUT_OFF, "{number}");
        }
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.outstanding, []);
        assert!(snapshot.given_up.last().unwrap().given_up.is_some());
        // What was only asked to be aborted is owed still.
        ledger.fetched(id(1, 8), READ);
        ledger.abort_asked(id(1, 8));
        ledger.abort_asked(id(1, 9));
        assert!(ledger.snapshot().outstanding[0].given_up.is_some());
        ledger.reset();
        assert_eq!(ledger.snapshot().cut_off.unwrap().1.len(), 1);
    }

    #[test]
    fn a_reset_cuts_off_what_is_outstanding_and_is_told_once() {
        let ledger = ledger();
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        ledger.observe_reset(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        ledger.reset();
        assert_eq!(
            (told.load(Ordering::Relaxed), ledger.snapshot()),
            (0, InFlightSnapshot::default())
        );
        ledger.fetched(id(1, 7), READ);
        ledger.fetched(id(2, 8), READ);
        ledger.queue_ended(2);
        ledger.reset();
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.outstanding, []);
        let (_, cut_off) = snapshot.cut_off.unwrap();
        assert_eq!(cut_off.iter().map(|request| request.id.id).collect::<Vec<_>>(), [7]);
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_a_host_asks_for_does_not_grow_it_beyond_its_bounds() {
        let ledger = ledger();
        for number in 0..2 * REQUESTS as u32 {
            ledger.fetched(id(0, number), READ);
        }
        let snapshot = ledger.snapshot();
        assert_eq!(
            (snapshot.outstanding.len(), snapshot.not_kept),
            (REQUESTS, REQUESTS as u64)
        );
        for _ in 0..2 * COMPLETIONS {
            ledger.posted(0, id(0, 1));
        }
        assert!(ledger.lock().posted[&0].len() <= COMPLETIONS);
    }

    proptest! {
        /// Against a host that keeps its own list of what it waits for.
        #[test]
        fn what_is_outstanding_is_what_the_host_waits_for(steps in prop::collection::vec((0u8..5, 0usize..8), 0..200)) {
            let ledger = ledger();
            let (mut submitted, mut posted, mut next) = (Vec::<u32>::new(), VecDeque::<u32>::new(), 0);
            for (step, which) in steps {
                match step {
                    0 => {
                        ledger.fetched(id(1, next), READ);
                        submitted.push(next);
                        next += 1;
                    }
                    1 if which < submitted.len() => {
                        let done = submitted.remove(which);
                        ledger.posted(1, id(1, done));
                        posted.push_back(done);
                    }
                    2 => {
                        let count = which.min(posted.len());
                        posted.drain(..count);
                        ledger.taken(1, count as u32);
                    }
                    3 => ledger.due(1, Announced::Pin),
                    _ => ledger.sent(Announced::Pin, None),
                }
                let mut waits: Vec<u32> = submitted.iter().chain(&posted).copied().collect();
                waits.sort_unstable();
                prop_assert_eq!(ids(&ledger), waits);
            }
        }
    }
}
