//! What guests show and say: a console, a screenshot, a display by its descriptor.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use libvirt_qmp::protocol::remote::procedure::{
    DomainLookupByName, DomainOpenConsole, DomainOpenGraphicsFd, DomainScreenshot,
};
use libvirt_qmp::protocol::remote::{
    DomainLookupByNameArgs, DomainLookupByNameRet, DomainOpenConsoleArgs, DomainOpenGraphicsFdArgs,
    DomainScreenshotArgs,
};
use libvirt_qmp::{Error, Libvirt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::open;
use super::support::lab::Lab;
use super::support::process::find_program;
use super::support::storage::call;

/// More than the firmware takes to start what is on the disk, on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

/// Code for a disk's first sector: says back on the serial line what it hears there.
const ECHO: &[u8] = &[
    0xba, 0xfd, 0x03, // mov dx, 3fdh: the line's status
    0xec, 0xa8, 0x01, // in al, dx; test al, 1: something has come
    0x74, 0xfb, // jz back to in
    0xba, 0xf8, 0x03, 0xec, // mov dx, 3f8h; in al, dx
    0x88, 0xc4, // mov ah, al
    0xba, 0xfd, 0x03, // mov dx, 3fdh
    0xec, 0xa8, 0x20, // in al, dx; test al, 20h: there is room
    0x74, 0xfb, // jz back to in
    0x88, 0xe0, // mov al, ah
    0xba, 0xf8, 0x03, 0xee, // mov dx, 3f8h; out dx, al
    0xeb, 0xe0, // jmp to the start
];

/// A running guest with a screen, a serial line, VNC, and a disk that says back what it hears.
fn guest(lab: &Lab) {
    let mut sector = vec![0; 512];
    sector[..ECHO.len()].copy_from_slice(ECHO);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = lab.dir().join("disk");
    fs::write(&disk, sector).unwrap();
    // The daemon runs as somebody else where the tests run as root.
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o666)).unwrap();
    let xml = format!(
        "<domain type='qemu'><name>one</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>\
         <emulator>{}</emulator><controller type='usb' model='none'/><memballoon model='none'/>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='hda' bus='ide'/></disk><serial type='pty'/>\
         <graphics type='vnc' autoport='no' port='-1'><listen type='none'/></graphics>\
         <video><model type='vga'/></video></devices><seclabel type='none'/></domain>",
        find_program("qemu-system-x86_64").unwrap().display(),
        disk.display()
    );
    let file = lab.dir().join("one.xml");
    fs::write(&file, xml).unwrap();
    lab.virsh(&["create", &file.display().to_string()]);
}

async fn domain(libvirt: &Libvirt) -> DomainLookupByNameRet {
    let name = "one".into();
    call::<DomainLookupByName>(libvirt, DomainLookupByNameArgs { name }).await
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_console_says_back_what_is_written_and_is_free_again_after_that() {
    let lab = Lab::start();
    guest(&lab);
    let libvirt = open(&lab).await;
    let args = DomainOpenConsoleArgs {
        dom: domain(&libvirt).await.dom,
        dev_name: None,
        flags: Default::default(),
    };
    for round in 0..3 {
        let open = libvirt.open_stream::<DomainOpenConsole>(&args);
        let ((), mut console) = open.await.unwrap();
        let text = format!("round {round}: the quick brown fox\n");
        let talk = async {
            console.write_all(text.as_bytes()).await.unwrap();
            console.flush().await.unwrap();
            let mut came = vec![0; text.len()];
            console.read_exact(&mut came).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&came), text);
        };
        timeout(SOON, talk).await.unwrap();
        // A console has one user: libvirt refuses another.
        let second = libvirt.open_stream::<DomainOpenConsole>(&args).await;
        assert!(matches!(second, Err(Error::Libvirt(_))), "{second:?}");
        match round {
            0 => console.finish().await.unwrap(),
            _ => console.abort().await.unwrap(),
        }
    }
    libvirt.domains().await.unwrap();
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_screenshot_is_a_whole_picture() {
    let lab = Lab::start();
    guest(&lab);
    let libvirt = open(&lab).await;
    let args = DomainScreenshotArgs {
        dom: domain(&libvirt).await.dom,
        screen: 0,
        flags: Default::default(),
    };
    let (reply, mut stream) = libvirt
        .open_stream::<DomainScreenshot>(&args)
        .await
        .unwrap();
    let mut picture = Vec::new();
    stream.read_to_end(&mut picture).await.unwrap();
    stream.finish().await.unwrap();
    // What it is depends on QEMU's version.
    match &*reply.mime.unwrap() {
        "image/png" => expect_png(&picture),
        "image/x-portable-pixmap" => expect_ppm(&picture),
        other => panic!("{other}"),
    }
}

/// A signature, then chunks: length, four letters, data and a checksum; the last is empty.
fn expect_png(picture: &[u8]) {
    let mut rest = picture.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        chunks.push(&after[..4]);
        rest = &after[4 + length + 4..];
    }
    assert_eq!(chunks.first(), Some(&&b"IHDR"[..]));
    assert_eq!(chunks.last(), Some(&&b"IEND"[..]));
    assert!(chunks.contains(&&b"IDAT"[..]));
}

/// P6, width and height, the largest value of a colour, then three bytes for each dot.
fn expect_ppm(picture: &[u8]) {
    let head = String::from_utf8_lossy(&picture[..picture.len().min(64)]).into_owned();
    let mut words = head.split_ascii_whitespace();
    assert_eq!(words.next(), Some("P6"), "{head}");
    let [width, height, most] = [(); 3].map(|()| words.next().unwrap());
    let dots = width.parse::<usize>().unwrap() * height.parse::<usize>().unwrap();
    let before = format!("P6\n{width} {height}\n{most}\n").len();
    assert_eq!(picture.len(), before + 3 * dots, "{head}");
}

#[tokio::test]
#[ignore = "needs libvirtd and QEMU: run tests/run"]
async fn a_display_comes_as_a_descriptor_over_the_unix_socket_alone() {
    let lab = Lab::start();
    guest(&lab);
    let libvirt = open(&lab).await;
    let args = DomainOpenGraphicsFdArgs {
        dom: domain(&libvirt).await.dom,
        idx: 0,
        flags: Default::default(),
    };
    for _ in 0..20 {
        let open = libvirt.call_with_files::<DomainOpenGraphicsFd>(&args, &[]);
        let ((), mut files) = open.await.unwrap();
        assert_eq!(files.len(), 1);
        // VNC's server speaks first.
        let socket = std::os::unix::net::UnixStream::from(files.remove(0));
        socket.set_nonblocking(true).unwrap();
        let mut display = UnixStream::from_std(socket).unwrap();
        let mut hello = [0; 12];
        let read = display.read_exact(&mut hello);
        timeout(SOON, read).await.unwrap().unwrap();
        assert!(hello.starts_with(b"RFB "), "{hello:?}");
    }
    let conn = TcpStream::connect(lab.tcp_addr()).await.unwrap();
    let config = libvirt_qmp::Config::new().uri(lab.uri());
    let over_tcp = Libvirt::open(conn, config).await.unwrap();
    let refused = over_tcp
        .call_with_files::<DomainOpenGraphicsFd>(&args, &[])
        .await;
    assert!(refused.unwrap_err().is_unsupported());
    over_tcp.domains().await.unwrap();
}
