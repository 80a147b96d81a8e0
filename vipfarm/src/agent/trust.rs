//! Who may change what the agent acts by: its file where that names programs, and those programs.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use crate::model::Farm;

/// Others may change a file, or put another one in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} can be changed by {whom}: `{fix} {}`", path.display(), path.display())]
pub struct Changeable {
    /// The file, or a directory that it is in.
    path: PathBuf,
    /// By whom.
    whom: String,
    /// The command against it.
    fix: &'static str,
}

/// Others may say what the agent's user executes.
#[derive(Debug, thiserror::Error)]
#[error("{} names checks or hooks that run as the agent's own user, and {by}", file.display())]
pub(crate) struct Untrusted {
    file: PathBuf,
    by: Changeable,
}

/// Refuses a farm's file that others than root and the agent's user may change, if it names programs that
/// run as that user.
pub(crate) fn refuse(path: &Path, farm: &Farm) -> Result<(), Untrusted> {
    if !farm.runs_as_agent() {
        return Ok(());
    }
    let refusal = |by| Untrusted { file: path.into(), by };
    changeable(path).map_or(Ok(()), |by| Err(refusal(by)))
}

/// Who else may change what is at that path. One that is not there will be missed elsewhere.
pub(crate) fn changeable(path: &Path) -> Option<Changeable> {
    let own = [0, geteuid().as_raw()];
    // What a link leads to, and where it is.
    let (found, told) = (path.canonicalize().ok()?, std::path::absolute(path).ok()?);
    let mut places = found.ancestors().chain(told.ancestors().skip(1));
    places.find_map(|place| {
        let (whom, fix) = by_whom(&place.metadata().ok()?, &own)?;
        Some(Changeable { path: place.into(), whom, fix })
    })
}

fn by_whom(found: &Metadata, own: &[u32]) -> Option<(String, &'static str)> {
    let (mode, group) = (found.mode(), found.gid());
    // In a directory with that bit, such as /tmp, each removes only what is their own.
    let is_shared = found.is_dir() && mode & libc::S_ISVTX != 0;
    match () {
        () if !own.contains(&found.uid()) => Some((format!("user {}", found.uid()), "chown root")),
        () if is_shared => None,
        () if mode & 0o002 != 0 => Some(("anybody".into(), "chmod o-w")),
        () if mode & 0o020 != 0 && group != 0 => Some((format!("group {group}"), "chmod g-w")),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use super::*;

    #[test]
    fn a_file_its_link_and_all_directories_above_are_looked_at() {
        let top = std::env::temp_dir().join(format!("vipfarm-trust-{}", std::process::id()));
        let inner = top.join("inner");
        fs::create_dir_all(&inner).expect("writable");
        let (file, link) = (inner.join("file"), top.join("link"));
        fs::write(&file, "").expect("writable");
        symlink(&file, &link).expect("writable");
        let set = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own");
        };
        for path in [&top, &inner] {
            set(path, 0o755);
        }
        set(&file, 0o644);
        let found = |path: &Path| changeable(path).map(|it| it.to_string());
        assert_eq!((found(&file), found(&link)), (None, None));
        for (place, mode, sound) in
            [(&file, 0o646, 0o644), (&inner, 0o777, 0o755), (&top, 0o757, 0o755)]
        {
            set(place, mode);
            let place = place.display();
            let expected = format!("{place} can be changed by anybody: `chmod o-w {place}`");
            for path in [&file, &link] {
                assert_eq!(found(path).as_ref(), Some(&expected));
            }
            set(Path::new(&place.to_string()), sound);
        }
        set(&inner, 0o1777);
        assert_eq!(found(&file), None, "others can remove what is theirs");
        set(&inner, 0o755);
        if geteuid().is_root() {
            chown(&file, Some(65_534), None).expect("root may");
            assert!(found(&link).is_some_and(|it| it.contains("by user 65534: `chown root")));
            chown(&file, Some(0), Some(100)).expect("root may");
            set(&file, 0o664);
            assert!(found(&file).is_some_and(|it| it.contains("by group 100: `chmod g-w")));
            chown(&file, None, Some(0)).expect("root may");
            assert_eq!(found(&file), None, "the group is root's");
        }
        fs::remove_dir_all(&top).expect("it was made");
    }
}
