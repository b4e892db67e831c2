//! QEMU as a child process that speaks QMP on its standard input and output. Imports error.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use crate::error::Error;

/// How long a child that has closed its output may take to end by itself, before it is killed: QEMU has its disks to close.
const GRACE: Duration = Duration::from_secs(30);

/// How often a child that ends is looked after.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Bytes of standard error that are passed over at once.
const DRAIN: usize = 4096;

/// The standard input and output of a child that ends with it.
pub(super) struct ChildStream {
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Where it is piped and nobody has taken it: what comes there is passed over, since a full pipe stops QEMU.
    stderr: Option<ChildStderr>,
    /// Always there but while it is dropped.
    child: Option<Child>,
    /// Whether the child has closed its output.
    ended: bool,
}

impl ChildStream {
    /// Over a child whose standard input and output are both piped and have not been taken. It ends where not.
    pub(super) fn new(mut child: Child) -> Result<Self, Error> {
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(ChildStream {
                stdin,
                stdout,
                stderr: child.stderr.take(),
                child: Some(child),
                ended: false,
            }),
            _ => {
                let target = child.id().map_or("a child process".to_owned(), |id| {
                    format!("child process {id}")
                });
                reap(child, Duration::ZERO);
                let reason = "its standard input and output are not both piped";
                Err(Error::Connect {
                    target,
                    source: Arc::new(io::Error::new(io::ErrorKind::InvalidInput, reason)),
                })
            }
        }
    }
}

impl ChildStream {
    /// Passes over what has come on standard error.
    fn drain_errors(&mut self, cx: &mut Context<'_>) {
        let mut bytes = [MaybeUninit::uninit(); DRAIN];
        while let Some(stderr) = &mut self.stderr {
            let mut passed_over = ReadBuf::uninit(&mut bytes);
            match Pin::new(stderr).poll_read(cx, &mut passed_over) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !passed_over.filled().is_empty() => {}
                Poll::Ready(_) => self.stderr = None,
            }
        }
    }
}

impl AsyncRead for ChildStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stdout).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) && buf.filled().len() == before {
            self.ended = buf.remaining() > 0;
        }
        // After it: what is said there without end must not keep the rest from being read.
        self.drain_errors(cx);
        result
    }
}

impl AsyncWrite for ChildStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

impl Drop for ChildStream {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child, if self.ended { GRACE } else { Duration::ZERO });
        }
    }
}

/// Kills the child, after `grace` where it has not ended by then, and reaps it.
///
/// On a thread of its own, since no runtime may be left to wait on, and dropping must not take that long.
fn reap(mut child: Child, grace: Duration) {
    if grace.is_zero() {
        // One that has ended cannot be killed, and need not be.
        let _ = child.start_kill();
    }
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let until = Instant::now() + grace;
    // Where there can be no thread, the child goes here: killed or not, tokio reaps it when it ends.
    let _ = std::thread::Builder::new()
        .name("qmp-child".to_owned())
        .spawn(move || {
            let mut killed = grace.is_zero();
            while matches!(child.try_wait(), Ok(None)) {
                if !killed && Instant::now() >= until {
                    let _ = child.start_kill();
                    killed = true;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        });
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt;
    use tokio::process::Command;

    use super::*;

    /// More than any pipe holds.
    const LONG: &str = "head -c 3000000 /dev/zero >&2; echo done; head -c 3000000 /dev/zero >&2";

    #[tokio::test]
    async fn a_child_that_complains_is_not_stopped_by_that() {
        let child = Command::new("sh")
            .args(["-c", LONG])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stream = ChildStream::new(child).unwrap();
        let mut said = String::new();
        let reading = stream.read_to_string(&mut said);
        let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
        assert_eq!(read.unwrap().unwrap(), 5);
        assert_eq!(said, "done\n");
    }
}
