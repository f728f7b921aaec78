//! The rendezvous and NMI accounting protocol.
#![no_std]
#![forbid(unsafe_code)]
