//! Receives WAL into a directory until interrupted: `receive CONNINFO DIRECTORY [SLOT]`.

use std::error::Error;
use std::sync::Arc;

use pgwal::replication::ConnInfo;
use pgwal::replication::receive::{Event, Receiver, ReceiverOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [conninfo, directory, slot @ ..] = arguments.as_slice() else {
        return Err("usage: receive CONNINFO DIRECTORY [SLOT]".into());
    };
    let conninfo = ConnInfo::parse(conninfo, &|name| std::env::var_os(name))?;
    let mut options = ReceiverOptions::new(conninfo, directory);
    options.slot = slot.first().cloned();
    options.create_slot = options.slot.is_some();
    let tell = |event: &Event<'_>| eprintln!("{event:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Interrupted, it is as good as killed: nothing that was reported to the server is lost.
    runtime.block_on(Receiver::new(options, Arc::new(tell)).run(std::future::pending()))?;
    Ok(())
}
