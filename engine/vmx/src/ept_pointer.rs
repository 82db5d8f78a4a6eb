//! The EPT pointer (SDM vol. 3, 25.6.11, 27.2.1.1).

use crate::capabilities::Capabilities;
use gasang_x86::vmx::controls::{ept_pointer as pointer, ept_vpid_capability as capability};

/// What is wrong with an EPT pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A memory type that is not offered.
    MemoryType,
    /// A page-walk length that is not offered.
    WalkLength,
    /// Accessed and dirty flags where they are not offered.
    AccessedAndDirty,
    /// A reserved bit.
    Reserved,
}

/// Whether VM entries accept an EPT pointer.
///
/// # Errors
/// What is wrong with it.
pub fn check(value: u64, capabilities: &Capabilities) -> Result<(), Fault> {
    let offers = |bit| capabilities.ept_vpid & bit != 0;
    let typed = match value & pointer::MEMORY_TYPE {
        pointer::UNCACHEABLE => offers(capability::UNCACHEABLE),
        pointer::WRITE_BACK => offers(capability::WRITE_BACK),
        _ => false,
    };
    if !typed {
        return Err(Fault::MemoryType);
    }
    let length = match (value & pointer::WALK_LENGTH) >> pointer::WALK_LENGTH_SHIFT {
        3 => offers(capability::WALK_LENGTH_4),
        4 => offers(capability::WALK_LENGTH_5),
        _ => false,
    };
    if !length {
        return Err(Fault::WalkLength);
    }
    if value & pointer::ACCESSED_AND_DIRTY != 0 && !offers(capability::ACCESSED_AND_DIRTY) {
        return Err(Fault::AccessedAndDirty);
    }
    let shadow_stack =
        !offers(capability::SUPERVISOR_SHADOW_STACK) && value & pointer::SUPERVISOR_SHADOW_STACK != 0;
    if value & (pointer::RESERVED | Capabilities::BEYOND_PHYSICAL) != 0 || shadow_stack {
        return Err(Fault::Reserved);
    }
    Ok(())
}
