//! Files under watch: editors, rotations, and Kubernetes' way of swapping a directory.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ringwall::control::watch::{QUIET, Subscription};
use ringwall::control::{Control, Event, ReloadCause};

use crate::control_issuer::{Directory, control};

fn subscribe(control: &Control<Vec<String>>, files: &[&Path]) -> (Subscription, Receiver<Vec<PathBuf>>) {
    let (sender, receiver) = channel();
    let files = files.iter().map(|path| path.to_path_buf()).collect();
    let subscription = control.parts().watcher.subscribe(files, move |changed| {
        let _ = sender.send(changed.to_vec());
    });
    (subscription, receiver)
}

fn next(changes: &Receiver<Vec<PathBuf>>) -> Vec<PathBuf> {
    changes.recv_timeout(Duration::from_secs(20)).expect("a change")
}

#[test]
fn a_rename_over_a_file_is_a_change_and_a_neighbour_is_none() {
    let directory = Directory::new("rename");
    let (file, other) = (directory.write("a.yaml", "1"), directory.write("b.yaml", "1"));
    let control = control();
    let (_a, changes) = subscribe(&control, &[&file]);
    let (_b, others) = subscribe(&control, &[&other]);
    directory.write("access.log", "a line");
    std::fs::rename(directory.write("a.yaml~", "2"), &file).expect("renamed");
    assert_eq!(next(&changes), std::slice::from_ref(&file));
    std::fs::write(&file, "three").expect("written in place");
    assert_eq!(next(&changes), std::slice::from_ref(&file));
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(next(&changes), std::slice::from_ref(&file));
    std::fs::write(&file, "four").expect("there again");
    assert_eq!(next(&changes), [file]);
    assert!(others.try_recv().is_err());
}

#[test]
fn a_burst_of_writes_is_one_change() {
    let directory = Directory::new("burst");
    let file = directory.write("a.yaml", "");
    let control = control();
    let (_a, changes) = subscribe(&control, &[&file]);
    let start = Instant::now();
    for length in 1..200 {
        std::fs::write(&file, "x".repeat(length)).expect("written");
    }
    next(&changes);
    // A second file marks the end of whatever the burst caused.
    let marker = directory.write("marker", "");
    let (_b, marked) = subscribe(&control, &[&marker]);
    std::fs::write(&marker, "x").expect("written");
    next(&marked);
    // A machine that stops this thread for longer than the quiet makes two bursts of it, and so on; the exact
    // law is `Debounce`'s own test.
    let pauses = start.elapsed().as_millis() / QUIET.as_millis();
    let calls = 1 + changes.try_iter().count() as u128;
    assert!(calls <= pauses.max(1), "{calls} calls in {pauses} pauses");
}

/// A projected volume: `config.yaml -> ..data/config.yaml`, `..data -> ..2026_1`, and `..data` is replaced by a
/// rename. The file's own path never sees an event.
#[test]
fn a_swapped_data_directory_is_a_change() {
    let directory = Directory::new("k8s");
    for (version, text) in [("..2026_1", "one"), ("..2026_2", "two"), ("..2026_3", "three")] {
        std::fs::create_dir(directory.path(version)).expect("made");
        std::fs::write(directory.path(version).join("config.yaml"), text).expect("written");
    }
    symlink("..2026_1", directory.path("..data")).expect("linked");
    symlink("..data/config.yaml", directory.path("config.yaml")).expect("linked");
    let file = directory.path("config.yaml");
    let control = control();
    let (_a, changes) = subscribe(&control, &[&file]);
    for version in ["..2026_2", "..2026_3"] {
        symlink(version, directory.path("..data_tmp")).expect("linked");
        std::fs::rename(directory.path("..data_tmp"), directory.path("..data")).expect("swapped");
        assert_eq!(next(&changes), std::slice::from_ref(&file), "{version}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "three");
}

/// `/etc/ringwall -> /opt/versions/2`: the link is above the file's directory.
#[test]
fn a_link_above_the_directory_is_watched_too() {
    let directory = Directory::new("above");
    for version in ["v1", "v2"] {
        std::fs::create_dir(directory.path(version)).expect("made");
        std::fs::write(directory.path(version).join("a.yaml"), version).expect("written");
    }
    symlink("v1", directory.path("current")).expect("linked");
    let file = directory.path("current").join("a.yaml");
    let control = control();
    let (_a, changes) = subscribe(&control, &[&file]);
    symlink("v2", directory.path("next")).expect("linked");
    std::fs::rename(directory.path("next"), directory.path("current")).expect("swapped");
    assert_eq!(next(&changes), [file]);
}

#[test]
fn a_dropped_subscription_is_told_nothing() {
    let directory = Directory::new("dropped");
    let file = directory.write("a.yaml", "1");
    let control = control();
    let (gone, changes) = subscribe(&control, &[&file]);
    let (_kept, kept) = subscribe(&control, &[&file]);
    drop(gone);
    std::fs::write(&file, "22").expect("written");
    next(&kept);
    assert!(changes.try_recv().is_err());
}

#[test]
fn a_changed_configuration_asks_for_a_reload() {
    let directory = Directory::new("reload");
    let file = directory.write("ringwall.yaml", "ringwall: 1");
    let control = control();
    let _watching = control.watch_config(vec![file.clone()]);
    std::fs::write(&file, "ringwall: 1 # changed").expect("written");
    match control.events().recv_timeout(Duration::from_secs(20)).expect("an event") {
        Event::Reload(ReloadCause::Files(files), _reply) => assert_eq!(files, [file]),
        other => panic!("{other:?}"),
    }
}
