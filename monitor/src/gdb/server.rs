//! The gdb server's loop: one client at a time, the machine's stops, and what happens without a client.
//!
//! Talks to the socket and to a [`Conversation`]. Whatever a client sends or fails to read, the machine ends in the
//! state that `--on-disconnect` names.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::conversation::{Conversation, Left};
use super::libraries::SymbolFiles;
use super::listener::{Address, Listener, Stream};
use super::snapshot::SnapshotFile;
use crate::notices::Notices;
use crate::session::Session;
use crate::vmi::debuggee::{Debuggee, DebuggeeStop};

/// How long a client may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same when the run is over.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long a second client waits for the first one to leave before it is turned away.
const GRACE: Duration = Duration::from_secs(1);

/// What the machine does when a client vanishes without `detach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It stands still until another one attaches.
    Pause,
    /// It goes on.
    Resume,
}

/// The server of one run.
pub(crate) struct Server {
    pub(crate) listener: Listener,
    pub(crate) address: Address,
    pub(crate) machine: Arc<dyn Debuggee>,
    pub(crate) session: Arc<Session>,
    pub(crate) files: Arc<SymbolFiles>,
    pub(crate) snapshot: Option<SnapshotFile>,
    pub(crate) stops: UnboundedReceiver<DebuggeeStop>,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) notices: Arc<dyn Notices>,
    /// Why the machine stands still; `None` while it runs.
    pub(crate) standing: Option<DebuggeeStop>,
    /// The next stop is to stand, whatever it is: a client has vanished.
    pub(crate) stand: bool,
    /// A second client, and until when it waits for the first one to leave: what that one has sent may still be on its way
    /// when it is gone already.
    pub(crate) waiting: Option<(Box<dyn Stream>, Instant)>,
}

impl Server {
    /// Serves clients until the run is over.
    pub(crate) async fn serve(mut self) {
        loop {
            let left = if let Some((stream, _)) = self.waiting.take() {
                self.client(stream).await
            } else {
                tokio::select! {
                    stop = self.stops.recv() => match stop {
                        Some(stop) => {
                            self.unattended(stop);
                            continue;
                        }
                        None => Left::Over,
                    },
                    client = self.listener.accept() => match client {
                        Ok(stream) => self.client(stream).await,
                        Err(error) => {
                            tracing::warn!("a debugger could not connect: {error}");
                            // Too many open files, for example: not to be asked again at once.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            continue;
                        }
                    },
                }
            };
            match left {
                Left::Over => return,
                Left::Killed => self.machine.end(),
                Left::Detached => self.go_on(),
                Left::Vanished => self.vanished(),
            }
        }
    }

    /// The machine has stopped and nobody is attached.
    fn unattended(&mut self, stop: DebuggeeStop) {
        let stand = std::mem::take(&mut self.stand);
        let why = match &stop {
            DebuggeeStop::Start => "the guest waits at its first instruction",
            DebuggeeStop::Violation(_) => "stopped at a violation",
            DebuggeeStop::Interrupted => "paused, since the debugger has vanished",
            DebuggeeStop::StopPoint(..) | DebuggeeStop::Stepped(_) | DebuggeeStop::StopPointsLost(_) if stand => {
                "paused, since the debugger has vanished"
            }
            // Nobody's stop points and steps; and a guest that has crashed is not kept for somebody who may never come.
            DebuggeeStop::StopPoint(..)
            | DebuggeeStop::Stepped(_)
            | DebuggeeStop::StopPointsLost(_)
            | DebuggeeStop::Crashed(..) => {
                self.machine.resume(Vec::new());
                return;
            }
        };
        self.notices
            .say_bounded(&format!("gdb: {why}; attach with: target remote {}", self.address));
        self.standing = Some(stop);
    }

    fn go_on(&mut self) {
        if self.standing.take().is_some() {
            self.machine.resume(Vec::new());
        }
    }

    fn vanished(&mut self) {
        match (self.on_disconnect, &self.standing) {
            (OnDisconnect::Resume, _) | (OnDisconnect::Pause, Some(DebuggeeStop::Crashed(..))) => self.go_on(),
            (OnDisconnect::Pause, None) => {
                self.stand = true;
                self.machine.interrupt();
            }
            (OnDisconnect::Pause, Some(_)) => {
                self.notices.say_bounded(&format!(
                    "gdb: the debugger has vanished, the machine stands still; attach with: target remote {}",
                    self.address
                ));
            }
        }
    }

    /// Serves one client until it leaves. The machine is stopped for it.
    async fn client(&mut self, mut stream: Box<dyn Stream>) -> Left {
        // The stop that was asked for when the last client vanished is this one's.
        let asked = std::mem::take(&mut self.stand);
        let standing = if let Some(stop) = self.standing.take() {
            stop
        } else {
            if !asked {
                self.machine.interrupt();
            }
            match self.stops.recv().await {
                Some(stop) => stop,
                None => return Left::Over,
            }
        };
        let snapshot = self.snapshot.clone();
        let mut client = Conversation::begin(
            Arc::clone(&self.machine),
            Arc::clone(&self.session),
            Arc::clone(&self.files),
            snapshot,
            Arc::clone(&self.notices),
            standing,
        );
        let left = self.talk(&mut stream, &mut client).await;
        self.standing = client.end();
        left
    }

    async fn talk(&mut self, stream: &mut Box<dyn Stream>, client: &mut Conversation) -> Left {
        let mut buffer = [0; 4096];
        loop {
            if let Some(left) = self.answer(stream, client).await {
                return left;
            }
            if let Some(left) = client.left() {
                return left;
            }
            let given_up = self.waiting.as_ref().map_or_else(Instant::now, |(_, until)| *until);
            tokio::select! {
                // In this order: a client that has left is seen before the one that follows it.
                biased;
                stop = self.stops.recv() => {
                    let over = stop.is_none();
                    client.tell(stop);
                    if over {
                        let _ = send(stream, &client.output(), LAST_WORDS).await;
                        return Left::Over;
                    }
                }
                read = stream.read(&mut buffer) => match read {
                    Ok(count) if count > 0 => client.receive(&buffer[..count]),
                    _ => return Left::Vanished,
                },
                other = self.listener.accept(), if self.waiting.is_none() => {
                    self.waiting = other.ok().map(|stream| (stream, Instant::now() + GRACE));
                }
                () = tokio::time::sleep_until(given_up), if self.waiting.is_some() => {
                    self.waiting = None;
                    self.notices.say_bounded("gdb: a second debugger was turned away: one is attached");
                }
            }
        }
    }
}

impl Server {
    /// Sends what the client has to be told; says how it has left if it has. The end of the run does not wait for a client
    /// that does not read.
    async fn answer(&mut self, stream: &mut Box<dyn Stream>, client: &mut Conversation) -> Option<Left> {
        loop {
            let output = client.output();
            if output.is_empty() {
                return None;
            }
            let sent = send(stream, &output, PATIENCE);
            tokio::pin!(sent);
            let mut stopped = Vec::new();
            let sent = loop {
                tokio::select! {
                    biased;
                    sent = &mut sent => break sent,
                    stop = self.stops.recv() => match stop {
                        Some(stop) => stopped.push(stop),
                        None => return Some(Left::Over),
                    },
                }
            };
            if !sent {
                return Some(Left::Vanished);
            }
            for stop in stopped {
                client.tell(Some(stop));
            }
        }
    }
}

/// Sends bytes; `false` if the client does not take them.
async fn send(stream: &mut Box<dyn Stream>, bytes: &[u8], patience: Duration) -> bool {
    bytes.is_empty()
        || matches!(
            tokio::time::timeout(patience, stream.write_all(bytes)).await,
            Ok(Ok(()))
        )
}
