//! A disk that is soon full: a file system in memory, for which the test may have to become root in a
//! namespace of its own.

use std::process::Command;

use tempfile::TempDir;

/// A file system of a few megabytes, unmounted at the end.
pub struct SmallDisk(pub TempDir);

impl SmallDisk {
    /// `None` when this process may not mount anything.
    pub fn mount(megabytes: u64) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tidegate-test"])
            .arg(folder.path())
            .output();
        mount.is_ok_and(|it| it.status.success()).then_some(Self(folder))
    }

    /// Gives it another size.
    pub fn resize(&self, megabytes: u64) {
        let size = format!("remount,size={megabytes}m");
        let done = Command::new("mount").args(["-o", &size]).arg(self.0.path()).status();
        assert!(done.is_ok_and(|it| it.success()), "the disk cannot be made larger");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Runs this test once more in a namespace of its own, in which it may mount.
pub fn again_with_the_right_to_mount(test: &str) {
    const MARK: &str = "TIDEGATE_TEST_IN_NAMESPACE";
    assert!(std::env::var_os(MARK).is_none(), "cannot mount a tmpfs even in a namespace");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(MARK, "1")
        .status();
    assert!(
        status.is_ok_and(|it| it.success()),
        "this test needs a small disk: run it as root, or allow user namespaces"
    );
}
