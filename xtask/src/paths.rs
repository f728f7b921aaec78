//! Where things lie: the workspace, and the folders under its `target/` in
//! which everything is cached. Used by every other module.

use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// `target/` of the workspace, whatever `CARGO_TARGET_DIR` says: the downloads
/// and the runs stay in one place.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Programs and data fetched from Debian and pruned to what is used.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// One folder for each emulator run.
pub fn runs() -> PathBuf {
    target().join("runs")
}
