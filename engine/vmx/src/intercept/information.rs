//! VM-exit instruction information, from decoded operands (SDM vol. 3, tables 28-8 to 28-14).

const SCALE_SHIFT: u32 = 0;
const REGISTER1_SHIFT: u32 = 3;
const ADDRESS_SIZE_SHIFT: u32 = 7;
const IS_REGISTER: u32 = 1 << 10;
const OPERAND_SIZE_SHIFT: u32 = 11;
const SEGMENT_SHIFT: u32 = 15;
const INDEX_SHIFT: u32 = 18;
const NO_INDEX: u32 = 1 << 22;
const BASE_SHIFT: u32 = 23;
const NO_BASE: u32 = 1 << 27;
const IDENTITY_SHIFT: u32 = 28;
const REGISTER2_SHIFT: u32 = 28;

/// 0, 1, 2 for 16, 32, 64 bits.
fn size(bits: u32) -> u32 {
    (bits / 32).min(2)
}

/// A memory operand as it is encoded. Registers by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Address size in bits.
    pub address_bits: u32,
    /// Segment register.
    pub segment: usize,
    /// Base register.
    pub base: Option<u8>,
    /// Index register.
    pub index: Option<u8>,
    /// 1, 2, 4 or 8.
    pub scale: u32,
    /// The displacement, sign-extended; with RIP as base, the address.
    pub displacement: u64,
}

impl Memory {
    /// Address size, segment, base, index, scale: the format of XSAVES and XRSTORS.
    pub(super) fn information(&self) -> u32 {
        let base = self.base.map_or(NO_BASE, |number| u32::from(number & 15) << BASE_SHIFT);
        let index = self.index.map_or(NO_INDEX, |number| {
            u32::from(number & 15) << INDEX_SHIFT | self.scale.trailing_zeros() << SCALE_SHIFT
        });
        base | index | of_string(self.address_bits, self.segment)
    }
}

/// The format of INS and OUTS: address size and segment.
pub(super) fn of_string(address_bits: u32, segment: usize) -> u32 {
    size(address_bits) << ADDRESS_SIZE_SHIFT | (segment as u32 & 7) << SEGMENT_SHIFT
}

/// A register or memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A general-purpose register.
    Register(u8),
    /// Memory.
    Memory(Memory),
}

impl Operand {
    fn information(&self) -> u32 {
        match self {
            Operand::Register(number) => IS_REGISTER | u32::from(number & 15) << REGISTER1_SHIFT,
            Operand::Memory(memory) => memory.information(),
        }
    }

    /// The displacement as the exit qualification tells it; a register has none.
    pub(super) fn displacement(&self) -> u64 {
        match self {
            Operand::Register(_) => 0,
            Operand::Memory(memory) => memory.displacement,
        }
    }

    /// The format of the VMX instructions and INVPCID: with the register that holds an encoding or a type.
    pub(super) fn with_register(&self, register: u8) -> u32 {
        self.information() | u32::from(register & 15) << REGISTER2_SHIFT
    }
}

/// The instructions of descriptor-table exiting; the number is their identity in the instruction information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TableInstruction {
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
}

impl TableInstruction {
    /// Whether it is about GDTR or IDTR; the others are about LDTR or TR.
    pub(super) fn of_gdtr_or_idtr(self) -> bool {
        (self as u32) < 4
    }

    /// Whether it loads the register.
    pub(super) fn loads(self) -> bool {
        self as u32 & 2 != 0
    }

    /// Its instruction information. `operand_bits` counts for GDTR and IDTR outside 64-bit mode.
    pub(super) fn information(self, operand: &Operand, operand_bits: u32) -> u32 {
        let wide = self.of_gdtr_or_idtr() && operand_bits >= 32;
        let identity = (self as u32 & 3) << IDENTITY_SHIFT;
        operand.information() | identity | u32::from(wide) << OPERAND_SIZE_SHIFT
    }
}

/// The format of RDRAND and RDSEED: the register and its size.
pub(super) fn of_register(register: u8, operand_bits: u32) -> u32 {
    u32::from(register & 15) << REGISTER1_SHIFT | size(operand_bits) << OPERAND_SIZE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory =
        Memory { address_bits: 64, segment: 3, base: Some(5), index: Some(9), scale: 4, displacement: 8 };

    #[test]
    fn memory_operands() {
        assert_eq!(MEMORY.information(), 2 | 2 << 7 | 3 << 15 | 9 << 18 | 5 << 23);
        let absolute = Memory { base: None, index: None, address_bits: 32, ..MEMORY };
        assert_eq!(absolute.information(), 1 << 7 | 3 << 15 | 1 << 22 | 1 << 27);
        assert_eq!(of_string(64, 3), 2 << 7 | 3 << 15);
        assert_eq!(Operand::Memory(MEMORY).with_register(11), MEMORY.information() | 11 << 28);
        assert_eq!((Operand::Memory(MEMORY).displacement(), Operand::Register(1).displacement()), (8, 0));
    }

    #[test]
    fn register_operands() {
        assert_eq!(Operand::Register(7).with_register(2), 7 << 3 | 1 << 10 | 2 << 28);
        assert_eq!(of_register(6, 64), 6 << 3 | 2 << 11);
        assert_eq!(of_register(6, 16), 6 << 3);
    }

    #[test]
    fn table_instructions_tell_themselves_apart() {
        let operand = Operand::Memory(MEMORY);
        assert_eq!(TableInstruction::Lidt.information(&operand, 32) >> 28, 3);
        assert_eq!(TableInstruction::Lidt.information(&operand, 32) >> 11 & 1, 1);
        assert_eq!(TableInstruction::Str.information(&Operand::Register(1), 32), 1 << 28 | 1 << 10 | 1 << 3);
        assert!(TableInstruction::Lgdt.loads() && !TableInstruction::Sldt.loads());
    }
}
