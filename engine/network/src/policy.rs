//! Whom a guest may reach: what has no rule is refused.

use crate::addresses::{GATEWAY, is_local};
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Addresses learned from names, at most; then they are forgotten and asked for again.
const MOST_LEARNED: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Nobody: what is published is reached, and reaches nobody.
    None,
    /// Any address but the host's loopback.
    Any,
    /// What the Internet routes.
    Public,
    /// The host's loopback, as the gateway.
    Host,
    Range {
        network: u32,
        mask: u32,
    },
    /// A name, or with `under` all names that end with it.
    Name {
        labels: String,
        under: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    target: Target,
    port: Option<u16>,
}

/// Rules, and the addresses that names were found to have.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    learned: HashMap<Ipv4Addr, Vec<Option<u16>>>,
}

impl Policy {
    /// Rules as on the command line: `none`, `any`, `public`, `host`, `ADDRESS[/BITS]`, `NAME`, `*.NAME`, each with
    /// `:PORT` or without. Without any, `public`. An error says which cannot be one.
    pub fn parse(rules: &[String]) -> Result<Self, String> {
        let mut parsed = rules.iter().map(|rule| parse_rule(rule)).collect::<Result<Vec<_>, _>>()?;
        if parsed.is_empty() {
            parsed.push(Rule { target: Target::Public, port: None });
        }
        Ok(Self { rules: parsed, learned: HashMap::new() })
    }

    /// Where a connection to an address really goes, if the guest may make it. `port` is None for an echo.
    pub fn destination(&self, address: Ipv4Addr, port: Option<u16>) -> Option<Ipv4Addr> {
        if address == GATEWAY {
            let allowed = self.rules.iter().any(|rule| rule.target == Target::Host && fits(rule.port, port));
            return allowed.then_some(Ipv4Addr::LOCALHOST);
        }
        if is_local(address) || is_never_routed(address) {
            return None;
        }
        let by_rule = self.rules.iter().any(|rule| {
            fits(rule.port, port)
                && match rule.target {
                    Target::Any => true,
                    Target::Public => is_public(address),
                    Target::Range { network, mask } => u32::from(address) & mask == network,
                    Target::None | Target::Host | Target::Name { .. } => false,
                }
        });
        let by_name =
            self.learned.get(&address).is_some_and(|ports| ports.iter().any(|&allowed| fits(allowed, port)));
        (by_rule || by_name).then_some(address)
    }

    /// Whether all names may be asked for, and asked for in any way.
    pub fn resolves_all(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.target, Target::Any | Target::Public))
    }

    /// Whether a name, in lower case and without its last dot, may be asked for.
    pub fn resolves(&self, name: &str) -> bool {
        self.resolves_all() || self.ports_of(name).next().is_some()
    }

    /// An allowed name has this address: it may be reached at the name's ports.
    pub fn learn(&mut self, name: &str, address: Ipv4Addr) {
        let ports: Vec<_> = self.ports_of(name).collect();
        if ports.is_empty() {
            return;
        }
        if self.learned.len() >= MOST_LEARNED {
            self.learned.clear();
        }
        let known = self.learned.entry(address).or_default();
        for port in ports {
            if !known.contains(&port) {
                known.push(port);
            }
        }
    }

    fn ports_of(&self, name: &str) -> impl Iterator<Item = Option<u16>> {
        self.rules.iter().filter(move |rule| names(&rule.target, name)).map(|rule| rule.port)
    }
}

fn names(target: &Target, name: &str) -> bool {
    match target {
        Target::Name { labels, under: false } => labels == name,
        Target::Name { labels, under: true } => {
            name.strip_suffix(labels.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        _ => false,
    }
}

fn fits(allowed: Option<u16>, port: Option<u16>) -> bool {
    allowed.is_none() || allowed == port
}

/// What no rule opens, but `host` under the gateway's address: the host's loopback and its link (where clouds
/// keep their secrets), groups, and what is no address. RFC 6890.
fn is_never_routed(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
}

/// Not of a private, shared, documentation or benchmark network (RFC 6890).
fn is_public(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    !(address.is_private()
        || address.is_documentation()
        || (first == 100 && second & 0xC0 == 64)
        || (first == 192 && second == 0 && third == 0)
        || (first == 198 && second & 0xFE == 18))
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let (target, port) = match text.rsplit_once(':') {
        Some((target, port)) => {
            let port = port.parse().ok().filter(|&port: &u16| port != 0);
            (target, Some(port.ok_or_else(|| format!("{text:?}: a port is a number from 1 to 65535"))?))
        }
        None => (text, None),
    };
    Ok(Rule { target: parse_target(target, text)?, port })
}

fn parse_target(target: &str, text: &str) -> Result<Target, String> {
    match target {
        "none" => return Ok(Target::None),
        "any" => return Ok(Target::Any),
        "public" => return Ok(Target::Public),
        "host" => return Ok(Target::Host),
        _ => {}
    }
    let (address, bits) =
        target.split_once('/').map_or((target, None), |(address, bits)| (address, Some(bits)));
    if let Ok(address) = address.parse::<Ipv4Addr>() {
        let bits = bits.map_or(Ok(32), str::parse::<u32>).ok().filter(|&bits| bits <= 32);
        let bits = bits.ok_or_else(|| format!("{text:?}: a range is ADDRESS/BITS, with 0 to 32 bits"))?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        return Ok(Target::Range { network: u32::from(address) & mask, mask });
    }
    let (labels, under) = target.strip_prefix("*.").map_or((target, false), |labels| (labels, true));
    let is_name = !labels.is_empty()
        && labels.len() <= 253
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    // "10.0.0" is a mistake, and not a name: no top-level domain is a number.
    let is_number =
        labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_name || is_number {
        return Err(format!(
            "{text:?} is not a rule: write any, public, none, host, ADDRESS/BITS, NAME or *.NAME, with :PORT or without"
        ));
    }
    Ok(Target::Name { labels: labels.to_ascii_lowercase(), under })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str]) -> Policy {
        Policy::parse(&rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn reaches(policy: &Policy, address: &str, port: u16) -> bool {
        policy.destination(address.parse().unwrap(), Some(port)).is_some()
    }

    #[test]
    fn without_rules_the_internet_and_nothing_nearer() {
        let policy = policy(&[]);
        assert!(reaches(&policy, "8.8.8.8", 53) && policy.resolves("example.org"));
        for nearer in [
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "10.0.2.2",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "10.0.2.9",
        ] {
            assert!(!reaches(&policy, nearer, 80), "{nearer}");
        }
    }

    #[test]
    fn ranges_and_ports() {
        let policy = policy(&["192.168.0.0/16:443", "10.9.8.7"]);
        assert!(reaches(&policy, "192.168.5.5", 443) && !reaches(&policy, "192.168.5.5", 80));
        assert!(reaches(&policy, "10.9.8.7", 1) && !reaches(&policy, "10.9.8.6", 1));
        assert!(!reaches(&policy, "8.8.8.8", 443) && !policy.resolves("example.org"));
    }

    #[test]
    fn the_host_is_reached_by_its_own_rule_only() {
        assert_eq!(policy(&["host:8080"]).destination(GATEWAY, Some(8080)), Some(Ipv4Addr::LOCALHOST));
        assert!(!reaches(&policy(&["host:8080"]), "10.0.2.2", 81));
        assert!(
            !reaches(&policy(&["any"]), "10.0.2.2", 8080)
                && !reaches(&policy(&["127.0.0.0/8"]), "127.0.0.1", 1)
        );
    }

    #[test]
    fn names_open_the_addresses_that_they_have() {
        let mut policy = policy(&["shop.test:443", "*.example.org"]);
        assert!(policy.resolves("shop.test") && policy.resolves("a.example.org"));
        for other in ["example.org", "xshop.test", "test", "aexample.org", "", "x.shop.test"] {
            assert!(!policy.resolves(other), "{other}");
        }
        policy.learn("other.org", "7.7.7.7".parse().unwrap());
        policy.learn("shop.test", "8.8.8.8".parse().unwrap());
        policy.learn("a.example.org", "127.0.0.1".parse().unwrap());
        assert!(reaches(&policy, "8.8.8.8", 443) && !reaches(&policy, "8.8.8.8", 80));
        assert!(!reaches(&policy, "7.7.7.7", 443) && !reaches(&policy, "127.0.0.1", 80));
    }

    #[test]
    fn what_is_no_rule_is_said() {
        for wrong in ["", ":80", "a:0", "a:x", "a:65536", "1.2.3.4/33", "1.2.3", "a b", "*.", "*.*.a", "a..b"]
        {
            assert!(
                Policy::parse(&[wrong.to_owned()]).unwrap_err().contains(&format!("{wrong:?}")),
                "{wrong}"
            );
        }
    }
}
