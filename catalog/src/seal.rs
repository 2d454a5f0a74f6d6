//! Seals: signatures that show that a record was written by who has this home's key, and was not changed since.
//!
//! The key, Ed25519, is made at first use: `.barkeep/seal-key` (PKCS #8, mode 0600), its public half beside it in hexadecimal
//! digits as `.barkeep/seal-key.pub`. It proves no more than that: whoever can write to the home as its owner can make a
//! new key and new records. Who wants to notice that keeps a copy of the public half elsewhere.

use std::fs;
use std::path::PathBuf;

use barkeep_transport::durable::{DurableError, TempFile};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::Layout;
use crate::store::{CatalogError, read_bounded};

/// Largest key file read, in bytes.
const KEY_BYTES_MAX: u64 = 4096;
/// Owner only.
const PRIVATE: u32 = 0o600;

/// A signature and the key it can be checked with, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The public key.
    pub key: String,
    /// The signature.
    pub signature: String,
}

/// What a seal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The text is as it was signed with this home's key.
    Sound,
    /// There is no seal.
    Missing,
    /// The text was changed, or signed with another key.
    Broken,
}

impl Sealed {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Sealed::Sound => "signed",
            Sealed::Missing => "not signed",
            Sealed::Broken => "not as it was signed",
        }
    }
}

/// Signs a text, with a key that is made if there is none.
///
/// # Errors
/// When the key can't be read, made or kept.
pub fn seal(layout: &Layout, text: &[u8]) -> Result<Seal, CatalogError> {
    let pair = key_pair(layout)?;
    Ok(Seal { key: hex(pair.public_key().as_ref()), signature: hex(pair.sign(text).as_ref()) })
}

/// Judges a text by its seal.
///
/// # Errors
/// When the home's key can't be read.
pub fn judge(layout: &Layout, text: &[u8], seal: Option<&Seal>) -> Result<Sealed, CatalogError> {
    let Some(seal) = seal else { return Ok(Sealed::Missing) };
    let known = read_bounded(&public_path(layout), KEY_BYTES_MAX)?;
    let is_known = known.is_none_or(|known| known.trim_ascii() == seal.key.as_bytes());
    let signed = unhex(&seal.key).zip(unhex(&seal.signature)).is_some_and(|(key, signature)| {
        UnparsedPublicKey::new(&ED25519, key).verify(text, &signature).is_ok()
    });
    Ok(if is_known && signed { Sealed::Sound } else { Sealed::Broken })
}

fn key_pair(layout: &Layout) -> Result<Ed25519KeyPair, CatalogError> {
    let path = layout.private().join("seal-key");
    let failed = |reason: &str| CatalogError::Read {
        path: path.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, reason.to_owned()),
    };
    let stored = match read_bounded(&path, KEY_BYTES_MAX)? {
        Some(stored) => stored,
        None => {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|_| failed("the system gives no random numbers"))?;
            barkeep_transport::durable::create_dir_all(&layout.private())?;
            match publish(&path, made.as_ref(), PRIVATE) {
                Ok(()) => {}
                // Somebody was faster: then that is the key.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            fs::read(&path).map_err(|source| CatalogError::Read { path: path.clone(), source })?
        }
    };
    let pair = Ed25519KeyPair::from_pkcs8(&stored).map_err(|_| failed("this is no Ed25519 key"))?;
    let public = public_path(layout);
    if read_bounded(&public, KEY_BYTES_MAX)?.is_none() {
        barkeep_transport::durable::write(
            &public,
            format!("{}\n", hex(pair.public_key().as_ref())).as_bytes(),
        )?;
    }
    Ok(pair)
}

fn publish(path: &std::path::Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let mut file = TempFile::create_mode(path, mode)?;
    file.write_bytes(bytes)?;
    file.publish_new()
}

fn public_path(layout: &Layout) -> PathBuf {
    layout.private().join("seal-key.pub")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.len().is_multiple_of(2).then(|| digits.chunks(2))?;
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_changed_text_and_a_strange_key_break_the_seal() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layout = |home: &tempfile::TempDir| Layout::new("pg", home.path(), home.path());
        let layouts = [layout(&home), layout(&other)];
        let made = seal(&layouts[0], b"all is well").unwrap();
        assert_eq!(seal(&layouts[0], b"all is well").unwrap(), made, "the key stays");
        fn judged(layout: &Layout, text: &[u8], seal: Option<&Seal>) -> Sealed {
            judge(layout, text, seal).unwrap()
        }
        assert_eq!(judged(&layouts[0], b"all is well", Some(&made)), Sealed::Sound);
        assert_eq!(judged(&layouts[0], b"all is fine", Some(&made)), Sealed::Broken);
        assert_eq!(judged(&layouts[0], b"all is well", None), Sealed::Missing);
        let strange = seal(&layouts[1], b"all is well").unwrap();
        assert_eq!(judged(&layouts[0], b"all is well", Some(&strange)), Sealed::Broken);
        for broken in ["", "0", "zz", "\u{e4}\u{e4}"] {
            let broken = Seal { signature: broken.to_owned(), ..made.clone() };
            assert_eq!(judged(&layouts[0], b"all is well", Some(&broken)), Sealed::Broken);
        }
        let mode = fs::metadata(home.path().join(".barkeep/seal-key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_is_none_is_told() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new("pg", home.path(), home.path());
        fs::create_dir(layout.private()).unwrap();
        fs::write(layout.private().join("seal-key"), "rubbish").unwrap();
        let error = seal(&layout, b"x").unwrap_err();
        assert!(with_sources(&error).contains("no Ed25519 key"), "{error:?}");
    }

    fn with_sources(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            text.push_str(&format!(": {error}"));
            next = error.source();
        }
        text
    }
}
