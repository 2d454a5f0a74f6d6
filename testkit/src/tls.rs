//! Certificates for servers and clients, made by the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::user::unprivileged_user;

/// A certificate authority with one server certificate (for `localhost` and 127.0.0.1) and client certificates.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    dir: PathBuf,
}

impl TlsFiles {
    /// Makes an authority and a server certificate below `dir`, which is created.
    #[must_use]
    pub fn create(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("make a directory for certificates");
        let files = Self { dir: dir.to_path_buf() };
        files.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=barkeep test authority",
            "-addext",
            "basicConstraints=critical,CA:true",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ]);
        files.issue(
            "server",
            "localhost",
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
        );
        files
    }

    /// The authority's certificate: what `sslrootcert` wants.
    #[must_use]
    pub fn ca_cert(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_cert(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    /// The server's private key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// Makes a client certificate for a database user: the paths of the certificate and of its key.
    #[must_use]
    pub fn client(&self, user: &str) -> (PathBuf, PathBuf) {
        let name = format!("client-{user}");
        self.issue(&name, user, "extendedKeyUsage=clientAuth\n");
        (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")))
    }

    fn issue(&self, name: &str, common_name: &str, extensions: &str) {
        let [key, request, cert, ext] = ["key", "csr", "crt", "ext"].map(|kind| format!("{name}.{kind}"));
        let subject = format!("/CN={common_name}");
        std::fs::write(self.dir.join(&ext), format!("basicConstraints=CA:false\n{extensions}"))
            .expect("extensions");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            &ext,
            "-out",
            &cert,
        ]);
        unprivileged_user().take_over(&self.dir);
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(&self.dir).output().expect("run openssl");
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
