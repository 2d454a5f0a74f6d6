//! Takes a base backup: `take_backup <conninfo> <new directory>`.
//!
//! ```text
//! cargo run --release -p pgbase --example take_backup -- 'host=/var/run/postgresql user=postgres' /srv/backup
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use pgbase::stream::{BackupObserver, BackupOptions, BackupStep, take_backup};
use pgwal::replication::{ConnInfo, Connection};

struct Narrator {
    started: Instant,
}

impl BackupObserver for Narrator {
    fn step(&self, step: &BackupStep<'_>) {
        if !matches!(step, BackupStep::Received { .. }) {
            println!("{:8.3} s  {step:?}", self.started.elapsed().as_secs_f64());
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(conninfo), Some(destination)) = (words.next(), words.next().map(PathBuf::from)) else {
        return Err("usage: take_backup <conninfo> <new directory>".into());
    };
    let narrator = Narrator { started: Instant::now() };
    let conninfo = ConnInfo::parse(&conninfo, &|name| std::env::var_os(name))?;
    let connection = Connection::connect(&conninfo).await?;
    let options = BackupOptions { immediate_checkpoint: true, ..BackupOptions::default() };
    let backup = take_backup(connection, &destination, &options, &narrator).await?;
    let seconds = narrator.started.elapsed().as_secs_f64();
    let mib = backup.total_bytes as f64 / f64::from(1 << 20);
    println!("{seconds:8.3} s  {} files, {mib:.1} MiB, {} to {}", backup.files, backup.start, backup.end);
    Ok(())
}
