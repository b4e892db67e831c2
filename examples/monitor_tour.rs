//! What a monitor can do, on any driver: one line of output for each thing. It stops the guest and lets it run again.
//!
//! `cargo run --example monitor_tour -- socket SOCKET`, with a QEMU that has `-qmp unix:SOCKET,server=on,wait=off`;
//! or `-- rpc LIBVIRT_SOCKET DOMAIN`, `-- virsh URI DOMAIN`, and with `--features libvirt-c` also `-- c URI DOMAIN`.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qmp::{
    After, Callbacks, Command, DomainExt, Error, EventFilter, EventOptions, History, LibvirtRpc,
    Monitor, MonitorExt, SocketMonitor, Transaction, Virsh, Wait, WaitExt,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let monitor: Arc<dyn Monitor> = match arguments[..] {
        ["socket", path] => Arc::new(SocketMonitor::unix(path).await?),
        ["rpc", socket, domain] => {
            let conn = UnixStream::connect(socket).await?;
            Arc::new(LibvirtRpc::new(domain, conn))
        }
        ["virsh", uri, domain] => Arc::new(Virsh::new(uri, domain)),
        #[cfg(feature = "libvirt-c")]
        ["c", uri, domain] => Arc::new(libvirt_qmp::LibvirtC::new(uri, domain)),
        _ => return Err("usage: monitor_tour DRIVER ADDRESS [DOMAIN]".into()),
    };
    for line in tour(monitor).await? {
        println!("{line}");
    }
    Ok(())
}

/// Shows the monitor, and disconnects it.
pub(crate) async fn tour(monitor: Arc<dyn Monitor>) -> Result<Vec<String>, Error> {
    let mut seen = Vec::new();
    monitor.connect().await?;
    questions(&*monitor, &mut seen).await?;
    commands(&*monitor, &mut seen).await?;
    files(&*monitor, &mut seen).await?;
    events(&*monitor, &mut seen).await?;
    callbacks(monitor.clone(), &mut seen).await?;
    monitor.disconnect().await?;
    let gone = monitor.run(br#"{"execute":"query-status"}"#).await;
    seen.push(format!(
        "closed: {}",
        gone.is_err_and(|error| error.is_closed())
    ));
    Ok(seen)
}

async fn questions(monitor: &dyn Monitor, seen: &mut Vec<String>) -> Result<(), Error> {
    seen.push(format!("QEMU {}", monitor.version().await?));
    let status: Value = monitor.query("status").await?;
    seen.push(format!("status: {}", status["status"]));
    let text = monitor.hmp("info status", 0).await?;
    seen.push(format!("human monitor: {}", text.trim_end()));
    seen.push(format!("CPUs: {}", monitor.cpus().await?.len()));
    let devices = monitor.block_devices().await?;
    seen.push(format!("block devices: {}", devices.len()));
    Ok(())
}

async fn commands(monitor: &dyn Monitor, seen: &mut Vec<String>) -> Result<(), Error> {
    let command = Command::new("device_del")
        .arg("id", "blk0")
        .timeout(PATIENCE);
    let schema = monitor.schema().await?;
    for warning in schema.check(&command)? {
        seen.push(format!("warning: {warning}"));
    }
    let wrong = Command::new("device_del").arg("name", "blk0");
    if let Err(problems) = schema.check(&wrong) {
        seen.push(format!("would be refused: {problems}"));
    }
    match monitor.execute::<Value>(command).await {
        Err(error) if error.is_device_not_found() => seen.push(error.to_string()),
        other => seen.push(format!("removed: {}", other?)),
    }
    match monitor.execute::<Value>(Command::new("no-such")).await {
        Err(Error::Qmp(error)) => seen.push(format!("{:?} {:?}", error.class, error.command)),
        other => seen.push(format!("{other:?}")),
    }
    // Only QEMU's own socket has a way out of band, and not every one.
    match monitor
        .execute::<Value>(Command::new("query-yank").oob())
        .await
    {
        Err(error) if error.is_unsupported() => seen.push(error.to_string()),
        other => seen.push(format!("out of band: {}", other?)),
    }
    let nothing = Transaction::new().property("completion-mode", "grouped");
    match monitor.transaction(nothing).await {
        Ok(()) => seen.push("a transaction of nothing".to_owned()),
        Err(error) => seen.push(error.to_string()),
    }
    Ok(())
}

async fn files(monitor: &dyn Monitor, seen: &mut Vec<String>) -> Result<(), Error> {
    let Ok(file) = File::open("/dev/null") else {
        return Ok(());
    };
    let getfd = Command::new("getfd").arg("fdname", "tour");
    let text = getfd.to_json()?;
    match monitor.run_with_files(&text, &[file.as_fd()]).await {
        Err(error) if error.is_unsupported() => return Ok(()),
        other => drop(other?),
    }
    // The same, with the file in the command.
    monitor.execute::<Value>(getfd.file(file)).await?;
    let closefd = Command::new("closefd").arg("fdname", "tour");
    monitor.execute::<Value>(closefd).await?;
    seen.push("a file was passed".to_owned());
    Ok(())
}

async fn events(monitor: &dyn Monitor, seen: &mut Vec<String>) -> Result<(), Error> {
    let history = monitor.history(History::CAPACITY).await?;
    let options = EventOptions::new(EventFilter::regex("^(STOP|RESUME)$")?).queue(16);
    let stream = monitor.events_with(options).await?;
    let mark = history.mark();

    let (_, how) = monitor
        .run_and_wait(Command::new("stop"), Wait::stop(), PATIENCE)
        .await?;
    let name = how.event().map_or("already", |event| event.name.as_str());
    seen.push(format!("stopped: {name}"));
    // What is so already is not waited for.
    let how = monitor.wait_for(Wait::stop(), PATIENCE).await?;
    seen.push(format!("still stopped: {}", how.is_already()));
    monitor
        .run_and_wait(Command::new("cont"), Wait::resume(), PATIENCE)
        .await?;

    let since = After::Seq(mark);
    let stop = history.get_events("STOP", since, PATIENCE).await?;
    history.wait_for("RESUME", since, PATIENCE).await?;
    let both = history.find_events(EventFilter::names(["STOP", "RESUME"]), since);
    seen.push(format!(
        "{} of {} events",
        stop.events.len(),
        both.events.len()
    ));
    drop(stream);
    Ok(())
}

async fn callbacks(monitor: Arc<dyn Monitor>, seen: &mut Vec<String>) -> Result<(), Error> {
    let callbacks = Callbacks::new(monitor);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let say = tell.clone();
    // Each stop is answered by a cont, whose reply comes to a callback too.
    let handler = callbacks.on_event("STOP", move |callbacks, item| {
        let say = say.clone();
        if item.is_ok() {
            callbacks.command(Command::new("cont"), move |_, reply| {
                let _ = say.send(json!({"cont": reply.is_ok()}));
            });
        }
    });
    let handler = handler.await?;
    callbacks.command(Command::new("stop"), move |_, reply| {
        let _ = tell.send(json!({"stop": reply.is_ok()}));
    });
    let both = [told.recv().await, told.recv().await];
    callbacks.wait_idle().await;
    drop(handler);
    let mut said: Vec<String> = both
        .into_iter()
        .flatten()
        .map(|it| it.to_string())
        .collect();
    said.sort();
    seen.push(format!("called back: {}", said.join(" ")));
    Ok(())
}
