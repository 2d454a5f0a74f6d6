//! By a POST request.

use std::sync::Arc;

use serde_json::Value;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

use super::PATIENCE;

/// Posts a body. What went wrong, in words without the URL, which may be a secret.
pub(super) fn post(url: &Url, body: &Value) -> Result<(), String> {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .user_agent(concat!("barkeep/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .max_redirects(3)
        .build()
        .into();
    let request = agent.post(url.as_str()).header("content-type", "application/json");
    match request.send(body.to_string()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string().replace(url.as_str(), "(its URL)")),
    }
}
