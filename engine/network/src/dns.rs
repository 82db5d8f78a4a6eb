//! What the name server looks at in messages that pass through it (RFC 1035).

use smoltcp::wire::{DnsPacket, DnsQuestion, DnsRecord, DnsRecordData};
use std::net::Ipv4Addr;

/// The port of name servers.
pub const PORT: u16 = 53;
const REFUSED: u8 = 5;
const RESPONSE: u8 = 0x80;

/// The name that a message asks for, in lower case and without its last dot: None unless it is one question.
pub fn question(message: &[u8]) -> Option<String> {
    let packet = DnsPacket::new_checked(message).ok()?;
    if packet.question_count() != 1 {
        return None;
    }
    let (_, question) = DnsQuestion::parse(packet.payload()).ok()?;
    let labels = packet
        .parse_name(question.name)
        .map(|label| std::str::from_utf8(label.ok()?).ok())
        .collect::<Option<Vec<_>>>()?;
    // A dot in a label would make two of it.
    labels.iter().all(|label| !label.contains('.')).then(|| labels.join(".").to_ascii_lowercase())
}

/// The IPv4 addresses among a reply's answers.
pub fn addresses(message: &[u8]) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let Ok(packet) = DnsPacket::new_checked(message) else { return found };
    let mut rest = packet.payload();
    for _ in 0..packet.question_count() {
        let Ok((behind, _)) = DnsQuestion::parse(rest) else { return found };
        rest = behind;
    }
    for _ in 0..packet.answer_record_count() {
        let Ok((behind, record)) = DnsRecord::parse(rest) else { return found };
        if let DnsRecordData::A(address) = record.data {
            found.push(address);
        }
        rest = behind;
    }
    found
}

/// The refusal of a question; None for what is too short to be one.
pub fn refusal(question: &[u8]) -> Option<Vec<u8>> {
    let mut reply = question.to_vec();
    *reply.get_mut(2)? |= RESPONSE;
    let flags = reply.get_mut(3)?;
    *flags = *flags & 0xF0 | REFUSED;
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04ShOp\x04test\0\0\x01\0\x01";

    #[test]
    fn a_question_and_its_refusal() {
        assert_eq!(question(QUESTION).as_deref(), Some("shop.test"));
        let refused = refusal(QUESTION).unwrap();
        assert_eq!((refused[2], refused[3]), (0x81, 5));
        assert_eq!(refusal(b"ab"), None);
    }

    #[test]
    fn addresses_of_a_reply() {
        let mut reply = QUESTION.to_vec();
        reply[7] = 2;
        reply.extend(b"\xC0\x0C\0\x05\0\x01\0\0\0\x09\0\x02\xC0\x0C"); // a CNAME, then an address
        reply.extend(b"\xC0\x0C\0\x01\0\x01\0\0\0\x09\0\x04\x08\x08\x04\x04");
        assert_eq!(addresses(&reply), ["8.8.4.4".parse::<Ipv4Addr>().unwrap()]);
    }

    #[test]
    fn no_cut_message_is_more_than_it_is() {
        for length in 0..QUESTION.len() {
            assert_eq!(question(&QUESTION[..length]), None);
            assert!(addresses(&QUESTION[..length]).is_empty());
        }
        assert_eq!(question(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xC0\x0C\0\x01\0\x01"), None); // a name that is itself
    }
}
