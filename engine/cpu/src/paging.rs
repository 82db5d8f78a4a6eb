//! Linear-address translation (SDM vol. 3, chapter 4).

use crate::access::Privilege;
use crate::core::Core;
use crate::exception::{Exception, Trap};
use crate::state::VcpuState;
use crate::tlb::{Fill, Mode};
use gasang_memory::{GuestMemory, PAGE_HAS_CODE, PAGE_WRITABLE_IN_TLB};
use gasang_x86::control::{cr0, cr4, efer};
use gasang_x86::exception::page_fault;
use gasang_x86::{paging, rflags};
use std::sync::atomic::Ordering;

/// MAXPHYADDR of the modelled processor (CPUID 0x80000008).
pub const PHYSICAL_ADDRESS_BITS: u32 = 46;

/// Physical-address bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const RESERVED_ADDRESS: u64 = ADDRESS & !((1 << PHYSICAL_ADDRESS_BITS) - 1);

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
    /// (host address, entry as read), root first.
    used: [(u64, u64); 4],
    levels: usize,
    entry_size: usize,
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
            used: [(0, 0); 4],
            levels: 0,
            entry_size,
        }
    }

    /// Set A in every entry used and, for a write, D in the leaf. False if an entry changed meanwhile: walk again.
    fn mark(&self, memory: &GuestMemory, write: bool) -> bool {
        (0..self.levels).all(|level| {
            let (host, entry) = self.used[level];
            let leaf = level + 1 == self.levels;
            let new = entry | paging::ACCESSED | if leaf && write { paging::DIRTY } else { 0 };
            if new == entry {
                true
            } else if self.entry_size == 8 {
                memory.compare_exchange_u64(host, entry, new)
            } else {
                memory.compare_exchange_u32(host, entry as u32, new as u32)
            }
        })
    }
}

/// Why a walk ended without a leaf: the P and RSVD bits of the error code.
struct Missing(u32);

const NOT_PRESENT: Missing = Missing(0);
const RESERVED: Missing = Missing(page_fault::PRESENT | page_fault::RESERVED);

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

    /// Whether the access would be allowed, without marking anything.
    ///
    /// # Errors
    /// #PF as the access itself would raise it.
    pub fn probe(&mut self, linear: u64, access: Access, privilege: Privilege) -> Result<(), Trap> {
        let mode = self.tlb_mode(privilege);
        let walk = self.walk(linear).map_err(|missing| self.page_fault(linear, access, mode, missing.0))?;
        self.check_rights(linear, access, mode, &walk).map(|_| ())
    }

    /// The physical address of `linear` by the paging structures alone, as a debugger sees it: no rights, no marks.
    pub fn translate_for_debugger(&self, linear: u64) -> Option<u64> {
        self.walk(linear).ok().map(|walk| walk.physical)
    }

    fn translate_by_walk(&mut self, linear: u64, access: Access, mode: Mode) -> Result<Physical, Trap> {
        loop {
            let walk =
                self.walk(linear).map_err(|missing| self.page_fault(linear, access, mode, missing.0))?;
            let rights = self.check_rights(linear, access, mode, &walk)?;
            let write = access == Access::Write;
            if walk.mark(self.memory, write) {
                self.tell_marks(&walk);
                let host = self.memory.host(walk.physical);
                if let Some(host) = host {
                    self.fill(linear, host, mode, &walk, &rights, write);
                }
                return Ok(Physical { address: walk.physical, host });
            }
        }
    }

    /// Tell of marks set in pages that hold translated code.
    fn tell_marks(&mut self, walk: &Walk) {
        for &(host, _) in &walk.used[..walk.levels] {
            if self.memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE != 0 {
                self.platform.code_written(host, walk.entry_size as u64);
            }
        }
    }

    fn fill(&mut self, linear: u64, host: u64, mode: Mode, walk: &Walk, rights: &Rights, write: bool) {
        let may_write = rights.write && rights.key_write && (walk.dirty || write);
        let fill = Fill {
            linear,
            page: host & !0xfff,
            physical: walk.physical & !0xfff,
            read: rights.read && rights.key_read,
            write: may_write,
            has_code: may_write && self.has_code_before_write(host),
            flags: std::ptr::from_ref(self.memory.flags(host)) as u64,
            execute: rights.execute,
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

    fn walk(&self, linear: u64) -> Result<Walk, Missing> {
        match paging_mode(self.state) {
            PagingMode::Off => Ok(Walk { physical: linear & 0xffff_ffff, global: true, ..Walk::start(8) }),
            PagingMode::Legacy => self.walk_legacy(linear as u32),
            PagingMode::Pae => self.walk_pae(linear as u32),
            PagingMode::FourLevel => self.walk_levels(linear, self.state.cr3 & ADDRESS, 4, Walk::start(8)),
        }
    }

    fn entry64(&self, address: u64) -> Option<(u64, u64)> {
        let host = self.memory.host(address)?;
        Some((host, self.memory.load(host, 8)))
    }

    /// PAE and 4-level structures from `level` (4 is the PML4) down (SDM vol. 3, 4.4.2, 4.5).
    fn walk_levels(&self, linear: u64, root: u64, top: u32, mut walk: Walk) -> Result<Walk, Missing> {
        let execute_disable_allowed = self.state.efer & efer::NXE != 0;
        let mut table = root;
        let mut level = top;
        loop {
            let shift = 12 + 9 * (level - 1);
            let index = linear >> shift & 0x1ff;
            let (host, entry) = self.entry64(table + index * 8).ok_or(NOT_PRESENT)?;
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
            walk.used[walk.levels] = (host, entry);
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
    fn walk_pae(&self, linear: u32) -> Result<Walk, Missing> {
        let pointer = self.state.pdpte[(linear >> 30) as usize];
        if pointer & paging::PRESENT == 0 {
            return Err(NOT_PRESENT);
        }
        self.walk_levels(u64::from(linear), pointer & ADDRESS, 2, Walk::start(8))
    }

    /// 32-bit paging (SDM vol. 3, 4.3), with PSE-36.
    fn walk_legacy(&self, linear: u32) -> Result<Walk, Missing> {
        let mut walk = Walk::start(4);
        let mut table = self.state.cr3 & 0xffff_f000;
        for level in [2, 1] {
            let shift = 12 + 10 * (level - 1);
            let address = table + u64::from(linear >> shift & 0x3ff) * 4;
            let host = self.memory.host(address).ok_or(NOT_PRESENT)?;
            let entry = self.memory.load(host, 4);
            if entry & paging::PRESENT == 0 {
                return Err(NOT_PRESENT);
            }
            walk.used[walk.levels] = (host, entry);
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
