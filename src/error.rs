//! What can go wrong, told once: a code, a kind, a sentence and the cause.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

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
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    code: ErrorCode,
    kind: io::ErrorKind,
    what: String,
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
        Error(Arc::new(Inner { code, kind, what, source }))
    }

    /// What happened, for programs.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The kind that the [`io::Error`] made of this error has.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Error");
        s.field("code", &self.0.code).field("kind", &self.0.kind).field("what", &self.0.what);
        if let Some(source) = &self.0.source {
            s.field("source", source);
        }
        s.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
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
        let (code, kind) = (ErrorCode::of_kind(e.kind()), e.kind());
        Error::build(code, kind, e.to_string(), Some(Box::new(e)))
    }
}

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
    /// A limit on streams was reached.
    TooManyStreams = 2002, ConnectionRefused;
    /// A buffer of bounded size is full.
    BufferExhausted = 2003, OutOfMemory;

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
}

impl ErrorCode {
    /// The stable number of this code.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The code that describes an error of the operating system best.
    fn of_kind(kind: io::ErrorKind) -> ErrorCode {
        use io::ErrorKind as K;
        match kind {
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
    fn numbers_ascend_and_are_unique() {
        assert!(ErrorCode::ALL.windows(2).all(|w| w[0].number() < w[1].number()));
    }
}
