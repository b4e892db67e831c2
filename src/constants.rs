//! The enums of libvirt's C interface that values on the wire are of, which build.rs generates from the definitions in
//! `xdr/constants/`. They are below the objects, some of which have fields of them, and public as `protocol::constants`.
//! Imports xdr.

include!(concat!(env!("OUT_DIR"), "/constants.rs"));
