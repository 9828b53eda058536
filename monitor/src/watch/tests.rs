//! Tests of the plan: all that fits is watched, and what does not fit is chosen as the objective says.

use proptest::prelude::*;
use storlock_check::contract::{CONTRACTS, Role, RoutineSet, SystemModule, contract};

use super::{Uses, WatchPlan, name_of};
use crate::report::{UnnamedImports, WatchGap};
use crate::windows::arguments::{FirstArguments, NotKnown};
use crate::windows::{Import, ImportName, Imports};

fn imports(names: &[(&str, &str)]) -> Imports {
    let import = |(module, name): &(&str, &str)| Import {
        module: (*module).into(),
        name: ImportName::Name((*name).into()),
        slot: 0,
        delayed: false,
    };
    names.iter().map(import).collect()
}

fn kernel(names: &[&str]) -> Imports {
    imports(&names.iter().map(|name| ("ntoskrnl.exe", *name)).collect::<Vec<_>>())
}

/// What is passed to the imports with slot 0, which is that of all imports here.
fn passed(values: &[u32], not_known: Option<NotKnown>) -> Uses {
    Uses::new(vec![FirstArguments {
        slot: 0,
        values: values.to_vec(),
        calls: 3,
        sites: Vec::new(),
        not_known,
    }])
}

/// Every lock code.
const ALL: [u32; 5] = [0x0b, 0x0c, 0x5d, 0x1003, 0x1004];

/// The plan for a driver that wants all that it imports.
fn plan(imports: &Imports, registers: usize) -> WatchPlan {
    super::plan(imports, &passed(&ALL, None), registers)
}

fn watched(plan: &WatchPlan) -> Vec<&str> {
    plan.watches.iter().map(|watch| watch.export).collect()
}

/// The distinct exports of the table.
fn exports() -> Vec<(SystemModule, &'static str)> {
    let mut exports: Vec<_> = CONTRACTS.iter().map(|row| (row.module, row.export)).collect();
    exports.dedup();
    exports.sort_by_key(|(module, export)| (*module as u8, *export));
    exports.dedup();
    exports
}

#[test]
fn a_physical_miniport_takes_two_registers_and_has_no_gap() {
    let names = [
        ("storport.sys", "StorPortNotification"),
        ("STORPORT.SYS", "StorPortExtendedFunction"),
        ("ntoskrnl.exe", "memcpy"),
    ];
    let plan = plan(&imports(&names), 4);
    assert_eq!(watched(&plan), ["StorPortNotification", "StorPortExtendedFunction"]);
    assert_eq!(plan.watched.len(), 5);
    assert_eq!(plan.judged.len(), 2);
    assert_eq!((plan.gaps.len(), plan.choice().free()), (0, 2));
}

#[test]
fn a_routine_counts_only_from_the_module_that_has_it() {
    let plan = plan(
        &imports(&[
            ("other.sys", "KeReleaseSpinLock"),
            ("ntoskrnl.exe", "StorPortNotification"),
        ]),
        4,
    );
    assert_eq!((watched(&plan).len(), plan.imported), (0, RoutineSet::EMPTY));
    let plan = super::plan(&imports(&[("HAL.dll", "KeReleaseSpinLock")]), &passed(&ALL, None), 4);
    assert_eq!(watched(&plan), ["KeReleaseSpinLock"]);
}

#[test]
fn pairs_are_kept_together_and_the_rule_s_own_routines_first() {
    let plan = plan(
        &kernel(&[
            "KeAcquireInStackQueuedSpinLock",
            "KeReleaseInStackQueuedSpinLock",
            "KeAcquireSpinLockRaiseToDpc",
            "KeReleaseSpinLock",
            "KeAcquireSpinLockAtDpcLevel",
            "KeReleaseSpinLockFromDpcLevel",
        ]),
        4,
    );
    assert_eq!(plan.judged.len(), 2);
    assert!(watched(&plan).starts_with(&["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock"]));
    assert_eq!((plan.gaps.len(), plan.choice().free()), (2, 0));
}

#[test]
fn a_release_whose_feeder_does_not_fit_is_named_as_suspect() {
    let plan = plan(
        &kernel(&[
            "KeAcquireSpinLockRaiseToDpc",
            "KeTryToAcquireSpinLockAtDpcLevel",
            "KeReleaseSpinLock",
        ]),
        2,
    );
    assert!(plan.judged.is_empty(), "{:?}", plan.judged);
    assert!(
        plan.gaps
            .iter()
            .any(|gap| matches!(gap, WatchGap::NoRegister { before, .. } if !before.is_empty())),
        "{:?}",
        plan.gaps
    );
}

#[test]
fn routines_looked_up_at_run_time_are_a_stated_gap() {
    let plan = plan(&kernel(&["KeReleaseSpinLock", "MmGetSystemRoutineAddress"]), 4);
    let routine = "nt!MmGetSystemRoutineAddress".to_owned();
    assert_eq!(plan.gaps, [WatchGap::LookedUp { routine }]);
}

#[test]
fn every_routine_that_finds_others_by_name_is_a_stated_gap() {
    for (module, name, routine) in [
        (
            "ntoskrnl.exe",
            "RtlFindExportedRoutineByName",
            "nt!RtlFindExportedRoutineByName",
        ),
        ("ndis.sys", "NdisGetRoutineAddress", "ndis!NdisGetRoutineAddress"),
    ] {
        let plan = plan(&imports(&[("ntoskrnl.exe", "KeReleaseSpinLock"), (module, name)]), 4);
        let routine = routine.to_owned();
        assert_eq!(plan.gaps, [WatchGap::LookedUp { routine }]);
        assert!(!plan.closed);
    }
}

#[test]
fn routines_that_take_the_drivers_lock_inside_are_a_stated_gap() {
    let inside = plan(
        &kernel(&[
            "KeReleaseSpinLock",
            "ExInterlockedInsertTailList",
            "ExInterlockedAddLargeInteger",
        ]),
        4,
    );
    let routines = ["nt!ExInterlockedInsertTailList", "nt!ExInterlockedAddLargeInteger"];
    let routines = routines.map(str::to_owned).to_vec();
    assert_eq!(inside.gaps, [WatchGap::LocksInside { routines }]);
    assert!(!inside.closed);
    // Lists that need no lock.
    let without = plan(&kernel(&["KeReleaseSpinLock", "ExpInterlockedPushEntrySList"]), 4);
    assert_eq!((without.gaps.len(), without.closed), (0, true));
}

#[test]
fn an_import_without_a_name_may_be_any_lock_routine_of_its_module_and_weakens_what_it_may_feed() {
    let with = |module: &str, name: ImportName| {
        let named = kernel(&["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock"]);
        let storport = imports(&[("storport.sys", "StorPortNotification")]);
        let unnamed = Import {
            module: module.into(),
            name,
            slot: 8,
            delayed: false,
        };
        let all = named.entries().iter().chain(storport.entries()).cloned();
        plan(&all.chain([unnamed]).collect(), 4)
    };
    let names = |set: RoutineSet| {
        set.iter()
            .map(storlock_check::contract::Routine::name)
            .collect::<Vec<_>>()
    };
    // Of the port driver: the kernel's releases are judged as before.
    let storport = with("STORPORT.sys", ImportName::Ordinal(7));
    assert_eq!(names(storport.judged), ["KeReleaseSpinLock"]);
    let unnamed = UnnamedImports {
        imports: 1,
        modules: vec!["STORPORT.sys".to_owned()],
        more: false,
    };
    let summary = storport.choice().summary();
    assert!(
        summary.ends_with("; not recognised: 1 import without a name, from STORPORT.sys"),
        "{summary}"
    );
    assert_eq!(storport.unnamed, Some(unnamed.clone()));
    assert_eq!(storport.gaps, [WatchGap::Unnamed(unnamed)]);
    // Of the kernel: the port driver's are.
    assert_eq!(
        names(with("hal.dll", ImportName::Bound).judged),
        ["StorPortReleaseSpinLock"]
    );
    // Of a module that nobody knows: it may lead anywhere.
    assert!(with("other.sys", ImportName::Ordinal(7)).judged.is_empty());
}

#[test]
fn the_kernel_is_known_by_its_other_names_and_another_module_is_a_stated_gap() {
    let plan = plan(
        &imports(&[
            ("NTKRNLMP.exe", "KeReleaseSpinLock"),
            ("other.sys", "KeReleaseSpinLock"),
        ]),
        4,
    );
    assert_eq!(watched(&plan), ["KeReleaseSpinLock"]);
    let gaps = [
        WatchGap::OtherModule {
            routine: "other.sys!KeReleaseSpinLock".to_owned(),
        },
        WatchGap::Modules {
            modules: vec!["other.sys".to_owned()],
        },
    ];
    assert_eq!(plan.gaps, gaps);
    assert!(!plan.closed);
}

/// A virtual miniport, which imports what every miniport does.
fn virtual_miniport() -> Imports {
    let kernel = [
        "KeAcquireSpinLockRaiseToDpc",
        "KeReleaseSpinLock",
        "KeAcquireSpinLockAtDpcLevel",
        "KeReleaseSpinLockFromDpcLevel",
    ];
    let storport = ["StorPortNotification", "StorPortExtendedFunction"];
    let storport = storport.iter().map(|name| ("storport.sys", *name));
    imports(
        &kernel
            .iter()
            .map(|name| ("ntoskrnl.exe", *name))
            .chain(storport)
            .collect::<Vec<_>>(),
    )
}

#[test]
fn what_is_never_asked_for_takes_no_register() {
    let plan = super::plan(&virtual_miniport(), &passed(&[0, 5, 0x1001], None), 4);
    assert_eq!(watched(&plan).len(), 4);
    assert!(
        watched(&plan).iter().all(|export| export.starts_with("Ke")),
        "{:?}",
        watched(&plan)
    );
    assert_eq!((plan.judged.len(), plan.gaps.len(), plan.turns.len()), (2, 0, 0));
    let explained = plan.choice().explanation().join("\n");
    let wanted = [
        "storport!StorPortNotification: 3 calls pass 0x0, 0x5, 0x1001: no lock routine, so it needs no debug register",
        "register 1: nt!KeAcquireSpinLockRaiseToDpc: ",
        "caught returns: no watched routine needs them",
        "1 register waits for its driver object (nt!ObInsertObject)",
    ];
    for line in wanted {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    // One half of a multiplexed export counts, too: nothing acquires, so the release is judged.
    let plan = super::plan(&virtual_miniport(), &passed(&[0x1004], None), 5);
    assert_eq!(plan.imported.len(), 5);
    assert!(watched(&plan).contains(&"StorPortNotification"));
}

#[test]
fn sets_take_turns_where_nobody_can_say_what_is_needed() {
    let plan = super::plan(&virtual_miniport(), &passed(&[], Some(NotKnown::Argument(0x1234))), 4);
    let sets: Vec<&WatchPlan> = std::iter::once(&plan).chain(&plan.turns[0].later).collect();
    assert!(sets.len() > 1, "{}", plan.choice().summary());
    for set in &sets {
        assert!(
            watched(set).contains(&"StorPortNotification"),
            "without it a turn may never end: {:?}",
            watched(set)
        );
        assert_eq!(set.watches.len(), 4);
    }
    for export in virtual_miniport().entries().iter().map(|import| import.name.clone()) {
        let ImportName::Name(export) = export else {
            unreachable!()
        };
        assert!(
            sets.iter().any(|set| watched(set).contains(&export.as_str())),
            "{export}"
        );
    }
    for pair in ["KeReleaseSpinLock", "KeReleaseSpinLockFromDpcLevel"] {
        let judged = |set: &&WatchPlan| set.judged.iter().any(|routine| routine.name() == pair);
        assert!(sets.iter().any(judged), "{pair}");
    }
    let explained = plan.choice().explanation();
    assert!(explained.join("\n").contains("in turn 2: "), "{explained:?}");
}

#[test]
fn sets_take_turns_where_more_is_needed_than_fits() {
    let plan = super::plan(&virtual_miniport(), &passed(&[0x1003, 0x1004], None), 4);
    // Whichever of the first is called most can be the clock.
    assert_eq!(plan.turns.len(), 4, "{}", plan.choice().summary());
    for (rotation, first) in plan.turns.iter().zip(&plan.watches) {
        assert_eq!(rotation.clock, name_of(first.module, first.export));
        for set in &rotation.later {
            assert!(watched(set).contains(&first.export), "{rotation:?}");
        }
        for gap in &plan.gaps {
            let mut watches = rotation.later.iter().flat_map(|set| &set.watches);
            assert!(
                watches.any(|watch| Some(name_of(watch.module, watch.export).as_str()) == gap.export()),
                "{gap:?}"
            );
        }
    }
    // With room for all there is nothing to take turns for.
    let plan = super::plan(&virtual_miniport(), &Uses::default(), 6);
    assert!(plan.turns.is_empty() && plan.watches.len() == 6);
}

/// Number of judged releases of a set, from the definition.
fn judged(watched: &[(SystemModule, &str)], imported: &[(SystemModule, &str)]) -> usize {
    let has = |set: &[(SystemModule, &str)], row: &storlock_check::contract::Contract| {
        set.contains(&(row.module, row.export))
    };
    CONTRACTS
        .iter()
        .filter(|row| row.role == Role::Release && has(watched, row))
        .filter(|row| {
            row.fed_by
                .iter()
                .map(contract)
                .all(|feeder| !has(imported, feeder) || has(watched, feeder))
        })
        .count()
}

/// The most releases that any choice of at most `registers` exports can judge, by a search of its own: take or leave.
fn most_judged(
    left: &[(SystemModule, &'static str)],
    taken: &mut Vec<(SystemModule, &'static str)>,
    imported: &[(SystemModule, &'static str)],
    registers: usize,
) -> usize {
    let Some((first, rest)) = left.split_first() else {
        return judged(taken, imported);
    };
    let without = most_judged(rest, taken, imported, registers);
    if taken.len() == registers {
        return without;
    }
    taken.push(*first);
    let with = most_judged(rest, taken, imported, registers);
    taken.pop();
    with.max(without)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_import_combination_gets_the_best_plan(
        picked in prop::sample::subsequence(exports(), 0..=9), registers in 0usize..=4,
    ) {
        let names: Vec<_> = picked.iter().map(|(module, export)| (module.file_name(), *export)).collect();
        let plan = plan(&imports(&names), registers);
        let chosen: Vec<_> = plan.watches.iter().map(|watch| (watch.module, watch.export)).collect();
        prop_assert!(chosen.len() == picked.len().min(registers));
        prop_assert!(chosen.iter().all(|export| picked.contains(export)));
        prop_assert_eq!(plan.gaps.len(), picked.len() - chosen.len());
        prop_assert_eq!(plan.choice().free(), (registers - chosen.len()) as u64);
        prop_assert_eq!(plan.judged.len(), judged(&chosen, &picked));
        prop_assert_eq!(plan.judged.len(), most_judged(&picked, &mut Vec::new(), &picked, registers));
        // The choice does not depend on the order of the import table.
        let mut turned = names.clone();
        turned.reverse();
        prop_assert_eq!(super::plan(&imports(&turned), &passed(&ALL, None), registers), plan);
    }
}
