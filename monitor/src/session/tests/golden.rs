//! Golden reports: small scenes, and what the report says of each, word for word.
//!
//! A scene is a file `golden/NAME.scene`, the text of its violations is `golden/NAME.txt`; `STORLOCK_BLESS=1` writes the
//! texts anew. `golden/README.md` is the language of the scenes. Every rule has a scene for each cause that it can name.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use storlock_check::contract::{
    CONTRACTS, Contract, OperandPlaces, Place, Register, Routine, SystemModule, contract, contracts_of_export,
};

use super::*;
use crate::report::render::Renderer as _;
use crate::report::{Finding, Shortfall, text};

const HEAP: u64 = 0xffff_9000_0000_0000;
const PORT_DRIVER: u64 = 0xffff_f800_3000_0000;
const OTHER: u64 = 0xffff_f800_6000_0000;
/// Offset in the port driver.
const INITIALIZE: u32 = 0x1f00;
/// Between the stacks, and the control regions, of two processors.
const PROCESSOR: u64 = 0x10_0000;

/// A guest that acts as a scene says.
struct Actor {
    guest: Fake,
    session: Session,
    exports: ExportAddresses,
    /// What the last call was answered with, and where it returns to.
    caught: Option<(u64, u64)>,
}

/// The words `key=value` of a line, values in hexadecimal.
struct Words<'a>(&'a str, HashMap<&'a str, u64>);

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Self(line, pairs.map(|(key, value)| (key, number(value))).collect())
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.1.get(key).copied()
    }

    fn need(&self, key: &str) -> u64 {
        self.get(key).unwrap_or_else(|| panic!("no {key} in: {}", self.0))
    }

    /// An address: a number is an offset in the guest's pool, 0 stays 0.
    fn address(&self, key: &str) -> u64 {
        match self.need(key) {
            0 => 0,
            offset => HEAP + offset,
        }
    }
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("no hexadecimal number: {text}"))
}

/// `1120` in the driver under test, `storport+1120`, `nt+1120`, `other+1120`.
fn code_address(text: &str) -> u64 {
    match text.split_once('+') {
        None => DRIVER + number(text),
        Some(("storport", offset)) => PORT_DRIVER + number(offset),
        Some(("nt", offset)) => KERNEL + number(offset),
        Some(("other", offset)) => OTHER + number(offset),
        Some((module, _)) => panic!("no module {module}"),
    }
}

/// Exports by the module and the name.
type ExportAddresses = HashMap<(SystemModule, &'static str), u64>;

/// The lock routines of a module, 16 bytes apart from `first` on; notes their addresses.
fn lock_routines(
    exports: &mut ExportAddresses,
    (module, base): (SystemModule, u64),
    first: u32,
) -> Vec<(&'static str, Result<u32, &'static str>)> {
    let mut list = Vec::new();
    for row in CONTRACTS.iter().filter(|row| row.module == module) {
        let rva = first + 0x10 * list.len() as u32;
        if exports.insert((module, row.export), base + u64::from(rva)).is_none() {
            list.push((row.export, Ok(rva)));
        } else {
            exports.insert(
                (module, row.export),
                base + u64::from(first + 0x10 * (list.len() as u32 - 1)),
            );
        }
    }
    list
}

fn kernel(exports: &mut ExportAddresses) -> PeBuilder {
    let mut nt = PeBuilder::new(KERNEL);
    nt.section(".text", CODE, vec![0x90; 0x1000]);
    nt.section(".data", DATA, vec![0; 0x100]);
    let mut list = lock_routines(exports, (SystemModule::Ntoskrnl, KERNEL), 0x1700);
    list.extend([
        ("ObInsertObject", Ok(INSERT)),
        ("KiBugCheckData", Ok(list_rva() + 0x20)),
        ("PsLoadedModuleList", Ok(list_rva())),
    ]);
    nt.exports("ntoskrnl.exe", &list);
    nt
}

fn port_driver(exports: &mut ExportAddresses) -> PeBuilder {
    let mut storport = PeBuilder::new(PORT_DRIVER);
    let mut text = code();
    text.resize(0x1000, 0x90);
    storport.section(".text", CODE, text);
    storport.directory(EXCEPTION, UNWIND, UNWIND_SIZE);
    let mut list = lock_routines(exports, (SystemModule::Storport, PORT_DRIVER), 0x1900);
    list.push(("StorPortInitialize", Ok(INITIALIZE)));
    storport.exports("storport.sys", &list);
    storport
}

/// The driver under test, with code that calls each import with all codes that lead to a lock routine, or with the code that
/// comes after its name.
fn target(imports: &[&str]) -> PeBuilder {
    let codes: HashMap<&str, u32> = imports
        .iter()
        .filter_map(|import| import.split_once('='))
        .map(|(name, code)| (name, number(code) as u32))
        .collect();
    let names = imports.iter().map(|import| import.split('=').next().unwrap());
    let imports: Vec<&str> = names.collect();
    let mut target = PeBuilder::new(DRIVER);
    target.section(".text", CODE, code());
    target.directory(EXCEPTION, UNWIND, UNWIND_SIZE);
    let from = |module| -> Vec<&str> {
        let registers = |name: &str| name == "StorPortInitialize" && module == SystemModule::Storport;
        let there = |name: &&&str| contracts_of_export(module, name).next().is_some() || registers(name);
        imports.iter().filter(there).copied().collect()
    };
    let (nt_names, port_names) = (from(SystemModule::Ntoskrnl), from(SystemModule::Storport));
    let all: Vec<(&str, &[&str])> = [("ntoskrnl.exe", &nt_names[..]), ("storport.sys", &port_names[..])]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .collect();
    let slots = target.imports(&all);
    let wanted: Vec<(u32, u32)> = nt_names
        .iter()
        .chain(&port_names)
        .zip(slots)
        .flat_map(|(name, slot)| {
            let rows = contracts_of_export(SystemModule::Storport, name);
            let all = rows.filter_map(|row| row.selector).map(|selector| selector.value);
            let wanted: Vec<u32> = codes.get(name).map_or_else(|| all.collect(), |code| vec![*code]);
            wanted.into_iter().map(move |code| (code, slot))
        })
        .collect();
    target.calls("PAGE", &wanted);
    target
}

impl Actor {
    fn new(imports: &[&str], processors: u32) -> Self {
        let mut guest = Fake::new();
        let mut exports = HashMap::new();
        let (nt, storport) = (kernel(&mut exports), port_driver(&mut exports));
        for image in [nt, storport, target(imports), driver(OTHER, &[])] {
            image.map(&mut guest.space.borrow_mut());
        }
        let session = Session::new(Config { processors, ..config() }, None, None);
        session.handle(&mut guest, CpuStop::LstarWrite(KERNEL + u64::from(SYSCALL)));
        let mut actor = Self {
            guest,
            session,
            exports,
            caught: None,
        };
        actor.load();
        actor.guest.registers.gpr[1] = OBJECT;
        actor.guest.hit(&actor.session, INSERT);
        assert!(actor.session.report(&power_off()).watch.not_armed.is_none());
        actor
    }

    /// Puts the modules into the guest's list.
    fn load(&mut self) {
        let head = KERNEL + u64::from(list_rva());
        let modules = [
            ("ntoskrnl.exe", KERNEL),
            ("storport.sys", PORT_DRIVER),
            ("target.sys", DRIVER),
            ("other.sys", OTHER),
        ];
        let entry = |index: usize| HEAP + 0x30_0000 + 0x2000 * index as u64;
        let mut space = self.guest.space.borrow_mut();
        for (index, (name, base)) in modules.iter().enumerate() {
            let at = entry(index);
            let next = if index + 1 == modules.len() {
                head
            } else {
                entry(index + 1)
            };
            let before = index.checked_sub(1).map_or(head, entry);
            let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            space.write(at, &[0; 0x100]);
            space.write(at + 0x1000, &utf16);
            let length = utf16.len() as u64;
            for (offset, value) in [
                (0, next),
                (8, before),
                (0x30, *base),
                (0x40, 0x4000),
                (0x58, length | length << 16),
                (0x60, at + 0x1000),
            ] {
                space.write_u64(at + offset, value);
            }
        }
        space.write_u64(head, entry(0));
        space.write_u64(head + 8, entry(modules.len() - 1));
    }

    fn act(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words = Words::new(rest);
        match verb {
            "memory" => {
                for word in rest.split_whitespace() {
                    let (address, value) = word.split_once('=').unwrap();
                    let address = HEAP + number(address);
                    self.guest.space.borrow_mut().write_u64(address, number(value));
                }
            }
            "call" => self.call(rest, &words),
            "initialize" => self.initialize(rest),
            "configure" => self.configure(&words),
            "tell" => self.tell(rest, &words),
            "return" => {
                let (cookie, place) = self.caught.take().expect("a return that is waited for");
                self.guest.registers.rip = place;
                self.guest.registers.gpr[0] = words.need("eax");
                self.guest.registers.gpr[4] += 8;
                self.guest.special.cr8 = words.need("irql");
                self.session.handle(&mut self.guest, CpuStop::CaughtReturn(cookie));
            }
            "stop" => self.stop(rest, &words),
            other => panic!("no verb: {other}"),
        }
    }

    fn call(&mut self, rest: &str, words: &Words<'_>) {
        let mut names = rest.split_whitespace().filter(|word| !word.contains('='));
        let name = names.next().unwrap();
        let routine = Routine::ALL.iter().find(|routine| routine.to_string() == name);
        let row = contract(*routine.unwrap_or_else(|| panic!("no routine {name}")));
        assert_eq!(names.next(), Some("at"), "{rest}");
        let frames: Vec<u64> = names.filter(|word| *word != "from").map(code_address).collect();
        self.stand(words, &frames);
        let entry = self.exports[&(row.module, row.export)];
        // call entry
        let site = frames[0] - 5;
        let distance = i32::try_from(entry.wrapping_sub(frames[0]).cast_signed()).unwrap();
        self.guest
            .space
            .borrow_mut()
            .write(site, &[&[0xe8][..], &distance.to_le_bytes()].concat());
        self.operands(row, words);
        self.guest.registers.rip = entry;
        let breakpoint = self
            .guest
            .breakpoints
            .iter()
            .find(|breakpoint| breakpoint.address == entry)
            .copied();
        let breakpoint = breakpoint.unwrap_or_else(|| panic!("{name} is not watched"));
        let action = self.session.handle(&mut self.guest, CpuStop::Breakpoint(breakpoint.id));
        self.caught = match action {
            Action::CatchReturn {
                cookie, return_address, ..
            } => Some((cookie, return_address)),
            _ => None,
        };
    }

    /// The driver registers callbacks: fields of HW_INITIALIZATION_DATA with offsets of functions.
    fn initialize(&mut self, rest: &str) {
        let data = HEAP + 0x7_0000;
        {
            let mut space = self.guest.space.borrow_mut();
            space.write(data, &[0; 0x100]);
            space.write(data, &[0xd0, 0, 0, 0]);
            for word in rest.split_whitespace() {
                let (field, function) = word.split_once('=').unwrap();
                space.write_u64(data + number(field), DRIVER + number(function));
            }
        }
        (self.guest.registers.gpr[1], self.guest.registers.gpr[8]) = (OBJECT, data);
        self.reach(PORT_DRIVER + u64::from(INITIALIZE));
    }

    /// Its HwStorFindAdapter has this in its PORT_CONFIGURATION_INFORMATION.
    fn configure(&mut self, words: &Words<'_>) {
        let configuration = HEAP + 0x7_1000;
        {
            let mut space = self.guest.space.borrow_mut();
            space.write(configuration, &[0; 0x100]);
            space.write(configuration + 0x94, &(words.need("model") as u32).to_le_bytes());
            space.write(configuration + 0xa0, &(words.need("mode") as u32).to_le_bytes());
            if let Some(routine) = words.get("message") {
                space.write_u64(configuration + 0x98, DRIVER + routine);
            }
            space.write_u64(STACK + 0x28, configuration);
        }
        (self.guest.registers.gpr[1], self.guest.registers.gpr[4]) = (HEAP + 0x6_0000, STACK);
        self.reach(DRIVER + words.need("find"));
    }

    /// The driver calls an export of the port driver for something that is no lock call.
    fn tell(&mut self, rest: &str, words: &Words<'_>) {
        let mut names = rest.split_whitespace().filter(|word| !word.contains('='));
        let export = names.next().unwrap();
        let frames: Vec<u64> = names.filter(|word| *word != "at").map(code_address).collect();
        self.stand(words, &frames);
        self.guest.registers.gpr[1] = words.need("code");
        self.guest.registers.gpr[2] = words.get("adapter").map_or(0, |adapter| HEAP + adapter);
        let routine = words.get("routine").map_or(0, |routine| DRIVER + routine);
        (self.guest.registers.gpr[8], self.guest.registers.gpr[9]) = (routine, routine);
        if words.get("data").is_some() {
            self.guest.registers.gpr[9] = words.address("data");
        }
        let mut rows = contracts_of_export(SystemModule::Storport, export);
        let address = self.exports[&(SystemModule::Storport, rows.next().unwrap().export)];
        self.reach(address);
    }

    /// The machine has stopped for good, with a processor in the first function of a line; that has no frame.
    fn stop(&mut self, rest: &str, words: &Words<'_>) {
        let names = rest.split_whitespace().filter(|word| !word.contains('='));
        let mut frames = names.filter(|word| !matches!(*word, "at" | "from")).map(code_address);
        let rip = frames.next().unwrap();
        self.stand(words, &frames.collect::<Vec<_>>());
        self.guest.registers.rip = rip;
        self.session.look(&mut self.guest);
    }

    /// A processor comes to a place that is waited for.
    fn reach(&mut self, address: u64) {
        let mut breakpoints = self.guest.breakpoints.iter();
        let breakpoint = breakpoints.find(|breakpoint| breakpoint.address == address);
        let id = breakpoint.unwrap_or_else(|| panic!("nothing waits at {address:#x}")).id;
        self.guest.registers.rip = address;
        self.session.handle(&mut self.guest, CpuStop::Breakpoint(id));
    }

    /// Puts a processor and a thread in place, with return addresses on its stack.
    fn stand(&mut self, words: &Words<'_>, frames: &[u64]) {
        let cpu = words.get("cpu").unwrap_or(0);
        let stack = STACK + PROCESSOR * cpu - words.get("deeper").unwrap_or(0);
        let control = KPCR + PROCESSOR * cpu;
        self.guest.index = cpu as u32;
        self.guest.registers.gpr[4] = stack;
        self.guest.registers.rflags = 0x202;
        self.guest.special.gs_base = control;
        self.guest.special.cr8 = words.need("irql");
        let mut space = self.guest.space.borrow_mut();
        space.write(stack, &[0; 0x200]);
        space.write_u64(control + 0x188, THREAD + 0x1000 * words.get("thread").unwrap_or(cpu));
        for (number, frame) in frames.iter().enumerate() {
            space.write_u64(stack + (FRAME + 8) * number as u64, *frame);
        }
    }

    /// Puts the arguments where the contract has them.
    fn operands(&mut self, row: &Contract, words: &Words<'_>) {
        if let Some(selector) = row.selector {
            self.put(selector.place, selector.value.into());
        }
        let word = |actor: &mut Self, lock: u64| {
            if let Some(value) = words.get("word") {
                actor.guest.space.borrow_mut().write_u64(lock, value);
            }
        };
        match row.operands {
            OperandPlaces::Address(place) | OperandPlaces::Interrupt(place) => {
                self.put(place, words.address("lock"));
                word(self, words.address("lock"));
            }
            OperandPlaces::Queued { lock, handle } => {
                self.put(lock, words.address("lock"));
                self.put(handle, words.address("handle"));
                word(self, words.address("lock"));
            }
            OperandPlaces::QueuedHandle(handle) => self.put(handle, words.address("handle")),
            OperandPlaces::StorPort {
                adapter,
                kind,
                context,
                handle,
            } => {
                self.put(adapter, words.address("adapter"));
                self.put(kind, words.need("kind"));
                self.put(context, words.address("context"));
                self.put(handle, words.address("handle"));
            }
            OperandPlaces::StorPortHandle { adapter, handle } => {
                self.put(adapter, words.address("adapter"));
                self.put(handle, words.address("handle"));
            }
            OperandPlaces::Msi { adapter, message } => {
                self.put(adapter, words.address("adapter"));
                self.put(message, words.need("message"));
            }
            OperandPlaces::Cancel => {}
        }
        if let Some(place) = row.old_irql {
            self.put(place, words.get("old").unwrap_or(0));
        }
    }

    fn put(&mut self, place: Place, value: u64) {
        match place {
            Place::Register(register) | Place::Narrow(register, _) => {
                let number = match register {
                    Register::Rcx => 1,
                    Register::Rdx => 2,
                    Register::R8 => 8,
                    Register::R9 => 9,
                };
                self.guest.registers.gpr[number] = value;
            }
            Place::Stack(offset) => {
                let at = self.guest.registers.rsp() + u64::from(offset);
                self.guest.space.borrow_mut().write_u64(at, value);
            }
        }
    }
}

/// Plays a scene; its report.
pub(super) fn play(scene: &str) -> Report {
    play_to(scene, &power_off())
}

/// The same, of a run that has come to this end.
pub(super) fn play_to(scene: &str, end: &End) -> Report {
    let mut lines = scene.lines().map(|line| line.split('#').next().unwrap().trim());
    let mut lines = lines.by_ref().filter(|line| !line.is_empty());
    let head = lines.next().unwrap();
    let imports = head
        .strip_prefix("imports ")
        .unwrap_or_else(|| panic!("no imports: {head}"));
    let imports: Vec<&str> = imports.split_whitespace().collect();
    let mut actor = Actor::new(&imports, 2);
    lines.for_each(|line| actor.act(line));
    actor.session.report(end)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Name and text of every scene, by name.
pub(super) fn scenes() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(directory()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut scenes: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "scene"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    scenes.sort();
    scenes
}

/// Compares with the file, or writes it if that is asked for; says what differs.
fn golden(name: &str, found: &str) -> Option<String> {
    let path = directory().join(name);
    if std::env::var_os("STORLOCK_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
        return None;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    (expected != found).then(|| format!("golden/{name}: expected\n{expected}\nfound\n{found}"))
}

#[test]
fn every_scene_is_reported_word_for_word() {
    let mut different = Vec::new();
    for (name, scene) in scenes() {
        let report = play(&scene);
        let violations: String = report.findings.iter().map(text::finding).collect();
        different.extend(golden(&format!("{name}.txt"), &violations));
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_rule_has_a_scene_for_each_cause_that_it_can_name() {
    let shown: BTreeSet<(&str, &str)> = scenes()
        .iter()
        .flat_map(|(_, scene)| play(scene).findings)
        .map(|Finding { rule, cause, .. }| (rule.meta().name, cause.name()))
        .collect();
    let wanted = RuleId::ALL.iter().flat_map(|rule| {
        let meta = rule.meta();
        meta.causes.iter().map(|cause| (meta.name, cause.name()))
    });
    let missing: Vec<_> = wanted.filter(|pair| !shown.contains(pair)).collect();
    assert!(missing.is_empty(), "no scene in golden/ shows {missing:?}");
}

#[test]
fn the_report_for_programs_keeps_its_form() {
    let mut report = play(&std::fs::read_to_string(directory().join("released_twice.scene")).unwrap());
    report.tool_version = "0".to_owned();
    let mut json = Vec::new();
    crate::report::json::Json.render(&report, &mut json).unwrap();
    let json = String::from_utf8(json).unwrap();
    assert_eq!(golden("report.json", &json), None);
    // And it can be read back.
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn the_page_on_the_report_names_every_cause() {
    let page = std::fs::read_to_string(directory().join("../../docs/report.md")).unwrap();
    for cause in crate::report::Cause::ALL {
        let row = format!("| `{}` | {} |", cause.name(), cause.text());
        assert!(page.contains(&row), "docs/report.md lacks: {row}");
    }
}

#[test]
fn the_page_on_the_report_names_every_shortfall() {
    let page = std::fs::read_to_string(directory().join("../../docs/report.md")).unwrap();
    let row = page.lines().find(|line| line.starts_with("| `shortfall` |")).unwrap();
    for (name, _) in Shortfall::all().iter_names() {
        let word = format!("`{}`", name.to_lowercase());
        assert!(row.contains(&word), "docs/report.md lacks the shortfall {word}");
    }
}
