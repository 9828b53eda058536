//! The description of a disk (`--disk`): memory or an image, and its options.
//!
//! Talks to nothing. Both ways of writing a disk, as text and as fields, become a [`Form`], which is judged in one
//! place.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storlock_vmm::storage::backend::{ImageFormat, ImageOptions};
use storlock_vmm::storage::{BLOCK_SIZE, CONTROLLERS, ControllerKind, DiskName};

use super::is_false;
use super::units::{FilePath, Size};
use crate::report::json::Object;

/// Largest overlay of a snapshot for which no size was given, in bytes.
const SNAPSHOT_LIMIT: u64 = 16 << 30;
/// PCI has 32 devices on a bus; the others are for what else a PC has.
const DISK_LIMIT: usize = 16;
/// What a disk in memory begins with, and a file of such a name.
const MEMORY: &str = "mem:";
const HERE: &str = "./";
/// Largest disk that is kept in memory, in bytes.
const DISK_MEMORY_LIMIT: u64 = 16 << 30;

/// Help of the option.
#[must_use]
pub fn help() -> String {
    let kinds = CONTROLLERS.iter().enumerate().map(|(index, kind)| {
        let default = if index == 0 { " [default]" } else { "" };
        format!("\n                      {}: {}{default}", kind.name, kind.help)
    });
    HELP.replace("{controllers}", &kinds.collect::<String>())
}

const HELP: &str = "\
An emulated disk: an image or memory, and options; may be given several times.

Each disk has its own controller. The driver under test drives the controller of the first disk, or of the disk with `target`. \
FILE is a disk image, and its name says the format: .qcow2, .vmdk (flat, read only), else raw. Write a comma in FILE twice.

  mem:SIZE          a disk in memory, zeroes at first, gone after the run;
                    takes no FILE and no options of images
  format=FORMAT     raw, qcow2 or vmdk, whatever the name says
  readonly          the guest cannot write
  snapshot[=SIZE]   keep changes in a temporary file of at most SIZE (16G),
                    gone after the run; FILE is never touched
  backing=FILE      the backing file of a qcow2 image, instead of the one
                    that the image names; it may lie anywhere
  controller=KIND   the kind of controller:{controllers}
  namespace         one more namespace of the NVMe controller of the disk
                    before it, instead of its own controller
  target=N          SCSI target identifier on a SAS controller; with N from 1
                    on, the disk joins the controller of the disk before it
  target            the driver under test drives this disk's controller, and
                    --fault injects faults into it

Example: --disk win.qcow2,snapshot --disk scratch.img,target";

/// An emulated disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Object<Form>", into = "Form")]
pub struct Disk {
    /// Where it keeps its data.
    pub place: DiskPlace,
    /// Its controller is the one that the driver under test is meant for.
    pub target: bool,
    /// It is one more namespace of the controller of the disk before it.
    pub namespace: bool,
    /// Its SCSI target identifier, if one is given: its place among the disks of its controller. From 1 on that is the one of
    /// the disk before it.
    pub(crate) scsi_target: Option<u64>,
    /// The kind of its controller, if one is named.
    pub controller: Option<&'static ControllerKind>,
}

impl Disk {
    /// Whether it has no controller of its own, but is one more disk of that of the disk before it.
    fn joins(&self) -> bool {
        self.namespace || self.scsi_target.is_some_and(|target| target > 0)
    }
}

/// The disks of each controller.
pub(in crate::run) fn by_controller(disks: &[Disk]) -> Vec<&[Disk]> {
    disks.chunk_by(|_, next| next.joins()).collect()
}

/// The kind of the controller that has these disks.
pub(in crate::run) fn kind(disks: &[Disk]) -> &'static ControllerKind {
    disks.first().and_then(|disk| disk.controller).unwrap_or(CONTROLLERS[0])
}

/// Which of the controllers is the target's.
pub(in crate::run) fn target(controllers: &[&[Disk]]) -> usize {
    let is_target = |disks: &&[Disk]| disks.iter().any(|disk| disk.target);
    controllers.iter().position(is_target).unwrap_or(0)
}

/// The kind of the controller that the driver under test is meant for.
#[must_use]
pub fn target_kind(disks: &[Disk]) -> &'static ControllerKind {
    let controllers = by_controller(disks);
    controllers
        .get(target(&controllers))
        .map_or(CONTROLLERS[0], |disks| kind(disks))
}

/// Where an emulated disk keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPlace {
    /// Memory of this size in bytes; gone after the run.
    Memory(u64),
    /// A disk image.
    Image(PathBuf, ImageOptions),
}

impl DiskPlace {
    /// A disk in memory.
    ///
    /// # Errors
    /// If it cannot have that size; the text says which sizes there are.
    pub(crate) fn in_memory(bytes: u64) -> Result<Self, String> {
        let block = u64::from(BLOCK_SIZE);
        if bytes == 0 || bytes % block != 0 || bytes > DISK_MEMORY_LIMIT {
            return Err(format!(
                "a disk in memory has a multiple of {block} bytes, up to 16G, not {bytes}"
            ));
        }
        Ok(Self::Memory(bytes))
    }
}

/// Whether a machine can have these disks together.
///
/// # Errors
/// Why not.
pub fn check_disks(disks: &[Disk]) -> Result<(), String> {
    if disks.len() > DISK_LIMIT {
        return Err(format!("a machine has at most {DISK_LIMIT} disks, not {}", disks.len()));
    }
    if disks.iter().filter(|disk| disk.target).count() > 1 {
        return Err("only one disk can be the target's".to_owned());
    }
    if disks.first().is_some_and(Disk::joins) {
        return Err("the first disk cannot belong to the controller of a disk before it".to_owned());
    }
    for disks in by_controller(disks) {
        let kind = kind(disks);
        if let Some(other) = disks
            .iter()
            .filter_map(|disk| disk.controller)
            .find(|other| *other != kind)
        {
            return Err(format!(
                "a disk with `namespace` or `target=N` has the controller of the disk before it, which is {}, not {}",
                kind.name, other.name
            ));
        }
        check_names(disks, kind)?;
        if disks.len() > kind.disk_limit {
            let (name, limit) = (kind.name, kind.disk_limit);
            return Err(format!(
                "an {name} controller has at most {limit} disks, not {}",
                disks.len()
            ));
        }
    }
    Ok(())
}

/// Whether the disks of a controller are called what that kind calls them.
fn check_names(disks: &[Disk], kind: &ControllerKind) -> Result<(), String> {
    let name = kind.name;
    for (index, disk) in (0..).zip(disks) {
        match (kind.disk, disk.scsi_target) {
            (DiskName::Namespace, Some(_)) => {
                return Err(format!(
                    "`target=N` is for controllers with SCSI targets, not for {name}"
                ));
            }
            (DiskName::Target, None) if index > 0 => {
                return Err(format!(
                    "`namespace` is not for {name}, where a further disk is `target={index}`"
                ));
            }
            (DiskName::Target, Some(target)) if target != index => {
                return Err(format!(
                    "`target={target}`: the identifiers of a controller's disks go up one by one; this one is {index}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A disk as it is written in a run's description: an option of `--disk` a field, `file` or `memory` before them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FilePath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    readonly: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<FilePath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    namespace: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scsi_target: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    target: bool,
}

impl Form {
    fn has_image_options(&self) -> bool {
        self.format.is_some() || self.readonly || self.snapshot.is_some() || self.backing.is_some()
    }
}

impl TryFrom<Object<Form>> for Disk {
    type Error = String;

    fn try_from(Object(form): Object<Form>) -> Result<Self, String> {
        form.try_into()
    }
}

impl TryFrom<Form> for Disk {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        if form.readonly && form.snapshot.is_some() {
            return Err("readonly and snapshot exclude each other: a snapshot can be written".to_owned());
        }
        let about_image = form.has_image_options();
        let place = match (form.memory, form.file) {
            (Some(_), None) if about_image => return Err("a disk in memory has no options of an image".to_owned()),
            (Some(Size(bytes)), None) => DiskPlace::in_memory(bytes)?,
            (None, Some(file)) => {
                let options = ImageOptions {
                    format: form.format.map(|format| format.parse()).transpose()?,
                    read_only: form.readonly,
                    snapshot: form.snapshot.map(|Size(bytes)| bytes),
                    backing: form.backing.map(|FilePath(path)| path),
                };
                DiskPlace::Image(file.0, options)
            }
            _ => return Err("a disk has either a `file` or `memory`".to_owned()),
        };
        Ok(Self {
            place,
            target: form.target,
            namespace: form.namespace,
            scsi_target: form.scsi_target,
            controller: form.controller.as_deref().map(named).transpose()?,
        })
    }
}

impl From<Disk> for Form {
    fn from(disk: Disk) -> Self {
        let form = Self {
            namespace: disk.namespace,
            scsi_target: disk.scsi_target,
            target: disk.target,
            controller: disk.controller.map(|kind| kind.name.to_owned()),
            ..Self::default()
        };
        match disk.place {
            DiskPlace::Memory(bytes) => Self {
                memory: Some(Size(bytes)),
                ..form
            },
            DiskPlace::Image(file, options) => Self {
                file: Some(file.into()),
                format: options.format.map(|format| format_name(format).to_owned()),
                readonly: options.read_only,
                snapshot: options.snapshot.map(Size),
                backing: options.backing.map(FilePath),
                ..form
            },
        }
    }
}

/// The kind of controller of that name.
fn named(name: &str) -> Result<&'static ControllerKind, String> {
    ControllerKind::named(name).ok_or_else(|| {
        let known: Vec<_> = CONTROLLERS.iter().map(|kind| kind.name).collect();
        format!("unknown kind of controller `{name}`: use {}", known.join(" or "))
    })
}

fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Vmdk => "vmdk",
    }
}

impl Disk {
    /// Reads what is written on the command line.
    ///
    /// # Errors
    /// Why it is no disk.
    pub fn read(text: &OsStr) -> Result<Self, String> {
        let mut words = words(text).into_iter();
        let place = words.next().unwrap_or_default();
        let mut form = Form::default();
        match place.to_str().and_then(|place| place.strip_prefix(MEMORY)) {
            Some(size) => form.memory = Some(size.parse()?),
            None if place.is_empty() => return Err("it has to begin with a file or with mem:SIZE".to_owned()),
            None if looks_like_memory(&place) => form.file = Some(path(&place.as_bytes()[HERE.len()..])),
            None => form.file = Some(path(place.as_bytes())),
        }
        let mut given = BTreeSet::new();
        for word in words {
            let mut parts = word.as_bytes().splitn(2, |byte| *byte == b'=');
            let key = parts.next().unwrap_or_default().to_owned();
            let has_value = parts.next().is_some();
            // `target` and `target=N` are two options.
            if !given.insert((key.clone(), key == b"target" && has_value)) {
                return Err(format!("`{}` is given twice", String::from_utf8_lossy(&key)));
            }
            form.take(&word)?;
        }
        form.try_into()
    }

    /// How the disk is written on the command line.
    #[must_use]
    pub(crate) fn written(&self) -> OsString {
        let mut text = OsString::new();
        match &self.place {
            DiskPlace::Memory(bytes) => text.push(format!("{MEMORY}{}", Size(*bytes))),
            DiskPlace::Image(file, options) => {
                if looks_like_memory(file.as_os_str()) {
                    text.push(HERE);
                }
                push_path(&mut text, file);
                if let Some(format) = options.format {
                    text.push(format!(",format={}", format_name(format)));
                }
                if options.read_only {
                    text.push(",readonly");
                }
                if let Some(bytes) = options.snapshot {
                    text.push(format!(",snapshot={}", Size(bytes)));
                }
                if let Some(backing) = &options.backing {
                    text.push(",backing=");
                    push_path(&mut text, backing);
                }
            }
        }
        if let Some(kind) = self.controller {
            text.push(format!(",controller={}", kind.name));
        }
        if self.namespace {
            text.push(",namespace");
        }
        if let Some(target) = self.scsi_target {
            text.push(format!(",target={target}"));
        }
        if self.target {
            text.push(",target");
        }
        text
    }
}

impl Form {
    /// Takes an option of `--disk`.
    fn take(&mut self, word: &OsStr) -> Result<(), String> {
        if let Some(file) = word
            .as_bytes()
            .strip_prefix(b"backing=")
            .filter(|file| !file.is_empty())
        {
            self.backing = Some(path(file));
            return Ok(());
        }
        let word = word.to_string_lossy();
        let (key, value) = word
            .split_once('=')
            .map_or((&*word, None), |(key, value)| (key, Some(value)));
        match (key, value) {
            ("target", None) => self.target = true,
            ("target", Some(number)) => {
                let number = number.parse();
                let number = number.map_err(|_| format!("`{word}`: a SCSI target identifier is a number"))?;
                self.scsi_target = Some(number);
            }
            ("namespace", None) => self.namespace = true,
            ("controller", name) => self.controller = Some(name.unwrap_or_default().to_owned()),
            ("readonly", None) => self.readonly = true,
            ("snapshot", None) => self.snapshot = Some(Size(SNAPSHOT_LIMIT)),
            ("snapshot", Some(size)) => self.snapshot = Some(size.parse()?),
            ("format", Some(format)) => self.format = Some(format.to_owned()),
            _ => {
                return Err(format!(
                    "unknown option `{key}`: format=, readonly, snapshot, backing=, controller=, namespace, target= or target (a \
                     comma in a file's name is written twice)"
                ));
            }
        }
        Ok(())
    }
}

/// Whether a file's name would be taken for memory. One `./` more is written before it then, and left out when it is
/// read.
fn looks_like_memory(file: &OsStr) -> bool {
    let mut name = file.as_bytes();
    while let Some(rest) = name.strip_prefix(HERE.as_bytes()) {
        name = rest;
    }
    name.starts_with(MEMORY.as_bytes())
}

fn path(bytes: &[u8]) -> FilePath {
    FilePath(OsStr::from_bytes(bytes).into())
}

/// Adds a path, each comma twice.
fn push_path(text: &mut OsString, path: &Path) {
    for (number, part) in path.as_os_str().as_bytes().split(|byte| *byte == b',').enumerate() {
        if number > 0 {
            text.push(",,");
        }
        text.push(OsStr::from_bytes(part));
    }
}

/// Splits at commas; two of them are one in a word.
fn words(text: &OsStr) -> Vec<OsString> {
    let (mut words, mut word) = (Vec::new(), Vec::new());
    let mut bytes = text.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            words.push(OsString::from_vec(std::mem::take(&mut word)));
        } else {
            word.push(byte);
        }
    }
    words.push(OsString::from_vec(word));
    words
}

#[cfg(test)]
mod tests {
    use storlock_vmm::storage::backend::ImageFormat;

    use super::*;

    fn image(text: &str) -> (String, ImageOptions) {
        match Disk::read(text.as_ref()).unwrap().place {
            DiskPlace::Image(path, options) => (path.display().to_string(), options),
            DiskPlace::Memory(_) => panic!("{text}"),
        }
    }

    #[test]
    fn a_disk_in_memory_has_whole_blocks_and_a_limit() {
        assert_eq!(Disk::read("mem:1M".as_ref()).unwrap().place, DiskPlace::Memory(1 << 20));
        for size in ["mem:0", "mem:100", "mem:17G"] {
            let message = Disk::read(size.as_ref()).unwrap_err();
            assert!(
                message.contains("a multiple of 512 bytes, up to 16G"),
                "{size}: {message}"
            );
        }
    }

    #[test]
    fn an_image_is_a_file_with_options() {
        assert_eq!(image("a.img"), ("a.img".to_owned(), ImageOptions::default()));
        let (path, options) = image("a,,b.img,controller=nvme,format=qcow2,readonly,backing=/x,,y");
        assert_eq!(path, "a,b.img");
        assert!(options.read_only && options.snapshot.is_none());
        assert_eq!(options.format, Some(ImageFormat::Qcow2));
        assert_eq!(options.backing, Some("/x,y".into()));
        assert_eq!(image("a,snapshot").1.snapshot, Some(16 << 30));
        assert_eq!(image("a,snapshot=1M").1.snapshot, Some(1 << 20));
        assert!(Disk::read("a,target".as_ref()).unwrap().target);
        assert_eq!(Disk::read("a".as_ref()).unwrap().controller, None);
        let named = Disk::read("a,controller=nvme".as_ref()).unwrap().controller;
        assert_eq!(named.map(|kind| kind.name), Some("nvme"));
        assert!(Disk::read("mem:1M,target".as_ref()).unwrap().target);
    }

    #[test]
    fn a_further_disk_of_a_controller_is_a_namespace_or_a_target() {
        let read = |text: &str| {
            let disk = Disk::read(text.as_ref())?;
            assert_eq!(Disk::read(&disk.written()).as_ref(), Ok(&disk));
            Ok::<_, String>((disk.joins(), disk.scsi_target, disk.target))
        };
        assert_eq!(read("a,namespace"), Ok((true, None, false)));
        assert_eq!(read("a,controller=sas"), Ok((false, None, false)));
        assert_eq!(read("a,controller=sas,target=0,target"), Ok((false, Some(0), true)));
        assert_eq!(read("a,target=3"), Ok((true, Some(3), false)));
        assert!(read("a,target=x").unwrap_err().contains("is a number"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "begin with a file"),
            (",readonly", "begin with a file"),
            ("a,readonly,snapshot", "exclude each other"),
            ("a,format=vhdx", "raw, qcow2 or vmdk"),
            (
                "a,controller=ahci",
                "unknown kind of controller `ahci`: use nvme or sas",
            ),
            ("a,controller", "unknown kind of controller ``"),
            ("a,snapshot=lots", "whole number"),
            ("a,backing=", "unknown option `backing`"),
            ("a,rw", "unknown option `rw`"),
            ("mem:1M,readonly", "no options of an image"),
            ("a,controller=sas,controller=nvme", "`controller` is given twice"),
            ("a,snapshot,snapshot=1M", "`snapshot` is given twice"),
            ("a,target=1,target,target=2", "`target` is given twice"),
            ("a,readonly,format=raw,readonly", "`readonly` is given twice"),
        ] {
            let message = Disk::read(text.as_ref()).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }
}
