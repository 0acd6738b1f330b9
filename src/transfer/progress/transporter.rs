//! The calls of a transporter that take a handle.

use std::io::{Read, Write};

use super::handle::TransferHandle;
use super::watch::Watch;
use crate::error::Result;
use crate::message::MessageTransporter;

impl<C: Write> MessageTransporter<C> {
    /// [`send`](MessageTransporter::send) as a transfer that can be watched
    /// and steered.
    ///
    /// # Errors
    ///
    /// As `send`, and [`Cancelled`](crate::ErrorCode::Cancelled).
    pub fn send_with(&mut self, transfer: &TransferHandle, data: &[u8]) -> Result<()> {
        let mut watch = Watch::begin(transfer, Some(data.len() as u64));
        let outcome = self.send_piloted(&mut watch, data);
        watch.finish(outcome)
    }

    /// [`send_stream`](MessageTransporter::send_stream) as a transfer that can
    /// be watched and steered.
    ///
    /// # Errors
    ///
    /// As `send_stream`, and [`Cancelled`](crate::ErrorCode::Cancelled).
    pub fn send_stream_with<R: Read + ?Sized>(
        &mut self,
        transfer: &TransferHandle,
        reader: &mut R,
    ) -> Result<u64> {
        let mut watch = Watch::begin(transfer, None);
        let outcome = self.send_stream_piloted(&mut watch, reader);
        watch.finish(outcome)
    }
}

impl<C: Read> MessageTransporter<C> {
    /// [`receive`](MessageTransporter::receive) as a transfer that can be
    /// watched and steered.
    ///
    /// # Errors
    ///
    /// As `receive`, and [`Cancelled`](crate::ErrorCode::Cancelled).
    pub fn receive_with(&mut self, transfer: &TransferHandle) -> Result<Vec<u8>> {
        let mut watch = Watch::begin(transfer, None);
        let mut message = Vec::new();
        let outcome = self.receive_piloted(&mut watch, &mut message);
        watch.finish(outcome).map(|()| message)
    }

    /// [`receive_stream`](MessageTransporter::receive_stream) as a transfer
    /// that can be watched and steered.
    ///
    /// # Errors
    ///
    /// As `receive_stream`, and [`Cancelled`](crate::ErrorCode::Cancelled).
    pub fn receive_stream_with<W: Write + ?Sized>(
        &mut self,
        transfer: &TransferHandle,
        writer: &mut W,
    ) -> Result<u64> {
        let mut watch = Watch::begin(transfer, None);
        let outcome = self.receive_stream_piloted(&mut watch, writer);
        watch.finish(outcome)
    }
}
