//! Which lock call sites of the driver under test were reached: counted at the hits that the session sees anyway.
//!
//! The sites come from the driver's code; a return address in the driver that is none of theirs is a site that only the
//! run has shown. Talks to the callbacks, which tell from the stack which of them runs: for the first calls of a site,
//! and then for fewer and fewer, so that the hit path stays short. It must not know what a lock is.

use std::collections::{HashMap, HashSet};

use storlock_check::contract::{Callback, Routine, RoutineSet};
use storlock_check::event::LockCall;

use super::callbacks::Callbacks;
use super::guest::Names;
use crate::report::{
    CallPath, Coverage as Told, CoverageTotals, CoveredSite, Location, LockRoutine, ModuleInfo, OpenExport, SiteFound,
    SiteState,
};
use crate::vmi::CpuState;
use crate::watch::LockSites;
use crate::windows::Attribution;

/// Sites of one driver. More are only counted.
const SITES: usize = 4096;
/// The first calls of a site, and the first after each injected fault, whose callback is asked for.
const ASKED: u64 = 8;
/// Ways by which one site was reached.
const PATHS: usize = 32;
/// Calls from outside of the driver that are looked at, to learn whether the driver has made them by a jump; and places of
/// which it is known that they call the routine themselves.
const LOOKS: u32 = 256;
const OTHERS: usize = 1024;

/// What is known of a site.
#[derive(Debug)]
struct Site {
    routine: Routine,
    place: u32,
    tail: bool,
    from_outside: bool,
    /// Of a jump, where the functions begin by which the driver's code comes to it.
    entries: Vec<u32>,
    found: SiteFound,
    calls: u64,
    /// Calls that this site or another one has made.
    perhaps: u64,
    after_fault: u64,
    /// Calls since the last fault was injected.
    since_fault: u64,
    fault: u64,
    paths: Vec<Way>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    callback: Option<Callback>,
    after_fault: bool,
    event: u64,
}

impl Site {
    fn new(routine: Routine, place: u32, found: SiteFound) -> Self {
        Self {
            routine,
            place,
            tail: false,
            from_outside: false,
            entries: Vec::new(),
            found,
            calls: 0,
            perhaps: 0,
            after_fault: 0,
            since_fault: 0,
            fault: 0,
            paths: Vec::new(),
        }
    }

    /// Counts a call, before which so many faults had been injected; says whether its callback is asked for.
    fn count(&mut self, faults: u64) -> bool {
        if self.fault != faults {
            (self.fault, self.since_fault) = (faults, 0);
        }
        self.calls += 1;
        self.since_fault += 1;
        self.after_fault += u64::from(faults > 0);
        self.since_fault <= ASKED || self.calls.is_power_of_two()
    }

    fn is_known(&self, callback: Option<Callback>, after_fault: bool) -> bool {
        let mut paths = self.paths.iter();
        paths.any(|way| (way.callback, way.after_fault) == (callback, after_fault))
    }

    fn state(&self, watched: RoutineSet) -> SiteState {
        match () {
            () if self.calls > 0 => SiteState::Reached,
            () if !watched.contains(self.routine) => SiteState::NotWatched,
            () if self.from_outside || self.perhaps > 0 => SiteState::NotTold,
            () => SiteState::NotReached,
        }
    }
}

/// The sites of the driver under test.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// The driver, as it was watched last.
    driver: Option<ModuleInfo>,
    sites: Vec<Site>,
    /// By routine and offset of a return address: whose calls return there.
    by_return: HashMap<(Routine, u32), Vec<usize>>,
    /// Places outside of the driver that call the routine themselves.
    others: HashSet<(Routine, u64)>,
    looks: u32,
    /// Injected faults.
    faults: u64,
    perhaps: u64,
    not_kept: u64,
    open: Vec<OpenExport>,
}

impl Coverage {
    /// Takes the sites that the driver's code has. What was counted before stays.
    pub(crate) fn take(&mut self, known: LockSites) {
        for site in known.sites {
            let Some(index) = self.site(site.routine, site.place, site.tail, SiteFound::Code) else {
                continue;
            };
            if let Some(own) = self.sites.get_mut(index) {
                own.found = SiteFound::Code;
                own.from_outside = site.from_outside;
                own.entries = site.entries;
            }
            for offset in site.returns {
                let owners = self.by_return.entry((site.routine, offset)).or_default();
                // What was only seen there until now was the call of this one, or of another like it.
                owners.retain(|&other| other != index && self.sites[other].found == SiteFound::Code);
                owners.push(index);
            }
        }
        self.perhaps = known.untold;
        let open = known.open.into_iter();
        self.open = open.map(|(export, reason)| OpenExport { export, reason }).collect();
    }

    /// The driver is watched from now on.
    pub(crate) fn watched(&mut self, driver: &ModuleInfo) {
        self.driver = Some(driver.clone());
    }

    /// A fault was injected.
    pub(crate) fn fault_injected(&mut self) {
        self.faults += 1;
    }

    /// A lock routine was called, the event with that number. `is_whole` says afterwards whether all that was asked for of the
    /// stack was there: else the callback is not known.
    pub(crate) fn called(
        &mut self,
        cpu: &impl CpuState,
        (callbacks, names): (&mut Callbacks, &mut Names),
        driver: &ModuleInfo,
        (call, event): (&LockCall, u64),
        is_whole: impl Fn() -> bool,
    ) {
        let return_address = call.context.return_address;
        let returns_to_driver = driver.contains(return_address);
        let index = if returns_to_driver {
            self.returning_to(call.routine, return_address.wrapping_sub(driver.base) as u32)
        } else {
            self.jumped_from(cpu, names, driver, call)
        };
        let Some(site) = index.and_then(|index| self.sites.get_mut(index)) else {
            return;
        };
        if !site.count(self.faults) {
            return;
        }
        let after_fault = self.faults > 0;
        let mut ask = |exact| {
            if returns_to_driver {
                callbacks.calling(cpu, names, driver, exact)
            } else {
                callbacks.of_function(cpu, driver, driver.base.wrapping_add(u64::from(site.place)))
            }
        };
        let mut callback = ask(false);
        if !site.is_known(callback, after_fault) {
            callback = ask(true);
        }
        if site.paths.len() < PATHS && is_whole() && !site.is_known(callback, after_fault) {
            site.paths.push(Way {
                callback,
                after_fault,
                event,
            });
        }
    }

    /// An event trace tells of a call, the event with that number. It has no stacks.
    pub(crate) fn replayed(&mut self, driver: &ModuleInfo, call: &LockCall, event: u64) {
        let return_address = call.context.return_address;
        if !driver.contains(return_address) {
            return;
        }
        let index = self.returning_to(call.routine, return_address.wrapping_sub(driver.base) as u32);
        let after_fault = self.faults > 0;
        let Some(site) = index.and_then(|index| self.sites.get_mut(index)) else {
            return;
        };
        if site.count(self.faults) && !site.is_known(None, after_fault) {
            site.paths.push(Way {
                callback: None,
                after_fault,
                event,
            });
        }
    }

    /// The site whose call returns to that offset, if that is one.
    fn returning_to(&mut self, routine: Routine, offset: u32) -> Option<usize> {
        match self.by_return.get(&(routine, offset)).map(Vec::as_slice) {
            Some(&[index]) => return Some(index),
            Some(several) => {
                for &index in several {
                    if let Some(site) = self.sites.get_mut(index) {
                        site.perhaps += 1;
                    }
                }
                return None;
            }
            None => {}
        }
        let index = self.site(routine, offset, false, SiteFound::Run)?;
        self.by_return.insert((routine, offset), vec![index]);
        Some(index)
    }

    /// The site that has made a call by a jump which returns to other code than the driver's, if that can be told.
    fn jumped_from(
        &mut self,
        cpu: &impl CpuState,
        names: &mut Names,
        driver: &ModuleInfo,
        call: &LockCall,
    ) -> Option<usize> {
        let mut wanted = self.sites.iter();
        let wanted = wanted.any(|site| site.routine == call.routine && site.from_outside);
        let key = (call.routine, call.context.return_address);
        if !wanted || self.looks >= LOOKS || self.others.contains(&key) {
            return None;
        }
        self.looks += 1;
        let function = match names.attributed(cpu)? {
            Attribution::TailCall { function } => function,
            Attribution::Call if self.others.len() < OTHERS => {
                self.others.insert(key);
                return None;
            }
            _ => return None,
        };
        if !driver.contains(function) {
            return None;
        }
        let begin = function.wrapping_sub(driver.base) as u32;
        let comes_by = |site: &Site| site.place == begin || site.entries.contains(&begin);
        let sites = self.sites.iter().enumerate();
        let mut able = sites.filter(|(_, site)| site.tail && site.routine == call.routine && comes_by(site));
        // The function may have gone on to another one that jumps to the routine as well.
        let (index, _) = able.next()?;
        able.next().is_none().then_some(index)
    }

    /// The site at a place, which is added if it is new and there is room.
    fn site(&mut self, routine: Routine, place: u32, tail: bool, found: SiteFound) -> Option<usize> {
        let mut sites = self.sites.iter();
        let same = |site: &Site| (site.routine, site.place, site.tail) == (routine, place, tail);
        if let Some(index) = sites.position(same) {
            return Some(index);
        }
        if self.sites.len() >= SITES {
            self.not_kept += 1;
            return None;
        }
        self.sites.push(Site {
            tail,
            ..Site::new(routine, place, found)
        });
        Some(self.sites.len() - 1)
    }

    /// What the report says; `None` if the driver was never watched. `watched`: the routines that were watched all the time.
    pub(crate) fn told(&self, names: &Names, watched: RoutineSet) -> Option<Told> {
        let driver = self.driver.as_ref()?;
        let mut sites: Vec<&Site> = self.sites.iter().collect();
        sites.sort_by_key(|site| (site.routine, site.place, site.tail));
        let site = |site: &Site| CoveredSite {
            routine: LockRoutine(site.routine),
            place: place(names, driver, site),
            tail: site.tail,
            found: site.found,
            state: site.state(watched),
            calls: site.calls,
            after_fault: site.after_fault,
            paths: site.paths.iter().map(path).collect(),
        };
        let sites: Vec<CoveredSite> = sites.into_iter().map(site).collect();
        Some(Told {
            totals: CoverageTotals {
                perhaps: self.perhaps,
                not_kept: self.not_kept,
                ..CoverageTotals::of(&sites)
            },
            sites,
            open: self.open.clone(),
        })
    }
}

fn path(way: &Way) -> CallPath {
    CallPath {
        callback: way.callback.map(|callback| callback.name().to_owned()),
        after_fault: way.after_fault,
        event: way.event,
    }
}

fn place(names: &Names, driver: &ModuleInfo, site: &Site) -> Location {
    let modules = std::slice::from_ref(driver);
    let offset = u64::from(site.place);
    let mut place = Location {
        address: driver.base.wrapping_add(offset),
        module: Some(driver.name.clone()),
        offset: Some(offset),
        ..Location::default()
    };
    if site.tail {
        names.name_function(&mut place, modules);
    } else {
        names.name_place(&mut place, modules);
    }
    place
}
