//! Linear-address translation (SDM vol. 3, chapter 4).

use crate::access::Privilege;
use crate::core::Core;
use crate::ept::EptFault;
use crate::exception::{Exception, Trap};
use crate::guest_physical::ept_access;
use crate::state::VcpuState;
use crate::tlb::{Fill, Mode};
use gasang_memory::{GuestMemory, PAGE_HAS_CODE, PAGE_WRITABLE_IN_TLB};
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::exception::page_fault;
use gasang_x86::paging::{self, ADDRESS};
use gasang_x86::rflags;
use gasang_x86::vmx::controls::{ept, ept_violation};
use std::sync::atomic::Ordering;

/// MAXPHYADDR of the modelled processor (CPUID 0x80000008).
pub const PHYSICAL_ADDRESS_BITS: u32 = 46;

/// Bits of an entry's address beyond any physical address.
pub(crate) const RESERVED_ADDRESS: u64 = ADDRESS & !((1 << PHYSICAL_ADDRESS_BITS) - 1);

/// What an access does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write (or read-modify-write).
    Write,
    /// Instruction fetch.
    Execute,
}

/// Where a byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Physical {
    /// Physical address.
    pub address: u64,
    /// Host address, if it is RAM.
    pub host: Option<u64>,
}

/// The four ways of translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PagingMode {
    Off,
    Legacy,
    Pae,
    FourLevel,
}

fn paging_mode(state: &VcpuState) -> PagingMode {
    if state.cr0 & cr0::PG == 0 {
        PagingMode::Off
    } else if state.efer & efer::LMA != 0 {
        PagingMode::FourLevel
    } else if state.cr4 & cr4::PAE != 0 {
        PagingMode::Pae
    } else {
        PagingMode::Legacy
    }
}

/// A finished walk: the leaf, the rights collected on the way, and the entries to mark as used.
#[derive(Debug, Clone, Copy)]
struct Walk {
    physical: u64,
    size_shift: u32,
    writable: bool,
    user: bool,
    execute_disable: bool,
    global: bool,
    dirty: bool,
    protection_key: u32,
    used: [Used; 4],
    levels: usize,
    entry_size: usize,
}

/// An entry that a walk went through.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    host: u64,
    entry: u64,
    /// Where it lies for the guest, …
    guest_physical: u64,
    /// … what EPT permits there, …
    permissions: u64,
    /// … and whether a violation there can be a virtualization exception.
    convertible: bool,
}

impl Walk {
    /// The state before the first entry is read.
    fn start(entry_size: usize) -> Walk {
        Walk {
            physical: 0,
            size_shift: 12,
            writable: true,
            user: true,
            execute_disable: false,
            global: false,
            dirty: true,
            protection_key: 0,
            used: [Used::default(); 4],
            levels: 0,
            entry_size,
        }
    }

    /// What the entries used become: with A and, in the leaf, for a write, with D.
    fn marked(&self, write: bool) -> impl Iterator<Item = (&Used, u64)> {
        let leaf = self.levels.wrapping_sub(1);
        self.used[..self.levels].iter().enumerate().map(move |(level, used)| {
            (used, used.entry | paging::ACCESSED | if level == leaf && write { paging::DIRTY } else { 0 })
        })
    }

    /// Mark the entries used. False if one changed meanwhile: walk again.
    fn mark(&self, memory: &GuestMemory, write: bool) -> bool {
        self.marked(write).all(|(used, new)| {
            if new == used.entry {
                true
            } else if self.entry_size == 8 {
                memory.compare_exchange_u64(used.host, used.entry, new)
            } else {
                memory.compare_exchange_u32(used.host, used.entry as u32, new as u32)
            }
        })
    }

    /// What an EPT violation at its page tells of it: the guest's own rights, as advanced exit information has them (SDM
    /// vol. 3, table 28-7).
    fn told(&self) -> u64 {
        let bits = [
            (self.user, ept_violation::USER_LINEAR),
            (self.writable, ept_violation::WRITABLE_LINEAR),
            (self.execute_disable, ept_violation::EXECUTE_DISABLE_LINEAR),
        ];
        let rights = bits.iter().filter(|(is_so, _)| *is_so);
        rights.fold(ept_violation::TRANSLATION_OF_LINEAR, |all, (_, bit)| all | bit)
    }

    /// The entry that is to be marked where EPT permits no write.
    fn unmarkable(&self, write: bool) -> Option<Missing> {
        let refused = |used: &Used| used.permissions & ept::WRITE == 0;
        let (used, _) = self.marked(write).find(|&(used, new)| new != used.entry && refused(used))?;
        let fault = EptFault::Violation { permissions: used.permissions, convertible: used.convertible };
        Some(Missing::Ept { address: used.guest_physical, fault, wanted: ept_violation::WRITE })
    }
}

/// Why a walk ended without a leaf.
enum Missing {
    /// #PF with these bits of the error code: P and RSVD.
    PageFault(u32),
    /// A paging structure is not to be reached.
    Ept { address: u64, fault: EptFault, wanted: u64 },
    /// A paging structure is in the APIC-access page.
    Apic,
}

const NOT_PRESENT: Missing = Missing::PageFault(0);
const RESERVED: Missing = Missing::PageFault(page_fault::PRESENT | page_fault::RESERVED);

/// The page that a guest-physical address is in.
struct Page {
    physical: u64,
    /// As in `EptWalk`.
    permissions: u64,
    /// EPT has it marked as dirty, or does not mark.
    dirty: bool,
}

/// What `mode` may do with a page: (read, write, execute, denied by a protection key: read, write).
struct Rights {
    read: bool,
    write: bool,
    execute: bool,
    key_read: bool,
    key_write: bool,
}

fn rights(state: &VcpuState, walk: &Walk, mode: Mode) -> Rights {
    let user_mode = mode == Mode::User;
    let write_protect = state.cr0 & cr0::WP != 0;
    // Without paging every page counts as the user's, and nothing is prevented.
    let paging = state.cr0 & cr0::PG != 0;
    let smap = paging && state.cr4 & cr4::SMAP != 0 && mode == Mode::Supervisor;
    let smep = paging && state.cr4 & cr4::SMEP != 0;
    let reach = if user_mode { walk.user } else { !(walk.user && smap) };
    let keys = state.cr4 & cr4::PKE != 0 && state.long_mode() && walk.user;
    let key = if keys { state.pkru >> (walk.protection_key * 2) & 3 } else { 0 };
    let (access_disable, write_disable) = (key & 1 != 0, key & 2 != 0 && (user_mode || write_protect));
    Rights {
        read: reach,
        write: reach && (walk.writable || !user_mode && !write_protect),
        execute: !walk.execute_disable && if user_mode { walk.user } else { !(walk.user && smep) },
        key_read: !access_disable,
        key_write: !access_disable && !write_disable,
    }
}

impl Core<'_> {
    /// The TLB mode of an access with `privilege`.
    #[inline]
    pub fn tlb_mode(&self, privilege: Privilege) -> Mode {
        match privilege {
            Privilege::User => Mode::User,
            Privilege::Implicit => Mode::Supervisor,
            Privilege::Supervisor => {
                if self.state.rflags & rflags::AC != 0 && self.state.cr4 & cr4::SMAP != 0 {
                    Mode::SupervisorAc
                } else {
                    Mode::Supervisor
                }
            }
        }
    }

    /// Translate the byte at `linear`, setting accessed and dirty bits as the access demands.
    ///
    /// # Errors
    /// #PF. A non-canonical address must have been refused before.
    #[inline]
    pub fn translate(&mut self, linear: u64, access: Access, privilege: Privilege) -> Result<Physical, Trap> {
        let mode = self.tlb_mode(privilege);
        if let Some(host) = self.known(linear, access, mode) {
            return Ok(Physical { address: self.memory.physical(host), host: Some(host) });
        }
        self.translate_missed(linear, access, mode)
    }

    /// The host address of the byte at `linear`, if the TLB has it for such an access.
    #[inline]
    fn known(&self, linear: u64, access: Access, mode: Mode) -> Option<u64> {
        let entry = self.tlb.entry(mode, linear);
        let page = linear & !0xfff;
        let hit = match access {
            Access::Read => entry.read == page,
            Access::Write => entry.write == page,
            Access::Execute => entry.exec >> 28 == page << 16 >> 28 && entry.exec != !0,
        };
        hit.then_some(entry.page | linear & 0xfff)
    }

    fn translate_missed(&mut self, linear: u64, access: Access, mode: Mode) -> Result<Physical, Trap> {
        let memory = self.memory;
        let has_code = |host| memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE != 0;
        if self.tlb.revive(mode, linear, has_code)
            && let Some(host) = self.known(linear, access, mode)
        {
            return Ok(Physical { address: memory.physical(host), host: Some(host) });
        }
        self.translate_by_walk(linear, access, mode)
    }

    /// Whether the access would be allowed, without marking anything: but what is logged is marked and logged now, so that
    /// the access, when it comes, does not find the log full.
    ///
    /// # Errors
    /// #PF as the access itself would raise it.
    pub fn probe(&mut self, linear: u64, access: Access, privilege: Privilege) -> Result<(), Trap> {
        let mode = self.tlb_mode(privilege);
        let mark = self.logs_modifications();
        let walk = self.walk(linear, mark).map_err(|missing| self.missed(linear, access, mode, missing))?;
        self.check_rights(linear, access, mode, &walk)?;
        self.guest_page(linear, &walk, access, mark).map(|_| ())
    }

    /// The physical address of `linear` by the paging structures alone, as a debugger sees it: no rights, no marks.
    pub fn translate_for_debugger(&mut self, linear: u64) -> Option<u64> {
        let guest_physical = self.walk(linear, false).ok()?.physical;
        match self.ept() {
            None => Some(guest_physical),
            Some(tables) => tables.walk(self.memory, guest_physical).ok().map(|found| found.physical),
        }
    }

    fn translate_by_walk(&mut self, linear: u64, access: Access, mode: Mode) -> Result<Physical, Trap> {
        loop {
            let walk =
                self.walk(linear, true).map_err(|missing| self.missed(linear, access, mode, missing))?;
            let rights = self.check_rights(linear, access, mode, &walk)?;
            let write = access == Access::Write;
            if let Some(missing) = walk.unmarkable(write) {
                return Err(self.missed(linear, access, mode, missing));
            }
            let page = self.guest_page(linear, &walk, access, true)?;
            if walk.mark(self.memory, write) {
                self.tell_marks(&walk);
                let host = self.accessible(page.physical, access)?;
                if let Some(host) = host {
                    self.fill(linear, host, mode, &walk, &rights, &page, write);
                }
                return Ok(Physical { address: page.physical, host });
            }
        }
    }

    /// The host address of what is accessed like RAM. No TLB knows the APIC-access page, so that each access to it comes
    /// by here; whoever makes it asks what it is.
    fn accessible(&mut self, physical: u64, access: Access) -> Result<Option<u64>, Trap> {
        if !self.in_apic_access_page(physical) {
            return Ok(self.memory.host(physical));
        }
        match access {
            Access::Execute => Err(self.apic_access_exit(physical, access)),
            Access::Read | Access::Write => Ok(None),
        }
    }

    /// Tell of marks set in pages that hold translated code.
    fn tell_marks(&mut self, walk: &Walk) {
        for used in &walk.used[..walk.levels] {
            self.before_write(used.host, walk.entry_size as u64);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn fill(
        &mut self,
        linear: u64,
        host: u64,
        mode: Mode,
        walk: &Walk,
        rights: &Rights,
        page: &Page,
        write: bool,
    ) {
        let permits = |permission| page.permissions & permission != 0;
        // A page that is only read is none that is written, where that is logged.
        let dirty = write || walk.dirty && page.dirty && !self.tlb.logs_writes();
        let may_write = rights.write && rights.key_write && permits(ept::WRITE) && dirty;
        let fill = Fill {
            linear,
            page: host & !0xfff,
            physical: page.physical & !0xfff,
            read: rights.read && rights.key_read && permits(ept::READ),
            write: may_write,
            has_code: may_write && self.has_code_before_write(host),
            flags: std::ptr::from_ref(self.memory.flags(host)) as u64,
            execute: rights.execute && permits(self.execute_permission(walk.user)),
            global: walk.global && self.state.cr4 & cr4::PGE != 0,
            size_shift: walk.size_shift,
        };
        self.tlb.insert(mode, &fill);
    }

    /// Whether the page at `host`, for which the TLB gets an entry that lets writes go unnoticed as long as it holds no
    /// code, holds code now. Whoever translates code from it later knows by its flags that there is such an entry.
    fn has_code_before_write(&self, host: u64) -> bool {
        let flags = self.memory.flags(host);
        let mut seen = flags.load(Ordering::SeqCst);
        if seen & PAGE_WRITABLE_IN_TLB == 0 {
            seen = flags.fetch_or(PAGE_WRITABLE_IN_TLB, Ordering::SeqCst);
        }
        seen & PAGE_HAS_CODE != 0
    }

    fn check_rights(&self, linear: u64, access: Access, mode: Mode, walk: &Walk) -> Result<Rights, Trap> {
        let rights = rights(self.state, walk, mode);
        let (allowed, key_allowed) = match access {
            Access::Read => (rights.read, rights.key_read),
            Access::Write => (rights.write, rights.key_write),
            Access::Execute => (rights.execute, true),
        };
        if allowed && key_allowed {
            return Ok(rights);
        }
        let key = if key_allowed { 0 } else { page_fault::PROTECTION_KEY };
        Err(self.page_fault(linear, access, mode, page_fault::PRESENT | key))
    }

    /// #PF with the error code completed from the access (SDM vol. 3, 4.7).
    fn page_fault(&self, linear: u64, access: Access, mode: Mode, code: u32) -> Trap {
        let mut code = code;
        if access == Access::Write {
            code |= page_fault::WRITE;
        }
        if mode == Mode::User {
            code |= page_fault::USER;
        }
        let fetches_reported = self.state.cr4 & cr4::SMEP != 0
            || self.state.efer & efer::NXE != 0 && self.state.cr4 & cr4::PAE != 0;
        if access == Access::Execute && fetches_reported {
            code |= page_fault::FETCH;
        }
        Exception::page_fault(linear, code).into()
    }

    /// What a miss comes to: #PF, or the VM exit of an access to a paging structure.
    fn missed(&mut self, linear: u64, access: Access, mode: Mode, missing: Missing) -> Trap {
        match missing {
            Missing::PageFault(code) => self.page_fault(linear, access, mode, code),
            Missing::Apic => self.apic_structure_exit(),
            Missing::Ept { address, fault, wanted } => {
                self.ept_exit(address, fault, wanted | ept_violation::LINEAR_ADDRESS_VALID, linear)
            }
        }
    }

    /// Where a finished walk's page is, for an access that the guest itself permits.
    fn guest_page(&mut self, linear: u64, walk: &Walk, access: Access, mark: bool) -> Result<Page, Trap> {
        let address = walk.physical;
        let Some(tables) = self.ept() else {
            return Ok(Page { physical: address, permissions: ept::PERMISSIONS, dirty: true });
        };
        let wanted = match access {
            Access::Execute => self.execute_permission(walk.user),
            Access::Read | Access::Write => ept_access(access),
        };
        let found = self.through_ept(tables, address, wanted, mark).map_err(|fault| {
            let about = ept_access(access) | ept_violation::LINEAR_ADDRESS_VALID | walk.told();
            self.ept_exit(address, fault, about, linear)
        })?;
        Ok(Page { physical: found.physical, permissions: found.permissions, dirty: found.dirty })
    }

    /// A paging-structure entry's place: its host address, and what EPT permits there.
    fn structure(&mut self, address: u64, mark: bool) -> Result<Used, Missing> {
        let used = Used { guest_physical: address, permissions: ept::PERMISSIONS, ..Used::default() };
        let Some(tables) = self.ept() else {
            let host = self.memory.host(address).ok_or(NOT_PRESENT)?;
            return Ok(Used { host, ..used });
        };
        // Where EPT marks what is dirty, reading a paging structure counts as writing it (SDM vol. 3, 29.3.3.2).
        let wanted = ept::READ | if tables.accessed_and_dirty { ept::WRITE } else { 0 };
        let found = self.through_ept(tables, address, wanted, mark).map_err(|fault| Missing::Ept {
            address,
            fault,
            wanted,
        })?;
        if self.in_apic_access_page(found.physical) {
            return Err(Missing::Apic);
        }
        let host = self.memory.host(found.physical).ok_or(NOT_PRESENT)?;
        Ok(Used { host, permissions: found.permissions, convertible: found.convertible, ..used })
    }

    fn walk(&mut self, linear: u64, mark: bool) -> Result<Walk, Missing> {
        match paging_mode(self.state) {
            PagingMode::Off => Ok(Walk { physical: linear & 0xffff_ffff, global: true, ..Walk::start(8) }),
            PagingMode::Legacy => self.walk_legacy(linear as u32, mark),
            PagingMode::Pae => self.walk_pae(linear as u32, mark),
            PagingMode::FourLevel => self.walk_levels(linear, self.state.cr3 & ADDRESS, 4, mark),
        }
    }

    /// PAE and 4-level structures from level `top` (4 is the PML4) down (SDM vol. 3, 4.4.2, 4.5).
    fn walk_levels(&mut self, linear: u64, root: u64, top: u32, mark: bool) -> Result<Walk, Missing> {
        let mut walk = Walk::start(8);
        let execute_disable_allowed = self.state.efer & efer::NXE != 0;
        let mut table = root;
        let mut level = top;
        loop {
            let shift = 12 + 9 * (level - 1);
            let index = linear >> shift & 0x1ff;
            let used = self.structure(table + index * 8, mark)?;
            let entry = self.memory.load(used.host, 8);
            if entry & paging::PRESENT == 0 {
                return Err(NOT_PRESENT);
            }
            let leaf = level == 1 || level < 4 && entry & paging::PAGE_SIZE != 0;
            let mut reserved = RESERVED_ADDRESS;
            if !execute_disable_allowed {
                reserved |= paging::EXECUTE_DISABLE;
            }
            if level == 4 {
                reserved |= paging::PAGE_SIZE;
            }
            if leaf && level > 1 {
                reserved |= (1 << shift) - 1 & ADDRESS & !paging::LARGE_PAT;
            }
            if top < 4 {
                // PAE paging reserves bits 62:52 as well.
                reserved |= 0x7ff0_0000_0000_0000;
            }
            if entry & reserved != 0 {
                return Err(RESERVED);
            }
            walk.used[walk.levels] = Used { entry, ..used };
            walk.levels += 1;
            walk.writable &= entry & paging::WRITABLE != 0;
            walk.user &= entry & paging::USER != 0;
            walk.execute_disable |= entry & paging::EXECUTE_DISABLE != 0;
            if leaf {
                let offset = (1 << shift) - 1;
                walk.physical = entry & ADDRESS & !offset | linear & offset;
                walk.size_shift = shift;
                walk.global = entry & paging::GLOBAL != 0;
                walk.dirty = entry & paging::DIRTY != 0;
                walk.protection_key = (entry >> paging::PROTECTION_KEY_SHIFT) as u32 & 0xf;
                return Ok(walk);
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    /// PAE paging starts at the page-directory-pointer entries kept in the processor (SDM vol. 3, 4.4.1).
    fn walk_pae(&mut self, linear: u32, mark: bool) -> Result<Walk, Missing> {
        let pointer = self.state.pdpte[(linear >> 30) as usize];
        if pointer & paging::PRESENT == 0 {
            return Err(NOT_PRESENT);
        }
        self.walk_levels(u64::from(linear), pointer & ADDRESS, 2, mark)
    }

    /// 32-bit paging (SDM vol. 3, 4.3), with PSE-36.
    fn walk_legacy(&mut self, linear: u32, mark: bool) -> Result<Walk, Missing> {
        let mut walk = Walk::start(4);
        let mut table = self.state.cr3 & 0xffff_f000;
        for level in [2, 1] {
            let shift = 12 + 10 * (level - 1);
            let address = table + u64::from(linear >> shift & 0x3ff) * 4;
            let used = self.structure(address, mark)?;
            let entry = self.memory.load(used.host, 4);
            if entry & paging::PRESENT == 0 {
                return Err(NOT_PRESENT);
            }
            walk.used[walk.levels] = Used { entry, ..used };
            walk.levels += 1;
            walk.writable &= entry & paging::WRITABLE != 0;
            walk.user &= entry & paging::USER != 0;
            let large = level == 2 && entry & paging::PAGE_SIZE != 0 && self.state.cr4 & cr4::PSE != 0;
            if large && entry & 1 << 21 != 0 {
                return Err(RESERVED);
            }
            if large || level == 1 {
                let offset = (1u64 << shift) - 1;
                let high = if large { (entry >> 13 & 0xff) << 32 } else { 0 };
                walk.physical = entry & 0xffff_f000 & !offset | high | u64::from(linear) & offset;
                walk.size_shift = shift;
                walk.global = entry & paging::GLOBAL != 0;
                walk.dirty = entry & paging::DIRTY != 0;
                return Ok(walk);
            }
            table = entry & 0xffff_f000;
        }
        Err(NOT_PRESENT)
    }
}
