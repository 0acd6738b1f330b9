//! A disk that is full ends a transfer with an error that says so on both
//! sides, and leaves what the next attempt goes on with.

mod common;
mod files;
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use files::{Scratch, code};
use pointsub::ErrorCode;
use pointsub::transfer::{ReceiveOptions, SendOptions};

const SIZE: usize = 8 << 20;

#[test]
fn a_full_file_system() {
    if let Some((_, dir)) = common::role() {
        return on_a_small_file_system(Path::new(&dir));
    }
    common::within(60, || {
        let scratch = Scratch::new("full");
        let mount = scratch.path().join("mount");
        fs::create_dir(&mount).expect("a directory");
        // Room for the ballast and half of the file.
        let script =
            format!("mount -t tmpfs -o size=12m none '{0}' && exec \"$0\" \"$@\"", mount.display());
        let me = common::child("a_full_file_system", "small", &mount.display().to_string());
        let mut namespace = Command::new("unshare");
        namespace.args(["-Urm", "sh", "-c", &script]).arg(me.get_program()).args(me.get_args());
        namespace.envs(me.get_envs().filter_map(|(name, value)| Some((name, value?))));
        namespace.stdin(Stdio::null()).stdout(Stdio::null());
        if !can_mount(&mount) {
            println!("a user namespace with a tmpfs is not permitted on this machine");
            return;
        }
        assert!(namespace.status().expect("unshare").success());
    });
}

fn can_mount(at: &Path) -> bool {
    let script = format!("mount -t tmpfs -o size=1m none '{}'", at.display());
    let tried = Command::new("unshare").args(["-Urm", "sh", "-c", &script]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

fn on_a_small_file_system(mount: &Path) {
    let scratch = Scratch::within(mount, "small");
    let ballast = mount.join("ballast");
    fs::write(&ballast, vec![1; 4 << 20]).expect("write");
    let outside = Scratch::new("outside");
    fs::write(outside.here("file"), support::bytes(5, SIZE)).expect("write");
    let attempt = || {
        files::both(
            |to| SendOptions::new().send_file(to, outside.here("file")),
            |from| ReceiveOptions::new().receive_into_dir(from, scratch.there("")),
        )
    };
    fs::write(mount.join("more"), vec![1; 4 << 20]).expect("write");
    for _ in 0..3 {
        let (sent, received) = attempt();
        let message = sent.as_ref().expect_err("it does not fit").to_string();
        assert!(message.contains("No space left"), "{message}");
        assert_eq!(code(sent), ErrorCode::StorageFull);
        assert_eq!(code(received), ErrorCode::StorageFull);
        assert_eq!(scratch.arrived(), ["file.part", "file.part.check"]);
    }
    fs::remove_file(&ballast).expect("remove");
    fs::remove_file(mount.join("more")).expect("remove");
    let (sent, received) = attempt();
    let moved = sent.expect("send").moved;
    assert_eq!(moved, received.expect("receive").moved);
    assert!(moved <= 5 << 20, "{moved} bytes were sent again");
    assert!(fs::read(scratch.there("file")).expect("read") == support::bytes(5, SIZE));
}

/// Where no file system can be made, a limit on the size of files does as well.
#[test]
fn a_limit_on_the_size_of_files() {
    if let Some((role, dir)) = common::role() {
        return under_a_limit(&role, Path::new(&dir));
    }
    common::within(60, || {
        let scratch = Scratch::new("limit");
        fs::write(scratch.here("file"), support::bytes(5, SIZE)).expect("write");
        for (role, limit) in [("limited", "ulimit -f 8192; trap '' XFSZ;"), ("free", "")] {
            let dir = scratch.path().display().to_string();
            let me = common::child("a_limit_on_the_size_of_files", role, &dir);
            let mut limited = Command::new("sh");
            limited.args(["-c", &format!("{limit} exec \"$0\" \"$@\"")]);
            limited.arg(me.get_program()).args(me.get_args());
            limited.envs(me.get_envs().filter_map(|(name, value)| Some((name, value?))));
            limited.stdin(Stdio::null()).stdout(Stdio::null());
            assert!(limited.status().expect("sh").success(), "{role}");
        }
        assert!(fs::read(scratch.there("file")).expect("read") == support::bytes(5, SIZE));
    });
}

fn under_a_limit(role: &str, dir: &Path) {
    let (sent, received) = files::both(
        |to| SendOptions::new().send_file(to, dir.join("here/file")),
        |from| ReceiveOptions::new().receive_into_dir(from, dir.join("there")),
    );
    if role == "limited" {
        assert_eq!(code(sent), ErrorCode::StorageFull);
        assert_eq!(code(received), ErrorCode::StorageFull);
    } else {
        let moved = sent.expect("send").moved;
        assert_eq!(moved, received.expect("receive").moved);
        assert!(moved <= 5 << 20, "{moved} bytes were sent again");
    }
}
