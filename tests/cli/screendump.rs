//! `screendump`: a PNG of the guest's screen.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;

use libvirt_qmp::testing::Reply;
use serde_json::json;

use crate::program::*;
use crate::pty::Pty;
use crate::support::lab::{Lab, uuid_of};
use crate::support::qemu::Qemu;
use crate::support::scratch::Scratch;

/// Width, height and the first point of a PNG.
fn decoded(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let mut points = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut points).unwrap();
    points.truncate(3);
    (info.width, info.height, points)
}

#[tokio::test]
async fn a_ppm_of_an_old_qemu_becomes_a_png() {
    let stub = Stub::start();
    stub.qemu
        .hold("screendump")
        .on("screendump", json!({}))
        .on("remove-fd", json!({}));
    let uri = stub.uri();
    let child = qmp(&["-C", &uri, "screendump", "-"]).spawn().unwrap();
    let command = within(stub.qemu.wait_for_command("screendump")).await;
    let filename = command["arguments"]["filename"].as_str().unwrap();
    assert!(filename.starts_with("/dev/fdset/"), "{command}");
    assert_eq!(command["arguments"].get("format"), None);
    let mut file = File::from(stub.qemu.files().pop().unwrap());
    file.write_all(b"P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06")
        .unwrap();
    drop(file);
    stub.qemu.release("screendump");
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(decoded(&output.stdout), (2, 1, vec![1, 2, 3]));
    // QEMU keeps no descriptor.
    assert!(stub.arguments_of("remove-fd")["fdset-id"].is_i64());
}

#[tokio::test]
async fn a_file_is_not_touched_where_there_is_no_picture() {
    let scratch = Scratch::new();
    let file = scratch.path("file.png").display().to_string();
    let stub = Stub::start();
    stub.qemu.on("remove-fd", json!({}));
    for (reply, reason) in [
        (
            Reply::error("GenericError", "no graphic console"),
            "no graphic console",
        ),
        (Reply::value(json!({})), "neither a PNG nor a PPM"),
    ] {
        stub.qemu.on("screendump", reply);
        let output = stub.run(&["screendump", &file]).await;
        assert_eq!(code(&output), 1);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert!(!scratch.path("file.png").exists());
        assert!(stub.arguments_of("remove-fd")["fdset-id"].is_i64());
        stub.qemu.clear_commands();
    }
    // Nothing can be passed through TCP.
    let tcp = format!("tcp:{}", stub.qemu.listen_tcp().unwrap());
    let output = qmp(&["-C", &tcp, "screendump", &file])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("not supported"),
        "{}",
        stderr(&output)
    );
    for (words, reason) in [
        (&["screendump"][..], "no file given"),
        (&["screendump", "a", "b"], "`b` is one file too many"),
    ] {
        let output = stub.run(words).await;
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_a_picture_of_the_guests_size() {
    let scratch = Scratch::new();
    let file = scratch.path("screen.png");
    // Nothing runs, so nothing changes the screen.
    let qemu = Qemu::start(&["-vga", "std", "-S"]);
    let uri = format!("unix:{}", qemu.unix_path().display());
    let output = qmp(&["-C", &uri, "screendump", file.to_str().unwrap()])
        .output()
        .await
        .unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert_eq!(stdout(&output), "");
    let (width, height, _) = decoded(&std::fs::read(&file).unwrap());
    let size = size_by_ppm(&scratch.path("screen.ppm"), &["-C", &uri, "run"]).await;
    assert_eq!((width, height), size);

    // A terminal that shows pictures gets it too, unless it is not wanted there; others get nothing.
    let words = ["-C", &uri, "screendump", file.to_str().unwrap()];
    for (terminal, quiet, is_shown) in [
        ("xterm-kitty", &[][..], true),
        ("xterm-kitty", &["--quiet"], false),
        ("xterm", &[], false),
    ] {
        std::fs::remove_file(&file).unwrap();
        let mut pty = Pty::qmp_on(terminal, &[&words, quiet].concat(), scratch.dir());
        assert_eq!(pty.end(), 0, "{}", pty.screen());
        let written = pty.raw();
        assert_eq!(written.contains("\x1b_Ga=T,f=100,"), is_shown, "{written}");
        assert_eq!(written.is_empty(), !is_shown, "{written}");
        assert_eq!(decoded(&std::fs::read(&file).unwrap()).0, width);
    }
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn live_a_picture_through_libvirt_by_every_driver() {
    let lab = Lab::start();
    let screen = "<video><model type='vga'/></video>";
    lab.guest_with(GUEST, uuid_of(GUEST), screen);
    // Nothing changes the screen from now on.
    lab.virsh(&["suspend", GUEST]);
    let uri = lab.client_uri();
    let size = size_by_ppm(&lab.dir().join("screen.ppm"), &["-C", &uri, "run", GUEST]).await;
    let mut drivers = vec![uri.clone(), format!("virsh+{uri}")];
    if cfg!(feature = "libvirt-c") {
        drivers.push(format!("c+{uri}"));
    }
    for uri in drivers {
        let output = qmp(&["-C", &uri, "screendump", GUEST, "-"])
            .output()
            .await
            .unwrap();
        assert_eq!(
            (code(&output), stderr(&output)),
            (0, String::new()),
            "{uri}"
        );
        let (width, height, _) = decoded(&output.stdout);
        assert_eq!((width, height), size, "{uri}");
    }
}

/// The size of the screen, as QEMU itself writes it into this file; `run` is how it is told to.
async fn size_by_ppm(file: &Path, run: &[&str]) -> (u32, u32) {
    let filename = format!("filename={}", file.display());
    let output = qmp(run)
        .args(["screendump", &filename])
        .output()
        .await
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let picture = std::fs::read(file).unwrap();
    let head = String::from_utf8_lossy(&picture[..20]).into_owned();
    let mut words = head
        .split_ascii_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap());
    (words.next().unwrap(), words.next().unwrap())
}
