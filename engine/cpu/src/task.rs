//! Hardware task switches, which exist outside IA-32e mode only (SDM vol. 3, chapter 7).

use crate::access::Privilege;
use crate::core::Core;
use crate::delivery::Event;
use crate::descriptor_tables::TSS_BUSY_BIT;
use crate::descriptors::{Descriptor, error_code, is_null, rpl};
use crate::exception::{Exception, Trap};
use crate::state::SegmentRegister;
use crate::vmx::VmExit;
use gasang_x86::control::{cr0, debug};
use gasang_x86::descriptor::{access, selector, system};
use gasang_x86::vmx::ExitReason;
use gasang_x86::{rflags, segment};

/// What causes a task switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskSwitch {
    Jump,
    Call,
    Interrupt,
    Return,
}

impl TaskSwitch {
    /// The VM exit that every task switch in VMX non-root operation is (SDM vol. 3, 26.4.2, 28.2.1, table 28-2).
    fn exit(self, selector: u16) -> VmExit {
        let source = match self {
            TaskSwitch::Call => 0,
            TaskSwitch::Return => 1,
            TaskSwitch::Jump => 2,
            TaskSwitch::Interrupt => 3,
        };
        VmExit {
            by_instruction: self != TaskSwitch::Interrupt,
            ..VmExit::new(ExitReason::TaskSwitch).qualified(u64::from(selector) | source << 30)
        }
    }
}

/// Where and with which flags the old task resumes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub rip: u64,
    pub flags: u64,
}

/// L0-L3 and LE: breakpoints of one task.
const DR7_LOCAL: u64 = 0x155;
/// Offset of the trap bit in a 32-bit TSS.
const TRAP_BIT: u64 = 100;

/// Where a TSS keeps the registers of its task (SDM vol. 3, figures 7-2 and 7-10).
struct Layout {
    /// CR3; 16-bit tasks have none.
    cr3: Option<u64>,
    /// IP, flags, then the general-purpose registers in encoding order, each of `width` bytes.
    registers: u64,
    /// ES, CS, SS, DS and in a 32-bit TSS FS, GS, in slots of `width` bytes.
    selectors: u64,
    segments: usize,
    ldt: u64,
    width: u64,
    /// The least limit.
    limit: u32,
}

const LAYOUT32: Layout = Layout {
    cr3: Some(0x1c),
    registers: 0x20,
    selectors: 0x48,
    segments: 6,
    ldt: 0x60,
    width: 4,
    limit: 0x67,
};
const LAYOUT16: Layout =
    Layout { cr3: None, registers: 0x0e, selectors: 0x22, segments: 4, ldt: 0x2a, width: 2, limit: 0x2b };

fn layout(attributes: u32) -> &'static Layout {
    if attributes & access::TYPE & system::TSS_AVAILABLE == system::TSS_AVAILABLE {
        &LAYOUT32
    } else {
        &LAYOUT16
    }
}

/// The state of a task as its TSS holds it.
#[derive(Debug, Default, Clone, Copy)]
struct Task {
    cr3: u64,
    ip: u64,
    flags: u64,
    registers: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Core<'_> {
    /// Deliver an event through a task gate.
    pub(crate) fn deliver_to_task(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Trap> {
        let resume = Resume { rip: event.rip, flags: event.flags };
        self.switch_task(gate.gate_selector(), TaskSwitch::Interrupt, resume, event.external())?;
        let Some(code) = event.error_code else { return Ok(()) };
        let width = layout(self.state.tr.attributes).width;
        let pushed = self.push_frame(&self.current_stack(), &[u64::from(code)], width)?;
        self.commit_stack(&pushed);
        Ok(())
    }

    /// Switch to the task of the TSS that `selector` names; A fault up to the
    /// commit point is the old task's; from there on it is the new task's, whose registers are then in place.
    pub(crate) fn switch_task(
        &mut self,
        selector: u16,
        switch: TaskSwitch,
        resume: Resume,
        external: u32,
    ) -> Result<(), Trap> {
        let descriptor = self.task_descriptor(selector, switch, external)?;
        let new_layout = layout(descriptor.attributes());
        if descriptor.limit() < new_layout.limit {
            return Err(Exception::invalid_tss(error_code(selector) | external).into());
        }
        if self.state.vmx.non_root() {
            return Err(self.state.exit(switch.exit(selector)));
        }
        let mut task = self.read_task(descriptor.base(), new_layout)?;
        let nested = matches!(switch, TaskSwitch::Call | TaskSwitch::Interrupt);
        self.save_task(resume, switch)?;
        if nested {
            let link = u64::from(self.state.tr.selector);
            self.write(descriptor.base(), 2, link, Privilege::Implicit)?;
            task.flags |= rflags::NT;
        } else {
            self.mark_old_task_available()?;
        }
        if switch != TaskSwitch::Return {
            self.change_access_byte(descriptor.address, TSS_BUSY_BIT, 0)?;
        }
        let mut register = descriptor.segment(selector);
        register.attributes |= TSS_BUSY_BIT;
        self.state.tr = register;
        self.enter_task(&task, new_layout, external)
    }

    fn task_descriptor(
        &mut self,
        selector: u16,
        switch: TaskSwitch,
        external: u32,
    ) -> Result<Descriptor, Trap> {
        let code = error_code(selector) | external;
        let returns = switch == TaskSwitch::Return;
        let refused =
            if returns { Exception::invalid_tss(code) } else { Exception::general_protection(code) };
        if is_null(selector) || selector & selector::TI != 0 {
            return Err(refused.into());
        }
        let descriptor = self.descriptor(selector)?.ok_or(refused)?;
        let known = match descriptor.kind() {
            system::TSS_AVAILABLE | system::TSS16_AVAILABLE => !returns,
            system::TSS_BUSY | system::TSS16_BUSY => returns,
            _ => false,
        };
        if !descriptor.is_system() || !known {
            return Err(refused.into());
        }
        if !descriptor.present() {
            return Err(Exception::not_present(code).into());
        }
        Ok(descriptor)
    }

    fn read_task(&mut self, base: u64, layout: &Layout) -> Result<Task, Trap> {
        let width = layout.width;
        let mut task = Task::default();
        let at = |offset: u64| base.wrapping_add(offset);
        if let Some(offset) = layout.cr3 {
            task.cr3 = self.read_system(at(offset), 4)?;
            task.trap = self.read_system(at(TRAP_BIT), 2)? & 1 != 0;
        }
        task.ip = self.read_system(at(layout.registers), width as usize)?;
        task.flags = self.read_system(at(layout.registers + width), width as usize)?;
        for (index, register) in (2..).zip(&mut task.registers) {
            *register = self.read_system(at(layout.registers + index * width), width as usize)?;
        }
        for (index, selector) in (0..).zip(task.selectors.iter_mut().take(layout.segments)) {
            *selector = self.read_system(at(layout.selectors + index * width), 2)? as u16;
        }
        task.ldt = self.read_system(at(layout.ldt), 2)? as u16;
        Ok(task)
    }

    /// Write the old task's registers to its TSS.
    fn save_task(&mut self, resume: Resume, switch: TaskSwitch) -> Result<(), Trap> {
        let tss = self.state.tr;
        let layout = layout(tss.attributes);
        let mut flags = resume.flags;
        if switch == TaskSwitch::Return {
            flags &= !rflags::NT;
        }
        let mut values = [0; 16];
        values[0] = resume.rip;
        values[1] = flags;
        values[2..10].copy_from_slice(&self.state.gpr[..8]);
        for (value, register) in values[10..].iter_mut().zip(&self.state.segment) {
            *value = u64::from(register.selector);
        }
        // Registers and selectors follow each other in both layouts.
        let count = 10 + layout.segments;
        let width = layout.width as usize;
        let mut bytes = [0; 64];
        for (place, value) in bytes.chunks_exact_mut(width).zip(&values[..count]) {
            place.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let at = tss.base.wrapping_add(layout.registers) & 0xffff_ffff;
        self.write_bytes(at, &bytes[..count * width], Privilege::Implicit)
    }

    fn mark_old_task_available(&mut self) -> Result<(), Trap> {
        match self.descriptor(self.state.tr.selector)? {
            Some(old) => self.change_access_byte(old.address, 0, TSS_BUSY_BIT),
            None => Ok(()),
        }
    }

    /// Load the registers of the new task: the commit point, and then the checks that are the new task's.
    fn enter_task(&mut self, task: &Task, layout: &Layout, external: u32) -> Result<(), Trap> {
        let state = &mut *self.state;
        state.cr0 |= cr0::TS;
        state.dr[7] &= !DR7_LOCAL;
        state.rip = task.ip;
        state.rflags = task.flags & rflags::WRITABLE | rflags::FIXED;
        for (register, value) in state.gpr.iter_mut().zip(task.registers) {
            *register = value;
        }
        for (register, selector) in state.segment.iter_mut().zip(task.selectors) {
            *register = SegmentRegister::null(selector);
        }
        // Until SS is loaded, its register keeps the new privilege.
        let cpl = if state.virtual_8086() { 3 } else { rpl(task.selectors[segment::CS]) };
        state.segment[segment::SS].attributes |= u32::from(cpl) << access::DPL_SHIFT;
        state.ldtr = SegmentRegister::null(task.ldt);
        if layout.cr3.is_some() && state.cr0 & cr0::PG != 0 {
            self.write_cr3(task.cr3)?;
        }
        self.load_task_ldt(task.ldt, external)?;
        if self.state.virtual_8086() {
            for (register, selector) in self.state.segment.iter_mut().zip(task.selectors) {
                *register = SegmentRegister::virtual_8086(selector);
            }
        } else {
            self.load_task_segments(task, cpl, external)?;
        }
        if task.trap {
            self.state.pending_debug |= debug::DR6_BT;
        }
        self.check_entry(&self.state.segment[segment::CS], task.ip)
    }

    fn load_task_ldt(&mut self, selector: u16, external: u32) -> Result<(), Trap> {
        if is_null(selector) {
            return Ok(());
        }
        let invalid = Exception::invalid_tss(error_code(selector) | external);
        if selector & selector::TI != 0 {
            return Err(invalid.into());
        }
        let descriptor = self.descriptor(selector)?.ok_or(invalid)?;
        if !descriptor.is_system() || descriptor.kind() != system::LDT || !descriptor.present() {
            return Err(invalid.into());
        }
        self.state.ldtr = descriptor.segment(selector);
        Ok(())
    }

    /// SS, CS and the data segments, each #TS if it does not suit `cpl`.
    fn load_task_segments(&mut self, task: &Task, cpl: u8, external: u32) -> Result<(), Trap> {
        let stack = task.selectors[segment::SS];
        let suits = |found: &Descriptor| found.is_writable_data() && found.dpl() == cpl && rpl(stack) == cpl;
        let register = self.task_segment(stack, suits, Exception::stack, external)?;
        self.state.segment[segment::SS] = register;

        let code = task.selectors[segment::CS];
        let suits = |found: &Descriptor| {
            found.is_code() && if found.is_conforming() { found.dpl() <= cpl } else { found.dpl() == cpl }
        };
        let register = self.task_segment(code, suits, Exception::not_present, external)?;
        self.state.segment[segment::CS] = register;

        for number in [segment::ES, segment::DS, segment::FS, segment::GS] {
            let selector = task.selectors[number];
            if !is_null(selector) {
                let reach = cpl.max(rpl(selector));
                let suits = |found: &Descriptor| {
                    found.is_readable() && (found.is_conforming() || found.dpl() >= reach)
                };
                let register = self.task_segment(selector, suits, Exception::not_present, external)?;
                self.state.segment[number] = register;
            }
        }
        Ok(())
    }

    fn task_segment(
        &mut self,
        selector: u16,
        suits: impl Fn(&Descriptor) -> bool,
        absent: impl Fn(u32) -> Exception,
        external: u32,
    ) -> Result<SegmentRegister, Trap> {
        let code = error_code(selector) | external;
        let invalid = Exception::invalid_tss(code);
        if is_null(selector) {
            return Err(invalid.into());
        }
        let descriptor = self.descriptor(selector)?.filter(suits).ok_or(invalid)?;
        if !descriptor.present() {
            return Err(absent(code).into());
        }
        self.set_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }
}
