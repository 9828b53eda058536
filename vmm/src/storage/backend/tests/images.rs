//! Tests of which images are opened, and of the messages for those that are refused.

use std::os::unix::fs::symlink;

use super::*;

/// Creates an image by qemu-img with the options after `create`.
fn create(directory: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = directory.join(name);
    let mut all = vec!["create"];
    all.extend(arguments);
    all.extend([text(&path), "1M"]);
    qemu_img(&all);
    path
}

#[test]
fn foreign_formats_are_refused_with_the_command_that_converts_them() {
    let directory = directory();
    let monolithic = ["-f", "vmdk", "-o", "subformat=monolithicSparse"];
    for (name, arguments, format) in [
        ("disk.vhd", &["-f", "vpc"][..], "vpc"),
        ("fixed.vhd", &["-f", "vpc", "-o", "subformat=fixed"], "vpc"),
        ("disk.vhdx", &["-f", "vhdx"], "vhdx"),
        ("disk.vdi", &["-f", "vdi"], "vdi"),
        ("sparse.vmdk", &monolithic, "vmdk"),
        // A wrong name hides none of them.
        ("disk.img", &["-f", "vhdx"], "vhdx"),
        ("fixed.img", &["-f", "vpc", "-o", "subformat=fixed"], "vpc"),
    ] {
        let path = create(directory.path(), name, arguments);
        let message = refused(&path, &ImageOptions::default());
        let advice = format!(
            "qemu-img convert -f {format} -O qcow2 '{0}' '{0}.qcow2'",
            path.display()
        );
        assert!(message.contains(&advice), "{message}");
        // The advice works.
        let converted = path.with_extension("converted.qcow2");
        qemu_img(&["convert", "-f", format, "-O", "qcow2", text(&path), text(&converted)]);
        assert!(writable(&converted).len() >= MEBIBYTE);
    }
}

#[test]
fn a_format_is_never_chosen_by_the_contents() {
    let directory = directory();
    let image = qcow2(directory.path(), MEBIBYTE);
    let disguised = directory.path().join("guest.img");
    fs::copy(&image, &disguised).unwrap();
    File::options()
        .write(true)
        .open(&disguised)
        .unwrap()
        .set_len(16384)
        .unwrap();
    let message = refused(&disguised, &ImageOptions::default());
    assert!(
        message.contains("say format=qcow2") && message.contains("format=raw"),
        "{message}"
    );
    let with = |format| ImageOptions {
        format: Some(format),
        ..read_only()
    };
    assert_eq!(opened(&disguised, &with(ImageFormat::Qcow2)).len(), MEBIBYTE);
    assert_eq!(opened(&disguised, &with(ImageFormat::Raw)).len(), 16384);
    let misnamed = directory.path().join("raw.qcow2");
    File::create(&misnamed).unwrap().set_len(4096).unwrap();
    assert!(refused(&misnamed, &ImageOptions::default()).contains("raw image"));
}

#[test]
fn a_vmdk_is_only_read_or_lies_under_another_image() {
    let directory = directory();
    let source = raw(directory.path(), MEBIBYTE);
    writable(&source).write(8192, &[4; 512]).unwrap();
    let vmdk = vmdk_of(directory.path(), &source);
    assert!(refused(&vmdk, &ImageOptions::default()).contains("say snapshot"));
    let mut disk = opened(&vmdk, &read_only());
    assert!(all(&mut disk) == fs::read(&source).unwrap());
    drop(disk);
    let top = directory.path().join("top.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", "disk.vmdk", "-F", "vmdk", text(&top)]);
    let mut disk = writable(&top);
    disk.write(0, &[8; 512]).unwrap();
    let bytes = all(&mut disk);
    assert!(bytes[..512] == [8; 512] && bytes[8192..8704] == [4; 512]);
    drop(disk);
    // The file with the data is held to the same rules as a backing file.
    fs::write(
        &vmdk,
        fs::read_to_string(&vmdk)
            .unwrap()
            .replace("disk-flat.vmdk", "/etc/passwd"),
    )
    .unwrap();
    assert!(refused(&vmdk, &read_only()).contains("not below the image's directory"));
}

#[test]
fn a_backing_file_elsewhere_is_the_users_choice() {
    let directory = directory();
    let (here, there) = (directory.path().join("here"), directory.path().join("there"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    let base = raw(&there, MEBIBYTE);
    writable(&base).write(0, &[3; 512]).unwrap();
    let top = here.join("top.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", text(&base), "-F", "raw", text(&top)]);
    let message = refused(&top, &ImageOptions::default());
    assert!(
        message.contains(&format!("say backing={}", base.display())),
        "{message}"
    );
    // Nor by a link that leads out of the directory.
    symlink(&base, here.join("link.img")).unwrap();
    qemu_img(&["rebase", "-u", "-b", "link.img", "-F", "raw", text(&top)]);
    assert!(refused(&top, &ImageOptions::default()).contains("not below the image's directory"));
    let chosen = ImageOptions {
        backing: Some(base.clone()),
        ..ImageOptions::default()
    };
    assert!(all(&mut opened(&top, &chosen))[..512] == [3; 512]);
    assert!(refused(&base, &chosen).contains("has no backing file"));
}

#[test]
fn a_chain_is_followed_and_one_that_goes_round_is_not() {
    let directory = directory();
    let base = raw(directory.path(), MEBIBYTE);
    writable(&base).write(512, &[7; 512]).unwrap();
    let (one, two) = (directory.path().join("one.qcow2"), directory.path().join("two.qcow2"));
    qemu_img(&["create", "-f", "qcow2", "-b", "disk.img", "-F", "raw", text(&one)]);
    qemu_img(&["create", "-f", "qcow2", "-b", "one.qcow2", "-F", "qcow2", text(&two)]);
    assert!(all(&mut writable(&two))[512..1024] == [7; 512]);
    qemu_img(&["rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", text(&one)]);
    // One that is written, too: it holds its own lock by then.
    for options in [read_only(), ImageOptions::default()] {
        let error = settled(&two, &options).unwrap_err();
        assert!(
            matches!(&error, OpenError::OnItself { path, .. } if *path == two),
            "{error}"
        );
    }
    qemu_img(&["rebase", "-u", "-b", "one.qcow2", "-F", "qcow2", text(&one)]);
    let message = refused(&one, &ImageOptions::default());
    assert!(message.contains("is built on itself"), "{message}");
}

#[test]
fn features_that_are_not_supported_are_refused_with_advice_and_the_file_is_not_changed() {
    let directory = directory();
    let secret = "secret,id=s,data=abc";
    let encrypted = [
        "--object",
        secret,
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s",
    ];
    let data = format!("data_file={},data_file_raw=on", directory.path().join("data").display());
    for (name, arguments, why) in [
        ("old.qcow2", &["-f", "qcow2", "-o", "compat=0.10"][..], "qemu-img amend"),
        ("encrypted.qcow2", &encrypted, "is encrypted"),
        ("data.qcow2", &["-f", "qcow2", "-o", &data], "in another file"),
        (
            "extended.qcow2",
            &["-f", "qcow2", "-o", "extended_l2=on"],
            "not known here",
        ),
    ] {
        let path = create(directory.path(), name, arguments);
        let before = fs::read(&path).unwrap();
        let message = refused(&path, &ImageOptions::default());
        assert!(message.contains(why), "{message}");
        assert!(fs::read(&path).unwrap() == before, "{name}");
    }
    // An old one is read.
    assert_eq!(
        opened(&directory.path().join("old.qcow2"), &read_only()).len(),
        MEBIBYTE
    );
    // Found corrupt by QEMU.
    let corrupt = qcow2(directory.path(), MEBIBYTE);
    let mut bytes = fs::read(&corrupt).unwrap();
    bytes[79] |= 2;
    fs::write(&corrupt, &bytes).unwrap();
    assert!(refused(&corrupt, &ImageOptions::default()).contains("qemu-img check -r all"));
    assert!(fs::read(&corrupt).unwrap() == bytes);
}

#[test]
fn compressed_clusters_are_read_and_can_be_written_over() {
    let directory = directory();
    let source = raw(directory.path(), MEBIBYTE);
    writable(&source).write(0, &vec![6; 256 * 1024]).unwrap();
    let path = directory.path().join("compressed.qcow2");
    qemu_img(&["convert", "-c", "-O", "qcow2", text(&source), text(&path)]);
    let mut disk = writable(&path);
    let content = fs::read(&source).unwrap();
    assert!(all(&mut disk) == content);
    let mut bytes = vec![0; content.len()];
    disk.read_into(0, &pieces(&mut bytes)).unwrap();
    assert!(bytes == content);
    disk.write_from(1024, &pieces(&mut [6; 512])).unwrap();
    disk.write(512, &[1; 512]).unwrap();
    disk.discard(65536, 65536).unwrap();
    let bytes = all(&mut disk);
    assert!(bytes[..512] == [6; 512] && bytes[512..1024] == [1; 512] && bytes[1024..65536].iter().all(|&b| b == 6));
    drop(disk);
    qemu_img(&["check", text(&path)]);
    assert!(as_qemu_reads_it(&path) == bytes);
}

#[test]
fn headers_that_make_no_sense_are_refused_in_words() {
    let directory = directory();
    let good = fs::read(qcow2(directory.path(), MEBIBYTE)).unwrap();
    // Version, cluster size, L1 size and offset, refcount table offset, refcount order, header length.
    for (offset, value) in [
        (4, 9),
        (20, 3),
        (20, 60),
        (36, u32::MAX),
        (44, 7),
        (52, 3),
        (96, 40),
        (100, u32::MAX),
    ] {
        let mut bytes = good.clone();
        bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        let path = directory.path().join("bad.qcow2");
        fs::write(&path, &bytes).unwrap();
        let message = refused(&path, &ImageOptions::default());
        assert!(message.contains("is no sound qcow2 image"), "{offset}: {message}");
    }
    // The first entry of the refcount table, which is in the second cluster.
    let mut bytes = good.clone();
    bytes[4096..4104].fill(0);
    let path = directory.path().join("bad.qcow2");
    fs::write(&path, &bytes).unwrap();
    let message = refused(&path, &ImageOptions::default());
    assert!(message.contains("no references to its header"), "{message}");
    for (name, contents) in [
        (
            "empty.vmdk",
            "# Disk DescriptorFile\nversion=1\nRW 99999999999999999999 FLAT \"x\" 0\n",
        ),
        (
            "extent.vmdk",
            "# Disk DescriptorFile\nversion=1\nRW 8 SPARSE \"x.vmdk\"\n",
        ),
        ("version.vmdk", "# Disk DescriptorFile\nversion=77\nRW 8 ZERO\n"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, contents).unwrap();
        let message = refused(&path, &read_only());
        assert!(message.contains("is no sound vmdk image"), "{message}");
    }
}

#[test]
fn an_image_that_lacks_its_end_fails_the_reads_of_what_is_gone() {
    let directory = directory();
    let path = qcow2(directory.path(), MEBIBYTE);
    writable(&path).write(0, &vec![3; MEBIBYTE as usize]).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 256 * 1024)
        .unwrap();
    let mut disk = opened(&path, &read_only());
    let mut block = [0; 512];
    disk.read(0, &mut block).unwrap();
    assert_eq!(block, [3; 512]);
    let lost = disk.read(MEBIBYTE - 512, &mut block);
    assert!(matches!(lost, Err(BackendError::Io(_))), "{lost:?}");
}

#[test]
fn files_that_images_name_are_found_from_the_directory_of_the_image() {
    let directory = directory();
    let sub = directory.path().join("sub");
    fs::create_dir_all(sub.join("deep")).unwrap();
    let source = raw(&sub, MEBIBYTE);
    writable(&source).write(8192, &[4; 512]).unwrap();
    let vmdk = vmdk_of(&sub, &source);
    let top = sub.join("top.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "deep/middle.qcow2",
        "-F",
        "qcow2",
        "-u",
        text(&top),
        "1M",
    ]);
    let middle = sub.join("deep/middle.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.img",
        "-F",
        "raw",
        "-u",
        text(&middle),
        "1M",
    ]);
    fs::copy(&source, sub.join("deep/base.img")).unwrap();
    // A link to the image's directory, and one to the image beside it.
    symlink("sub", directory.path().join("linked")).unwrap();
    symlink("top.qcow2", sub.join("also.qcow2")).unwrap();
    symlink("disk.vmdk", sub.join("also.vmdk")).unwrap();
    let linked = directory.path().join("linked");
    let through = [
        linked.join("disk.vmdk"),
        linked.join("top.qcow2"),
        sub.join("also.vmdk"),
        sub.join("also.qcow2"),
    ];
    for path in through.iter().chain([&vmdk, &top]) {
        assert!(
            all(&mut opened(path, &read_only()))[8192..8704] == [4; 512],
            "{}",
            path.display()
        );
    }
    // Relative to the working directory, which is one for the whole process: hence in a child.
    for (directory, path) in [
        (directory.path(), "sub/disk.vmdk"),
        (directory.path(), "./sub/top.qcow2"),
        (&sub, "disk.vmdk"),
        (&sub, "top.qcow2"),
    ] {
        let mut child = hardship::child("read", Path::new(path));
        let output = child.current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
    }
}
