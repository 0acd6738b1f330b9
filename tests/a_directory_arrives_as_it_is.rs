//! A directory arrives with all that is in it, joins what is there, and nothing
//! of it comes to stand anywhere else.

mod common;
mod files;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use files::trees::{assert_same, make_large, make_varied};
use files::{Scratch, both, code};
use pointsub::ErrorCode;
use pointsub::transfer::{ReceiveOptions, SendOptions};
use pointsub::transfer::{receive_file, receive_into_dir, send_dir, send_file};

#[test]
fn everything_in_it_arrives_with_modes_and_times() {
    common::within(60, || {
        let scratch = Scratch::new("varied");
        make_varied(&scratch.here("tree"));
        let (sent, received) = scratch.send("tree");
        let (sent, received) = (sent.expect("send"), received.expect("receive"));
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
        assert_eq!(scratch.arrived(), ["tree"]);
        assert_eq!(
            (sent.files, sent.bytes, sent.moved),
            (received.files, received.bytes, received.moved)
        );
        assert_eq!(sent.moved, sent.bytes);
        assert_eq!((sent.hash, received.hash), (None, None));
        assert_eq!(received.path, scratch.there("tree"));
    });
}

#[test]
fn directories_that_their_owner_may_not_change_arrive_so() {
    common::within(60, || {
        let scratch = Scratch::new("closed");
        let directories = ["tree/a/b", "tree/a", "tree"];
        fs::create_dir_all(scratch.here("tree/a/b")).expect("make");
        fs::write(scratch.here("tree/a/b/file"), "content").expect("write");
        let set = |path: PathBuf, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        };
        directories.into_iter().for_each(|name| set(scratch.here(name), 0o555));
        let (sent, received) = scratch.send("tree");
        sent.and(received).expect("the first");
        // As if the process had ended before the last step: it is gone on with.
        fs::rename(scratch.there("tree"), scratch.there("tree.part")).expect("rename");
        let check = scratch.there("tree.part.check");
        File::create(check).expect("a checkpoint, as a power cut may leave it");
        let (sent, received) = scratch.send("tree");
        assert_eq!((sent.expect("send").moved, received.expect("receive").moved), (0, 0));
        for name in directories {
            let mode = fs::metadata(scratch.there(name)).expect("stat").mode() & 0o777;
            assert_eq!(mode, 0o555, "{name}");
            set(scratch.there(name), 0o755);
            set(scratch.here(name), 0o755);
        }
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
        assert_eq!(scratch.arrived(), ["tree"]);
    });
}

#[test]
fn what_is_there_already_is_not_sent_again() {
    common::within(60, || {
        let scratch = Scratch::new("again");
        make_varied(&scratch.here("tree"));
        let (sent, received) = scratch.send("tree");
        sent.and(received).expect("the first");
        let (sent, received) = scratch.send("tree");
        assert_eq!((sent.expect("send").moved, received.expect("receive").moved), (0, 0));
        assert_same(&scratch.here("tree"), &scratch.there("tree"));

        // Only what is new.
        fs::write(scratch.here("tree/new"), "new").expect("write");
        fs::create_dir(scratch.here("tree/new directory")).expect("make");
        fs::write(scratch.here("tree/new directory/file"), "also").expect("write");
        fs::write(scratch.here("tree/empty/large"), support::bytes(8, 2 << 20)).expect("write");
        let allowed = ReceiveOptions::new().overwrite(true);
        let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &allowed);
        let new = 3 + 4 + (2 << 20);
        assert_eq!((sent.expect("send").moved, received.expect("receive").moved), (new, new));
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
        assert_eq!(scratch.arrived(), ["tree"]);

        // What only the receiver has stays.
        fs::remove_file(scratch.here("tree/new")).expect("remove");
        let (sent, received) = scratch.send("tree");
        sent.and(received).expect("again");
        assert_eq!(fs::read(scratch.there("tree/new")).expect("read"), b"new");
    });
}

#[test]
fn files_that_differ_are_replaced_only_with_permission() {
    common::within(60, || {
        for (name, content) in
            [("small", support::bytes(1, 100)), ("large", support::bytes(1, 3 << 20))]
        {
            for old in [support::bytes(2, content.len()), b"old".to_vec()] {
                let scratch = Scratch::new("differ");
                fs::create_dir_all(scratch.here("tree/sub")).expect("make");
                fs::create_dir_all(scratch.there("tree/sub")).expect("make");
                fs::write(scratch.here("tree/sub").join(name), &content).expect("write");
                fs::write(scratch.there("tree/sub").join(name), &old).expect("write");
                let (sent, received) = scratch.send("tree");
                assert_eq!(code(sent), ErrorCode::FileExists, "{name}");
                assert_eq!(code(received), ErrorCode::FileExists, "{name}");
                assert!(fs::read(scratch.there("tree/sub").join(name)).expect("read") == old);

                let allowed = ReceiveOptions::new().overwrite(true);
                let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &allowed);
                sent.and(received).expect("with permission");
                assert_same(&scratch.here("tree"), &scratch.there("tree"));
                assert_eq!(scratch.arrived(), ["tree"]);
            }
        }
    });
}

#[test]
fn directories_that_are_there_keep_their_modes_and_times_without_permission() {
    common::within(60, || {
        let scratch = Scratch::new("directories");
        let set = |path: &Path, mode: u32, seconds: u64| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            File::open(path).and_then(|dir| dir.set_modified(time)).expect("a time");
        };
        let make = |root: PathBuf, mode, seconds| {
            // The last of them its owner may not change.
            for (name, mode) in [("sub", mode), ("closed", mode & 0o577), ("", mode)] {
                fs::create_dir_all(root.join(name)).expect("make");
                set(&root.join(name), mode, seconds);
            }
        };
        make(scratch.here("tree"), 0o777, 1_000_000);
        make(scratch.there("tree"), 0o755, 2_000_000);
        let found = |path: PathBuf| {
            let found = fs::metadata(path).expect("stat");
            (found.mode() & 0o777, found.mtime())
        };
        let (sent, received) = scratch.send("tree");
        sent.and(received).expect("without permission");
        assert_eq!(found(scratch.there("tree")), (0o755, 2_000_000));
        assert_eq!(found(scratch.there("tree/sub")), (0o755, 2_000_000));
        assert_eq!(found(scratch.there("tree/closed")), (0o555, 2_000_000));

        let allowed = ReceiveOptions::new().overwrite(true);
        let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &allowed);
        sent.and(received).expect("with permission");
        assert_eq!(found(scratch.there("tree")), (0o777, 1_000_000));
        assert_eq!(found(scratch.there("tree/sub")), (0o777, 1_000_000));
        assert_eq!(found(scratch.there("tree/closed")), (0o577, 1_000_000));
    });
}

#[test]
fn links_and_other_things_in_the_way_are_not_followed() {
    common::within(60, || {
        let outside = Scratch::new("outside");
        let allowed = ReceiveOptions::new().overwrite(true);
        for in_the_way in ["tree", "tree/sub", "tree.part", "tree.part.check"] {
            let scratch = Scratch::new("in-the-way");
            fs::create_dir_all(scratch.here("tree/sub")).expect("make");
            fs::write(scratch.here("tree/sub/file"), "content").expect("write");
            if in_the_way.contains('/') {
                fs::create_dir(scratch.there("tree")).expect("make");
            }
            symlink(outside.there(""), scratch.there(in_the_way)).expect("link");
            for options in [ReceiveOptions::new(), allowed.clone()] {
                let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &options);
                assert_eq!(code(sent), ErrorCode::FileExists, "{in_the_way}");
                assert_eq!(code(received), ErrorCode::FileExists, "{in_the_way}");
                assert_eq!(outside.arrived(), [""; 0], "{in_the_way}");
            }
        }
        // A file where a directory should be, and the other way round.
        for (here, there) in [("tree/x", "tree/x/file"), ("tree/x/file", "tree/x")] {
            let scratch = Scratch::new("kinds");
            for path in [scratch.here(here), scratch.there(there)] {
                fs::create_dir_all(path.parent().expect("a parent")).expect("make");
                fs::write(path, "content").expect("write");
            }
            let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &allowed);
            assert_eq!(code(sent), ErrorCode::FileExists, "{here}");
            assert_eq!(code(received), ErrorCode::FileExists, "{here}");
            assert_eq!(fs::read(scratch.there(there)).expect("read"), b"content");
        }
    });
}

#[test]
fn links_that_lead_outside_need_permission() {
    common::within(60, || {
        let bad = ["/etc/passwd", "..", "../..", "sub/../..", "../x", "sub/up/../../.."];
        for target in bad {
            let scratch = Scratch::new("outside-links");
            fs::create_dir_all(scratch.here("tree")).expect("make");
            symlink(target, scratch.here("tree/link")).expect("link");
            let (sent, received) = scratch.send("tree");
            assert_eq!(code(sent), ErrorCode::Rejected, "{target}");
            assert_eq!(code(received), ErrorCode::Rejected, "{target}");
            assert!(!scratch.there("tree").exists());
            let allowed = ReceiveOptions::new().outside_links(true);
            let (sent, received) = scratch.send_with("tree", &SendOptions::new(), &allowed);
            sent.and(received).expect("with permission");
            assert_same(&scratch.here("tree"), &scratch.there("tree"));
        }
    });
}

#[test]
fn what_the_source_lost_since_an_attempt_does_not_arrive() {
    common::within(60, || {
        let scratch = Scratch::new("stale");
        make_varied(&scratch.here("tree"));
        // The attempt ends at the last of its files.
        symlink("/", scratch.here("tree/zzz")).expect("link");
        let (sent, received) = scratch.send("tree");
        assert_eq!((code(sent), code(received)), (ErrorCode::Rejected, ErrorCode::Rejected));
        for (name, make_directory) in [("size-1023", true), ("deep/file 3", false), ("zzz", false)]
        {
            fs::remove_file(scratch.here("tree").join(name)).expect("remove");
            if make_directory {
                fs::create_dir(scratch.here("tree").join(name)).expect("make");
            }
        }
        fs::remove_dir_all(scratch.here("tree/deep/er")).expect("remove");
        fs::write(scratch.here("tree/deep/er"), "now a file").expect("write");
        fs::write(scratch.here("tree/size-1"), "x").expect("write");
        let (sent, received) = scratch.send("tree");
        sent.and(received).expect("the second");
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
        assert_eq!(scratch.arrived(), ["tree"]);
    });
}

#[test]
fn many_small_files_and_some_large_ones_arrive() {
    common::within(60, || {
        let scratch = Scratch::new("many");
        make_large(&scratch.here("tree"), 3000, 24 << 20, 5);
        let options = SendOptions::new().block_size(64 << 10);
        let (sent, received) = scratch.send_with("tree", &options, &ReceiveOptions::new());
        assert_eq!(sent.expect("send").files, 3000);
        assert_eq!(received.expect("receive").files, 3000);
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
    });
}

#[test]
fn what_cannot_be_sent_is_left_out_and_told() {
    common::within(60, || {
        let scratch = Scratch::new("pipes");
        fs::create_dir_all(scratch.here("tree/sub")).expect("make");
        fs::write(scratch.here("tree/file"), "content").expect("write");
        let pipe = scratch.here("tree/sub/pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        let (sent, received) = scratch.send("tree");
        assert_eq!(sent.expect("send").left_out, [std::path::Path::new("sub/pipe")]);
        received.expect("receive");
        assert!(scratch.there("tree/sub").is_dir() && !scratch.there("tree/sub/pipe").exists());

        let unreadable = scratch.here("tree/file");
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).expect("permissions");
        if fs::read(&unreadable).is_err() {
            let (sent, received) = scratch.send("tree");
            assert_eq!(code(sent), ErrorCode::Rejected);
            received.expect_err("it ended");
        }
    });
}

/// What the system makes up says that it is empty, or as long as a page.
#[test]
#[cfg(target_os = "linux")]
fn a_file_whose_length_is_not_that_of_its_content_is_never_sent_short_or_padded() {
    common::within(20, || {
        let scratch = Scratch::new("made-up");
        let (empty, page) = ("/proc/version", "/sys/kernel/profiling");
        for made_up in [empty, page].into_iter().filter(|path| fs::read(path).is_ok()) {
            let (sent, received) =
                both(|to| send_file(to, made_up), |from| receive_into_dir(from, scratch.there("")));
            assert_eq!(code(sent), ErrorCode::InvalidInput, "{made_up}");
            received.expect_err("nothing of it may arrive");
        }
        // The same in a directory, where small files are read at once.
        for dir in ["/proc/tty", "/sys/kernel/mm/transparent_hugepage"] {
            if !fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_some()) {
                continue;
            }
            let (sent, received) =
                both(|to| send_dir(to, dir), |from| receive_into_dir(from, scratch.there("")));
            assert_eq!(code(sent), ErrorCode::InvalidInput, "{dir}");
            received.expect_err("nothing of it may arrive");
        }
        assert!(!scratch.there("version").exists() && !scratch.there("tty").exists());
        // What is empty and says so is a file like any other.
        fs::write(scratch.here("empty"), "").expect("write");
        scratch.send("empty").0.expect("send");
    });
}

#[test]
fn a_conn_is_good_for_the_next_transfer_whatever_the_last_came_to() {
    common::within(60, || {
        let scratch = Scratch::new("next");
        make_varied(&scratch.here("tree"));
        fs::write(scratch.here("file"), support::bytes(1, 5 << 20)).expect("write");
        fs::write(scratch.there("file"), "in the way").expect("write");
        symlink("/", scratch.here("tree/a link")).expect("link");
        let options = ReceiveOptions::new();
        let (sent, received) = both(
            |to| {
                let sender = SendOptions::new();
                assert_eq!(code(sender.send_file(to, scratch.here("file"))), ErrorCode::FileExists);
                assert_eq!(code(sender.send_dir(to, scratch.here("tree"))), ErrorCode::Rejected);
                assert_eq!(code(sender.send_dir(to, scratch.here("tree"))), ErrorCode::Rejected);
                sender.send_file(to, scratch.here("tree/size-1023"))
            },
            |from| {
                let wrong = receive_file(from, scratch.there("file"));
                assert_eq!(code(wrong), ErrorCode::FileExists);
                let wrong = receive_file(from, scratch.there("tree"));
                assert_eq!(code(wrong), ErrorCode::Rejected);
                assert_eq!(
                    code(options.receive_into_dir(from, scratch.there(""))),
                    ErrorCode::Rejected
                );
                options.receive_into_dir(from, scratch.there(""))
            },
        );
        assert_eq!(sent.expect("send").moved, received.expect("receive").moved);
        assert_eq!(fs::read(scratch.there("size-1023")).expect("read").len(), 1023);
    });
}

#[test]
fn a_directory_may_be_called_by_a_dot() {
    common::within(60, || {
        let scratch = Scratch::new("dot");
        fs::create_dir_all(scratch.here("tree/sub")).expect("make");
        let path = scratch.here("tree/sub/..");
        let (sent, received) = both(
            |to| send_dir(to, path),
            |from| ReceiveOptions::new().receive_into_dir(from, scratch.there("")),
        );
        sent.and(received).expect("it has a name");
        assert_same(&scratch.here("tree"), &scratch.there("tree"));
    });
}
