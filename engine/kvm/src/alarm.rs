//! An alarm for the thread that is inside the guest: a kick when it is time.

use std::io;
use std::time::Duration;

thread_local! {
    // SAFETY: gettid has no preconditions.
    static THREAD: libc::pid_t = unsafe { libc::gettid() };
}

/// The alarm of one processor.
#[derive(Debug, Default)]
pub struct Alarm {
    timer: Option<Timer>,
    /// The time for which it is set.
    set_for: Option<u64>,
}

/// A timer that kicks one thread.
#[derive(Debug)]
struct Timer {
    thread: libc::pid_t,
    id: libc::timer_t,
}

// SAFETY: a POSIX timer belongs to the process; any thread may use it.
unsafe impl Send for Timer {}

impl Alarm {
    /// Kick the calling thread at `deadline`, in nanoseconds of a clock on which it is `now`; or not at all.
    ///
    /// # Errors
    /// What timer_create or timer_settime say.
    pub fn set(&mut self, deadline: Option<u64>, now: u64) -> io::Result<()> {
        let thread = THREAD.with(|thread| *thread);
        let same = self.timer.as_ref().is_some_and(|timer| timer.thread == thread);
        // What has rung is not set any more.
        let waits = deadline.is_none_or(|deadline| deadline > now);
        if same && waits && self.set_for == deadline {
            return Ok(());
        }
        if !same {
            self.timer = Some(Timer::new(thread)?);
        }
        self.set_for = deadline;
        let left = deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now).max(1)));
        self.timer.as_ref().map_or(Ok(()), |timer| timer.set(left.unwrap_or_default()))
    }

    /// It may have rung: by the host's clock, which may be a little ahead of the other.
    pub fn may_have_rung(&mut self) {
        self.set_for = None;
    }
}

impl Timer {
    fn new(thread: libc::pid_t) -> io::Result<Timer> {
        let mut id = std::ptr::null_mut();
        // SAFETY: both structures are valid for the call, zeroes where nothing is said.
        let made = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGURG;
            event.sigev_notify_thread_id = thread;
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id)
        };
        if made == 0 { Ok(Timer { thread, id }) } else { Err(io::Error::last_os_error()) }
    }

    /// Kick once after `left`; never, if that is no time.
    fn set(&self, left: Duration) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let when = libc::itimerspec { it_interval: once, it_value: value };
        // SAFETY: the timer exists as long as this does.
        let set = unsafe { libc::timer_settime(self.id, 0, &when, std::ptr::null_mut()) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and nobody uses it from here on.
        unsafe { libc::timer_delete(self.id) };
    }
}
