//! Commands of the agent, by every driver that goes through libvirt, on the session, and by the command line.

use std::process::Stdio;

use libvirt_qmp::{LibvirtC, LibvirtError, LibvirtRpc, Monitor, Virsh};
use serde_json::{Value, json};

use super::support::linux_guest::HOSTNAME;
use super::*;

/// Every driver that reaches the agent.
async fn drivers(lab: &Lab) -> [(&'static str, Box<dyn Monitor>); 3] {
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let rpc = LibvirtRpc::with_config(GUEST, conn, Config::new().uri(lab.uri()));
    [
        ("LibvirtRpc", Box::new(rpc)),
        ("Virsh", Box::new(Virsh::new(lab.client_uri(), GUEST))),
        ("LibvirtC", Box::new(LibvirtC::new(lab.client_uri(), GUEST))),
    ]
}

/// What the agent answers to a command.
async fn returned(monitor: &dyn Monitor, command: Value) -> Value {
    let text = command.to_string();
    let reply = monitor.agent(text.as_bytes(), AGENT).await;
    let reply = reply.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let mut reply: Value = serde_json::from_slice(&reply).unwrap();
    reply["return"].take()
}

/// Asserts that the agent itself refused a command, with this in its words.
fn is_refused(error: &Error, words: &str) {
    let code = error.libvirt_code();
    // The first is what older libvirt says.
    let known = [
        Some(LibvirtError::INTERNAL_ERROR),
        Some(LibvirtError::AGENT_COMMAND_FAILED),
    ];
    assert!(known.contains(&code), "{error:?}");
    assert!(!error.is_agent_unresponsive(), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn every_driver_runs_commands_of_the_agent() {
    let booted = Booted::new().await;
    let release = booted.guest.shell("uname -r");
    for (name, monitor) in drivers(&booted.lab).await {
        println!("the agent by {name}");
        let monitor = &*monitor;
        let pong = monitor
            .agent(br#"{"execute":"guest-ping","id":[7]}"#, AGENT)
            .await;
        assert_eq!(pong.unwrap(), r#"{"return":{}, "id": [7]}"#);

        // virsh has an option for each of these, and the others a number.
        for timeout in [AgentTimeout::Block, AgentTimeout::Default, AGENT] {
            let pong = monitor.agent(PING.as_bytes(), timeout).await;
            assert_eq!(pong.unwrap(), r#"{"return":{}}"#, "{timeout:?}");
        }
        let answer = monitor.agent(PING.as_bytes(), AgentTimeout::NoWait).await;
        may_be_silent(answer);

        let info = returned(monitor, json!({"execute": "guest-info"})).await;
        let commands = info["supported_commands"].as_array().unwrap();
        let is_exec =
            |command: &Value| command["name"] == "guest-exec" && command["enabled"] == true;
        assert!(commands.iter().any(is_exec), "{info}");

        // libvirt synchronizes by itself; asked for, it is a command like others.
        let sync = json!({"execute": "guest-sync", "arguments": {"id": 123_456}});
        assert_eq!(returned(monitor, sync).await, 123_456);

        let os = returned(monitor, json!({"execute": "guest-get-osinfo"})).await;
        assert_eq!(os["id"], "tiny");
        assert_eq!(os["kernel-release"], release.trim_end());
        let host = returned(monitor, json!({"execute": "guest-get-host-name"})).await;
        assert_eq!(host, json!({"host-name": HOSTNAME}));

        let ended = exec(monitor, "cat", &[], Some("aMOkw7Y=")).await;
        assert_eq!(
            (&ended["exitcode"], &ended["out-data"]),
            (&json!(0), &json!("aMOkw7Y="))
        );
        let ended = exec(monitor, "sh", &["-c", "echo no >&2; exit 3"], None).await;
        assert_eq!(
            (&ended["exitcode"], &ended["err-data"]),
            (&json!(3), &json!("bm8K"))
        );
        // 0.5 MB of digits, more in base64.
        let ended = exec(monitor, "seq", &["1", "80000"], None).await;
        let length: usize = (1..=80_000u32).map(|n| n.to_string().len() + 1).sum();
        let data = ended["out-data"].as_str().unwrap();
        assert_eq!(data.len(), length.div_ceil(3) * 4);

        for (command, words) in [
            (
                json!({"execute": "guest-no-such-command"}),
                "guest-no-such-command",
            ),
            (json!({"execute": "query-status"}), "query-status"),
            (
                json!({"execute": "guest-file-close", "arguments": {"handle": 77}}),
                "77",
            ),
            (json!({"execute": "guest-exec"}), "path"),
        ] {
            let command = command.to_string();
            let error = monitor.agent(command.as_bytes(), AGENT).await.unwrap_err();
            is_refused(&error, words);
        }
        // QEMU's monitor is another thing, and works beside it.
        let status = monitor.run(br#"{"execute":"query-status"}"#).await.unwrap();
        assert!(status.starts_with(br#"{"return""#), "{status:?}");
        monitor.disconnect().await.unwrap();
    }
    booted.guest.stop_agent();
    booted.default_timeout(1).await;
    for (name, monitor) in drivers(&booted.lab).await {
        let error = monitor
            .agent(PING.as_bytes(), AgentTimeout::Seconds(1))
            .await;
        let error = error.unwrap_err();
        assert!(error.is_agent_unresponsive(), "{name}: {error:?}");
        assert!(error.maybe_executed(), "{name}: {error:?}");
    }
}

/// Runs a program in the guest, with this on its standard input, in base64, and waits for its end.
async fn exec(monitor: &dyn Monitor, path: &str, args: &[&str], input: Option<&str>) -> Value {
    let mut arguments = json!({"path": path, "arg": args, "capture-output": true});
    if let Some(input) = input {
        arguments["input-data"] = input.into();
    }
    let started = returned(
        monitor,
        json!({"execute": "guest-exec", "arguments": arguments}),
    );
    let pid = started.await["pid"].take();
    let ended = async {
        loop {
            let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
            let status = returned(monitor, status).await;
            if status["exited"] == true {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.unwrap_or_else(|_| panic!("{path} does not end"))
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_session_and_the_command_line_run_commands_of_the_agent() {
    let booted = Booted::new().await;
    for timeout in [AgentTimeout::Block, AgentTimeout::Default, AGENT] {
        let answer = booted.ask(PING, timeout).await.unwrap();
        assert_eq!(answer, r#"{"return":{}}"#);
    }
    // Several at a time take their turns in libvirt.
    let sync = |id: u32| format!(r#"{{"execute":"guest-sync","arguments":{{"id":{id}}}}}"#);
    let asked = (1..=8).map(async |id| booted.ask(&sync(id), AGENT).await.unwrap());
    let answers = futures_util::future::join_all(asked).await;
    for (id, answer) in (1..=8).zip(answers) {
        assert_eq!(answer, format!(r#"{{"return":{id}}}"#));
    }
    let error = booted.ask(r#"{"execute":"guest-nothing"}"#, AGENT).await;
    is_refused(&error.unwrap_err(), "guest-nothing");

    // The same question by virsh.
    let host = r#"{"execute":"guest-get-host-name"}"#;
    let theirs = booted.lab.virsh(&["qemu-agent-command", GUEST, host]);
    let ours = booted.ask(host, AGENT).await.unwrap();
    assert_eq!(ours, theirs.trim_end());

    let uri = booted.lab.client_uri();
    let qmp = |arguments: &[&str]| {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_qmp"))
            .args(["-C", &uri, "agent", "--agent-timeout", "30", GUEST])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
    };
    let output = qmp(&["guest-get-host-name"]).await.unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, json!({"host-name": HOSTNAME}));
    assert!(output.status.success());
    let output = qmp(&["guest-sync", "id=5"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5\n");
    let output = qmp(&["guest-nothing"]).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("guest-nothing"), "{said}");
}
