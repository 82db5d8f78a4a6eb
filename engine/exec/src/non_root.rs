//! Instructions that may be something else in VMX non-root operation (SDM vol. 3, 26.1, 26.3): their operands, before they
//! are executed as usual. What causes a VM exit, and what it tells, is `gasang_vmx`'s.

use crate::decode::Decoded;
use crate::extended::components;
use crate::flow::Flow;
use crate::operand::{read_operand, read_register, sign_extend, unchecked_linear, write_register};
use crate::stub::gpr_number;
use crate::system::is_control_or_debug;
use gasang_cpu::{Core, Trap};
use gasang_vmx::intercept::{self, CrAccess, Memory, Operand, PortAccess, StringAccess, TableInstruction};
use gasang_x86::vmx::ExitReason;
use gasang_x86::{gpr, segment};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// Executes an instruction in its own way, or lets it be executed as usual (None).
pub(crate) type Interceptor = fn(&mut Core<'_>, &Decoded) -> Intercepted;
type Intercepted = Result<Option<Flow>, Trap>;

const AS_USUAL: Intercepted = Ok(None);
const DONE: Intercepted = Ok(Some(Flow::Next));

/// What looks at an instruction in VMX non-root operation, if anything does.
pub(crate) fn interceptor(instruction: &Instruction) -> Option<Interceptor> {
    Some(match instruction.mnemonic() {
        Mnemonic::Cpuid => |core, _| plain(core, ExitReason::Cpuid),
        Mnemonic::Hlt => |core, _| plain(core, ExitReason::Hlt),
        Mnemonic::Rdpmc => |core, _| plain(core, ExitReason::Rdpmc),
        Mnemonic::Rdtsc => |core, _| plain(core, ExitReason::Rdtsc),
        Mnemonic::Rdtscp => |core, _| plain(core, ExitReason::Rdtscp),
        Mnemonic::Invd => |core, _| plain(core, ExitReason::Invd),
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => |core, _| plain(core, ExitReason::Wbinvd),
        Mnemonic::Xsetbv => |core, _| plain(core, ExitReason::Xsetbv),
        Mnemonic::Vmcall => |core, _| plain(core, ExitReason::Vmcall),
        Mnemonic::Invlpg => invalidate_page,
        Mnemonic::Invpcid => invalidate_pcid,
        Mnemonic::Pause => |core, _| intercept::pause(core).map(as_usual),
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
        Mnemonic::Rdrand => |core, decoded| random(core, decoded, ExitReason::Rdrand),
        Mnemonic::Rdseed => |core, decoded| random(core, decoded, ExitReason::Rdseed),
        Mnemonic::Sgdt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Sgdt),
        Mnemonic::Sidt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Sidt),
        Mnemonic::Lgdt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Lgdt),
        Mnemonic::Lidt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Lidt),
        Mnemonic::Sldt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Sldt),
        Mnemonic::Str => |core, decoded| descriptor_table(core, decoded, TableInstruction::Str),
        Mnemonic::Lldt => |core, decoded| descriptor_table(core, decoded, TableInstruction::Lldt),
        Mnemonic::Ltr => |core, decoded| descriptor_table(core, decoded, TableInstruction::Ltr),
        Mnemonic::Xsaves | Mnemonic::Xsaves64 => {
            |core, decoded| extended_state(core, decoded, ExitReason::Xsaves)
        }
        Mnemonic::Xrstors | Mnemonic::Xrstors64 => {
            |core, decoded| extended_state(core, decoded, ExitReason::Xrstors)
        }
        Mnemonic::Vmlaunch => |core, _| intercept::vmx_instruction(core, ExitReason::Vmlaunch, None, 0),
        Mnemonic::Vmresume => |core, _| intercept::vmx_instruction(core, ExitReason::Vmresume, None, 0),
        Mnemonic::Vmxoff => |core, _| intercept::vmx_instruction(core, ExitReason::Vmxoff, None, 0),
        Mnemonic::Vmclear => |core, decoded| on_memory(core, decoded, ExitReason::Vmclear),
        Mnemonic::Vmptrld => |core, decoded| on_memory(core, decoded, ExitReason::Vmptrld),
        Mnemonic::Vmptrst => |core, decoded| on_memory(core, decoded, ExitReason::Vmptrst),
        Mnemonic::Vmxon => |core, decoded| on_memory(core, decoded, ExitReason::Vmxon),
        Mnemonic::Vmread => |core, decoded| access_vmcs(core, decoded, ExitReason::Vmread, 1),
        Mnemonic::Vmwrite => |core, decoded| access_vmcs(core, decoded, ExitReason::Vmwrite, 0),
        Mnemonic::Invept => |core, decoded| with_register(core, decoded, ExitReason::Invept, 0),
        Mnemonic::Invvpid => |core, decoded| with_register(core, decoded, ExitReason::Invvpid, 0),
        _ => return None,
    })
}

fn as_usual(_: ()) -> Option<Flow> {
    None
}

/// An instruction of which nothing but itself is told.
fn plain(core: &mut Core<'_>, reason: ExitReason) -> Intercepted {
    intercept::instruction(core, reason, 0).map(as_usual)
}

/// A register's number as the exits tell it.
fn number(register: Register) -> u8 {
    gpr_number(register).unwrap_or(0) as u8
}

/// The memory operand as the exits tell it.
fn memory(decoded: &Decoded) -> Memory {
    let instruction = &decoded.instruction;
    let register = |register| gpr_number(register).map(|number| number as u8);
    let address_bits = decoded.memory.mask.count_ones();
    let displacement = instruction.memory_displacement64();
    Memory {
        address_bits,
        segment: decoded.memory.segment,
        base: register(instruction.memory_base()),
        index: register(instruction.memory_index()),
        scale: instruction.memory_index_scale(),
        displacement: if instruction.is_ip_rel_memory_operand() {
            displacement
        } else {
            sign_extend(displacement, address_bits as usize / 8)
        },
    }
}

/// Operand `index`, a register or memory.
fn operand(decoded: &Decoded, index: u32) -> Operand {
    let instruction = &decoded.instruction;
    if instruction.op_kind(index) == OpKind::Register {
        Operand::Register(number(instruction.op_register(index)))
    } else {
        Operand::Memory(memory(decoded))
    }
}

/// The linear address of the memory operand, whatever is wrong with it.
fn linear(core: &Core<'_>, decoded: &Decoded) -> u64 {
    unchecked_linear(core, decoded.memory.segment, decoded.memory.offset(core.state))
}

/// A VMX instruction with a memory operand.
fn on_memory(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason) -> Intercepted {
    intercept::vmx_instruction(core, reason, Some(&operand(decoded, 0)), 0)
}

/// A VMX instruction with an operand that is told, and a register: operand `register` of the two.
fn with_register(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason, register: u32) -> Intercepted {
    let told = operand(decoded, 1 - register);
    let register = number(decoded.instruction.op_register(register));
    intercept::vmx_instruction(core, reason, Some(&told), register)
}

/// VMREAD and VMWRITE; operand `encoding` names the field.
fn access_vmcs(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason, encoding: u32) -> Intercepted {
    let told = operand(decoded, 1 - encoding);
    let register = decoded.instruction.op_register(encoding);
    let field = read_register(core.state, register);
    intercept::vmcs_access(core, reason, &told, number(register), field).map(as_usual)
}

fn invalidate_page(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let address = linear(core, decoded);
    intercept::instruction(core, ExitReason::Invlpg, address).map(as_usual)
}

fn invalidate_pcid(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let kind = number(decoded.instruction.op0_register());
    intercept::invpcid(core, &operand(decoded, 1), kind).map(as_usual)
}

fn access_msr(core: &mut Core<'_>, write: bool) -> Intercepted {
    core.check_privileged()?;
    let index = core.state.gpr[gpr::RCX] as u32;
    intercept::msr(core, index, write).map(as_usual)
}

fn access_port(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let instruction = &decoded.instruction;
    let input = instruction.mnemonic() == Mnemonic::In;
    let (port_operand, register) =
        if input { (1, instruction.op0_register()) } else { (0, instruction.op1_register()) };
    let immediate = instruction.op_kind(port_operand) != OpKind::Register;
    let port = if immediate { u16::from(instruction.immediate8()) } else { core.state.gpr[gpr::RDX] as u16 };
    let size = register.size() as u8;
    core.check_io(port, size)?;
    intercept::port(core, &PortAccess { port, size, input, immediate, string: None }).map(as_usual)
}

fn access_port_by_string(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
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
    let segment = if input { segment::ES } else { decoded.memory.segment };
    let offset = within(core.state.gpr[if input { gpr::RDI } else { gpr::RSI }]);
    let string =
        StringAccess { repeated, linear: unchecked_linear(core, segment, offset), address_bits, segment };
    let access = PortAccess { port, size, input, immediate: false, string: Some(string) };
    intercept::port(core, &access).map(as_usual)
}

/// The access to a control register that VMX has something to say to.
fn cr_access(special: Register, register: Register) -> Option<CrAccess> {
    let access = CrAccess { number: special.number(), register: number(register) };
    (special.is_cr() && matches!(access.number, 0 | 3 | 4 | 8)).then_some(access)
}

fn move_from_special(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let (special, register) = (decoded.instruction.op1_register(), decoded.instruction.op0_register());
    if special.is_dr() {
        return intercept::mov_dr(core, special.number(), number(register), true).map(as_usual);
    }
    let Some(access) = cr_access(special, register) else { return AS_USUAL };
    core.check_privileged()?;
    intercept::mov_from_cr(core, access)?;
    let value = match access.number {
        0 => Some(intercept::read_cr0(core.state)),
        4 => Some(intercept::read_cr4(core.state)),
        8 => intercept::read_shadowed_cr8(core),
        _ => None,
    };
    let Some(value) = value else { return AS_USUAL };
    write_register(core.state, register, value);
    DONE
}

fn move_to_special(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let (special, register) = (decoded.instruction.op0_register(), decoded.instruction.op1_register());
    if special.is_dr() {
        return intercept::mov_dr(core, special.number(), number(register), false).map(as_usual);
    }
    let Some(access) = cr_access(special, register) else { return AS_USUAL };
    core.check_privileged()?;
    let value = read_register(core.state, register);
    intercept::mov_to_cr(core, access, value)?;
    let value = match access.number {
        0 => intercept::written_cr0(core.state, value),
        4 => intercept::written_cr4(core.state, value),
        8 if value < 16 && intercept::write_shadowed_cr8(core, value) => {
            return task_priority_written(core, decoded);
        }
        _ => value,
    };
    core.write_cr(access.number, value)?;
    DONE
}

/// Below the threshold a VM exit follows, like a trap.
fn task_priority_written(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    let Some(exit) = intercept::below_threshold(core) else { return DONE };
    core.state.rip = decoded.next;
    Err(core.state.exit(exit))
}

fn clear_task_switched(core: &mut Core<'_>, _: &Decoded) -> Intercepted {
    core.check_privileged()?;
    intercept::clts(core)?;
    if intercept::clts_clears(core.state) { AS_USUAL } else { DONE }
}

fn load_machine_status(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    core.check_privileged()?;
    let from_memory = decoded.instruction.op0_kind() == OpKind::Memory;
    let source = read_operand(core, &decoded.instruction, &decoded.memory, 0, 2)? as u16;
    let address = from_memory.then(|| linear(core, decoded));
    intercept::lmsw(core, source, address)?;
    core.lmsw(intercept::written_cr0(core.state, source.into()) as u16)?;
    DONE
}

fn store_machine_status(core: &mut Core<'_>, decoded: &Decoded) -> Intercepted {
    core.check_umip()?;
    let value = intercept::read_cr0(core.state);
    crate::descriptor::store_word(core, decoded, value).map(Some)
}

fn random(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason) -> Intercepted {
    let register = decoded.instruction.op0_register();
    intercept::random(core, reason, number(register), register.size() as u32 * 8).map(as_usual)
}

fn descriptor_table(core: &mut Core<'_>, decoded: &Decoded, what: TableInstruction) -> Intercepted {
    let narrow = matches!(
        decoded.instruction.code(),
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16
    );
    let operand_bits = if narrow { 16 } else { 32 };
    intercept::descriptor_table(core, what, &operand(decoded, 0), operand_bits).map(as_usual)
}

fn extended_state(core: &mut Core<'_>, decoded: &Decoded, reason: ExitReason) -> Intercepted {
    let requested = components(core);
    intercept::xsaves(core, reason, requested, &memory(decoded)).map(as_usual)
}
