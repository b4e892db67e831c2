//! A connected stream as a connection uses it: split in two halves, each for a loop of its own. Where it is a unix socket,
//! file descriptors can go along with the bytes (`SCM_RIGHTS`). A security layer can begin in its middle. Imports nothing of ours.

#[cfg(feature = "gssapi")]
mod layer;

use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

#[cfg(feature = "gssapi")]
pub(crate) use layer::{Cipher, Layer, LayerSlot};

/// Descriptors that one message can carry (`SCM_MAX_FD` of Linux).
pub(crate) const MOST_FILES: usize = 253;

/// Descriptors that may have come and not been taken yet; more are closed as they come.
const MOST_KEPT: usize = 64;

/// Bytes read at once where descriptors may come with them.
const READ_WITH_FILES: usize = 16 * 1024;

/// Why none can be passed to libvirtd.
pub(crate) const NO_FILES: &str = "file descriptors go to libvirtd over its unix socket alone";

/// Descriptors of the same files, to be sent while those who gave them keep theirs.
pub(crate) fn duplicate(files: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    files.iter().map(BorrowedFd::try_clone_to_owned).collect()
}

/// Any stream that leads to a peer.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected stream that nobody has used yet.
pub(crate) struct Transport(Kind);

enum Kind {
    Unix(UnixStream),
    Other(Box<dyn Stream>),
}

impl Transport {
    /// Over `stream`. Only a tokio [`UnixStream`] itself carries descriptors: nothing that wraps one does.
    pub(crate) fn new<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // It is a function of `T` where `T` is the unix stream, and nowhere else.
        let unix: fn(UnixStream) -> Kind = Kind::Unix;
        Transport(match (&unix as &dyn Any).downcast_ref::<fn(T) -> Kind>() {
            Some(unix) => unix(stream),
            None => Kind::Other(Box::new(stream)),
        })
    }

    /// Whether descriptors can be sent.
    pub(crate) fn passes_files(&self) -> bool {
        matches!(self.0, Kind::Unix(_))
    }

    /// The two halves. The stream closes when both are gone.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = match self.0 {
            Kind::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadKind::Unix(read), WriteKind::Unix(Some(write)))
            }
            Kind::Other(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadKind::Other(read), WriteKind::Other(write))
            }
        };
        #[cfg(feature = "gssapi")]
        let layer = LayerSlot::default();
        let read = ReadHalf {
            kind: read,
            files_wanted: Arc::default(),
            files: VecDeque::new(),
            #[cfg(feature = "gssapi")]
            layer: layer.clone(),
            #[cfg(feature = "gssapi")]
            opening: None,
        };
        let write = WriteHalf {
            kind: write,
            #[cfg(feature = "gssapi")]
            layer,
            #[cfg(feature = "gssapi")]
            sealing: None,
        };
        (read, write)
    }
}

/// What comes from the peer.
///
/// Descriptors that come with it are closed by the system, unless [`files_wanted`](ReadHalf::files_wanted) says otherwise.
pub(crate) struct ReadHalf {
    kind: ReadKind,
    files_wanted: Arc<AtomicBool>,
    /// What came, in this order.
    files: VecDeque<OwnedFd>,
    #[cfg(feature = "gssapi")]
    layer: LayerSlot,
    /// There once the layer has begun.
    #[cfg(feature = "gssapi")]
    opening: Option<layer::Opening>,
}

enum ReadKind {
    Unix(OwnedReadHalf),
    Other(tokio::io::ReadHalf<Box<dyn Stream>>),
}

impl ReadHalf {
    /// Whether descriptors are kept that come with what is read from now on. Set it before the peer is asked for any; anybody may.
    pub(crate) fn files_wanted(&self) -> Arc<AtomicBool> {
        self.files_wanted.clone()
    }

    /// The descriptors that have come and were not taken, oldest first. Each came with bytes that have been read, or were
    /// among the last that were.
    pub(crate) fn files(&mut self) -> &mut VecDeque<OwnedFd> {
        &mut self.files
    }

    /// Where a security layer of both halves is put. Descriptors cannot pass beside it.
    #[cfg(feature = "gssapi")]
    pub(crate) fn layer(&self) -> LayerSlot {
        self.layer.clone()
    }
}

/// Descriptors that come with what is read are closed.
impl AsyncRead for ReadKind {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadKind::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            ReadKind::Other(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        #[cfg(feature = "gssapi")]
        {
            if this.opening.is_none() {
                this.opening = this.layer.opening();
            }
            if let Some(opening) = &mut this.opening {
                return opening.poll_read(&mut this.kind, cx, buf);
            }
        }
        match &mut this.kind {
            ReadKind::Unix(stream) if this.files_wanted.load(Ordering::Relaxed) => {
                poll_read_with_files(stream.as_ref(), cx, buf, &mut this.files)
            }
            kind => Pin::new(kind).poll_read(cx, buf),
        }
    }
}

fn poll_read_with_files(
    stream: &UnixStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    files: &mut VecDeque<OwnedFd>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_io(Interest::READABLE, || receive(stream.as_fd(), buf, files)) {
            // Not ready after all.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut ReadBuf<'_>,
    files: &mut VecDeque<OwnedFd>,
) -> io::Result<()> {
    let room = buf.remaining().min(READ_WITH_FILES);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buf.initialize_unfilled_to(room))];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            // What finds no room is closed with the rest of `came`.
            let room = MOST_KEPT.saturating_sub(files.len());
            files.extend(came.take(room));
        }
    }
    buf.advance(received.bytes.min(room));
    Ok(())
}

/// What goes to the peer. Dropping it does not end what is sent: the end comes when the stream closes.
pub(crate) struct WriteHalf {
    kind: WriteKind,
    #[cfg(feature = "gssapi")]
    layer: LayerSlot,
    /// There once the layer has begun.
    #[cfg(feature = "gssapi")]
    sealing: Option<layer::Sealing>,
}

enum WriteKind {
    /// Always there but while it is dropped.
    Unix(Option<OwnedWriteHalf>),
    Other(tokio::io::WriteHalf<Box<dyn Stream>>),
}

/// Why descriptors did not go.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The system would not take them, and nothing was sent: the stream is as it was.
    Refused(io::Error),
    /// The stream failed.
    Failed(io::Error),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        SendError::Failed(error)
    }
}

impl WriteHalf {
    /// Sends all of `bytes`, which are some, and `files` with the first of them.
    pub(crate) async fn send_with_files(
        &mut self,
        bytes: &[u8],
        files: &[OwnedFd],
    ) -> Result<(), SendError> {
        let WriteKind::Unix(Some(stream)) = &self.kind else {
            return Err(SendError::Refused(io::ErrorKind::Unsupported.into()));
        };
        let stream = stream.as_ref();
        let sent = stream
            .async_io(Interest::WRITABLE, || send(stream.as_fd(), bytes, files))
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected => SendError::Failed(error),
                _ => SendError::Refused(error),
            })?;
        self.write_all(bytes.get(sent..).unwrap_or_default())
            .await?;
        Ok(())
    }
}

/// Sends what fits of `bytes`, and all of `files` with the first of them.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
}

impl AsyncWrite for WriteKind {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteKind::Unix(Some(stream)) => Pin::new(stream).poll_write(cx, bytes),
            WriteKind::Unix(None) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            WriteKind::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // What was written to a socket is on its way.
            WriteKind::Unix(_) => Poll::Ready(Ok(())),
            WriteKind::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteKind::Unix(Some(stream)) => Pin::new(stream).poll_shutdown(cx),
            WriteKind::Unix(None) => Poll::Ready(Ok(())),
            WriteKind::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl WriteHalf {
    /// The layer, once it has begun.
    #[cfg(feature = "gssapi")]
    fn sealed(&mut self) -> Option<(&mut layer::Sealing, &mut WriteKind)> {
        if self.sealing.is_none() {
            self.sealing = self.layer.sealing();
        }
        Some((self.sealing.as_mut()?, &mut self.kind))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        #[cfg(feature = "gssapi")]
        if let Some((sealing, kind)) = this.sealed() {
            return sealing.poll_write(kind, cx, bytes);
        }
        Pin::new(&mut this.kind).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        #[cfg(feature = "gssapi")]
        if let Some((sealing, kind)) = this.sealed() {
            return sealing.poll_flush(kind, cx);
        }
        Pin::new(&mut this.kind).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        #[cfg(feature = "gssapi")]
        if let Some((sealing, kind)) = this.sealed() {
            ready!(sealing.poll_flush(kind, cx))?;
        }
        Pin::new(&mut this.kind).poll_shutdown(cx)
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        if let WriteKind::Unix(stream) = &mut self.kind
            && let Some(stream) = stream.take()
        {
            // By itself it would shut the socket down, also for those who have another descriptor of it.
            stream.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use tokio::io::AsyncReadExt;

    use super::*;

    /// An unnamed pipe with this text in it: its reading end.
    fn file(text: &str) -> OwnedFd {
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(text.as_bytes()).unwrap();
        read.into()
    }

    fn text(file: OwnedFd) -> String {
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        text
    }

    fn pair() -> (Transport, Transport) {
        let (one, other) = UnixStream::pair().unwrap();
        (Transport::new(one), Transport::new(other))
    }

    #[tokio::test]
    async fn only_a_unix_stream_passes_files() {
        let (unix, _other) = pair();
        assert!(unix.passes_files());
        let (duplex, _other) = tokio::io::duplex(64);
        let duplex = Transport::new(duplex);
        assert!(!duplex.passes_files());
        let (_, mut write) = duplex.split();
        let refused = write.send_with_files(b"x", &[file("")]).await;
        assert!(matches!(refused, Err(SendError::Refused(_))), "{refused:?}");
        // Nothing that wraps one either: it would be read past.
        let (wrapped, _other) = UnixStream::pair().unwrap();
        let wrapped = Transport::new(tokio::io::BufStream::new(wrapped));
        assert!(!wrapped.passes_files());
    }

    #[tokio::test]
    async fn files_arrive_with_their_bytes_and_in_order() {
        let (from, to) = pair();
        let (_keep, mut write) = from.split();
        let (mut read, _keep) = to.split();
        read.files_wanted().store(true, Ordering::Relaxed);
        write.write_all(b"packet").await.unwrap();
        for content in ["one", "two"] {
            write.send_with_files(&[0], &[file(content)]).await.unwrap();
        }
        let both = [file("three"), file("four")];
        write.send_with_files(b"more", &both).await.unwrap();
        drop(both);
        let mut bytes = [0; 12];
        read.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"packet\0\0more");
        let came: Vec<_> = read.files().drain(..).map(text).collect();
        assert_eq!(came, ["one", "two", "three", "four"]);
    }

    /// Whether the other end of the pipe has gone, so that nobody holds the descriptor any more.
    fn is_closed(mut write: io::PipeWriter) -> bool {
        write.write_all(b"x").is_err()
    }

    #[tokio::test]
    async fn files_that_nobody_wants_are_closed() {
        let (from, to) = pair();
        let (_keep, mut write) = from.split();
        let (mut read, _keep) = to.split();
        let (unwanted, unwanted_writer) = io::pipe().unwrap();
        let unwanted = [OwnedFd::from(unwanted)];
        write.send_with_files(b"1", &unwanted).await.unwrap();
        drop(unwanted);
        read.read_exact(&mut [0]).await.unwrap();
        assert!(is_closed(unwanted_writer));

        read.files_wanted().store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for _ in 0..MOST_KEPT + 3 {
            let (file, writer) = io::pipe().unwrap();
            write.send_with_files(b"2", &[file.into()]).await.unwrap();
            read.read_exact(&mut [0]).await.unwrap();
            writers.push(writer);
        }
        assert_eq!(read.files().len(), MOST_KEPT);
        let too_many = writers.split_off(MOST_KEPT);
        assert!(too_many.into_iter().all(is_closed));
        drop(read);
        assert!(writers.into_iter().all(is_closed));
    }

    /// The system's buffer takes only a part of it at once; the descriptor goes with the first byte.
    #[tokio::test]
    async fn a_long_text_with_a_file_arrives_whole() {
        let (from, to) = pair();
        let (_keep, mut write) = from.split();
        let (mut read, _keep) = to.split();
        read.files_wanted().store(true, Ordering::Relaxed);
        let long: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let sending = async {
            write
                .send_with_files(&long, &[file("with it")])
                .await
                .unwrap();
        };
        let mut first = [0; 1];
        let mut rest = vec![0; long.len() - 1];
        let receiving = async {
            read.read_exact(&mut first).await.unwrap();
            assert_eq!(read.files().len(), 1);
            read.read_exact(&mut rest).await.unwrap();
        };
        tokio::join!(sending, receiving);
        assert_eq!(first, long[..1]);
        assert!(rest == long[1..]);
        assert_eq!(text(read.files().pop_front().unwrap()), "with it");
    }

    #[tokio::test]
    async fn what_the_system_refuses_leaves_the_stream_as_it_was() {
        let (from, to) = pair();
        let (_keep, mut write) = from.split();
        let (mut read, _keep) = to.split();
        let one = file("");
        let many: Vec<_> = (0..MOST_FILES + 1)
            .map(|_| one.try_clone().unwrap())
            .collect();
        let refused = write.send_with_files(b"x", &many).await;
        assert!(matches!(refused, Err(SendError::Refused(_))), "{refused:?}");
        write.write_all(b"y").await.unwrap();
        let mut byte = [0];
        read.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
        drop(read);
    }

    /// A socket that others have a descriptor of too is not shut down for them.
    #[tokio::test]
    async fn dropping_the_halves_closes_and_does_not_shut_down() {
        let (one, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        let kept = one.try_clone().unwrap();
        one.set_nonblocking(true).unwrap();
        let halves = Transport::new(UnixStream::from_std(one).unwrap()).split();
        drop(halves);
        (&kept).write_all(b"still open").unwrap();
        drop(kept);
        let mut came = String::new();
        other.read_to_string(&mut came).unwrap();
        assert_eq!(came, "still open");
    }

    /// Reading a file through a descriptor that was passed moves the sender's place in it too: it is one open file.
    #[tokio::test]
    async fn what_arrives_is_the_same_open_file() {
        let (from, to) = pair();
        let (_keep, mut write) = from.split();
        let (mut read, _keep) = to.split();
        read.files_wanted().store(true, Ordering::Relaxed);
        let mut sent = File::open("/proc/self/exe").unwrap();
        let copy = [OwnedFd::from(sent.try_clone().unwrap())];
        write.send_with_files(b"x", &copy).await.unwrap();
        read.read_exact(&mut [0]).await.unwrap();
        let mut came = File::from(read.files().pop_front().unwrap());
        came.seek(io::SeekFrom::Start(77)).unwrap();
        assert_eq!(sent.stream_position().unwrap(), 77);
    }
}
