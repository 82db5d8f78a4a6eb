//! The guest's segment registers (SDM vol. 3, 27.3.1.2).

use super::guest::Guest;
use super::{Check, require};
use crate::guest_state::{CS, LDTR, SEGMENTS, SegmentFields, TR};
use gasang_cpu::SegmentRegister;
use gasang_x86::control::cr0;
use gasang_x86::descriptor::{access, selector, system};
use gasang_x86::segment;
use gasang_x86::vmx::Field;

/// Bits of access rights that are always 0 in a usable segment.
const RESERVED: u32 = 0xfffe_0f00;
const VIRTUAL_8086_RIGHTS: u32 = 0xf3;

fn register(guest: &Guest<'_>, fields: SegmentFields) -> SegmentRegister {
    let (selector, base, limit, rights) = fields;
    SegmentRegister {
        selector: guest.vmcs.get(selector) as u16,
        base: guest.vmcs.get(base),
        limit: guest.vmcs.get32(limit),
        attributes: guest.vmcs.get32(rights),
    }
}

fn kind(register: &SegmentRegister) -> u32 {
    register.attributes & access::TYPE
}

fn rpl(register: &SegmentRegister) -> u8 {
    (register.selector & selector::RPL) as u8
}

/// Whether a limit can be expressed in the granularity: in bytes below 1 MiB, or in whole pages.
fn granular(register: &SegmentRegister) -> bool {
    let pages = register.attributes & access::GRANULARITY != 0;
    (!pages || register.limit & 0xfff == 0xfff) && (pages || register.limit >> 20 == 0)
}

pub(super) fn check(guest: &Guest<'_>) -> Result<(), Check> {
    let segments = std::array::from_fn(|number| register(guest, SEGMENTS[number]));
    let (task, local) = (register(guest, TR), register(guest, LDTR));
    check_selectors(guest, &segments, &task, &local)?;
    check_bases(guest, &segments, &local)?;
    if guest.virtual_8086 {
        require(segments.iter().all(|register| register.limit == 0xffff), Check::Virtual8086Limit)?;
        let rights = |register: &SegmentRegister| register.attributes == VIRTUAL_8086_RIGHTS;
        require(segments.iter().all(rights), Check::Virtual8086Rights)?;
    } else {
        check_types(guest, &segments)?;
        check_privileges(guest, &segments)?;
        check_rights(guest, &segments)?;
    }
    check_task(guest, &task)?;
    check_local_table(&local)
}

fn check_selectors(
    guest: &Guest<'_>,
    segments: &[SegmentRegister; 6],
    task: &SegmentRegister,
    local: &SegmentRegister,
) -> Result<(), Check> {
    let global = |register: &SegmentRegister| register.selector & selector::TI == 0;
    require(global(task) && (!local.usable() || global(local)), Check::SelectorTable)?;
    let free = guest.virtual_8086 || guest.unrestricted;
    let same = rpl(&segments[segment::SS]) == rpl(&segments[segment::CS]);
    require(free || same, Check::SelectorPrivilege)
}

fn check_bases(
    guest: &Guest<'_>,
    segments: &[SegmentRegister; 6],
    local: &SegmentRegister,
) -> Result<(), Check> {
    if guest.virtual_8086 {
        let paragraph = |register: &SegmentRegister| register.base == u64::from(register.selector) << 4;
        require(segments.iter().all(paragraph), Check::Virtual8086Base)?;
    }
    let canonical = [Field::GuestTrBase, Field::GuestFsBase, Field::GuestGsBase];
    let tables = !local.usable() || guest.canonical(Field::GuestLdtrBase);
    require(canonical.into_iter().all(|base| guest.canonical(base)) && tables, Check::BaseCanonical)?;
    let narrow = |number: usize| {
        let register = &segments[number];
        register.base >> 32 == 0 || number != segment::CS && !register.usable()
    };
    let flat = [segment::CS, segment::SS, segment::DS, segment::ES];
    require(flat.into_iter().all(narrow), Check::BaseWide)
}

/// DS, ES, FS and GS, those of them that are usable.
fn usable_data(segments: &[SegmentRegister; 6]) -> impl Iterator<Item = &SegmentRegister> {
    let data = [segment::DS, segment::ES, segment::FS, segment::GS];
    data.into_iter().map(|number| &segments[number]).filter(|register| register.usable())
}

fn check_types(guest: &Guest<'_>, segments: &[SegmentRegister; 6]) -> Result<(), Check> {
    let code = kind(&segments[segment::CS]);
    let accessed_code = access::CODE | access::ACCESSED;
    let data_as_code = guest.unrestricted && code == access::WRITABLE | access::ACCESSED;
    require(code & accessed_code == accessed_code || data_as_code, Check::CodeType)?;
    let stack = &segments[segment::SS];
    require(!stack.usable() || matches!(kind(stack), 3 | 7), Check::StackType)?;
    let readable = |register: &SegmentRegister| {
        let kind = kind(register);
        kind & access::ACCESSED != 0 && (kind & access::CODE == 0 || kind & access::READABLE != 0)
    };
    require(usable_data(segments).all(readable), Check::DataType)
}

/// CS, and the others that are usable.
fn usable(segments: &[SegmentRegister; 6]) -> impl Iterator<Item = &SegmentRegister> {
    let all = segments.iter().enumerate();
    all.filter(|(number, register)| *number == segment::CS || register.usable()).map(|(_, register)| register)
}

fn check_privileges(guest: &Guest<'_>, segments: &[SegmentRegister; 6]) -> Result<(), Check> {
    let code_or_data = |register: &SegmentRegister| register.attributes & access::S != 0;
    require(usable(segments).all(code_or_data), Check::SystemSegment)?;
    let (code, stack) = (&segments[segment::CS], &segments[segment::SS]);
    let fits = match kind(code) {
        3 => code.dpl() == 0,
        9 | 11 => code.dpl() == stack.dpl(),
        _ => code.dpl() <= stack.dpl(),
    };
    require(fits, Check::CodePrivilege)?;
    let real = guest.vmcs.get(Field::GuestCr0) & cr0::PE == 0;
    let same = guest.unrestricted || stack.dpl() == rpl(stack);
    let lowest = !real && kind(code) != 3 || stack.dpl() == 0;
    require(same && lowest, Check::StackPrivilege)?;
    // Conforming code aside.
    let reachable = |register: &SegmentRegister| kind(register) > 11 || register.dpl() >= rpl(register);
    require(guest.unrestricted || usable_data(segments).all(reachable), Check::DataPrivilege)
}

fn check_rights(guest: &Guest<'_>, segments: &[SegmentRegister; 6]) -> Result<(), Check> {
    let present = |register: &SegmentRegister| register.attributes & access::PRESENT != 0;
    require(usable(segments).all(present), Check::SegmentPresent)?;
    let known = |register: &SegmentRegister| register.attributes & RESERVED == 0;
    require(usable(segments).all(known), Check::SegmentReserved)?;
    let code = guest.vmcs.get32(CS.3);
    let both = access::LONG | access::DB;
    require(!guest.long || code & both != both, Check::CodeDefault)?;
    require(usable(segments).all(granular), Check::SegmentGranularity)
}

fn check_task(guest: &Guest<'_>, task: &SegmentRegister) -> Result<(), Check> {
    let busy = kind(task) == system::TSS_BUSY || !guest.long && kind(task) == system::TSS16_BUSY;
    require(busy, Check::TrType)?;
    require(task.usable() && is_system(task), Check::TrKind)?;
    require(granular(task), Check::TrGranularity)
}

fn check_local_table(local: &SegmentRegister) -> Result<(), Check> {
    if !local.usable() {
        return Ok(());
    }
    require(kind(local) == system::LDT, Check::LdtrType)?;
    require(is_system(local), Check::LdtrKind)?;
    require(granular(local), Check::LdtrGranularity)
}

fn is_system(register: &SegmentRegister) -> bool {
    register.attributes & (access::S | access::PRESENT | RESERVED) == access::PRESENT
}
