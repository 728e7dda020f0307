//! A small file system that a test can fill up.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes over a directory, until dropped.
pub struct SmallDisk {
    directory: PathBuf,
    filler: Option<File>,
}

impl SmallDisk {
    /// Mounts one over a directory, which it then looks like. `None`, with the reason printed, where that is
    /// not permitted: it needs root, or sudo without a password.
    pub fn mount(directory: &Path, megabytes: u32) -> Option<Self> {
        let before = std::fs::metadata(directory).unwrap();
        let options = format!(
            "size={megabytes}m,mode=700,uid={},gid={}",
            before.uid(),
            before.gid()
        );
        // A tablespace's own directory is made when the tablespace is, so it has to come along.
        let inside: Vec<_> = std::fs::read_dir(directory)
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        let output = as_root("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory)
            .output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr).into_owned();
                println!("skipped: a small file system cannot be mounted: {reason}");
                return None;
            }
            Err(error) => {
                println!("skipped: a small file system cannot be mounted: {error}");
                return None;
            }
        }
        let disk = Self {
            directory: directory.to_owned(),
            filler: None,
        };
        for name in inside {
            let mut mkdir = crate::run_dir::as_server_user("mkdir");
            mkdir.args(["-m", "700"]).arg(directory.join(name));
            crate::run_dir::run(mkdir);
        }
        Some(disk)
    }

    /// Takes all the space that is left. To be called again when some became free.
    pub fn fill(&mut self) {
        let path = self.directory.join("filler");
        let filler = self
            .filler
            .get_or_insert_with(|| File::create(path).unwrap());
        // A tmpfs gives whole pages; what is written when it is full is an error or short, and then nothing.
        let page = [b'x'; 4096];
        loop {
            match filler.write(&page) {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
                Err(error) => panic!("filling {}: {error}", self.directory.display()),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn free(&mut self) {
        if self.filler.take().is_some() {
            std::fs::remove_file(self.directory.join("filler")).unwrap();
        }
    }

    /// The files that take space, without the filler.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.directory.clone()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                // A file may go away while we look.
                match entry.metadata() {
                    Ok(data) if data.is_dir() => open.push(entry.path()),
                    Ok(data) if data.len() > 0 && entry.file_name() != "filler" => {
                        found.push(entry.path());
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.filler = None;
        // Lazily: a server that is still up has files open there.
        let _ = as_root("umount").arg("-l").arg(&self.directory).status();
    }
}

fn as_root(program: &str) -> Command {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}
