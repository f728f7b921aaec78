//! The micro-TPM as PALs see it: calls on memory, in both widths.

mod calls;
mod sealing;
mod support;
