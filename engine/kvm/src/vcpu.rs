//! A processor as KVM has it. One thread runs it.

use crate::exit::{Exit, MsrAccess};
use crate::msrs::{self, Place};
use crate::state::{self, Undelivered};
use crate::statistics::Statistics;
use crate::watch::Watch;
use crate::{host_error, ioctl, signals};
use gasang_cpu::{Activity, CpuModel, VcpuState};
use gasang_x86::paravirtual;
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_INTERNAL_ERROR_EMULATION,
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_cpuid_entry2, kvm_mp_state, kvm_run,
};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;

/// EAX, EBX, ECX, EDX.
type Leaf = [u32; 4];

/// CPUID leaves that have subleaves.
const WITH_SUBLEAVES: [u32; 4] = [0x4, 0x7, 0xb, 0xd];
/// Subleaves that any of them has.
const SUBLEAVES: u32 = 12;
/// The first and last leaf of each range that is told.
const LEAVES: [(u32, u32); 3] = [(0, 0x16), (0x4000_0000, 0x4000_0110), (0x8000_0000, 0x8000_0008)];

/// A processor.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    /// The MSRs that KVM keeps for us.
    shared: Vec<(u32, Place)>,
    /// The answer to an access is still to be taken by KVM.
    unfinished: bool,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, listed: &[u32]) -> io::Result<Vcpu> {
        signals::let_kicks_in(&fd)?;
        let shared = msrs::shared_with(&fd, listed);
        Ok(Vcpu { fd, shared, unfinished: false })
    }

    /// Tell the guest this CPUID, of a leaf and subleaf; for once, before it runs.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_cpuid(&mut self, leaf: impl Fn(u32, u32) -> Leaf) -> io::Result<()> {
        let functions = LEAVES.into_iter().flat_map(|(first, last)| first..=last);
        let entries: Vec<_> = functions.flat_map(|function| entries_of(function, &leaf)).collect();
        let leaves = CpuId::from_entries(&entries).map_err(|_| io::Error::other("too many CPUID leaves"))?;
        self.fd.set_cpuid2(&leaves).map_err(host_error)
    }

    /// The guest's time-stamp counter is the host's plus this.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_tsc_offset(&mut self, offset: u64) -> io::Result<()> {
        ioctl::set_attribute(&self.fd, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, offset)
    }

    /// Give KVM the state.
    ///
    /// # Errors
    /// What KVM says: it refuses states that no processor can be in.
    pub fn load(&mut self, state: &VcpuState, model: &CpuModel) -> io::Result<()> {
        self.unfinished = false;
        state::load(&self.fd, state, model)?;
        msrs::load(&self.fd, &self.shared, &state.msr)
    }

    /// Look at the state. Until KVM has taken the answer to an access, RIP may be at its instruction or behind it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn peek(&mut self, state: &mut VcpuState, model: &CpuModel) -> io::Result<()> {
        state::store(&self.fd, state, model)?;
        msrs::store(&self.fd, &self.shared, &mut state.msr)
    }

    /// Take the state from KVM, which has taken the answer to the last access.
    ///
    /// # Errors
    /// What KVM says.
    pub fn store(&mut self, state: &mut VcpuState, model: &CpuModel) -> io::Result<Undelivered> {
        let undelivered = state::store(&self.fd, state, model)?;
        msrs::store(&self.fd, &self.shared, &mut state.msr)?;
        Ok(undelivered)
    }

    /// Have KVM take the answer to the last access, and execute nothing else. An instruction may have another access,
    /// for which it leaves again.
    ///
    /// # Errors
    /// What KVM says.
    pub fn finish(&mut self) -> io::Result<Option<Exit>> {
        if !self.unfinished {
            return Ok(None);
        }
        self.fd.set_kvm_immediate_exit(1);
        let exit = self.run();
        self.fd.set_kvm_immediate_exit(0);
        Ok(Some(exit?).filter(|exit| *exit != Exit::Interrupted))
    }

    /// Enter the guest; why it left.
    ///
    /// # Errors
    /// What KVM says.
    pub fn run(&mut self) -> io::Result<Exit> {
        self.unfinished = false;
        match self.fd.run().map(|_| ()) {
            Ok(()) => {}
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                signals::take_kick();
                return Ok(Exit::Interrupted);
            }
            Err(error) => return Err(host_error(error)),
        }
        let exit = exit(self.fd.get_kvm_run());
        self.unfinished = exit.is_access();
        Ok(exit)
    }

    /// Item `index` of the port access that the last exit reported: what was written, or where to put what is read.
    pub fn port_item(&mut self, index: u32) -> &mut [u8] {
        let run = self.fd.get_kvm_run();
        if run.exit_reason != KVM_EXIT_IO {
            return &mut [];
        }
        // SAFETY: the exit reason says which member of the union is there, and every bit pattern is one.
        let io = unsafe { run.__bindgen_anon_1.io };
        if index >= io.count {
            return &mut [];
        }
        let at = io.data_offset + u64::from(index) * u64::from(io.size);
        // SAFETY: the kernel has put the items there, in pages that are mapped with the structure.
        unsafe {
            let start = std::ptr::from_mut(run).cast::<u8>().add(at as usize);
            std::slice::from_raw_parts_mut(start, usize::from(io.size))
        }
    }

    /// The answer to the read that the last exit reported.
    pub fn answer_mmio(&mut self, value: u64) {
        let run = self.fd.get_kvm_run();
        if run.exit_reason == KVM_EXIT_MMIO {
            run.__bindgen_anon_1.mmio.data = value.to_le_bytes();
        }
    }

    /// The answer to the access to an MSR that the last exit reported: its value, or None for #GP.
    pub fn answer_msr(&mut self, value: Option<u64>) {
        let run = self.fd.get_kvm_run();
        if matches!(run.exit_reason, KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR) {
            // SAFETY: the exit reason says which member of the union is there.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            msr.error = value.is_none().into();
            msr.data = value.unwrap_or_default();
        }
    }

    /// Whether the guest takes an interrupt now, as it was when it last left.
    pub fn takes_interrupts(&mut self) -> bool {
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection != 0 && run.if_flag != 0
    }

    /// IF, as it was when the guest last left.
    pub fn interrupt_flag(&mut self) -> bool {
        self.fd.get_kvm_run().if_flag != 0
    }

    /// Leave as soon as the guest takes interrupts, or not.
    pub fn ask_for_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = wanted.into();
    }

    /// Deliver an interrupt first of all.
    ///
    /// # Errors
    /// What KVM says; one that waits already.
    pub fn interrupt(&mut self, vector: u8) -> io::Result<()> {
        // Until it is entered again nothing can be said of another.
        self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
        ioctl::interrupt(&self.fd, vector)
    }

    /// Deliver an NMI as soon as they are not blocked.
    ///
    /// # Errors
    /// What KVM says.
    pub fn nmi(&mut self) -> io::Result<()> {
        self.fd.nmi().map_err(host_error)
    }

    /// CR8, which KVM has as long as there is no local APIC of its own.
    pub fn task_priority(&mut self) -> u8 {
        self.fd.get_kvm_run().cr8 as u8
    }

    /// Set CR8.
    pub fn set_task_priority(&mut self, value: u8) {
        self.fd.get_kvm_run().cr8 = value.into();
    }

    /// The register that says how the guest ends interrupts, which is KVM's with its interrupt controllers.
    ///
    /// # Errors
    /// What KVM says.
    pub fn end_of_interrupt(&self) -> io::Result<u64> {
        msrs::read(&self.fd, paravirtual::MSR_END_OF_INTERRUPT)
    }

    /// Set it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_end_of_interrupt(&mut self, value: u64) -> io::Result<()> {
        msrs::write(&self.fd, paravirtual::MSR_END_OF_INTERRUPT, value)
    }

    pub(crate) fn watch(&self, vm: &VmFd) -> io::Result<Watch> {
        Watch::new(vm, &self.fd)
    }

    /// What KVM itself counts of it, if it tells.
    pub fn statistics(&self) -> Option<Statistics> {
        Statistics::of(&self.fd).ok()
    }

    /// CR8 of the kernel's local APIC.
    ///
    /// # Errors
    /// What KVM says.
    pub fn cr8(&mut self) -> io::Result<u8> {
        Ok(self.fd.get_sregs().map_err(host_error)?.cr8 as u8)
    }

    /// Set it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_cr8(&mut self, value: u8) -> io::Result<()> {
        let mut system = self.fd.get_sregs().map_err(host_error)?;
        system.cr8 = value.into();
        self.fd.set_sregs(&system).map_err(host_error)
    }

    /// With the kernel's interrupt controllers: what the processor is at.
    ///
    /// # Errors
    /// What KVM says.
    pub fn activity(&mut self) -> io::Result<Activity> {
        Ok(match self.fd.get_mp_state().map_err(host_error)?.mp_state {
            KVM_MP_STATE_HALTED => Activity::Halted,
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
            _ => Activity::Active,
        })
    }

    /// Set that.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_activity(&mut self, activity: Activity) -> io::Result<()> {
        let mp_state = match activity {
            Activity::Active | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
            Activity::Halted => KVM_MP_STATE_HALTED,
            Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
        };
        self.fd.set_mp_state(kvm_mp_state { mp_state }).map_err(host_error)
    }

    /// With the kernel's interrupt controllers: whether only another processor can wake it, and none has.
    ///
    /// # Errors
    /// What KVM says.
    pub fn is_stopped(&mut self) -> io::Result<bool> {
        Ok(match self.activity()? {
            Activity::Halted => {
                let events = self.fd.get_vcpu_events().map_err(host_error)?;
                !self.interrupt_flag() && events.nmi.pending == 0 && events.nmi.injected == 0
            }
            Activity::WaitForSipi => true,
            Activity::Active | Activity::Shutdown => false,
        })
    }
}

/// A leaf as KVM is told it; leaves that say nothing need not be told.
fn entries_of(function: u32, leaf: impl Fn(u32, u32) -> Leaf) -> Vec<kvm_cpuid_entry2> {
    let has_subleaves = WITH_SUBLEAVES.contains(&function);
    let subleaves = if has_subleaves { SUBLEAVES } else { 1 };
    let flags = if has_subleaves { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
    let entry = |index| {
        let [eax, ebx, ecx, edx] = leaf(function, index);
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    };
    let says_something = |entry: &kvm_cpuid_entry2| entry.eax | entry.ebx | entry.ecx | entry.edx != 0;
    (0..subleaves).map(entry).filter(says_something).collect()
}

/// What the structure that KVM shares with us says.
fn exit(run: &kvm_run) -> Exit {
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: here and below the exit reason says which member of the union is there; every bit pattern is one.
            let io = unsafe { run.__bindgen_anon_1.io };
            let (port, size, count) = (io.port, io.size, io.count);
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                Exit::PortRead { port, size, count }
            } else {
                Exit::PortWrite { port, size, count }
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: as above.
            let mmio = unsafe { run.__bindgen_anon_1.mmio };
            let (address, size) = (mmio.phys_addr, mmio.len as u8);
            if mmio.is_write == 0 {
                return Exit::MmioRead { address, size };
            }
            let mut bytes = mmio.data;
            bytes[usize::from(size.min(8))..].fill(0);
            Exit::MmioWrite { address, size, value: u64::from_le_bytes(bytes) }
        }
        KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => {
            // SAFETY: as above.
            let msr = unsafe { run.__bindgen_anon_1.msr };
            let write = run.exit_reason == KVM_EXIT_X86_WRMSR;
            Exit::Msr {
                index: msr.index,
                access: if write { MsrAccess::Write(msr.data) } else { MsrAccess::Read },
            }
        }
        KVM_EXIT_HLT => Exit::Halt,
        KVM_EXIT_IRQ_WINDOW_OPEN => Exit::InterruptWindow,
        KVM_EXIT_SET_TPR => Exit::TaskPriority,
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        KVM_EXIT_INTR => Exit::Interrupted,
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: as above.
            let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
            match suberror {
                KVM_INTERNAL_ERROR_EMULATION => Exit::EmulationFailure,
                _ => Exit::Failed(format!("KVM reports internal error {suberror}")),
            }
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: as above.
            let reason = unsafe { run.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason };
            Exit::Failed(format!("the processor refuses to enter the guest, reason {reason:#x}"))
        }
        other => Exit::Failed(format!("KVM exit {other} is not known")),
    }
}
