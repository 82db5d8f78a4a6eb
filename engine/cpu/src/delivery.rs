//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 6).

use crate::core::Core;
use crate::descriptors::{Descriptor, error_code, is_null};
use crate::exception::{Exception, Trap};
use crate::stack::Stack;
use crate::state::{Activity, SegmentRegister, Shadow, VcpuState};
use gasang_x86::control::{cr4, debug};
use gasang_x86::descriptor::{access, selector, system};
use gasang_x86::exception::{self as vector, selector_error};
use gasang_x86::vmx::controls::interruption;
use gasang_x86::{gpr, rflags, segment};

/// Something to deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// What kind of event it is, as interruption information tells it (`interruption`).
    pub kind: u32,
    /// The instruction pointer that the frame saves.
    pub rip: u64,
    /// The flags that the frame saves.
    pub flags: u64,
}

impl Event {
    /// INT n, INT3, INTO: the gate's DPL counts.
    fn software(&self) -> bool {
        matches!(self.kind, interruption::SOFTWARE_INTERRUPT | interruption::SOFTWARE_EXCEPTION)
    }

    /// The external bit of error codes of faults met during delivery.
    pub fn external(&self) -> u32 {
        if self.software() { 0 } else { selector_error::EXTERNAL }
    }

    /// The error code that names this event's IDT entry.
    fn idt_error(&self) -> u32 {
        u32::from(self.vector) * 8 | selector_error::IDT | self.external()
    }
}

/// How two faults combine (SDM vol. 3, table 6-5).
fn is_contributory(number: u8) -> bool {
    matches!(number, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// Whether a fault counts as a page fault when it combines with another.
fn is_page_fault(number: u8) -> bool {
    matches!(number, vector::PF | vector::VE)
}

/// What is delivered when `second` was met while delivering `first`; None for a triple fault.
fn combine(first: u8, second: Exception) -> Option<Exception> {
    let contributory = is_contributory(second.vector);
    let serious = contributory || is_page_fault(second.vector);
    if first == vector::DF && serious {
        return None;
    }
    if is_contributory(first) && contributory || is_page_fault(first) && serious {
        return Some(Exception::double_fault());
    }
    Some(second)
}

impl Core<'_> {
    /// Deliver an exception; `state.rip` is what the frame saves. Faults met on the way are delivered in its place, as
    /// #DF if the two do not go together. Whether they are intercepted is asked before that: a hypervisor with page
    /// tables of its own sees the page fault that its guest's exception meets, not a double fault.
    ///
    /// # Errors
    /// `Shutdown` for a triple fault (the activity is then `Shutdown`), `Pending`.
    pub fn deliver_exception(&mut self, exception: Exception) -> Result<(), Trap> {
        let mut current = exception;
        if exception.vector == vector::VE {
            self.tell_violation();
        }
        loop {
            self.intercept_exception(&current)?;
            self.record_payload(&current);
            match self.deliver_event(&self.exception_event(&current)) {
                Err(Trap::Exception(met)) => current = self.after_fault(Some(current.vector), met)?,
                other => return other,
            }
        }
    }

    /// What to deliver when `met` was met while delivering the exception `first`, or another event if that is None.
    ///
    /// # Errors
    /// `VmExit` if `met` is intercepted or the two make a triple fault, which elsewhere is `Shutdown`.
    pub(crate) fn after_fault(&mut self, first: Option<u8>, met: Exception) -> Result<Exception, Trap> {
        self.intercept_exception(&met)?;
        if met.vector == vector::PF {
            self.state.cr2 = met.payload;
        }
        let next = first.map_or(Some(met), |first| combine(first, met));
        let Some(next) = next else { return Err(self.triple_fault()) };
        if next != met {
            // What results in a double fault is not told as what was being delivered.
            self.state.vmx.delivering = None;
        }
        Ok(next)
    }

    /// CR2 and DR6 as the exception leaves them.
    fn record_payload(&mut self, exception: &Exception) {
        match exception.vector {
            vector::PF => self.state.cr2 = exception.payload,
            vector::DB => {
                let sticky = debug::DR6_BD | debug::DR6_BS | debug::DR6_BT | debug::DR6_FIXED;
                self.state.dr[6] = self.state.dr[6] & sticky | exception.payload;
                self.state.dr[7] &= !debug::DR7_GD;
            }
            _ => {}
        }
    }

    fn exception_event(&self, exception: &Exception) -> Event {
        // An instruction breakpoint's handler sets RF itself; other faults restart under RF (SDM vol. 3, 17.3.1.1).
        let breakpoint = exception.vector == vector::DB && exception.payload & 0xf != 0;
        let restarts = !exception.trap && !breakpoint && exception.vector != vector::DF;
        let resume = if restarts { rflags::RF } else { 0 };
        Event {
            vector: exception.vector,
            error_code: exception.error_code,
            kind: interruption::HARDWARE_EXCEPTION,
            rip: self.state.rip,
            flags: self.state.rflags | resume,
        }
    }

    fn interrupt_event(&self, vector: u8) -> Event {
        let kind = if vector == vector::NMI { interruption::NMI } else { interruption::EXTERNAL_INTERRUPT };
        Event { vector, error_code: None, kind, rip: self.state.rip, flags: self.state.rflags }
    }

    /// The event of an instruction that ends by it, and with which RF ends.
    fn trap_event(&self, vector: u8, kind: u32, next: u64) -> Event {
        Event { vector, error_code: None, kind, rip: next, flags: self.state.rflags & !rflags::RF }
    }

    /// Deliver an external interrupt between instructions; `state.rip` is the next instruction. Wakes from HLT.
    ///
    /// # Errors
    /// As `deliver_exception`.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), Trap> {
        match self.deliver_event(&self.interrupt_event(vector)) {
            Err(Trap::Exception(met)) => self.deliver_exception(met),
            other => other,
        }
    }

    /// Deliver an NMI between instructions and block the next until IRET.
    ///
    /// # Errors
    /// As `deliver_exception`.
    pub fn deliver_nmi(&mut self) -> Result<(), Trap> {
        let delivered = self.deliver_interrupt(vector::NMI);
        self.block_nmis(&delivered);
        delivered
    }

    /// INT n: gate and VM86 privilege checks included. INT 3 and INT 4 in two bytes count as INT3 and INTO as far as VM86
    /// mode goes, which always lets them through to the gate.
    ///
    /// # Errors
    /// An exception still to be delivered (`state.rip` unchanged), `Pending`.
    pub fn software_interrupt(&mut self, vector: u8, next: u64) -> Result<(), Trap> {
        if self.state.virtual_8086() && !matches!(vector, vector::BP | vector::OF) {
            return self.redirected_interrupt(vector, next);
        }
        self.deliver_event(&self.trap_event(vector, interruption::SOFTWARE_INTERRUPT, next))
    }

    /// INT3 (vector 3), INTO (vector 4).
    ///
    /// # Errors
    /// As `software_interrupt`.
    pub fn software_exception(&mut self, vector: u8, next: u64) -> Result<(), Trap> {
        let event = self.trap_event(vector, interruption::SOFTWARE_EXCEPTION, next);
        self.intercept_software(&event)?;
        self.deliver_event(&event)
    }

    /// INT n in VM86 mode: to the program's own table, if the TSS says so under CR4.VME; to the gate, if IOPL lets it.
    fn redirected_interrupt(&mut self, vector: u8, next: u64) -> Result<(), Trap> {
        let event = self.trap_event(vector, interruption::SOFTWARE_INTERRUPT, next);
        if self.redirected(vector)? {
            return self.deliver_in_virtual_8086(&event);
        }
        if self.state.iopl() < 3 {
            return Err(Exception::general_protection(0).into());
        }
        self.deliver_event(&event)
    }

    /// INT1: #DB without the checks of INT n.
    ///
    /// # Errors
    /// As `software_interrupt`.
    pub fn icebp(&mut self, next: u64) -> Result<(), Trap> {
        let event = self.trap_event(vector::DB, interruption::PRIVILEGED_SOFTWARE_EXCEPTION, next);
        self.intercept_software(&event)?;
        self.deliver_event(&event)
    }

    pub(crate) fn deliver_event(&mut self, event: &Event) -> Result<(), Trap> {
        if !self.state.vmx.non_root() {
            return self.deliver_to_handler(event);
        }
        self.state.vmx.delivering = Some(self.interruption(event));
        // So it stays if the delivery causes a VM exit (SDM vol. 3, 28.1).
        self.state.activity = Activity::Active;
        self.state.shadow = Shadow::None;
        let delivered = self.deliver_to_handler(event);
        if !matches!(delivered, Err(Trap::Exception(_))) {
            // A fault on the way is yet to be delivered or intercepted; all else ends the delivery.
            self.state.vmx.delivering = None;
        }
        delivered
    }

    fn deliver_to_handler(&mut self, event: &Event) -> Result<(), Trap> {
        if !self.state.protected_mode() {
            self.deliver_by_vector_table(event, self.state.idtr.base, event.flags)?;
            self.state.rflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        } else {
            let gate = self.interrupt_gate(event)?;
            if self.state.long_mode() {
                self.deliver_64bit(event, &gate)?;
            } else if gate.kind() == system::TASK_GATE {
                self.deliver_to_task(event, &gate)?;
            } else {
                self.deliver_protected(event, &gate)?;
            }
        }
        self.state.activity = Activity::Active;
        self.state.shadow = Shadow::None;
        Ok(())
    }

    /// The gate of an event, checked (SDM vol. 3, 6.12.1).
    fn interrupt_gate(&mut self, event: &Event) -> Result<Descriptor, Trap> {
        let long = self.state.long_mode();
        let size = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * size;
        let refused = Exception::general_protection(event.idt_error());
        if offset + size - 1 > u64::from(self.state.idtr.limit) {
            return Err(refused.into());
        }
        let address = self.state.idtr.base.wrapping_add(offset);
        let raw = self.read_system(address, 8)?;
        let high = if long { self.read_system(address.wrapping_add(8), 8)? & 0xffff_ffff } else { 0 };
        let gate = Descriptor { address, raw, high };
        let known = match gate.kind() {
            system::INTERRUPT_GATE | system::TRAP_GATE => true,
            system::TASK_GATE | system::INTERRUPT_GATE16 | system::TRAP_GATE16 => !long,
            _ => false,
        };
        if !gate.is_system() || !known || event.software() && gate.dpl() < self.state.cpl() {
            return Err(refused.into());
        }
        if !gate.present() {
            return Err(Exception::not_present(event.idt_error()).into());
        }
        Ok(gate)
    }

    /// The handler's code segment, checked, and the privilege it runs at.
    fn handler_code(&mut self, event: &Event, gate: &Descriptor) -> Result<(SegmentRegister, u8), Trap> {
        let target = gate.gate_selector();
        let external = event.external();
        if is_null(target) {
            return Err(Exception::general_protection(external).into());
        }
        let refused = Exception::general_protection(error_code(target) | external);
        let descriptor = self.descriptor(target)?.ok_or(refused)?;
        let cpl = self.state.cpl();
        let long_code = descriptor.attributes() & (access::LONG | access::DB) == access::LONG;
        if !descriptor.is_code() || descriptor.dpl() > cpl || self.state.long_mode() && !long_code {
            return Err(refused.into());
        }
        let new_cpl = if descriptor.is_conforming() { cpl } else { descriptor.dpl() };
        if self.state.virtual_8086() && new_cpl != 0 {
            return Err(refused.into());
        }
        if !descriptor.present() {
            return Err(Exception::not_present(error_code(target) | external).into());
        }
        self.set_accessed(&descriptor)?;
        Ok((descriptor.segment(target & !selector::RPL | u16::from(new_cpl)), new_cpl))
    }

    /// Flags in the handler.
    fn handler_flags(&self, gate: &Descriptor) -> u64 {
        let mut cleared = rflags::TF | rflags::NT | rflags::VM | rflags::RF;
        if gate.kind() & 1 == 0 {
            cleared |= rflags::IF;
        }
        self.state.rflags & !cleared
    }

    /// Commit to the handler.
    fn enter_handler(&mut self, code: SegmentRegister, offset: u64, flags: u64, stack: &Stack) {
        let state = &mut *self.state;
        state.segment[segment::CS] = code;
        state.segment[segment::SS] = stack.segment;
        state.gpr[gpr::RSP] = stack.merge(state.gpr[gpr::RSP]);
        state.rip = offset;
        state.rflags = flags;
    }

    /// IA-32e mode (SDM vol. 3, 6.14).
    fn deliver_64bit(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Trap> {
        let (code, cpl) = self.handler_code(event, gate)?;
        let external = event.external();
        let offset = gate.gate_offset();
        if !VcpuState::canonical(offset) {
            return Err(Exception::general_protection(external).into());
        }
        let old_stack = self.state.segment[segment::SS];
        let inner = cpl < self.state.cpl();
        let pointer = match gate.interrupt_stack() {
            0 if inner => self.tss_stack64(u64::from(cpl), external)?,
            0 => self.state.gpr[gpr::RSP],
            number => self.tss_stack64(3 + number, external)?,
        };
        let new_stack = if inner { SegmentRegister::null_stack(cpl) } else { old_stack };
        let stack = self.stack64(pointer & !0xf, cpl, new_stack, external);
        let frame = [
            u64::from(old_stack.selector),
            self.state.gpr[gpr::RSP],
            event.flags,
            u64::from(self.state.segment[segment::CS].selector),
            event.rip,
            u64::from(event.error_code.unwrap_or(0)),
        ];
        let length = 5 + usize::from(event.error_code.is_some());
        let pushed = self.push_frame(&stack, &frame[..length], 8)?;
        let flags = self.handler_flags(gate);
        self.enter_handler(code, offset, flags, &pushed);
        Ok(())
    }

    /// Protected mode, from the same or an outer privilege, or from VM86 mode (SDM vol. 3, 6.12.1, 20.3.1).
    fn deliver_protected(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Trap> {
        let (code, cpl) = self.handler_code(event, gate)?;
        let offset = gate.gate_offset();
        if !code.contains(offset, 1) {
            return Err(Exception::general_protection(event.external()).into());
        }
        let inner = cpl < self.state.cpl();
        let stack = if inner {
            self.inner_stack(cpl, event.external())?
        } else {
            Stack { error: event.external(), ..self.current_stack() }
        };
        let (frame, length) = self.protected_frame(event, inner);
        let width = if gate.is_32bit_gate() { 4 } else { 2 };
        let pushed = self.push_frame(&stack, &frame[..length], width)?;
        let flags = self.handler_flags(gate);
        if self.state.virtual_8086() {
            for register in [segment::ES, segment::DS, segment::FS, segment::GS] {
                self.state.segment[register] = SegmentRegister::null(0);
            }
        }
        self.enter_handler(code, offset, flags, &pushed);
        Ok(())
    }

    /// What a 16- or 32-bit frame holds, in the order of pushing, and how many values.
    fn protected_frame(&self, event: &Event, inner: bool) -> ([u64; 10], usize) {
        let state = &*self.state;
        let mut frame = [0; 10];
        let mut length = 0;
        let mut push = |value: u64| {
            frame[length] = value;
            length += 1;
        };
        let selector = |register: usize| u64::from(state.segment[register].selector);
        if state.virtual_8086() {
            [segment::GS, segment::FS, segment::DS, segment::ES].into_iter().for_each(|r| push(selector(r)));
        }
        if inner {
            push(selector(segment::SS));
            push(state.gpr[gpr::RSP]);
        }
        push(event.flags);
        push(selector(segment::CS));
        push(event.rip);
        if let Some(code) = event.error_code {
            push(u64::from(code));
        }
        (frame, length)
    }

    /// Real mode, and redirected interrupts in VM86 mode: a table of far pointers (SDM vol. 3, 20.1.4).
    fn deliver_by_vector_table(&mut self, event: &Event, table: u64, flags: u64) -> Result<(), Trap> {
        let offset = u64::from(event.vector) * 4;
        let limited = !self.state.protected_mode();
        if limited && offset + 3 > u64::from(self.state.idtr.limit) {
            return Err(Exception::general_protection(event.idt_error()).into());
        }
        let pointer = if limited {
            self.read_system(table.wrapping_add(offset), 4)?
        } else {
            self.read(offset, 4, self.privilege())?
        };
        let frame = [flags, u64::from(self.state.segment[segment::CS].selector), event.rip];
        let code = self.paragraph_segment(segment::CS, (pointer >> 16) as u16);
        let pushed = self.push_frame(&self.current_stack(), &frame, 2)?;
        let flags = self.state.rflags;
        self.enter_handler(code, pointer & 0xffff, flags, &pushed);
        Ok(())
    }

    /// A software interrupt that VM86 mode handles itself under CR4.VME (SDM vol. 3, 20.3.3).
    pub(crate) fn deliver_in_virtual_8086(&mut self, event: &Event) -> Result<(), Trap> {
        let virtual_flag = self.state.iopl() < 3;
        let mut flags = event.flags;
        if virtual_flag {
            let interrupts = if flags & rflags::VIF != 0 { rflags::IF } else { 0 };
            flags = flags & !rflags::IF | interrupts | rflags::IOPL;
        }
        self.deliver_by_vector_table(event, 0, flags)?;
        let interrupt_flag = if virtual_flag { rflags::VIF } else { rflags::IF };
        self.state.rflags &= !(interrupt_flag | rflags::TF | rflags::RF);
        Ok(())
    }

    /// Whether INT n in VM86 mode leads to the program's own table: under CR4.VME, if the TSS says so.
    pub(crate) fn redirected(&mut self, vector: u8) -> Result<bool, Trap> {
        Ok(self.state.cr4 & cr4::VME != 0 && !self.redirection_bit(vector)?)
    }

    /// The bit for `vector` in the TSS's interrupt redirection bitmap, below its I/O permission bitmap.
    fn redirection_bit(&mut self, vector: u8) -> Result<bool, Trap> {
        let tss = self.state.tr;
        let bitmap = self.read_system(tss.base.wrapping_add(102), 2)?;
        let byte = bitmap.wrapping_sub(32).wrapping_add(u64::from(vector / 8));
        if byte > u64::from(tss.limit) {
            return Err(Exception::general_protection(0).into());
        }
        Ok(self.read_system(tss.base.wrapping_add(byte), 1)? >> (vector % 8) & 1 != 0)
    }
}
