//! Tests of the controller as a driver sees it: registers, queues in guest memory, interrupts.

mod commands;
mod data;
mod device;
mod events;
mod harness;
mod hostile;
mod life;
mod model;
mod prp;
mod queues;
