//! Which lock call sites are reached.

use super::*;
use crate::report::{Coverage, SiteFound, SiteState};

/// Offsets of the driver's code: the section with the calls follows [`code`] and the imports.
const CALLS: u64 = 0x3000;
/// Bytes of `mov ecx, 0; call [slot]`.
const CALL: u64 = 11;

/// A guest whose driver calls the acquire twice and the release once.
fn guest() -> Fake {
    let guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, code());
    image.directory(EXCEPTION, UNWIND, 12);
    let slots = image.imports(&[("ntoskrnl.exe", &PAIR)]);
    assert_eq!(u64::from(image.next_rva()), CALLS);
    image.calls("PAGE", &[(0, slots[0]), (0, slots[1]), (0, slots[0])]);
    image.map(&mut guest.space.borrow_mut());
    guest
}

fn coverage(session: &Session) -> Coverage {
    session.report(&End::default()).coverage.unwrap()
}

fn states(coverage: &Coverage) -> Vec<(String, Option<u64>, SiteState, u64, u64)> {
    let sites = coverage.sites.iter();
    let one = |site: &crate::report::CoveredSite| {
        let routine = site.routine.to_string();
        (routine, site.place.offset, site.state, site.calls, site.after_fault)
    };
    sites.map(one).collect()
}

#[test]
fn sites_of_the_code_are_listed_and_those_that_are_reached_are_counted() {
    let mut guest = guest();
    let session = Session::new(config(), None, None);
    guest.boot_and_arm(&session);
    let (first, second, third) = (CALLS + CALL, CALLS + 2 * CALL, CALLS + 3 * CALL);
    guest.call(&session, ACQUIRE, first, 0, 0);
    guest.call(&session, RELEASE, second, 2, 1);
    session.fault_injected(1);
    guest.call(&session, ACQUIRE, first, 0, 0);
    let (acquire, release) = ("nt!KeAcquireSpinLockRaiseToDpc", "nt!KeReleaseSpinLock");
    let told = coverage(&session);
    let expected = [
        (acquire.to_owned(), Some(first), SiteState::Reached, 2, 1),
        (acquire.to_owned(), Some(third), SiteState::NotReached, 0, 0),
        (release.to_owned(), Some(second), SiteState::Reached, 1, 0),
    ];
    assert_eq!(states(&told), expected);
    let totals = told.totals;
    assert_eq!((totals.sites, totals.reached, totals.only_after_fault), (3, 2, 0));
    assert_eq!(told.open, []);
    // The other acquire only now.
    guest.call(&session, RELEASE, second, 2, 1);
    guest.call(&session, ACQUIRE, third, 0, 0);
    let told = coverage(&session);
    assert_eq!((told.totals.reached, told.totals.only_after_fault), (3, 1));
    assert!(told.sites[1].paths.iter().all(|path| path.after_fault));
    assert_eq!(told.sites[0].paths.len(), 2, "without a fault and after one");
}

#[test]
fn a_call_that_the_code_does_not_show_is_a_site_of_the_run() {
    let mut guest = guest();
    let session = Session::new(config(), None, None);
    guest.boot_and_arm(&session);
    guest.call(&session, ACQUIRE, 0x1234, 0, 0);
    // Other modules' calls are none of the driver's.
    guest.call_from(&session, RELEASE, KERNEL + 0x1050, 2, 1);
    let told = coverage(&session);
    let of_run: Vec<_> = told.sites.iter().filter(|site| site.found == SiteFound::Run).collect();
    assert_eq!(told.totals.sites, 4);
    assert_eq!(
        (of_run.len(), of_run[0].place.offset, of_run[0].calls),
        (1, Some(0x1234), 1)
    );
}

#[test]
fn a_jump_to_a_routine_is_told_by_the_call_of_its_function_if_at_all() {
    let mut guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, code());
    image.directory(EXCEPTION, UNWIND, 12);
    let slots = image.imports(&[("ntoskrnl.exe", &PAIR)]);
    let function = image.next_rva();
    // mov ecx, 0; jmp [slot]
    let displacement = slots[1].wrapping_sub(function + 11);
    let mut jump = vec![0xb9, 0, 0, 0, 0, 0xff, 0x25];
    jump.extend(displacement.to_le_bytes());
    image.section("PAGE", CODE, jump);
    image.map(&mut guest.space.borrow_mut());
    // The loader's work, and a call of the function by the kernel, which returns to 1045h.
    let target = DRIVER + u64::from(function);
    let call = KERNEL + 0x1040;
    let displacement = target.wrapping_sub(call + 5) as u32;
    let mut space = guest.space.borrow_mut();
    space.write_u64(DRIVER + u64::from(slots[1]), KERNEL + u64::from(RELEASE));
    space.write(call, &[&[0xe8][..], &displacement.to_le_bytes()].concat());
    drop(space);
    let session = Session::new(config(), None, None);
    guest.boot_and_arm(&session);
    let jump = || {
        let told = coverage(&session);
        let site = told.sites.iter().find(|site| site.tail).unwrap();
        (site.place.offset, site.state, site.calls)
    };
    let function = Some(u64::from(function));
    assert_eq!(jump(), (function, SiteState::NotTold, 0));
    // From elsewhere: perhaps another module's own call.
    guest.call_from(&session, RELEASE, KERNEL + 0x1080, 2, 1);
    assert_eq!(jump(), (function, SiteState::NotTold, 0));
    guest.call_from(&session, RELEASE, call + 5, 2, 1);
    assert_eq!(jump(), (function, SiteState::Reached, 1));
}

/// A guest whose driver has two functions that jump to the acquire, and a third that goes on to either. Gives where the two
/// begin, where a call of the third returns to, and where one of the first does.
fn two_jumps() -> (Fake, [u64; 4]) {
    let guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, code());
    image.directory(EXCEPTION, UNWIND, 12);
    let slots = image.imports(&[("ntoskrnl.exe", &PAIR)]);
    let begin = image.next_rva();
    let mut bytes = Vec::new();
    let mut put = |opcode: &[u8], target: u32| {
        let at = begin + bytes.len() as u32;
        bytes.extend(opcode);
        let next = begin + bytes.len() as u32 + 4;
        bytes.extend(target.wrapping_sub(next).to_le_bytes());
        at
    };
    let jump = [0xb9, 0, 0, 0, 0, 0xff, 0x25]; // mov ecx, 0; jmp [slot]
    let (first, second) = (put(&jump, slots[0]), put(&jump, slots[0]));
    let either = put(&[0x0f, 0x84], first); // je first
    put(&[0xe9], second); // jmp second
    let call = put(&[0xe8], either); // call either
    let other = put(&[0xe8], first); // call first
    bytes.push(0xc3);
    image.section("PAGE", CODE, bytes);
    image.map(&mut guest.space.borrow_mut());
    (guest, [first, second, call + 5, other + 5].map(u64::from))
}

#[test]
fn of_two_jumps_that_return_to_the_same_place_none_is_told_as_not_reached() {
    let (mut guest, [first, second, of_both, of_first]) = two_jumps();
    let session = Session::new(config(), None, None);
    guest.boot_and_arm(&session);
    let jumps = || {
        let told = coverage(&session);
        let of = |place| {
            let mut sites = told.sites.iter().filter(|site| site.tail);
            let site = sites.find(|site| site.place.offset == Some(place)).unwrap();
            (site.state, site.calls)
        };
        (told.totals.sites, of(first), of(second))
    };
    let unseen = (SiteState::NotReached, 0);
    assert_eq!(jumps(), (2, unseen, unseen));
    guest.call(&session, ACQUIRE, of_both, 0, 0);
    let perhaps = (SiteState::NotTold, 0);
    assert_eq!(jumps(), (2, perhaps, perhaps), "and no third site");
    guest.call(&session, RELEASE, 0x1234, 2, 1);
    guest.call(&session, ACQUIRE, of_first, 0, 0);
    assert_eq!(jumps(), (3, (SiteState::Reached, 1), perhaps));
}

#[test]
fn what_was_reached_before_a_reset_is_told_if_the_driver_is_not_loaded_again() {
    let mut guest = guest();
    let session = Session::new(config(), None, None);
    guest.boot_and_arm(&session);
    let (first, third) = (CALLS + CALL, CALLS + 3 * CALL);
    guest.call(&session, ACQUIRE, first, 0, 0);
    let before = states(&coverage(&session));
    session.handle(&mut guest, CpuStop::Reset);
    let told = coverage(&session);
    let of = |place| {
        let mut sites = told.sites.iter();
        sites
            .find(|site| site.place.offset == Some(place))
            .map(|site| site.state)
    };
    assert_eq!(of(first), Some(SiteState::Reached));
    // Nobody has watched since.
    assert_eq!(of(third), Some(SiteState::NotWatched));
    assert_eq!(told.sites[0].place.module.as_deref(), Some("Target.sys"));
    guest.boot_and_arm(&session);
    assert_eq!(states(&coverage(&session)), before);
}
