//! The atomics, from one place: on the metal and in all but two tests they are
//! `core`'s. Those two put their own in place: shuttle's, to choose what runs next at
//! each access, and loom's, to answer each load with any value that the memory model
//! allows.

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize},
};
#[cfg(feature = "loom")]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize},
};
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
pub(crate) use shuttle::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize},
};
