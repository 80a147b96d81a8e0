//! Ethernet addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `SafeKit`'s default VMAC: `5A:FE` and the address in hexadecimal.
    pub fn of_vip(addr: Ipv4Addr) -> Self {
        let [a, b, c, d] = addr.octets();
        Self([0x5a, 0xfe, a, b, c, d])
    }

    /// Whether the group bit is set: such an address cannot be a station's.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            *octet = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| {
                    format!("`{text}` is not a MAC address such as 5a:fe:c0:a8:01:de")
                })?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(format!("`{text}` has more than six octets")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_vmac_is_safekits() {
        assert_eq!(Mac::of_vip(Ipv4Addr::new(192, 168, 1, 222)).to_string(), "5a:fe:c0:a8:01:de");
    }

    #[test]
    fn mac_parses_what_it_prints() {
        let mac = Mac([0x5a, 0xfe, 0, 1, 2, 0xff]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "5a:fe",
            "5a:fe:00:01:02:03:04",
            "5a-fe-00-01-02-03",
            "5a:fe:0:01:02:03",
            "zz:fe:00:01:02:03",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
