//! A man in the middle: passes everything between a receiver and a real server, but for what a test changes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use pgwal::replication::ConnInfo;
use testkit::Cluster;

/// Gets each message from the server whole, type byte and length included, and may change it; false closes the
/// connection.
pub(super) type Meddle = Box<dyn FnMut(&mut Vec<u8>) -> bool + Send>;

/// A listening proxy.
pub(super) struct Proxy {
    port: u16,
}

impl Proxy {
    pub(super) fn start(cluster: &Cluster, meddle: Meddle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port()));
        let meddle = Arc::new(Mutex::new(meddle));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&server)) else { continue };
                let (from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let meddle = Arc::clone(&meddle);
                std::thread::spawn(move || {
                    let _ = pass(server, &client, &meddle);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Proxy { port }
    }

    pub(super) fn conninfo(&self) -> ConnInfo {
        let text = format!("host=127.0.0.1 port={} user=postgres sslmode=disable", self.port);
        ConnInfo::parse(&text, &|_| None).unwrap()
    }
}

fn pass(mut server: UnixStream, mut client: &TcpStream, meddle: &Mutex<Meddle>) -> std::io::Result<()> {
    loop {
        let mut message = vec![0; 5];
        server.read_exact(&mut message)?;
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
        message.resize(1 + length, 0);
        server.read_exact(&mut message[5..])?;
        if !(meddle.lock().unwrap())(&mut message) {
            return Ok(());
        }
        client.write_all(&message)?;
    }
}
