//! `qmp screendump`: a picture of the guest's screen, as a PNG.

use std::io::{IsTerminal, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libvirt_qmp::{Command, Error, Monitor, MonitorExt};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::connect::{Settings, with_monitor};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// What every PNG begins with.
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes of a picture; one of 16384 by 16384 points has less.
const MAX_PICTURE: u64 = 1 << 30;
/// Characters of a picture that kitty takes at once.
const CHUNK: usize = 4096;

const USAGE: &str = "qmp [-C URI] screendump [OPTIONS] DOMAIN FILE
       qmp -C unix:PATH screendump [OPTIONS] FILE";

const HELP: &str = "\
FILE is a PNG when all is done, and is not touched before; `-` is standard output. The
picture goes through a file descriptor, so the way to QEMU has to pass one: a unix
socket, QEMU's own or libvirtd's, or virsh on this machine. A terminal that can shows
the picture too: kitty, Ghostty, WezTerm and iTerm2.";

#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = HELP)]
pub(crate) struct Args {
    /// Do not show the picture, whatever the terminal can
    #[arg(long)]
    quiet: bool,
    /// The graphics device, by its id
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// The head of that device
    #[arg(long, value_name = "N", requires = "device")]
    head: Option<u32>,
    /// The domain by name or UUID, and the file; no domain on QEMU's own socket
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    let endpoint = settings.endpoint()?;
    let (domain, words) = endpoint.domain_of(&args.words)?;
    let file = match words {
        [file] => PathBuf::from(file),
        [] => return Err(Failure::usage("no file given")),
        [_, word, ..] => return Err(Failure::usage(format!("`{word}` is one file too many"))),
    };
    let picture =
        with_monitor(settings, domain, async |monitor| take(monitor, &args).await).await?;
    let picture = as_png(picture)?;
    if file == Path::new("-") {
        return output.bytes(picture).await;
    }
    std::fs::write(&file, &picture)
        .map_err(|error| Failure::system(&format!("cannot write {}", file.display()), error))?;
    match Terminal::of_this_process().filter(|_| !args.quiet) {
        Some(terminal) => output.line(terminal.show(&picture)).await,
        None => Ok(()),
    }
}

/// Has QEMU take the picture, and reads it: a PNG, or a PPM where this QEMU knows no other.
async fn take(monitor: &dyn Monitor, args: &Args) -> Result<Vec<u8>, Failure> {
    let knows_png = match monitor.schema().await {
        Ok(schema) => schema
            .command("screendump")
            .is_some_and(|command| command.argument("format").is_some()),
        Err(Error::Qmp(_) | Error::Decode { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let cannot = |error| Failure::system("cannot make a file for the picture", error);
    // QEMU writes into a file that has no other reader, whatever FILE is.
    let file = tempfile::NamedTempFile::new().map_err(cannot)?;
    // QEMU looks for a descriptor that is for writing alone.
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .open(file.path())
        .map_err(cannot)?;
    let mut dump = Command::new("screendump");
    if let Some(device) = &args.device {
        dump = dump.arg("device", device);
    }
    if let Some(head) = args.head {
        dump = dump.arg("head", head);
    }
    if knows_png {
        dump = dump.arg("format", "png");
    }
    let dumped = dump_into(monitor, writer.into(), dump).await;
    dumped.map_err(Failure::running)?;
    let mut picture = Vec::new();
    let mut reader = file.reopen().map_err(cannot)?.take(MAX_PICTURE);
    reader.read_to_end(&mut picture).map_err(cannot)?;
    Ok(picture)
}

/// Runs `screendump` into a descriptor of ours, of which QEMU keeps none.
async fn dump_into(monitor: &dyn Monitor, file: OwnedFd, dump: Command) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Added {
        #[serde(rename = "fdset-id")]
        set: i64,
    }
    let Added { set } = monitor.execute(Command::new("add-fd").file(file)).await?;
    let dump = dump.arg("filename", format!("/dev/fdset/{set}"));
    let dumped = monitor.execute::<IgnoredAny>(dump).await;
    let remove = Command::new("remove-fd").arg("fdset-id", set);
    let removed = monitor.execute::<IgnoredAny>(remove).await;
    dumped.and(removed).map(|_| ())
}

/// The picture as a PNG.
fn as_png(picture: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if picture.starts_with(SIGNATURE) {
        return Ok(picture);
    }
    let wrong = |reason: &str| Failure::new(Exit::Failed, format!("QEMU's picture: {reason}"));
    let (width, height, points) =
        read_ppm(&picture).ok_or_else(|| wrong("it is neither a PNG nor a PPM"))?;
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(points)?;
        writer.finish()
    });
    written.map_err(|error| wrong(&error.to_string()))?;
    Ok(png)
}

/// Width, height and points of a PPM with 8 bits a colour: `P6`, three numbers, a blank, and three bytes a point.
fn read_ppm(picture: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut rest = picture.strip_prefix(b"P6")?;
    let mut numbers = [0_u32; 3];
    for number in &mut numbers {
        rest = rest.trim_ascii_start();
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
        *number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        rest = &rest[digits..];
    }
    let [width, height, 255] = numbers else {
        return None;
    };
    let (blank, points) = rest.split_first()?;
    let length = usize::try_from(width)
        .ok()?
        .checked_mul(usize::try_from(height).ok()?)?
        .checked_mul(3)?;
    let is_whole = blank.is_ascii_whitespace() && points.len() == length && length > 0;
    is_whole.then_some((width, height, points))
}

/// How a terminal is given a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    Kitty,
    Iterm2,
}

impl Terminal {
    /// The terminal on standard output, where it is known to show pictures.
    fn of_this_process() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        match std::io::stdout().is_terminal() {
            true => Terminal::named(
                &variable("TERM"),
                &variable("TERM_PROGRAM"),
                // Neither passes pictures on.
                std::env::var_os("TMUX").is_some() || std::env::var_os("STY").is_some(),
            ),
            false => None,
        }
    }

    fn named(term: &str, program: &str, is_wrapped: bool) -> Option<Self> {
        if is_wrapped {
            return None;
        }
        match (term, program) {
            ("xterm-kitty" | "xterm-ghostty", _) | (_, "ghostty" | "WezTerm") => {
                Some(Terminal::Kitty)
            }
            (_, "iTerm.app") => Some(Terminal::Iterm2),
            _ => None,
        }
    }

    /// What makes the terminal show a PNG.
    fn show(self, png: &[u8]) -> String {
        let text = STANDARD.encode(png);
        match self {
            Terminal::Iterm2 => {
                let size = png.len();
                format!("\x1b]1337;File=inline=1;size={size}:{text}\x07")
            }
            Terminal::Kitty => {
                let mut shown = String::with_capacity(text.len() + text.len() / 256 + 32);
                let count = text.len().div_ceil(CHUNK);
                for (number, chunk) in text.as_bytes().chunks(CHUNK).enumerate() {
                    let first = if number == 0 { "a=T,f=100," } else { "" };
                    let more = u8::from(number + 1 < count);
                    shown.push_str(&format!("\x1b_G{first}m={more};"));
                    shown.push_str(&String::from_utf8_lossy(chunk));
                    shown.push_str("\x1b\\");
                }
                shown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ppm_becomes_a_png_of_the_same_points() {
        let points = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7, 6, 5, 4, 3, 2, 1];
        let picture = [b"P6\n3 2\n255\n".as_slice(), &points].concat();
        let png = as_png(picture).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png))
            .read_info()
            .unwrap();
        let mut decoded = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut decoded).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(&decoded[..info.buffer_size()], points);
        assert_eq!(as_png(png.clone()).unwrap(), png);
    }

    #[test]
    fn what_is_no_picture_is_told() {
        for picture in [
            &b""[..],
            b"P6",
            b"P6\n",
            b"P6\n1 1\n255",
            b"P6\n1 1\n255\n12",
            b"P6\n1 1\n255\n1234",
            b"P6\n0 1\n255\n",
            b"P6\n1 1\n65535\n123456",
            b"P6\n4294967296 1\n255\n",
            b"P6\n4294967295 4294967295\n255\n1",
            b"P5\n1 1\n255\n1",
        ] {
            assert!(as_png(picture.to_vec()).is_err(), "{picture:?}");
        }
    }

    #[test]
    fn terminals_that_show_pictures_are_known_by_name() {
        for (term, program, wrapped, expected) in [
            ("xterm-kitty", "", false, Some(Terminal::Kitty)),
            ("xterm-256color", "WezTerm", false, Some(Terminal::Kitty)),
            ("xterm-256color", "iTerm.app", false, Some(Terminal::Iterm2)),
            ("xterm-256color", "Apple_Terminal", false, None),
            ("xterm-kitty", "", true, None),
            ("dumb", "", false, None),
        ] {
            assert_eq!(Terminal::named(term, program, wrapped), expected);
        }
    }

    #[test]
    fn pictures_go_to_kitty_in_chunks() {
        let shown = Terminal::Kitty.show(&vec![7; 7000]);
        let chunks: Vec<&str> = shown.split_terminator("\x1b\\").collect();
        assert_eq!(chunks.len(), 3);
        assert!(chunks[0].starts_with("\x1b_Ga=T,f=100,m=1;"));
        assert!(chunks[1].starts_with("\x1b_Gm=1;"));
        assert!(chunks[2].starts_with("\x1b_Gm=0;"));
        let text: String = chunks
            .iter()
            .map(|chunk| chunk.split_once(';').unwrap().1)
            .collect();
        assert_eq!(STANDARD.decode(text).unwrap(), vec![7; 7000]);
    }
}
