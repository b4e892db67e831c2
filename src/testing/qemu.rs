//! The stand-in for QEMU as its user sees it. Imports qmp, `machine`, `qmp_server` and `transport`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::DuplexStream;

use super::machine::{Machine, event};
use super::qmp_server::{MonitorPlace, serve};
use super::reply::Reply;
use super::transport::{Conn, Listener, Tasks};
use crate::qmp::{ErrorClass, Event, Version};

/// A QEMU to test against: it serves QMP as QEMU does, says what the test wants, and remembers what it was told.
///
/// Left alone it is QEMU 7.2 with a running guest and no devices: `query-status`, `query-version`, `query-name`,
/// `query-commands`, `human-monitor-command`, `stop`, `cont`, `system_reset`, `system_powerdown`, `quit`, `device_del`, `getfd`,
/// `add-fd` and some queries of what it has not got are answered, with their events, which come before the reply. Any other
/// command is `CommandNotFound` until the test says what it answers. One command runs at a time, whichever client it came
/// from; `exec-oob` is for those that QEMU knows as such and for [`allow_oob`](FakeQemu::allow_oob).
///
/// It is reached through a pipe ([`connect`](FakeQemu::connect)), a unix socket or TCP, or as a domain of a
/// [`FakeLibvirtd`](super::FakeLibvirtd). Each of these ways is a monitor of its own and serves one client at a time, as QEMU
/// does: a second one gets no greeting before the first has gone.
///
/// Clones are handles of the same QEMU. When the last is gone, its connections, tasks and sockets end, so a function given to
/// [`on_fn`](FakeQemu::on_fn) must not hold one.
///
/// Everything goes by tokio's clock: where it is paused, delays take no time.
#[derive(Clone)]
pub struct FakeQemu {
    inner: Arc<Inner>,
}

struct Inner {
    machine: Arc<Machine>,
    /// The monitor that `connect` leads to.
    pipe: MonitorPlace,
    tasks: Tasks,
}

impl Default for FakeQemu {
    fn default() -> Self {
        FakeQemu::new()
    }
}

impl FakeQemu {
    /// A QEMU with a running guest.
    pub fn new() -> Self {
        FakeQemu {
            inner: Arc::new(Inner {
                machine: Arc::new(Machine::new()),
                pipe: MonitorPlace::new(),
                tasks: Tasks::default(),
            }),
        }
    }

    /// Says what version it is, in its greeting, in `query-version` and in `info version`.
    pub fn version(&self, version: &Version) -> &Self {
        let mut state = self.machine().state();
        state.version = (version.major, version.minor, version.micro);
        state.package.clone_from(&version.package);
        drop(state);
        self
    }

    /// Says which capabilities its greeting offers; `oob` unless told otherwise.
    pub fn capabilities<'a>(&self, capabilities: impl IntoIterator<Item = &'a str>) -> &Self {
        self.machine().state().capabilities = capabilities.into_iter().map(str::to_owned).collect();
        self
    }

    /// Says what `query-name` answers.
    pub fn name(&self, name: impl Into<String>) -> &Self {
        self.machine().state().name = Some(name.into());
        self
    }

    /// Says what `query-status` answers: `running`, `paused`, `inmigrate`… No event comes of it.
    pub fn status(&self, status: impl Into<String>) -> &Self {
        self.machine().state().status = status.into();
        self
    }

    /// Spreads every message over several lines, as a monitor with `pretty=on` does.
    pub fn pretty(&self, pretty: bool) -> &Self {
        self.machine().state().pretty = pretty;
        self
    }

    /// Answers a command from now on with this: a [`Value`] is what its reply returns, and a [`Reply`] can be more. The
    /// stand-in's own behaviour for that command, events included, is off then.
    pub fn on(&self, command: impl Into<String>, reply: impl Into<Reply>) -> &Self {
        self.machine().script.on(command.into(), reply.into());
        self
    }

    /// Answers a command from now on with an error, by its class, such as `"DeviceNotFound"`, and its text.
    pub fn on_error(
        &self,
        command: impl Into<String>,
        class: impl Into<ErrorClass>,
        desc: impl Into<String>,
    ) -> &Self {
        self.on(command, Reply::error(class, desc))
    }

    /// Answers a command from now on with what `reply` makes of its arguments, an object.
    ///
    /// It must not hold this stand-in, which would then never end: events can go into the [`Reply`]. Where it panics the
    /// connection ends.
    pub fn on_fn<R: Into<Reply>>(
        &self,
        command: impl Into<String>,
        reply: impl Fn(&Value) -> R + Send + Sync + 'static,
    ) -> &Self {
        let make = Arc::new(move |arguments: &Value| reply(arguments).into());
        self.machine().script.on_fn(command.into(), make);
        self
    }

    /// Answers a command once with this, before what [`on`](FakeQemu::on) says; several calls are used in their order.
    pub fn once(&self, command: impl Into<String>, reply: impl Into<Reply>) -> &Self {
        self.machine().script.once(command.into(), reply.into());
        self
    }

    /// Never answers a command; those behind it are answered. For one that blocks all others see [`hold`](FakeQemu::hold).
    pub fn never(&self, command: impl Into<String>) -> &Self {
        self.on(command, Reply::never())
    }

    /// Waits so long before a command is executed, on tokio's clock. The commands behind it wait too, as in QEMU.
    pub fn delay(&self, command: impl Into<String>, delay: Duration) -> &Self {
        self.machine().script.delay(command.into(), delay);
        self
    }

    /// Does not execute a command before [`release`](FakeQemu::release). The commands behind it wait too, those of other
    /// clients included, as behind a command that blocks in QEMU; not even a handshake is answered.
    pub fn hold(&self, command: impl Into<String>) -> &Self {
        self.machine().script.hold(command.into());
        self
    }

    /// Ends a [`hold`](FakeQemu::hold).
    pub fn release(&self, command: &str) -> &Self {
        self.machine().script.release(command);
        self
    }

    /// Answers a line of the human monitor with this text. QEMU ends its lines with CR LF.
    pub fn on_hmp(&self, line: impl Into<String>, text: impl Into<String>) -> &Self {
        let said = (line.into(), text.into());
        self.machine().state().hmp.push(said);
        self
    }

    /// Lets a command be executed out of band.
    pub fn allow_oob(&self, command: impl Into<String>) -> &Self {
        self.machine().state().oob.insert(command.into());
        self
    }

    /// Answers a command of the guest agent, which [`FakeLibvirtd`](super::FakeLibvirtd) brings here. As soon as there is one,
    /// the domain has an agent that also answers `guest-ping` and `guest-sync`.
    pub fn on_agent(&self, command: impl Into<String>, reply: impl Into<Reply>) -> &Self {
        self.machine().agent.on(command.into(), reply.into());
        self
    }

    /// Says whether the guest agent is connected; it is unless told otherwise.
    pub fn agent_connected(&self, connected: bool) -> &Self {
        self.machine().state().agent_connected = connected;
        self
    }

    /// Sends an event of this moment to every client: `fake.event("STOP", None)`. It goes to those that have negotiated
    /// capabilities, and nobody gets it later.
    pub fn event(&self, name: impl Into<String>, data: impl Into<Option<Value>>) -> &Self {
        self.emit(&event(name.into(), data.into().as_ref()))
    }

    /// As [`event`](FakeQemu::event), with a timestamp of the test's own; its `domain` says nothing here.
    pub fn emit(&self, event: &Event) -> &Self {
        self.machine().tell(event);
        self
    }

    /// Sends bytes to every client of its monitors, greeted or not: half a message, or what is none.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) -> &Self {
        self.machine().send_raw(&bytes.into());
        self
    }

    /// Ends every connection, behind what is queued on it. New clients are served.
    pub fn close(&self) -> &Self {
        self.machine().close_clients();
        self
    }

    /// Ends every connection at once: what is queued is lost, and the last message may be cut. New clients are served.
    pub fn abort(&self) -> &Self {
        self.machine().abort_clients();
        self
    }

    /// Ends QEMU as a signal does that it cannot handle: connections end, and nobody is served any more. Its domain in a
    /// [`FakeLibvirtd`](super::FakeLibvirtd) does not run then.
    pub fn kill(&self) -> &Self {
        self.machine().end();
        self
    }

    /// Whether QEMU has ended, by [`kill`](FakeQemu::kill) or the command `quit`.
    pub fn has_ended(&self) -> bool {
        self.machine().has_ended()
    }

    /// The commands that came, oldest first, each as it was sent but for its `id`, which is the client's own affair. What
    /// belongs to the handshake is in [`negotiations`](FakeQemu::negotiations) instead.
    pub fn commands(&self) -> Vec<Value> {
        self.machine().script.commands()
    }

    /// Forgets the commands that came so far.
    pub fn clear_commands(&self) -> &Self {
        self.machine().script.clear_commands();
        self
    }

    /// The commands of the guest agent that came, oldest first.
    pub fn agent_commands(&self) -> Vec<Value> {
        self.machine().agent.commands()
    }

    /// Each `qmp_capabilities` that came, without its `id`.
    pub fn negotiations(&self) -> Vec<Value> {
        self.machine().state().negotiations.clone()
    }

    /// Waits for a command of this name and returns it, as [`commands`](FakeQemu::commands) would. Each command is returned
    /// once; one that came before the call counts. It has come then, but may not have been executed.
    ///
    /// Waits for ever: put `tokio::time::timeout` around it where a failing test should end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes no command.
    pub async fn wait_for_command(&self, command: &str) -> Value {
        self.machine().script.wait_for(command).await
    }

    /// Waits until a client of one of its own monitors has negotiated capabilities, so that it gets events.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only stops waiting.
    pub async fn wait_for_client(&self) {
        self.machine().wait_for_client().await;
    }

    /// Takes the descriptors that `getfd` and `add-fd` got, in the order of the commands. As in QEMU, a command takes the one
    /// that came last on its connection, and one that is replaced before is closed.
    pub fn files(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.machine().state().files)
    }

    /// A client's end of a pipe to its monitor, for [`SocketMonitor::new`](crate::SocketMonitor::new).
    ///
    /// Must be called inside a tokio runtime. No descriptors can be passed through it.
    pub fn connect(&self) -> DuplexStream {
        let (client, conn) = Conn::pipe();
        let (machine, place) = (self.machine().clone(), self.inner.pipe.clone());
        self.inner.tasks.spawn(serve(machine, place, conn));
        client
    }

    /// Listens on a unix socket, as `-qmp unix:PATH,server=on,wait=off` does. Must be called inside a tokio runtime. The
    /// file is removed with the stand-in.
    ///
    /// # Errors
    ///
    /// The system's, for one where the file is there already.
    pub fn listen_unix(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (listener, file) = Listener::unix(path.as_ref())?;
        self.inner.tasks.keep(file);
        self.listen(listener);
        Ok(())
    }

    /// Listens on a free TCP port of the loopback address, which is returned. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen_tcp(&self) -> io::Result<SocketAddr> {
        let (listener, addr) = Listener::tcp()?;
        self.listen(listener);
        Ok(addr)
    }

    fn listen(&self, listener: Listener) {
        let machine = self.machine().clone();
        let place = MonitorPlace::new();
        self.inner.tasks.spawn(async move {
            let each = |conn| serve(machine.clone(), place.clone(), conn);
            listener.serve(each, machine.wait_for_end()).await;
        });
    }

    pub(super) fn machine(&self) -> &Arc<Machine> {
        &self.inner.machine
    }
}

impl fmt::Debug for FakeQemu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeQemu")
            .field("script", &self.machine().script)
            .field("ended", &self.has_ended())
            .finish()
    }
}
