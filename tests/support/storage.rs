//! A storage pool of a lab, content that is known at each place, and streams of volumes.
//! Imports `lab` and the crate's public API.

use std::path::PathBuf;

use libvirt_qmp::protocol::Procedure;
use libvirt_qmp::protocol::constants::{StorageVolDownloadFlags, StorageVolUploadFlags};
use libvirt_qmp::protocol::remote::procedure::{
    StorageVolDownload, StorageVolLookupByPath, StorageVolUpload,
};
use libvirt_qmp::protocol::remote::{
    StorageVolDownloadArgs, StorageVolLookupByPathArgs, StorageVolLookupByPathRet,
    StorageVolUploadArgs,
};
use libvirt_qmp::{Libvirt, Stream};

use super::lab::Lab;

pub(crate) const MIB: usize = 1 << 20;
/// `VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`, and the same for downloads.
pub(crate) const SPARSE: u32 = 1;

/// The pattern repeats after so many bytes, a prime: what is lost, doubled or out of its order does not match.
const PERIOD: usize = 1_048_573;

/// Bytes that look random and are known at each place.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        bytes.extend_from_within(..MIB / 2);
        Pattern(bytes)
    }

    /// What is at `place`: at most `length` bytes, and half a megabyte.
    pub(crate) fn at(&self, place: usize, length: usize) -> &[u8] {
        let start = place % PERIOD;
        &self.0[start..][..length.min(MIB / 2)]
    }

    /// Whether `data` is what is at `place`.
    pub(crate) fn matches(&self, mut place: usize, data: &[u8]) -> bool {
        data.chunks(MIB / 2).all(|part| {
            let same = self.at(place, part.len()) == part;
            place += part.len();
            same
        })
    }
}

/// A pool of the lab, in a directory.
pub(crate) struct Pool {
    dir: PathBuf,
}

impl Pool {
    pub(crate) fn new(lab: &Lab) -> Self {
        let dir = lab.dir().join("pool");
        let target = dir.display().to_string();
        lab.virsh(&["pool-define-as", "pool", "dir", "--target", &target]);
        lab.virsh(&["pool-build", "pool"]);
        lab.virsh(&["pool-start", "pool"]);
        Pool { dir }
    }

    /// A new volume of so many bytes, none of which is allocated.
    pub(crate) async fn volume(
        &self,
        lab: &Lab,
        libvirt: &Libvirt,
        name: &str,
        size: usize,
    ) -> StorageVolLookupByPathRet {
        let size = format!("{size}b");
        lab.virsh(&["vol-create-as", "pool", name, &size, "--allocation", "0"]);
        let path = self.path(name).display().to_string();
        call::<StorageVolLookupByPath>(libvirt, StorageVolLookupByPathArgs { path }).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) async fn upload(
    libvirt: &Libvirt,
    volume: &StorageVolLookupByPathRet,
    length: usize,
    flags: u32,
) -> Stream {
    let args = StorageVolUploadArgs {
        vol: volume.vol.clone(),
        offset: 0,
        length: length as u64,
        flags: StorageVolUploadFlags(flags),
    };
    let ((), stream) = libvirt
        .open_stream::<StorageVolUpload>(&args)
        .await
        .unwrap();
    stream
}

pub(crate) async fn download(
    libvirt: &Libvirt,
    volume: &StorageVolLookupByPathRet,
    flags: u32,
) -> Stream {
    let args = StorageVolDownloadArgs {
        vol: volume.vol.clone(),
        offset: 0,
        length: 0,
        flags: StorageVolDownloadFlags(flags),
    };
    let ((), stream) = libvirt
        .open_stream::<StorageVolDownload>(&args)
        .await
        .unwrap();
    stream
}

/// Calls a procedure that brings nothing but its reply.
pub(crate) async fn call<P: Procedure>(libvirt: &Libvirt, args: P::Args) -> P::Reply {
    let (reply, files) = libvirt.call_with_files::<P>(&args, &[]).await.unwrap();
    assert!(files.is_empty());
    reply
}
