//! Storage: the controllers a guest sees and the backends that keep their data.
//!
//! A controller talks to a [`backend`] by byte ranges, to guest memory and to an interrupt sink. It must not know
//! KVM: threads, ioeventfds and the PCI bus are joined on in the controller's `worker` and `pci` modules only.

pub mod backend;
pub mod nvme;
