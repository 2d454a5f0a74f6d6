//! `tls-server-end-point` channel binding (RFC 5929, section 4.1): a hash of the server's certificate.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::der::{OBJECT_IDENTIFIER, SEQUENCE, element};

/// `[0]`, constructed: the hash algorithm in RSASSA-PSS parameters.
const CONTEXT_0: u8 = 0xA0;

/// 1.2.840.113549.1.1.*, PKCS #1; the last arc says which.
const PKCS1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4.3.*, ECDSA with SHA-2.
const ECDSA_SHA2: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
/// 1.2.840.10045.4.1, ECDSA with SHA-1.
const ECDSA_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];
/// 2.16.840.1.101.3.4.2.*, the SHA-2 hashes themselves.
const NIST_HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The `tls-server-end-point` hash of a certificate in DER.
///
/// It is made with the hash function of the certificate's own signature, but SHA-256 in place of MD5 and SHA-1.
/// `None` if the signature has no hash function of its own (Ed25519), or an unknown one: there is no channel binding
/// with such a certificate.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm AlgorithmIdentifier, signature }`.
fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (_, after_tbs) = element(body, SEQUENCE)?;
    let (algorithm, _) = element(after_tbs, SEQUENCE)?;
    let (identifier, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    if identifier == ECDSA_SHA1 {
        return Some(Hash::Sha256);
    }
    let (arc, family) = identifier.split_last()?;
    match (family, arc) {
        // MD5 (4) and SHA-1 (5) are replaced by SHA-256, which is also 11.
        (PKCS1, 4 | 5 | 11) => Some(Hash::Sha256),
        (PKCS1, 12) => Some(Hash::Sha384),
        (PKCS1, 13) => Some(Hash::Sha512),
        (PKCS1, 14) => Some(Hash::Sha224),
        (PKCS1, 10) => pss_hash(parameters),
        (ECDSA_SHA2, 1) => Some(Hash::Sha224),
        (ECDSA_SHA2, 2) => Some(Hash::Sha256),
        (ECDSA_SHA2, 3) => Some(Hash::Sha384),
        (ECDSA_SHA2, 4) => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in its parameters; without one it is SHA-1.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    let Some((hash, _)) = element(parameters, CONTEXT_0) else { return Some(Hash::Sha256) };
    let (algorithm, _) = element(hash, SEQUENCE)?;
    let (identifier, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    let (arc, family) = identifier.split_last()?;
    match (family, arc) {
        (NIST_HASH, 1) => Some(Hash::Sha256),
        (NIST_HASH, 2) => Some(Hash::Sha384),
        (NIST_HASH, 3) => Some(Hash::Sha512),
        (NIST_HASH, 4) => Some(Hash::Sha224),
        // SHA-1 (1.3.14.3.2.26).
        _ if identifier == [0x2B, 0x0E, 0x03, 0x02, 0x1A] => Some(Hash::Sha256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A certificate as far as this module looks: an empty `tbsCertificate` and an algorithm.
    fn certificate(identifier: &[u8], parameters: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, body: &[u8]| [&[tag, body.len() as u8], body].concat();
        let algorithm = wrap(SEQUENCE, &[&wrap(OBJECT_IDENTIFIER, identifier)[..], parameters].concat());
        wrap(SEQUENCE, &[&wrap(SEQUENCE, b"")[..], &algorithm, b"\x03\x00"].concat())
    }

    fn check(family: &[u8], arc: u8, parameters: &[u8], expected: Option<Hash>) {
        let certificate = certificate(&[family, &[arc]].concat(), parameters);
        assert_eq!(signature_hash(&certificate), expected, "{arc}");
    }

    #[test]
    fn the_hash_is_that_of_the_signature_but_never_a_broken_one() {
        check(PKCS1, 4, &[], Some(Hash::Sha256));
        check(PKCS1, 5, &[], Some(Hash::Sha256));
        check(PKCS1, 11, &[], Some(Hash::Sha256));
        check(PKCS1, 12, &[], Some(Hash::Sha384));
        check(PKCS1, 13, &[], Some(Hash::Sha512));
        check(ECDSA_SHA2, 3, &[], Some(Hash::Sha384));
        // RSASSA-PSS with SHA-384, and with its default.
        let sha384 = b"\x30\x0f\xa0\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02";
        check(PKCS1, 10, sha384, Some(Hash::Sha384));
        check(PKCS1, 10, b"\x30\x00", Some(Hash::Sha256));
        // Ed25519 (1.3.101.112).
        check(&[0x2B, 0x65], 0x70, &[], None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = tls_server_end_point(&bytes);
            let _ = tls_server_end_point(&certificate(&bytes[..bytes.len().min(20)], &bytes));
        }
    }
}
