//! The files that TLS needs: certificates, keys, revocation lists, all in PEM form.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;
use crate::replication::conninfo::{Settings, SslCertMode};

/// All certificates in a file; there must be one.
pub(super) fn certificates(
    file: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(what, file, "there is no certificate in it")),
        Err(error) => Err(unusable(what, file, &pem_reason(&error))),
    }
}

/// The client's certificate and key. A certificate file that does not exist means none, as in libpq.
pub(super) fn client_key(
    settings: &Settings,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    const WHAT: &str = "client key";
    let (Some(certificate), Some(key)) = (&settings.ssl_cert, &settings.ssl_key) else { return Ok(None) };
    if settings.ssl_cert_mode == SslCertMode::Disable || !certificate.exists() {
        return Ok(None);
    }
    let chain = certificates(certificate, "client certificate")?;
    let metadata = match std::fs::metadata(key) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TlsError::NoKey { certificate: certificate.clone(), key: key.clone() });
        }
        Err(error) => return Err(unusable(WHAT, key, &error.to_string())),
    };
    // libpq's rule: owner only, but root's keys may be read by their group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if !metadata.is_file() || metadata.mode() & forbidden != 0 {
        return Err(unusable(WHAT, key, "it must be a plain file with mode 0600, or 0640 if root owns it"));
    }
    let pem = std::fs::read(key).map_err(|error| unusable(WHAT, key, &error.to_string()))?;
    if contains(&pem, b"ENCRYPTED") {
        return Err(unusable(
            WHAT,
            key,
            "it is encrypted, which is not supported; decrypt it with openssl pkey",
        ));
    }
    let der =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(WHAT, key, &pem_reason(&error)))?;
    let signing_key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|error| unusable(WHAT, key, &error.to_string()))?;
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(unusable(WHAT, key, "it does not belong to the client certificate"))
        }
        _ => Ok(Some(Arc::new(certified))),
    }
}

/// All revocation lists in a file.
pub(super) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    CertificateRevocationListDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("revocation list", file, &pem_reason(&error)))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

pub(super) fn unusable(what: &'static str, file: &Path, reason: &str) -> TlsError {
    TlsError::File { what, file: file.to_owned(), reason: reason.to_owned() }
}

fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "it holds nothing of the kind in PEM form".to_owned(),
        pem::Error::Io(error) => error.to_string(),
        error => format!("it is not PEM: {error:?}"),
    }
}
