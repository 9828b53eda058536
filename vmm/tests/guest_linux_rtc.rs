//! The RTC as Linux uses it: the time by `hwclock`, which waits for the next second by an interrupt, an alarm by
//! `rtcwake`, and periodic interrupts of /dev/rtc0; KVM's interface, not Hyper-V's. Needs a /dev/kvm that uses hardware
//! virtualization, and util-linux on the host.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs;
use std::process::Command;

use pc::{
    Console, DebianKernel, PROLOGUE, REPORT, check_report, machine, run_to, test_platform_runs_operating_systems,
};
use storlock_vmm::boot::LinuxRequest;

/// A program that takes 32 periodic interrupts of /dev/rtc0 at 64 Hz by read(2): an ELF file of one segment. Its result
/// is 0 if all came.
fn periodic() -> Vec<u8> {
    const BASE: u32 = 0x40_0000;
    const CODE: u32 = 0x78;
    let mut code: Vec<u8> = Vec::new();
    let mut put = |bytes: &[u8]| code.extend_from_slice(bytes);
    put(&[0xb8, 2, 0, 0, 0, 0xbf]); // mov eax, open; mov edi, path
    put(&(BASE + CODE + 0x80).to_le_bytes());
    put(&[0x31, 0xf6, 0x0f, 0x05, 0x89, 0xc3]); // xor esi, esi; syscall; mov ebx, eax
    put(&[0x89, 0xdf, 0xbe, 0x0c, 0x70, 0x08, 0x40]); // mov edi, ebx; mov esi, RTC_IRQP_SET
    put(&[0xba, 64, 0, 0, 0, 0xb8, 16, 0, 0, 0, 0x0f, 0x05]); // mov edx, 64; mov eax, ioctl; syscall
    put(&[0x89, 0xdf, 0xbe, 0x05, 0x70, 0, 0]); // mov edi, ebx; mov esi, RTC_PIE_ON
    put(&[0x31, 0xd2, 0xb8, 16, 0, 0, 0, 0x0f, 0x05]); // xor edx, edx; mov eax, ioctl; syscall
    put(&[0x89, 0xc5, 0x41, 0xbc, 32, 0, 0, 0, 0x48, 0x83, 0xec, 16]); // mov ebp, eax; mov r12d, 32; sub rsp, 16
    put(&[0x31, 0xc0, 0x89, 0xdf, 0x48, 0x89, 0xe6]); // again: xor eax, eax (read); mov edi, ebx; mov rsi, rsp
    put(&[0xba, 8, 0, 0, 0, 0x0f, 0x05]); // mov edx, 8; syscall
    put(&[0x83, 0xf0, 8, 0x09, 0xc5]); // xor eax, 8; or ebp, eax
    put(&[0x41, 0xff, 0xcc, 0x75, 0xe8]); // dec r12d; jnz again
    put(&[0x31, 0xff, 0x85, 0xed, 0x40, 0x0f, 0x95, 0xc7]); // xor edi, edi; test ebp, ebp; setne dil
    put(&[0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // mov eax, exit; syscall
    code.resize(0x80, 0xcc);
    code.extend_from_slice(b"/dev/rtc0\0");

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    file.extend(u64::from(BASE + CODE).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend([0; 12]);
    file.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // to be loaded, readable and executable
    let length = u64::from(CODE) + code.len() as u64;
    for word in [0, u64::from(BASE), u64::from(BASE), length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    assert_eq!(file.len(), CODE as usize);
    file.extend(code);
    file
}

/// The libraries that a program of the host needs, by name, with its loader under the name `loader`.
fn libraries(program: &str) -> Vec<(String, Vec<u8>)> {
    let list = Command::new("ldd").arg(program).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let paths = list
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let named = paths.map(|path| {
        let name = path.rsplit('/').next().unwrap();
        let name = if name.starts_with("ld-linux") { "loader" } else { name };
        (name.to_owned(), fs::read(path).unwrap())
    });
    named.collect()
}

const JOB: &str = r#"
for i in rtcwake hwclock periodic loader; do $B chmod 755 /$i; done
run() { /loader --library-path / "$@"; }
interrupts() { $B sed -n 's/^ *8: *\([0-9]*\).*/\1/p' /proc/interrupts; }
before=$(interrupts)
run /hwclock --verbose --utc --show --rtc /dev/rtc0 2>&1 | $B grep -q 'got clock tick' && echo "tick: got"
after=$(interrupts)
[ "$after" -gt "$before" ] && echo "tick: by an interrupt"
[ "$(run /hwclock --utc --get --rtc /dev/rtc0 | $B cut -c 1-4)" -ge 2024 ] && echo "time: this age"
run /rtcwake -d /dev/rtc0 -m no -s 3 >/dev/null && $B grep -q 'alarm_IRQ.*yes' /proc/driver/rtc && echo "alarm: set"
$B sleep 5
[ "$(interrupts)" -gt "$after" ] && echo "alarm: interrupted"
$B grep -q 'alarm_IRQ.*no' /proc/driver/rtc && echo "alarm: over"
/periodic && echo "periodic: 32 interrupts"
$B grep '^ *8:' /proc/interrupts
"#;

#[test]
fn linux_gets_the_rtcs_ticks_alarms_and_periodic_interrupts() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let programs = ["/usr/sbin/rtcwake", "/usr/sbin/hwclock"];
    let mut files: Vec<(String, Vec<u8>)> = programs.iter().flat_map(|program| libraries(program)).collect();
    files.sort();
    files.dedup_by(|left, right| left.0 == right.0);
    files.extend(programs.map(|program| {
        (
            program.rsplit('/').next().unwrap().to_owned(),
            fs::read(program).unwrap(),
        )
    }));
    files.push(("periodic".to_owned(), periodic()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (&**name, &**data)).collect();

    let kernel = DebianKernel::find();
    let init = format!("{PROLOGUE}{JOB}{REPORT}$B poweroff -f\n");
    let console = Console::default();
    let mut machine = machine(1, 512, &disk, &console);
    machine
        .boot_linux(&LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(&["nvme"], &init, &files)),
            command_line: "console=ttyS0 quiet".into(),
        })
        .unwrap();
    run_to(machine, &console, "power-off");
    let said = console.text();
    println!("{said}");
    let wanted = [
        "tick: got",
        "tick: by an interrupt",
        "time: this age",
        "alarm: set",
        "alarm: interrupted",
        "alarm: over",
        "periodic: 32 interrupts",
    ];
    check_report(&said, &wanted);
}
