//! The host processor as the oracle: a child process executes one case after the other.
//!
//! The child is driven by its own exceptions. Every case ends with one (INT3 at the latest); the signal handler writes
//! down what it finds in the interrupted context, puts the next case's state there, and returns into it. The kernel
//! confines the child to returning from signals: it can do no harm.

use crate::case::{Case, DIED, EXTENDED_BYTES, NOT_RUN, Outcome};
use crate::layout::{
    CODE, CODE_BYTES, CODE_PAGES, DATA, DATA_BYTES, DATA_PAGES, HIGH, LOW, PAGE, READ_ONLY, WRITABLE_PAGES,
};
use std::arch::asm;
use std::io;
use std::mem::size_of;
use std::ptr::{addr_of, addr_of_mut, copy_nonoverlapping, null_mut, write_bytes};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Cases that one child executes.
pub const BATCH: usize = 1024;
/// Different contents of the data pages.
pub const BACKGROUNDS: usize = 8;
/// Seconds that a child may take.
const PATIENCE: u32 = 10;
/// Filler of the code pages: INT3.
const BREAKPOINT: u8 = 0xcc;
/// The flags that a signal handler starts with: nothing that changes how code executes.
const PLAIN_FLAGS: u64 = 0x202;

/// What parent and child share.
#[repr(C)]
struct Shared {
    /// The case at hand.
    index: AtomicU32,
    /// How many there are.
    count: AtomicU32,
    /// Whether the case at hand was started.
    started: AtomicU32,
    backgrounds: [[u8; DATA_BYTES]; BACKGROUNDS],
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// Executes cases on the host processor.
#[derive(Debug)]
pub struct Host {
    shared: *mut Shared,
    /// The pages of the window, data then code, writable.
    pages: *mut u8,
    file: i32,
}

/// The child's own: set after the fork, read by its signal handler.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(null_mut());
static PAGES: AtomicPtr<u8> = AtomicPtr::new(null_mut());

const PAGES_BYTES: usize = DATA_BYTES + CODE_BYTES;
const STACK_BYTES: usize = 256 << 10;

fn map(bytes: usize, file: i32) -> io::Result<*mut u8> {
    let anonymous = if file < 0 { libc::MAP_ANONYMOUS } else { 0 };
    // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE | anonymous,
            file,
            0,
        )
    };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

impl Host {
    /// A host that will find these contents in the data pages.
    ///
    /// # Errors
    /// If memory cannot be mapped.
    pub fn new(backgrounds: &[[u8; DATA_BYTES]; BACKGROUNDS]) -> io::Result<Host> {
        // SAFETY: the name is a C string; the descriptor is checked.
        let file = unsafe { libc::memfd_create(c"gasang-silicon".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: our own file.
        if unsafe { libc::ftruncate(file, PAGES_BYTES as i64) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let shared: *mut Shared = map(size_of::<Shared>(), -1)?.cast();
        let pages = map(PAGES_BYTES, file)?;
        // SAFETY: both mappings are ours alone and of these sizes.
        unsafe {
            copy_nonoverlapping(
                backgrounds.as_ptr(),
                addr_of_mut!((*shared).backgrounds).cast(),
                BACKGROUNDS,
            );
            write_bytes(pages.add(DATA_BYTES), BREAKPOINT, CODE_BYTES);
        }
        Ok(Host { shared, pages, file })
    }

    /// Execute up to `BATCH` cases; what became of them, in order.
    ///
    /// # Errors
    /// If no process can be forked.
    pub fn run(&mut self, cases: &[Case]) -> io::Result<&[Outcome]> {
        assert!(cases.len() <= BATCH, "a batch of {}", cases.len());
        // SAFETY: no child is alive, so that nobody else uses the shared memory; sizes as declared.
        let (index, outcomes) = unsafe {
            copy_nonoverlapping(cases.as_ptr(), addr_of_mut!((*self.shared).cases).cast(), cases.len());
            for number in 0..cases.len() {
                (*self.shared).outcomes[number].vector = NOT_RUN;
            }
            (*self.shared).count.store(cases.len() as u32, Ordering::Release);
            (&(*self.shared).index, addr_of_mut!((*self.shared).outcomes).cast::<Outcome>())
        };
        index.store(0, Ordering::Release);
        while (index.load(Ordering::Acquire) as usize) < cases.len() {
            // SAFETY: no child is alive; inside the mapping. A child that died left its code behind.
            unsafe { write_bytes(self.pages.add(DATA_BYTES), BREAKPOINT, CODE_BYTES) };
            self.run_child()?;
            let reached = index.load(Ordering::Acquire) as usize;
            if reached < cases.len() {
                // SAFETY: the child is gone; `reached` is in range.
                unsafe { (*outcomes.add(reached)).vector = DIED };
                index.store(reached as u32 + 1, Ordering::Release);
            }
        }
        // SAFETY: the child is gone; the outcomes live as long as the mapping, which `self` owns.
        Ok(unsafe { std::slice::from_raw_parts(outcomes, cases.len()) })
    }

    fn run_child(&self) -> io::Result<()> {
        // SAFETY: the child calls only what is safe after a fork in a threaded process, and never returns.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            // SAFETY: this is the child, with a copy of our memory and nothing else to do.
            unsafe { self.child() }
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Become the one that executes.
    ///
    /// # Safety
    /// Only in a child process.
    unsafe fn child(&self) -> ! {
        // SAFETY: system calls on memory of our own; failures end the child, which the parent reports.
        unsafe {
            libc::alarm(PATIENCE);
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            let mapped = self.map_window();
            let stack = map(STACK_BYTES, -1);
            let (true, Ok(stack)) = (mapped, stack) else { libc::_exit(2) };
            let alternate = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: STACK_BYTES };
            libc::sigaltstack(&alternate, null_mut());
            SHARED.store(self.shared, Ordering::Release);
            PAGES.store(self.pages, Ordering::Release);
            (*self.shared).started.store(0, Ordering::Release);
            let mut action: libc::sigaction = std::mem::zeroed();
            let entry: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
            action.sa_sigaction = entry as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigprocmask(libc::SIG_SETMASK, &set, null_mut());
            libc::sigfillset(&mut set);
            libc::sigdelset(&mut set, libc::SIGALRM);
            action.sa_mask = set;
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
                libc::sigaction(signal, &action, null_mut());
            }
            if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) != 0 {
                libc::_exit(3);
            }
            asm!("int3");
            libc::abort()
        }
    }

    /// Map the window at both of its addresses; whether that worked.
    ///
    /// # Safety
    /// Only in a child process.
    unsafe fn map_window(&self) -> bool {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let executable = libc::PROT_READ | libc::PROT_EXEC;
        let parts = [
            (DATA, WRITABLE_PAGES, writable, 0),
            (READ_ONLY, DATA_PAGES - WRITABLE_PAGES, libc::PROT_READ, WRITABLE_PAGES),
            (CODE, CODE_PAGES, executable, DATA_PAGES),
        ];
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE | libc::MAP_FIXED_NOREPLACE;
        [LOW, HIGH].iter().all(|window| {
            parts.iter().all(|&(at, pages, protection, page)| {
                let (address, bytes) = ((window + at) as *mut libc::c_void, (pages * PAGE) as usize);
                // SAFETY: replaces nothing; the result is checked.
                unsafe {
                    libc::mmap(address, bytes, protection, flags, self.file, (page * PAGE) as i64) == address
                }
            })
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: unmaps and closes what `new` made; no child is alive.
        unsafe {
            libc::munmap(self.shared.cast(), size_of::<Shared>());
            libc::munmap(self.pages.cast(), PAGES_BYTES);
            libc::close(self.file);
        }
    }
}

/// Where the kernel keeps the general-purpose registers, in encoding order.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes a valid context; the shared memory is this process's alone while the parent waits.
    // Nothing here uses thread-local storage: FS belongs to the case.
    unsafe {
        asm!("push {0}", "popfq", in(reg) PLAIN_FLAGS);
        let shared = SHARED.load(Ordering::Acquire);
        let index = (*shared).index.load(Ordering::Acquire) as usize;
        let mut next = index;
        if (*shared).started.load(Ordering::Acquire) != 0 {
            let outcomes: *mut Outcome = addr_of_mut!((*shared).outcomes).cast();
            record(context, outcomes.add(index));
            next = index + 1;
            (*shared).index.store(next as u32, Ordering::Release);
        }
        if next as u32 == (*shared).count.load(Ordering::Acquire) {
            asm!("syscall", in("rax") libc::SYS_exit, in("rdi") 0, options(noreturn));
        }
        let cases: *const Case = addr_of!((*shared).cases).cast();
        let before =
            if (*shared).started.load(Ordering::Acquire) != 0 { Some(cases.add(index)) } else { None };
        start(context, shared, cases.add(next), before);
        (*shared).started.store(1, Ordering::Release);
        let case = cases.add(next);
        asm!(
            "wrfsbase {fs}",
            "wrgsbase {gs}",
            fs = in(reg) (*case).registers.fs_base,
            gs = in(reg) (*case).registers.gs_base,
        );
    }
}

/// Write down the interrupted state.
///
/// # Safety
/// In the signal handler: `context` from the kernel, `outcome` in shared memory.
unsafe fn record(context: *mut libc::ucontext_t, outcome: *mut Outcome) {
    // SAFETY: as above; the frame's XSAVE image has the components that the kernel enables, AVX among them.
    unsafe {
        let gregs: *const i64 = addr_of!((*context).uc_mcontext.gregs).cast();
        let read = |register: i32| *gregs.add(register as usize) as u64;
        let gpr: *mut u64 = addr_of_mut!((*outcome).registers.gpr).cast();
        for (number, &register) in GREGS.iter().enumerate() {
            *gpr.add(number) = read(register);
        }
        (*outcome).registers.rip = read(libc::REG_RIP);
        (*outcome).registers.rflags = read(libc::REG_EFL);
        (*outcome).vector = read(libc::REG_TRAPNO) as u32;
        (*outcome).error_code = read(libc::REG_ERR) as u32;
        (*outcome).cr2 = read(libc::REG_CR2);
        let (fs, gs): (u64, u64);
        asm!("rdfsbase {fs}", "rdgsbase {gs}", fs = out(reg) fs, gs = out(reg) gs);
        (*outcome).registers.fs_base = fs;
        (*outcome).registers.gs_base = gs;
        let image: *const u8 = (*context).uc_mcontext.fpregs.cast();
        copy_nonoverlapping(image, addr_of_mut!((*outcome).registers.extended).cast(), EXTENDED_BYTES);
        copy_nonoverlapping(
            PAGES.load(Ordering::Acquire),
            addr_of_mut!((*outcome).memory).cast(),
            DATA_BYTES,
        );
    }
}

/// Make the interrupted context that of a case.
///
/// # Safety
/// As `record`; `before` is the case whose code is still in the code pages.
unsafe fn start(
    context: *mut libc::ucontext_t,
    shared: *const Shared,
    case: *const Case,
    before: Option<*const Case>,
) {
    // SAFETY: as above; the offsets and lengths of a case lie inside the pages (`Host::run`'s caller made them so, and
    // a mistake would harm only this process).
    unsafe {
        let pages = PAGES.load(Ordering::Acquire);
        let code = pages.add(DATA_BYTES);
        if let Some(before) = before {
            write_bytes(code.add((*before).code_offset as usize), BREAKPOINT, (*before).code_length as usize);
        }
        let backgrounds: *const [u8; DATA_BYTES] = addr_of!((*shared).backgrounds).cast();
        copy_nonoverlapping(backgrounds.add((*case).background as usize).cast(), pages, DATA_BYTES);
        for patch in &(*case).patches {
            copy_nonoverlapping(
                patch.bytes.as_ptr(),
                pages.add(patch.offset as usize),
                patch.length as usize,
            );
        }
        let bytes: *const u8 = addr_of!((*case).code).cast();
        copy_nonoverlapping(bytes, code.add((*case).code_offset as usize), (*case).code_length as usize);

        let registers = addr_of!((*case).registers);
        let gregs: *mut i64 = addr_of_mut!((*context).uc_mcontext.gregs).cast();
        let gpr: *const u64 = addr_of!((*registers).gpr).cast();
        for (number, &register) in GREGS.iter().enumerate() {
            *gregs.add(register as usize) = *gpr.add(number) as i64;
        }
        *gregs.add(libc::REG_RIP as usize) = (*registers).rip as i64;
        *gregs.add(libc::REG_EFL as usize) = (*registers).rflags as i64;
        // The kernel's own words in the legacy region (from 464 on) stay.
        let image: *mut u8 = (*context).uc_mcontext.fpregs.cast();
        let extended: *const u8 = addr_of!((*registers).extended).cast();
        copy_nonoverlapping(extended, image, 416);
        copy_nonoverlapping(extended.add(512), image.add(512), EXTENDED_BYTES - 512);
    }
}
