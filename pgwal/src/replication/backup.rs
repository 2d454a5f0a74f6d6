//! A base backup as the server sends it.

use super::connection::Connection;
use super::{BackupEvent, BaseBackupOptions, ReplicationError};
use crate::wire::{BackendMessage, BackupDialect, BackupReader, WireError};

const COMMAND: &str = "BASE_BACKUP";

/// An open BASE_BACKUP: the same events from every PostgreSQL version.
///
/// Dropping it before the end leaves the connection unusable; closing that makes the server abort the backup.
#[derive(Debug)]
pub struct BaseBackupStream<'a> {
    connection: &'a mut Connection,
    reader: BackupReader,
    /// Held back until the server has confirmed that all is well: it reports checksum failures after it.
    end: Option<BackupEvent>,
    over: bool,
}

impl<'a> BaseBackupStream<'a> {
    pub(super) async fn begin(
        connection: &'a mut Connection,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackupStream<'a>, ReplicationError> {
        connection.need(13, COMMAND)?;
        let dialect = BackupDialect::of(connection.server_version_num());
        let text = options.command(dialect)?;
        connection.begin(&text).await?;
        let reader = BackupReader::new(dialect, options.manifest.is_some());
        Ok(BaseBackupStream { connection, reader, end: None, over: false })
    }

    /// The next event; `None` after [`BackupEvent::End`], which comes last and only when the server had no
    /// complaints. The first event comes after the server's checkpoint, which may take minutes.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ReplicationError`]; the backup is void then.
    pub async fn next(&mut self) -> Result<Option<BackupEvent>, ReplicationError> {
        loop {
            if self.over {
                return Ok(None);
            }
            match self.connection.next_message().await? {
                BackendMessage::Error(error) => {
                    self.over = true;
                    return Err(self.connection.fail(COMMAND, error).await);
                }
                BackendMessage::ReadyForQuery => {
                    self.over = true;
                    if !self.reader.is_finished() {
                        return Err(WireError::UnexpectedMessage { during: COMMAND, tag: 'Z' }.into());
                    }
                    self.connection.set_idle();
                    return Ok(self.end.take());
                }
                message => match self.reader.push(message)? {
                    Some(end @ BackupEvent::End { .. }) => self.end = Some(end),
                    Some(event) => return Ok(Some(event)),
                    None => {}
                },
            }
        }
    }
}
