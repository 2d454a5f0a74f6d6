//! Notifications over TLS, to servers with certificates of the test's own authority.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testkit::{TestDir, TlsFiles};

use crate::notify::{answer_request, body, next, serve, take_mail};
use crate::support::{Home, Run};

fn server_config(files: &TlsFiles) -> Arc<ServerConfig> {
    let certificates = CertificateDer::pem_file_iter(files.server_cert()).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.server_key()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(certificates.map(Result::unwrap).collect(), key).unwrap())
}

fn encrypted(config: &Arc<ServerConfig>, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// Promises STARTTLS, or not, and goes on with what the client makes of it: what it said, `plain` before if there was no TLS.
fn start_tls(config: &Arc<ServerConfig>, mut stream: TcpStream, offered: bool) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    stream.write_all(b"220 sink\r\n").ok()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.split_whitespace().next()? {
            "EHLO" if offered => stream.write_all(b"250-sink\r\n250 STARTTLS\r\n").ok()?,
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").ok()?;
                return take_mail(encrypted(config, stream), false);
            }
            "MAIL" => return Some("plain".to_owned()),
            _ => stream.write_all(b"250 fine\r\n").ok()?,
        }
    }
}

/// A failed backup, told to these destinations by a barkeep that believes this authority.
fn tell(destinations: &str, authority: &TlsFiles) -> Run {
    let home = Home::new().server("main", "host=/nonexistent").with("main", "notify", destinations);
    let mut command = home.command();
    command.env("SSL_CERT_FILE", authority.ca_cert()).env_remove("SSL_CERT_DIR");
    Run::of(command.args(["backup", "main"])).exits_with(1)
}

#[test]
fn mail_and_requests_are_sent_over_tls_to_whom_the_authority_vouches_for() {
    let dir = TestDir::new();
    let files = TlsFiles::create(&dir.join("tls"));
    let config = server_config(&files);
    let (web, requests) = serve({
        let config = Arc::clone(&config);
        move |stream| answer_request(encrypted(&config, stream), "200 OK")
    });
    let (smtps, mails) = serve({
        let config = Arc::clone(&config);
        move |stream| take_mail(encrypted(&config, stream), true)
    });
    let (smtp, late_mails) = serve(move |stream| start_tls(&config, stream, true));
    let run = tell(
        &format!(
            "https://localhost:{web}/hook, smtps://localhost:{smtps}/?from=a@b.c&to=d@e.f, \
             smtp://localhost:{smtp}/?from=a@b.c&to=d@e.f&tls=required"
        ),
        &files,
    );
    assert!(!run.stderr.contains("could not be notified"), "{run:#?}");
    let request = next(&requests);
    assert!(request.starts_with("POST /hook "), "{request}");
    assert_eq!(body(&request)["event"], "backup");
    for mails in [mails, late_mails] {
        let mail = next(&mails);
        assert!(mail.contains("MAIL FROM:<a@b.c>") && mail.contains("main"), "{mail}");
    }
}

#[test]
fn nobody_else_is_told_anything() {
    let dir = TestDir::new();
    let (files, other) = (TlsFiles::create(&dir.join("tls")), TlsFiles::create(&dir.join("other")));
    let config = server_config(&files);
    let (web, requests) = serve({
        let config = Arc::clone(&config);
        move |stream| answer_request(encrypted(&config, stream), "200 OK")
    });
    let (smtps, mails) = serve({
        let config = Arc::clone(&config);
        move |stream| take_mail(encrypted(&config, stream), true)
    });
    // A server that does not offer what is required.
    let (smtp, plain_mails) = serve(move |stream| start_tls(&config, stream, false));
    let run = tell(
        &format!(
            "https://localhost:{web}/hook, smtps://localhost:{smtps}/?from=a@b.c&to=d@e.f, \
             smtp://localhost:{smtp}/?from=a@b.c&to=d@e.f&tls=required"
        ),
        &other,
    );
    assert_eq!(run.stderr.matches("could not be notified").count(), 3, "{run:#?}");
    for heard in [requests, mails, plain_mails] {
        assert!(heard.try_recv().is_err());
    }
}
