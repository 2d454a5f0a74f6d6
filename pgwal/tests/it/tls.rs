//! TLS in each `sslmode`, with every kind of certificate.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgwal::replication::{ConnectFailure, TlsError};
use pgwal::wire::AuthMethod;
use testkit::{Cluster, TestDir};

use crate::authentication::{connect, failure};

fn openssl(dir: &Path, args: &str) {
    let output =
        Command::new("openssl").args(args.split_ascii_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A self-signed certificate as the PostgreSQL manual makes it: a common name and no alternative names.
fn self_signed(dir: &Path, name: &str, common_name: &str, more: &str) -> (PathBuf, PathBuf) {
    openssl(
        dir,
        &format!(
            "req -new -x509 -nodes -newkey rsa:2048 -subj /CN={common_name} -out {name}.crt -keyout {name}.key {more}"
        ),
    );
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

/// Gives the server other certificates than those it was started with.
fn present(cluster: &mut Cluster, (certificate, key): &(PathBuf, PathBuf)) {
    for (from, to) in [(certificate, cluster.tls().server_cert()), (key, cluster.tls().server_key())] {
        // Written into the file that is there: owner and mode stay the server's.
        std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
    }
    cluster.restart();
}

fn local(cluster: &Cluster, rest: &str) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={} user=postgres {rest}", cluster.port())
}

#[tokio::test]
async fn each_mode_encrypts_and_verifies_as_libpq_does() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let root = format!("sslrootcert={}", cluster.tls().ca_cert().display());
    for (mode, encrypted) in [
        ("sslmode=disable", false),
        ("sslmode=allow", false),
        ("sslmode=prefer", true),
        ("", true),
        ("sslmode=require", true),
        (&format!("sslmode=require {root}"), true),
        (&format!("sslmode=verify-ca {root}"), true),
        (&format!("sslmode=verify-full {root}"), true),
        (&format!("sslmode=verify-full ssl_min_protocol_version=TLSv1.3 {root}"), true),
        (&format!("sslmode=verify-full ssl_max_protocol_version=TLSv1.2 {root}"), true),
    ] {
        let connection = connect(&local(&cluster, mode)).await.unwrap();
        assert_eq!(connection.is_encrypted(), encrypted, "{mode}");
    }
    // A Unix socket has no TLS and needs none, whatever the mode.
    let by_socket = connect(&format!("{} sslmode=verify-full {root}", cluster.conninfo())).await.unwrap();
    assert!(!by_socket.is_encrypted());
}

#[tokio::test]
async fn a_server_without_tls_is_refused_from_require_on() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    assert!(!connect(&local(&cluster, "sslmode=prefer")).await.unwrap().is_encrypted());
    let error = failure(&local(&cluster, "sslmode=require")).await;
    assert!(matches!(error, ConnectFailure::TlsNotOffered), "{error}");
}

#[tokio::test]
async fn allow_and_prefer_take_the_transport_that_the_server_accepts() {
    testkit::require_pg!(15);
    let only_tls = Cluster::builder(15).tls().hba("hostnossl replication all 127.0.0.1/32 reject").start();
    assert!(connect(&local(&only_tls, "sslmode=allow")).await.unwrap().is_encrypted());
    assert!(failure(&local(&only_tls, "sslmode=disable")).await.sqlstate().is_some());
    let only_clear = Cluster::builder(15).tls().hba("hostssl replication all 127.0.0.1/32 reject").start();
    assert!(!connect(&local(&only_clear, "sslmode=prefer")).await.unwrap().is_encrypted());
    assert!(failure(&local(&only_clear, "sslmode=require")).await.sqlstate().is_some());
}

#[tokio::test]
async fn a_certificate_from_a_stranger_is_refused() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    let (stranger, _) = self_signed(dir.path(), "stranger", "stranger", "");
    let root = format!("sslrootcert={}", stranger.display());
    // A root file makes even `require` look at the certificate.
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = failure(&local(&cluster, &format!("sslmode={mode} {root}"))).await;
        assert!(matches!(error, ConnectFailure::Tls(TlsError::Certificate(_))), "{mode}: {error}");
        assert!(error.to_string().contains("not signed by an authority"), "{error}");
    }
    // `prefer` falls back to clear text, as libpq does.
    assert!(!connect(&local(&cluster, &format!("sslmode=prefer {root}"))).await.unwrap().is_encrypted());
}

#[tokio::test]
async fn the_name_counts_for_verify_full_only() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let root = format!("sslrootcert={}", cluster.tls().ca_cert().display());
    let other_name = |mode: &str| {
        local(&cluster, &format!("sslmode={mode} {root}")).replace("=localhost", "=db.example.com")
    };
    assert!(connect(&other_name("verify-ca")).await.unwrap().is_encrypted());
    let error = failure(&other_name("verify-full")).await;
    assert!(error.to_string().contains("not for this host"), "{error}");
    // The address is among the alternative names.
    let by_address =
        format!("host=127.0.0.1 port={} user=postgres sslmode=verify-full {root}", cluster.port());
    connect(&by_address).await.unwrap();
}

#[tokio::test]
async fn the_manuals_self_signed_certificate_works_in_every_mode() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    let pair = self_signed(dir.path(), "server", "localhost", "");
    present(&mut cluster, &pair);
    let root = format!("sslrootcert={}", pair.0.display());
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(connect(&local(&cluster, &format!("sslmode={mode} {root}"))).await.unwrap().is_encrypted());
    }
    let pair = self_signed(dir.path(), "other", "other", "");
    present(&mut cluster, &pair);
    let root = format!("sslrootcert={}", pair.0.display());
    connect(&local(&cluster, &format!("sslmode=verify-ca {root}"))).await.unwrap();
    let error = failure(&local(&cluster, &format!("sslmode=verify-full {root}"))).await;
    assert!(error.to_string().contains("not for this host"), "{error}");
}

#[tokio::test]
async fn a_trusted_certificate_is_trusted_for_its_term_only() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    // Issued and expired long ago: `openssl req` cannot date back, `openssl ca` can.
    std::fs::write(dir.join("index.txt"), "").unwrap();
    std::fs::write(
        dir.join("ca.conf"),
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n\
         [p]\ncommonName=supplied\n[e]\nbasicConstraints=CA:true\n",
    )
    .unwrap();
    std::fs::write(dir.join("serial"), "01\n").unwrap();
    openssl(dir.path(), "req -new -nodes -newkey rsa:2048 -subj /CN=localhost -out old.csr -keyout old.key");
    openssl(
        dir.path(),
        "ca -batch -selfsign -config ca.conf -extensions e -keyfile old.key -in old.csr -out old.crt -notext \
         -startdate 20200101000000Z -enddate 20210101000000Z",
    );
    let pair = (dir.join("old.crt"), dir.join("old.key"));
    present(&mut cluster, &pair);
    let error =
        failure(&local(&cluster, &format!("sslmode=verify-ca sslrootcert={}", pair.0.display()))).await;
    assert!(error.to_string().contains("expired"), "{error}");
    connect(&local(&cluster, "sslmode=require")).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_version_1_from_the_manuals_recipe_works_in_every_mode() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    let (ca, ca_key) = self_signed(dir.path(), "root", "root", "");
    let sign = format!("-CA {} -CAkey {} -CAcreateserial -days 30", ca.display(), ca_key.display());
    for key in ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:prime256v1"] {
        openssl(
            dir.path(),
            &format!("req -new -nodes -newkey {key} -subj /CN=localhost -out v1.csr -keyout v1.key"),
        );
        // Without an extension file the certificate has no extensions, hence version 1.
        openssl(dir.path(), &format!("x509 -req -in v1.csr {sign} -out v1.crt"));
        present(&mut cluster, &(dir.join("v1.crt"), dir.join("v1.key")));
        let root = format!("sslrootcert={}", ca.display());
        for mode in [
            "sslmode=require".to_owned(),
            format!("sslmode=verify-ca {root}"),
            format!("sslmode=verify-full {root}"),
            format!("sslmode=verify-full ssl_max_protocol_version=TLSv1.2 {root}"),
        ] {
            assert!(connect(&local(&cluster, &mode)).await.unwrap().is_encrypted(), "{mode}");
        }
        let other_name = local(&cluster, &format!("sslmode=verify-full {root}")).replace("=localhost", "=db");
        assert!(failure(&other_name).await.to_string().contains("not for this host"));
        // Another authority of the same name has not signed it.
        std::fs::create_dir_all(dir.join("other")).unwrap();
        let (impostor, _) = self_signed(&dir.join("other"), "root", "root", "");
        let error =
            failure(&local(&cluster, &format!("sslmode=verify-ca sslrootcert={}", impostor.display()))).await;
        assert!(error.to_string().contains("not signed by an authority"), "{error}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    let (ca, server) = (cluster.tls().ca_cert(), cluster.tls().server_cert());
    let files =
        format!("-config ca.conf -cert {} -keyfile {}", ca.display(), ca.with_extension("key").display());
    std::fs::write(dir.join("index.txt"), "").unwrap();
    std::fs::write(
        dir.join("ca.conf"),
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\n\
         crlnumber=number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n",
    )
    .unwrap();
    let with_list = local(
        &cluster,
        &format!("sslmode=verify-ca sslrootcert={} sslcrl={}", ca.display(), dir.join("list.crl").display()),
    );
    std::fs::write(dir.join("number"), "01\n").unwrap();
    openssl(dir.path(), &format!("ca -gencrl {files} -out list.crl"));
    connect(&with_list).await.unwrap();
    openssl(dir.path(), &format!("ca -revoke {} {files}", server.display()));
    openssl(dir.path(), &format!("ca -gencrl {files} -out list.crl"));
    let error = failure(&with_list).await;
    assert!(matches!(error, ConnectFailure::Tls(TlsError::Certificate(_))), "{error}");
    assert!(error.to_string().to_lowercase().contains("revoked"), "{error}");
}

#[tokio::test]
async fn the_machines_own_authorities_did_not_sign_it() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let error = failure(&local(&cluster, "sslrootcert=system")).await;
    // On a machine without any authorities there is nothing to verify it by.
    assert!(
        matches!(error, ConnectFailure::Tls(TlsError::Certificate(_) | TlsError::NoRootCertificates { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn scram_is_bound_to_the_channel_for_every_signature() {
    testkit::require_pg!(15);
    let mut cluster =
        Cluster::builder(15).tls().hba("host replication scram 127.0.0.1/32 scram-sha-256").start();
    cluster.execute("create role scram replication login password 'scram'");
    let dir = TestDir::new();
    for (name, more) in [
        ("sha256", "-sha256"),
        ("sha384", "-sha384"),
        ("sha512", "-sha512"),
        ("sha224", "-sha224"),
        ("pss", "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1"),
    ] {
        let pair = self_signed(dir.path(), name, "localhost", more);
        present(&mut cluster, &pair);
        let conninfo = format!(
            "host=127.0.0.1 port={} user=scram password=scram sslmode=require channel_binding=require",
            cluster.port()
        );
        let connection = connect(&conninfo).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(connection.auth_method(), AuthMethod::ScramPlus, "{name}");
        let unbound = conninfo.replace("channel_binding=require", "channel_binding=disable");
        assert_eq!(connect(&unbound).await.unwrap().auth_method(), AuthMethod::Scram, "{name}");
    }
}

#[tokio::test]
async fn client_certificates_prove_who_is_there() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().hba("hostssl replication certuser 127.0.0.1/32 cert").start();
    cluster.execute("create role certuser replication login");
    let (certificate, key) = cluster.tls().client("certuser");
    let base = format!("host=127.0.0.1 port={} user=certuser sslmode=require", cluster.port());
    let with = |key: &Path| format!("{base} sslcert={} sslkey={}", certificate.display(), key.display());

    let mine = TestDir::new();
    let my_key = mine.write("client.key", std::fs::read(&key).unwrap());
    set_mode(&my_key, 0o600);
    connect(&with(&my_key)).await.unwrap();
    connect(&format!("{} sslcertmode=require", with(&my_key))).await.unwrap();

    let without = failure(&base).await;
    assert!(without.to_string().contains("certificate"), "{without}");
    failure(&format!("{} sslcertmode=disable", with(&my_key))).await;

    set_mode(&my_key, 0o644);
    let error = failure(&with(&my_key)).await;
    assert!(error.to_string().contains("mode 0600"), "{error}");
    let error = failure(&with(&mine.join("missing"))).await;
    assert!(matches!(error, ConnectFailure::Tls(TlsError::NoKey { .. })), "{error}");

    let (_, stranger) = self_signed(mine.path(), "stranger", "certuser", "");
    set_mode(&stranger, 0o600);
    let error = failure(&with(&stranger)).await;
    assert!(error.to_string().contains("does not belong"), "{error}");
}

#[tokio::test]
async fn files_that_are_no_certificates_are_told_by_name() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    let dir = TestDir::new();
    let error = failure(&local(&cluster, "sslmode=verify-ca sslrootcert=/nonexistent/root.crt")).await;
    assert!(matches!(error, ConnectFailure::Tls(TlsError::NoRootCertificates { .. })), "{error}");
    let nonsense = dir.write("root.crt", "nonsense");
    let error =
        failure(&local(&cluster, &format!("sslrootcert={} sslmode=require", nonsense.display()))).await;
    assert!(matches!(error, ConnectFailure::Tls(TlsError::File { .. })), "{error}");
    assert!(error.to_string().contains(nonsense.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn tls_can_begin_without_asking_from_17_on() {
    testkit::require_pg!(17);
    let cluster = Cluster::builder(17).tls().start();
    let root = cluster.tls().ca_cert();
    let conninfo =
        local(&cluster, &format!("sslmode=verify-full sslnegotiation=direct sslrootcert={}", root.display()));
    assert!(connect(&conninfo).await.unwrap().is_encrypted());
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
