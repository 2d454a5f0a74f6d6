//! Where values come from, what they mean, and what is refused.

use std::ffi::OsString;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::ChannelBinding;

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<ConnInfo, ConnInfoError> {
    let environment =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    ConnInfo::parse(text, &environment)
}

fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
    with_variables(text, &[("HOME", "/nonexistent/home")])
}

fn settings(text: &str) -> Settings {
    parse(text).and_then(|conninfo| conninfo.settings()).unwrap()
}

/// The hosts as `name:port`, with an address in parentheses.
fn hosts(text: &str) -> Vec<String> {
    let show = |host: &Host| {
        let address = host.address.map(|address| format!("({address})")).unwrap_or_default();
        format!("{}{address}:{}", host.name, host.port)
    };
    settings(text).hosts.iter().map(show).collect()
}

#[test]
fn what_is_written_wins_over_variables_and_the_last_of_two_wins() {
    let variables =
        [("PGHOST", "variable"), ("PGPORT", "1"), ("PGUSER", "variable"), ("PGSSLMODE", "require")];
    let conninfo = with_variables("host=a host=b user=''", &variables).unwrap();
    assert_eq!(conninfo.get("host"), Some("b"));
    assert_eq!(conninfo.get("port"), Some("1"));
    assert_eq!(conninfo.settings().unwrap().ssl_mode, SslMode::Require);
    // Explicitly empty is not filled from the environment, as in libpq.
    assert_eq!(conninfo.get("user"), None);
}

#[test]
fn the_service_stands_between_the_string_and_the_variables() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    std::fs::write(&file, "[main]\nhost=service\nport=2\nuser=service\n").unwrap();
    let variables =
        [("PGSERVICEFILE", file.to_str().unwrap()), ("PGPORT", "3"), ("PGUSER", "u"), ("PGDATABASE", "d")];
    let conninfo = with_variables("service=main user=written", &variables).unwrap();
    let seen = ["host", "port", "user", "dbname"].map(|key| conninfo.get(key).unwrap());
    assert_eq!(seen, ["service", "2", "written", "d"]);
    let by_uri = with_variables("postgresql://?service=main", &variables).unwrap();
    assert_eq!(by_uri.get("host"), Some("service"));
}

#[test]
fn hosts_addresses_and_ports_are_paired() {
    assert_eq!(hosts("host=a"), ["a:5432"]);
    assert_eq!(hosts("host=a,b port=1"), ["a:1", "b:1"]);
    assert_eq!(hosts("host=a,b port=1,2"), ["a:1", "b:2"]);
    assert_eq!(hosts("host=a,b port=,2"), ["a:5432", "b:2"]);
    assert_eq!(hosts("hostaddr=10.0.0.1,::1"), ["10.0.0.1(10.0.0.1):5432", "::1(::1):5432"]);
    assert_eq!(hosts("host=a,b hostaddr=10.0.0.1,10.0.0.2"), ["a(10.0.0.1):5432", "b(10.0.0.2):5432"]);
    assert_eq!(hosts("postgresql://a,[::1]:2/d"), ["a:5432", "::1:2"]);
    // No host at all, and an empty one: the default socket directory.
    assert!(hosts("port=7").iter().all(|host| host.starts_with('/') && host.ends_with(":7")));
    assert!(hosts("host=a,")[1].starts_with('/'));
}

#[test]
fn sockets_are_told_by_their_first_character() {
    let socket = |text: &str| settings(text).hosts.remove(0).socket();
    assert_eq!(socket("host=/run/pg port=6"), Some("/run/pg/.s.PGSQL.6".into()));
    assert_eq!(socket("host=@abstract"), Some("\0abstract/.s.PGSQL.5432".into()));
    assert_eq!(socket("host=run/pg"), None);
    assert_eq!(socket("host=/run/pg hostaddr=127.0.0.1"), None);
}

#[test]
fn lists_of_different_lengths_are_refused() {
    for (text, what) in
        [("host=a,b port=1,2,3", "port"), ("host=a,b hostaddr=10.0.0.1", "host"), ("host=a port=1,2", "port")]
    {
        assert!(
            matches!(parse(text), Err(ConnInfoError::ListLength { what: found, .. }) if found == what),
            "{text}"
        );
    }
}

#[test]
fn impossible_values_name_their_key() {
    for (text, expected) in [
        ("sslmode=maybe", "sslmode"),
        ("port=0", "port"),
        ("port=65536", "port"),
        ("port=-1", "port"),
        ("hostaddr=db.example.com", "hostaddr"),
        ("connect_timeout=soon", "connect_timeout"),
        ("target_session_attrs=master", "target_session_attrs"),
        ("channel_binding=yes", "channel_binding"),
        ("require_auth=md5,!none", "require_auth"),
        ("require_auth=md5,md5", "require_auth"),
        ("require_auth=plain", "require_auth"),
        ("ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version"),
        ("ssl_max_protocol_version=TLSv1", "ssl_max_protocol_version"),
        ("load_balance_hosts=yes", "load_balance_hosts"),
    ] {
        match parse(text) {
            Err(ConnInfoError::BadValue { key, .. }) => assert_eq!(key, expected),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn combinations_that_would_weaken_security_are_refused() {
    for text in [
        "sslrootcert=system sslmode=require",
        "sslnegotiation=direct",
        "sslnegotiation=direct sslmode=prefer",
        "gssencmode=require",
        "sslcrldir=/etc/crls",
        "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
    ] {
        assert!(matches!(parse(text), Err(ConnInfoError::Conflict { .. })), "{text}");
    }
    assert_eq!(settings("sslrootcert=system").ssl_mode, SslMode::VerifyFull);
    assert_eq!(settings("gssencmode=prefer").ssl_mode, SslMode::Prefer);
}

#[test]
fn unknown_keys_are_errors_and_known_ones_without_effect_are_listed() {
    assert_eq!(parse("hots=a"), Err(ConnInfoError::UnknownKey { key: "hots".to_owned() }));
    assert!(matches!(parse("postgresql://?hots=a"), Err(ConnInfoError::UnknownKey { .. })));
    let conninfo = parse("host=a replication=true krbsrvname=x sslcompression=0 gsslib=''").unwrap();
    assert_eq!(conninfo.ignored_keys(), ["krbsrvname", "replication", "sslcompression"]);
}

#[test]
fn numbers_follow_libpqs_rules() {
    assert_eq!(settings("connect_timeout=1").connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(settings("connect_timeout=10").connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(settings("connect_timeout=0").connect_timeout, None);
    assert_eq!(settings("connect_timeout=-5").connect_timeout, None);
    assert_eq!(settings("").keepalives, Some(Keepalives::default()));
    assert_eq!(settings("keepalives=0").keepalives, None);
    let keepalives =
        settings("keepalives_idle=30 keepalives_interval=0 keepalives_count=3").keepalives.unwrap();
    assert_eq!(keepalives.idle, Some(Duration::from_secs(30)));
    assert_eq!((keepalives.interval, keepalives.count), (None, Some(3)));
    assert_eq!(settings("tcp_user_timeout=1500").tcp_user_timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn defaults_are_libpqs() {
    let settings = settings("");
    assert_eq!(settings.ssl_mode, SslMode::Prefer);
    assert_eq!(settings.channel_binding, ChannelBinding::Prefer);
    assert_eq!(settings.target_session_attrs, TargetSessionAttrs::Any);
    let home = std::path::Path::new("/nonexistent/home/.postgresql");
    assert_eq!(settings.ssl_root_cert, RootCert::Default(Some(home.join("root.crt"))));
    assert_eq!(settings.ssl_cert, Some(home.join("postgresql.crt")));
    assert_eq!(settings.ssl_crl, None);
}

#[test]
fn the_fallback_name_is_for_want_of_another() {
    let name = |text| settings(text).application_name;
    assert_eq!(name("fallback_application_name=f"), Some("f".to_owned()));
    assert_eq!(name("fallback_application_name=f application_name=a"), Some("a".to_owned()));
    assert_eq!(name("fallback_application_name=f application_name=''"), Some("f".to_owned()));
}

#[test]
fn negated_methods_leave_the_others() {
    assert_eq!(settings("require_auth=scram-sha-256,none").require_auth, Some(vec!["scram-sha-256", "none"]));
    let left = settings("require_auth=!password,!md5,!gss,!sspi,!oauth").require_auth;
    assert_eq!(left, Some(vec!["scram-sha-256", "none"]));
}

#[test]
fn the_password_is_written_first_and_then_from_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(".pgpass");
    std::fs::write(&file, "localhost:*:*:*:socket\na:1:replication:u:file\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let home = directory.path().to_str().unwrap();
    let password = |text: &str| {
        let conninfo = with_variables(text, &[("HOME", home)]).unwrap();
        let settings = conninfo.settings().unwrap();
        settings.password(&conninfo, &settings.hosts[0], REPLICATION_DATABASE)
    };
    assert_eq!(password("host=a port=1 user=u").0.as_deref(), Some("file"));
    assert_eq!(password("host=a port=1 user=u password=p").0.as_deref(), Some("p"));
    assert_eq!(password("host=a port=2 user=u"), (None, None));
    // The default socket directory goes by "localhost"; another one by its path.
    assert_eq!(password("host=/tmp user=u").0.as_deref(), Some("socket"));
    assert_eq!(password("host=/elsewhere user=u").0, None);
    assert_eq!(password("host=a passfile=/nonexistent user=u"), (None, None));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
    assert_eq!(password("host=a port=1 user=u"), (None, Some(PassfileProblem::Permissions { file })));
}

#[test]
fn secrets_are_never_shown() {
    let conninfo =
        parse("host=a password='top secret' sslpassword=hidden oauth_client_secret=hidden").unwrap();
    for shown in [conninfo.to_string(), format!("{conninfo:?}"), conninfo.redacted()] {
        assert!(!shown.contains("secret'") && !shown.contains("hidden"), "{shown}");
        assert!(shown.contains("password=***"), "{shown}");
    }
    // Not in the errors of what cannot be read either.
    for text in ["password=my secret", "postgresql://u:secret%zz@h", "postgresql://h?password=x&secret"] {
        let error = parse(text).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn what_cannot_be_set_changes_nothing() {
    let mut conninfo = parse("host=a").unwrap();
    assert!(conninfo.set("sslmode", "maybe").is_err());
    assert!(conninfo.set("hots", "b").is_err());
    assert_eq!(conninfo, parse("host=a").unwrap());
    conninfo.set("application_name", "x y").unwrap();
    assert_eq!(conninfo.redacted(), "application_name='x y' host=a");
}

#[test]
fn a_variable_that_is_not_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let environment = |name: &str| (name == "PGHOST").then(|| OsString::from_vec(vec![0xFF]));
    assert_eq!(ConnInfo::parse("", &environment), Err(ConnInfoError::VariableNotUtf8 { variable: "PGHOST" }));
    // A value that is written down makes the variable irrelevant.
    assert!(ConnInfo::parse("host=a", &environment).is_ok());
}

proptest! {
    #[test]
    fn never_panics(text: String) {
        let _ = parse(&text);
    }

    #[test]
    fn never_panics_on_any_value(
        key in prop::sample::select(keys::KEYS.iter().map(|key| key.name).collect::<Vec<_>>()),
        value: String,
    ) {
        let _ = parse(&format!("{key}={}", quote(&value)));
    }

    /// What is shown for logs reads back as what was said, but for the secrets.
    #[test]
    fn the_redacted_form_reads_back(host in "[a-z'\\\\ =]{1,10}", user in "\\PC{1,10}") {
        let text = format!("host={} user={} password=x", quote(&host), quote(&user));
        let conninfo = parse(&text).unwrap();
        let again = parse(&conninfo.redacted()).unwrap();
        prop_assert_eq!(again.get("host"), conninfo.get("host"));
        prop_assert_eq!(again.get("user"), conninfo.get("user"));
    }
}
