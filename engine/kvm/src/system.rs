//! /dev/kvm itself: what this host's KVM offers.

use crate::host_error;
use crate::machine::InterruptControllers;
use gasang_cpu::{CpuModel, Feature};
use kvm_bindings::{CpuId, KVM_CAP_VCPU_ATTRIBUTES, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use std::io;

/// The stable version of the interface; there is no other (KVM API, 4.1).
const API_VERSION: i32 = 12;

/// What is needed of KVM besides what every version has.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
];

/// An open /dev/kvm.
#[derive(Debug)]
pub struct System {
    pub(crate) kvm: Kvm,
}

impl System {
    /// Open it.
    ///
    /// # Errors
    /// If it is not there, may not be opened, or is too old.
    pub fn open() -> io::Result<System> {
        let kvm = Kvm::new().map_err(host_error)?;
        if kvm.get_api_version() != API_VERSION {
            return Err(io::Error::other(format!("KVM has API version {}", kvm.get_api_version())));
        }
        let lacks = |(capability, _): &&(Cap, _)| !kvm.check_extension(*capability);
        let mut missing = NEEDED.iter().find(lacks).map(|(_, name)| *name);
        if kvm.check_extension_raw(KVM_CAP_VCPU_ATTRIBUTES.into()) <= 0 {
            missing = missing.or(Some("KVM_CAP_VCPU_ATTRIBUTES"));
        }
        match missing {
            Some(name) => Err(io::Error::other(format!("KVM lacks {name}"))),
            None => Ok(System { kvm }),
        }
    }

    /// `model` without the features that a guest cannot have on this KVM. The local APIC's timer has a deadline only in
    /// the kernel: KVM for VT-x takes the MSR for a local APIC of its own before it looks at the filter of MSRs, and
    /// forgets it if there is none (Linux 6.1, fast path of WRMSR).
    ///
    /// # Errors
    /// What KVM says.
    pub fn restrict(&self, model: &CpuModel, controllers: InterruptControllers) -> io::Result<CpuModel> {
        let deadline =
            controllers == InterruptControllers::Kernel && self.kvm.check_extension(Cap::TscDeadlineTimer);
        let supported = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(host_error)?;
        let leaf = |leaf, subleaf| leaf_of(&supported, leaf, subleaf);
        Ok(model.restricted(leaf, |feature, has| match feature {
            Feature::TscDeadline => deadline,
            feature => has && !is_left_out(feature) || is_ours(feature),
        }))
    }
}

/// What the chipset gives the guest, whatever KVM says of it, and what KVM's clock and its like are here: ours too.
fn is_ours(feature: Feature) -> bool {
    use Feature::{Apic, Arat, Hypervisor, Kvm, KvmClock, KvmClockStable, KvmEndOfInterrupt, KvmNoIoDelay};
    use Feature::{KvmStealTime, X2apic};
    matches!(feature, Apic | X2apic | Arat | Hypervisor | Kvm | KvmNoIoDelay | KvmClock)
        || matches!(feature, KvmClockStable | KvmStealTime | KvmEndOfInterrupt)
}

/// What only the software processor gives: VT-x.
fn is_left_out(feature: Feature) -> bool {
    feature == Feature::Vmx
}

/// EAX, EBX, ECX, EDX of a leaf, all 0 if it is not there.
fn leaf_of(leaves: &CpuId, leaf: u32, subleaf: u32) -> [u32; 4] {
    let found = leaves.as_slice().iter().find(|entry| entry.function == leaf && entry.index == subleaf);
    found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
}
