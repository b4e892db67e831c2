//! QMP through libvirt's RPC protocol, and on QEMU's own socket.
