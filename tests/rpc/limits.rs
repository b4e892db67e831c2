//! How many calls are in flight at once, on a connection and on a monitor, and what never waits for that.

use std::sync::Arc;

use libvirt_qmp::packet::{MessageType, Packet};
use libvirt_qmp::protocol::qemu::procedure::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister, DomainMonitorCommand,
};
use libvirt_qmp::protocol::remote::procedure::ConnectClose;
use libvirt_qmp::{Config, Libvirt, LibvirtRpc, Monitor};

use super::support::mock::{
    self, DOMAIN, MockDaemon, call, monitor, monitor_on, pair, quiet, session,
};
use super::{STATUS, run};

async fn monitors(
    libvirt: &Libvirt,
    daemon: &mut MockDaemon,
    count: usize,
) -> Vec<Arc<LibvirtRpc>> {
    let mut monitors = Vec::new();
    for number in 0..count {
        let name = format!("vm-{number}");
        monitors.push(Arc::new(monitor_on(libvirt, daemon, &name).await));
    }
    monitors
}

fn command_of(packet: &Packet) -> String {
    let args = call::<DomainMonitorCommand>(packet).args;
    format!("{} {}", args.dom.name, args.cmd)
}

#[tokio::test(start_paused = true)]
async fn of_fifty_parallel_calls_four_are_outstanding() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitors = monitors(&libvirt, &mut daemon, 10).await;
    let running: Vec<_> = (0..50)
        .map(|number| run(&monitors[number % 10], STATUS))
        .collect();
    let mut outstanding = daemon.sent_by_now().await;
    let mut answered = 0;
    while !outstanding.is_empty() {
        // Another four calls in flight at every moment until the last four.
        assert_eq!(outstanding.len(), 4.min(50 - answered));
        let done = outstanding.remove(answered % outstanding.len());
        let payload = mock::answer(r#"{"return":{}}"#);
        let header = mock::reply_to(&done.header);
        daemon.send(Packet { header, payload }).await;
        answered += 1;
        outstanding.extend(daemon.sent_by_now().await);
    }
    assert_eq!(answered, 50);
    for running in running {
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pongs_deregistrations_and_closing_do_not_wait_for_a_slot() {
    let (libvirt, mut daemon) = session(Config::new()).await;
    let monitors = monitors(&libvirt, &mut daemon, 5).await;
    let (events, ()) = tokio::join!(monitors[0].events(), daemon.register(3));
    let running: Vec<_> = (0..50)
        .map(|number| run(&monitors[number % 5], STATUS))
        .collect();
    assert_eq!(daemon.sent_by_now().await.len(), 4);

    daemon.ping().await;
    let pong = daemon.packet().await.unwrap();
    assert_eq!(pong.header.kind, MessageType::MESSAGE);
    assert_eq!(
        (pong.header.program, pong.header.procedure),
        (0x6b65_6570, 2)
    );

    // Registering is no call that the daemon may be stuck in either.
    let (other, ()) = tokio::join!(monitors[1].events(), daemon.register(4));
    drop(events);
    let call = daemon.expect::<ConnectDomainMonitorEventDeregister>().await;
    assert_eq!(call.args.callback_id, 3);

    let closing = tokio::spawn(async move { libvirt.close().await });
    let call = daemon.expect::<ConnectClose>().await;
    daemon.reply::<ConnectClose>(&call, &()).await;
    closing.await.unwrap().unwrap();
    for running in running {
        assert!(running.await.unwrap().unwrap_err().is_disconnected());
    }
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_runs_one_command_at_a_time_in_the_order_of_the_calls() {
    let (monitor, mut daemon) = monitor(quiet()).await;
    let monitor = Arc::new(monitor);
    let running: Vec<_> = (0..20)
        .map(|number| run(&monitor, format!(r#"{{"execute":"c{number}"}}"#)))
        .collect();
    for (number, running) in running.into_iter().enumerate() {
        let sent = daemon.sent_by_now().await;
        assert_eq!(sent.len(), 1);
        assert!(command_of(&sent[0]).contains(&format!("\"c{number}\"")));
        let payload = mock::answer(&format!(r#"{{"return":{number}}}"#));
        let header = mock::reply_to(&sent[0].header);
        daemon.send(Packet { header, payload }).await;
        let reply = running.await.unwrap().unwrap();
        assert_eq!(reply, format!(r#"{{"return":{number}}}"#));
    }
}

#[tokio::test(start_paused = true)]
async fn commands_called_before_the_connection_is_there_keep_their_order() {
    let (conn, mut daemon) = pair();
    let monitor = Arc::new(LibvirtRpc::with_config(DOMAIN, conn, quiet()));
    let running: Vec<_> = (0..10)
        .map(|number| run(&monitor, format!(r#"{{"execute":"c{number}"}}"#)))
        .collect();
    daemon.handshake().await;
    daemon.lookup(DOMAIN).await;
    for (number, running) in running.into_iter().enumerate() {
        let call = daemon.command().await;
        assert!(call.args.cmd.contains(&format!("\"c{number}\"")));
        daemon.answer(&call, r#"{"return":{}}"#).await;
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_domain_holds_one_slot() {
    let (libvirt, mut daemon) = session(quiet().call_timeout(None)).await;
    let monitors = monitors(&libvirt, &mut daemon, 4).await;
    let stuck: Vec<_> = (0..50).map(|_| run(&monitors[0], STATUS)).collect();
    assert_eq!(daemon.sent_by_now().await.len(), 1);
    // Three slots are left for the others, however long the queue of the first is.
    let others: Vec<_> = monitors[1..].iter().map(|m| run(m, STATUS)).collect();
    for running in others {
        let call = daemon.command().await;
        assert_ne!(call.args.dom.name, "vm-0");
        daemon.answer(&call, r#"{"return":{}}"#).await;
        running.await.unwrap().unwrap();
    }
    assert!(stuck.iter().all(|running| !running.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn no_limit_lifts_both() {
    let (monitor, mut daemon) = monitor(quiet().max_in_flight(usize::MAX)).await;
    let monitor = Arc::new(monitor);
    let running: Vec<_> = (0..20)
        .map(|number| run(&monitor, format!(r#"{{"execute":"c{number}"}}"#)))
        .collect();
    let sent = daemon.sent_by_now().await;
    assert_eq!(sent.len(), 20);
    for (number, packet) in sent.iter().enumerate() {
        assert!(command_of(packet).contains(&format!("\"c{number}\"")));
        let payload = mock::answer(r#"{"return":{}}"#);
        let header = mock::reply_to(&packet.header);
        daemon.send(Packet { header, payload }).await;
    }
    for running in running {
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn another_limit_counts_calls_of_the_connection() {
    for (limit, expected) in [(0, 1), (1, 1), (2, 2), (7, 7), (usize::MAX - 1, 10)] {
        let (libvirt, mut daemon) = session(quiet().max_in_flight(limit)).await;
        let monitors = monitors(&libvirt, &mut daemon, 10).await;
        let running: Vec<_> = (0..30)
            .map(|number| run(&monitors[number % 10], STATUS))
            .collect();
        assert_eq!(daemon.sent_by_now().await.len(), expected, "limit {limit}");
        drop(running);
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_monitors_share_one_connection() {
    let (libvirt, mut daemon) = session(quiet()).await;
    let monitors = monitors(&libvirt, &mut daemon, 200).await;
    let serving = tokio::spawn(daemon.serve());
    let mut streams = Vec::new();
    for monitor in &monitors {
        streams.push(monitor.events().await.unwrap());
    }
    let running: Vec<_> = monitors.iter().map(|m| run(m, STATUS)).collect();
    for running in running {
        running.await.unwrap().unwrap();
    }
    drop((streams, monitors, libvirt));
    let calls = serving.await.unwrap();
    assert_eq!(
        mock::count::<ConnectDomainMonitorEventRegister>(&calls),
        200
    );
    assert_eq!(mock::count::<DomainMonitorCommand>(&calls), 200);
}
