//! `--disk`: where an emulated disk keeps its data, and how.

use std::str::FromStr;

use storlock_vmm::storage::backend::ImageOptions;
use storlock_vmm::storage::{CONTROLLERS, ControllerKind};

use super::options::Size;
use crate::machine::{Disk, DiskPlace};

/// Largest overlay of a snapshot for which no size was given, in bytes.
const SNAPSHOT_LIMIT: u64 = 16 << 30;

/// Help of the option.
pub(super) fn help() -> String {
    let kinds = CONTROLLERS.iter().enumerate().map(|(index, kind)| {
        let default = if index == 0 { " [default]" } else { "" };
        format!("\n                      {}: {}{default}", kind.name, kind.help)
    });
    HELP.replace("{controllers}", &kinds.collect::<String>())
}

const HELP: &str = "\
What an emulated disk keeps its data in; may be given several times.

Each disk has a controller of its own; the driver under test is meant for that of the first one, or of the one with
`target`. FILE is a disk image by its name: .qcow2, .vmdk (flat, read only), else raw. A comma in it is written twice.

  mem:SIZE          memory, all zeroes at first and gone after the run; without FILE and image options
  format=FORMAT     raw, qcow2 or vmdk, whatever the name says
  readonly          the guest cannot write
  snapshot[=SIZE]   keep changes in a temporary file of at most SIZE (16G) and never touch FILE; gone after the run
  backing=FILE      backing file of a qcow2 image instead of the one that it names, and wherever it is
  controller=KIND   the kind of controller:{controllers}
  namespace         no controller of its own: one more namespace of the controller of the disk before it
  target            the controller that the driver under test is meant for; --fault is about this one

Example: --disk win.qcow2,snapshot --disk scratch.img,target";

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = words(text).into_iter();
        let place = words.next().unwrap_or_default();
        let (mut target, mut namespace, mut controller) = (false, false, None);
        let mut image = ImageOptions::default();
        let mut about_image = false;
        for word in words {
            let (key, value) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
            match (key, value) {
                ("target", None) => target = true,
                ("namespace", None) => namespace = true,
                ("controller", name) => controller = Some(kind(name.unwrap_or_default())?),
                _ => {
                    about_image = true;
                    image_option(&mut image, key, value)?;
                }
            }
        }
        if image.read_only && image.snapshot.is_some() {
            return Err("readonly and snapshot exclude each other: a snapshot can be written".to_owned());
        }
        let place = match place.strip_prefix("mem:") {
            Some(_) if about_image => return Err("a disk in memory has no options of an image".to_owned()),
            Some(size) => size.parse().and_then(|Size(bytes)| DiskPlace::in_memory(bytes))?,
            None if place.is_empty() => return Err("it has to begin with a file or with mem:SIZE".to_owned()),
            None => DiskPlace::Image(place.into(), image),
        };
        Ok(Self {
            place,
            target,
            namespace,
            controller,
        })
    }
}

fn kind(name: &str) -> Result<&'static ControllerKind, String> {
    ControllerKind::named(name).ok_or_else(|| {
        let known: Vec<_> = CONTROLLERS.iter().map(|kind| kind.name).collect();
        format!("unknown kind of controller `{name}`: use {}", known.join(" or "))
    })
}

fn image_option(image: &mut ImageOptions, key: &str, value: Option<&str>) -> Result<(), String> {
    match (key, value) {
        ("readonly", None) => image.read_only = true,
        ("snapshot", None) => image.snapshot = Some(SNAPSHOT_LIMIT),
        ("snapshot", Some(size)) => image.snapshot = Some(size.parse::<Size>()?.0),
        ("format", Some(format)) => image.format = Some(format.parse()?),
        ("backing", Some(file)) if !file.is_empty() => image.backing = Some(file.into()),
        _ => {
            return Err(format!(
                "unknown option `{key}`: format=, readonly, snapshot, backing=, controller=, namespace or target (a comma in a \
                 file's name is written twice)"
            ));
        }
    }
    Ok(())
}

/// Splits at commas; two of them are one in a word.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use storlock_vmm::storage::backend::ImageFormat;

    use super::*;

    fn image(text: &str) -> (String, ImageOptions) {
        match text.parse::<Disk>().unwrap().place {
            DiskPlace::Image(path, options) => (path.display().to_string(), options),
            DiskPlace::Memory(_) => panic!("{text}"),
        }
    }

    #[test]
    fn a_disk_in_memory_has_whole_blocks_and_a_limit() {
        assert_eq!("mem:1M".parse::<Disk>().unwrap().place, DiskPlace::Memory(1 << 20));
        for size in ["mem:0", "mem:100", "mem:17G"] {
            let message = size.parse::<Disk>().unwrap_err();
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
        assert!("a,target".parse::<Disk>().unwrap().target);
        assert_eq!("a".parse::<Disk>().unwrap().controller, None);
        let named = "a,controller=nvme".parse::<Disk>().unwrap().controller;
        assert_eq!(named.map(|kind| kind.name), Some("nvme"));
        assert!("mem:1M,target".parse::<Disk>().unwrap().target);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "begin with a file"),
            (",readonly", "begin with a file"),
            ("a,readonly,snapshot", "exclude each other"),
            ("a,format=vhdx", "raw, qcow2 or vmdk"),
            ("a,controller=ahci", "unknown kind of controller `ahci`: use nvme"),
            ("a,controller", "unknown kind of controller ``"),
            ("a,snapshot=lots", "whole number"),
            ("a,backing=", "unknown option `backing`"),
            ("a,rw", "unknown option `rw`"),
            ("mem:1M,readonly", "no options of an image"),
        ] {
            let message = text.parse::<Disk>().unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }
}
