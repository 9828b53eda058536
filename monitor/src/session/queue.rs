//! A bounded queue from the threads that stop with a guest processor to one thread that writes files.
//!
//! Starts the consumer's thread in the sandbox. It must not know what it carries. The consumer polls, so that producers
//! make no system call. When the queue is full the producer waits, so nothing is dropped while the consumer makes
//! progress. If the consumer makes none (the reader of its pipe does not read) it is given up when the machine has to
//! stop: the end of a run waits for no reader.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use crate::output::{PATIENCE, Progress, Stall};
use crate::threads;

/// How long the consumer sleeps when there is nothing to do.
const POLL: Duration = Duration::from_millis(2);
/// How often a consumer that has nothing to do may write out what it holds back: so much of a run is lost at most when
/// the program is killed.
const WRITE_OUT: Duration = Duration::from_millis(100);
/// How long a consumer may take to end that was given up.
const GIVING_UP: Duration = Duration::from_millis(50);
/// How long a producer sleeps when the queue is full.
const FULL: Duration = Duration::from_micros(200);

/// Says whether the machine is to stand still.
pub(crate) type WantedStill = Box<dyn Fn() -> bool + Send + Sync>;

/// The producers' end.
pub(crate) struct Queue<T> {
    items: ArrayQueue<T>,
    closed: AtomicBool,
    /// The consumer's; it makes a step with each piece that it has written.
    progress: Progress,
    wanted_still: OnceLock<WantedStill>,
    consumer_gone: AtomicBool,
    waits: AtomicU64,
    lost: AtomicU64,
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the consumer: a thread that owns `consumer` and calls `consume` for each item in order, and `write_out` from time to
    /// time when there is none. It ends after [`Queue::close`], when all items are consumed; `join` then gives the consumer
    /// back.
    ///
    /// # Errors
    /// If the thread cannot be started or limited.
    pub(crate) fn start<C: Send + 'static>(
        name: &str,
        capacity: usize,
        sandbox: Sandbox,
        progress: Progress,
        mut consumer: C,
        mut consume: impl FnMut(&mut C, T) + Send + 'static,
        mut write_out: impl FnMut(&mut C) + Send + 'static,
    ) -> std::io::Result<(Arc<Self>, JoinHandle<C>)> {
        let queue = Arc::new(Self {
            items: ArrayQueue::new(capacity.max(1)),
            closed: AtomicBool::new(false),
            progress,
            wanted_still: OnceLock::new(),
            consumer_gone: AtomicBool::new(false),
            waits: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let shared = Arc::clone(&queue);
        let consume_all = move || {
            let gone = GoneOnDrop(&shared.consumer_gone);
            let mut written_out = Instant::now();
            loop {
                // Asked before the queue is emptied: what was pushed before closing is then seen.
                let closed = shared.closed.load(Ordering::Acquire);
                while let Some(item) = shared.items.pop() {
                    consume(&mut consumer, item);
                    shared.progress.step();
                }
                if closed {
                    break;
                }
                if written_out.elapsed() >= WRITE_OUT {
                    write_out(&mut consumer);
                    shared.progress.step();
                    written_out = Instant::now();
                }
                std::thread::sleep(POLL);
            }
            drop(gone);
            consumer
        };
        let thread = sandbox.spawn(&threads::WRITER, name, consume_all);
        Ok((queue, thread.map_err(std::io::Error::other)?))
    }

    /// Has a producer ask whether the machine is to stand still before it waits longer.
    pub(crate) fn ask(&self, wanted_still: WantedStill) {
        // A queue is of one run.
        let _ = self.wanted_still.set(wanted_still);
    }

    /// Appends an item; waits while the queue is full. What comes after the first loss is lost as well.
    pub(crate) fn push(&self, item: T) {
        if self.progress.given_up() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Err(back) = self.items.push(item) {
            self.push_to_full(back);
        }
    }

    fn push_to_full(&self, mut item: T) {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let mut stall = Stall::watch(&self.progress);
        while let Err(back) = self.items.push(item) {
            if self.consumer_gone.load(Ordering::Acquire) || self.is_given_up(&mut stall) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            std::thread::sleep(FULL);
            item = back;
        }
    }

    /// Gives the consumer up if it does not come on while the machine is to stand still.
    fn is_given_up(&self, stall: &mut Stall) -> bool {
        let stuck = stall.lasts() >= PATIENCE && self.wanted_still.get().is_some_and(|asked| asked());
        if stuck {
            self.progress.give_up();
        }
        self.progress.given_up()
    }

    /// Lets the consumer end and waits for that, as long as it comes on at least every `patience`. `None`: it was given up.
    pub(crate) fn join<C>(&self, thread: JoinHandle<C>, patience: Duration) -> Option<std::thread::Result<C>> {
        self.close();
        let mut stall = Stall::watch(&self.progress);
        while !thread.is_finished() && stall.lasts() < patience {
            std::thread::sleep(POLL);
        }
        if thread.is_finished() {
            return Some(thread.join());
        }
        // A write to what is no regular file ends by that.
        self.progress.give_up();
        thread.join_within(GIVING_UP)
    }

    /// Lets the consumer end once it has consumed what is there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// How often a producer found the queue full.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Items dropped because the consumer had ended by a panic, or was given up.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Tells the producers, also when the consumer panics.
struct GoneOnDrop<'a>(&'a AtomicBool);

impl Drop for GoneOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_makes_producers_wait_and_keeps_every_item() {
        let (queue, thread) = Queue::start(
            "test",
            4,
            Sandbox::none(),
            Progress::default(),
            Vec::new(),
            |seen: &mut Vec<u32>, item| {
                std::thread::sleep(Duration::from_micros(50));
                seen.push(item);
            },
            |_| {},
        )
        .unwrap();
        (0..200).for_each(|item| queue.push(item));
        queue.close();
        assert_eq!(thread.join().unwrap(), (0..200).collect::<Vec<_>>());
        assert!(queue.waits() > 0);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_consumer_that_is_stuck_is_given_up_when_the_machine_is_to_stand_still() {
        let (progress, still) = (Progress::default(), Arc::new(AtomicBool::new(false)));
        let stuck = progress.clone();
        let consume = move |(): &mut (), _: u32| {
            while !stuck.given_up() {
                std::thread::sleep(POLL);
            }
        };
        let (queue, thread) = Queue::start("test", 1, Sandbox::none(), progress, (), consume, |()| {}).unwrap();
        let asked = Arc::clone(&still);
        queue.ask(Box::new(move || asked.load(Ordering::Acquire)));
        let pushing = Arc::clone(&queue);
        let producer = std::thread::spawn(move || (0..4).for_each(|item| pushing.push(item)));
        std::thread::sleep(3 * PATIENCE);
        assert!(!producer.is_finished(), "it waits while the machine runs");
        still.store(true, Ordering::Release);
        let began = std::time::Instant::now();
        producer.join().unwrap();
        assert!(queue.join(thread, PATIENCE).unwrap().is_ok());
        assert!(began.elapsed() < 3 * PATIENCE);
        assert!(queue.lost() > 0);
    }

    #[test]
    fn producers_do_not_hang_when_the_consumer_is_gone() {
        let consume = |(): &mut (), _: u32| panic!("on purpose");
        let (queue, thread) =
            Queue::start("test", 1, Sandbox::none(), Progress::default(), (), consume, |()| {}).unwrap();
        queue.push(1);
        assert!(thread.join().is_err());
        (0..10).for_each(|item| queue.push(item));
        assert!(queue.lost() >= 8);
    }
}
