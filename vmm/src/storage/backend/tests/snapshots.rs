//! A snapshot never touches the image, and has a limit.

use super::*;

#[test]
fn a_snapshot_leaves_every_format_as_it_was() {
    let directory = directory();
    let images = [raw(directory.path(), MEBIBYTE), qcow2(directory.path(), MEBIBYTE)];
    for path in &images {
        writable(path).write(4096, &[9; 4096]).unwrap();
    }
    let vmdk = vmdk_of(directory.path(), &images[0]);
    for path in images.iter().chain([&vmdk]) {
        // Nobody may write it, not even by mistake.
        let mut permissions = fs::metadata(path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(path, permissions).unwrap();
        let before = (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
        let mut disk = opened(path, &snapshot(MEBIBYTE));
        assert!(!disk.is_read_only());
        disk.write(4096, &[1; 512]).unwrap();
        disk.discard(4608, 512).unwrap();
        disk.flush().unwrap();
        let bytes = all(&mut disk);
        assert!(bytes[4096..4608] == [1; 512] && bytes[4608..5120] == [0; 512] && bytes[5120..8192] == [9; 3072]);
        drop(disk);
        let after = (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
        assert!(before == after, "{}", path.display());
        let mut disk = opened(path, &snapshot(MEBIBYTE));
        assert!(all(&mut disk)[4096..8192] == [9; 4096], "the changes are gone");
    }
}

#[test]
fn a_snapshot_that_is_full_refuses_writes_and_still_reads() {
    let directory = directory();
    let path = raw(directory.path(), 64 * MEBIBYTE);
    let mut disk = opened(&path, &snapshot(2 * MEBIBYTE));
    let mut written = 0;
    let error = loop {
        match disk.write(written, &vec![5; 65536]) {
            Ok(()) => written += 65536,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BackendError::NoSpace), "{error}");
    // Header, tables and refcounts take some of it.
    assert!((MEBIBYTE..2 * MEBIBYTE).contains(&written), "{written}");
    disk.flush().unwrap();
    let bytes = all(&mut disk);
    assert!(bytes[..written as usize].iter().all(|&byte| byte == 5));
    assert!(bytes[written as usize..].iter().all(|&byte| byte == 0));
    // What is there can be written again.
    disk.write(0, &vec![6; 65536]).unwrap();
}
