//! The checker against running QEMUs: it must refuse what they refuse for what the schema says, and nothing else.

use libvirt_qmp::{Config, LibvirtRpc, MonitorExt, SocketMonitor, Transaction};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::problems;
use crate::support::lab::Lab;
use crate::support::process::PATIENCE;
use crate::support::qemu::Qemu;

/// Commands that change nothing of importance, and the member each goes by: those that QEMU takes, or refuses for another
/// reason than its schema.
const GOOD: &[&str] = &[
    r#"{"execute":"query-status"}"#,
    r#"{"execute":"query-status","arguments":{}}"#,
    r#"{"exec-oob":"query-yank"}"#,
    r#"{"exec-oob":"yank","arguments":{"instances":[{"type":"migration"}]}}"#,
    r#"{"execute":"yank","arguments":{"instances":[{"type":"chardev","id":"x"}]}}"#,
    r#"{"execute":"yank","arguments":{"instances":[]}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"info version","cpu-index":-0}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"cpu-index":99,"command-line":"info version"}}"#,
    // P6: 64 bits, signed or not.
    r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":18446744073709551615}}"#,
    r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":33554432}}"#,
    // An alternate of a string and null.
    r#"{"execute":"migrate-set-parameters","arguments":{"tls-creds":null}}"#,
    r#"{"execute":"migrate-set-parameters","arguments":{"tls-creds":""}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"xbzrle","state":false}]}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"null-co","node-name":"good0","size":65536}}"#,
    r#"{"execute":"blockdev-add","arguments":{"node-name":"good1","read-only":true,"driver":"raw","file":{"driver":"null-co"}}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","file":"no-such-node","node-name":"good2"}}"#,
    // An alternate of an enum and an object; one with null.
    r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","file":{"driver":"null-co"},"overlap-check":"none","backing":null}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","file":{"driver":"null-co"},"overlap-check":{"template":"all","main-header":false},"backing":"x"}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[]}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[{"type":"abort","data":{}}]}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[{"data":{},"type":"abort"}],"properties":{"completion-mode":"individual"}}}"#,
    // Anything where anything goes.
    r#"{"execute":"qom-set","arguments":{"path":"/none","property":"x","value":{"a":[1,null,1.5,"x"]}}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/none","property":"x"}}"#,
    r#"{"execute":"input-send-event","arguments":{"events":[{"type":"key","data":{"down":false,"key":{"type":"number","data":1}}}]}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"iothread","id":"io0","poll-max-ns":1}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"c0","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"query-stats","arguments":{"target":"vm"}}"#,
    r#"{"execute":"set-action","arguments":{"reboot":"reset"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"no-such-driver","id":7,"free":{"a":[1]}}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-rng-pci","no-such-property":"1"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":12}}"#,
    r#"{"execute":"device_del","arguments":{"id":"none"}}"#,
    r#"{"execute":"block_resize","arguments":{"size":1}}"#,
    r#"{"execute":"x-colo-lost-heartbeat"}"#,
    r#"{"\u0065xecute":"query-\u006eame","arguments":{}}"#,
    r#"{"execute":"query-name","id":{"a":[{}]}}"#,
];

/// Those that it refuses for what its schema says.
const BAD: &[&str] = &[
    r#"{"execute":"no-such-command"}"#,
    r#"{"exec-oob":"no-such-command"}"#,
    r#"{"execute":"QUERY-STATUS"}"#,
    r#"{"exec-oob":"query-status"}"#,
    r#"{"execute":"query-status","arguments":{"x":1}}"#,
    r#"{"execute":"query-status","arguments":{"":1}}"#,
    r#"{"execute":"query-status","arguments":[]}"#,
    r#"{"execute":"query-status","arguments":null}"#,
    r#"{"execute":"query-status","argument":{}}"#,
    r#"{"execute":"human-monitor-command"}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":1}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":null}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","cpu-index":"0"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","cpu-index":0.0}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","cpu-index":1e0}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","cpu-index":null}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","cpu_index":0}}"#,
    r#"{"execute":"balloon","arguments":{"value":18446744073709551616}}"#,
    r#"{"execute":"balloon","arguments":{"value":-9223372036854775809}}"#,
    r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":18446744073709551616}}"#,
    r#"{"execute":"migrate-set-parameters","arguments":{"tls-creds":1}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"xbzrle","state":"on"}]}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"xbzzrle","state":false}]}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"xbzrle","state":false,"x":1}]}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"xbzrle","state":false},1]}}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":{}}}"#,
    r#"{"execute":"blockdev-add","arguments":{"node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"nullco","node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":["null-co"],"node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"null-co","filename":"x","node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","file":1,"node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","file":null,"node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","file":{"driver":"null-co","zz":1},"node-name":"bad0"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","file":{"driver":"null-co"},"overlap-check":"nonee"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","file":{"driver":"null-co"},"overlap-check":{"template":"x"}}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","file":{"driver":"null-co"},"backing":1}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[{"type":"abort"}]}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[{"type":"aborted","data":{}}]}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[{"type":"block-dirty-bitmap-add","data":{"node":1,"name":"x"}}]}}"#,
    r#"{"execute":"transaction","arguments":{"actions":[],"properties":{"completion-mode":"x"}}}"#,
    r#"{"execute":"transaction"}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/none","property":"x"}}"#,
    // P7: a name twice in one object, known to the schema or not.
    r#"{"execute":"qom-set","arguments":{"path":"/none","property":"x","value":{"a":1,"a":2}}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"x","command-line":"x"}}"#,
    r#"{"execute":"input-send-event","arguments":{"events":[{"type":"key","data":{"down":false,"key":{"type":"number","data":1.5}}}]}}"#,
    r#"{"execute":"yank","arguments":{"instances":[{"type":"chardev"}]}}"#,
    r#"{"execute":"yank","arguments":{"instances":[{"type":"migration","id":"x"}]}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"iothread","id":"io1","x":1}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"can-host-socketcan","id":"io1"}}"#,
    r#"{"execute":"netdev_add","arguments":{"type":"user","id":"u0","ipv4":"on"}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"c1","backend":{"type":"null"}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"c1","backend":{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"h"}}}}}}"#,
    r#"{"execute":"query-stats","arguments":{"target":"vm","vcpus":[]}}"#,
    r#"{"execute":"announce-self","arguments":{"initial":"x","max":1,"rounds":1,"step":1}}"#,
    r#"{"execute":"device_add","arguments":{"id":"x"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":null}}"#,
];

/// QMP without any driver, so that any text can be sent and out-of-band commands are on.
struct Bare {
    stream: BufReader<UnixStream>,
}

impl Bare {
    async fn connect(qemu: &Qemu) -> Bare {
        let stream = UnixStream::connect(qemu.unix_path()).await.unwrap();
        let mut bare = Bare {
            stream: BufReader::new(stream),
        };
        assert!(bare.next().await["QMP"].is_object());
        let reply = bare
            .ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#)
            .await;
        assert!(reply["return"].is_object(), "{reply}");
        bare
    }

    /// What QEMU answers. Nothing else is in flight, so it is what comes next, but for events.
    async fn ask(&mut self, command: &str) -> Value {
        self.stream.write_all(command.as_bytes()).await.unwrap();
        loop {
            let message = self.next().await;
            if message["event"].is_null() {
                return message;
            }
        }
    }

    async fn next(&mut self) -> Value {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        read.expect("an answer soon").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Whether QEMU refused the command for what its schema says: for its name, or in the words of its parser of arguments.
fn is_refusal(reply: &Value) -> bool {
    let Some(error) = reply.get("error") else {
        return false;
    };
    let desc = error["desc"].as_str().unwrap();
    let words = [
        " is unexpected",
        " is missing",
        " does not accept value ",
        "Invalid parameter type for ",
        " expects uint64",
        " must be an object",
        " does not support OOB",
        "duplicate key",
    ];
    error["class"] == "CommandNotFound" || words.iter().any(|words| desc.contains(words))
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn the_checker_and_qemu_agree() {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::tcp(qemu.tcp_addr()).await.unwrap();
    let schema = monitor.schema().await.unwrap();
    assert_eq!(schema.unread(), 0);
    let mut bare = Bare::connect(&qemu).await;
    let mut wrong = Vec::new();
    for (commands, is_bad) in [(GOOD, false), (BAD, true)] {
        for command in commands {
            let reply = bare.ask(command).await;
            let problems = problems(&schema, command);
            if is_refusal(&reply) != is_bad || problems.is_empty() == is_bad {
                wrong.push(format!("{command}\n  QEMU: {reply}\n  here: {problems:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every command without arguments, and with one that no command has, as this QEMU has them.
#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn no_command_takes_what_the_checker_refuses() {
    let qemu = Qemu::start(&[]);
    let monitor = SocketMonitor::tcp(qemu.tcp_addr()).await.unwrap();
    let schema = monitor.schema().await.unwrap();
    let mut bare = Bare::connect(&qemu).await;
    for info in schema.commands() {
        let name = info.name();
        // Not to be found any more once a client is past its handshake, and only before the machine is made.
        if matches!(name, "qmp_capabilities" | "x-exit-preconfig") || info.is_free_form() {
            continue;
        }
        let command = format!(r#"{{"execute":"{name}","arguments":{{"no-such-argument":1}}}}"#);
        assert!(!problems(&schema, &command).is_empty(), "{name}");
        let reply = bare.ask(&command).await;
        assert!(is_refusal(&reply), "{name}: {reply}");
        if info.arguments().any(|member| !member.is_optional()) {
            let command = format!(r#"{{"execute":"{name}"}}"#);
            assert!(
                problems(&schema, &command).contains(" is missing"),
                "{name}"
            );
            let reply = bare.ask(&command).await;
            assert!(is_refusal(&reply), "{name}: {reply}");
        }
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_schema_through_libvirt_is_the_same() {
    let lab = Lab::start();
    lab.guest("stage-lb-1");
    let conn = UnixStream::connect(lab.unix_path()).await.unwrap();
    let monitor = LibvirtRpc::with_config("stage-lb-1", conn, Config::new().uri(lab.uri()));
    let through_libvirt = monitor.schema().await.unwrap();
    let qemu = Qemu::start(&[]);
    let direct = SocketMonitor::unix(qemu.unix_path()).await.unwrap();
    let direct = direct.schema().await.unwrap();
    let lines = |schema: &libvirt_qmp::Schema| -> Vec<String> {
        let commands = schema.commands().map(|command| command.to_string());
        commands
            .chain(schema.events().map(|event| event.to_string()))
            .collect()
    };
    assert_eq!(lines(&through_libvirt), lines(&direct));
    assert!(lines(&direct).len() > 200);

    let unknown = monitor
        .transaction(Transaction::new().action("x", ()))
        .await;
    assert!(
        matches!(unknown, Err(libvirt_qmp::Error::Command(_))),
        "{unknown:?}"
    );
    let aborted = Transaction::new().action("abort", json!({}));
    match monitor.transaction(aborted).await {
        Err(libvirt_qmp::Error::Qmp(error)) => {
            assert_eq!(error.desc, "Transaction aborted using Abort action");
            assert_eq!(error.command.as_deref(), Some("transaction"));
        }
        other => panic!("{other:?}"),
    }
    monitor.transaction(Transaction::new()).await.unwrap();
}
