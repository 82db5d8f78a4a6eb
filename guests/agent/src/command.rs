//! Starting a command.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::defaults;
use crate::kernel;
use crate::processes::Listed;
use crate::protocol::{self, Fields, invalid, kind};
use crate::running::{Running, Streams};
use crate::users::{self, User};

const TERMINAL: u8 = 1;
const NO_INPUT: u8 = 2;

/// What the host asks for.
struct Request<'a> {
    has_terminal: bool,
    has_input: bool,
    size: (u16, u16),
    user: Option<User>,
    directory: Vec<u8>,
    arguments: Vec<&'a [u8]>,
    environment: Vec<Vec<u8>>,
}

/// Run a command, from its request to its end.
pub fn run(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let started = Request::parse(payload).and_then(|request| {
        let (child, streams) = request.start()?;
        let arguments = request.arguments.iter().map(|each| each.to_vec()).collect();
        let listed = Listed::new(child.id(), arguments);
        Ok((child, streams, listed))
    });
    match started {
        Ok((child, streams, _listed)) => {
            // Its first word is said by what kills it if nobody listens any more.
            Running::new(connection, child, streams)?.until_end()
        }
        Err(error) => protocol::send(connection, kind::CANNOT_START, &protocol::failure(&error)),
    }
}

impl<'a> Request<'a> {
    fn parse(payload: &'a [u8]) -> io::Result<Self> {
        let mut fields = Fields(payload);
        let flags = fields.u8()?;
        let size = (fields.u16()?, fields.u16()?);
        let user = fields.bytes()?;
        let directory = fields.bytes()?;
        let (arguments, pairs) = (fields.list()?, fields.list()?);
        if arguments.is_empty() {
            return Err(invalid("no command"));
        }
        let user = if user.is_empty() { defaults::user() } else { user.to_vec() };
        let user = if user.is_empty() { None } else { Some(users::find(&user)?) };
        let directory = if directory.is_empty() { defaults::directory() } else { directory.to_vec() };
        // What the host says comes last, and is what holds.
        let mut environment = defaults::environment();
        environment.extend(pairs.iter().map(|pair| pair.to_vec()));
        let (has_terminal, has_input) = (flags & TERMINAL != 0, flags & NO_INPUT == 0);
        Ok(Self { has_terminal, has_input, size, user, directory, arguments, environment })
    }

    fn start(&self) -> io::Result<(Child, Streams)> {
        let mut command = Command::new(OsStr::from_bytes(self.arguments[0]));
        command.args(self.arguments[1..].iter().map(|each| OsStr::from_bytes(each)));
        if let Some(user) = &self.user {
            command.envs(user.environment.iter().map(|(name, value)| (name, value)));
        }
        for pair in &self.environment {
            let at = pair.iter().position(|byte| *byte == b'=').ok_or_else(|| invalid("no NAME=value"))?;
            command.env(OsStr::from_bytes(&pair[..at]), OsStr::from_bytes(&pair[at + 1..]));
        }
        if !self.directory.is_empty() {
            command.current_dir(enterable(OsStr::from_bytes(&self.directory))?);
        }
        let ids = self.user.as_ref().map(|user| user.ids);
        kernel::prepare_with(&mut command, self.has_terminal, ids);
        if self.has_terminal { self.on_terminal(command, ids) } else { self.in_pipes(command) }
    }

    fn in_pipes(&self, mut command: Command) -> io::Result<(Child, Streams)> {
        command.stdin(if self.has_input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let streams = Streams {
            input: child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))),
            output: child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe))),
            errors: child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe))),
            is_terminal: false,
        };
        Ok((child, streams))
    }

    fn on_terminal(&self, mut command: Command, ids: Option<(u32, u32)>) -> io::Result<(Child, Streams)> {
        let (master, slave) = open_terminal(ids)?;
        kernel::set_window_size(&master, self.size.0, self.size.1);
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn()?;
        // With `command` our descriptors of the other side go, so that its end is seen.
        let streams = Streams {
            input: Some(master.try_clone()?),
            output: Some(master),
            errors: None,
            is_terminal: true,
        };
        Ok((child, streams))
    }
}

/// The directory, if it can be a command's. That it cannot is not that the program was not found.
fn enterable(directory: &OsStr) -> io::Result<&Path> {
    let path = Path::new(directory);
    let failed = |why: String| io::Error::other(format!("cannot enter {}: {why}", path.display()));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(failed("Not a directory".into())),
        Err(error) => {
            let text = error.to_string();
            Err(failed(text.split(" (os error").next().unwrap_or_default().into()))
        }
    }
}

/// Both sides of a new terminal, the second for a user.
fn open_terminal(user: Option<(u32, u32)>) -> io::Result<(File, File)> {
    if !Path::new("/dev/pts/ptmx").exists() {
        let _ = fs::create_dir("/dev/pts");
        kernel::mount_terminals()?;
    }
    let open = |path: &str| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let master = open("/dev/pts/ptmx")?;
    let name = format!("/dev/pts/{}", kernel::unlock_terminal(&master)?);
    let slave = open(&name)?;
    if let Some((user, _)) = user {
        chown(&name, Some(user), None)?;
    }
    Ok((master, slave))
}
