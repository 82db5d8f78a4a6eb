//! Control registers, and the instructions that invalidate translations (SDM vol. 3, 2.5, 4.10).

use crate::core::Core;
use crate::cpuid::Feature;
use crate::exception::{Exception, Trap};
use crate::paging::PHYSICAL_ADDRESS_BITS;
use crate::state::VcpuState;
use gasang_x86::control::{cr0, cr3, cr4, efer};
use gasang_x86::descriptor::access;
use gasang_x86::{paging, segment};

/// The bits of CR4 and the features that make them exist.
const CR4_BITS: [(u64, Option<Feature>); 20] = [
    (cr4::VME, Some(Feature::Vme)),
    (cr4::PVI, Some(Feature::Vme)),
    (cr4::TSD, Some(Feature::Tsc)),
    (cr4::DE, Some(Feature::De)),
    (cr4::PSE, Some(Feature::Pse)),
    (cr4::PAE, Some(Feature::Pae)),
    (cr4::MCE, Some(Feature::Mce)),
    (cr4::PGE, Some(Feature::Pge)),
    (cr4::PCE, None),
    (cr4::OSFXSR, Some(Feature::Fxsr)),
    (cr4::OSXMMEXCPT, Some(Feature::Sse)),
    (cr4::UMIP, Some(Feature::Umip)),
    (cr4::FSGSBASE, Some(Feature::Fsgsbase)),
    (cr4::PCIDE, Some(Feature::Pcid)),
    (cr4::OSXSAVE, Some(Feature::Xsave)),
    (cr4::SMEP, Some(Feature::Smep)),
    (cr4::SMAP, Some(Feature::Smap)),
    (cr4::PKE, Some(Feature::Pku)),
    (cr4::LA57, None),
    (cr4::VMXE, Some(Feature::Vmx)),
];
/// Bits of CR4 that no model has.
const CR4_NEVER: u64 = cr4::LA57;
/// Changes of CR4 after which no translation may stay.
const CR4_FLUSHING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE;
/// Changes that load the page-directory-pointer entries under PAE paging (SDM vol. 3, 4.4.1).
const CR4_LOADING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
const CR0_LOADING: u64 = cr0::CD | cr0::NW | cr0::PG;
const CR0_FLUSHING: u64 = cr0::PE | cr0::PG | cr0::WP;

/// Bits of a present page-directory-pointer entry of PAE paging that must be 0 (SDM vol. 3, table 4-8).
pub const PDPTE_RESERVED: u64 = 0x1e6 | !((1 << PHYSICAL_ADDRESS_BITS) - 1);

/// The bits of CR4 that a model has whose features `has` tells.
pub(crate) fn cr4_allowed(has: impl Fn(Feature) -> bool) -> u64 {
    CR4_BITS.iter().filter(|(_, feature)| feature.is_none_or(&has)).fold(0, |bits, (bit, _)| bits | bit)
        & !CR4_NEVER
}

fn refuse<T>() -> Result<T, Trap> {
    Err(Exception::general_protection(0).into())
}

impl Core<'_> {
    /// MOV from CR0, CR2, CR3, CR4, CR8.
    ///
    /// # Errors
    /// #UD for another register, #GP(0) at CPL > 0.
    pub fn read_cr(&mut self, number: usize) -> Result<u64, Trap> {
        if !matches!(number, 0 | 2 | 3 | 4 | 8) {
            return Err(Exception::invalid_opcode().into());
        }
        self.check_privileged()?;
        Ok(match number {
            0 => self.state.cr0,
            2 => self.state.cr2,
            3 => self.state.cr3,
            4 => self.state.cr4,
            _ => u64::from(self.platform.task_priority()),
        })
    }

    /// MOV to CR0, CR2, CR3, CR4, CR8.
    ///
    /// # Errors
    /// #UD for another register, #GP(0) at CPL > 0 and for values that the mode or the model refuse.
    pub fn write_cr(&mut self, number: usize, value: u64) -> Result<(), Trap> {
        if !matches!(number, 0 | 2 | 3 | 4 | 8) {
            return Err(Exception::invalid_opcode().into());
        }
        self.check_privileged()?;
        match number {
            0 => self.write_cr0(value),
            2 => {
                self.state.cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            _ if value > 15 => refuse(),
            _ => {
                self.platform.set_task_priority(value as u8);
                Ok(())
            }
        }
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let old = self.state.cr0;
        let new = value & cr0::DEFINED | cr0::ET;
        let inconsistent =
            new & cr0::PG != 0 && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0;
        let fixed = self.state.vmx.cr0_fixed();
        if value >> 32 != 0 || inconsistent || new & fixed != fixed {
            return refuse();
        }
        let efer = self.efer_with_paging(old, new)?;
        let changed = old ^ new;
        let pae = new & cr0::PG != 0 && efer & efer::LMA == 0 && self.state.cr4 & cr4::PAE != 0;
        if pae && changed & CR0_LOADING != 0 {
            self.state.pdpte = self.read_pdptes(self.state.cr3)?;
        }
        self.state.cr0 = new;
        self.state.efer = efer;
        if changed & CR0_FLUSHING != 0 {
            self.tlb.flush_all();
        }
        Ok(())
    }

    /// EFER after CR0 changes from `old` to `new`: LMA follows paging (SDM vol. 3, 10.8.5).
    fn efer_with_paging(&self, old: u64, new: u64) -> Result<u64, Trap> {
        let state = &*self.state;
        let long_code = state.segment[segment::CS].attributes & access::LONG != 0;
        let (was, is) = (old & cr0::PG != 0, new & cr0::PG != 0);
        if !was && is && state.efer & efer::LME != 0 {
            if state.cr4 & cr4::PAE == 0 || long_code {
                return refuse();
            }
            return Ok(state.efer | efer::LMA);
        }
        if was && !is {
            if state.cr4 & cr4::PCIDE != 0 || state.in_64bit_mode() {
                return refuse();
            }
            return Ok(state.efer & !efer::LMA);
        }
        Ok(state.efer)
    }

    pub(crate) fn write_cr3(&mut self, value: u64) -> Result<(), Trap> {
        let pcids = self.state.cr4 & cr4::PCIDE != 0;
        let keep = pcids && value & cr3::NOFLUSH != 0;
        let new = if pcids { value & !cr3::NOFLUSH } else { value };
        if self.state.long_mode() {
            if new >> PHYSICAL_ADDRESS_BITS != 0 {
                return refuse();
            }
        } else if self.state.cr0 & cr0::PG != 0 && self.state.cr4 & cr4::PAE != 0 {
            self.state.pdpte = self.read_pdptes(new)?;
        }
        self.state.cr3 = new;
        let pcid = if pcids { (new & cr3::PCID) as u16 } else { 0 };
        self.tlb.select(pcid);
        if !keep {
            self.tlb.flush_pcid(pcid);
        }
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Trap> {
        let old = self.state.cr4;
        let changed = old ^ value;
        if value & !self.model.cr4_allowed() != 0 || self.state.long_mode() && value & cr4::PAE == 0 {
            return refuse();
        }
        if value & self.state.vmx.cr4_fixed() != self.state.vmx.cr4_fixed() {
            return refuse();
        }
        let enables_pcids = changed & value & cr4::PCIDE != 0;
        if enables_pcids && (!self.state.long_mode() || self.state.cr3 & cr3::PCID != 0) {
            return refuse();
        }
        let paging = self.state.cr0 & cr0::PG != 0;
        let pae = paging && !self.state.long_mode() && value & cr4::PAE != 0;
        if pae && changed & CR4_LOADING != 0 {
            self.state.pdpte = self.read_pdptes(self.state.cr3)?;
        }
        self.state.cr4 = value;
        if changed & cr4::PCIDE != 0 {
            self.tlb.select(0);
        }
        if changed & CR4_FLUSHING != 0 {
            self.tlb.flush_all();
        }
        Ok(())
    }

    /// The four entries that PAE paging keeps in the processor.
    pub(crate) fn read_pdptes(&mut self, cr3: u64) -> Result<[u64; 4], Trap> {
        let table = cr3 & 0xffff_ffe0;
        let mut entries = [0; 4];
        for (index, entry) in entries.iter_mut().enumerate() {
            *entry = self.read_guest_physical(table + index as u64 * 8, 8)?;
            if *entry & paging::PRESENT != 0 && *entry & PDPTE_RESERVED != 0 {
                return refuse();
            }
        }
        Ok(entries)
    }

    /// CLTS.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn clts(&mut self) -> Result<(), Trap> {
        self.check_privileged()?;
        self.state.cr0 &= !cr0::TS;
        Ok(())
    }

    /// LMSW: PE can be set and never cleared.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn lmsw(&mut self, value: u16) -> Result<(), Trap> {
        self.check_privileged()?;
        let settable = cr0::MP | cr0::EM | cr0::TS;
        let value = u64::from(value);
        self.write_cr0(self.state.cr0 & !settable | value & (settable | cr0::PE))
    }

    /// SMSW: CR0 (the caller truncates it to the operand).
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn smsw(&mut self) -> Result<u64, Trap> {
        self.check_umip()?;
        Ok(self.state.cr0)
    }

    /// INVLPG. A non-canonical address is nothing to invalidate.
    ///
    /// # Errors
    /// #GP(0) at CPL > 0.
    pub fn invlpg(&mut self, linear: u64) -> Result<(), Trap> {
        self.check_privileged()?;
        self.tlb.invalidate_page(linear);
        Ok(())
    }

    /// INVPCID of type `kind` with the 128-bit descriptor as two words, low first.
    ///
    /// # Errors
    /// #UD if the model lacks it, #GP(0) at CPL > 0 and for an invalid type or descriptor.
    pub fn invpcid(&mut self, kind: u64, descriptor: [u64; 2]) -> Result<(), Trap> {
        if !self.model.has(Feature::Invpcid) {
            return Err(Exception::invalid_opcode().into());
        }
        self.check_privileged()?;
        let [pcid, linear] = descriptor;
        let other_space = pcid != 0 && self.state.cr4 & cr4::PCIDE == 0;
        if pcid > cr3::PCID || kind <= 1 && other_space || kind == 0 && !VcpuState::canonical(linear) {
            return refuse();
        }
        match kind {
            0 => self.tlb.invalidate_page_everywhere(linear),
            1 => self.tlb.flush_pcid(pcid as u16),
            2 => self.tlb.flush_all(),
            3 => self.tlb.flush_non_global(),
            _ => return refuse(),
        }
        Ok(())
    }
}
