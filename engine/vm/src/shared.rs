//! What the processors of one machine share: RAM, the chipset, the clock.

use crate::attention::{Attention, CHIPSET};
use crate::clock::Clock;
use crate::doorbells::Doorbells;
use crate::error::Error;
use crate::standstill::Standstill;
use gasang_chipset::{Chipset, Pending, UART_COUNT};
use gasang_cpu::CpuModel;
use gasang_kvm::{KernelControllers, Watch};
use gasang_memory::GuestMemory;
use gasang_translate::CodePages;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// No timer is running.
pub(crate) const NEVER: u64 = u64::MAX;
/// Serial output waits at most so long (virtual nanoseconds) while the guest runs.
const OUTPUT_AGE: u64 = 1_000_000;

/// No processor.
const NOBODY: usize = usize::MAX;

/// Shared by all processors and by the threads that feed the machine.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) model: CpuModel,
    pub(crate) clock: Clock,
    /// Nanoseconds from 1970 to the machine's creation, as the guest is told.
    pub(crate) wall_clock: u64,
    /// Chooses the random numbers of a deterministic machine.
    pub(crate) seed: u64,
    /// One for each processor.
    pub(crate) attention: Vec<Attention>,
    pub(crate) standstill: Standstill,
    /// What the translators share; None when nothing is translated.
    pub(crate) code_pages: Option<Arc<CodePages>>,
    chipset: Mutex<Chipset>,
    /// What is read without the chipset's lock: the next timer, bytes of serial output and since when they wait.
    next_deadline: AtomicU64,
    output_bytes: AtomicUsize,
    output_since: AtomicU64,
    /// The processor whose exit carries serial output that has not been dealt with yet, or `NOBODY`: there is one at a
    /// time, or output would overtake output.
    output_carrier: AtomicUsize,
    /// Somebody wants to know which pages are written.
    logs_writes: AtomicBool,
    pub(crate) doorbells: Doorbells,
    /// Where the machine runs on KVM.
    pub(crate) on_kvm: OnKvm,
    broken: OnceLock<String>,
}

/// What the processors of a machine on KVM agree about.
#[derive(Debug, Default)]
pub(crate) struct OnKvm {
    /// KVM may give up: the machine goes on by translation then.
    may_leave: AtomicBool,
    /// It has.
    left: AtomicBool,
    /// Processors that are inside the guest. While there is one, nobody translates: what it writes goes unnoticed.
    inside: AtomicUsize,
    in_kernel: Mutex<InKernel>,
}

/// The kernel's interrupt controllers, while it has them.
#[derive(Debug, Default)]
struct InKernel {
    kernel: Option<KernelControllers>,
    /// Each processor's.
    watches: Vec<Watch>,
}

impl OnKvm {
    /// KVM may give up.
    pub(crate) fn allow_to_leave(&self) {
        self.may_leave.store(true, Ordering::Relaxed);
    }

    /// Leave KVM, if that is allowed; true for the first who asks.
    pub(crate) fn leave(&self) -> Option<bool> {
        self.may_leave.load(Ordering::Relaxed).then(|| !self.left.swap(true, Ordering::SeqCst))
    }

    /// The machine is on KVM from now on, between two runs.
    pub(crate) fn arrive(&self) {
        self.left.store(false, Ordering::SeqCst);
    }

    /// Whether the machine has left KVM.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    fn in_kernel(&self) -> MutexGuard<'_, InKernel> {
        self.in_kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a processor that has stopped was woken by another one, in the kernel.
    pub(crate) fn is_anybody_woken(&self) -> io::Result<bool> {
        let in_kernel = self.in_kernel();
        let mut woken = in_kernel.watches.iter().map(Watch::is_woken);
        woken.try_fold(false, |any, woken| Ok(any || woken?))
    }

    /// Be inside the guest, unless the machine has left KVM.
    pub(crate) fn inside<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let result = (!self.has_left()).then(act);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Wait until nobody is inside any more.
    pub(crate) fn wait_for_the_last(&self) {
        while self.inside.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

impl Shared {
    pub(crate) fn new(
        memory: Arc<GuestMemory>,
        model: CpuModel,
        clock: Clock,
        wall_clock: u64,
        seed: u64,
        vcpus: usize,
        code_pages: Option<Arc<CodePages>>,
    ) -> Shared {
        Shared {
            memory,
            model,
            clock,
            wall_clock,
            seed,
            attention: (0..vcpus).map(|_| Attention::default()).collect(),
            standstill: Standstill::new(vcpus),
            code_pages,
            chipset: Mutex::new(Chipset::new(vcpus)),
            next_deadline: AtomicU64::new(NEVER),
            output_bytes: AtomicUsize::new(0),
            output_since: AtomicU64::new(0),
            output_carrier: AtomicUsize::new(NOBODY),
            logs_writes: AtomicBool::new(false),
            doorbells: Doorbells::default(),
            on_kvm: OnKvm::default(),
            broken: OnceLock::new(),
        }
    }

    /// Use the chipset, at the present virtual time, on behalf of processor `by` (None: of somebody outside). Other
    /// processors for which something became pending are told; what waits for `by` comes back.
    pub(crate) fn with_chipset<T>(
        &self,
        by: Option<usize>,
        access: impl FnOnce(&mut Chipset, u64) -> T,
    ) -> (T, Pending) {
        let mut chipset = self.chipset.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let result = access(&mut chipset, now);
        self.next_deadline.store(chipset.next_deadline().unwrap_or(NEVER), Ordering::Relaxed);
        if chipset.controllers_are_elsewhere() {
            self.tell_outward(&mut chipset);
        }
        let waiting = (0..UART_COUNT).map(|index| chipset.serial_output_len(index)).sum();
        if self.output_bytes.swap(waiting, Ordering::Relaxed) == 0 && waiting != 0 {
            self.output_since.store(now, Ordering::Relaxed);
        }
        let pending = by.map(|index| chipset.pending(index)).unwrap_or_default();
        let wakeups = chipset.take_wakeups();
        drop(chipset);
        for index in wakeups.into_iter().filter(|&index| Some(index) != by) {
            self.raise(index, CHIPSET);
        }
        (result, pending)
    }

    /// Tell the kernel's interrupt controllers what the chipset did to lines, in its order.
    fn tell_outward(&self, chipset: &mut Chipset) {
        let outward = chipset.take_outward();
        if outward.is_empty() {
            return;
        }
        if let Some(kernel) = &self.on_kvm.in_kernel().kernel {
            // KVM has every line that there is.
            outward.into_iter().for_each(|outward| drop(kernel.tell(outward)));
        }
    }

    /// Send a message signalled interrupt; whether a local APIC took it.
    pub(crate) fn send_msi(&self, address: u64, data: u32) -> io::Result<bool> {
        let sent = self.with_chipset(None, |chipset, now| match &self.on_kvm.in_kernel().kernel {
            // They do not go back to the chipset meanwhile.
            Some(kernel) => kernel.signal_msi(address, data),
            None => Ok(chipset.send_msi(now, address, data)),
        });
        sent.0
    }

    /// Give the kernel the chipset's interrupt controllers, and each processor, in it, its local APIC.
    pub(crate) fn give_controllers(&self, kernel: &KernelControllers, watches: Vec<Watch>) -> io::Result<()> {
        let given = self.with_chipset(None, |chipset, now| {
            let controllers = chipset.give_controllers(now);
            // Before those that may send them something at once.
            for (watch, local_apic) in watches.iter().zip(&controllers.local_apics) {
                watch.set_local_apic(local_apic)?;
            }
            kernel.load(&controllers)?;
            *self.on_kvm.in_kernel() = InKernel { kernel: Some(kernel.clone()), watches };
            Ok(())
        });
        given.0
    }

    /// Take the interrupt controllers back from the kernel, unless somebody has.
    pub(crate) fn take_controllers(&self) -> io::Result<()> {
        let taken = self.with_chipset(None, |chipset, now| {
            let mut in_kernel = self.on_kvm.in_kernel();
            let Some(kernel) = in_kernel.kernel.clone() else { return Ok(()) };
            let local_apics: Vec<_> =
                in_kernel.watches.iter().map(Watch::local_apic).collect::<io::Result<_>>()?;
            let (local_apics, counters): (Vec<_>, Vec<_>) = local_apics.into_iter().unzip();
            let deadline = |index: usize, deadline: u64| {
                let counter = counters.get(index).copied().unwrap_or_default();
                now.saturating_add(self.clock.time_at(deadline.saturating_sub(counter)))
            };
            chipset.take_controllers(now, &kernel.store(local_apics)?, deadline);
            *in_kernel = InKernel::default();
            Ok(())
        });
        (0..self.attention.len()).for_each(|index| self.raise(index, CHIPSET));
        taken.0
    }

    /// Virtual time of the next timer, or `NEVER`.
    #[inline]
    pub(crate) fn next_deadline(&self) -> u64 {
        self.next_deadline.load(Ordering::Relaxed)
    }

    /// How many bytes of serial output wait.
    #[inline]
    pub(crate) fn output_bytes(&self) -> usize {
        self.output_bytes.load(Ordering::Relaxed)
    }

    /// Virtual time at which the output that waits is to be passed on, or `NEVER`.
    #[inline]
    pub(crate) fn output_deadline(&self) -> u64 {
        match self.output_bytes() {
            0 => NEVER,
            _ => self.output_since.load(Ordering::Relaxed).saturating_add(OUTPUT_AGE),
        }
    }

    /// Processor `processor` may report serial output, and nobody else may until it is back.
    pub(crate) fn begin_output(&self, processor: usize) -> bool {
        self.output_carrier.compare_exchange(NOBODY, processor, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// What the processor reported, if it did, has been dealt with.
    pub(crate) fn end_output(&self, processor: usize) {
        let _ = self.output_carrier.compare_exchange(processor, NOBODY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Ask for a processor's attention.
    pub(crate) fn raise(&self, processor: usize, request: u32) {
        let Some(attention) = self.attention.get(processor) else { return };
        if attention.raise(request)
            && let Some(pages) = &self.code_pages
        {
            pages.kick(processor);
        }
    }

    /// Processor `processor` writes bytes of a page that holds translated code.
    pub(crate) fn code_written(&self, processor: usize, host: u64, length: u64) {
        if let Some(pages) = &self.code_pages {
            pages.note(processor, host, length);
        }
    }

    /// Somebody wants to know from now on which pages are written, or no longer.
    pub(crate) fn log_writes(&self, on: bool) {
        self.logs_writes.store(on, Ordering::Relaxed);
    }

    /// Whether somebody does.
    pub(crate) fn logs_writes(&self) -> bool {
        self.logs_writes.load(Ordering::Relaxed)
    }

    /// Any page may have been written without anybody's notice: by processors inside KVM.
    pub(crate) fn all_code_may_be_written(&self) {
        if let Some(pages) = &self.code_pages {
            pages.all_may_be_written();
        }
    }

    /// RAM was written by somebody who told nobody.
    pub(crate) fn memory_written(&self, address: u64, length: u64) {
        self.memory.note_written(address, length);
        if let Some(pages) = &self.code_pages {
            pages.written(address, length);
        }
    }

    /// Write RAM from outside the processors.
    ///
    /// # Errors
    /// If any of it is not RAM.
    pub(crate) fn write_memory(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        match &self.code_pages {
            Some(pages) => Ok(pages.write_physical(address, bytes)?),
            None => Ok(self.memory.write_physical(address, bytes)?),
        }
    }

    /// Remember that the engine broke down.
    pub(crate) fn mark_broken(&self, message: String) -> Error {
        Error::Broken(self.broken.get_or_init(|| message).clone())
    }

    /// Refuse to go on after a breakdown.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.broken.get() {
            Some(message) => Err(Error::Broken(message.clone())),
            None => Ok(()),
        }
    }
}
