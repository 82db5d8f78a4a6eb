//! Which memory accesses of a block share a check.
//!
//! Accesses through the same registers, unchanged between them, lie at fixed distances: one check of the whole span that
//! they cover stands for all of them, and the host address that it found is kept in a slot. A span that crosses a page
//! fails the check; then the first access is T0's, and a block that fails often is translated again without sharing.
//!
//! A check for reading covers reads only: asking for a page to be written marks it dirty, which must not happen before a
//! write is certain. A check for writing covers what follows of both kinds.
//!
//! A block by itself shares the checks of its stack accesses only: that is found cheaply. A superblock shares whatever can
//! be shared. And it hopes: it checks for writing at once, and is left, without any effect, for a block that shares nothing
//! if that is not known to be allowed.

use crate::decode::{Kind, Operation};
use crate::slots;
use gasang_cpu::tlb::header;
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// Bytes that one check covers at most: the more, the likelier that they cross a page.
const SPAN: i64 = 128;

/// Offsets are no farther from 0 than this, so that those of a span's ends fit in 32 bits.
const FARTHEST: i64 = 1 << 30;

/// How an access is checked, and the region that it is looked for in first. Offsets count from the address that the access's registers give without displacement,
/// when the group began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// By itself.
    Alone { region: Option<u8> },
    /// For itself and others: `span` bytes from `low` on; the host address of offset 0 goes to the slot.
    First { slot: i32, low: i32, span: u8, offset: i32, write: bool, region: Option<u8> },
    /// It was covered by an earlier check.
    Covered { slot: i32, offset: i32 },
}

/// The checks of an operation's accesses, in the order in which it makes them.
pub type Checks = [Check; 2];

/// Registers that give an address, in the state they have between two changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    base: (Register, u32),
    index: (Register, u32),
    scale: u32,
}

#[derive(Debug, Clone, Copy)]
struct Access {
    operation: usize,
    position: usize,
    key: Option<Key>,
    offset: i64,
    size: i64,
    write: bool,
}

/// The plan of a block that shares nothing.
pub fn alone(operations: &[Operation]) -> Vec<Checks> {
    vec![[Check::Alone { region: None }; 2]; operations.len()]
}

/// A check that others share: the access that makes it, the span from `low` to `high`, the slot of its result.
struct Group {
    first: Access,
    low: i64,
    high: i64,
    write: bool,
    slot: i32,
}

impl Group {
    fn covers(&self, access: &Access) -> bool {
        self.first.key == access.key
            && (self.write || !access.write)
            && self.low <= access.offset
            && access.offset + access.size <= self.high
    }
}

/// Find the stack accesses of a block that share checks.
pub fn share_stack(operations: &[Operation]) -> Vec<Checks> {
    share(operations, &collect(operations, follow_stack), false)
}

/// Find the accesses of a superblock that share checks, and give what is checked regions, from number `first_region` of
/// each half on; None for no regions.
pub fn share_all(
    operations: &[Operation],
    info: &mut InstructionInfoFactory,
    first_region: Option<usize>,
) -> Vec<Checks> {
    let accesses = collect(operations, |operation, registers| follow(operation, registers, info));
    let mut plan = share(operations, &accesses, true);
    if let Some(first_region) = first_region {
        give_regions(&mut plan, &accesses, first_region);
    }
    plan
}

/// Accesses through the same registers reach the same region, whatever the registers hold.
fn give_regions(plan: &mut [Checks], accesses: &[Access], first_region: usize) {
    let mut known: [Vec<[Register; 2]>; 2] = Default::default();
    for access in accesses {
        let Some(key) = access.key else { continue };
        let (region, write) = match &mut plan[access.operation][access.position] {
            Check::Alone { region } => (region, access.write),
            Check::First { region, write, .. } => (region, *write),
            Check::Covered { .. } => continue,
        };
        let registers = [key.base.0, key.index.0];
        let known = &mut known[usize::from(write)];
        let place = known.iter().position(|other| *other == registers).unwrap_or_else(|| {
            known.push(registers);
            known.len() - 1
        });
        let half = header::REGIONS / 2;
        *region = Some(((first_region + place) % half + if write { half } else { 0 }) as u8);
    }
}

fn share(operations: &[Operation], accesses: &[Access], hopeful: bool) -> Vec<Checks> {
    let mut plan = alone(operations);
    let mut groups: Vec<Group> = Vec::new();
    for (number, access) in accesses.iter().enumerate().filter(|(_, access)| access.key.is_some()) {
        let check = if let Some(group) = groups.iter().find(|group| group.covers(access)) {
            Check::Covered { slot: group.slot, offset: access.offset as i32 }
        } else {
            let (low, high, write, others) = extent(access, &accesses[number + 1..], &groups, hopeful);
            if others == 0 || groups.len() == slots::SHARED_CHECKS {
                continue;
            }
            let slot = slots::shared_check(groups.len());
            groups.push(Group { first: *access, low, high, write, slot });
            let (offset, span) = (access.offset as i32, (high - low) as u8);
            Check::First { slot, low: low as i32, span, offset, write, region: None }
        };
        plan[access.operation][access.position] = check;
    }
    plan
}

/// The span of `first` and of those of `later` that a check for it can cover and none of `groups` does, whether any of
/// them writes, and how many of the later ones there are.
fn extent(first: &Access, later: &[Access], groups: &[Group], hopeful: bool) -> (i64, i64, bool, usize) {
    let (mut low, mut high, mut others) = (first.offset, first.offset + first.size, 0);
    let mut write = first.write;
    let may = |access: &&Access| first.write || hopeful || !access.write;
    let same = later.iter().filter(|access| access.key == first.key).filter(may);
    for access in same.filter(|access| !groups.iter().any(|group| group.covers(access))) {
        let (new_low, new_high) = (low.min(access.offset), high.max(access.offset + access.size));
        if new_high - new_low <= SPAN {
            (low, high, others) = (new_low, new_high, others + 1);
            write |= access.write;
        }
    }
    (low, high, write, others)
}

/// What is known about registers while a block is walked.
struct Registers {
    versions: [u32; 16],
    /// How far each has moved by known amounts since its version began.
    distances: [i64; 16],
    /// What the offsets of known addresses count from.
    anchor: u64,
}

impl Registers {
    fn changed(&mut self, register: Register) {
        let full = register.full_register();
        if full.is_gpr64() {
            self.versions[full.number()] += 1;
            self.distances[full.number()] = 0;
        }
    }

    fn moved(&mut self, register: Register, distance: i64) {
        let total = &mut self.distances[register.number()];
        *total = total.wrapping_add(distance);
    }

    /// How far a register, or none, has moved.
    fn distance(&self, register: Register) -> i64 {
        if register == Register::None { 0 } else { self.distances[register.number()] }
    }

    fn version(&self, register: Register) -> (Register, u32) {
        if register == Register::None { (register, 0) } else { (register, self.versions[register.number()]) }
    }

    fn key(&self, base: Register, index: Register, scale: u32) -> Key {
        Key { base: self.version(base), index: self.version(index), scale }
    }
}

fn collect(operations: &[Operation], mut follow: impl FnMut(&Operation, &mut Registers)) -> Vec<Access> {
    let mut registers = Registers {
        versions: [0; 16],
        distances: [0; 16],
        anchor: operations.first().map_or(0, |first| first.instruction.ip()),
    };
    let mut accesses = Vec::with_capacity(operations.len());
    for (number, operation) in operations.iter().enumerate() {
        for (position, access) in accesses_of(operation, &registers).into_iter().flatten().enumerate() {
            accesses.push(Access { operation: number, position, ..access });
        }
        follow(operation, &mut registers);
    }
    accesses
}

fn stack_access(registers: &Registers, displacement: i64, write: bool) -> Option<Access> {
    Some(Access {
        operation: 0,
        position: 0,
        key: Some(registers.key(Register::RSP, Register::None, 1)),
        offset: registers.distance(Register::RSP).wrapping_add(displacement),
        size: 8,
        write,
    })
}

fn accesses_of(operation: &Operation, registers: &Registers) -> [Option<Access>; 2] {
    let instruction = &operation.instruction;
    let from_memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    match operation.kind {
        Kind::Memory { size, write } => [Some(operand_access(instruction, registers, size, write)), None],
        Kind::Push if instruction.code() == Code::Push_rm64 && from_memory => {
            [Some(operand_access(instruction, registers, 8, false)), stack_access(registers, -8, true)]
        }
        Kind::Push | Kind::PushFlags | Kind::Call(_) | Kind::CallThrough => {
            [stack_access(registers, -8, true), None]
        }
        Kind::Pop | Kind::PopFlags | Kind::Return(_) | Kind::ReturnThrough { .. } => {
            [stack_access(registers, 0, false), None]
        }
        Kind::CallIndirect if from_memory => {
            [Some(operand_access(instruction, registers, 8, false)), stack_access(registers, -8, true)]
        }
        Kind::CallIndirect => [stack_access(registers, -8, true), None],
        Kind::JumpIndirect if from_memory => [Some(operand_access(instruction, registers, 8, false)), None],
        Kind::Leave => {
            let key = Some(registers.key(Register::RBP, Register::None, 1));
            let offset = registers.distance(Register::RBP);
            [Some(Access { operation: 0, position: 0, key, offset, size: 8, write: false }), None]
        }
        Kind::Nothing
        | Kind::Plain
        | Kind::Address
        | Kind::ClearDirection
        | Kind::ClearInterrupt
        | Kind::SetInterrupt
        | Kind::AlignmentCheck(_)
        | Kind::SwapGs
        | Kind::ReadSelector
        | Kind::BitString(_)
        | Kind::Fill(_)
        | Kind::Copy(_)
        | Kind::ReadTime(_)
        | Kind::ReadControl
        | Kind::SegmentBase(_)
        | Kind::ReadKeyRights
        | Kind::ReadField
        | Kind::WriteField
        | Kind::SystemCall
        | Kind::SystemReturn
        | Kind::InterruptReturn
        | Kind::Jump(_)
        | Kind::Branch(_)
        | Kind::Side { .. }
        | Kind::BranchIfZero(_)
        | Kind::JumpIndirect
        | Kind::Interpret => [None, None],
    }
}

fn operand_access(instruction: &Instruction, registers: &Registers, size: u32, write: bool) -> Access {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let wide = |register: Register| register == Register::None || register.is_gpr64();
    let flat = !matches!(instruction.memory_segment(), Register::FS | Register::GS);
    if let Some(address) = known_address(instruction).filter(|_| flat) {
        let offset = address.wrapping_sub(registers.anchor) as i64;
        let key = Key { base: (Register::RIP, 0), index: (Register::None, 0), scale: 1 };
        let key = (-FARTHEST..=FARTHEST).contains(&offset).then_some(key);
        return Access { operation: 0, position: 0, key, offset, size: i64::from(size), write };
    }
    let by_register = base.is_gpr64() || index.is_gpr64();
    let key = (flat && by_register && wide(base) && wide(index))
        .then(|| registers.key(base, index, instruction.memory_index_scale()));
    let scale = i64::from(instruction.memory_index_scale());
    let moved = if key.is_some() {
        registers.distance(base).wrapping_add(registers.distance(index).wrapping_mul(scale))
    } else {
        0
    };
    let offset = (instruction.memory_displacement64() as i64).wrapping_add(moved);
    let near = |offset: i64| (-FARTHEST..=FARTHEST).contains(&offset);
    let key = key.filter(|_| near(offset) && near(instruction.memory_displacement64() as i64));
    Access { operation: 0, position: 0, key, offset, size: i64::from(size), write }
}

/// The address of an operand that no register tells.
fn known_address(instruction: &Instruction) -> Option<u64> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if instruction.memory_base() == Register::RIP {
        return Some(instruction.ip_rel_memory_address());
    }
    let absolute = base == Register::None && index == Register::None && instruction.memory_displ_size() == 8;
    absolute.then(|| instruction.memory_displacement64())
}

/// Note what the operation does to RSP; whatever else gives addresses is taken to change each time.
fn follow_stack(operation: &Operation, registers: &mut Registers) {
    let instruction = &operation.instruction;
    match operation.kind {
        Kind::Push | Kind::PushFlags | Kind::Call(_) | Kind::CallThrough | Kind::CallIndirect => {
            registers.moved(Register::RSP, -8);
        }
        Kind::PopFlags => registers.moved(Register::RSP, 8),
        Kind::Pop if instruction.op0_register() != Register::RSP => registers.moved(Register::RSP, 8),
        Kind::Nothing | Kind::Branch(_) | Kind::Jump(_) => {}
        Kind::Plain | Kind::Address | Kind::Memory { .. } if !names_stack_pointer(instruction) => {}
        Kind::Plain | Kind::Address if instruction.op0_register().full_register() == Register::RSP => {
            match constant_move(instruction) {
                Some(distance) => registers.moved(Register::RSP, distance),
                None => registers.changed(Register::RSP),
            }
        }
        // From it to elsewhere.
        Kind::Plain | Kind::Memory { .. }
            if instruction.mnemonic() == Mnemonic::Mov
                && instruction.op0_register().full_register() != Register::RSP => {}
        _ => registers.changed(Register::RSP),
    }
    for number in (0..registers.versions.len()).filter(|&number| number != Register::RSP.number()) {
        registers.versions[number] += 1;
    }
}

/// Whether RSP, or a part of it, is an operand.
fn names_stack_pointer(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).full_register() == Register::RSP
    })
}

/// Note what the operation does to the registers.
fn follow(operation: &Operation, registers: &mut Registers, info: &mut InstructionInfoFactory) {
    let instruction = &operation.instruction;
    match operation.kind {
        Kind::Push | Kind::PushFlags | Kind::Call(_) | Kind::CallThrough | Kind::CallIndirect => {
            registers.moved(Register::RSP, -8);
        }
        Kind::PopFlags => registers.moved(Register::RSP, 8),
        Kind::ReturnThrough { release, .. } => registers.moved(Register::RSP, 8 + i64::from(release)),
        Kind::Pop => {
            registers.moved(Register::RSP, 8);
            registers.changed(instruction.op0_register());
        }
        // The pages that may be reached change with RFLAGS.AC.
        Kind::AlignmentCheck(_) => registers.versions.iter_mut().for_each(|version| *version += 1),
        Kind::Plain
        | Kind::Address
        | Kind::Memory { .. }
        | Kind::BitString(_)
        | Kind::Fill(_)
        | Kind::Copy(_)
        | Kind::ReadTime(_)
        | Kind::ReadControl
        | Kind::SegmentBase(_)
        | Kind::ReadKeyRights
        | Kind::ReadField
        | Kind::WriteField
        | Kind::ReadSelector
        | Kind::Leave => {
            if let Some(distance) = constant_move(instruction) {
                registers.moved(instruction.op0_register(), distance);
                return;
            }
            for used in info.info(instruction).used_registers() {
                let read_only = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                if !read_only {
                    registers.changed(used.register());
                }
            }
        }
        Kind::Nothing
        | Kind::ClearDirection
        | Kind::ClearInterrupt
        | Kind::SetInterrupt
        | Kind::SwapGs
        | Kind::Jump(_)
        | Kind::Branch(_)
        | Kind::Side { .. }
        | Kind::BranchIfZero(_)
        | Kind::JumpIndirect
        | Kind::Return(_)
        | Kind::SystemCall
        | Kind::SystemReturn
        | Kind::InterruptReturn
        | Kind::Interpret => {}
    }
}

/// How far the instruction moves its first operand, a 64-bit register, if it does just that.
fn constant_move(instruction: &Instruction) -> Option<i64> {
    if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let distance = match instruction.code() {
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32 => instruction.immediate(1) as i64,
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 | Code::Sub_RAX_imm32 => {
            -(instruction.immediate(1) as i64)
        }
        Code::Inc_rm64 => 1,
        Code::Dec_rm64 => -1,
        Code::Lea_r64_m
            if instruction.memory_base() == instruction.op0_register()
                && instruction.memory_index() == Register::None =>
        {
            instruction.memory_displacement64() as i64
        }
        _ => return None,
    };
    i32::try_from(distance).is_ok().then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{BLOCK_LIMIT, Classifier, Decoding, decode_block};
    use gasang_cpu::CpuModel;

    const ALONE: Check = Check::Alone { region: None };

    fn planned(code: &[u8]) -> Vec<Checks> {
        let mut classifier = Classifier::new(&CpuModel::parse("max").unwrap());
        let how = Decoding { bits: 64, user: false, non_root: false, strict_flags: false };
        let operations = decode_block(0x1000, code, BLOCK_LIMIT, how, &mut classifier);
        let info = &mut classifier.info;
        share(
            &operations,
            &collect(&operations, |operation, registers| follow(operation, registers, info)),
            false,
        )
    }

    fn planned_by_itself(code: &[u8]) -> Vec<Checks> {
        let mut classifier = Classifier::new(&CpuModel::parse("max").unwrap());
        let how = Decoding { bits: 64, user: false, non_root: false, strict_flags: false };
        share_stack(&decode_block(0x1000, code, BLOCK_LIMIT, how, &mut classifier))
    }

    #[test]
    fn a_block_by_itself_shares_on_the_stack_until_its_pointer_changes() {
        let covered = |code: &[u8]| {
            planned_by_itself(code).iter().filter(|checks| matches!(checks[0], Check::Covered { .. })).count()
        };
        assert_eq!(
            covered(&[0x53, 0x55, 0x48, 0x89, 0xe5, 0x53]),
            2,
            "push rbx; push rbp; mov rbp, rsp; push rbx"
        );
        assert_eq!(covered(&[0x53, 0x48, 0x8b, 0x24, 0x24, 0x53]), 1, "push rbx; mov rsp, [rsp]; push rbx");
        assert_eq!(covered(&[0x53, 0x89, 0xc4, 0x53]), 0, "push rbx; mov esp, eax; push rbx");
        assert_eq!(covered(&[0x53, 0x48, 0x94, 0x53]), 0, "push rbx; xchg rsp, rax; push rbx");
        assert_eq!(covered(&[0x53, 0x5c, 0x53]), 1, "push rbx; pop rsp, which is covered; push rbx");
        assert_eq!(
            covered(&[0x48, 0x8b, 0x07, 0x48, 0x8b, 0x4f, 0x08]),
            0,
            "mov rax, [rdi]; mov rcx, [rdi + 8]"
        );
    }

    #[test]
    fn a_superblock_checks_for_writing_at_once() {
        // mov rax, [rdi]; mov [rdi + 8], rax; add rdi, 16; mov rcx, [rdi]
        let code = [0x48, 0x8b, 0x07, 0x48, 0x89, 0x47, 0x08, 0x48, 0x83, 0xc7, 0x10, 0x48, 0x8b, 0x0f];
        let mut classifier = Classifier::new(&CpuModel::parse("max").unwrap());
        let how = Decoding { bits: 64, user: false, non_root: false, strict_flags: false };
        let operations = decode_block(0x1000, &code, BLOCK_LIMIT, how, &mut classifier);
        let plan = share_all(&operations, &mut classifier.info, Some(7));
        let slot = slots::shared_check(0);
        assert_eq!(
            plan[0][0],
            Check::First { slot, low: 0, span: 24, offset: 0, write: true, region: Some(39) }
        );
        assert_eq!(plan[1][0], Check::Covered { slot, offset: 8 });
        assert_eq!(plan[3][0], Check::Covered { slot, offset: 16 }, "as far on as RDI has moved");
    }

    #[test]
    fn pushes_share_the_check_of_the_first() {
        // push rbx; push rbp; sub rsp, 16; mov [rsp + 8], rax
        let plan = planned(&[0x53, 0x55, 0x48, 0x83, 0xec, 0x10, 0x48, 0x89, 0x44, 0x24, 0x08]);
        let slot = slots::shared_check(0);
        assert_eq!(
            plan[0][0],
            Check::First { slot, low: -24, span: 24, offset: -8, write: true, region: None }
        );
        assert_eq!(plan[1][0], Check::Covered { slot, offset: -16 });
        assert_eq!(plan[3][0], Check::Covered { slot, offset: -24 });
    }

    #[test]
    fn a_read_does_not_check_for_a_later_write() {
        // mov rax, [rdi]; mov [rdi + 8], rax; mov rcx, [rdi + 8]
        let plan = planned(&[0x48, 0x8b, 0x07, 0x48, 0x89, 0x47, 0x08, 0x48, 0x8b, 0x4f, 0x08]);
        assert!(matches!(plan[0][0], Check::First { low: 0, span: 16, .. }), "for the two reads");
        assert_eq!(plan[1][0], ALONE);
        assert!(matches!(plan[2][0], Check::Covered { .. }));
    }

    #[test]
    fn a_changed_register_ends_the_group() {
        // mov rax, [rdi]; inc edi; mov rcx, [rdi]
        let plan = planned(&[0x48, 0x8b, 0x07, 0xff, 0xc7, 0x48, 0x8b, 0x0f]);
        assert!(plan.iter().all(|checks| *checks == [ALONE; 2]));
    }

    #[test]
    fn spans_stay_short() {
        // mov rax, [rdi]; mov rcx, [rdi + 0x100]
        let plan = planned(&[0x48, 0x8b, 0x07, 0x48, 0x8b, 0x8f, 0x00, 0x01, 0x00, 0x00]);
        assert_eq!(plan[0][0], ALONE);
    }
}
