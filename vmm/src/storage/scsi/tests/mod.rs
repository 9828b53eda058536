//! The target under test, by subject.

mod blocks;
mod conformance;
mod harness;
mod illegal;
mod inquiry;
mod lengths;
mod life;
mod modes;
mod provisioning;
mod random;
mod reservations;
