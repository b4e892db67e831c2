//! The methods that the generator made, one for each procedure of the remote, qemu and lxc programs. Imports rpc, error,
//! objects, protocol and xdr.

use super::Libvirt;
use super::calls::decode;
use crate::error::Error;
use crate::rpc::{Outgoing, Spec};

include!(concat!(env!("OUT_DIR"), "/methods.rs"));
