//! What can go wrong, told once: a code, a kind, a sentence and the cause.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::backoff::Backoff;

/// The result of the crate's own functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate: what happened, where, and what to do next.
///
/// Every [`io::Error`] that a [`Conn`](crate::Conn), a [`Listener`](crate::Listener)
/// or a [`Host`](crate::Host) returns carries one, except `WouldBlock`:
///
/// ```
/// use pointsub::{Error, ErrorCode};
///
/// fn code(e: &std::io::Error) -> Option<ErrorCode> {
///     e.get_ref()?.downcast_ref::<Error>().map(Error::code)
/// }
/// ```
///
/// It converts into [`io::Error`] with its [`kind`](Error::kind) kept, and back.
/// Cloning is cheap.
/// Displayed, it is one sentence: what happened and what to do next.
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct Error(Arc<Inner>);

#[derive(thiserror::Error)]
#[error("{what}; {}", self.hint())]
struct Inner {
    code: ErrorCode,
    kind: io::ErrorKind,
    what: String,
    place: Option<&'static str>,
    hint: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this code, with the kind that belongs to it.
    pub fn new(code: ErrorCode, what: impl Into<String>) -> Error {
        Error::build(code, code.kind(), what.into(), None)
    }

    /// The same with the error that caused it.
    pub fn with_source(
        code: ErrorCode,
        what: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error::build(code, code.kind(), what.into(), Some(source.into()))
    }

    fn build(
        code: ErrorCode,
        kind: io::ErrorKind,
        what: String,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        let (place, hint, context) = (None, None, Vec::new());
        Error(Arc::new(Inner { code, kind, what, place, hint, context, source }))
    }

    /// No thread could be started. The system's own kind is that of a call that is not to
    /// block.
    pub(crate) fn no_thread(e: io::Error) -> Error {
        let what = format!("no thread could be started: {e}");
        Error::with_source(ErrorCode::SystemLimit, what, e)
    }

    /// The same error, which happened in this function or part.
    #[must_use]
    pub fn at(self, place: &'static str) -> Error {
        self.edit(|inner| inner.place = Some(place))
    }

    /// The same error with advice of its own, in place of its code's.
    #[must_use]
    pub fn advise(self, hint: impl Into<String>) -> Error {
        let hint = hint.into();
        self.edit(|inner| inner.hint = Some(hint))
    }

    /// The same error with one more fact, for programs and logs.
    #[must_use]
    pub fn with_context(self, name: &'static str, value: impl fmt::Display) -> Error {
        let value = value.to_string();
        self.edit(|inner| inner.context.push((name, value)))
    }

    /// What happened, for programs.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The kind that the [`io::Error`] made of this error has.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.0.code.severity()
    }

    /// Where it happened: the name of a function or of a part of the library.
    pub fn place(&self) -> Option<&'static str> {
        self.0.place
    }

    /// What happened, in words, without the advice that [`Display`](fmt::Display) adds.
    pub fn description(&self) -> &str {
        &self.0.what
    }

    /// What to do next.
    pub fn hint(&self) -> &str {
        self.0.hint()
    }

    /// One of the facts that came with the error, such as `received`, the
    /// bytes of payload that had arrived when a message was cut off.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.0.context.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// All facts that came with the error, in the order they were added.
    pub fn contexts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether the same call may succeed later, on this conn or on a new one.
    pub fn is_retryable(&self) -> bool {
        self.0.code.is_retryable()
    }

    /// How long to wait before the next attempt; `attempt` counts from 0.
    /// `None`: it would fail again.
    ///
    /// A random part of 100 ms, 200 ms, 400 ms and so on up to 30 s ("full
    /// jitter"), so that many clients of one server do not come back at once;
    /// ten times that for what a crowded peer refused.
    pub fn retry_delay(&self, attempt: u32) -> Option<Duration> {
        if !self.is_retryable() {
            return None;
        }
        let first = if self.0.code.is_of_resources() { 10 * RETRY_FIRST } else { RETRY_FIRST };
        Some(Backoff::new(first, RETRY_MOST).delay(attempt))
    }

    /// The same error in other words; its code, kind and source stay.
    pub(crate) fn describe(self, what: impl Into<String>) -> Error {
        let what = what.into();
        self.edit(|inner| inner.what = what)
    }

    /// Changes an error that nobody else holds yet; wraps one that is shared.
    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Error {
        if Arc::get_mut(&mut self.0).is_none() {
            let old = &*self.0;
            self = Error(Arc::new(Inner {
                code: old.code,
                kind: old.kind,
                what: old.what.clone(),
                place: old.place,
                hint: old.hint.clone(),
                context: old.context.clone(),
                source: Some(Box::new(self)),
            }));
        }
        change(Arc::get_mut(&mut self.0).expect("it was just made, or found to be ours alone"));
        self
    }
}

impl Inner {
    fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or_else(|| self.code.hint())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Error");
        s.field("code", &self.code).field("kind", &self.kind).field("what", &self.what);
        if let Some(place) = self.place {
            s.field("place", &place);
        }
        if !self.context.is_empty() {
            s.field("context", &self.context);
        }
        if let Some(source) = &self.source {
            s.field("source", source);
        }
        s.finish()
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        io::Error::new(e.kind(), e)
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        if let Some(inner) = e.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            return inner.clone();
        }
        let (code, kind, hint) = (ErrorCode::of(&e), e.kind(), advice(&e));
        let error = Error::build(code, kind, e.to_string(), Some(Box::new(e)));
        match hint {
            Some(hint) => error.advise(hint),
            None => error,
        }
    }
}

/// What to do about a refusal of this system, where the code's own advice is about a peer.
fn advice(e: &io::Error) -> Option<&'static str> {
    e.raw_os_error()?;
    match e.kind() {
        io::ErrorKind::PermissionDenied => Some("see that this user may do that"),
        io::ErrorKind::NotFound => Some("see that it is there"),
        _ => None,
    }
}

/// How bad an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Part of the normal course, such as the end of a conn.
    Info,
    /// Something was refused or late; the conn is still good.
    Warning,
    /// The operation failed; a new attempt or a new conn may help.
    Error,
    /// The peer or the program does something that no attempt will mend.
    Critical,
    /// The process cannot go on as it is.
    Fatal,
}

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(30);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $kind:ident;)*) => {
        /// What happened, in a form that programs can match on.
        ///
        /// The numbers are stable: 1000 and up concern the network, 2000 resources,
        /// 3000 the protocol, 4000 the application.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// Every code there is, in the order of their numbers.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The [`io::ErrorKind`] of errors with this code.
            pub fn kind(self) -> io::ErrorKind {
                match self {
                    $(ErrorCode::$name => io::ErrorKind::$kind,)*
                }
            }
        }
    };
}

codes! {
    /// A limit of time ran out. The conn stays usable where the call says so.
    Timeout = 1000, TimedOut;
    /// Nothing listens there, or the peer's accept queue is full.
    ConnectionRefused = 1001, ConnectionRefused;
    /// The peer was reached and does not serve that protocol.
    ProtocolNotServed = 1002, ConnectionRefused;
    /// The stream was reset by the peer, or its connection was lost.
    ConnectionReset = 1003, ConnectionReset;
    /// The connection was ended on purpose while the stream was in use.
    ConnectionAborted = 1004, ConnectionAborted;
    /// The peer closed cleanly, between messages.
    ConnectionClosed = 1005, UnexpectedEof;
    /// A write after our own shutdown, or to a peer that has closed.
    BrokenPipe = 1006, BrokenPipe;
    /// The host has been shut down, or the listener closed.
    NotConnected = 1007, NotConnected;
    /// No address of that peer is known.
    UnknownAddress = 1008, AddrNotAvailable;
    /// Another key answered than the one that was dialled.
    WrongPeer = 1009, PermissionDenied;
    /// The network or the machine cannot be reached.
    Unreachable = 1010, HostUnreachable;
    /// The connection ended in the middle of something.
    UnexpectedEnd = 1011, UnexpectedEof;
    /// Something else has this protocol or this socket address.
    AddressInUse = 1012, AddrInUse;
    /// A name could not be resolved.
    NameResolution = 1013, NotFound;

    /// The memory budget is used up.
    OutOfMemory = 2000, OutOfMemory;
    /// A limit on connections was reached.
    TooManyConnections = 2001, ConnectionRefused;
    /// A limit on streams was reached. For programs on top; this release does not give it.
    TooManyStreams = 2002, ConnectionRefused;
    /// A buffer of bounded size is full. For programs on top; this release does not give it.
    BufferExhausted = 2003, OutOfMemory;
    /// The process, or the system, has no file descriptors or no threads left.
    SystemLimit = 2004, Other;

    /// A message header that is damaged, or no header at all.
    InvalidHeader = 3000, InvalidData;
    /// A frame whose checksum does not match its bytes.
    ChecksumMismatch = 3001, InvalidData;
    /// The peer broke the protocol.
    ProtocolViolation = 3002, InvalidData;
    /// A version or a kind of frame that this release does not know.
    Unsupported = 3003, Unsupported;
    /// The connection could not be secured.
    HandshakeFailed = 3004, ConnectionAborted;
    /// A frame failed authentication.
    DecryptFailed = 3005, ConnectionAborted;

    /// A message above the receiver's limit.
    MessageTooLarge = 4000, InvalidData;
    /// An argument out of its range.
    InvalidInput = 4001, InvalidInput;
    /// The peer, or a rule of this host, said no.
    Rejected = 4002, PermissionDenied;
    /// The sender gave up in the middle of a message and said so.
    Aborted = 4003, ConnectionAborted;
    /// An error of the operating system that has no code of its own here.
    Io = 4004, Other;
    /// A transfer was called off, by this side or by the other.
    Cancelled = 4005, ConnectionAborted;
    /// Something has that name already, and may not be replaced.
    FileExists = 4010, AlreadyExists;
    /// A name that cannot be, or may not be, one of a file here.
    InvalidName = 4011, InvalidInput;
    /// The disk, or a quota, is full.
    StorageFull = 4012, StorageFull;
    /// A file changed while it was sent.
    SourceChanged = 4013, InvalidData;
    /// Another transfer is at work on the same file.
    Busy = 4014, ResourceBusy;
}

impl ErrorCode {
    /// The stable number of this code.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// How bad an error with this code is.
    pub fn severity(self) -> Severity {
        use ErrorCode as C;
        match self {
            C::ConnectionClosed | C::NotConnected => Severity::Info,
            C::Timeout
            | C::TooManyConnections
            | C::TooManyStreams
            | C::BufferExhausted
            | C::MessageTooLarge
            | C::Rejected
            | C::FileExists
            | C::SourceChanged
            | C::Busy
            | C::Aborted
            | C::Cancelled => Severity::Warning,
            C::InvalidHeader
            | C::ChecksumMismatch
            | C::ProtocolViolation
            | C::DecryptFailed
            | C::WrongPeer
            | C::InvalidName
            | C::InvalidInput => Severity::Critical,
            C::OutOfMemory => Severity::Fatal,
            _ => Severity::Error,
        }
    }

    /// Whether what failed with this code may succeed later.
    pub fn is_retryable(self) -> bool {
        use ErrorCode as C;
        matches!(
            self,
            C::Timeout
                | C::ConnectionRefused
                | C::ConnectionReset
                | C::ConnectionAborted
                | C::BrokenPipe
                | C::Unreachable
                | C::UnexpectedEnd
                | C::NameResolution
                | C::OutOfMemory
                | C::TooManyConnections
                | C::TooManyStreams
                | C::BufferExhausted
                | C::SystemLimit
                | C::Aborted
                | C::SourceChanged
                | C::Busy
        )
    }

    /// What to do about an error with this code, if it says nothing better.
    pub fn hint(self) -> &'static str {
        use ErrorCode as C;
        match self {
            C::Timeout => "try again, or allow more time",
            C::ConnectionRefused => "check that the peer listens there, and try again later",
            C::ProtocolNotServed => "check that both sides name the same protocol",
            C::ConnectionReset | C::ConnectionAborted | C::BrokenPipe | C::UnexpectedEnd => {
                "open a new conn and repeat what was not answered"
            }
            C::ConnectionClosed => "nothing more will come; drop the conn",
            C::NotConnected => "make a new host or listener",
            C::UnknownAddress => "tell the host where to find the peer (add_address)",
            C::WrongPeer => "check the address and the peer id; another key lives there",
            C::Unreachable => "check the network and the address",
            C::AddressInUse => "close what has it, or choose another",
            C::NameResolution => "check the name and the resolver",
            C::OutOfMemory | C::BufferExhausted => "send less at once, or raise the limit",
            C::SystemLimit => {
                "close what is not needed, or raise the limits of the process (ulimit)"
            }
            C::TooManyConnections | C::TooManyStreams => {
                "close some, wait, or raise the limit on that host"
            }
            C::InvalidHeader | C::ProtocolViolation => {
                "close the conn, and check that both ends speak the same protocol"
            }
            C::ChecksumMismatch | C::DecryptFailed => {
                "close the conn; something between the ends changes bytes"
            }
            C::Unsupported => "upgrade this end, or ask the other for less",
            C::HandshakeFailed => "check that a libp2p node with Noise answers there",
            C::MessageTooLarge => "raise the receiver's limit, or send a stream",
            C::InvalidInput => "correct the argument",
            C::Rejected => "ask the other side for permission",
            C::Aborted => "ask the sender to send it again",
            C::Io => "see its source",
            C::Cancelled => "start it again if that was not meant",
            C::FileExists => "choose another name, or allow that it is replaced",
            C::InvalidName => "give it another name",
            C::StorageFull => "make room and try again; what is there will not be sent again",
            C::SourceChanged => "send it again once nothing writes to it",
            C::Busy => "wait until the other transfer has ended",
        }
    }

    fn is_of_resources(self) -> bool {
        (2000..3000).contains(&self.number())
    }

    /// The code that describes an error of the operating system best.
    fn of(e: &io::Error) -> ErrorCode {
        use io::ErrorKind as K;
        // No kind has this name.
        if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(e) {
            return ErrorCode::SystemLimit;
        }
        match e.kind() {
            K::TimedOut | K::WouldBlock => ErrorCode::Timeout,
            K::ConnectionRefused => ErrorCode::ConnectionRefused,
            K::ConnectionReset => ErrorCode::ConnectionReset,
            K::ConnectionAborted => ErrorCode::ConnectionAborted,
            K::BrokenPipe => ErrorCode::BrokenPipe,
            K::NotConnected => ErrorCode::NotConnected,
            K::AddrNotAvailable => ErrorCode::UnknownAddress,
            K::AddrInUse => ErrorCode::AddressInUse,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => ErrorCode::Unreachable,
            K::UnexpectedEof => ErrorCode::UnexpectedEnd,
            K::OutOfMemory => ErrorCode::OutOfMemory,
            K::InvalidInput => ErrorCode::InvalidInput,
            K::InvalidData => ErrorCode::ProtocolViolation,
            K::Unsupported => ErrorCode::Unsupported,
            K::PermissionDenied => ErrorCode::Rejected,
            K::AlreadyExists => ErrorCode::FileExists,
            K::InvalidFilename => ErrorCode::InvalidName,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => ErrorCode::StorageFull,
            K::ResourceBusy => ErrorCode::Busy,
            _ => ErrorCode::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_keeps_its_kind_there_and_back() {
        for &code in ErrorCode::ALL {
            let io: io::Error = Error::new(code, "x").into();
            assert_eq!(io.kind(), code.kind());
            let back = Error::from(io);
            assert_eq!((back.code(), back.kind()), (code, code.kind()));
        }
        let os = io::Error::from(io::ErrorKind::AlreadyExists);
        let back: io::Error = Error::from(os).into();
        assert_eq!(back.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_error_prints_as_one_sentence_with_advice() {
        let e = Error::new(ErrorCode::MessageTooLarge, "a message of 5000 bytes, above 4096");
        let text =
            "a message of 5000 bytes, above 4096; raise the receiver's limit, or send a stream";
        assert_eq!(e.to_string(), text);
        assert_eq!(
            e.clone().advise("split it").to_string(),
            "a message of 5000 bytes, above 4096; split it"
        );
        for code in ErrorCode::ALL {
            assert!(!code.hint().is_empty() && !code.hint().ends_with('.'));
        }
    }

    #[test]
    fn what_this_system_refuses_is_not_the_peers_to_permit() {
        let (ours, theirs) = (io::Error::from(Errno::ACCESS), io::ErrorKind::PermissionDenied);
        let ours = Error::from(ours);
        assert_eq!(ours.code(), ErrorCode::Rejected);
        assert_ne!(ours.hint(), ErrorCode::Rejected.hint());
        assert_eq!(Error::from(io::Error::from(theirs)).hint(), ErrorCode::Rejected.hint());
    }

    #[test]
    fn facts_are_kept_and_a_shared_error_becomes_the_source() {
        let e =
            Error::new(ErrorCode::UnexpectedEnd, "cut").with_context("received", 7).at("receive");
        assert_eq!((e.context("received"), e.place()), (Some("7"), Some("receive")));
        let shared = e.clone();
        let wrapped = e.with_context("received", 8);
        assert_eq!(
            (wrapped.context("received"), shared.context("received")),
            (Some("8"), Some("7"))
        );
        assert_eq!(wrapped.source().unwrap().to_string(), shared.to_string());
    }

    #[test]
    fn only_what_may_pass_later_has_a_delay_and_it_stays_bounded() {
        let cut = Error::new(ErrorCode::ConnectionReset, "x");
        for attempt in [0, 1, 5, 31, 32, 64, u32::MAX] {
            assert!(cut.retry_delay(attempt).unwrap() <= RETRY_MOST);
        }
        assert!(cut.retry_delay(0).unwrap() <= RETRY_FIRST);
        assert_eq!(Error::new(ErrorCode::WrongPeer, "x").retry_delay(0), None);
    }

    #[test]
    fn numbers_ascend_and_are_unique() {
        assert!(ErrorCode::ALL.windows(2).all(|w| w[0].number() < w[1].number()));
    }
}
