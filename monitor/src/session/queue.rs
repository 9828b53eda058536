//! A bounded queue from the threads that stop with a guest processor to one thread that writes files.
//!
//! Talks to nothing. It must not know what it carries. The consumer polls, so that producers make no system call; when
//! the queue is full the producer waits: nothing is dropped while there is a consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use storlock_vmm::sandbox::{JoinHandle, Sandbox, ThreadKind};

/// How long the consumer sleeps when there is nothing to do.
const POLL: Duration = Duration::from_millis(2);
/// How long a producer sleeps when the queue is full.
const FULL: Duration = Duration::from_micros(200);

/// The producers' end.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: ArrayQueue<T>,
    closed: AtomicBool,
    consumer_gone: AtomicBool,
    waits: AtomicU64,
    lost: AtomicU64,
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the consumer: a thread that owns `consumer` and calls `consume` for each item in order. It ends after
    /// [`Queue::close`], when all items are consumed; `join` then gives the consumer back.
    ///
    /// # Errors
    /// If the thread cannot be started or limited.
    pub(crate) fn start<C: Send + 'static>(
        name: &str,
        capacity: usize,
        sandbox: Sandbox,
        mut consumer: C,
        mut consume: impl FnMut(&mut C, T) + Send + 'static,
    ) -> std::io::Result<(Arc<Self>, JoinHandle<C>)> {
        let queue = Arc::new(Self {
            items: ArrayQueue::new(capacity.max(1)),
            closed: AtomicBool::new(false),
            consumer_gone: AtomicBool::new(false),
            waits: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let shared = Arc::clone(&queue);
        let consume_all = move || {
            let gone = GoneOnDrop(&shared.consumer_gone);
            loop {
                // Asked before the queue is emptied: what was pushed before closing is then seen.
                let closed = shared.closed.load(Ordering::Acquire);
                while let Some(item) = shared.items.pop() {
                    consume(&mut consumer, item);
                }
                if closed {
                    break;
                }
                std::thread::sleep(POLL);
            }
            drop(gone);
            consumer
        };
        let thread = sandbox.spawn(ThreadKind::Writer, name, consume_all);
        Ok((queue, thread.map_err(std::io::Error::other)?))
    }

    /// Appends an item; waits while the queue is full.
    pub(crate) fn push(&self, mut item: T) {
        let mut waited = false;
        while let Err(back) = self.items.push(item) {
            if self.consumer_gone.load(Ordering::Acquire) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if !waited {
                self.waits.fetch_add(1, Ordering::Relaxed);
                waited = true;
            }
            std::thread::sleep(FULL);
            item = back;
        }
    }

    /// Lets the consumer end once it has consumed what is there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// How often a producer found the queue full.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Items dropped because the consumer had ended by a panic.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
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
        let (queue, thread) = Queue::start("test", 4, Sandbox::none(), Vec::new(), |seen: &mut Vec<u32>, item| {
            std::thread::sleep(Duration::from_micros(50));
            seen.push(item);
        })
        .unwrap();
        (0..200).for_each(|item| queue.push(item));
        queue.close();
        assert_eq!(thread.join().unwrap(), (0..200).collect::<Vec<_>>());
        assert!(queue.waits() > 0);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn producers_do_not_hang_when_the_consumer_is_gone() {
        let (queue, thread) = Queue::start("test", 1, Sandbox::none(), (), |(), _: u32| panic!("on purpose")).unwrap();
        queue.push(1);
        assert!(thread.join().is_err());
        (0..10).for_each(|item| queue.push(item));
        assert!(queue.lost() >= 8);
    }
}
