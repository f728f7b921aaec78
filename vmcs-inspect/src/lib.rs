//! VMX vocabulary: fields, decoders, VM-entry checks and `monitor vmcs`.
#![no_std]
#![forbid(unsafe_code)]
