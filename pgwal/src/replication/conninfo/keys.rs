//! The keys that libpq knows (`PQconninfoOptions` in `fe-connect.c`, up to PostgreSQL 18).

/// What becomes of a key here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Acted on.
    Acted,
    /// Acted on, and never shown.
    Secret,
    /// Accepted because libpq accepts it; does nothing.
    Ignored,
    /// Ignored, and never shown.
    IgnoredSecret,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The environment variable that stands in for it.
    pub(super) variable: Option<&'static str>,
    pub(super) used: Use,
}

impl Key {
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.used, Use::Secret | Use::IgnoredSecret)
    }

    pub(super) fn is_ignored(&self) -> bool {
        matches!(self.used, Use::Ignored | Use::IgnoredSecret)
    }
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn acted(name: &'static str, variable: Option<&'static str>) -> Key {
    Key { name, variable, used: Use::Acted }
}

const fn ignored(name: &'static str, variable: Option<&'static str>) -> Key {
    Key { name, variable, used: Use::Ignored }
}

pub(super) const KEYS: &[Key] = &[
    acted("service", Some("PGSERVICE")),
    acted("servicefile", Some("PGSERVICEFILE")),
    acted("user", Some("PGUSER")),
    Key { name: "password", variable: Some("PGPASSWORD"), used: Use::Secret },
    acted("passfile", Some("PGPASSFILE")),
    acted("channel_binding", Some("PGCHANNELBINDING")),
    acted("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    acted("dbname", Some("PGDATABASE")),
    acted("host", Some("PGHOST")),
    acted("hostaddr", Some("PGHOSTADDR")),
    acted("port", Some("PGPORT")),
    acted("options", Some("PGOPTIONS")),
    acted("application_name", Some("PGAPPNAME")),
    acted("fallback_application_name", None),
    acted("keepalives", None),
    acted("keepalives_idle", None),
    acted("keepalives_interval", None),
    acted("keepalives_count", None),
    acted("tcp_user_timeout", None),
    acted("sslmode", Some("PGSSLMODE")),
    acted("sslnegotiation", Some("PGSSLNEGOTIATION")),
    acted("sslcert", Some("PGSSLCERT")),
    acted("sslkey", Some("PGSSLKEY")),
    acted("sslcertmode", Some("PGSSLCERTMODE")),
    acted("sslrootcert", Some("PGSSLROOTCERT")),
    acted("sslcrl", Some("PGSSLCRL")),
    acted("sslcrldir", Some("PGSSLCRLDIR")),
    acted("sslsni", Some("PGSSLSNI")),
    acted("requirepeer", Some("PGREQUIREPEER")),
    acted("require_auth", Some("PGREQUIREAUTH")),
    acted("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    acted("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    acted("gssencmode", Some("PGGSSENCMODE")),
    acted("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    acted("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    // The kind of connection is the caller's choice: physical replication or SQL.
    ignored("replication", None),
    // Replication commands answer in ASCII or in bytes; SQL connections speak UTF-8.
    ignored("client_encoding", Some("PGCLIENTENCODING")),
    // Compression of TLS is gone from libpq too.
    ignored("sslcompression", Some("PGSSLCOMPRESSION")),
    // Encrypted keys are refused with an error that says so.
    Key { name: "sslpassword", variable: None, used: Use::IgnoredSecret },
    ignored("krbsrvname", Some("PGKRBSRVNAME")),
    ignored("gsslib", Some("PGGSSLIB")),
    ignored("gssdelegation", Some("PGGSSDELEGATION")),
    // Protocol 3.0 is always asked for, which every server grants.
    ignored("min_protocol_version", Some("PGMINPROTOCOLVERSION")),
    ignored("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    Key { name: "scram_client_key", variable: None, used: Use::IgnoredSecret },
    Key { name: "scram_server_key", variable: None, used: Use::IgnoredSecret },
    ignored("sslkeylogfile", None),
    ignored("oauth_issuer", None),
    ignored("oauth_client_id", None),
    Key { name: "oauth_client_secret", variable: None, used: Use::IgnoredSecret },
    ignored("oauth_scope", None),
];
