//! Lines for the user while a run goes on.
//!
//! Talks to nothing. Libraries print nothing: they are handed a [`Notices`], and the command line decides where its
//! lines go.

use std::fmt::Debug;

/// Takes what the user is to see. What has nowhere to go is lost; nobody waits for it.
pub trait Notices: Debug + Send + Sync {
    /// Takes one line, without its end. Names and text of the guest in it need not be harmless to a terminal.
    fn say(&self, line: &str);

    /// As [`Notices::say`], for what a guest or a debugger can cause as often as it likes: only so many lines are shown.
    fn say_bounded(&self, line: &str);

    /// Takes bytes that the guest has sent to its serial port, for a user who follows it.
    fn serial(&self, bytes: &[u8]);
}

/// Takes everything and forgets it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Notices for Silent {
    fn say(&self, _line: &str) {}

    fn say_bounded(&self, _line: &str) {}

    fn serial(&self, _bytes: &[u8]) {}
}
