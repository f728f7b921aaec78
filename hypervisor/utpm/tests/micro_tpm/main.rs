//! The micro-TPM as PALs see it: calls on memory, in both widths.

mod arbitrary;
mod calls;
mod quotes;
mod sealing;
mod support;
