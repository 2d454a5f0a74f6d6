//! What is written and what is printed, as text.

use crate::live::Sql;

/// PostgreSQL 15: `pg_start_backup` became `pg_backup_start`.
const NEW_BACKUP_FUNCTIONS: u32 = 150_000;
/// How many WAL senders a backup and a receiver take.
const SENDERS_NEEDED: u32 = 2;
/// The role that is made when the connection string names none.
const DEFAULT_ROLE: &str = "barman";

/// Everything that is to be done for one server.
pub(super) struct Plan<'a> {
    server: &'a str,
    conninfo: &'a str,
    role: &'a str,
    sql: Option<&'a Sql>,
    /// Why streaming does not work yet.
    stream_fault: Option<&'a String>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        server: &'a str,
        conninfo: &'a str,
        user: Option<&'a str>,
        sql: Option<&'a Sql>,
        stream_fault: Option<&'a String>,
    ) -> Self {
        Plan { server, conninfo, role: user.unwrap_or(DEFAULT_ROLE), sql, stream_fault }
    }

    /// The slot's name: the server's, as far as slots allow.
    fn slot(&self) -> String {
        let letter = |c: char| {
            let lower = c.to_ascii_lowercase();
            if lower.is_ascii_alphanumeric() { lower } else { '_' }
        };
        /// PostgreSQL's names are shorter than this, in bytes.
        const NAME_BYTES_MAX: usize = 63;
        let mut name: String = std::iter::once("barkeep_".to_owned())
            .chain(self.server.chars().map(|c| letter(c).to_string()))
            .collect();
        name.truncate(NAME_BYTES_MAX);
        name
    }

    /// The server's section of the configuration.
    pub(super) fn section(&self) -> String {
        let server = self.server;
        let description = match self.sql {
            Some(sql) => format!("PostgreSQL {}", sql.version_text),
            None => "PostgreSQL".to_owned(),
        };
        // A percent sign is read twice.
        let conninfo = self.conninfo.replace('%', "%%%%");
        format!(
            "; {server}: base backups and WAL over the replication protocol\n[{server}]\n\
             description = {description}\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\n\
             backup_method = postgres\nstreaming_archiver = on\nslot_name = {}\ncreate_slot = auto\n\
             compression = zstd\nretention_policy = RECOVERY WINDOW OF 1 WEEKS\nminimum_redundancy = 1\n\
             last_backup_maximum_age = 2 DAYS\n",
            self.slot()
        )
    }

    /// What to do at the server: SQL, a line of pg_hba.conf, settings.
    pub(super) fn at_the_server(&self) -> Vec<String> {
        let mut lines =
            vec!["-- A role with no more rights than backups need (as a superuser, in psql):".to_owned()];
        lines.extend(self.role_sql());
        lines.push("# pg_hba.conf, with the address of this host:".to_owned());
        let role = quoted_for_hba(self.role);
        for database in ["postgres", "replication"] {
            lines.push(format!("host  {database}  {role}  ADDRESS/32  scram-sha-256"));
        }
        let settings = self.settings();
        if !settings.is_empty() {
            lines.push("# postgresql.conf:".to_owned());
            lines.extend(settings);
        }
        if let Some(fault) = self.stream_fault {
            lines.push(format!("# Streaming does not work yet: {fault}"));
        }
        lines
    }

    fn role_sql(&self) -> Vec<String> {
        let role = quoted(self.role);
        let version = self.sql.map_or(NEW_BACKUP_FUNCTIONS, |sql| sql.version);
        let (start, stop) = if version >= NEW_BACKUP_FUNCTIONS {
            ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
        } else {
            ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
        };
        let mut lines =
            vec![format!("CREATE ROLE {role} LOGIN REPLICATION;"), format!("\\password {}", self.role)];
        lines.push(format!("GRANT pg_monitor TO {role};"));
        for function in [start, stop, "pg_switch_wal()", "pg_create_restore_point(text)"] {
            lines.push(format!("GRANT EXECUTE ON FUNCTION {function} TO {role};"));
        }
        if version >= NEW_BACKUP_FUNCTIONS {
            lines.push(format!("GRANT pg_checkpoint TO {role};  -- for switch-wal --force"));
        }
        lines
    }

    /// The settings that have to change.
    fn settings(&self) -> Vec<String> {
        let Some(sql) = self.sql else { return Vec::new() };
        let number = |name: &str| sql.setting(name).and_then(|text| text.parse::<u32>().ok());
        let mut lines = Vec::new();
        if sql.setting("wal_level") == Some("minimal") {
            lines.push("wal_level = replica  # restart".to_owned());
        }
        for name in ["max_wal_senders", "max_replication_slots"] {
            if number(name).is_some_and(|now| now < SENDERS_NEEDED) {
                lines.push(format!("{name} = 10  # restart"));
            }
        }
        lines
    }

    /// What to do then.
    pub(super) fn next_steps(&self) -> Vec<String> {
        let server = self.server;
        vec![format!(
            "Next: barkeep cron (starts receiving WAL), barkeep check {server}, barkeep backup {server} --wait"
        )]
    }
}

/// An SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name in `pg_hba.conf`, quoted where it has to be.
fn quoted_for_hba(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain && name != "all" { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sql: Option<&Sql>) -> Plan<'_> {
        Plan::new("Main-1", "host=db user=barman", Some("barman"), sql, None)
    }

    #[test]
    fn the_section_has_a_slot_of_its_own() {
        let section = plan(None).section();
        assert!(
            section.contains("\n[Main-1]\n") && section.contains("slot_name = barkeep_main_1\n"),
            "{section}"
        );
        let long = "x".repeat(100);
        assert_eq!(Plan::new(&long, "", None, None, None).slot().len(), 63);
    }

    #[test]
    fn functions_and_settings_follow_the_server() {
        let mut sql = Sql { version: 140_000, ..Sql::default() };
        sql.settings.insert("wal_level".to_owned(), "minimal".to_owned());
        sql.settings.insert("max_wal_senders".to_owned(), "0".to_owned());
        let text = plan(Some(&sql)).at_the_server().join("\n");
        for part in ["pg_start_backup(text, boolean, boolean)", "wal_level = replica", "max_wal_senders = 10"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("pg_checkpoint"), "{text}");
        assert!(plan(None).at_the_server().join("\n").contains("pg_backup_start(text, boolean)"));
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted_for_hba("barman"), "barman");
        assert_eq!(quoted_for_hba("all"), "\"all\"");
    }
}
