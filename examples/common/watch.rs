//! How a transfer shows itself: a bar, a line now and then, or JSON.

use crate::common::plain;
use pointsub::transfer::Report;
use pointsub::transfer::progress::{Progress, Speed, Status, TransferId, TransferObserver};
use pointsub::{Error, TransferHandle};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A handle whose transfer shows itself on stderr, or as lines of JSON on stdout.
pub(crate) fn handle(name: &str, json: bool) -> TransferHandle {
    let handle = TransferHandle::builder().stalled_after(Duration::from_secs(2));
    if json {
        return handle.observer(Json).build();
    }
    #[cfg(feature = "progress")]
    let handle = handle.observer(pointsub::transfer::progress::TransferBar::new(&plain(name)));
    #[cfg(not(feature = "progress"))]
    let handle = handle.observer(Lines { name: plain(name), told: Mutex::default() });
    handle.build()
}

/// Says what a transfer came to.
pub(crate) fn report(report: &Report, json: bool) {
    let Report { path, files, bytes, moved, hash, left_out, took, .. } = report;
    let hash = hash.map_or(String::new(), hex);
    if json {
        println!(
            "{{\"event\":\"report\",\"path\":{},\"files\":{files},\"bytes\":{bytes},\"moved\":{moved},\
             \"seconds\":{:.3},\"blake3\":{},\"left_out\":{}}}",
            quoted(&path.display().to_string()),
            took.as_secs_f64(),
            quoted(&hash),
            left_out.len()
        );
        return;
    }
    let rate = report.rate() / f64::from(1 << 20);
    println!(
        "{}: {files} file(s), {bytes} bytes, {moved} of them moved in {:.2} s ({rate:.0} MiB/s)",
        plain(&path.display().to_string()),
        took.as_secs_f64()
    );
    if !hash.is_empty() {
        println!("BLAKE3 {hash}");
    }
    for path in left_out {
        println!("left out: {path:?}");
    }
}

fn hex(hash: [u8; 32]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One object a line, for programs.
struct Json;

impl TransferObserver for Json {
    fn progress(&self, progress: &Progress) {
        let total = progress.total.map_or("null".to_owned(), |total| total.to_string());
        println!(
            "{{\"event\":\"progress\",\"transferred\":{},\"total\":{total}}}",
            progress.transferred
        );
    }

    fn status(&self, _: TransferId, status: Status) {
        println!("{{\"event\":\"status\",\"status\":{}}}", quoted(&status.to_string()));
    }

    fn speed(&self, speed: &Speed) {
        let left = speed.remaining.map_or("null".to_owned(), |t| format!("{:.1}", t.as_secs_f64()));
        println!(
            "{{\"event\":\"speed\",\"bytes_per_second\":{:.0},\"remaining_seconds\":{left}}}",
            speed.bytes_per_second
        );
    }

    fn error(&self, _: TransferId, error: &Error, fatal: bool) {
        println!(
            "{{\"event\":\"error\",\"code\":{},\"message\":{},\"fatal\":{fatal}}}",
            error.code().number(),
            quoted(&error.to_string())
        );
    }
}

/// A string as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Without the feature `progress`: a line each second.
#[cfg_attr(feature = "progress", allow(dead_code, reason = "the bar is better"))]
struct Lines {
    name: String,
    told: Mutex<Option<(Instant, u64)>>,
}

impl TransferObserver for Lines {
    fn progress(&self, progress: &Progress) {
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        let now = progress.transferred;
        if told.is_some_and(|(at, then)| at.elapsed() < Duration::from_secs(1) || then == now) {
            return;
        }
        *told = Some((Instant::now(), now));
        let mib = progress.transferred >> 20;
        match progress.fraction() {
            Some(fraction) => eprintln!("{}: {mib} MiB, {:.0} %", self.name, 100.0 * fraction),
            None => eprintln!("{}: {mib} MiB", self.name),
        }
    }

    fn status(&self, _: TransferId, status: Status) {
        // That it begins says nothing yet, and why it failed is said with more words.
        if !matches!(status, Status::Initialising | Status::Failed) {
            eprintln!("{}: {status}", self.name);
        }
    }

    fn error(&self, _: TransferId, error: &Error, fatal: bool) {
        if !fatal {
            eprintln!("{}: {}", self.name, error.description());
        }
    }
}

/// Lines of which each is said once: not again before another.
#[derive(Default)]
pub(crate) struct Said(String);

impl Said {
    pub(crate) fn say(&mut self, line: String) {
        if self.0 != line {
            eprintln!("{line}");
            self.0 = line;
        }
    }
}
