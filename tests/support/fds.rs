//! File descriptors over a unix socket as a peer sees them, and counting one's own. Imports rustix and tokio only.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use bytes::BytesMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Reads once: bytes to the end of `inbox`, and the descriptors that came with them to the end of `files`.
///
/// # Errors
/// The system's.
pub(crate) async fn receive(
    stream: &UnixStream,
    inbox: &mut BytesMut,
    files: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let read = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(stream.as_fd(), &mut parts, &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    files.extend(came);
                }
            }
            Ok(received.bytes)
        })
        .await?;
    inbox.extend_from_slice(&bytes[..read]);
    Ok(read)
}

/// Sends a descriptor with a byte of its own, as libvirt does it.
///
/// # Errors
/// The system's.
pub(crate) async fn send(stream: &UnixStream, file: &OwnedFd) -> io::Result<()> {
    send_on(stream, &[0], file).await
}

/// Sends a descriptor with these bytes, which are few enough to go at once.
///
/// # Errors
/// The system's.
pub(crate) async fn send_on(stream: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<()> {
    let files = [file.as_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
            let parts = [IoSlice::new(bytes)];
            let sent = sendmsg(stream.as_fd(), &parts, &mut control, SendFlags::NOSIGNAL)?;
            assert_eq!(sent, bytes.len());
            Ok(())
        })
        .await
}

/// How many descriptors this process has open.
pub(crate) fn open_now() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}
