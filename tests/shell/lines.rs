//! What a line can be: words, JSON, a transaction, out of band, with a file; and the options.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::pty::{CTRL_C, CTRL_D};
use crate::{Shell, qemu};

#[tokio::test(flavor = "multi_thread")]
async fn words_are_typed_by_the_schema_and_keys_nest() {
    let qemu = qemu().await;
    for command in ["blockdev-add", "device_add", "human-monitor-command"] {
        qemu.on(command, json!({}));
    }
    let mut shell = Shell::start_on(qemu, &[]);
    for (line, arguments) in [
        (
            "blockdev-add file.driver=null-co file.size=65536 node-name=1 driver=raw",
            json!({"file": {"driver": "null-co", "size": 65536}, "node-name": "1", "driver": "raw"}),
        ),
        (
            "human-monitor-command command-line=\"info status\"",
            json!({"command-line": "info status"}),
        ),
        (
            "human-monitor-command command-line='info version'",
            json!({"command-line": "info version"}),
        ),
        (
            "device_add driver=virtio-net-pci id=str:7",
            json!({"driver": "virtio-net-pci", "id": "7"}),
        ),
    ] {
        shell.pty.enter(line);
        shell.pty.wait_for_line("qmp> ");
        shell
            .wait_for_command(|command| command["arguments"] == arguments)
            .await;
    }
    let screen = shell.pty.screen();
    assert!(!screen.contains("error"), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_qemu_would_refuse_is_not_sent() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("device_del name=x");
    shell.pty.wait_for("error: ");
    shell.pty.wait_for("argument `id` (str) is missing");
    shell.pty.enter("set_link name='x");
    shell.pty.wait_for("error: a ' is not closed");
    shell.pty.wait_for_line("qmp> ");
    assert!(
        shell
            .qemu
            .commands()
            .iter()
            .all(|command| command["execute"] != "device_del")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_goes_on_until_it_is_whole() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("{\"execute\":");
    shell.pty.enter("  \"query-status\",");
    shell.pty.enter("  \"arguments\": {}");
    assert!(
        shell
            .qemu
            .commands()
            .iter()
            .all(|command| command["execute"] != "query-status")
    );
    shell.pty.enter("}");
    shell.pty.wait_for(r#""status":"running""#);
    // QEMU finds what is wrong with it, and the shell goes on.
    shell.pty.enter("{\"execute\": \"no-such-command\"}");
    shell
        .pty
        .wait_for("error: no-such-command: CommandNotFound");
    shell.pty.enter("{]");
    shell.pty.wait_for("error: command refused: ");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_sent_as_one() {
    let qemu = qemu().await;
    qemu.on("transaction", json!({}));
    let mut shell = Shell::start_on(qemu, &[]);
    shell.pty.enter("transaction(completion-mode=grouped");
    shell
        .pty
        .enter("block-dirty-bitmap-add node=disk0 name=1 granularity=64K");
    shell.pty.enter("abort");
    assert!(
        shell
            .qemu
            .commands()
            .iter()
            .all(|command| command["execute"] != "transaction")
    );
    shell.pty.enter(")");
    shell.pty.wait_for("{}");
    assert_eq!(
        shell.last_command()["arguments"],
        json!({
            "actions": [
                {"type": "block-dirty-bitmap-add", "data": {"node": "disk0", "name": "1", "granularity": 65536}},
                {"type": "abort", "data": {}},
            ],
            "properties": {"completion-mode": "grouped"},
        })
    );
    shell.pty.enter("transaction( frobnicate x=1 )");
    shell.pty.wait_for("error: ");
    shell.pty.wait_for("no transaction action `frobnicate`");
    shell.pty.wait_for_line("qmp> ");
    // Ctrl-C gives it up.
    shell.pty.enter("transaction(");
    shell.pty.send("abort");
    shell.pty.wait_for_line("abort");
    shell.pty.send(CTRL_C);
    shell.pty.wait_for_line("qmp> ");
    shell.pty.enter("query-status");
    shell.pty.wait_for(r#""status":"running""#);
    let sent = shell.qemu.commands();
    let transactions = sent
        .iter()
        .filter(|command| command["execute"] == "transaction");
    assert_eq!(transactions.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_can_be_executed_out_of_band() {
    let qemu = qemu().await;
    qemu.on("yank", json!({}));
    let mut shell = Shell::start_on(qemu, &[]);
    shell.pty.enter("!oob yank instances=[]");
    shell.pty.wait_for("{}");
    let command = shell.last_command();
    assert_eq!(command["exec-oob"], "yank");
    assert_eq!(command["arguments"], json!({"instances": []}));
    shell.pty.enter("!oob stop");
    shell.pty.wait_for("error: ");
    shell.pty.wait_for_line("qmp> ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_along() {
    let qemu = qemu().await;
    let mut shell = Shell::start_on(qemu, &[]);
    let path = shell.scratch.path("a file");
    std::fs::write(&path, "what is in it").unwrap();
    shell
        .pty
        .enter(&format!("!fd '{}' getfd fdname=it", path.display()));
    shell.pty.wait_for("{}");
    let mut files = shell.qemu.files();
    assert_eq!(files.len(), 1);
    let mut text = String::new();
    File::from(files.remove(0))
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "what is in it");
    shell.pty.enter("!fd /no/such/file getfd fdname=it");
    shell
        .pty
        .wait_for("error: cannot open /no/such/file: No such file or directory");
    shell.pty.wait_for_line("qmp> ");
    assert!(shell.qemu.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn help_tells_what_the_schema_does() {
    let mut shell = Shell::start(&[]).await;
    shell.pty.enter("help");
    shell.pty.wait_for("transaction(   ");
    shell.pty.enter("help block-dirty-bitmap-add");
    shell.pty.wait_for("  node: str");
    shell.pty.wait_for("  granularity?: int");
    shell.pty.wait_for("  returns nothing");
    shell.pty.enter("help DEVICE_DELETED");
    shell.pty.wait_for("  device?: str");
    shell.pty.enter("help blockdev-add driver=null-co");
    shell.pty.wait_for("  latency-ns?: int");
    shell.pty.enter("help yank");
    shell.pty.wait_for("yank (oob)");
    shell.pty.enter("help query-status");
    shell.pty.wait_for("status: 'debug'");
    shell.pty.enter("help nonsense");
    shell
        .pty
        .wait_for("error: no command and no event `nonsense`");
}

#[tokio::test(flavor = "multi_thread")]
async fn pretty_and_verbose() {
    let mut shell = Shell::start(&["-p", "-v"]).await;
    shell.pty.enter("query-status");
    shell
        .pty
        .wait_for("{\n  \"execute\": \"query-status\"\n}\n{\n  \"running\": true,");
    let mut shell = Shell::start(&["--verbose"]).await;
    shell.pty.enter("qom-get path=/a property=b");
    shell
        .pty
        .wait_for(r#"{"execute":"qom-get","arguments":{"path":"/a","property":"b"}}"#);
    shell.pty.wait_for("error: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_negotiation_the_user_negotiates() {
    let mut shell = Shell::start(&["-N"]).await;
    assert!(shell.qemu.negotiations().is_empty());
    shell.pty.enter("query-status");
    shell.pty.wait_for("error: query-status: CommandNotFound");
    shell.pty.enter("qmp_capabilities");
    shell.pty.wait_for("{}");
    shell.pty.enter("query-status");
    shell.pty.wait_for(r#""status":"running""#);
    shell.pty.wait_for_line("qmp> ");
    // Nothing that its user did not say.
    let names: Vec<Value> = shell
        .qemu
        .commands()
        .into_iter()
        .map(|command| command["execute"].clone())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name == "query-status" || name == "qmp_capabilities"),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_everything_but_secrets() {
    let qemu = qemu().await;
    qemu.on("set_password", json!({}));
    let scratch = crate::Scratch::new();
    let path = scratch.path("log");
    let mut shell = Shell::start_on(qemu, &["-l", path.to_str().unwrap(), "-v"]);
    let socket = shell.scratch.path("qmp");
    let inode = || std::fs::symlink_metadata(&socket).unwrap().ino();
    let before = inode();
    shell
        .pty
        .enter("set_password protocol=vnc password=hunter2");
    shell.pty.wait_for("{}");
    shell.pty.enter("stop");
    shell.pty.wait_for(" STOP");
    shell.pty.enter("device_del id=x");
    shell.pty.wait_for("error: ");
    shell.pty.wait_for_line("qmp> ");
    shell.pty.send(CTRL_D);
    assert_eq!(shell.pty.end(), 0);
    // The log is no reason to touch QEMU's socket.
    assert_eq!(inode(), before);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| line.parse().unwrap()).collect();
    let at = |wanted: &dyn Fn(&Value) -> bool| lines.iter().position(wanted);
    let sent = at(&|line| line["sent"]["execute"] == "stop").expect("the command");
    let replied = at(&|line| line["received"] == json!({"return": {}})).expect("a reply");
    let event = at(&|line| line["event"]["event"] == "STOP").expect("the event");
    let error =
        at(&|line| line["received"]["error"]["class"] == "DeviceNotFound").expect("the error");
    assert!(replied < sent && sent < event && event < error, "{text}");
    assert_eq!(lines[0]["sent"]["arguments"]["password"], "***");
}
