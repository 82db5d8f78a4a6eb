//! Arithmetic: the host executes the same operation on the operands and the guest's status flags.

use crate::direct::operands::Place;
use crate::direct::{Execution, Flow};
use gasang_x86::{gpr, rflags};
use std::arch::asm;
use std::sync::LazyLock;

/// Two operands and status flags as in `Packed`, to a result and status flags.
type Operation = fn(u64, u64, u16) -> (u64, u16);

/// An operation for each operand size: 1, 2, 4 and 8 bytes.
type BySize = [Operation; 4];

/// Status flags in AX: AH as LAHF leaves it, OF in AL.
fn packed(flags: u64) -> u16 {
    ((flags & 0xd5 | 2) << 8 | flags >> 11 & 1) as u16
}

fn unpacked(packed: u16) -> u64 {
    u64::from(packed >> 8 & 0xd5) | u64::from(packed & 1) << 11
}

/// A function that has the host execute an instruction of two operands, the first of which is its result.
macro_rules! operation {
    ($text:literal, $type:ty, $class:ident, $first:literal, $second:literal) => {
        |first, second, flags| {
            let (mut result, mut flags) = (first as $type, flags);
            // SAFETY: computes on registers only: the flags are loaded from AX, the instruction executed, the flags
            // stored to AX.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    concat!($text, " ", $first, $second),
                    "lahf",
                    "seto al",
                    first = inout($class) result,
                    second = in($class) second as $type,
                    inout("ax") flags,
                    options(pure, nomem, nostack),
                );
            }
            (result as u64, flags)
        }
    };
}

/// An instruction of two operands of the same size.
macro_rules! binary {
    ($text:literal) => {
        [
            operation!($text, u8, reg_byte, "{first}", ", {second}"),
            operation!($text, u16, reg, "{first:x}", ", {second:x}"),
            operation!($text, u32, reg, "{first:e}", ", {second:e}"),
            operation!($text, u64, reg, "{first:r}", ", {second:r}"),
        ]
    };
}

/// An instruction that there is not for bytes: what is in the place of that is not used.
macro_rules! binary_without_bytes {
    ($text:literal) => {
        [
            |first, _, flags| (first, flags),
            operation!($text, u16, reg, "{first:x}", ", {second:x}"),
            operation!($text, u32, reg, "{first:e}", ", {second:e}"),
            operation!($text, u64, reg, "{first:r}", ", {second:r}"),
        ]
    };
}

/// As `operation`, by CL or of one operand.
macro_rules! counted_operation {
    ($text:literal, $type:ty, $class:ident, $first:literal, $count:literal) => {
        |first, count, flags| {
            let (mut result, mut flags) = (first as $type, flags);
            // SAFETY: as in `operation`.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    concat!($text, " ", $first, $count),
                    "lahf",
                    "seto al",
                    first = inout($class) result,
                    in("cl") count as u8,
                    inout("ax") flags,
                    options(pure, nomem, nostack),
                );
            }
            (result as u64, flags)
        }
    };
}

macro_rules! counted {
    ($text:literal, $count:literal) => {
        [
            counted_operation!($text, u8, reg_byte, "{first}", $count),
            counted_operation!($text, u16, reg, "{first:x}", $count),
            counted_operation!($text, u32, reg, "{first:e}", $count),
            counted_operation!($text, u64, reg, "{first:r}", $count),
        ]
    };
}

/// By bits 5:3 of the opcode, or of the ModRM byte of opcodes 80, 81 and 83.
static BINARY: [BySize; 8] = [
    binary!("add"),
    binary!("or"),
    binary!("adc"),
    binary!("sbb"),
    binary!("and"),
    binary!("sub"),
    binary!("xor"),
    binary!("cmp"),
];

/// The number of CMP, which does not write its result.
const CMP: usize = 7;

/// By bits 5:3 of the ModRM byte of opcodes C0, C1 and D0 to D3. Number 6 is not used.
static SHIFTS: [BySize; 8] = [
    counted!("rol", ", cl"),
    counted!("ror", ", cl"),
    counted!("rcl", ", cl"),
    counted!("rcr", ", cl"),
    counted!("shl", ", cl"),
    counted!("shr", ", cl"),
    counted!("shl", ", cl"),
    counted!("sar", ", cl"),
];

/// ROL and ROR have numbers up to this.
const ROR: usize = 1;

/// Whether ROL and ROR of a register by an immediate that is not 1 leave OF alone, as on processors of Intel's: the
/// manual has it undefined, and those of AMD compute it, as all do in memory and by CL. The tiers do what the host does.
static KEEPS_OVERFLOW: LazyLock<bool> = LazyLock::new(|| {
    let overflow: u8;
    // SAFETY: computes on registers only. 1 rotated right by two has its top bits unlike, which OF, clear before, is.
    unsafe {
        asm!("xor {value:e}, {value:e}", "inc {value:e}", "ror {value:e}, 2", "seto {overflow}",
            value = out(reg) _, overflow = out(reg_byte) overflow, options(pure, nomem, nostack));
    }
    overflow == 0
});

/// By bits 4:3 of the opcode's second byte, or bits 4:3 of the ModRM byte of opcode 0F BA.
static BIT_TESTS: [BySize; 4] = [
    binary_without_bytes!("bt"),
    binary_without_bytes!("bts"),
    binary_without_bytes!("btr"),
    binary_without_bytes!("btc"),
];

static TEST: BySize = binary!("test");
static INC: BySize = counted!("inc", "");
static DEC: BySize = counted!("dec", "");
static NEG: BySize = counted!("neg", "");
static IMUL: BySize = binary_without_bytes!("imul");

/// MUL or IMUL of RAX with one operand, and where the halves of the product go.
macro_rules! wide_product {
    ($text:literal, $type:ty, $accumulator:literal, $factor:literal) => {
        |first, second, flags| {
            let (low, high): (u64, u64);
            let mut flags = flags;
            // SAFETY: as in `operation`; RAX is taken for the product between the loads and stores of the flags.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    "mov rax, {first}",
                    concat!($text, " ", $factor),
                    "mov {first}, rax",
                    "lahf",
                    "seto al",
                    first = inout(reg) first => low,
                    factor = in(reg) second,
                    inout("ax") flags,
                    inout("rdx") 0u64 => high,
                    options(pure, nomem, nostack),
                );
            }
            (low, high, flags)
        }
    };
}

/// Accumulator and factor to the low and high half of the product.
type Product = fn(u64, u64, u16) -> (u64, u64, u16);

static MUL: [Product; 3] = [
    wide_product!("mul", u16, "ax", "{factor:x}"),
    wide_product!("mul", u32, "eax", "{factor:e}"),
    wide_product!("mul", u64, "rax", "{factor:r}"),
];

static SIGNED_MUL: [Product; 3] = [
    wide_product!("imul", u16, "ax", "{factor:x}"),
    wide_product!("imul", u32, "eax", "{factor:e}"),
    wide_product!("imul", u64, "rax", "{factor:r}"),
];

/// Index by operand size.
#[inline]
fn by_size(size: usize) -> usize {
    size.trailing_zeros() as usize & 3
}

impl Execution<'_, '_> {
    /// Compute, and set the status flags.
    #[inline]
    fn compute(&mut self, operation: &BySize, size: usize, first: u64, second: u64) -> u64 {
        let flags = packed(self.core.state.rflags);
        let (result, flags) = operation[by_size(size)](first, second, flags);
        self.set_status(unpacked(flags));
        result
    }

    /// Opcodes 00 to 3D whose low bits are 0 to 5: the operation in bits 5:3, the operands in the rest.
    pub(super) fn binary(&mut self, opcode: u8) -> Option<Flow> {
        let (number, size) = (usize::from(opcode >> 3), self.size_of(opcode));
        match opcode & 7 {
            0 | 1 => {
                let (register, place) = self.modrm(0);
                let second = self.register(register, size);
                self.binary_to(number, size, place, second)?;
            }
            2 | 3 => {
                let (register, place) = self.modrm(0);
                let second = self.read(place, size)?;
                self.binary_to(number, size, Place::Register(register), second)?;
            }
            _ => {
                let second = self.immediate(size);
                self.binary_to(number, size, Place::Register(gpr::RAX), second)?;
            }
        }
        Some(Flow::Next)
    }

    /// Opcodes 80, 81 and 83.
    pub(super) fn binary_immediate(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let immediate = if opcode == 0x83 { 1 } else { size };
        let (number, place) = self.modrm(Self::immediate_size(immediate));
        let second = self.immediate(immediate);
        self.binary_to(number & 7, size, place, second)?;
        Some(Flow::Next)
    }

    #[inline]
    fn binary_to(&mut self, number: usize, size: usize, place: Place, second: u64) -> Option<()> {
        if number == CMP {
            let first = self.read(place, size)?;
            self.compute(&BINARY[CMP], size, first, second);
        } else {
            let (target, first) = self.target(place, size)?;
            let result = self.compute(&BINARY[number & 7], size, first, second);
            self.set(target, size, result);
        }
        Some(())
    }

    /// TEST of r/m and a register, 84 and 85.
    pub(super) fn test(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let (register, place) = self.modrm(0);
        let first = self.read(place, size)?;
        let second = self.register(register, size);
        self.compute(&TEST, size, first, second);
        Some(Flow::Next)
    }

    /// TEST of the accumulator and an immediate, A8 and A9.
    pub(super) fn test_accumulator(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let second = self.immediate(size);
        let first = self.register(gpr::RAX, size);
        self.compute(&TEST, size, first, second);
        Some(Flow::Next)
    }

    /// Opcodes F6 and F7, but for DIV and IDIV.
    pub(super) fn unary(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        // Only TEST has an immediate.
        let is_test = self.bytes.peek() & 0x38 == 0;
        let (number, place) = self.modrm(if is_test { Self::immediate_size(size) } else { 0 });
        match number & 7 {
            0 => {
                let second = self.immediate(size);
                let first = self.read(place, size)?;
                self.compute(&TEST, size, first, second);
            }
            2 => {
                let (target, value) = self.target(place, size)?;
                self.set(target, size, !value);
            }
            3 => self.change(&NEG, place, size)?,
            4 => self.multiply(&MUL, place, size)?,
            5 => self.multiply(&SIGNED_MUL, place, size)?,
            _ => return None,
        }
        Some(Flow::Next)
    }

    /// INC, number 0, or DEC.
    pub(super) fn step(&mut self, number: usize, place: Place, size: usize) -> Option<Flow> {
        self.change(if number == 0 { &INC } else { &DEC }, place, size)?;
        Some(Flow::Next)
    }

    /// An operation of one operand.
    fn change(&mut self, operation: &BySize, place: Place, size: usize) -> Option<()> {
        let (target, value) = self.target(place, size)?;
        let result = self.compute(operation, size, value, 0);
        self.set(target, size, result);
        Some(())
    }

    fn multiply(&mut self, products: &[Product; 3], place: Place, size: usize) -> Option<()> {
        let index = by_size(size).checked_sub(1)?;
        let factor = self.read(place, size)?;
        let flags = packed(self.core.state.rflags);
        let (low, high, flags) = products[index](self.core.state.gpr[gpr::RAX], factor, flags);
        self.set_register(gpr::RAX, size, low);
        self.set_register(gpr::RDX, size, high);
        self.set_status(unpacked(flags));
        Some(())
    }

    /// IMUL of r/m and an immediate, 69 and 6B.
    pub(super) fn multiply_immediate(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size;
        let immediate = if opcode == 0x6b { 1 } else { size };
        let (register, place) = self.modrm(Self::immediate_size(immediate));
        let second = self.immediate(immediate);
        let first = self.read(place, size)?;
        let result = self.compute(&IMUL, size, first, second);
        self.set_register(register, size, result);
        Some(Flow::Next)
    }

    /// IMUL of a register and r/m, 0F AF.
    pub(super) fn multiply_register(&mut self) -> Option<Flow> {
        let size = self.size;
        let (register, place) = self.modrm(0);
        let second = self.read(place, size)?;
        let first = self.register(register, size);
        let result = self.compute(&IMUL, size, first, second);
        self.set_register(register, size, result);
        Some(Flow::Next)
    }

    /// Opcodes C0, C1 and D0 to D3.
    pub(super) fn shift(&mut self, opcode: u8) -> Option<Flow> {
        let size = self.size_of(opcode);
        let (number, place) = self.modrm(u64::from(opcode < 0xd0));
        let count = match opcode {
            0xc0 | 0xc1 => self.bytes.short(),
            0xd0 | 0xd1 => 1,
            _ => self.core.state.gpr[gpr::RCX],
        };
        if number & 7 == 6 {
            return None;
        }
        let (target, value) = self.target(place, size)?;
        let overflow = self.core.state.rflags & rflags::OF;
        let result = self.compute(&SHIFTS[number & 7], size, value, count);
        let by_more = count & if size == 8 { 0x3f } else { 0x1f } != 1;
        let in_register = matches!(place, Place::Register(_));
        let by_immediate = matches!(opcode, 0xc0 | 0xc1);
        if by_immediate && number & 7 <= ROR && by_more && in_register && *KEEPS_OVERFLOW {
            self.core.state.rflags = self.core.state.rflags & !rflags::OF | overflow;
        }
        self.set(target, size, result);
        Some(Flow::Next)
    }

    /// BT, BTS, BTR and BTC (by `number`) with a register; in memory they address a string of bits.
    pub(super) fn bit_test(&mut self, number: u8) -> Option<Flow> {
        let (register, place) = self.modrm(0);
        let second = self.register(register, self.size);
        if matches!(place, Place::Memory(_)) {
            return None;
        }
        self.bit_test_of(number, place, second)
    }

    /// The same with an immediate, 0F BA.
    pub(super) fn bit_test_immediate(&mut self) -> Option<Flow> {
        let (number, place) = self.modrm(1);
        let second = self.bytes.short();
        if number & 4 == 0 {
            return None;
        }
        self.bit_test_of(number as u8, place, second)
    }

    fn bit_test_of(&mut self, number: u8, place: Place, bit: u64) -> Option<Flow> {
        let (size, number) = (self.size, usize::from(number & 3));
        if number == 0 {
            let value = self.read(place, size)?;
            self.compute(&BIT_TESTS[0], size, value, bit);
        } else {
            let (target, value) = self.target(place, size)?;
            let result = self.compute(&BIT_TESTS[number], size, value, bit);
            self.set(target, size, result);
        }
        Some(Flow::Next)
    }

    /// Whether a condition, by its number in opcodes, holds (SDM vol. 1, appendix B).
    #[inline]
    pub(super) fn condition(&self, number: u8) -> bool {
        let flags = self.core.state.rflags;
        let set = |flag: u64| flags & flag != 0;
        let less = set(rflags::SF) != set(rflags::OF);
        let holds = match number >> 1 & 7 {
            0 => set(rflags::OF),
            1 => set(rflags::CF),
            2 => set(rflags::ZF),
            3 => set(rflags::CF | rflags::ZF),
            4 => set(rflags::SF),
            5 => set(rflags::PF),
            6 => less,
            _ => set(rflags::ZF) || less,
        };
        holds != (number & 1 != 0)
    }
}
