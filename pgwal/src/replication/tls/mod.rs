//! TLS by rustls, with libpq's meaning of `sslmode`.
//!
//! Two things differ from what rustls does by itself, because they differ in libpq: a server's self-signed
//! certificate is fine when it is the very one in the root file (the PostgreSQL manual's own recipe makes such
//! certificates), and the host's name counts only for `verify-full`, where the common name will do for want of a
//! subject alternative name.

mod files;
mod verify;
mod x509;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::conninfo::{RootCert, Settings, SslCertMode, SslMode, SslNegotiation, TlsVersion};
use files::{certificates, client_key};
use verify::{NoVerifier, Verifier};

/// Where the machine's own authorities may be, by distribution.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// What a client says that begins with TLS at once.
const ALPN: &[u8] = b"postgresql";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The server's certificate is not to be trusted.
    #[error("the server's certificate was refused: {}", explain(.0))]
    Certificate(rustls::Error),
    /// `sslmode` wants the certificate verified and there is nothing to verify it by.
    #[error("sslmode={mode} needs root certificates: {}", missing_root(.file))]
    NoRootCertificates {
        /// The mode.
        mode: &'static str,
        /// Where they were looked for.
        file: Option<PathBuf>,
    },
    /// A file with certificates, a key or a revocation list is not usable.
    #[error("cannot use the {what} \"{}\": {reason}", file.display())]
    File {
        /// What the file is.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a certificate and no key for it.
    #[error("the client certificate \"{}\" is there, but its key \"{}\" is not", certificate.display(), key.display())]
    NoKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// `sslcertmode=require`, and the server did not ask.
    #[error("sslcertmode=require: the server did not ask for a client certificate")]
    NotAskedForCertificate,
    /// The TLS library refused the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A TLS stream, and the hash of the server's certificate for channel binding if it has one.
pub(super) async fn handshake(
    stream: TcpStream,
    host: &str,
    settings: &Settings,
) -> Result<(TlsStream<TcpStream>, Option<Vec<u8>>), TlsError> {
    let asked = Arc::new(AtomicBool::new(false));
    let (config, name) = client_config(host, settings, Arc::clone(&asked))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(handshake_error)?;
    if settings.ssl_cert_mode == SslCertMode::Require && !asked.load(Ordering::Relaxed) {
        return Err(TlsError::NotAskedForCertificate);
    }
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let end_point = certificates.first().and_then(|first| crate::wire::tls_server_end_point(first));
    Ok((stream, end_point))
}

fn handshake_error(error: io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(certificate @ rustls::Error::InvalidCertificate(_)) => {
            TlsError::Certificate(certificate.clone())
        }
        _ => TlsError::Handshake(error),
    }
}

fn client_config(
    host: &str,
    settings: &Settings,
    asked: Arc<AtomicBool>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsError> {
    // Never the process's default provider: an embedding program may have set another, or none.
    let provider = Arc::new(ring::default_provider());
    let versions = match (settings.ssl_min, settings.ssl_max) {
        (TlsVersion::Tls13, _) => vec![&TLS13],
        (_, TlsVersion::Tls12) => vec![&TLS12],
        _ => vec![&TLS12, &TLS13],
    };
    let verifier: Arc<dyn ServerCertVerifier> = match roots(settings)? {
        Some(roots) => Arc::new(Verifier::new(host, settings, roots, &provider)?),
        None => Arc::new(NoVerifier(Arc::clone(&provider))),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let key = client_key(settings, &provider)?;
    let mut config = builder.with_client_cert_resolver(Arc::new(ClientKey { key, asked }));
    if settings.ssl_negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    config.enable_sni = settings.ssl_sni;
    // The verifier has the name as it was typed; a name that TLS cannot carry is only not announced.
    let name = ServerName::try_from(host.to_owned()).or_else(|_| {
        config.enable_sni = false;
        ServerName::try_from("invalid.invalid")
    });
    let name = name.map_err(|_| TlsError::Setup(rustls::Error::General("no server name".to_owned())))?;
    Ok((Arc::new(config), name))
}

/// The trusted certificates, or `None` if the server's is not to be verified.
///
/// As in libpq a root file that exists is used whatever the mode: `require` with one is `verify-ca`.
fn roots(settings: &Settings) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    const WHAT: &str = "root certificate file";
    let verify = settings.ssl_mode >= SslMode::VerifyCa;
    let mode = if settings.ssl_mode == SslMode::VerifyFull { "verify-full" } else { "verify-ca" };
    match &settings.ssl_root_cert {
        RootCert::System => {
            let Some(bundle) = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists()) else {
                return Err(TlsError::NoRootCertificates { mode, file: None });
            };
            certificates(bundle, WHAT).map(Some)
        }
        RootCert::File(file) | RootCert::Default(Some(file)) if file.exists() => {
            certificates(file, WHAT).map(Some)
        }
        RootCert::File(file) | RootCert::Default(Some(file)) if verify => {
            Err(TlsError::NoRootCertificates { mode, file: Some(file.clone()) })
        }
        RootCert::Default(None) if verify => Err(TlsError::NoRootCertificates { mode, file: None }),
        _ => Ok(None),
    }
}

fn missing_root(file: &Option<PathBuf>) -> String {
    match file {
        Some(file) => format!("\"{}\" does not exist; name the file by sslrootcert", file.display()),
        None => "name a file by sslrootcert".to_owned(),
    }
}

fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "it was not signed by an authority in the root certificate file".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName) => {
            "it is not for this host (sslmode=verify-full)".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "it has expired".to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
            "it is malformed, or of the obsolete X.509 version 1".to_owned()
        }
        error => error.to_string(),
    }
}

/// Answers the server's request for a certificate, and notes that it came.
#[derive(Debug)]
struct ClientKey {
    key: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for ClientKey {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}
