//! System calls that std does not have: the only unsafe code.

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPTN: libc::Ioctl = 0x8004_5430;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let number = checked(result)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn vsock() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// A socket that listens at a port.
pub fn vsock_listen(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let at = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the address lives through the call, and its size is told.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), ADDRESS_SIZE) })?;
    // SAFETY: no memory is involved.
    checked(unsafe { libc::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

/// The next connection.
pub fn accept(listener: &OwnedFd) -> io::Result<File> {
    // SAFETY: null pointers are for who does not ask for the address.
    let result = unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    };
    owned(result).map(File::from)
}

/// A connection to the host.
pub fn vsock_connect(port: u32) -> io::Result<File> {
    let socket = vsock()?;
    let at = address(libc::VMADDR_CID_HOST, port);
    // SAFETY: the address lives through the call, and its size is told.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const at).cast(), ADDRESS_SIZE) })?;
    Ok(File::from(socket))
}

/// Nothing more is sent on a socket.
pub fn end_sending(socket: RawFd) {
    // SAFETY: no memory is involved; an error says that there is nobody to send to.
    unsafe { libc::shutdown(socket, libc::SHUT_WR) };
}

/// A descriptor that can be read once the process has ended.
pub fn process_descriptor(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process as libc::pid_t, 0) } as libc::c_int)
}

/// One descriptor to wait for, none if it is negative; `found` is what it is ready for.
pub fn wait_for(descriptors: &mut [libc::pollfd]) -> io::Result<()> {
    loop {
        // SAFETY: the slice is as long as told.
        let result = unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, -1) };
        match checked(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => return other.map(drop),
        }
    }
}

/// Whether a descriptor is ready now.
pub fn is_ready(descriptor: &mut libc::pollfd) -> bool {
    // SAFETY: one descriptor is there.
    unsafe { libc::poll(&raw mut *descriptor, 1, 0) == 1 }
}

/// Reads and writes do not wait from now on.
pub fn set_nonblocking(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let flags = checked(unsafe { libc::fcntl(descriptor, libc::F_GETFL) })?;
    // SAFETY: as above.
    checked(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Send a signal; a process that is gone is no error.
pub fn kill(process: i32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(process, signal) };
}

/// Let the other side of a new terminal be opened; its number.
pub fn unlock_terminal(master: &File) -> io::Result<u32> {
    let locked: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel reads one int.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK, &raw const locked) })?;
    // SAFETY: the kernel writes one unsigned int.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTN, &raw mut number) })?;
    Ok(number)
}

/// Tell a terminal how large it is.
pub fn set_window_size(terminal: &File, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize. An error means that the terminal has gone.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// In a new process before its program: a session, its terminal, signals as they are by default, its user.
///
/// It only makes system calls, so it may be called between fork and exec.
pub fn prepare_process(has_terminal: bool, user: Option<(u32, u32)>) -> io::Result<()> {
    // SAFETY: no memory is involved but a signal set on the stack, which sigemptyset fills.
    unsafe {
        checked(libc::setsid())?;
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        if has_terminal {
            checked(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        if let Some((user, group)) = user {
            checked(libc::setgroups(1, &raw const group))?;
            checked(libc::setgid(group))?;
            checked(libc::setuid(user))?;
        }
    }
    Ok(())
}

/// Have `prepare_process` called in the child that a command makes.
pub fn prepare_with(command: &mut std::process::Command, has_terminal: bool, user: Option<(u32, u32)>) {
    use std::os::unix::process::CommandExt;
    // SAFETY: what is called there only makes system calls.
    unsafe { command.pre_exec(move || prepare_process(has_terminal, user)) };
}

/// Set the clock to so many nanoseconds since 1970.
pub fn set_clock(nanoseconds: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the kernel reads one timespec.
    checked(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) }).map(drop)
}

/// Mix random bytes into the kernel's pool, and have its generator begin anew from it.
pub fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    // struct rand_pool_info: entropy in bits, size, words.
    let mut information = Vec::new();
    information.extend_from_slice(&(8 * bytes.len() as i32).to_ne_bytes());
    information.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    information.extend_from_slice(bytes);
    // SAFETY: the kernel reads the head and then as many bytes as it says, which are there.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, information.as_ptr()) })?;
    // SAFETY: no memory is involved.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}

/// Name the guest.
pub fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as told.
    checked(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Mount what terminals are made of at /dev/pts.
pub fn mount_terminals() -> io::Result<()> {
    let options = c"gid=0,mode=620,ptmxmode=666";
    // SAFETY: every pointer is to a string that ends in a NUL.
    checked(unsafe {
        libc::mount(
            c"devpts".as_ptr(),
            c"/dev/pts".as_ptr(),
            c"devpts".as_ptr(),
            libc::MS_NOSUID | libc::MS_NOEXEC,
            options.as_ptr().cast(),
        )
    })
    .map(drop)
}

fn interface(name: &[u8]) -> (io::Result<OwnedFd>, libc::ifreq) {
    // SAFETY: no memory is involved.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) });
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name) {
        *to = *from as libc::c_char;
    }
    (socket, request)
}

/// Set flags of a network interface, and clear others.
pub fn change_flags(name: &[u8], set: libc::c_int, clear: libc::c_int) -> io::Result<()> {
    let (socket, mut request) = interface(name);
    let socket = socket?;
    // SAFETY: the kernel reads and writes one ifreq, whose name ends in a NUL.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request) })?;
    // SAFETY: the kernel has just filled this member.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    request.ifr_ifru.ifru_flags = (flags & !clear | set) as libc::c_short;
    // SAFETY: as above.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw mut request) })
        .map(drop)
}

/// Give a network interface another MAC address.
pub fn set_mac(name: &[u8], mac: [u8; 6]) -> io::Result<()> {
    let (socket, mut request) = interface(name);
    let socket = socket?;
    let mut hardware = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in hardware.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = hardware;
    // SAFETY: the kernel reads one ifreq, whose name ends in a NUL.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR as libc::Ioctl, &raw mut request) })
        .map(drop)
}
