//! Instructions that may be something else in VMX non-root operation (SDM vol. 3, 26.1, 26.3): what is looked at before
//! they are executed as usual. What causes a VM exit, and what it tells, is `gasang_vmx`'s.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{read_operand, read_register, unchecked_linear, write_register};
use crate::system::is_control_or_debug;
use gasang_cpu::{Core, Exception, Feature, Trap};
use gasang_vmx::instructions::check_defined;
use gasang_vmx::interception::{self as intercept, MemoryInformation, PortAccess, StringAccess, information};
use gasang_x86::control::cr4;
use gasang_x86::gpr;
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::{primary, secondary};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// Executes an instruction in its own way, or lets it be executed as usual (None).
pub(crate) type Interceptor = fn(&mut Core<'_>, &Decoded) -> Result<Option<Flow>, Trap>;

const AS_USUAL: Result<Option<Flow>, Trap> = Ok(None);

/// What looks at an instruction in VMX non-root operation, if anything does.
pub(crate) fn interceptor(instruction: &Instruction) -> Option<Interceptor> {
    Some(match instruction.mnemonic() {
        Mnemonic::Cpuid => |core, _| intercept::exits(core, ExitReason::Cpuid, 0),
        Mnemonic::Hlt => |core, _| privileged(core, primary::HLT_EXITING, ExitReason::Hlt),
        Mnemonic::Rdpmc => read_performance_counter,
        Mnemonic::Rdtsc => |core, _| read_time(core, ExitReason::Rdtsc),
        Mnemonic::Rdtscp => read_time_and_processor,
        Mnemonic::Invlpg => invalidate_page,
        Mnemonic::Invpcid => invalidate_pcid,
        Mnemonic::Invd => |core, _| {
            core.check_privileged()?;
            intercept::exits(core, ExitReason::Invd, 0)
        },
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => write_back,
        Mnemonic::Xsetbv => set_extended_control,
        Mnemonic::Pause => |core, _| intercept::pause(core).map(|()| None),
        Mnemonic::Rdmsr => |core, _| access_msr(core, false),
        Mnemonic::Wrmsr => |core, _| access_msr(core, true),
        Mnemonic::In | Mnemonic::Out => access_port,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => access_port_by_string,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => access_port_by_string,
        Mnemonic::Mov if is_control_or_debug(instruction.op1_register()) => move_from_special,
        Mnemonic::Mov if is_control_or_debug(instruction.op0_register()) => move_to_special,
        Mnemonic::Clts => clear_task_switched,
        Mnemonic::Lmsw => load_machine_status,
        Mnemonic::Smsw => store_machine_status,
        Mnemonic::Rdrand | Mnemonic::Rdseed => random,
        Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Sgdt | Mnemonic::Sidt => descriptor_table,
        Mnemonic::Lldt | Mnemonic::Ltr | Mnemonic::Sldt | Mnemonic::Str => system_segment,
        Mnemonic::Xsaves | Mnemonic::Xsaves64 | Mnemonic::Xrstors | Mnemonic::Xrstors64 => extended_state,
        _ => return vmx_instruction(instruction.mnemonic()),
    })
}

/// The VMX instructions: a VM exit wherever they exist.
fn vmx_instruction(mnemonic: Mnemonic) -> Option<Interceptor> {
    Some(match mnemonic {
        Mnemonic::Vmcall => |core, decoded| bare(core, decoded, ExitReason::Vmcall),
        Mnemonic::Vmlaunch => |core, decoded| bare(core, decoded, ExitReason::Vmlaunch),
        Mnemonic::Vmresume => |core, decoded| bare(core, decoded, ExitReason::Vmresume),
        Mnemonic::Vmxoff => |core, decoded| bare(core, decoded, ExitReason::Vmxoff),
        Mnemonic::Vmclear => |core, decoded| on_memory(core, decoded, ExitReason::Vmclear, None),
        Mnemonic::Vmptrld => |core, decoded| on_memory(core, decoded, ExitReason::Vmptrld, None),
        Mnemonic::Vmptrst => |core, decoded| on_memory(core, decoded, ExitReason::Vmptrst, None),
        Mnemonic::Vmxon => |core, decoded| on_memory(core, decoded, ExitReason::Vmxon, None),
        Mnemonic::Invept => |core, decoded| on_memory(core, decoded, ExitReason::Invept, Some(0)),
        Mnemonic::Invvpid => |core, decoded| on_memory(core, decoded, ExitReason::Invvpid, Some(0)),
        Mnemonic::Vmread => |core, decoded| on_field(core, decoded, ExitReason::Vmread),
        Mnemonic::Vmwrite => |core, decoded| on_field(core, decoded, ExitReason::Vmwrite),
        _ => return None,
    })
}

fn undefined<T>() -> Result<T, Trap> {
    Err(Exception::invalid_opcode().into())
}

/// A privileged instruction that one primary control intercepts.
fn privileged(core: &mut Core<'_>, control: u32, reason: ExitReason) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    if intercept::primary(core, control) { intercept::exits(core, reason, 0) } else { AS_USUAL }
}

/// A register's number as the exits tell it.
fn number(register: Register) -> usize {
    register.full_register().number()
}

/// The displacement of the memory operand, as exit qualifications tell it: with RIP as base, the address.
fn displacement(instruction: &Instruction) -> u64 {
    let displacement = instruction.memory_displacement64();
    match instruction.memory_displ_size() {
        // iced sign-extends to the size of the address.
        _ if instruction.memory_base().is_ip() => displacement,
        1 | 2 | 4 if decoded_address_bits(instruction) == 32 => i64::from(displacement as i32) as u64,
        1 | 2 if decoded_address_bits(instruction) == 16 => i64::from(displacement as i16) as u64,
        _ => displacement,
    }
}

fn decoded_address_bits(instruction: &Instruction) -> u32 {
    let base = if instruction.memory_base() == Register::None {
        instruction.memory_index()
    } else {
        instruction.memory_base()
    };
    match (base.size(), instruction.memory_displ_size()) {
        (2, _) | (0, 2) => 16,
        (4, _) | (0, 4) => 32,
        (8, _) | (0, 8) => 64,
        _ => 32,
    }
}

/// The memory operand as the exits tell it.
fn memory(core: &Core<'_>, decoded: &Decoded) -> u32 {
    let instruction = &decoded.instruction;
    let register =
        |register: Register| (register != Register::None && !register.is_ip()).then(|| number(register));
    let size = instruction.memory_base().size().max(instruction.memory_index().size());
    let address_bits = match size {
        2 => 16,
        4 => 32,
        8 => 64,
        _ => core.state.code_bits(),
    };
    MemoryInformation {
        scaling: instruction.memory_index_scale().trailing_zeros(),
        address_bits,
        segment: decoded.memory.segment,
        index: register(instruction.memory_index()),
        base: register(instruction.memory_base()),
    }
    .bits()
}

/// The linear address of the memory operand, whatever is wrong with it.
fn linear(core: &Core<'_>, decoded: &Decoded) -> u64 {
    let offset = decoded.memory.offset(core.state);
    unchecked_linear(core, decoded.memory.segment, offset)
}

fn bare(core: &mut Core<'_>, _: &Decoded, reason: ExitReason) -> Result<Option<Flow>, Trap> {
    if reason != ExitReason::Vmcall {
        check_defined(core)?;
    }
    intercept::exits(core, reason, 0)
}

/// A VMX instruction with a memory operand and perhaps a register, which operand that is.
fn on_memory(
    core: &mut Core<'_>,
    decoded: &Decoded,
    reason: ExitReason,
    register: Option<u32>,
) -> Result<Option<Flow>, Trap> {
    check_defined(core)?;
    let second = register.map_or(0, |operand| number(decoded.instruction.op_register(operand)) as u32);
    let told = memory(core, decoded) | second << information::REGISTER2_SHIFT;
    intercept::exits_with(core, reason, displacement(&decoded.instruction), told)
}

/// VMREAD and VMWRITE: a field's encoding in a register, and the value in a register or memory.
fn on_field(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason) -> Result<Option<Flow>, Trap> {
    check_defined(core)?;
    let instruction = &decoded.instruction;
    let (value, encoding) = if reason == ExitReason::Vmread { (0, 1) } else { (1, 0) };
    let second = (number(instruction.op_register(encoding)) as u32) << information::REGISTER2_SHIFT;
    if instruction.op_kind(value) == OpKind::Register {
        let first = (number(instruction.op_register(value)) as u32) << information::REGISTER1_SHIFT;
        return intercept::exits_with(core, reason, 0, information::REGISTER | first | second);
    }
    let told = memory(core, decoded) | second;
    intercept::exits_with(core, reason, displacement(instruction), told)
}

fn read_performance_counter(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    if core.state.cr4 & cr4::PCE == 0 {
        core.check_privileged()?;
    }
    if !intercept::primary(core, primary::RDPMC_EXITING) {
        return AS_USUAL;
    }
    intercept::exits(core, ExitReason::Rdpmc, 0)
}

fn read_time(core: &mut Core<'_>, reason: ExitReason) -> Result<Option<Flow>, Trap> {
    if core.state.cr4 & cr4::TSD != 0 {
        core.check_privileged()?;
    }
    if !intercept::primary(core, primary::RDTSC_EXITING) {
        return AS_USUAL;
    }
    intercept::exits(core, reason, 0)
}

fn read_time_and_processor(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    if !core.model.has(Feature::Rdtscp) || !intercept::secondary(core, secondary::ENABLE_RDTSCP) {
        return undefined();
    }
    read_time(core, ExitReason::Rdtscp)
}

fn invalidate_page(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    if !intercept::primary(core, primary::INVLPG_EXITING) {
        return AS_USUAL;
    }
    let address = linear(core, decoded);
    intercept::exits(core, ExitReason::Invlpg, address)
}

fn invalidate_pcid(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    if !core.model.has(Feature::Invpcid) || !intercept::secondary(core, secondary::ENABLE_INVPCID) {
        return undefined();
    }
    core.check_privileged()?;
    if !intercept::primary(core, primary::INVLPG_EXITING) {
        return AS_USUAL;
    }
    let kind = number(decoded.instruction.op0_register()) as u32;
    let told = memory(core, decoded) | kind << information::REGISTER2_SHIFT;
    intercept::exits_with(core, ExitReason::Invpcid, displacement(&decoded.instruction), told)
}

fn write_back(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    if !intercept::secondary(core, secondary::WBINVD_EXITING) {
        return AS_USUAL;
    }
    intercept::exits(core, ExitReason::Wbinvd, 0)
}

fn set_extended_control(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    if core.state.cr4 & cr4::OSXSAVE == 0 {
        return undefined();
    }
    core.check_privileged()?;
    intercept::exits(core, ExitReason::Xsetbv, 0)
}

fn access_msr(core: &mut Core<'_>, write: bool) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    intercept::msr(core, write).map(|()| None)
}

fn access_port(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let instruction = &decoded.instruction;
    let input = instruction.mnemonic() == Mnemonic::In;
    let (port_operand, register) =
        if input { (1, instruction.op0_register()) } else { (0, instruction.op1_register()) };
    let immediate = instruction.op_kind(port_operand) != OpKind::Register;
    let port = if immediate { u16::from(instruction.immediate8()) } else { core.state.gpr[gpr::RDX] as u16 };
    let size = register.size() as u8;
    core.check_io(port, size)?;
    intercept::io(core, &PortAccess { port, size, input, immediate, string: None }).map(|()| None)
}

fn access_port_by_string(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let instruction = &decoded.instruction;
    let port = core.state.gpr[gpr::RDX] as u16;
    let size = instruction.memory_size().size() as u8;
    core.check_io(port, size)?;
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let input = matches!(instruction.mnemonic(), Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd);
    let operand = instruction.op_kind(if input { 0 } else { 1 });
    let address_bits = match operand {
        OpKind::MemorySegSI | OpKind::MemoryESDI => 16,
        OpKind::MemorySegESI | OpKind::MemoryESEDI => 32,
        _ => 64,
    };
    let within = |value: u64| if address_bits == 64 { value } else { value & ((1 << address_bits) - 1) };
    if repeated && within(core.state.gpr[gpr::RCX]) == 0 {
        return AS_USUAL;
    }
    let segment = if input { gasang_x86::segment::ES } else { decoded.memory.segment };
    let offset = within(core.state.gpr[if input { gpr::RDI } else { gpr::RSI }]);
    let string =
        StringAccess { repeated, linear: unchecked_linear(core, segment, offset), address_bits, segment };
    let access = PortAccess { port, size, input, immediate: false, string: Some(string) };
    intercept::io(core, &access).map(|()| None)
}

fn move_from_special(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let instruction = &decoded.instruction;
    let (special, register) = (instruction.op1_register(), instruction.op0_register());
    if special.is_dr() {
        return intercept::mov_dr(core, special.number(), number(register), true).map(|()| None);
    }
    if !matches!(special.number(), 0 | 3 | 4 | 8) {
        return AS_USUAL;
    }
    core.check_privileged()?;
    let Some(value) = intercept::read_cr(core, special.number(), number(register))? else { return AS_USUAL };
    write_register(core.state, register, value);
    Ok(Some(Flow::Next))
}

fn move_to_special(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let instruction = &decoded.instruction;
    let (special, register) = (instruction.op0_register(), instruction.op1_register());
    if special.is_dr() {
        return intercept::mov_dr(core, special.number(), number(register), false).map(|()| None);
    }
    if !matches!(special.number(), 0 | 3 | 4 | 8) {
        return AS_USUAL;
    }
    core.check_privileged()?;
    let value = read_register(core.state, register);
    match intercept::write_cr(core, special.number(), number(register), value)? {
        Some(value) => {
            core.write_cr(special.number(), value)?;
            Ok(Some(Flow::Next))
        }
        None => {
            let rip = std::mem::replace(&mut core.state.rip, decoded.next);
            intercept::check_task_priority(core)?;
            core.state.rip = rip;
            Ok(Some(Flow::Next))
        }
    }
}

fn clear_task_switched(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    if intercept::clts(core)? { AS_USUAL } else { Ok(Some(Flow::Next)) }
}

fn load_machine_status(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    core.check_privileged()?;
    let from_memory = decoded.instruction.op0_kind() == OpKind::Memory;
    let source = read_operand(core, &decoded.instruction, &decoded.memory, 0, 2)? as u16;
    let address = from_memory.then(|| linear(core, decoded));
    let value = intercept::lmsw(core, source, address)?;
    core.lmsw(value)?;
    Ok(Some(Flow::Next))
}

fn store_machine_status(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    core.check_umip()?;
    let value = intercept::visible_cr0(core);
    crate::descriptor::store_word(core, decoded, value).map(Some)
}

fn random(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let register = decoded.instruction.op0_register();
    let seed = decoded.instruction.mnemonic() == Mnemonic::Rdseed;
    let (control, reason) = if seed {
        (secondary::RDSEED_EXITING, ExitReason::Rdseed)
    } else {
        (secondary::RDRAND_EXITING, ExitReason::Rdrand)
    };
    if !intercept::secondary(core, control) {
        return AS_USUAL;
    }
    let size = register.size().trailing_zeros() - 1;
    let told =
        (number(register) as u32) << information::REGISTER1_SHIFT | size << information::OPERAND_SIZE_SHIFT;
    intercept::exits_with(core, reason, 0, told)
}

/// SGDT, SIDT, LGDT, LIDT.
fn descriptor_table(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    let (identity, load) = match decoded.instruction.mnemonic() {
        Mnemonic::Sgdt => (0, false),
        Mnemonic::Sidt => (1, false),
        Mnemonic::Lgdt => (2, true),
        _ => (3, true),
    };
    if load {
        core.check_privileged()?
    } else {
        core.check_umip()?
    }
    if !intercept::secondary(core, secondary::DESCRIPTOR_TABLE_EXITING) {
        return AS_USUAL;
    }
    let narrow = matches!(
        decoded.instruction.code(),
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16
    );
    let size = if narrow { 0 } else { information::OPERAND_32BIT };
    let told = memory(core, decoded) | size | identity << information::IDENTITY_SHIFT;
    let qualification = displacement(&decoded.instruction);
    intercept::exits_with(core, ExitReason::GdtrOrIdtrAccess, qualification, told)
}

/// SLDT, STR, LLDT, LTR.
fn system_segment(core: &mut Core<'_>, decoded: &Decoded) -> Result<Option<Flow>, Trap> {
    if core.state.real_or_virtual_8086() {
        return undefined();
    }
    let (identity, load) = match decoded.instruction.mnemonic() {
        Mnemonic::Sldt => (0, false),
        Mnemonic::Str => (1, false),
        Mnemonic::Lldt => (2, true),
        _ => (3, true),
    };
    if load {
        core.check_privileged()?
    } else {
        core.check_umip()?
    }
    if !intercept::secondary(core, secondary::DESCRIPTOR_TABLE_EXITING) {
        return AS_USUAL;
    }
    let instruction = &decoded.instruction;
    let (qualification, operand) = if instruction.op0_kind() == OpKind::Register {
        let register = (number(instruction.op0_register()) as u32) << information::REGISTER1_SHIFT;
        (0, information::REGISTER | register)
    } else {
        (displacement(instruction), memory(core, decoded))
    };
    let told = operand | identity << information::IDENTITY_SHIFT;
    intercept::exits_with(core, ExitReason::LdtrOrTrAccess, qualification, told)
}

/// XSAVES and XRSTORS, which do not exist unless they are enabled. What the XSS-exiting bitmap could intercept are
/// supervisor components, which this processor does not have.
fn extended_state(core: &mut Core<'_>, _: &Decoded) -> Result<Option<Flow>, Trap> {
    if intercept::secondary(core, secondary::ENABLE_XSAVES) { AS_USUAL } else { undefined() }
}
