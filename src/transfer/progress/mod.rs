//! Watching a transfer, and steering it from another thread.
//!
//! A [`TransferHandle`] stands for one transfer. Its observers hear how it goes;
//! its clones pause it, resume it and call it off, from any thread and at either
//! end. It is made first, and given to the call that moves the bytes:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use pointsub::transfer::progress::{Progress, Status, TransferId};
//! use pointsub::{Conn, ErrorCode, Host, Listener, MessageTransporter};
//! use pointsub::{TransferHandle, TransferObserver};
//! use std::{io, thread};
//!
//! struct Printer;
//!
//! impl TransferObserver for Printer {
//!     fn progress(&self, progress: &Progress) {
//!         println!("{}: {} bytes", progress.id, progress.transferred);
//!     }
//!
//!     fn status(&self, id: TransferId, status: Status) {
//!         println!("{id}: {status}");
//!     }
//! }
//!
//! let server = Host::builder().listen_on("127.0.0.1:0").build()?;
//! let listener = Listener::bind(&server, "/films/1.0.0")?;
//! let sending = thread::spawn(move || {
//!     let (conn, _peer) = listener.accept()?;
//!     let mut far = MessageTransporter::builder(conn).control().build();
//!     far.send_stream_with(&TransferHandle::new(), &mut io::repeat(7))
//! });
//!
//! let host = Host::new()?;
//! let conn = Conn::connect(&host, &server.dial_addrs()[0], "/films/1.0.0")?;
//! let mut near = MessageTransporter::builder(conn).control().build();
//! let transfer = TransferHandle::builder().observer(Printer).build();
//!
//! // Somebody presses a button.
//! let button = transfer.clone();
//! thread::spawn(move || {
//!     while button.progress().transferred < 1_000_000 {
//!         thread::yield_now();
//!     }
//!     button.cancel();
//! });
//!
//! // So this film has no end, and ends all the same, at both ends.
//! let e = near.receive_stream_with(&transfer, &mut io::sink()).unwrap_err();
//! assert_eq!(e.code(), ErrorCode::Cancelled);
//! assert_eq!(transfer.status(), Status::Cancelled);
//! let e = sending.join().unwrap().unwrap_err();
//! assert_eq!(e.code(), ErrorCode::Cancelled);
//! # Ok(())
//! # }
//! ```
//!
//! # Which end steers
//!
//! | transporters | the sending end's handle | the receiving end's handle |
//! |---|---|---|
//! | both built with [`control()`](crate::message::MessageTransporterBuilder::control) | both ends obey | both ends obey |
//! | neither | both ends obey | `pause`: nothing is read, and so the sender is blocked sooner or later; `cancel`: the rest is skipped. The sender is not told |
//! | only the sending one | the receiver refuses the transfer, by name | |
//! | only the receiving one | as neither | as neither |
//!
//! `control()` needs a conn whose reads and writes can be tried for a while
//! ([`TryIo`](crate::message::TryIo)): a [`Conn`](crate::Conn), a `TcpStream`, a
//! `UnixStream`, or one of your own. On others, such as a `Vec` or a file, only
//! the sending end steers, and a call that blocks in the transport notices
//! nothing before it returns. The halves of a transporter that was
//! [split](crate::MessageTransporter::split) steer nothing: while the sender
//! listens, nothing else may be read from its conn.
//!
//! # What both ends can rely on
//!
//! - Under control, both observers hear the same statuses in the same order,
//!   whatever the two do at the same time. The sender decides what is paused: the
//!   receiver hears `Paused` when the last byte before the pause is there.
//! - A pause stops the sender within a tenth of a second and the round trip;
//!   what was under way still arrives, and the end with it if that was sent.
//!   Under control nothing times out while it lasts.
//! - Both have to resume what both have paused.
//! - A cancel ends both calls with [`Cancelled`](crate::ErrorCode::Cancelled), and
//!   the conn is good for the next message. Where the other end does not answer,
//!   the call returns after a second all the same, and the next one puts the
//!   frames in order. What has left the sender to its last byte can still be
//!   called off by the receiver, until it has taken it.
//! - A receiver that gives up, because its disk is full for example, stops the
//!   sender, who gets [`Aborted`](crate::ErrorCode::Aborted) and the code of the
//!   reason, as the context `receiver_error`.
//! - Under control, a send returns when the receiver has taken everything.
//! - A `Read` that blocks, of which the sender sends, cannot be interrupted, and
//!   no more can a `Write` that the receiver fills: the end in question obeys when
//!   they return.
//!
//! A ready-made observer shows a progress bar: `TransferBar`, with the feature
//! `progress`.

#[cfg(feature = "progress")]
mod bar;
mod handle;
mod meter;
mod observer;
mod transporter;
mod watch;

#[cfg(feature = "progress")]
pub use bar::TransferBar;
pub use handle::{TransferHandle, TransferHandleBuilder};
pub use observer::{Progress, Speed, Status, TransferId, TransferObserver};
pub(crate) use watch::Watch;
