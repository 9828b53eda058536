//! Implementations of the traits of [`crate::vmi`], each for one kind of machine.
//!
//! Talks to a machine, which it hides behind the traits. It must not know Windows, locks or a debugger's protocol.

pub(crate) mod kvm;
