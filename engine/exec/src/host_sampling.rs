//! Looks at what a thread is doing, so many times a second: a timer's signal whose handler notes where it interrupted.
//!
//! Translated code may be interrupted too. There FS, GS and RSP may hold values of the guest: the handler runs on the
//! alternate stack with every signal blocked, uses neither thread-local storage nor the C library, and changes nothing.
//! What it writes to is never freed, since a signal may arrive after its timer is gone.
//!
//! The timer runs in real time: timers of processor time tick too slowly. A thread that waits for the host's processor
//! gets one sample when it has it again, as several expirations are one signal.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Samplers of a process.
const TABLES: usize = 64;
/// Samples of a thread before somebody must look at them.
const ROOM: usize = 1024;

/// In place of a phase: no samples now.
const AT_REST: u64 = u64::MAX;

/// One look at a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Host address of the instruction it was at.
    pub host: u64,
    /// What it said it was doing (`Sampler::doing`).
    pub phase: u32,
    /// And on behalf of which guest address.
    pub guest: u64,
}

struct Slot {
    host: AtomicU64,
    phase: AtomicU64,
    guest: AtomicU64,
}

struct Table {
    taken: AtomicBool,
    phase: AtomicU64,
    guest: AtomicU64,
    used: AtomicUsize,
    lost: AtomicU64,
    slots: [Slot; ROOM],
}

impl Table {
    const fn new() -> Table {
        Table {
            taken: AtomicBool::new(false),
            phase: AtomicU64::new(0),
            guest: AtomicU64::new(0),
            used: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            slots: [const { Slot { host: AtomicU64::new(0), phase: AtomicU64::new(0), guest: AtomicU64::new(0) } };
                ROOM],
        }
    }
}

static SAMPLES: [Table; TABLES] = [const { Table::new() }; TABLES];

/// Samples one thread at a time, until dropped.
#[derive(Debug)]
pub struct Sampler {
    table: usize,
    period: i64,
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Timer {
    thread: std::thread::ThreadId,
    id: libc::timer_t,
}

// SAFETY: a POSIX timer belongs to the process; any thread may delete it.
unsafe impl Send for Timer {}

impl Sampler {
    /// A sampler that looks `hertz` times a second.
    ///
    /// # Errors
    /// If the process has too many, or its highest real-time signal is in use.
    pub fn new(hertz: u32) -> io::Result<Sampler> {
        install()?;
        let table = SAMPLES.iter().position(|table| !table.taken.swap(true, Ordering::AcqRel));
        let table = table.ok_or_else(|| io::Error::other("too many profiled processors"))?;
        SAMPLES[table].phase.store(AT_REST, Ordering::Relaxed);
        SAMPLES[table].used.store(0, Ordering::Relaxed);
        SAMPLES[table].lost.store(0, Ordering::Relaxed);
        Ok(Sampler { table, period: 1_000_000_000 / i64::from(hertz.max(2)), timer: None })
    }

    /// Look at the calling thread from now on, and let its signal through.
    ///
    /// # Errors
    /// What timer_create or timer_settime say.
    pub fn attach(&mut self) -> io::Result<()> {
        allow();
        let thread = std::thread::current().id();
        if self.timer.as_ref().is_none_or(|timer| timer.thread != thread) {
            self.timer = None;
            self.timer = Some(Timer::start(thread, self.table, self.period)?);
        }
        Ok(())
    }

    /// What the thread does from now on.
    #[inline]
    pub fn doing(&self, phase: u32, guest: u64) {
        let table = &SAMPLES[self.table];
        table.phase.store(u64::from(phase), Ordering::Relaxed);
        table.guest.store(guest, Ordering::Relaxed);
    }

    /// The thread does nothing from now on that is worth a sample.
    #[inline]
    pub fn rest(&self) {
        SAMPLES[self.table].phase.store(AT_REST, Ordering::Relaxed);
    }

    /// Whether there are samples. Cheap.
    #[inline]
    pub fn has_samples(&self) -> bool {
        SAMPLES[self.table].used.load(Ordering::Relaxed) != 0
    }

    /// The samples since the last call, and how many were lost since there was no room for them. For the thread that is
    /// sampled.
    pub fn take(&mut self) -> (Vec<Sample>, u64) {
        let table = &SAMPLES[self.table];
        let read = |slot: &Slot| Sample {
            host: slot.host.load(Ordering::Relaxed),
            phase: slot.phase.load(Ordering::Relaxed) as u32,
            guest: slot.guest.load(Ordering::Relaxed),
        };
        let mut samples = Vec::new();
        // One may come meanwhile.
        loop {
            let used = table.used.load(Ordering::Acquire);
            samples.extend(table.slots[samples.len().min(used)..used].iter().map(read));
            if table.used.compare_exchange(used, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return (samples, table.lost.swap(0, Ordering::Relaxed));
            }
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.timer = None;
        SAMPLES[self.table].taken.store(false, Ordering::Release);
    }
}

impl Timer {
    fn start(thread: std::thread::ThreadId, table: usize, period: i64) -> io::Result<Timer> {
        let mut id = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: `sigevent` is valid when zeroed; its value is an index, not followed as a pointer. `id` is written if
        // the call succeeds. gettid has no preconditions.
        let id = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGRTMAX();
            event.sigev_value.sival_ptr = table as *mut libc::c_void;
            event.sigev_notify_thread_id = libc::gettid();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, id.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            id.assume_init()
        };
        let timer = Timer { thread, id };
        let period = libc::timespec { tv_sec: 0, tv_nsec: period };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: a timer of ours, and a valid setting.
        let set = unsafe { libc::timer_settime(timer.id, 0, &setting, std::ptr::null_mut()) };
        if set == 0 { Ok(timer) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: created in `start`, deleted nowhere else.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// Unblock the signal in this thread.
fn allow() {
    // SAFETY: the set is initialized before it is used; unblocking a signal that has a handler has no preconditions.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGRTMAX());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Why the signal could not be had, if so: an error number, written once.
struct Refusal(UnsafeCell<Option<i32>>);

// SAFETY: written inside `INSTALL`, read after it.
unsafe impl Sync for Refusal {}

static REFUSAL: Refusal = Refusal(UnsafeCell::new(None));
static INSTALL: Once = Once::new();

fn install() -> io::Result<()> {
    INSTALL.call_once(|| {
        // SAFETY: `sigaction` is valid when zeroed; the handler has the signature that SA_SIGINFO asks for. `REFUSAL` is
        // written by this thread only, under `INSTALL`.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            let entry: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_timer;
            action.sa_sigaction = entry as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigfillset(&mut action.sa_mask);
            libc::sigaction(libc::SIGRTMAX(), std::ptr::null(), &mut before);
            let free = matches!(before.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
            if !free {
                *REFUSAL.0.get() = Some(libc::EBUSY);
            } else if libc::sigaction(libc::SIGRTMAX(), &action, std::ptr::null_mut()) != 0 {
                *REFUSAL.0.get() = io::Error::last_os_error().raw_os_error();
            }
        }
    });
    // SAFETY: nobody writes after `INSTALL`.
    let refusal = unsafe { *REFUSAL.0.get() };
    refusal.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
}

/// What the kernel says of a signal that a timer sent: si_code.
const SI_TIMER: i32 = -2;

extern "C" fn on_timer(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context: *const libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes valid pointers to a handler installed with SA_SIGINFO. The value is only an index.
    let (code, index, host) = unsafe {
        let value = (*info).si_value().sival_ptr as usize;
        ((*info).si_code, value, (*context).uc_mcontext.gregs[libc::REG_RIP as usize] as u64)
    };
    let Some(table) = SAMPLES.get(index).filter(|_| code == SI_TIMER) else { return };
    let phase = table.phase.load(Ordering::Relaxed);
    if phase == AT_REST {
        return;
    }
    let used = table.used.load(Ordering::Relaxed);
    let Some(slot) = table.slots.get(used) else {
        table.lost.fetch_add(1, Ordering::Relaxed);
        return;
    };
    slot.host.store(host, Ordering::Relaxed);
    slot.phase.store(phase, Ordering::Relaxed);
    slot.guest.store(table.guest.load(Ordering::Relaxed), Ordering::Relaxed);
    table.used.store(used + 1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_doing_what_it_says() {
        let mut sampler = Sampler::new(2000).unwrap();
        sampler.attach().unwrap();
        sampler.doing(7, 0x1234);
        while !sampler.has_samples() {
            std::hint::spin_loop();
        }
        let (samples, lost) = sampler.take();
        assert!(!samples.is_empty() && lost == 0);
        assert!(samples.iter().all(|sample| (sample.phase, sample.guest) == (7, 0x1234)));
    }

    #[test]
    fn a_thread_at_rest_is_not_sampled() {
        let mut sampler = Sampler::new(2000).unwrap();
        sampler.attach().unwrap();
        sampler.doing(7, 0);
        while !sampler.has_samples() {
            std::hint::spin_loop();
        }
        sampler.rest();
        sampler.take();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(sampler.take(), (vec![], 0));
    }

    #[test]
    fn samplers_can_be_made_again_and_again() {
        for _ in 0..3 * TABLES {
            Sampler::new(100).unwrap().attach().unwrap();
        }
    }

    #[test]
    fn samples_without_room_are_counted_as_lost() {
        let mut sampler = Sampler::new(10_000).unwrap();
        sampler.attach().unwrap();
        sampler.doing(0, 0);
        let table = &SAMPLES[sampler.table];
        while table.lost.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
        let (samples, lost) = sampler.take();
        assert_eq!(samples.len(), ROOM);
        assert!(lost > 0);
    }
}
