//! A monitor on a QMP socket that is connected on first use. Imports driver, monitor and error.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OnceCell, watch};

use crate::config::Config;
use crate::driver::{QmpAddress, SocketMonitor};
use crate::error::Error;
use crate::monitor::{EventOptions, EventStream, Monitor, MonitorFuture, RunOptions, SchemaCell};

/// The monitor at an address; one at none, where the address is not known.
pub(super) struct Later {
    name: String,
    address: Option<QmpAddress>,
    config: Config,
    monitor: OnceCell<SocketMonitor>,
    closed: watch::Sender<bool>,
    schema: SchemaCell,
}

impl Later {
    pub(super) fn new(name: &str, address: Option<QmpAddress>, config: Config) -> Self {
        Later {
            name: name.to_owned(),
            address,
            config,
            monitor: OnceCell::new(),
            closed: watch::Sender::new(false),
            schema: SchemaCell::new(),
        }
    }

    /// The monitor, its socket connected. What fails may be tried again.
    async fn monitor(&self) -> Result<&SocketMonitor, Error> {
        let mut closed = self.closed.subscribe();
        let monitor = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
            monitor = self.monitor.get_or_try_init(|| self.dial()) => monitor?,
        };
        // Disconnected in this moment: whoever did it may have seen no monitor yet.
        if *self.closed.borrow() {
            monitor.disconnect().await?;
            return Err(Error::Closed);
        }
        Ok(monitor)
    }

    async fn dial(&self) -> Result<SocketMonitor, Error> {
        match &self.address {
            Some(address) => SocketMonitor::dial(address.clone(), self.config.clone()).await,
            None => Err(Error::Connect {
                target: self.name.clone(),
                source: Arc::new(io::Error::new(
                    io::ErrorKind::NotFound,
                    "no socket has this name",
                )),
            }),
        }
    }
}

impl Monitor for Later {
    fn connect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async { self.monitor().await?.connect().await })
    }

    fn disconnect(&self) -> MonitorFuture<'_, ()> {
        Box::pin(async {
            self.closed.send_replace(true);
            match self.monitor.get() {
                Some(monitor) => monitor.disconnect().await,
                None => Ok(()),
            }
        })
    }

    fn run<'a>(&'a self, command: &'a [u8]) -> MonitorFuture<'a, Bytes> {
        Box::pin(async move { self.monitor().await?.run(command).await })
    }

    fn events(&self) -> MonitorFuture<'_, EventStream> {
        Box::pin(async { self.monitor().await?.events().await })
    }

    fn run_with<'a>(
        &'a self,
        command: &'a [u8],
        options: RunOptions<'a>,
    ) -> MonitorFuture<'a, Bytes> {
        Box::pin(async move { self.monitor().await?.run_with(command, options).await })
    }

    fn events_with(&self, options: EventOptions) -> MonitorFuture<'_, EventStream> {
        Box::pin(async move { self.monitor().await?.events_with(options).await })
    }

    fn schema_cell(&self) -> Option<&SchemaCell> {
        Some(&self.schema)
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("monitor", &self.monitor.get())
            .finish()
    }
}
