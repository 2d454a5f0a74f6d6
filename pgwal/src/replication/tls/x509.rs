//! What is looked up in a server's certificate: the names it is for, its term, and for old ones its signature.

use std::net::IpAddr;

use crate::wire::der::{OBJECT_IDENTIFIER, SEQUENCE, any_element, element};

const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
/// `[0]` and `[3]` of a TBSCertificate: its version and its extensions.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// `[2]` and `[7]` of a GeneralName.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
/// 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1D, 0x13];
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Whether a certificate is for `host`, a name or an address, by the rules of libpq's `verify-full`:
/// a subject alternative name, or the common name if there are none of the host's kind.
pub(super) fn names_host(certificate: &[u8], host: &str) -> bool {
    let Some(certificate) = Certificate::read(certificate) else { return false };
    let address: Option<IpAddr> = host.parse().ok();
    let mut any_name = false;
    for (kind, name) in certificate.alternative_names() {
        match kind {
            DNS_NAME => {
                any_name = true;
                if name_matches(name, host) {
                    return true;
                }
            }
            IP_ADDRESS => {
                any_name = true;
                let same = match address {
                    Some(IpAddr::V4(address)) => name == address.octets(),
                    Some(IpAddr::V6(address)) => name == address.octets(),
                    None => false,
                };
                if same {
                    return true;
                }
            }
            _ => {}
        }
    }
    !any_name && certificate.common_name().is_some_and(|name| name_matches(name, host))
}

/// Whether a certificate's term includes a moment, in seconds since 1970; `None` if the term cannot be read.
pub(super) fn is_valid_at(certificate: &[u8], now: u64) -> Option<bool> {
    let (not_before, rest) = time(Certificate::read(certificate)?.validity)?;
    let (not_after, _) = time(rest)?;
    let now = i64::try_from(now).ok()?;
    Some((not_before..=not_after).contains(&now))
}

/// A certificate's key, as its parts in DER.
pub(super) struct PublicKey<'a> {
    /// The contents of the key's AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    /// The key itself.
    pub(super) bits: &'a [u8],
}

/// The parts of a certificate that are of use.
pub(super) struct Certificate<'a> {
    /// The TBSCertificate, whole: what the signature is for.
    pub(super) signed: &'a [u8],
    /// The contents of the signature's AlgorithmIdentifier.
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// No extensions, and none to be expected.
    pub(super) is_version_1: bool,
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) public_key: PublicKey<'a>,
    validity: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Takes a certificate apart; `None` if it is malformed.
    pub(super) fn read(certificate: &'a [u8]) -> Option<Certificate<'a>> {
        let (body, _) = element(certificate, SEQUENCE)?;
        let (mut rest, after_signed) = element(body, SEQUENCE)?;
        let signed = body.get(..body.len().checked_sub(after_signed.len())?)?;
        let (signature_algorithm, after) = element(after_signed, SEQUENCE)?;
        let signature = bit_string(after)?;

        let is_version_1 = match element(rest, VERSION) {
            Some((_, after)) => {
                rest = after;
                false
            }
            None => true,
        };
        let (_serial, _, rest) = any_element(rest)?;
        let (_algorithm, rest) = element(rest, SEQUENCE)?;
        let (issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, rest) = element(rest, SEQUENCE)?;
        let (subject, rest) = element(rest, SEQUENCE)?;
        let (key, mut rest) = element(rest, SEQUENCE)?;
        let (algorithm, after) = element(key, SEQUENCE)?;
        let public_key = PublicKey { algorithm, bits: bit_string(after)? };
        let mut extensions = &[][..];
        while let Some((tag, contents, after)) = any_element(rest) {
            if tag == EXTENSIONS {
                (extensions, _) = element(contents, SEQUENCE)?;
            }
            rest = after;
        }
        Some(Certificate {
            signed,
            signature_algorithm,
            signature,
            is_version_1,
            issuer,
            subject,
            public_key,
            validity,
            extensions,
        })
    }

    /// Whether it may sign others: it says so, or is too old to say anything and signed itself.
    pub(super) fn is_authority(&self) -> bool {
        if self.is_version_1 {
            return self.subject == self.issuer;
        }
        let constraints = self.extension(BASIC_CONSTRAINTS).and_then(|value| element(value, SEQUENCE));
        let is_authority = constraints.and_then(|(constraints, _)| element(constraints, BOOLEAN));
        is_authority.is_some_and(|(value, _)| value == [0xFF])
    }

    /// The value of the first extension of this kind.
    fn extension(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.extensions;
        while let Some((extension, after)) = element(rest, SEQUENCE) {
            rest = after;
            let Some((identifier, value)) = element(extension, OBJECT_IDENTIFIER) else { continue };
            if identifier == wanted {
                let value = element(value, BOOLEAN).map_or(value, |(_critical, value)| value);
                return element(value, OCTET_STRING).map(|(value, _)| value);
            }
        }
        None
    }

    /// The kinds and values in the subject alternative name extension.
    fn alternative_names(&self) -> Vec<(u8, &'a [u8])> {
        let mut names = Vec::new();
        let list = self.extension(SUBJECT_ALT_NAME).and_then(|value| element(value, SEQUENCE));
        let mut list = list.map_or(&[][..], |(list, _)| list);
        while let Some((kind, name, after)) = any_element(list) {
            names.push((kind, name));
            list = after;
        }
        names
    }

    /// The last common name of the subject, which is the most specific one.
    fn common_name(&self) -> Option<&'a [u8]> {
        let mut found = None;
        let mut rest = self.subject;
        while let Some((set, after)) = element(rest, SET) {
            rest = after;
            let mut attributes = set;
            while let Some((attribute, after)) = element(attributes, SEQUENCE) {
                attributes = after;
                if let Some((COMMON_NAME, value)) = element(attribute, OBJECT_IDENTIFIER) {
                    found = any_element(value).map(|(_, name, _)| name);
                }
            }
        }
        found
    }
}

/// A bit string of whole bytes.
fn bit_string(bytes: &[u8]) -> Option<&[u8]> {
    let (contents, _) = element(bytes, BIT_STRING)?;
    contents.strip_prefix(&[0])
}

/// Compares without case; `*.` stands for exactly one label (`wildcard_certificate_match` in `fe-secure-common.c`).
///
/// A NUL in the name, an old trick to end it early, makes it match nothing.
fn name_matches(name: &[u8], host: &str) -> bool {
    let host = host.as_bytes();
    if name.contains(&0) || name.is_empty() {
        return false;
    }
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = name.strip_prefix(b"*").filter(|suffix| suffix.first() == Some(&b'.')) else {
        return false;
    };
    let is_address = std::str::from_utf8(host).is_ok_and(|host| host.parse::<IpAddr>().is_ok());
    let Some(label_len) = host.len().checked_sub(suffix.len()) else { return false };
    let (label, host_suffix) = host.split_at(label_len);
    !is_address && !label.is_empty() && !label.contains(&b'.') && host_suffix.eq_ignore_ascii_case(suffix)
}

/// A UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ` in seconds since 1970, and what follows it.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, text, rest) = any_element(bytes)?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_i64, |n, digit| n * 10 + i64::from(digit - b'0'));
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, digits) = digits.split_at(2);
            let year = number(year);
            (if year < 50 { 2000 + year } else { 1900 + year }, digits)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, digits) = digits.split_at(4);
            (number(year), digits)
        }
        _ => return None,
    };
    let mut pairs = digits.chunks(2).map(number);
    let (month, day) = (pairs.next()?, pairs.next()?);
    let (hour, minute, second) = (pairs.next()?, pairs.next()?, pairs.next()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second, rest))
}

/// Days since 1970-01-01 in the Gregorian calendar; years begin in March so that leap days come last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(name: &str, host: &str, expected: bool) {
        assert_eq!(name_matches(name.as_bytes(), host), expected, "{name} {host}");
    }

    #[test]
    fn names_match_as_in_libpq() {
        check("db.example.com", "DB.example.com", true);
        check("*.example.com", "db.example.com", true);
        check("*.example.com", "a.db.example.com", false);
        check("*.example.com", "example.com", false);
        check("*.example.com", ".example.com", false);
        check("*example.com", "db.example.com", false);
        check("db.*.com", "db.example.com", false);
        check("*.0.0.1", "127.0.0.1", false);
        check("127.0.0.1", "127.0.0.1", true);
        check("db.example.com\0.evil.com", "db.example.com", false);
        check("", "", false);
    }

    #[test]
    fn reads_both_kinds_of_time() {
        let wrap = |tag: u8, text: &str| [&[tag, text.len() as u8], text.as_bytes()].concat();
        let check = |tag, text, expected| {
            assert_eq!(time(&wrap(tag, text)).map(|(seconds, _)| seconds), expected, "{text}");
        };
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "20000301000000Z", Some(951_868_800));
        for bad in ["", "Z", "7001010000Z", "701301000000Z", "70010100000xZ", "700101000000"] {
            check(UTC_TIME, bad, None);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), host: String) {
            let _ = names_host(&bytes, &host);
            let _ = is_valid_at(&bytes, 0);
            let _ = name_matches(&bytes, &host);
        }
    }
}
