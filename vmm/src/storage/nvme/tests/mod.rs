//! Tests of the controller as a driver sees it: registers, queues in guest memory, interrupts.

mod commands;
mod data;
mod device;
mod endurance;
mod events;
mod faults;
mod harness;
mod hostile;
mod in_flight;
mod interrupts;
mod life;
mod media;
mod model;
mod prp;
mod queues;
mod ranges;
mod refusals;
mod rings;
mod start;
mod vocabulary;
