//! Just enough of ASN.1 DER to find one's way in a certificate.

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;

/// Splits an element of this tag off the front: its contents, and what follows it.
pub(crate) fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = any_element(bytes)?;
    (found == tag).then_some((contents, rest))
}

/// Splits any element off the front: its tag, its contents, and what follows it.
pub(crate) fn any_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match *first {
        short @ 0..=0x7F => (usize::from(short), rest),
        long => {
            let digits = usize::from(long & 0x7F);
            if !(1..=4).contains(&digits) {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(digits)?;
            (digits.iter().fold(0_usize, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((*tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_short_and_long_lengths() {
        assert_eq!(element(b"\x30\x02ab-", SEQUENCE), Some((&b"ab"[..], &b"-"[..])));
        assert_eq!(element(b"\x30\x81\x02ab", SEQUENCE), Some((&b"ab"[..], &b""[..])));
        assert_eq!(element(b"\x31\x00", SEQUENCE), None);
        for bad in
            [&b""[..], b"\x30", b"\x30\x03ab", b"\x30\x80ab", b"\x30\x85\0\0\0\0\x01a", b"\x30\x82\x01"]
        {
            assert_eq!(element(bad, SEQUENCE), None, "{bad:?}");
        }
    }
}
