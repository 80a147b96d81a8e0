//! Creating the socket so that one agent a farm has it, and nobody else may open it meanwhile.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
            sockopt,
        },
        stat::{Mode, fchmod},
    },
    unistd::geteuid,
};

/// Who may talk to the agent: its user and its group.
const MODE: u32 = 0o660;

/// Of a directory that is made: others may look, and change nothing.
const DIRECTORY_MODE: u32 = 0o755;

/// The write permissions of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The listening control socket of one farm; removed from the file system when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent has it.
    #[error(
        "an agent of farm `{farm}` already runs here (pid {pid}): stop it first, or give this one another --run-dir"
    )]
    Taken {
        /// The farm.
        farm: String,
        /// The process that listens.
        pid: i32,
    },
    /// The socket's directory cannot be used.
    #[error("cannot use {path} for the control socket: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the agent's user could put another socket into its place.
    #[error(
        "{path} has mode {mode:04o} and belongs to user {owner}: others could take the control socket's place there: `chown {user} {path} && chmod 755 {path}`, or name another --run-dir", path = path.display(), user = geteuid()
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// The socket cannot be made.
    #[error("cannot create the control socket {path}: {source}", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Listens at `RUN_DIR/FARM.sock`, mode 0660; makes the directory when it is missing and
    /// replaces the socket of an agent that is gone.
    pub fn open(run_dir: &Path, farm: &str) -> Result<Self, OpenError> {
        let path = socket_path(run_dir, farm);
        // Of two agents that start at once, the second sees the first's socket complete.
        let locked = lock(run_dir)
            .map_err(|source| OpenError::Directory { path: run_dir.to_owned(), source })?;
        refuse_unsafe(run_dir, &locked)?;
        if let Some(pid) = listening_process(&path)
            .map_err(|source| OpenError::Socket { path: path.clone(), source })?
        {
            return Err(OpenError::Taken { farm: farm.to_owned(), pid });
        }
        match listen_at(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(OpenError::Socket { path, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!("cannot remove the control socket {path}: {error}");
        }
    }
}

/// Where the agent of `farm` listens.
pub(crate) fn socket_path(run_dir: &Path, farm: &str) -> PathBuf {
    run_dir.join(format!("{farm}.sock"))
}

/// An exclusive lock on the directory itself, so that no lock file stays behind.
fn lock(run_dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(run_dir)?;
    let directory = File::open(run_dir)?;
    directory.lock()?;
    Ok(directory)
}

/// Whether nobody but the agent's user, and root, may change what is in the directory.
fn refuse_unsafe(run_dir: &Path, directory: &File) -> Result<(), OpenError> {
    let metadata = directory.metadata();
    let metadata =
        metadata.map_err(|source| OpenError::Directory { path: run_dir.to_owned(), source })?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & WRITABLE_BY_OTHERS != 0 || ![0, geteuid().as_raw()].contains(&owner) {
        return Err(OpenError::Unsafe { path: run_dir.to_owned(), mode, owner });
    }
    Ok(())
}

/// Binds under another name first: at its own name the socket always has its mode. What it is bound
/// with is no wider, whatever the process's umask is.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let bound = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&bound, Mode::from_bits_truncate(MODE))?;
    bind(bound.as_raw_fd(), &UnixAddr::new(&unfinished)?)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(MODE))?;
    listen(&bound, Backlog::MAXCONN)?;
    fs::rename(&unfinished, path)?;
    Ok(bound.into())
}

/// The process that listens at `path`, 0 when the kernel does not say which; `None` when there is
/// no socket or its process is gone. Anything but a socket is an error: it is not ours to replace.
fn listening_process(path: &Path) -> io::Result<Option<i32>> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_other) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let peer = getsockopt(&stream, sockopt::PeerCredentials);
            Ok(Some(peer.map_or(0, |credentials| credentials.pid())))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}
