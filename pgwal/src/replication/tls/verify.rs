//! Which server certificates are good, by libpq's rules.
//!
//! Chains are webpki's work, with two additions that OpenSSL makes too: a certificate that is itself in the root file
//! is good, and so is a certificate of X.509 version 1 that a root has signed. The PostgreSQL manual's recipes make
//! both kinds, and webpki reads neither.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{CertificateError, DigitallySignedStruct, PeerMisbehaved, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::files::{revocation_lists, unusable};
use super::x509::{Certificate, PublicKey};
use super::{TlsError, x509};
use crate::replication::conninfo::{RootCert, Settings, SslMode};

/// For `require` and weaker modes without a root file: encryption only, as in libpq.
#[derive(Debug)]
pub(super) struct NoVerifier(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        handshake_signature(&self.0, Tls::V12, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        handshake_signature(&self.0, Tls::V13, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The chain by webpki; the server's own certificate and the host's name by libpq's rules.
#[derive(Debug)]
pub(super) struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    roots: Vec<CertificateDer<'static>>,
    /// Whether revocation counts.
    has_revocation_list: bool,
    /// The host, if its name is to be checked.
    host: Option<String>,
}

impl Verifier {
    pub(super) fn new(
        host: &str,
        settings: &Settings,
        roots: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, TlsError> {
        let file = match &settings.ssl_root_cert {
            RootCert::File(file) | RootCert::Default(Some(file)) => file.clone(),
            _ => PathBuf::from("system"),
        };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        if added == 0 {
            return Err(unusable("root certificate file", &file, "none of its certificates can be read"));
        }
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        if let Some(file) = &settings.ssl_crl {
            builder = builder.with_crls(revocation_lists(file)?);
        }
        let chain = builder.build().map_err(|error| match (error, &settings.ssl_crl) {
            (VerifierBuilderError::InvalidCrl(error), Some(list)) => {
                let reason = format!("{error:?} (it must be of version 2 and have a number)");
                unusable("revocation list", list, &reason)
            }
            (error, _) => unusable("root certificate file", &file, &error.to_string()),
        })?;
        let host = (settings.ssl_mode == SslMode::VerifyFull).then(|| host.to_owned());
        let has_revocation_list = settings.ssl_crl.is_some();
        Ok(Verifier { chain, provider: Arc::clone(provider), roots, has_revocation_list, host })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        // webpki would say CaUsedAsEndEntity. Trusted by being listed, but for its term only.
        if self.roots.iter().any(|root| root == end_entity) {
            return check_term(end_entity, now);
        }
        if let Some(certificate) =
            Certificate::read(end_entity).filter(|certificate| certificate.is_version_1)
        {
            return self.verify_version_1(&certificate, end_entity, now);
        }
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, &[], now) {
            Ok(_) => Ok(()),
            // The name comes last in webpki, so the chain is good; ours is the rule for the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A certificate without extensions must be signed by a root itself.
    fn verify_version_1(
        &self,
        certificate: &Certificate<'_>,
        der: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        check_term(der, now)?;
        if self.has_revocation_list {
            return Err(CertificateError::UnknownRevocationStatus.into());
        }
        let is_issuer = |root: &&CertificateDer<'_>| {
            Certificate::read(root).is_some_and(|issuer| {
                issuer.subject == certificate.issuer
                    && issuer.is_authority()
                    && check_term(root, now).is_ok()
                    && is_signed_by(&self.provider, certificate, &issuer.public_key)
            })
        };
        match self.roots.iter().find(is_issuer) {
            Some(_) => Ok(()),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_chain(end_entity, intermediates, server_name, now)?;
        match &self.host {
            Some(host) if !x509::names_host(end_entity, host) => {
                Err(CertificateError::NotValidForName.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        handshake_signature(&self.provider, Tls::V12, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        handshake_signature(&self.provider, Tls::V13, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn check_term(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    match x509::is_valid_at(certificate, now.as_secs()) {
        Some(true) => Ok(()),
        Some(false) => Err(CertificateError::Expired.into()),
        None => Err(CertificateError::BadEncoding.into()),
    }
}

/// Whether a certificate's signature was made with this key, by any algorithm that the provider has.
fn is_signed_by(provider: &CryptoProvider, certificate: &Certificate<'_>, key: &PublicKey<'_>) -> bool {
    provider.signature_verification_algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
            && algorithm.public_key_alg_id().as_ref() == key.algorithm
            && algorithm.verify_signature(key.bits, certificate.signed, certificate.signature).is_ok()
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    V12,
    V13,
}

/// The server's proof that it has the certificate's key.
fn handshake_signature(
    provider: &CryptoProvider,
    tls: Tls,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = &provider.signature_verification_algorithms;
    match Certificate::read(certificate).filter(|certificate| certificate.is_version_1) {
        Some(old) => version_1_signature(algorithms, tls, message, &old.public_key, signature),
        None if tls == Tls::V13 => verify_tls13_signature(message, certificate, signature, algorithms),
        None => verify_tls12_signature(message, certificate, signature, algorithms),
    }
}

/// The same with the bare key, since webpki does not read the certificate around it.
fn version_1_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    tls: Tls,
    message: &[u8],
    key: &PublicKey<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let scheme = signature.scheme;
    let is_pkcs1 = matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    );
    let known = algorithms.mapping.iter().find(|(known, _)| *known == scheme);
    let Some((_, candidates)) = known.filter(|_| tls == Tls::V12 || !is_pkcs1) else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let is_valid = candidates.iter().any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == key.algorithm
            && algorithm.verify_signature(key.bits, message, signature.signature()).is_ok()
    });
    if is_valid {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}
