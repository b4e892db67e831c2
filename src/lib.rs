//! QMP through libvirt's RPC protocol, and on QEMU's own socket.

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the layers that use it and the re-exports come on top"
)]
mod qmp;
