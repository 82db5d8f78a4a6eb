//! How to break the rules of the guest's state.

use super::*;

pub(super) fn break_guest(check: Check, case: &mut Case) {
    match check {
        Check::GuestCr0Fixed => case.remove(Field::GuestCr0, cr0::NE),
        Check::GuestPagingUnprotected => {
            case.ept(secondary::UNRESTRICTED_GUEST);
            case.remove(Field::GuestCr0, cr0::PE);
        }
        Check::GuestCr4Fixed => case.add(Field::GuestCr4, 1 << 63),
        Check::GuestDebugctl => case.set(Field::GuestDebugctl, 4),
        Check::GuestLongPaging => case.remove(Field::GuestCr4, cr4::PAE),
        Check::GuestLegacyPcid => {
            case.legacy();
            case.add(Field::GuestCr4, cr4::PCIDE);
        }
        Check::GuestCr3Width => case.add(Field::GuestCr3, WIDE),
        Check::GuestDr7 => case.add(Field::GuestDr7, 1 << 32),
        Check::GuestSysenterEsp => case.set(Field::GuestSysenterEsp, NOT_CANONICAL),
        Check::GuestSysenterEip => case.set(Field::GuestSysenterEip, NOT_CANONICAL),
        Check::GuestPat => {
            case.add(Field::VmEntryControls, entry::LOAD_PAT.into());
            case.set(Field::GuestPat, 3);
        }
        Check::GuestEferReserved => case.add(Field::GuestEfer, 1 << 12),
        Check::GuestEferMode => case.remove(Field::GuestEfer, efer::LMA),
        Check::PdpteReserved => {
            case.legacy();
            case.add(Field::GuestCr4, cr4::PAE);
            case.ept(0);
            case.set(Field::GuestPdpte2, 3);
        }
        _ if check as usize >= Check::TableBase as usize => break_guest_rest(check, case),
        _ => break_guest_segments(check, case),
    }
}

fn break_guest_segments(check: Check, case: &mut Case) {
    let present = access::PRESENT;
    match check {
        Check::SelectorTable => case.set(Field::GuestTrSelector, 0x34),
        Check::SelectorPrivilege => case.set(Field::GuestSsSelector, 0x13),
        Check::Virtual8086Base => {
            case.virtual_8086();
            case.set(Field::GuestDsBase, 0x1010);
        }
        Check::BaseCanonical => case.set(Field::GuestGsBase, NOT_CANONICAL),
        Check::BaseWide => case.set(Field::GuestDsBase, 1 << 32),
        Check::Virtual8086Limit => {
            case.virtual_8086();
            case.set(Field::GuestFsLimit, 0xfffff);
        }
        Check::Virtual8086Rights => {
            case.virtual_8086();
            case.set(Field::GuestCsAccessRights, 0xfb);
        }
        Check::CodeType => case.remove(Field::GuestCsAccessRights, access::ACCESSED.into()),
        Check::StackType => case.add(Field::GuestSsAccessRights, access::CODE.into()),
        Check::DataType => case.remove(Field::GuestEsAccessRights, access::ACCESSED.into()),
        Check::SystemSegment => case.remove(Field::GuestFsAccessRights, access::S.into()),
        Check::CodePrivilege => case.add(Field::GuestCsAccessRights, access::DPL.into()),
        Check::StackPrivilege => {
            case.add(Field::GuestCsAccessRights, access::DPL.into());
            case.add(Field::GuestSsAccessRights, access::DPL.into());
        }
        Check::DataPrivilege => case.set(Field::GuestDsSelector, 0x13),
        Check::SegmentPresent => case.remove(Field::GuestGsAccessRights, present.into()),
        Check::SegmentReserved => case.add(Field::GuestEsAccessRights, 1 << 9),
        Check::CodeDefault => case.add(Field::GuestCsAccessRights, access::DB.into()),
        Check::SegmentGranularity => case.set(Field::GuestSsLimit, 0xffff_0000),
        Check::TrType => case.set(Field::GuestTrAccessRights, u64::from(present | 3)),
        Check::TrKind => case.set(Field::GuestTrAccessRights, u64::from(present | access::UNUSABLE | 11)),
        Check::TrGranularity => case.set(Field::GuestTrLimit, 0x10_0000),
        Check::LdtrType => case.local_table(present | 3, 0xff),
        Check::LdtrKind => case.local_table(2, 0xff),
        Check::LdtrGranularity => case.local_table(present | access::GRANULARITY | 2, 0xff),
        _ => panic!("no breaker for {check:?}"),
    }
}

fn break_guest_rest(check: Check, case: &mut Case) {
    match check {
        Check::TableBase => case.set(Field::GuestIdtrBase, NOT_CANONICAL),
        Check::TableLimit => case.set(Field::GuestGdtrLimit, 0x1_0000),
        Check::RipWide => {
            case.remove(Field::GuestCsAccessRights, access::LONG.into());
            case.set(Field::GuestRip, 1 << 32);
        }
        Check::RipCanonical => case.set(Field::GuestRip, NOT_CANONICAL),
        Check::RflagsReserved => case.set(Field::GuestRflags, 0),
        Check::RflagsVirtual8086 => {
            case.virtual_8086();
            case.add(Field::VmEntryControls, entry::IA32E_MODE_GUEST.into());
            case.add(Field::GuestEfer, efer::LMA | efer::LME);
            case.add(Field::GuestCr4, cr4::PAE);
        }
        Check::RflagsInterrupt => case.event(interruption::EXTERNAL_INTERRUPT, 32),
        Check::ActivityUnknown => case.set(Field::GuestActivityState, 4),
        Check::ActivityHltPrivilege => {
            case.set(Field::GuestActivityState, activity::HLT);
            for (selector, rights) in [
                (Field::GuestCsSelector, Field::GuestCsAccessRights),
                (Field::GuestSsSelector, Field::GuestSsAccessRights),
            ] {
                case.add(selector, 3);
                case.add(rights, access::DPL.into());
            }
        }
        Check::ActivityBlocking => {
            case.set(Field::GuestActivityState, activity::HLT);
            case.blocked(interruptibility::BLOCKING_BY_MOV_SS);
        }
        Check::ActivityEvent => {
            case.set(Field::GuestActivityState, activity::WAIT_FOR_SIPI);
            case.event(interruption::NMI, 2);
        }
        Check::InterruptibilityReserved => case.blocked(1 << 5),
        Check::InterruptibilityBoth => case.blocked(3),
        Check::InterruptibilitySti => case.blocked(interruptibility::BLOCKING_BY_STI),
        Check::InterruptibilityExternal => {
            case.add(Field::GuestRflags, rflags::IF);
            case.event(interruption::EXTERNAL_INTERRUPT, 32);
            case.blocked(interruptibility::BLOCKING_BY_STI);
        }
        Check::InterruptibilityNmi => {
            case.event(interruption::NMI, 2);
            case.blocked(interruptibility::BLOCKING_BY_MOV_SS);
        }
        Check::InterruptibilitySmi => case.blocked(interruptibility::BLOCKING_BY_SMI),
        Check::InterruptibilityVirtualNmi => {
            case.pin(pin::NMI_EXITING | pin::VIRTUAL_NMIS);
            case.event(interruption::NMI, 2);
            case.blocked(interruptibility::BLOCKING_BY_NMI);
        }
        Check::InterruptibilityEnclave => case.blocked(interruptibility::ENCLAVE_INTERRUPTION),
        Check::PendingDebugReserved => case.set(Field::GuestPendingDebugExceptions, 1 << 13),
        Check::PendingDebugSingleStep => {
            case.set(Field::GuestActivityState, activity::HLT);
            case.set(Field::GuestPendingDebugExceptions, pending_debug::BS);
        }
        Check::LinkPointerAddress => case.set(Field::VmcsLinkPointer, OTHER + 1),
        Check::LinkPointerRevision => {
            case.machine.poke(OTHER, 4, u64::from(REVISION | SHADOW));
            case.set(Field::VmcsLinkPointer, OTHER);
        }
        Check::LinkPointerCurrent => case.set(Field::VmcsLinkPointer, VMCS),
        _ => panic!("no breaker for {check:?}"),
    }
}
