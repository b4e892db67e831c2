//! The guide: how to do what, a page for each topic. Nothing is defined here.
//!
//! | page | what |
//! |---|---|
//! | [`connections`] | many domains on one, URIs, what happens after a loss, limits |
//! | [`events`] | those of QEMU and those of libvirt, waiting for one, histories |
//! | [`commands`] | checked and typed, jobs, descriptors, order |
//! | [`libvirt`] | each procedure of libvirt's RPC, streams, file descriptors |
//! | [`programs`] | without async, stand-ins for tests, recordings |
//! | [`errors`] | every way to fail, and what to do; logs |

#[doc = include_str!("commands.md")]
pub mod commands {}
#[doc = include_str!("connections.md")]
pub mod connections {}
#[doc = include_str!("errors.md")]
pub mod errors {}
#[doc = include_str!("events.md")]
pub mod events {}
#[doc = include_str!("libvirt.md")]
pub mod libvirt {}
#[doc = include_str!("programs.md")]
pub mod programs {}
