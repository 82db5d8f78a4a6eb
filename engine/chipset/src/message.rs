//! Interrupt messages: what I/O APIC, MSI and interprocessor interrupts put on the bus (SDM vol. 3, 11.11).

/// The destination that every local APIC answers to, once widened to x2APIC's 32 bits.
pub const BROADCAST: u32 = u32::MAX;

/// Delivery modes, as encoded in bits 8-10 of ICR, LVT, redirection entries and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To every CPU of the destination, by vector.
    Fixed,
    /// To the CPU of the destination that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt: accepted and ignored, there is no SMM.
    SystemManagement,
    /// Reserved encoding 3.
    Reserved,
    /// Non-maskable interrupt.
    NonMaskable,
    /// INIT.
    Init,
    /// Start-up IPI: the vector is the page at which the CPU starts.
    StartUp,
    /// The vector comes from the 8259A.
    External,
}

impl Delivery {
    /// From the three bits of the encoding (higher bits are ignored).
    pub fn from_bits(bits: u32) -> Delivery {
        match bits & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::SystemManagement,
            3 => Delivery::Reserved,
            4 => Delivery::NonMaskable,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            _ => Delivery::External,
        }
    }
}

/// One interrupt on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// APIC id, or a logical destination; [`BROADCAST`] for all.
    pub destination: u32,
    /// `destination` is compared with the logical destination register instead of the id.
    pub logical: bool,
    /// How it is delivered.
    pub delivery: Delivery,
    /// Vector; of a start-up IPI the page number.
    pub vector: u8,
    /// Level triggered: its EOI is broadcast to the I/O APIC.
    pub level: bool,
}

impl InterruptMessage {
    /// Decode a message signalled interrupt (SDM vol. 3, 11.11.1 and 11.11.2).
    ///
    /// `None` if the address is not in the interrupt range `0xfeexxxxx`, or for a level deassertion.
    pub fn from_msi(address: u64, data: u32) -> Option<InterruptMessage> {
        if address >> 20 != 0xfee {
            return None;
        }
        let level = data & (1 << 15) != 0;
        if level && data & (1 << 14) == 0 {
            return None;
        }
        Some(InterruptMessage {
            destination: widen_destination((address >> 12) as u8),
            logical: address & (1 << 2) != 0,
            delivery: Delivery::from_bits(data >> 8),
            vector: data as u8,
            level,
        })
    }
}

/// An 8-bit destination as x2APIC's 32 bits: 0xff is broadcast.
pub fn widen_destination(destination: u8) -> u32 {
    if destination == 0xff { BROADCAST } else { u32::from(destination) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_decodes_destination_mode_and_vector() {
        let message = InterruptMessage::from_msi(0xfee0_3004, 0x0141).unwrap();
        assert_eq!((message.destination, message.logical), (3, true));
        assert_eq!((message.delivery, message.vector), (Delivery::LowestPriority, 0x41));
        assert!(!message.level);
    }

    #[test]
    fn msi_to_id_ff_is_a_broadcast() {
        assert_eq!(InterruptMessage::from_msi(0xfeef_f000, 0x30).unwrap().destination, BROADCAST);
    }

    #[test]
    fn msi_outside_the_interrupt_range_is_refused() {
        assert_eq!(InterruptMessage::from_msi(0xfed0_0000, 0x30), None);
        assert_eq!(InterruptMessage::from_msi(0x1_fee0_0000, 0x30), None);
    }
}
