//! How fast a server's WAL or a base backup of it can be received, thrown away at once.
//!
//! ```text
//! receive_rate "host=/tmp port=5432 user=postgres" wal 0/1000000 0/80000000
//! receive_rate "host=/tmp port=5432 user=postgres" backup
//! ```

use std::time::Instant;

use pgwal::replication::{
    BackupEvent, BaseBackupOptions, ConnInfo, Connection, StandbyStatus, StartPhysical, WalEvent,
};
use pgwal::{Lsn, SegmentSize};

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let conninfo = |text: &str| ConnInfo::parse(text, &|name| std::env::var_os(name));
    let begun = Instant::now();
    let (bytes, events) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, text, "wal", start, end] => {
            let mut connection = Connection::connect(&conninfo(text)?).await?;
            wal(&mut connection, start.parse()?, end.parse()?).await?
        }
        [_, text, "backup"] => {
            let mut connection = Connection::connect(&conninfo(text)?).await?;
            backup(&mut connection).await?
        }
        _ => return Err("usage: receive_rate CONNINFO (wal START END | backup)".into()),
    };
    let seconds = begun.elapsed().as_secs_f64();
    println!("{bytes} bytes in {events} events, {seconds:.2} s, {:.0} MB/s", bytes as f64 / seconds / 1e6);
    Ok(())
}

async fn wal(connection: &mut Connection, start: Lsn, end: Lsn) -> Result<(u64, u64), Error> {
    let timeline = connection.identify_system().await?.timeline;
    let start = SegmentSize::DEFAULT.start_of(start);
    let mut stream = connection.start_physical(StartPhysical { slot: None, start, timeline }).await?;
    let mut status = StandbyStatus { write: start, ..StandbyStatus::default() };
    let mut events = 0;
    while status.write < end {
        events += 1;
        match stream.next().await? {
            WalEvent::Data { start, bytes, .. } => {
                status.write = Lsn::from_u64(start.as_u64() + bytes.len() as u64);
            }
            WalEvent::KeepAlive { reply_requested: true, .. } => stream.send_status(status).await?,
            WalEvent::KeepAlive { .. } => {}
            end => return Err(format!("the stream ended: {end:?}").into()),
        }
    }
    stream.stop().await?;
    Ok((status.write.as_u64() - start.as_u64(), events))
}

async fn backup(connection: &mut Connection) -> Result<(u64, u64), Error> {
    let options = BaseBackupOptions { fast_checkpoint: true, ..BaseBackupOptions::default() };
    let mut stream = connection.base_backup(&options).await?;
    let (mut received, mut events) = (0, 0);
    while let Some(event) = stream.next().await? {
        events += 1;
        if let BackupEvent::Data(bytes) = event {
            received += bytes.len() as u64;
        }
    }
    Ok((received, events))
}
