//! A machine as KVM has it: its memory and its processors.

use crate::controllers::KernelControllers;
use crate::doorbell::Doorbell;
use crate::system::System;
use crate::vcpu::Vcpu;
use crate::watch::Watch;
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

/// Where interrupt controllers and PIT are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptControllers {
    /// In the engine's chipset.
    Own,
    /// In the kernel.
    Kernel,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    vm: Arc<VmFd>,
    controllers: Option<KernelControllers>,
    msrs: Vec<u32>,
    /// It is the guest's as long as KVM is.
    memory: Arc<GuestMemory>,
}

impl Machine {
    /// A machine with this memory and no processors.
    ///
    /// # Errors
    /// What KVM says.
    pub fn new(
        system: &System,
        memory: Arc<GuestMemory>,
        controllers: InterruptControllers,
    ) -> io::Result<Machine> {
        let vm = Arc::new(system.kvm.create_vm().map_err(host_error)?);
        vm.set_tss_address(TSS).map_err(host_error)?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(host_error)?;
        set_memory(&vm, &memory, 0)?;
        let reasons = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
        let mut capability = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
        capability.args[0] = reasons.into();
        vm.enable_cap(&capability).map_err(host_error)?;
        msrs::keep_from_kvm(&vm, controllers)?;
        let kernel = controllers == InterruptControllers::Kernel;
        let controllers = kernel.then(|| KernelControllers::new(Arc::clone(&vm))).transpose()?;
        let list = system.kvm.get_msr_index_list().map_err(host_error)?;
        Ok(Machine { vm, controllers, msrs: list.as_slice().to_vec(), memory })
    }

    /// The kernel's interrupt controllers, if it has them.
    pub fn controllers(&self) -> Option<&KernelControllers> {
        self.controllers.as_ref()
    }

    /// Have the kernel ring this from now on.
    ///
    /// # Errors
    /// What KVM says.
    pub fn add_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        doorbell.hang(&self.vm)
    }

    /// No longer.
    ///
    /// # Errors
    /// What KVM says.
    pub fn remove_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        doorbell.take_down(&self.vm)
    }

    /// A look at one of its processors.
    ///
    /// # Errors
    /// What the host says.
    pub fn watch(&self, vcpu: &Vcpu) -> io::Result<Watch> {
        vcpu.watch(&self.vm)
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
