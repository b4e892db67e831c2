//! `run`: commands, values and scripts.

use libvirt_qmp::testing::{FakeQemu, Reply};
use serde_json::{Value, json};

use crate::program::*;

#[tokio::test]
async fn run_prints_what_the_command_returns() {
    let fixture = load("query-status");
    let status = r#"{"status":"running","singlestep":false,"running":true}"#;
    for command in ["query-status", r#"{"execute":"query-status"}"#] {
        let output = play(fixture.clone(), &["run", GUEST, command]).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("{status}\n"));
        assert_eq!(stderr(&output), "");
    }
    let output = play(fixture, &["run", "--pretty", GUEST, "query-status"]).await;
    assert_eq!(
        stdout(&output),
        "{\n  \"status\": \"running\",\n  \"singlestep\": false,\n  \"running\": true\n}\n"
    );
}

#[tokio::test]
async fn errors_of_qemu_and_of_libvirt_end_with_1() {
    let output = play(load("qmp-error"), &["run", GUEST, "no-such-command"]).await;
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_eq!(
        stderr(&output),
        "qmp: no-such-command: CommandNotFound: The command no-such-command has not been found\n"
    );
    let output = play(load("unknown-domain"), &["run", "no-such-domain", "stop"]).await;
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_eq!(
        stderr(&output),
        "qmp: libvirt: Domain not found: no domain with matching name 'no-such-domain' \
         (code 42, domain 10, REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME)\n"
    );
}

#[tokio::test]
async fn on_qemus_own_socket_no_domain_is_named() {
    let stub = Stub::start();
    stub.qemu.on_fn("echo", Value::clone);
    let output = stub.run(&["run", "echo", "a.b=1", "a.c=x"]).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "{\"a\":{\"b\":1,\"c\":\"x\"}}\n");
}

#[tokio::test]
async fn the_socket_of_qmp_shell_is_a_default() {
    let stub = Stub::start();
    let path = stub.scratch.path("qmp");
    let before = inode(&path);
    let output = qmp(&["run", "query-status"])
        .env("QMP_SOCKET", &path)
        // The other variable gives way.
        .env("LIBVIRT_DEFAULT_URI", "qemu:///nothing")
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert!(stdout(&output).contains("running"), "{}", stdout(&output));
    // The socket is QEMU's own, and stays that.
    assert_eq!(inode(&path), before);
    let addr = stub.qemu.listen_tcp().unwrap();
    let output = qmp(&["run", "query-status"])
        .env("QMP_SOCKET", addr.to_string())
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let other = Stub::start();
    other.qemu.on("query-status", json!("the other"));
    let output = qmp(&["-C", &other.uri(), "run", "query-status"])
        .env("QMP_SOCKET", &path)
        .output()
        .await
        .unwrap();
    assert_eq!(stdout(&output), "\"the other\"\n");
}

fn inode(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[tokio::test]
async fn values_have_the_types_of_the_schema() {
    let stub = Stub::with_schema().await;
    for command in [
        "blockdev-add",
        "device_del",
        "device_add",
        "block_resize",
        "set_link",
    ] {
        stub.qemu.on(command, json!({}));
    }
    for (words, arguments) in [
        (
            &[
                "blockdev-add",
                "file.driver=null-co",
                "file.size=64K",
                "node-name=7",
                "driver=raw",
                "read-only=on",
            ][..],
            json!({"file": {"driver": "null-co", "size": 65536}, "node-name": "7", "driver": "raw", "read-only": true}),
        ),
        (&["device_del", "id=1"], json!({"id": "1"})),
        (
            &["set_link", "name=true", "up=off"],
            json!({"name": "true", "up": false}),
        ),
        (
            &["block_resize", "node-name=n", "size=1G"],
            json!({"node-name": "n", "size": 1_073_741_824}),
        ),
        // QEMU takes others than the schema says; what they are nobody knows.
        (
            &[
                "device_add",
                "driver=virtio-net",
                "id=5",
                "mtu=1500",
                "mac=str:5",
            ],
            json!({"driver": "virtio-net", "id": "5", "mtu": 1500, "mac": "5"}),
        ),
        (
            &[
                "blockdev-add",
                r#"file={"driver":"null-co"}"#,
                "driver=raw",
                "discard=unmap",
            ],
            json!({"file": {"driver": "null-co"}, "driver": "raw", "discard": "unmap"}),
        ),
    ] {
        let words: Vec<&str> = ["run"].iter().chain(words).copied().collect();
        let output = stub.run(&words).await;
        assert_eq!(
            (code(&output), stderr(&output)),
            (0, String::new()),
            "{words:?}"
        );
        assert_eq!(stub.arguments_of(words[1]), arguments, "{words:?}");
    }
    // Not asked for the schema, QEMU gets what looks like JSON as that.
    let output = stub
        .run(&["run", "--unchecked", "device_del", "id=1"])
        .await;
    assert_eq!(code(&output), 0);
    assert_eq!(stub.arguments_of("device_del"), json!({"id": 1}));
}

#[tokio::test]
async fn what_the_schema_refuses_is_not_sent() {
    let stub = Stub::with_schema().await;
    for (words, reason) in [
        (
            &["block_resize", "node-nam=n", "size=1"][..],
            "no argument `node-nam` (did you mean `node-name`?)",
        ),
        (
            &["block_resize", "node-name=n"],
            "argument `size` (int) is missing",
        ),
        (
            &["blockdev-add", "driver=rwa"],
            "argument `driver` cannot be `rwa`",
        ),
        (
            &["set_link", "name=n", "up=maybe"],
            "argument `up` is a string, not bool",
        ),
    ] {
        let words: Vec<&str> = ["run"].iter().chain(words).copied().collect();
        let output = stub.run(&words).await;
        assert_eq!(
            (code(&output), stdout(&output)),
            (2, String::new()),
            "{words:?}"
        );
        assert!(
            stderr(&output).contains(reason),
            "{words:?}: {}",
            stderr(&output)
        );
        assert_eq!(stub.arguments_of(words[1]), Value::Null);
    }
    // A command that is not known is refused by QEMU itself, with a hint from here.
    let output = stub.run(&["run", "query-sttaus", "a=1"]).await;
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output),
        "qmp: no command `query-sttaus` (did you mean `query-status` or `query-stats`?)\n\
         qmp: query-sttaus: CommandNotFound: The command query-sttaus has not been found\n"
    );
}

#[tokio::test]
async fn a_script_is_run_line_by_line() {
    let stub = Stub::start();
    stub.qemu.on_fn("echo", Value::clone);
    stub.qemu.on_hmp("info status", "VM status: running\r\n");
    let script = "# a comment, and lines that are empty\n\n   \t \n\
        query-status\n\
        human-monitor-command command-line=\"info status\"\n\
        {\"execute\": \"echo\", \"arguments\": {\"raw\": 1.50}}\n\
        echo a.b=1 c='two words' a.d:=[1, 2] e=str:7";
    let expected = "{\"running\":true,\"singlestep\":false,\"status\":\"running\"}\n\
        \"VM status: running\\r\\n\"\n\
        {\"raw\":1.5}\n\
        {\"a\":{\"b\":1,\"d\":[1,2]},\"c\":\"two words\",\"e\":\"7\"}\n";
    let output = stub.run_with_input(&["run"], script).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(sorted(&stdout(&output)), sorted(expected));
    let lines = script.lines().flat_map(|line| ["-c", line]);
    let arguments: Vec<&str> = ["run"].into_iter().chain(lines).collect();
    let output = stub.run(&arguments).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(sorted(&stdout(&output)), sorted(expected));
}

/// Each line as a value, for the members of objects have no order.
fn sorted(text: &str) -> Vec<Value> {
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn the_first_command_that_fails_ends_a_script() {
    let stub = Stub::start();
    stub.qemu
        .on_error("eject", "DeviceNotFound", "no such device");
    let script = "stop\neject id=cd0\ncont\nlist what\ncont\n";
    let output = stub.run_with_input(&["run"], script).await;
    assert_eq!(code(&output), 1);
    assert_eq!(stdout(&output), "{}\n");
    assert_eq!(
        stderr(&output),
        "qmp: line 2: eject: DeviceNotFound: no such device\n"
    );
    assert_eq!(stub.arguments_of("cont"), Value::Null);
    // It goes on where it is told to, and ends with the code of the first failure.
    let output = stub.run_with_input(&["run", "--keep-going"], script).await;
    assert_eq!(code(&output), 1);
    assert_eq!(stdout(&output), "{}\n{}\n{}\n");
    assert_eq!(
        stderr(&output),
        "qmp: line 2: eject: DeviceNotFound: no such device\n\
         qmp: line 4: argument `what`: expected KEY=VALUE\n"
    );
    let output = stub
        .run(&["run", "-k", "-c", "list what", "-c", "eject id=cd0"])
        .await;
    assert_eq!(code(&output), 2);
}

#[tokio::test]
async fn whole_replies_are_lines_of_json() {
    let stub = Stub::start();
    stub.qemu
        .on_error("eject", "DeviceNotFound", "no such device");
    let lines = [
        "run",
        "--json",
        "-k",
        "-c",
        "stop",
        "-c",
        "eject id=cd0",
        "-c",
        "cont",
    ];
    let output = stub.run(&lines).await;
    assert_eq!(code(&output), 1);
    assert_eq!(
        sorted(&stdout(&output)),
        [
            json!({"return": {}}),
            json!({"error": {"class": "DeviceNotFound", "desc": "no such device"}}),
            json!({"return": {}}),
        ]
    );
}

#[tokio::test]
async fn a_script_without_a_command_is_an_error() {
    let stub = Stub::start();
    for input in ["", "\n\n", "# nothing\n"] {
        let output = stub.run_with_input(&["run"], input).await;
        assert_eq!(code(&output), 2, "{input:?}");
        assert_eq!(stderr(&output), "qmp: no command given\n");
    }
    let output = stub.run(&["run", "-c", "stop", "cont"]).await;
    assert_eq!(code(&output), 2);
}

#[tokio::test]
async fn quit_ends_well_whatever_qemu_says_to_it() {
    for reply in [Reply::value(json!({})), Reply::close()] {
        let stub = Stub::start();
        stub.qemu.on("quit", reply);
        let output = stub.run_with_input(&["run"], "quit\nquery-status\n").await;
        assert_eq!((code(&output), stderr(&output)), (0, String::new()));
        assert_eq!(stdout(&output), "{}\n");
    }
}

#[tokio::test]
async fn a_lost_connection_ends_a_script_that_keeps_going() {
    let stub = Stub::start();
    stub.qemu.on("stop", Reply::close());
    let output = stub
        .run_with_input(&["run", "-k"], "query-status\nstop\ncont\ncont\n")
        .await;
    assert_eq!(code(&output), 3);
    assert_eq!(
        stderr(&output),
        "qmp: line 2: connection ended: closed by the peer\n\
         qmp: the command may have been executed\n"
    );
}

#[tokio::test]
async fn a_command_that_is_not_answered_ends_with_4() {
    let stub = Stub::start();
    stub.qemu.never("stop");
    let output = stub.run(&["--timeout", "1", "run", "stop"]).await;
    assert_eq!(code(&output), 4);
    // With what a long command may take on top.
    let text = stderr(&output);
    assert!(text.starts_with("qmp: no answer within 1"), "{text}");
    assert!(
        text.ends_with(" while waiting for the reply\nqmp: the command may have been executed\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_signal_ends_a_command_that_is_not_answered() {
    for (signal, expected) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let stub = Stub::start();
        stub.qemu.never("stop");
        let child = qmp(&["-C", &stub.uri(), "run", "stop"]).spawn().unwrap();
        within(stub.qemu.wait_for_command("stop")).await;
        send(&child, signal).await;
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((code(&output), stderr(&output)), (expected, String::new()));
    }
}

#[tokio::test]
async fn descriptors_and_out_of_band_commands() {
    let stub = Stub::start();
    stub.qemu.on("yank", json!({})).allow_oob("yank");
    let output = stub
        .run(&["run", "-c", "!oob yank", "-c", "!fd 0 getfd fdname=in"])
        .await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stub.qemu.files().len(), 1);
    let commands = stub.qemu.commands();
    assert!(
        commands.iter().any(|command| command["exec-oob"] == "yank"),
        "{commands:?}"
    );
}

#[tokio::test]
async fn lines_of_the_human_monitor() {
    let stub = Stub::start();
    stub.qemu.on_hmp("info status", "VM status: running\r\n");
    stub.qemu.on_hmp("info version", "9.0.0\r\n");
    stub.qemu.on_hmp("stop -all", "");
    let output = stub.run(&["hmp", "info", "status"]).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "VM status: running\n");
    // An option of the line is none of the program.
    let output = stub.run(&["hmp", "stop", "-all"]).await;
    assert_eq!((code(&output), stdout(&output)), (0, String::new()));
    stub.qemu.clear_commands();
    let script = "   \n\ncpu 0\ninfo status\n";
    let output = stub.run_with_input(&["hmp"], script).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "VM status: running\n");
    let lines: Vec<Value> = stub
        .qemu
        .commands()
        .into_iter()
        .filter(|command| command["execute"] == "human-monitor-command")
        .map(|command| command["arguments"].clone())
        .collect();
    // The choice is not sent: QEMU would forget it at once.
    assert_eq!(
        lines,
        [
            json!({"command-line": "info version", "cpu-index": 0}),
            json!({"command-line": "info status", "cpu-index": 0}),
        ]
    );
    // There is one.
    let output = stub.run_with_input(&["hmp"], "cpu 7\ninfo status\n").await;
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert!(
        stderr(&output).starts_with("qmp: line 1: "),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn the_guest_agent_is_asked_through_libvirt() {
    let qemu = FakeQemu::new();
    qemu.on_agent("guest-get-time", json!(1_700_000_000));
    let stub = StubDaemon::start(&[("vm", &qemu)]);
    let uri = stub.uri();
    let agent = |words: &'static [&'static str]| {
        let mut command = qmp(&["-C", &uri, "agent", "vm"]);
        async move { command.args(words).output().await.unwrap() }
    };
    let output = agent(&["guest-get-time"]).await;
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "1700000000\n");
    qemu.agent_connected(false);
    let output = agent(&["guest-ping", "--agent-timeout", "1"]).await;
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let output = agent(&[]).await;
    assert_eq!(
        (code(&output), stderr(&output)),
        (2, "qmp: no command given\n".to_owned())
    );
}

#[tokio::test]
async fn the_schema_is_shown() {
    let stub = Stub::with_schema().await;
    let output = stub.run(&["schema"]).await;
    let text = stdout(&output);
    // As many as in the recording.
    assert_eq!(text.lines().count(), 216 + 52);
    assert!(
        text.contains("\nSTOP {}\n") && text.contains("\nstop {} -> {}\n"),
        "{text}"
    );
    let output = stub.run(&["schema", "block_resize"]).await;
    assert_eq!(
        stdout(&output),
        "command block_resize\narguments:\n  device?: str\n  node-name?: str\n  size: int\nreturns: {}\n"
    );
    let output = stub.run(&["schema", "DEVICE_DELETED"]).await;
    assert_eq!(
        stdout(&output),
        "event DEVICE_DELETED\ndata:\n  device?: str\n  path: str\n"
    );
    let output = stub.run(&["schema", "blockdev-add"]).await;
    assert!(
        stdout(&output).contains("\n  with driver=null-co: {"),
        "{}",
        stdout(&output)
    );
    let output = stub.run(&["schema", "blok_resize"]).await;
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("`block_resize`"),
        "{}",
        stderr(&output)
    );
    let output = stub.run(&["schema", "--json"]).await;
    let schema: Value = stdout(&output).parse().unwrap();
    assert!(schema.as_array().is_some_and(|entries| entries.len() > 900));
}
