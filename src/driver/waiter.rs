//! How a thread sleeps, and how another wakes it.
//!
//! A thread has one waiter for all its life. It sleeps in one of two ways: parked,
//! or in `poll(2)` on sockets and its own event descriptor. `wake` works for
//! both, is sticky (a wake before the sleep ends the sleep at once) and never
//! blocks. Every sleep may end early; callers look again.
//!
//! The descriptor is made for the first poll. If the process has none left then, the
//! sleep is a short one, and so are the next ones until there is one: nobody fails for
//! lack of it.

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

pub(crate) struct Waiter {
    thread: Thread,
    /// Somebody called `wake` since the last sleep.
    woken: AtomicBool,
    /// The thread is in `poll`, or about to be: a wake needs the descriptor.
    polling: AtomicBool,
    bell: OnceLock<bell::Bell>,
}

/// What a polling thread waits for on a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Reading,
    Writing,
}

impl Waiter {
    /// The calling thread's waiter.
    pub(crate) fn current() -> Arc<Waiter> {
        thread_local! { static CURRENT: Arc<Waiter> = Waiter::new(); }
        // At the thread's end: a host may be dropped by the destructor of a thread local.
        CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Waiter::new())
    }

    fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            thread: std::thread::current(),
            woken: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            bell: OnceLock::new(),
        })
    }

    /// Ends the thread's present or next sleep.
    pub(crate) fn wake(&self) {
        if self.woken.swap(true, SeqCst) {
            return;
        }
        if !self.polling.load(SeqCst) {
            self.thread.unpark();
        } else if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Takes a wake that came before the sleep.
    pub(crate) fn take_wake(&self) -> bool {
        self.woken.load(SeqCst) && self.woken.swap(false, SeqCst)
    }

    /// Sleeps until `wake` or the deadline. Only the waiter's own thread may call it.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        while !self.take_wake() {
            match deadline {
                None => std::thread::park(),
                Some(at) => match remaining(at) {
                    Some(left) => std::thread::park_timeout(left),
                    None => return,
                },
            }
        }
    }

    /// Sleeps until the socket is ready, `wake`, or the deadline.
    pub(crate) fn poll_one(&self, socket: &TcpStream, what: For, deadline: Option<Instant>) {
        self.poll(&[(socket, what)], deadline);
    }

    /// The same for several sockets.
    pub(crate) fn poll(&self, sockets: &[(&TcpStream, For)], deadline: Option<Instant>) {
        let bell = self.bell();
        let left = deadline.map(|at| remaining(at).unwrap_or(Duration::ZERO));
        let left = match bell {
            Some(_) => left,
            None => Some(left.map_or(ROUND, |left| left.min(ROUND))),
        };
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        self.polling.store(true, SeqCst);
        if !self.woken.load(SeqCst) {
            let listen = bell.map(|bell| PollFd::new(bell, PollFlags::IN));
            // An error of poll (a signal) is an early end.
            let sleep = |fds: &mut [PollFd<'_>]| {
                let _ = rustix::event::poll(fds, timeout.as_ref());
                // The last one's, if there is a bell.
                fds.last().is_some_and(|last| !last.revents().is_empty())
            };
            let rang = match (sockets, listen) {
                ([socket], Some(listen)) => sleep(&mut [watch(socket), listen]),
                ([socket], None) => sleep(&mut [watch(socket)]),
                (sockets, listen) => {
                    let mut fds: Vec<_> = sockets.iter().map(watch).collect();
                    fds.extend(listen);
                    sleep(&mut fds)
                }
            };
            if let Some(bell) = bell.filter(|_| rang) {
                bell.silence();
            }
        }
        self.polling.store(false, SeqCst);
    }

    /// To be woken by; `None`: the process has no descriptor left.
    fn bell(&self) -> Option<&bell::Bell> {
        if self.bell.get().is_none()
            && let Ok(bell) = bell::Bell::new()
        {
            // Nobody but this thread sets it.
            let _ = self.bell.set(bell);
        }
        self.bell.get()
    }
}

fn watch<'a>(&(socket, what): &(&'a TcpStream, For)) -> PollFd<'a> {
    PollFd::new(socket, if what == For::Reading { PollFlags::IN } else { PollFlags::OUT })
}

/// How long a thread sleeps that nobody can wake.
const ROUND: Duration = Duration::from_millis(5);

/// Why no descriptor can be had now, if none can.
pub(super) fn lacking() -> Option<io::Error> {
    bell::Bell::new().err()
}

/// Whether a read of the socket finds something. It asks without the socket's lock, which
/// what arrives needs too.
pub(crate) fn is_readable(socket: &TcpStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    // An error of poll is an early end.
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0)
}

thread_local! { static HABITS: Cell<Option<Habits>> = const { Cell::new(None) }; }

/// Of a thread that opens or accepts conns.
#[derive(Clone, Copy, Default)]
struct Habits {
    /// When it was done with the last one, if it has not asked for the next.
    left: Option<Instant>,
    /// How often it was back at once, without a pause in between.
    hurries: u32,
}

/// The calling thread opens or accepts conns: when it is done with one it is likely to want
/// the next, and to drive a link for it.
pub(crate) fn expect_back() {
    let mut habits = HABITS.get().unwrap_or_default();
    if let Some(left) = habits.left.take() {
        let at_once = left.elapsed() < AT_ONCE;
        habits.hurries = if at_once { habits.hurries.saturating_add(1) } else { 0 };
    }
    HABITS.set(Some(habits));
}

/// The calling thread is done with a conn. Whether it opens or accepts others, and whether
/// it has lately been back for the next one at once.
pub(crate) fn note_leave() -> (bool, bool) {
    let Some(mut habits) = HABITS.get() else { return (false, false) };
    habits.left = Some(Instant::now());
    HABITS.set(Some(habits));
    (true, habits.hurries >= A_HABIT)
}

/// Between two conns of a thread that goes from one to the next.
const AT_ONCE: Duration = Duration::from_micros(100);

/// So often in a row is what it does.
const A_HABIT: u32 = 4;

/// The time left until `at`; `None` once it is over.
pub(crate) fn remaining(at: Instant) -> Option<Duration> {
    at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod bell {
    use rustix::event::{EventfdFlags, eventfd};
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// A descriptor that can be made readable: an eventfd.
    pub(super) struct Bell(OwnedFd);

    impl Bell {
        pub(super) fn new() -> io::Result<Bell> {
            Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(super) fn ring(&self) {
            // It fails only when it rings already.
            let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        }

        pub(super) fn silence(&self) {
            let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
        }
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod bell {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    /// A descriptor that can be made readable: a pair of sockets.
    pub(super) struct Bell {
        ears: UnixStream,
        clapper: UnixStream,
    }

    impl Bell {
        pub(super) fn new() -> io::Result<Bell> {
            let (ears, clapper) = UnixStream::pair()?;
            ears.set_nonblocking(true)?;
            clapper.set_nonblocking(true)?;
            Ok(Bell { ears, clapper })
        }

        pub(super) fn ring(&self) {
            let _ = (&self.clapper).write(&[1]);
        }

        pub(super) fn silence(&self) {
            let _ = (&self.ears).read(&mut [0u8; 64]);
        }
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.ears.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_wake_before_the_sleep_ends_it_at_once_in_both_ways() {
        let waiter = Waiter::current();
        waiter.wake();
        waiter.park(None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        waiter.wake();
        waiter.poll_one(&socket, For::Reading, None);
        assert!(waiter.take_wake());
    }

    #[test]
    fn a_wake_from_another_thread_ends_a_poll_and_a_deadline_does_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let waiter = Waiter::current();
        for _ in 0..100 {
            let other = waiter.clone();
            let thread = std::thread::spawn(move || other.wake());
            while !waiter.take_wake() {
                waiter.poll_one(&socket, For::Reading, None);
            }
            thread.join().unwrap();
        }
        let start = Instant::now();
        waiter.poll_one(&socket, For::Reading, Some(start + Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(15));
    }
}
