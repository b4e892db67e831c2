//! Streams: data besides calls and replies, such as the content of a volume or a console (`VIR_NET_STREAM`).
//! `state` is one stream without I/O, `table` all of a connection's, and this the handle that a user has.

mod state;
mod table;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Client, Shared, finish, trace_call};
use crate::connection::{CallOptions, Encoded};
use crate::error::{Error, LibvirtError, Phase};
use crate::inflight::Outgoing;
use crate::packet::{Header, PREFIX};
use crate::protocol::remote;

use state::{Closing, Opened, State, Taken};
pub(super) use table::Streams;
use table::{Core, LOOK_UP, Opening};

/// `REMOTE_PROC_STORAGE_VOL_UPLOAD` and `…_DOWNLOAD`, the procedures whose streams may have holes, and the flag for it, in
/// the last word of their arguments (`VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`, `VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM`).
const WITH_HOLES: [i32; 2] = [208, 209];
const SPARSE: u8 = 1;

/// The zeros of a hole that are read at once.
const ZEROS: u64 = 64 * 1024;

/// A part of what a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// Data, at least a byte.
    Data(Bytes),
    /// So many zero bytes, at least one, that are not sent as such; only in a stream that was opened as a sparse one.
    Hole(u64),
}

/// Data between a program and libvirtd, opened by a call: the content of a volume, a console, a screenshot, a migration.
///
/// Reading is by [`AsyncRead`], or by [`recv`](Stream::recv), which also tells holes. Writing is by [`AsyncWrite`]. Whether
/// the daemon sends, takes or does both depends on the call. [`finish`](Stream::finish) ends a stream and is how
/// the errors of the last writes are learned; `shutdown` of `AsyncWrite` does the same. A stream that is dropped before
/// is aborted.
///
/// An error of the daemon in the middle reaches the reader after the data before it, the writer, and `finish`. It is in
/// the [`std::io::Error`] of the I/O traits as its inner error.
///
/// # Memory, and the other calls of the connection
///
/// What is written waits in 512 KiB at most; then writing waits for the daemon. What comes waits in 1 MiB at most, over
/// all streams of a connection; then the socket is not read until something is taken, and replies and events behind the
/// data wait too, for libvirt's RPC cannot hold one stream back alone. While a call waits for its reply or another
/// stream's consumer for data, up to 16 MiB (and the packet that goes over it) may wait instead. A consumer that
/// takes nothing for 30 s while more than that is there and others wait loses its stream with an [`Error::Timeout`]
/// of [`Phase::Consumer`]. So a stream is best read by a task that waits for nothing else on the same connection, or on
/// a connection of its own. A connection that is held up so is kept alive.
///
/// libvirtd stops reading a connection that has `max_client_requests` (5) calls and stream packets which it is not done
/// with: one that writes to a console whose guest does not read holds up the others on the connection.
///
/// # Examples
///
/// ```no_run
/// use libvirt_qmp::Stream;
/// use tokio::io::AsyncWrite;
///
/// /// Writes all that a stream brings to `to`.
/// async fn save(
///     mut stream: Stream,
///     mut to: impl AsyncWrite + Unpin,
/// ) -> Result<u64, Box<dyn std::error::Error>> {
///     let bytes = tokio::io::copy(&mut stream, &mut to).await?;
///     // What the daemon could not read, or write, is an error here. A stream that is dropped instead is aborted.
///     stream.finish().await?;
///     Ok(bytes)
/// }
/// ```
pub struct Stream {
    core: Arc<Core>,
    /// The connection it is on. It ends with that, also where another takes its place.
    shared: Arc<Shared>,
    /// Keeps the connection open.
    _client: Client,
    name: &'static str,
    sparse: bool,
    /// What is left of an item that was read in part.
    rest: Option<StreamItem>,
    /// How long the daemon may take to confirm the end.
    timeout: Option<Duration>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Client {
    /// Makes a call that opens a stream.
    ///
    /// Cancel safety: dropping the future before the call was sent sends nothing; after that the stream is aborted as soon
    /// as the daemon has opened it.
    pub(crate) async fn open_stream(
        &self,
        mut call: Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Result<(Bytes, Stream), Error> {
        trace_call(name);
        let (shared, slot) = self.admit(options).await?;
        let stream = Stream::new(self, shared.clone(), &call, name, options);
        call.announce = Some(Arc::new(Opening(stream.core.clone())));
        let reply = shared.send_in(slot, call, options).await?;
        Ok((finish(name, reply.status, reply.payload)?, stream))
    }
}

impl Shared {
    /// Holds the reader up while there is too much that nobody takes. The daemon, which cannot be heard meanwhile, is shown
    /// that we live.
    pub(super) async fn wait_for_consumers(&self) {
        let calls = &self.connection.calls;
        // However often it is woken meanwhile.
        let mut look_up = None;
        while self.streams.must_pause(|| calls.pause()) {
            let at = *look_up.get_or_insert_with(|| Instant::now() + LOOK_UP);
            tokio::select! {
                () = self.streams.resumed() => {}
                () = calls.resume.notified() => {}
                () = tokio::time::sleep_until(at) => {
                    look_up = None;
                    self.show_life();
                    if let Some(abort) = self.streams.look_up(!calls.pause()) {
                        calls.submit_turn(abort);
                    }
                }
            }
        }
    }

    /// Takes note of a reply that may have opened a stream.
    pub(super) fn stream_replied(&self, header: Header) {
        if let Some(abort) = self.streams.replied(header.serial, header.status) {
            self.connection.calls.submit_turn(abort);
        }
    }
}

impl Stream {
    fn new(
        client: &Client,
        shared: Arc<Shared>,
        call: &Encoded,
        name: &'static str,
        options: &CallOptions<'_>,
    ) -> Self {
        let (program, procedure) = call.procedure;
        let version = call
            .bytes
            .first_chunk::<PREFIX>()
            .map_or(1, |head| Header::read(head).version);
        let header = Header::call(program, version, procedure, 0);
        let may_have_holes = program == remote::PROGRAM && WITH_HOLES.contains(&procedure);
        Stream {
            core: Core::new(State::new(header, name), shared.streams.clone()),
            shared,
            _client: client.clone(),
            name,
            sparse: may_have_holes && call.bytes.last().is_some_and(|flags| flags & SPARSE != 0),
            rest: None,
            timeout: options.deadline.map(|(_, timeout)| timeout),
            deadline: None,
        }
    }

    /// The next data or hole; none after the last. What is taken here is not read again, and a part that
    /// [`AsyncRead`] has left comes first.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`] where the daemon gave the stream up, [`Error::Disconnected`] where the connection ended,
    /// [`Error::Decode`] for what no stream may bring, [`Error::Timeout`] as the documentation of [`Stream`] says. All
    /// after the data before it; it stays.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Result<Option<StreamItem>, Error> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Sends so many zero bytes as a hole, after all that was written. Waits while there is no room, as writing does.
    /// No length is no hole.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the stream was not opened as a sparse upload
    /// (`VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`), for libvirtd closes a connection that sends one on another stream, or
    /// where `length` is over `i64::MAX`; nothing was sent. Otherwise why the stream has ended, as in
    /// [`finish`](Stream::finish); [`Error::Closed`] where its user has finished it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future sends nothing.
    pub async fn send_hole(&mut self, length: u64) -> Result<(), Error> {
        if !self.sparse {
            let reason = "holes in a stream that was not opened as a sparse one";
            return Err(Error::Unsupported(reason.to_owned()));
        }
        let length = i64::try_from(length)
            .map_err(|_| Error::Unsupported(format!("a hole of {length} bytes")))?;
        if length == 0 {
            return Ok(());
        }
        poll_fn(|cx| self.poll_queue(cx, |state| state.queue_hole(length)))
            .await
            .map(|_| ())
    }

    /// Ends the stream: tells the daemon that all was sent or taken, and waits until it has confirmed that, for
    /// [`Config::call_timeout`](crate::Config::call_timeout) at most. What has come and was not read is dropped, so read
    /// to the end first. The errors of the last writes show up here and nowhere else.
    ///
    /// A stream that has ended gives the same answer again.
    ///
    /// # Errors
    ///
    /// [`Error::Libvirt`] where the daemon could not write, read or close what is behind the stream;
    /// [`Error::Timeout`]; [`Error::Disconnected`]. In each case part of what was sent may have been written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting; calling again goes on.
    pub async fn finish(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_close(cx, Closing::Finish)).await
    }

    /// Gives the stream up: what waits to be sent is not, what comes is dropped, and the daemon is told. Waits until it has
    /// confirmed that, after which what was behind the stream is free again.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Disconnected`]. What the daemon had against the stream is no error here.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the stream all the same.
    pub async fn abort(mut self) -> Result<(), Error> {
        match poll_fn(|cx| self.poll_close(cx, Closing::Abort)).await {
            Err(error @ (Error::Timeout { .. } | Error::Disconnected { .. })) => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<StreamItem>, Error>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Ok(Some(rest)));
        }
        let streams = self.core.streams();
        let mut state = self.core.lock();
        if let Some((item, cost)) = state.take() {
            drop(state);
            streams.taken(cost);
            return Poll::Ready(Ok(Some(item)));
        }
        if let Some(end) = state.end_of_incoming() {
            return Poll::Ready(end.map(|()| None));
        }
        state.reader = Some(cx.waker().clone());
        drop(state);
        streams.look_again();
        Poll::Pending
    }

    /// Queues what `queue` does, once there is room.
    fn poll_queue(
        &mut self,
        cx: &mut Context<'_>,
        queue: impl Fn(&mut State) -> Taken,
    ) -> Poll<Result<usize, Error>> {
        let mut state = self.core.lock();
        if let Some(end) = &state.closed {
            return Poll::Ready(Err(end.clone().err().unwrap_or(Error::Closed)));
        }
        if state.closing != Closing::No {
            return Poll::Ready(Err(Error::Closed));
        }
        match queue(&mut state) {
            Taken::Full => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Taken::Bytes(taken) => {
                let turn = state.takes_turn();
                drop(state);
                self.send_if(turn);
                Poll::Ready(Ok(taken))
            }
        }
    }

    /// Ends the stream in this way, unless it has ended, and waits for that.
    fn poll_close(&mut self, cx: &mut Context<'_>, how: Closing) -> Poll<Result<(), Error>> {
        let mut state = self.core.lock();
        if let Some(end) = state.closed.clone() {
            return Poll::Ready(end);
        }
        let freed = state.discard();
        self.rest = None;
        match (state.closing, how) {
            (Closing::No, Closing::Finish) => state.queue_finish(),
            (Closing::No | Closing::Finish, Closing::Abort) => state.queue_abort(),
            _ => {}
        }
        state.closer = Some(cx.waker().clone());
        let turn = state.takes_turn();
        drop(state);
        self.core.streams().taken(freed);
        self.send_if(turn);
        ready!(self.poll_deadline(cx));
        self.core.lock().closer = None;
        Poll::Ready(Err(Error::Timeout {
            phase: Phase::Reply,
            after: self.timeout.unwrap_or_default(),
            maybe_executed: true,
        }))
    }

    /// Ready when the daemon has taken too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        let sleep = || Box::pin(tokio::time::sleep(timeout));
        let deadline = self.deadline.get_or_insert_with(sleep);
        ready!(deadline.as_mut().poll(cx));
        self.deadline = None;
        Poll::Ready(())
    }

    /// Gives the stream a turn among what is sent, where it is to have one.
    fn send_if(&self, turn: bool) {
        if turn {
            let calls = &self.shared.connection.calls;
            calls.submit_turn(self.core.clone() as Arc<dyn Outgoing>);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("procedure", &self.name)
            .field("sparse", &self.sparse)
            .finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.core.lock();
        let freed = state.discard();
        state.closer = None;
        state.reader = None;
        let serial = state.header.serial;
        let open = state.closed.is_none() && state.opened == Opened::Yes;
        if open {
            state.queue_abort();
        } else if state.opened == Opened::No {
            state.opened = Opened::Unwanted;
        }
        let turn = open && state.takes_turn();
        drop(state);
        if open {
            self.core.streams().forget(serial);
        }
        self.core.streams().taken(freed);
        self.send_if(turn);
    }
}

impl AsyncRead for Stream {
    /// A hole reads as zeros.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let item = ready!(self.poll_recv(cx)).map_err(io_error)?;
        self.rest = match item {
            None => None,
            Some(StreamItem::Data(mut data)) => {
                let count = data.len().min(buf.remaining());
                buf.put_slice(&data[..count]);
                data.advance(count);
                (!data.is_empty()).then_some(StreamItem::Data(data))
            }
            Some(StreamItem::Hole(length)) => {
                let count = usize::try_from(length.min(ZEROS)).unwrap_or(usize::MAX);
                let count = count.min(buf.remaining());
                buf.initialize_unfilled_to(count).fill(0);
                buf.advance(count);
                let rest = length - count as u64;
                (rest > 0).then_some(StreamItem::Hole(rest))
            }
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_queue(cx, |state| state.queue_data(data))
            .map_err(io_error)
    }

    /// Waits until all that was written is on its way to the daemon.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.core.lock();
        match &state.closed {
            Some(end) => Poll::Ready(end.clone().map_err(io_error)),
            None if !state.has_outgoing() => Poll::Ready(Ok(())),
            None => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// As [`Stream::finish`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .poll_close(cx, Closing::Finish)
            .map_err(io_error)
    }
}

/// An error as the I/O traits carry it: with the kind that fits, and the error itself inside.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Closed => io::ErrorKind::BrokenPipe,
        Error::Disconnected { .. } => io::ErrorKind::ConnectionAborted,
        Error::Timeout { .. } => io::ErrorKind::TimedOut,
        Error::Decode { .. } => io::ErrorKind::InvalidData,
        Error::Libvirt(libvirt) if libvirt.code == LibvirtError::SYSTEM_ERROR => {
            io::Error::from_raw_os_error(libvirt.int1).kind()
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
