//! `wal-archive` and `wal-restore`: what runs beside the PostgreSQL server, for its `archive_command` and
//! `restore_command`. The command lines are those of `barman-wal-archive` and `barman-wal-restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use barkeep_transport::codec::{Compression, Level};
use clap::{ArgAction, Args};

/// How to reach the backup host.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Log in on the backup host as this user
    #[arg(short = 'U', long, value_name = "USER", default_value = "barman")]
    pub user: String,
    /// The port of the backup host's SSH server
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The backup home is on this machine: leave out BARMAN_HOST, and no SSH is used
    #[arg(long)]
    pub local: bool,
    /// Keep the connection for the next call this long; 0 connects anew each time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub keep_connection: u32,
    /// The program to run on the backup host
    #[arg(long, value_name = "NAME", default_value = "barman")]
    pub remote_program: String,
    /// Only say whether this works
    #[arg(short, long)]
    pub test: bool,
}

/// `wal-archive`.
#[derive(Debug, Args)]
#[command(version, disable_version_flag = true)]
pub struct WalArchiveArgs {
    /// The backup host.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Guard the file on its way by MD5 rather than SHA-256
    #[arg(long)]
    pub md5: bool,
    /// How it is compressed.
    #[command(flatten)]
    pub compression: ShippedCompression,
    /// Ship up to this many files that wait for it with one call; the calls for the others then return at once
    #[arg(short, long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    pub parallel: u32,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    pub version: Option<bool>,
    /// Where --parallel remembers what it has shipped [default: a private directory for temporary files]
    #[arg(long, value_name = "DIRECTORY")]
    pub prefetch_cache_dir: Option<PathBuf>,
    /// The backup host, the server's name there, and the WAL file's path (%p)
    #[arg(value_names = ["BARMAN_HOST", "SERVER", "WAL_PATH"], num_args = 2..=3, required = true)]
    words: Vec<OsString>,
}

/// How a file is compressed before it is shipped.
#[derive(Debug, Args)]
#[group(skip)]
#[allow(clippy::struct_excessive_bools, reason = "these are switches of a command line")]
pub struct ShippedCompression {
    /// Compress with gzip
    #[arg(short = 'z', long, group = "algorithm")]
    gzip: bool,
    /// Compress with bzip2
    #[arg(short = 'j', long, group = "algorithm")]
    bzip2: bool,
    /// Compress with xz
    #[arg(long, group = "algorithm")]
    xz: bool,
    /// Compress with snappy
    #[arg(long, group = "algorithm")]
    snappy: bool,
    /// Compress with zstd
    #[arg(long, group = "algorithm")]
    zstd: bool,
    /// Compress with LZ4
    #[arg(long, group = "algorithm")]
    lz4: bool,
    /// How hard: low, medium, high, or a number of the algorithm's own
    #[arg(long, value_name = "LEVEL", value_parser = level, allow_hyphen_values = true)]
    compression_level: Option<Level>,
}

impl ShippedCompression {
    /// What to compress with.
    pub fn algorithm(&self) -> Compression {
        let chosen = [
            (self.gzip, Compression::Gzip),
            (self.bzip2, Compression::Bzip2),
            (self.xz, Compression::Xz),
            (self.snappy, Compression::Snappy),
            (self.zstd, Compression::Zstd),
            (self.lz4, Compression::Lz4),
        ];
        chosen.into_iter().find(|(is_chosen, _)| *is_chosen).map_or(Compression::None, |(_, which)| which)
    }

    /// How hard.
    pub fn level(&self) -> Level {
        self.compression_level.unwrap_or_default()
    }
}

impl WalArchiveArgs {
    /// Host (unless `--local`), server and path.
    ///
    /// # Errors
    /// A sentence, when there are too few or too many of them, or one can't be what it stands for.
    pub fn operands(&self) -> Result<(Destination, PathBuf), String> {
        let ([server, path], host) = split(&self.words, self.remote.local, "BARMAN_HOST SERVER WAL_PATH")?;
        Ok((Destination::new(host, server)?, PathBuf::from(path)))
    }
}

/// `wal-restore`.
#[derive(Debug, Args)]
#[command(version, disable_version_flag = true)]
pub struct WalRestoreArgs {
    /// The backup host.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Wait this long before a failure is told, so that a standby does not ask all the time
    #[arg(short, long, value_name = "SECONDS", default_value_t = 0)]
    pub sleep: u32,
    /// Fetch this many files at once ahead of recovery; 1 fetches none ahead [default: 2, in recovery only]
    #[arg(short, long, value_name = "JOBS")]
    pub parallel: Option<u32>,
    /// Keep up to this much WAL ready ahead of recovery, in MiB; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    pub prefetch: u32,
    /// Keep it below this directory [default: beside WAL_DEST]
    #[arg(long, value_name = "DIRECTORY")]
    pub spool_dir: Option<PathBuf>,
    /// Take a partial file too, when there is no complete one
    #[arg(short = 'P', long)]
    pub partial: bool,
    /// Have the file compressed with gzip on its way
    #[arg(short = 'z', long, group = "transfer")]
    pub gzip: bool,
    /// Have the file compressed with bzip2 on its way
    #[arg(short = 'j', long, group = "transfer")]
    pub bzip2: bool,
    /// Have the file sent as it is stored
    #[arg(long, group = "transfer")]
    pub keep_compression: bool,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    pub version: Option<bool>,
    /// The backup host, the server's name there, the WAL file's name (%f), and where to put it (%p)
    #[arg(value_names = ["BARMAN_HOST", "SERVER", "WAL_NAME", "WAL_DEST"], num_args = 3..=4, required = true)]
    words: Vec<OsString>,
}

impl WalRestoreArgs {
    /// Host (unless `--local`) and server, the file's name, and its destination.
    ///
    /// # Errors
    /// A sentence, when there are too few or too many of them, or one can't be what it stands for.
    pub fn operands(&self) -> Result<(Destination, String, PathBuf), String> {
        let expected = "BARMAN_HOST SERVER WAL_NAME WAL_DEST";
        let ([server, name, path], host) = split(&self.words, self.remote.local, expected)?;
        let name = name.to_string_lossy().into_owned();
        Ok((Destination::new(host, server)?, name, PathBuf::from(path)))
    }
}

/// Where WAL goes to or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The backup host; `None` is this machine.
    pub host: Option<String>,
    /// The server's name there.
    pub server: String,
}

impl Destination {
    fn new(host: Option<&OsString>, server: &OsString) -> Result<Self, String> {
        let name = |word: &OsString, what: &str| match word.to_str() {
            Some(text) if !text.is_empty() && !text.starts_with('-') && !text.contains('\0') => {
                Ok(text.to_owned())
            }
            _ => Err(format!("{word:?} cannot be the name of {what}")),
        };
        let host = host.map(|host| name(host, "a host")).transpose()?;
        Ok(Destination { host, server: name(server, "a server")? })
    }
}

/// The last `N` words, and the host before them.
fn split<'w, const N: usize>(
    words: &'w [OsString],
    local: bool,
    expected: &str,
) -> Result<(&'w [OsString; N], Option<&'w OsString>), String> {
    let (host, rest) = match (local, words) {
        (true, rest) => (None, rest),
        (false, [host, rest @ ..]) => (Some(host), rest),
        (false, []) => (None, words),
    };
    match <&[OsString; N]>::try_from(rest) {
        Ok(rest) if local || host.is_some() => Ok((rest, host)),
        _ if local => Err(format!("with --local, expected {}", expected.replacen("BARMAN_HOST ", "", 1))),
        _ => Err(format!("expected {expected}")),
    }
}

fn level(text: &str) -> Result<Level, String> {
    Level::from_name(text).ok_or_else(|| format!("\"{text}\" is not low, medium, high or a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_host_is_there_unless_it_is_this_one() {
        let typed = words("host main pg_wal/x");
        let (rest, host) = split::<2>(&typed, false, "H S P").unwrap();
        assert_eq!((host, &rest[0]), (Some(&OsString::from("host")), &OsString::from("main")));
        let typed = words("main pg_wal/x");
        let (rest, host) = split::<2>(&typed, true, "H S P").unwrap();
        assert_eq!((host, &rest[1]), (None, &OsString::from("pg_wal/x")));
        for (line, local) in [("main x", false), ("host main x", true), ("", false)] {
            assert!(split::<2>(&words(line), local, "H S P").is_err(), "{line:?} {local}");
        }
    }

    #[test]
    fn names_that_would_be_options_are_refused() {
        for server in ["", "-x", "--config=/x"] {
            assert!(Destination::new(None, &server.into()).is_err(), "{server}");
        }
        assert!(Destination::new(Some(&"-oProxyCommand=x".into()), &"main".into()).is_err());
        assert!(Destination::new(Some(&"host".into()), &"odd 'name".into()).is_ok());
    }
}
