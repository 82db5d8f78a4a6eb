//! Delivery in VMX non-root operation: what is intercepted, and what VM entries inject (SDM vol. 3, 26.2, 27.6.1, 28.2).

use crate::core::Core;
use crate::delivery::Event;
use crate::exception::{Exception, Trap};
use crate::state::Activity;
use crate::vmx::{Interruption, VmExit};
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::{interruption, pin};

impl Core<'_> {
    /// What the VMCS tells of an event.
    pub(crate) fn interruption(&self, event: &Event) -> Interruption {
        let error_code = event.error_code.filter(|_| self.state.protected_mode());
        let code = if error_code.is_some() { interruption::ERROR_CODE } else { 0 };
        let by_instruction = event.kind >= interruption::SOFTWARE_INTERRUPT;
        let length = if by_instruction { event.rip.wrapping_sub(self.state.rip) as u32 } else { 0 };
        Interruption {
            information: interruption::VALID
                | event.kind << interruption::TYPE_SHIFT
                | code
                | u32::from(event.vector),
            error_code: error_code.unwrap_or(0),
            instruction_length: length,
        }
    }

    /// Whether the exception bitmap catches an exception.
    #[inline]
    pub(crate) fn intercepts(&self, exception: &Exception) -> bool {
        let vmx = &self.state.vmx;
        vmx.non_root() && vmx.interceptions.exception(exception.vector, exception.error_code.unwrap_or(0))
    }

    /// A VM exit in place of an exception, before it changes anything: CR2, DR6 and DR7 stay.
    #[inline]
    pub(crate) fn intercept_exception(&mut self, exception: &Exception) -> Result<(), Trap> {
        if !self.intercepts(exception) {
            return Ok(());
        }
        // Real mode has no error codes (SDM vol. 3, 28.2.2).
        let error_code = exception.error_code.filter(|_| self.state.protected_mode());
        Err(self.state.exit(VmExit::of_exception(&Exception { error_code, ..*exception })))
    }

    /// A VM exit in place of INT1, INT3 or INTO.
    pub(crate) fn intercept_software(&mut self, event: &Event) -> Result<(), Trap> {
        let vmx = &self.state.vmx;
        if !vmx.non_root() || !vmx.interceptions.exception(event.vector, 0) {
            return Ok(());
        }
        let interruption = self.interruption(event);
        Err(self.state.exit(VmExit {
            interruption: Some(interruption),
            instruction_length: interruption.instruction_length,
            ..VmExit::new(ExitReason::ExceptionOrNmi)
        }))
    }

    /// What a triple fault is: a VM exit in VMX non-root operation, the end of the processor elsewhere.
    pub(crate) fn triple_fault(&mut self) -> Trap {
        if self.state.vmx.non_root() {
            self.state.vmx.delivering = None;
            return self.state.exit(VmExit::new(ExitReason::TripleFault));
        }
        self.state.activity = Activity::Shutdown;
        Trap::Shutdown
    }

    /// Deliver the event that a VM entry injects (SDM vol. 3, 27.6.1): as usual, but that the event itself is not
    /// intercepted, leaves CR2, DR6 and DR7 alone, saves RF as it is, and does not ask IOPL. Faults met on the way are
    /// delivered, and can be intercepted.
    ///
    /// # Errors
    /// `VmExit`; `Pending`: inject again when the answer is there.
    pub fn inject(&mut self, injected: Interruption) -> Result<(), Trap> {
        let kind = interruption::kind(injected.information);
        let number = (injected.information & interruption::VECTOR) as u8;
        let software = kind >= interruption::SOFTWARE_INTERRUPT;
        let next = self.state.rip.wrapping_add(u64::from(injected.instruction_length));
        let next = if self.state.in_64bit_mode() { next } else { next & 0xffff_ffff };
        let has_code = injected.information & interruption::ERROR_CODE != 0;
        let event = Event {
            vector: number,
            error_code: has_code.then_some(injected.error_code),
            kind,
            rip: if software { next } else { self.state.rip },
            flags: self.state.rflags,
        };
        let delivered = match self.deliver_injected(&event) {
            Err(Trap::Exception(met)) => {
                let exception = kind == interruption::HARDWARE_EXCEPTION;
                self.after_fault(exception.then_some(number), met)
                    .and_then(|next| self.deliver_exception(next))
            }
            other => other,
        };
        if kind == interruption::NMI {
            self.block_nmis(&delivered);
        }
        delivered
    }

    /// INT n in VM86 mode can lead to the program's own table.
    fn deliver_injected(&mut self, event: &Event) -> Result<(), Trap> {
        let redirectable = event.kind == interruption::SOFTWARE_INTERRUPT && self.state.virtual_8086();
        if redirectable && self.redirected(event.vector)? {
            return self.deliver_in_virtual_8086(event);
        }
        self.deliver_event(event)
    }

    /// An NMI was delivered, or was about to be when it caused a VM exit: the next waits for IRET (SDM vol. 3, 28.1).
    /// Under virtual NMIs that is said of virtual ones, and physical ones are never blocked.
    pub(crate) fn block_nmis(&mut self, delivered: &Result<(), Trap>) {
        if !matches!(delivered, Ok(()) | Err(Trap::VmExit)) {
            return;
        }
        self.state.nmi_blocked = true;
    }

    /// IRET ends the blocking of NMIs (SDM vol. 3, 26.3, "IRET"): of virtual ones under virtual NMIs, and of none if
    /// NMIs cause VM exits.
    pub(crate) fn unblock_nmis(&mut self) {
        let pin = self.state.vmx.interceptions.pin;
        if pin & pin::NMI_EXITING != 0 && pin & pin::VIRTUAL_NMIS == 0 {
            return;
        }
        let blocked = std::mem::take(&mut self.state.nmi_blocked);
        self.state.vmx.iret_unblocked = blocked && self.state.vmx.non_root();
    }
}
