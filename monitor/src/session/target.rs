//! Where the driver under test is. Its range of addresses identifies it; the guest's module list, which a driver can
//! write to, is only compared with that range.
//!
//! If the driver's entry disappears from the list, the driver is unloaded if its image is gone too, and hidden if the
//! image is still there. If the entry changes while the image stays the same, the driver is disguised. Talks to the
//! module list and to the image readers. It must not know what the driver calls.

use super::guest::{Guest, ModuleId, ModuleMap};
use super::log::Log;
use crate::report::{Doubt, ModuleInfo};
use crate::vmi::{GuestMemory, PAGE_SIZE};
use crate::windows::{Image, Module, Section};

/// Places that the driver under test can have at the same time; a guest that claims more is not believed.
const PLACES: usize = 8;

/// A place of the driver under test.
#[derive(Debug)]
struct Place {
    module: Module,
    witness: Witness,
    /// The guest's module list has nothing there.
    unlisted: bool,
}

/// What identifies an image: data of its headers, and the start of its code.
#[derive(Debug, Default)]
struct Witness {
    headers: Option<(u32, u32, u32, u32)>,
    code: Option<(u32, Vec<u8>)>,
}

impl Witness {
    fn of(memory: &impl GuestMemory, base: u64) -> Self {
        let Ok(image) = Image::read(memory, base) else {
            return Self::default();
        };
        let lasting = |section: &&Section| section.is_executable() && !section.is_discardable();
        let code = image.sections.iter().find(lasting).and_then(|section| {
            let mut bytes = vec![0; section.size.min(PAGE_SIZE as u32) as usize];
            memory.read(image.address(section.rva), &mut bytes).ok()?;
            Some((section.rva, bytes))
        });
        Self {
            headers: Some(headers(&image)),
            code,
        }
    }

    /// Whether the same image is at `base` now. Where nothing was read of it, nothing speaks against that.
    fn is_at(&self, memory: &impl GuestMemory, base: u64) -> bool {
        if self.headers.is_none() {
            return true;
        }
        let same_code = self.code.as_ref().is_some_and(|(rva, code)| {
            let mut now = vec![0; code.len()];
            let read = memory.read(base.wrapping_add(u64::from(*rva)), &mut now);
            read.is_ok() && now == *code
        });
        same_code || Image::read(memory, base).is_ok_and(|image| Some(headers(&image)) == self.headers)
    }
}

fn headers(image: &Image) -> (u32, u32, u32, u32) {
    (image.time_date_stamp, image.check_sum, image.size, image.entry_point)
}

/// What happened to the driver at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is there.
    Stays,
    /// It went and came back: its list entry was away for a while.
    Returned,
    /// It is not there any more.
    Gone,
}

impl Place {
    /// Compares the guest's list with the place. Reasons for doubt go to `doubt`.
    fn look(&mut self, memory: &impl GuestMemory, listed: &[Module], mut doubt: impl FnMut(Doubt)) -> Fate {
        let own = &self.module;
        let said: Vec<&Module> = listed.iter().filter(|other| other.overlaps(own)).collect();
        let same_range = |other: &Module| (other.base, other.size) == (own.base, own.size);
        if let [only] = said[..]
            && same_range(only)
            && only.is_named(&own.name)
        {
            return if std::mem::take(&mut self.unlisted) {
                Fate::Returned
            } else {
                Fate::Stays
            };
        }
        if said.is_empty() {
            self.unlisted = memory.read_u8(own.base).is_ok();
            return if self.unlisted { Fate::Stays } else { Fate::Gone };
        }
        // Another driver of the very same size at the very same place is less likely than another name for this one.
        if !said.iter().any(|other| same_range(other)) && !self.witness.is_at(memory, own.base) {
            return Fate::Gone;
        }
        self.unlisted = false;
        for other in said {
            doubt(Doubt::EntryChanged {
                driver: ModuleInfo::from(own),
                listed: ModuleInfo::from(other),
            });
        }
        Fate::Stays
    }
}

/// The driver under test.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// As the list had it when it was loaded last.
    module: Option<(ModuleInfo, ModuleId)>,
    /// Where it is, and was and may still be.
    places: Vec<Place>,
}

impl Target {
    /// As it was loaded last.
    pub(crate) fn module(&self) -> Option<&ModuleInfo> {
        self.module.as_ref().map(|(module, _)| module)
    }

    /// Its number.
    pub(crate) fn id(&self) -> Option<ModuleId> {
        self.module.as_ref().map(|(_, id)| *id)
    }

    /// Whether the address lies in the driver under test, as the list has it.
    pub(crate) fn is_at(&self, modules: &ModuleMap, address: u64) -> bool {
        let module = modules.find(address).map(|(_, id)| id);
        self.module.as_ref().is_some_and(|(_, id)| Some(*id) == module)
    }

    /// For replays of event traces, where the trace says what it is.
    pub(crate) fn set(&mut self, module: ModuleInfo, id: ModuleId) {
        self.module = Some((module, id));
    }

    /// The machine starts again.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The module is the driver under test from now on, as long as its image is there.
    pub(crate) fn settle(
        &mut self,
        guest: &mut Guest,
        log: &mut Log,
        memory: &impl GuestMemory,
        (info, id): (&ModuleInfo, ModuleId),
    ) {
        self.module = Some((info.clone(), id));
        let module = Module {
            name: info.name.clone(),
            base: info.base,
            size: u32::try_from(info.size).unwrap_or(u32::MAX),
        };
        self.places.retain(|place| !place.module.overlaps(&module));
        if let Some(other) = self.places.iter().find(|place| !place.unlisted) {
            log.doubt(Doubt::TwoOfOneName {
                name: module.name.clone(),
                bases: [other.module.base, module.base],
            });
        }
        if self.places.len() >= PLACES {
            return log.doubt(Doubt::TooManyImages {
                name: module.name,
                most: PLACES as u64,
            });
        }
        guest.pin(module.clone());
        self.places.push(Place {
            witness: Witness::of(memory, module.base),
            module,
            unlisted: false,
        });
    }

    /// Compares the module list that was just read with where the driver under test is. Where it is no more, the list is
    /// believed again. Returns the modules whose entry was away for a while.
    pub(crate) fn look(&mut self, guest: &mut Guest, log: &mut Log, memory: &impl GuestMemory) -> Vec<ModuleInfo> {
        let Some(listed) = guest.listed().map(<[Module]>::to_vec) else {
            return Vec::new();
        };
        let mut returned = Vec::new();
        self.places.retain_mut(|place| {
            let fate = place.look(memory, &listed, |doubt| log.doubt(doubt));
            match fate {
                Fate::Stays => {}
                Fate::Returned => returned.push(ModuleInfo::from(&place.module)),
                Fate::Gone => guest.unpin(place.module.base),
            }
            fate != Fate::Gone
        });
        returned
    }

    /// Notes a call that returns to this address, if it is one of the driver although no list has it any more.
    pub(crate) fn called_by_unlisted(&self, log: &mut Log, return_address: u64) {
        let place = self
            .places
            .iter()
            .find(|place| place.module.rva(return_address).is_some());
        if let Some(place) = place.filter(|place| place.unlisted) {
            log.doubt(Doubt::CalledUnlisted {
                driver: ModuleInfo::from(&place.module),
                offset: return_address - place.module.base,
            });
        }
    }

    /// The last look at the stopped machine: whether the driver under test is where it is said to be.
    pub(crate) fn look_at_end(&mut self, guest: &mut Guest, log: &mut Log, memory: &impl GuestMemory) {
        if let Err(error) = guest.refresh_list(memory) {
            let error = error.to_string();
            log.doubt(Doubt::ModuleListUnreadable { error });
        }
        self.look(guest, log, memory);
        for place in self.places.iter().filter(|place| place.unlisted) {
            log.doubt(Doubt::ImageStays {
                name: place.module.name.clone(),
                base: place.module.base,
            });
        }
    }
}
