//! Runs lines, whoever typed them, and shows what comes of them. Imports `line`, `hmp`, `help`, `log`, `screen` and `secret`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use libvirt_qmp::{Command, Error, Monitor, MonitorExt, Schema};
use rustix::fs::OFlags;

use super::How;
use super::line::{self, Actions, Line, Shown};
use super::log::{Entry, Log};
use super::screen::Screen;
use super::{help, hmp, secret, transaction};
use crate::commands::run::{prepare, returned};
use crate::failure::Failure;
use crate::line::Request;
use crate::output::layout;

/// What is to come after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The line was empty.
    Nothing,
    More,
    Leave,
}

/// A monitor that lines are for.
pub(super) struct Session<'a> {
    monitor: &'a dyn Monitor,
    how: &'a How,
    screen: Screen,
    log: Option<Log>,
    /// The virtual CPU of HMP mode.
    cpu: Option<u32>,
    /// Which events are to be shown.
    events: Arc<Mutex<Shown>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        monitor: &'a dyn Monitor,
        how: &'a How,
        screen: Screen,
        log: Option<Log>,
    ) -> Self {
        Session {
            monitor,
            how,
            screen,
            log,
            cpu: None,
            events: Arc::new(Mutex::new(Shown::All)),
        }
    }

    /// The events that the user wants to see.
    pub(super) fn events(&self) -> Arc<Mutex<Shown>> {
        self.events.clone()
    }

    /// The virtual CPU that lines of HMP are for, where that is not QEMU's choice.
    pub(super) fn cpu(&self) -> Option<u32> {
        self.cpu
    }

    /// Whether the line is whole.
    pub(super) fn is_complete(&self, text: &str) -> bool {
        self.how.hmp || line::is_complete(text)
    }

    /// Does what the line says.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and why it could not be done.
    ///
    /// # Cancel safety
    ///
    /// A command that was sent may run; its reply is not shown.
    pub(super) async fn perform(&mut self, text: &str) -> Result<Next, Failure> {
        if self.how.hmp {
            return self.human(text).await;
        }
        match line::parse(text).map_err(Failure::usage)? {
            Line::Nothing => return Ok(Next::Nothing),
            Line::Leave => return Ok(Next::Leave),
            Line::Help(words) => {
                let text = match words.is_empty() {
                    true => help::QMP.to_owned(),
                    false => help::of(&words, &self.schema().await?).map_err(Failure::usage)?,
                };
                self.screen.show(text).await?;
            }
            Line::Events(shown) => {
                *self.events.lock().unwrap_or_else(PoisonError::into_inner) = shown;
            }
            Line::Command { text, file } => return self.command(&text, file.as_deref()).await,
            Line::Transaction(actions) => self.transaction(actions).await?,
        }
        Ok(Next::More)
    }

    async fn schema(&self) -> Result<Schema, Failure> {
        Ok(self.monitor.schema().await?)
    }

    async fn command(&mut self, text: &str, file: Option<&str>) -> Result<Next, Failure> {
        let Some(mut request) = Request::from_line(text).map_err(Failure::usage)? else {
            return Ok(Next::Nothing);
        };
        if let Some(path) = file {
            request.files.push(open(path)?.into());
        }
        let is_quit = request.name().as_deref() == Some("quit");
        let prepared = prepare(self.monitor, request, self.how.no_negotiation).await;
        let prepared = prepared.map_err(Failure::running)?;
        self.sending(&prepared.text).await?;
        let reply = prepared.run(self.monitor).await;
        self.answer(reply).await?;
        Ok(if is_quit { Next::Leave } else { Next::More })
    }

    async fn transaction(&mut self, actions: Actions) -> Result<(), Failure> {
        let schema = self.schema().await?;
        let text = transaction::to_json(&actions, &schema)?;
        self.sending(&text).await?;
        let reply = self.monitor.run(&text).await;
        self.answer(reply).await
    }

    async fn human(&mut self, text: &str) -> Result<Next, Failure> {
        match hmp::parse(text).map_err(Failure::usage)? {
            hmp::Line::Nothing => return Ok(Next::Nothing),
            hmp::Line::Leave => return Ok(Next::Leave),
            hmp::Line::Cpu(cpu) => {
                if cpu.is_some() {
                    // QEMU refuses any command for a CPU that is not there.
                    let checked = self.monitor.hmp("info version", cpu).await;
                    checked.map_err(Failure::running)?;
                }
                self.cpu = cpu;
            }
            hmp::Line::Command(line) => {
                let command = Command::new("human-monitor-command").arg("command-line", line);
                let command = match self.cpu {
                    Some(cpu) => command.arg("cpu-index", cpu),
                    None => command,
                };
                let text = command.to_json().map_err(Error::from)?;
                self.sending(&text).await?;
                let is_quit = matches!(line, "quit" | "q");
                let reply = self.monitor.run(&text).await;
                match reply {
                    // QEMU goes, often without a word.
                    Err(error) if is_quit && !error.is_timeout() && error.maybe_executed() => {}
                    reply => self.human_answer(reply).await?,
                }
                if is_quit {
                    return Ok(Next::Leave);
                }
            }
        }
        Ok(Next::More)
    }

    /// Says and logs what is about to be sent.
    async fn sending(&mut self, text: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(text);
        if let Some(log) = &self.log {
            log.add(Entry::Sent, &text)?;
        }
        if self.how.verbose {
            let shown = layout(&secret::redacted(&text), self.how.pretty);
            self.screen.show(shown).await?;
        }
        Ok(())
    }

    /// Shows what a command returned.
    async fn answer(&mut self, reply: Result<bytes::Bytes, Error>) -> Result<(), Failure> {
        self.received(&reply)?;
        let reply = reply.map_err(Failure::running)?;
        let text = returned(&reply, self.how.pretty)?;
        self.screen.show(text).await
    }

    /// Shows the text that a line of HMP returned.
    async fn human_answer(&mut self, reply: Result<bytes::Bytes, Error>) -> Result<(), Failure> {
        self.received(&reply)?;
        let reply = reply.map_err(Failure::running)?;
        let text: String = serde_json::from_str(&returned(&reply, false)?)
            .map_err(|error| Failure::new(crate::failure::Exit::Failed, error))?;
        let text = shown(&text);
        match text.is_empty() {
            true => Ok(()),
            false => self.screen.show(text).await,
        }
    }

    fn received(&self, reply: &Result<bytes::Bytes, Error>) -> Result<(), Failure> {
        let text = match reply {
            Ok(reply) => &reply[..],
            Err(Error::Qmp(error)) => &error.raw[..],
            Err(_) => return Ok(()),
        };
        match &self.log {
            Some(log) => log.add(Entry::Received, &String::from_utf8_lossy(text)),
            None => Ok(()),
        }
    }

    /// Shows whole lines.
    pub(super) async fn show(&mut self, text: String) -> Result<(), Failure> {
        self.screen.show(text).await
    }

    /// Waits until everything is shown.
    pub(super) async fn flush(&self) {
        self.screen.flush().await;
    }
}

/// The text of the human monitor, without what would control the terminal.
fn shown(text: &str) -> String {
    let lines: Vec<String> = text
        .trim_end()
        .lines()
        .map(|line| {
            let fields: Vec<String> = line.split('\t').map(crate::output::printable).collect();
            fields.join("\t")
        })
        .collect();
    lines.join("\n")
}

/// Opens a file for QEMU, to be read and written where that is allowed. A FIFO without another end is not waited for.
fn open(path: &str) -> Result<File, Failure> {
    let with = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
    };
    let file = with(true).or_else(|_| with(false));
    let file = file.map_err(|error| Failure::system(&format!("cannot open {path}"), error))?;
    // For QEMU it is a file as any other.
    rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK))
        .map_err(|error| Failure::system(&format!("cannot use {path}"), error.into()))?;
    Ok(file)
}
