//! Files of one's own that go into the guest, `run --put FILE`. Used by `image` and `full_debian`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The folder in the guest that has them; nothing else is in it.
pub const FOLDER: &str = "/root/own";

/// A file that goes into [`FOLDER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    /// Its name, there and here.
    pub name: String,
    /// Its permissions.
    pub mode: u32,
    /// Where it lies on the host.
    pub source: PathBuf,
}

/// Looks at the files.
///
/// # Errors
/// One is not there or is no file, has a name that is not letters, digits and `._-`, or the name of
/// another.
pub fn find(paths: &[PathBuf]) -> Result<Vec<OwnFile>> {
    let mut files: Vec<OwnFile> = Vec::new();
    for path in paths {
        let shown = path.display();
        let found = path
            .metadata()
            .with_context(|| format!("--put: cannot find {shown}"))?;
        ensure!(found.is_file(), "--put: {shown} is not a file");
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        ensure!(
            name.bytes().all(is_plain) && !name.is_empty(),
            "--put: {shown} has a name that is not letters, digits, '.', '_' and '-': rename it"
        );
        ensure!(
            files.iter().all(|other| other.name != name),
            "--put: two files are called {name}: rename one"
        );
        files.push(OwnFile {
            name: name.into(),
            mode: found.permissions().mode() & 0o777,
            source: path.clone(),
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_taken_as_they_are_or_refused() {
        let folder = std::env::temp_dir().join(format!("own-files-{}", std::process::id()));
        fs::create_dir_all(folder.join("other")).unwrap();
        let at = |name: &str| folder.join(name);
        for name in ["main", "other/main", "a b"] {
            fs::write(at(name), name).unwrap();
        }
        fs::set_permissions(at("main"), fs::Permissions::from_mode(0o750)).unwrap();
        let found = find(&[at("main")]).unwrap();
        let main = OwnFile {
            name: "main".into(),
            mode: 0o750,
            source: at("main"),
        };
        assert_eq!(found, [main]);
        let refused = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|name| at(name)).collect();
            find(&paths).unwrap_err().to_string()
        };
        assert!(refused(&["none"]).contains("cannot find"));
        assert!(refused(&["other"]).contains("is not a file"));
        assert!(refused(&["a b"]).contains("rename it"));
        assert!(refused(&["main", "other/main"]).contains("two files are called main"));
        fs::remove_dir_all(folder).unwrap();
    }
}
