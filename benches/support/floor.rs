//! The floor: what the same exchange costs over a blocking socket with packets built beforehand and replies that are
//! only framed. No client can be below it. Imports `server` and `wire`.

use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;

use crate::server;
use crate::wire::{
    self, CALL, DOMAIN, PREFIX, QEMU, REMOTE, STREAM, put_domain, put_string, put_word,
};

/// Read at once, at most, unless a packet is larger.
const READ: usize = 64 * 1024;

/// The blocking client.
pub(crate) struct Floor {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// A connected stream whose other end is served by a new thread.
pub(crate) fn connect() -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || server::serve(theirs));
    ours
}

impl Floor {
    pub(crate) fn connect() -> Self {
        Floor {
            stream: connect(),
            buffer: vec![0; READ],
            start: 0,
            end: 0,
        }
    }

    /// Writes `packets`, as they are, and frames so many.
    pub(crate) fn exchange(&mut self, packets: &[u8], replies: usize) {
        self.stream.write_all(packets).unwrap();
        for _ in 0..replies {
            self.frame();
        }
    }

    /// Writes a call and returns the payload of its reply.
    pub(crate) fn reply(&mut self, call: &[u8]) -> Vec<u8> {
        self.stream.write_all(call).unwrap();
        let packet = self.frame();
        self.buffer[packet][PREFIX..].to_vec()
    }

    /// Finds the next packet and returns where in the buffer it is.
    fn frame(&mut self) -> Range<usize> {
        loop {
            if let Some(length) = wire::complete(&self.buffer[self.start..self.end]) {
                self.start += length;
                return self.start - length..self.start;
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end >= 4 {
                let length = wire::word(&self.buffer, 0) as usize;
                if length > self.buffer.len() {
                    self.buffer.resize(length, 0);
                }
            }
            let read = self.stream.read(&mut self.buffer[self.end..]).unwrap();
            assert!(read > 0, "the server closed");
            self.end += read;
        }
    }
}

/// The call of a monitor command.
pub(crate) fn monitor_command(command: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    put_domain(&mut payload, DOMAIN, 7);
    put_string(&mut payload, command);
    put_word(&mut payload, 0);
    wire::packet(QEMU, 1, CALL, 1, &payload)
}

/// The registration for all monitor events: any domain, any event.
pub(crate) fn register() -> Vec<u8> {
    wire::packet(QEMU, 4, CALL, 1, &[0; 12])
}

/// The call that lists all domains.
pub(crate) fn list_domains() -> Vec<u8> {
    wire::packet(REMOTE, 273, CALL, 1, &[0, 0, 0, 1, 0, 0, 0, 0])
}

/// The call that opens a download, and the word that ends it.
pub(crate) fn download() -> (Vec<u8>, Vec<u8>) {
    let call = wire::packet(REMOTE, 209, CALL, 1, &[0; 4]);
    (call, wire::packet(REMOTE, 209, STREAM, 1, &[]))
}
