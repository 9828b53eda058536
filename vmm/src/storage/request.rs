//! A command that a controller has fetched from a guest and must still answer.
//!
//! It must not know what the command asks for.

/// The duty to answer a command. Whoever holds it either [completes](Self::complete) the command or, when a reset or a fatal
/// error has released the controller from answering, [abandons](Self::abandon) it. One that is merely dropped is a command
/// that a guest waits for until it times out: a defect, at which a debug build panics.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a command that was fetched has to be completed or abandoned"]
pub struct Request<C> {
    command: C,
    settled: bool,
}

impl<C> Request<C> {
    /// A command was fetched.
    pub fn new(command: C) -> Self {
        Self {
            command,
            settled: false,
        }
    }

    /// The command.
    pub fn command(&self) -> &C {
        &self.command
    }

    /// The command's completion is on its way to the guest, or kept back by a fault.
    pub fn complete(mut self) {
        self.settled = true;
    }

    /// Nobody waits for an answer any more: the queue, the controller or the machine has come to its end or was reset.
    pub(crate) fn abandon(mut self) {
        self.settled = true;
    }
}

impl<C> Drop for Request<C> {
    fn drop(&mut self) {
        debug_assert!(
            self.settled || std::thread::panicking(),
            "a command was neither completed nor abandoned"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_completed_or_abandoned() {
        let request = Request::new(7);
        assert_eq!(*request.command(), 7);
        request.complete();
        Request::new(8).abandon();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "neither completed nor abandoned")]
    fn a_request_that_is_dropped_is_a_defect() {
        drop(Request::new(9));
    }
}
