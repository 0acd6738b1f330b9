//! A receiver says that all is done once that is so, a power cut or not: seen by its
//! system calls, where `strace` is there to tell them.

#![cfg(target_os = "linux")]

mod common;
mod files;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use files::Scratch;

#[test]
fn a_file_that_was_there_already_is_synced_and_so_is_its_name() {
    let test = "a_file_that_was_there_already_is_synced_and_so_is_its_name";
    if let Some((_, dir)) = common::role() {
        return send_again(Path::new(&dir));
    }
    common::within(60, || {
        let scratch = Scratch::within(&std::env::temp_dir(), "done");
        fs::write(scratch.here("file"), "content").expect("write");
        fs::write(scratch.there("file"), "content").expect("write");
        let log = scratch.path().join("log");
        let me = common::child(test, "both", &scratch.path().display().to_string());
        let mut traced = Command::new("strace");
        traced.args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"]).arg(&log);
        traced.arg(me.get_program()).args(me.get_args());
        traced.envs(me.get_envs().filter_map(|(name, value)| Some((name, value?))));
        match traced.status() {
            Ok(status) if status.success() => {}
            _ => return println!("strace is not there, or may not trace"),
        }
        let log = fs::read_to_string(log).expect("what strace says");
        for path in [scratch.there("file"), scratch.path().join("there")] {
            // fsync(7</tmp/there/file>) = 0
            let path = format!("<{}>", path.display());
            let is_synced = |line: &str| line.contains("sync(") && line.contains(&path);
            assert!(log.lines().any(is_synced), "{path} is not synced:\n{log}");
        }
    });
}

/// In the child, which is traced.
fn send_again(dir: &Path) {
    let (sent, received) = files::both(
        |to| pointsub::transfer::send_file(to, dir.join("here/file")),
        |from| pointsub::transfer::receive_into_dir(from, dir.join("there")),
    );
    assert_eq!((sent.expect("send").moved, received.expect("receive").moved), (0, 0));
}
