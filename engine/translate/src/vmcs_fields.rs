//! VMREAD and VMWRITE in generated code: the hypervisor's code of a VM exit is full of them. Between two registers, of a
//! field that exists, in VMX root operation with a current VMCS; whatever else there is is T0's.

use crate::assembler::{Condition, address, reg, state};
use crate::decode::{Kind, Operation};
use crate::emit::Emitter;
use crate::operations::{is_spilled, number_of};
use crate::slots;
use gasang_cpu::{CpuModel, VcpuState};
use gasang_vmx::Capabilities;
use gasang_x86::vmx::Field;

/// The bits of an encoding that tell whole fields apart: width, type, and the index as far as any goes. PEXT of them is a
/// place in the tables.
const TELLING: u64 = 3 << 13 | 3 << 10 | 0x3f << 1;
const PLACES: usize = 1 << TELLING.count_ones();

/// Fields by place: 1 + the number of the field, 0 where T0 must look.
#[derive(Debug)]
pub(crate) struct FieldTables {
    fields: Box<[u8; PLACES]>,
    /// By the field's number: the bits that it has.
    masks: Box<[u64; Field::COUNT]>,
}

fn place(encoding: u32) -> usize {
    (0..PLACES.trailing_zeros())
        .scan(TELLING, |rest, bit| {
            let mask = 1 << rest.trailing_zeros();
            *rest &= *rest - 1;
            Some(if u64::from(encoding) & mask != 0 { 1 << bit } else { 0 })
        })
        .sum()
}

impl FieldTables {
    pub(crate) fn new(model: &CpuModel) -> FieldTables {
        let capabilities = Capabilities::new(model);
        let mut tables = FieldTables { fields: Box::new([0; PLACES]), masks: Box::new([0; Field::COUNT]) };
        for (number, &field) in Field::ALL.iter().enumerate() {
            if capabilities.supports(field) {
                tables.fields[place(field.encoding())] = number as u8 + 1;
            }
            tables.masks[number] = field.width().mask();
        }
        tables
    }

    /// Tell generated code where everything is. It must be told again after whatever changes VMX operation.
    pub(crate) fn publish(&self, state: &mut VcpuState) {
        let values = state.vmx.accessible_values();
        let slots = &mut state.translator;
        slots[slots::word(slots::VMCS_VALUES)] = values;
        slots[slots::word(slots::VMCS_TELLING)] = TELLING;
        slots[slots::word(slots::VMCS_FIELDS)] = self.fields.as_ptr() as u64;
        slots[slots::word(slots::VMCS_MASKS)] = self.masks.as_ptr() as u64;
    }
}

impl Emitter<'_, '_> {
    /// VMREAD and VMWRITE between registers.
    pub(crate) fn access_field(&mut self, operation: &Operation) {
        let instruction = &operation.instruction;
        let write = operation.kind == Kind::WriteField;
        let encoding = if write { instruction.op0_register() } else { instruction.op1_register() };
        self.flags_will_change(operation.live_before);
        self.host_flags = false;
        self.find_field(operation, encoding);
        if write {
            self.load_register(reg::R11, instruction.op1_register());
            let a = &mut *self.assembler;
            a.store(state(slots::KEPT_RAX), reg::RAX);
            a.load(reg::RAX, state(slots::VMCS_MASKS));
            a.raw(&[0x4e, 0x23, 0x5c, 0xd0, 0xf8]); // and r11, [rax + r10 * 8 - 8]
            a.load(reg::RAX, state(slots::VMCS_VALUES));
            a.store(address(Some(reg::RAX), Some((reg::R10, 8)), -8), reg::R11);
            a.load(reg::RAX, state(slots::KEPT_RAX));
        } else {
            let target = instruction.op0_register();
            let a = &mut *self.assembler;
            a.load(reg::R11, state(slots::VMCS_VALUES));
            a.load(reg::R11, address(Some(reg::R11), Some((reg::R10, 8)), -8));
            if is_spilled(target) {
                a.store(state(slots::gpr(number_of(target))), reg::R11);
            } else {
                a.copy(number_of(target) as u8, reg::R11);
            }
        }
        if operation.live_after != 0 {
            // 1 + 1 leaves every status flag clear, which is VMsucceed.
            self.assembler.immediate(reg::R10, 1);
            self.assembler.raw(&[0x41, 0x83, 0xc2, 0x01]); // add r10d, 1
        }
        self.flags_after(operation);
    }

    /// 1 + the number of the field that a register names, in R10; to T0 if there is none for us.
    fn find_field(&mut self, operation: &Operation, encoding: iced_x86::Register) {
        let a = &mut *self.assembler;
        a.load(reg::R10, state(slots::VMCS_VALUES));
        a.test_registers(reg::R10, reg::R10);
        self.interpret_if(operation, Condition::E);
        self.load_register(reg::R11, encoding);
        self.assembler.test(reg::R11, !(TELLING as i32));
        self.interpret_if(operation, Condition::Ne);
        let a = &mut *self.assembler;
        let telling = slots::VMCS_TELLING.to_le_bytes();
        a.raw(&[0x65, 0xc4, 0x62, 0x22, 0xf5, 0x14, 0x25]); // pext r10d, r11d, gs:[...]
        a.raw(&telling);
        a.add(reg::R10, state(slots::VMCS_FIELDS));
        a.raw(&[0x45, 0x0f, 0xb6, 0x12]); // movzx r10d, byte ptr [r10]
        a.test_registers(reg::R10, reg::R10);
        self.interpret_if(operation, Condition::E);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn places_tell_all_fields_apart() {
        let places: HashSet<usize> = Field::ALL.iter().map(|field| place(field.encoding())).collect();
        assert_eq!(places.len(), Field::COUNT);
        assert!(Field::ALL.iter().all(|field| u64::from(field.encoding()) & !TELLING == 0));
    }

    #[test]
    fn tables_have_what_the_processor_has() {
        let tables = FieldTables::new(&CpuModel::parse("max").unwrap());
        let entry = |field: Field| tables.fields[place(field.encoding())];
        assert_eq!(entry(Field::GuestRip), Field::GuestRip as u8 + 1);
        assert_eq!(entry(Field::SharedEptPointer), 0, "not offered");
        assert_eq!(tables.masks[Field::GuestCsSelector as usize], 0xffff);
    }
}
