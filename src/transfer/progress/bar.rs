//! A progress bar, ready-made.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::observer::{Progress, Speed, Status, TransferId, TransferObserver};
use crate::error::{Error, ErrorCode};

/// A line on the standard error output that shows how a transfer goes. Where
/// that is no terminal, nothing is written. Needs the feature `progress`.
///
/// ```
/// use pointsub::TransferHandle;
/// use pointsub::transfer::progress::TransferBar;
///
/// let transfer = TransferHandle::builder().observer(TransferBar::new("photos.tar")).build();
/// ```
///
/// The line stays when the transfer has ended, and says how.
pub struct TransferBar {
    bar: ProgressBar,
}

impl TransferBar {
    /// A bar with a name in front of it. What in the name would control the
    /// terminal is replaced: names may come from the peer.
    pub fn new(name: &str) -> TransferBar {
        TransferBar::on(ProgressDrawTarget::stderr(), name)
    }

    fn on(target: ProgressDrawTarget, name: &str) -> TransferBar {
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(UNKNOWN));
        bar.set_prefix(printable(name));
        TransferBar { bar }
    }

    fn end(&self, how: String) {
        self.bar.abandon_with_message(how);
    }
}

impl TransferObserver for TransferBar {
    fn progress(&self, progress: &Progress) {
        if let Some(total) = progress.total
            && self.bar.length() != Some(total)
        {
            self.bar.set_length(total);
            self.bar.set_style(style(KNOWN));
        }
        self.bar.set_position(progress.transferred);
    }

    fn status(&self, _: TransferId, status: Status) {
        match status {
            Status::Transferring => self.bar.set_message(""),
            // The calls behind these two say more.
            Status::Completed | Status::Failed => {}
            Status::Cancelled => self.end(status.to_string()),
            status => self.bar.set_message(status.to_string()),
        }
    }

    fn speed(&self, speed: &Speed) {
        let rate = HumanBytes(speed.bytes_per_second as u64);
        self.bar.set_message(match speed.remaining {
            Some(left) => {
                let left = HumanDuration(Duration::from_secs(left.as_secs()));
                format!("{rate}/s, {left:#} left")
            }
            None => format!("{rate}/s"),
        });
    }

    fn error(&self, _: TransferId, error: &Error, fatal: bool) {
        match (fatal, error.code()) {
            (true, ErrorCode::Cancelled) => {}
            (true, _) => self.end(format!("failed: {}", printable(error.description()))),
            (false, _) => self.bar.set_message(printable(error.description()).into_owned()),
        }
    }

    fn complete(&self, _: TransferId, bytes: u64, took: Duration) {
        let rate = HumanBytes((bytes as f64 / took.as_secs_f64().max(1e-3)) as u64);
        self.end(format!("done in {took:.1?}, {rate}/s"));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates below are well-formed")
}

/// The text without what would control a terminal.
fn printable(text: &str) -> Cow<'static, str> {
    let replace = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    Cow::Owned(text.chars().map(replace).collect())
}

const KNOWN: &str = "{prefix} [{bar:24}] {percent:>3}% of {total_bytes}  {msg}";
const UNKNOWN: &str = "{prefix} {spinner} {bytes}  {msg}";

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers what was written to it.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(name: &str, call: impl FnOnce(&TransferBar)) -> String {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        let bar = TransferBar::on(target, name);
        call(&bar);
        drop(bar);
        let text = screen.0.lock().unwrap();
        text.clone()
    }

    #[test]
    fn it_shows_how_far_how_fast_and_how_it_ended() {
        let id = TransferId(1);
        let text = shown("photos", |bar| {
            bar.progress(&Progress { id, total: Some(1 << 20), transferred: 1 << 19 });
            bar.complete(id, 1 << 20, Duration::from_secs(2));
        });
        assert!(text.contains("photos") && text.contains("of 1.00 MiB"), "{text}");
        assert!(text.contains("done in 2.0s, 512.00 KiB/s"), "{text}");
        let e = Error::new(ErrorCode::Timeout, "it took too long");
        let text = shown("photos", |bar| bar.error(id, &e, true));
        assert!(text.contains("failed: it took too long"), "{text}");
        let text = shown("photos", |bar| bar.status(id, Status::Cancelled));
        assert!(text.contains("cancelled"), "{text}");
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let text = shown("a\x1b[2Jb\nc\u{9b}d", |bar| {
            bar.complete(TransferId(1), 0, Duration::ZERO);
        });
        assert!(text.contains("a\u{fffd}[2Jb\u{fffd}c\u{fffd}d"), "{text:?}");
        assert!(!text.contains("\x1b[2J"), "{text:?}");
    }

    #[test]
    fn where_there_is_no_terminal_nothing_is_drawn() {
        let bar = TransferBar::on(ProgressDrawTarget::hidden(), "photos");
        assert!(bar.bar.is_hidden());
        bar.complete(TransferId(1), 0, Duration::ZERO);
    }
}
