//! What leaves the guest, whatever executes it: counted by the names that KVM's statistics have, noted as KVM's
//! tracepoints show it (Linux, arch/x86/kvm/trace.h; `kvm_stat`, `perf trace -e 'kvm:*'`).

use crate::answers::Access;
use crate::exit::Exit;
use gasang_kvm::Statistics;
use std::sync::Arc;

/// Events are kept, until somebody takes them, up to so many.
const ROOM: usize = 1 << 16;

/// VMX's number of the exit reason HLT.
const HLT: u64 = 12;

/// Something that leaves the guest, or enters it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracepoint {
    /// A device was accessed; a read gave this.
    Access(Access, u64),
    /// RDMSR or WRMSR of what is not the processor's own; None is #GP.
    Msr {
        write: bool,
        index: u32,
        value: Option<u64>,
    },
    Hypercall {
        number: u64,
        arguments: [u64; 4],
    },
    /// HLT, and RIP behind it.
    Halt {
        rip: u64,
    },
    Interrupt(u8),
    Nmi,
    /// An interrupt that waited can be taken now.
    InterruptWindow,
    /// Another thread asked for attention.
    Signal,
    /// `run` returns, for the reason that KVM gives this number.
    UserspaceExit(u64),
}

/// A tracepoint as it was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// Nanoseconds of the virtual clock.
    pub time: u64,
    /// The tracepoint's name.
    pub name: &'static str,
    /// Its fields by KVM's names.
    pub fields: Vec<(&'static str, u64)>,
}

/// How often, by the names of KVM's statistics, and of perf's reasons where KVM has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExitCounts {
    io: u64,
    mmio: u64,
    msr_reads: u64,
    msr_writes: u64,
    hypercalls: u64,
    halts: u64,
    windows: u64,
    signals: u64,
    interrupts: u64,
    nmis: u64,
    userspace: u64,
    /// KVM's own counters, where the kernel does some of these.
    kernel: Option<Arc<Statistics>>,
}

impl ExitCounts {
    /// All of them, by name; `exits` is how often the guest was left.
    pub(crate) fn list(&self) -> [(&'static str, u64); 12] {
        let ExitCounts { io, mmio, msr_reads, msr_writes, hypercalls, windows, signals, .. } = *self;
        let [halts, interrupts, nmis] = self.with_kernels();
        let exits = io + mmio + msr_reads + msr_writes + hypercalls + halts + windows + signals;
        [
            ("exits", exits),
            ("io_exits", io),
            ("mmio_exits", mmio),
            ("msr_read", msr_reads),
            ("msr_write", msr_writes),
            ("hypercalls", hypercalls),
            ("halt_exits", halts),
            ("irq_window_exits", windows),
            ("signal_exits", signals),
            ("irq_injections", interrupts),
            ("nmi_injections", nmis),
            ("userspace_exits", self.userspace),
        ]
    }

    /// The kernel does from now on what interrupt controllers have to do with, and counts it; or no longer.
    pub(crate) fn let_kernel_count(&mut self, kernel: Option<Statistics>) {
        [self.halts, self.interrupts, self.nmis] = self.with_kernels();
        self.kernel = kernel.map(Arc::new);
    }

    /// Halts, interrupts and NMIs, the kernel's among them.
    fn with_kernels(&self) -> [u64; 3] {
        let own = [self.halts, self.interrupts, self.nmis];
        let Some(kernel) = &self.kernel else { return own };
        let names = ["halt_exits", "irq_injections", "nmi_injections"];
        std::array::from_fn(|index| own[index] + kernel.get(names[index]))
    }

    fn count(&mut self, point: Tracepoint) {
        let counter = match point {
            Tracepoint::Access(Access::PortRead { .. } | Access::PortWrite { .. }, _) => &mut self.io,
            Tracepoint::Access(Access::MmioRead { .. } | Access::MmioWrite { .. }, _) => &mut self.mmio,
            Tracepoint::Msr { write: false, .. } => &mut self.msr_reads,
            Tracepoint::Msr { write: true, .. } => &mut self.msr_writes,
            Tracepoint::Hypercall { .. } => &mut self.hypercalls,
            Tracepoint::Halt { .. } => &mut self.halts,
            Tracepoint::Interrupt(_) => &mut self.interrupts,
            Tracepoint::Nmi => &mut self.nmis,
            Tracepoint::InterruptWindow => &mut self.windows,
            Tracepoint::Signal => &mut self.signals,
            Tracepoint::UserspaceExit(_) => &mut self.userspace,
        };
        *counter += 1;
    }
}

/// The tracepoints of one processor.
#[derive(Debug, Default)]
pub(crate) struct Tracepoints {
    pub(crate) counts: ExitCounts,
    /// What was noted, if anything is to be, and how much more there was no room for.
    journal: Option<(Vec<TraceEvent>, u64)>,
}

impl Tracepoints {
    /// Count, and note if that is wanted, at a virtual time.
    pub(crate) fn pass(&mut self, point: Tracepoint, time: impl FnOnce() -> u64) {
        self.counts.count(point);
        let Some((events, lost)) = &mut self.journal else { return };
        let Some((name, fields)) = shown(point) else { return };
        if events.len() < ROOM {
            events.push(TraceEvent { time: time(), name, fields });
        } else {
            *lost += 1;
        }
    }

    /// Note from now on, or no longer.
    pub(crate) fn watch(&mut self, on: bool) {
        let journal = self.journal.take();
        self.journal = on.then(|| journal.unwrap_or_default());
    }

    /// Whether anything is noted.
    pub(crate) fn are_watched(&self) -> bool {
        self.journal.is_some()
    }

    /// What was noted since the last call, and how much more there was no room for.
    pub(crate) fn take(&mut self) -> (Vec<TraceEvent>, u64) {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// KVM's number of the reason for which it would have left to its user.
pub(crate) fn userspace_reason(exit: &Exit) -> Option<u64> {
    Some(match exit {
        Exit::PioRead { .. } | Exit::PioWrite { .. } | Exit::SerialOutput { .. } => 2,
        Exit::Halted => 5,
        Exit::MmioRead { .. } | Exit::MmioWrite { .. } => 6,
        Exit::Shutdown => 8,
        Exit::Interrupted => 10,
        Exit::KvmLost { .. } => 17,
        // The hypervisor is outside: to it this is no exit of KVM's.
        Exit::VmExit { .. } => return None,
    })
}

type Shown = (&'static str, Vec<(&'static str, u64)>);

/// The tracepoint's name and fields; None for what KVM only counts.
fn shown(point: Tracepoint) -> Option<Shown> {
    Some(match point {
        Tracepoint::Access(access, answer) => of_access(access, answer),
        Tracepoint::Msr { write, index, value } => {
            let exception = value.is_none().into();
            let data = ("data", value.unwrap_or_default());
            let fields = vec![("write", write.into()), ("ecx", index.into()), data, ("exception", exception)];
            ("kvm_msr", fields)
        }
        Tracepoint::Hypercall { number, arguments: [a0, a1, a2, a3] } => {
            ("kvm_hypercall", vec![("nr", number), ("a0", a0), ("a1", a1), ("a2", a2), ("a3", a3)])
        }
        Tracepoint::Halt { rip } => ("kvm_exit", vec![("exit_reason", HLT), ("guest_rip", rip)]),
        Tracepoint::Interrupt(vector) => ("kvm_inj_virq", vec![("vector", vector.into())]),
        Tracepoint::UserspaceExit(reason) => ("kvm_userspace_exit", vec![("reason", reason)]),
        Tracepoint::Nmi | Tracepoint::InterruptWindow | Tracepoint::Signal => return None,
    })
}

fn of_access(access: Access, answer: u64) -> Shown {
    let port = |write: bool, port: u16, size: u8, value| {
        let place = [("rw", write.into()), ("port", port.into()), ("size", size.into())];
        ("kvm_pio", [place.as_slice(), &[("count", 1), ("val", value)]].concat())
    };
    let memory = |write: bool, address, size: u8, value| {
        // KVM's types: 0 is a read that nobody could answer, which there is not here.
        let kind = if write { 2 } else { 1 };
        ("kvm_mmio", vec![("type", kind), ("len", size.into()), ("gpa", address), ("val", value)])
    };
    match access {
        Access::PortRead { port: number, size } => port(false, number, size, answer),
        Access::PortWrite { port: number, size, value } => port(true, number, size, value.into()),
        Access::MmioRead { address, size } => memory(false, address, size, answer),
        Access::MmioWrite { address, size, value } => memory(true, address, size, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Access = Access::PortRead { port: 0x71, size: 1 };

    #[test]
    fn what_is_watched_is_noted_and_everything_is_counted() {
        let mut points = Tracepoints::default();
        points.pass(Tracepoint::Access(READ, 0x26), || unreachable!("nobody watches"));
        points.watch(true);
        points.pass(Tracepoint::Access(READ, 0x26), || 7);
        points.pass(Tracepoint::Nmi, || 8);
        let fields = vec![("rw", 0), ("port", 0x71), ("size", 1), ("count", 1), ("val", 0x26)];
        assert_eq!(points.take(), (vec![TraceEvent { time: 7, name: "kvm_pio", fields }], 0));
        assert_eq!(points.take(), (vec![], 0));
        let counts = points.counts.list();
        assert!(counts.contains(&("io_exits", 2)) && counts.contains(&("nmi_injections", 1)));
        assert!(counts.contains(&("exits", 2)), "an injection is an entry");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_as_lost() {
        let mut points = Tracepoints::default();
        points.watch(true);
        (0..ROOM + 3).for_each(|_| points.pass(Tracepoint::Interrupt(0x30), || 0));
        let (events, lost) = points.take();
        assert_eq!((events.len(), lost), (ROOM, 3));
    }
}
