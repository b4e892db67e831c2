//! A child process whose standard input and output are the stream: QEMU with its monitor there, or a program that leads to
//! a daemon, as ssh does. Imports error.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{Instant, Sleep};

use super::Command;
use crate::error::Error;

/// How long a QEMU that has closed its output may take to end by itself, before it is killed: it has its disks to close.
const GRACE: Duration = Duration::from_secs(30);

/// How long a program that leads to a daemon may take to end once its input has, before it is killed.
const SHORT_GRACE: Duration = Duration::from_secs(1);

/// How often a child that ends is looked after.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How much of its standard error is kept: the end.
const LAST_WORDS: usize = 8 * 1024;

/// How long to wait, after the end of its output, for the child's end and that of its standard error. A process that it
/// left behind, as ssh's shared connections do, may hold the latter open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// The standard input and output of a child that ends with it.
pub(crate) struct ChildStream {
    /// Always there but while it is dropped.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Always there but while it is dropped.
    child: Option<Child>,
    /// Whether the child has closed its output.
    ended: bool,
    /// Its standard error, where it is piped and nobody has taken it: it is read in any case, since a full pipe stops a child.
    stderr: Option<ChildStderr>,
    /// What it says there, where that is of interest.
    words: Option<Words>,
}

impl ChildStream {
    /// Over a child whose standard input and output are both piped and have not been taken. It ends where not.
    pub(crate) fn new(mut child: Child) -> Result<Self, Error> {
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(ChildStream {
                stdin: Some(stdin),
                stdout,
                stderr: child.stderr.take(),
                child: Some(child),
                ended: false,
                words: None,
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

    /// Starts `command`, a program that leads to the daemon `target`. The end of its output is then told as an error with
    /// what it said on standard error, where it said anything or failed.
    pub(super) fn spawn(command: &Command, target: &str) -> Result<Self, Error> {
        let program = command.program.to_string_lossy().into_owned();
        let child = tokio::process::Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::Connect {
                target: target.to_owned(),
                source: Arc::new(io::Error::new(error.kind(), format!("{program}: {error}"))),
            })?;
        let mut stream = ChildStream::new(child)?;
        stream.words = Some(Words {
            program,
            tail: VecDeque::new(),
            until: None,
            tick: None,
        });
        Ok(stream)
    }
}

impl ChildStream {
    /// The end of the child's output: as such where all went well or nobody asks, else as the error that it was.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            read_words(&mut self.stderr, &mut self.words, cx);
            let (Some(words), Some(child)) = (&mut self.words, &mut self.child) else {
                return Poll::Ready(Ok(()));
            };
            let status = child.try_wait().ok().flatten();
            let now = Instant::now();
            let until = *words.until.get_or_insert(now + LAST_WORDS_WITHIN);
            if (status.is_some() && self.stderr.is_none()) || now >= until {
                return Poll::Ready(words.verdict(status));
            }
            let tick = words
                .tick
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_AGAIN)));
            ready!(tick.as_mut().poll(cx));
            words.tick = None;
        }
    }
}

impl AsyncRead for ChildStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ended {
            let before = buf.filled().len();
            let result = Pin::new(&mut this.stdout).poll_read(cx, buf);
            // After it: what is said there without end must not keep the rest from being read.
            read_words(&mut this.stderr, &mut this.words, cx);
            let at_end = matches!(result, Poll::Ready(Ok(()))) && buf.filled().len() == before;
            this.ended = at_end && buf.remaining() > 0;
            if !this.ended {
                return result;
            }
        }
        this.poll_end(cx)
    }
}

impl AsyncWrite for ChildStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(stdin) = &mut self.stdin else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        match Pin::new(stdin).poll_write(cx, bytes) {
            // Whoever reads learns why, and ends the connection with that.
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::BrokenPipe && self.words.is_some() =>
            {
                Poll::Pending
            }
            result => result,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for ChildStream {
    fn drop(&mut self) {
        let grace = match (&self.words, self.ended) {
            (Some(_), _) => SHORT_GRACE,
            (None, true) => GRACE,
            (None, false) => Duration::ZERO,
        };
        // The end of its input is what tells ssh, and what it runs, to end.
        self.stdin = None;
        if let Some(child) = self.child.take() {
            reap(child, grace);
        }
    }
}

/// Reads what has come on standard error, and keeps the end of it where that is of interest.
fn read_words(stderr: &mut Option<ChildStderr>, words: &mut Option<Words>, cx: &mut Context<'_>) {
    let mut space = [0; 1024];
    while let Some(open) = stderr {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(open).poll_read(cx, &mut buf) {
            Poll::Pending => return,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                if let Some(words) = words {
                    words.keep(buf.filled());
                }
            }
            Poll::Ready(_) => *stderr = None,
        }
    }
}

/// The end of what a child has said on standard error.
struct Words {
    program: String,
    tail: VecDeque<u8>,
    /// When to stop waiting for the last of it.
    until: Option<Instant>,
    tick: Option<Pin<Box<Sleep>>>,
}

impl Words {
    fn keep(&mut self, said: &[u8]) {
        self.tail.extend(said);
        let over = self.tail.len().saturating_sub(LAST_WORDS);
        self.tail.drain(..over);
    }

    fn verdict(&mut self, status: Option<ExitStatus>) -> io::Result<()> {
        let said = lines(self.tail.make_contiguous());
        let well = status.is_none_or(|status| status.success());
        if well && said.is_empty() {
            return Ok(());
        }
        let status = match status {
            Some(status) => format!("{} ended ({status})", self.program),
            None => format!("{} closed its output", self.program),
        };
        let text = match said.is_empty() {
            true => status,
            false => format!("{status}: {said}"),
        };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }
}

/// The lines of a text in one, without what a terminal would obey.
fn lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.split(['\n', '\r']).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(char::is_control, "?")
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
    let until = std::time::Instant::now() + grace;
    // Where there can be no thread, the child goes here: killed or not, tokio reaps it when it ends.
    let _ = std::thread::Builder::new()
        .name("qmp-child".to_owned())
        .spawn(move || {
            let mut killed = grace.is_zero();
            while matches!(child.try_wait(), Ok(None)) {
                if !killed && std::time::Instant::now() >= until {
                    let _ = child.start_kill();
                    killed = true;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        });
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn shell(script: &str) -> ChildStream {
        let command = Command {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
        };
        ChildStream::spawn(&command, "here").unwrap()
    }

    async fn read_to_end(mut stream: ChildStream) -> (String, io::Result<()>) {
        let mut text = Vec::new();
        let result = stream.read_to_end(&mut text).await.map(|_| ());
        (String::from_utf8(text).unwrap(), result)
    }

    /// More than any pipe holds, before and after its output.
    const COMPLAINTS: &str =
        "head -c 3000000 /dev/zero >&2; echo done; head -c 3000000 /dev/zero >&2";

    #[tokio::test]
    async fn a_child_that_complains_is_not_stopped_by_that() {
        let child = tokio::process::Command::new("sh")
            .args(["-c", COMPLAINTS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for stream in [ChildStream::new(child).unwrap(), shell(COMPLAINTS)] {
            let read = tokio::time::timeout(Duration::from_secs(60), read_to_end(stream)).await;
            assert_eq!(read.unwrap().0, "done\n");
        }
    }

    #[tokio::test]
    async fn what_it_said_comes_with_the_end() {
        let (text, end) = read_to_end(shell(
            "echo out; echo one >&2; printf 'two\\033' >&2; exit 3",
        ))
        .await;
        assert_eq!(text, "out\n");
        let end = end.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(end.to_string(), "sh ended (exit status: 3): one; two?");
        let (_, end) = read_to_end(shell("exit 4")).await;
        assert_eq!(end.unwrap_err().to_string(), "sh ended (exit status: 4)");
        let (text, end) = read_to_end(shell("echo fine")).await;
        assert_eq!(text, "fine\n");
        end.unwrap();
    }

    /// It fills no pipe, and only its end is kept.
    #[tokio::test]
    async fn a_child_that_says_much_is_not_held_up() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo 'line of sixty bytes or so, to fill the pipe of standard error' >&2; \
                      i=$((i + 1)); done; echo last >&2; echo out";
        let (text, end) = read_to_end(shell(script)).await;
        assert_eq!(text, "out\n");
        let end = end.unwrap_err().to_string();
        assert!(
            end.ends_with("; last") && end.len() < LAST_WORDS + 1024,
            "{}",
            end.len()
        );
    }

    #[tokio::test]
    async fn one_that_left_somebody_with_its_standard_error_is_not_waited_for() {
        let started = Instant::now();
        let (_, end) = read_to_end(shell("exec sleep 30 >/dev/null & echo gone >&2; exit 1")).await;
        assert!(end.unwrap_err().to_string().ends_with("gone"));
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    /// The reason comes from the reader, whoever notices first.
    #[tokio::test]
    async fn writing_to_one_that_has_ended_waits_for_the_reader() {
        let stream = shell("exec <&-; echo why >&2; exit 1");
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = async {
            loop {
                write.write_all(&[0; 4096]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut text = Vec::new();
        let end = tokio::select! {
            () = writing => unreachable!(),
            end = read.read_to_end(&mut text) => end.unwrap_err(),
        };
        assert!(end.to_string().ends_with("why"), "{end}");
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_named() {
        let command = Command {
            program: "/no/such/program".into(),
            arguments: Vec::new(),
        };
        match ChildStream::spawn(&command, "here").err().unwrap() {
            Error::Connect { target, source } => {
                assert_eq!(target, "here");
                assert_eq!(source.kind(), io::ErrorKind::NotFound);
                assert!(
                    source.to_string().starts_with("/no/such/program: "),
                    "{source}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether the process is there, a zombie included.
    fn is_there(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn dropped_it_is_ended_and_reaped() {
        for script in ["cat >/dev/null", "trap '' PIPE TERM; exec sleep 60"] {
            let stream = shell(script);
            let pid = stream.child.as_ref().unwrap().id().unwrap();
            assert!(is_there(pid));
            drop(stream);
            let limit = std::time::Instant::now() + Duration::from_secs(30);
            while is_there(pid) {
                assert!(std::time::Instant::now() < limit, "{script}");
                tokio::task::yield_now().await;
            }
        }
    }
}
