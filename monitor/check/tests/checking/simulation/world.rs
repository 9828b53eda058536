//! What happens to the machine as a whole: memory that is freed and used again, modules that go, resets.

use storlock_check::event::EventKind;

use super::Owner;
use super::locks::Locks;
use super::machine::{Agent, MODULE_SIZE, Machine};

impl Machine {
    fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.processors.iter().flatten().chain(&self.ready)
    }

    /// Whether nobody holds a lock or is about to use it.
    fn idle(&self, lock: usize) -> bool {
        self.locks.0[lock].holders.is_empty()
            && !self
                .agents()
                .any(|agent| agent.steps.iter().skip(agent.next).any(|step| step.lock == lock))
    }

    /// Memory changes hands, or a module does.
    pub(super) fn reuse(&mut self) {
        match self.random.below(6) {
            0 => self.unload_unrelated(),
            1 => self.unload_other(),
            _ => self.swap(),
        }
    }

    /// Two owners free their locks and get each other's memory.
    fn swap(&mut self) {
        let (one, other) = (
            self.random.below(self.locks.0.len()),
            self.random.below(self.locks.0.len()),
        );
        let pool = |lock: usize| self.locks.0[lock].class.in_pool();
        if one == other || !pool(one) || !pool(other) || !self.idle(one) || !self.idle(other) {
            return;
        }
        if !self.config.owners && self.locks.0[one].owner != self.locks.0[other].owner {
            return;
        }
        let addresses = [self.locks.0[one].address, self.locks.0[other].address];
        // The routine that frees pool is not always watched.
        if self.random.percent(50) {
            for address in addresses {
                self.emit(EventKind::MemoryFreed { address, length: 0x40 }, 0);
            }
        }
        (self.locks.0[one].address, self.locks.0[other].address) = (addresses[1], addresses[0]);
        self.run.seen.reused += 1;
    }

    fn unload_unrelated(&mut self) {
        if !self.config.owners {
            return;
        }
        if self.modules[5] == 0 {
            self.modules[5] = 0xffff_f800_7000_0000 + self.random.next() % 64 * MODULE_SIZE;
            self.load(5);
        } else {
            let base = std::mem::take(&mut self.modules[5]);
            let size = MODULE_SIZE;
            self.emit(EventKind::ModuleUnload { base, size }, 0);
        }
    }

    /// The other driver goes, and comes again elsewhere.
    fn unload_other(&mut self) {
        let runs = |agent: &Agent| {
            agent
                .steps
                .iter()
                .skip(agent.next)
                .any(|step| step.owner == Owner::Other)
        };
        if !self.config.owners || self.agents().any(runs) {
            return;
        }
        let size = MODULE_SIZE;
        let place = Owner::Other as usize;
        let base = self.modules[place];
        self.emit(EventKind::ModuleUnload { base, size }, 0);
        self.modules[place] = 0xffff_f800_6000_0000 + self.random.next() % 64 * MODULE_SIZE;
        self.load(place);
    }

    /// The guest boots again.
    pub(super) fn reset(&mut self) {
        if !self.armed || self.run.wrong.is_some() {
            return;
        }
        self.emit(EventKind::Restored, 0);
        self.run.seen.resets += 1;
        self.locks = Locks::new(&self.config);
        self.handles.clear();
        self.modules[5] = 0;
        self.boot();
        self.arm();
    }
}
