//! A machine as KVM has it: its memory and its processors.

use crate::system::System;
use crate::vcpu::Vcpu;
use crate::{host_error, msrs};
use gasang_memory::{GuestMemory, PAGE_SIZE};
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MEM_LOG_DIRTY_PAGES, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use std::io;
use std::sync::Arc;

/// Three pages and one that Intel's processors need for real mode where they cannot execute it themselves; no RAM and no
/// device is there.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// A machine.
#[derive(Debug)]
pub struct Machine {
    vm: VmFd,
    msrs: Vec<u32>,
    /// It is the guest's as long as KVM is.
    memory: Arc<GuestMemory>,
}

impl Machine {
    /// A machine with this memory and no processors.
    ///
    /// # Errors
    /// What KVM says.
    pub fn new(system: &System, memory: Arc<GuestMemory>) -> io::Result<Machine> {
        let vm = system.kvm.create_vm().map_err(host_error)?;
        vm.set_tss_address(TSS).map_err(host_error)?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(host_error)?;
        set_memory(&vm, &memory, 0)?;
        let reasons = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
        let mut capability = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
        capability.args[0] = reasons.into();
        vm.enable_cap(&capability).map_err(host_error)?;
        msrs::keep_from_kvm(&vm)?;
        let list = system.kvm.get_msr_index_list().map_err(host_error)?;
        Ok(Machine { vm, msrs: list.as_slice().to_vec(), memory })
    }

    /// Its processor `index`, after reset.
    ///
    /// # Errors
    /// What KVM says.
    pub fn vcpu(&self, index: usize) -> io::Result<Vcpu> {
        Vcpu::new(self.vm.create_vcpu(index as u64).map_err(host_error)?, &self.msrs)
    }

    /// Have KVM log from now on which pages the guest writes, or no longer.
    ///
    /// # Errors
    /// What KVM says.
    pub fn log_dirty_pages(&self, on: bool) -> io::Result<()> {
        set_memory(&self.vm, &self.memory, if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    /// Mark in guest memory the pages that KVM has logged since the last call.
    ///
    /// # Errors
    /// What KVM says.
    pub fn collect_dirty_pages(&self) -> io::Result<()> {
        for (slot, (address, length)) in self.memory.map().regions().into_iter().enumerate() {
            let log = self.vm.get_dirty_log(slot as u32, length as usize).map_err(host_error)?;
            let written = (0..length / PAGE_SIZE).filter(|page| {
                log.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
            });
            written.for_each(|page| self.memory.note_written(address + page * PAGE_SIZE, PAGE_SIZE));
        }
        Ok(())
    }
}

fn set_memory(vm: &VmFd, memory: &GuestMemory, flags: u32) -> io::Result<()> {
    for (slot, (address, length)) in memory.map().regions().into_iter().enumerate() {
        let host = memory.host(address).ok_or_else(|| io::Error::other("a region of RAM is not mapped"))?;
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags,
            guest_phys_addr: address,
            memory_size: length,
            userspace_addr: host,
        };
        // SAFETY: a region of guest RAM lies in one piece at `host`, and stays mapped as long as the machine has it.
        unsafe { vm.set_user_memory_region(region) }.map_err(host_error)?;
    }
    Ok(())
}
