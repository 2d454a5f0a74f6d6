//! The first words on a connection: who is there, and which versions of the protocol they know.

use std::io::{self, Read, Write};

/// The oldest version of the protocol that this side knows.
pub const OLDEST_VERSION: u16 = 1;
/// The newest.
pub const NEWEST_VERSION: u16 = 1;

/// How an agent's greeting begins. Login scripts may print something first: it is looked for.
pub(crate) const AGENT_MAGIC: &[u8; 16] = b"\0barkeep-agent\r\n";
/// How a client's answer begins.
const CLIENT_MAGIC: &[u8; 16] = b"\0barkeep-reads\r\n";
/// How much may come before the agent's greeting, in bytes.
const CHATTER_BYTES_MAX: usize = 64 << 10;
/// How much of it is shown when no greeting comes, in characters.
const CHATTER_SHOWN: usize = 300;

/// What a client asks of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) version: u16,
    pub(super) compression: FrameCompression,
}

/// How what is sent is compressed, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrameCompression {
    /// Not at all.
    #[default]
    Off,
    /// By this zstd level, which is not 0.
    Always(i8),
    /// The same, as long as it makes much of a difference. What is saved on a connection's encryption is then more than it
    /// costs.
    WhereItHelps(i8),
}

impl FrameCompression {
    /// As in a greeting: the level, or 0, and whether it is only where it helps.
    const fn encode(self) -> [u8; 2] {
        match self {
            FrameCompression::Off => [0, 0],
            FrameCompression::Always(level) => [level.to_le_bytes()[0], 0],
            FrameCompression::WhereItHelps(level) => [level.to_le_bytes()[0], 1],
        }
    }

    const fn decode([level, helps]: [u8; 2]) -> Self {
        match (i8::from_le_bytes([level]), helps) {
            (0, _) => FrameCompression::Off,
            (level, 0) => FrameCompression::Always(level),
            (level, _) => FrameCompression::WhereItHelps(level),
        }
    }
}

/// No common ground.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no agent answered{0}")]
    NoAgent(String),
    #[error(
        "the agent knows versions {oldest} to {newest} of the protocol, this barkeep {OLDEST_VERSION} to \
         {NEWEST_VERSION}: update the older of the two"
    )]
    Versions { oldest: u16, newest: u16 },
    #[error("the client does not speak the agent's protocol")]
    NoClient,
}

/// The agent's side.
pub(super) fn greet(input: &mut impl Read, output: &mut impl Write) -> Result<Terms, GreetingError> {
    let mut greeting = AGENT_MAGIC.to_vec();
    greeting.extend_from_slice(&OLDEST_VERSION.to_le_bytes());
    greeting.extend_from_slice(&NEWEST_VERSION.to_le_bytes());
    output.write_all(&greeting)?;
    output.flush()?;
    let mut magic = [0; CLIENT_MAGIC.len()];
    input.read_exact(&mut magic)?;
    let mut rest = [0; 4];
    input.read_exact(&mut rest)?;
    let [low, high, level, helps] = rest;
    let version = u16::from_le_bytes([low, high]);
    if magic != *CLIENT_MAGIC || !(OLDEST_VERSION..=NEWEST_VERSION).contains(&version) {
        return Err(GreetingError::NoClient);
    }
    Ok(Terms { version, compression: FrameCompression::decode([level, helps]) })
}

/// The client's side.
pub(super) fn answer(
    input: &mut impl Read,
    output: &mut impl Write,
    compression: FrameCompression,
) -> Result<Terms, GreetingError> {
    let (oldest, newest) = find_greeting(input)?;
    let version = newest.min(NEWEST_VERSION);
    if version < oldest || version < OLDEST_VERSION {
        return Err(GreetingError::Versions { oldest, newest });
    }
    let mut answer = CLIENT_MAGIC.to_vec();
    answer.extend_from_slice(&version.to_le_bytes());
    answer.extend_from_slice(&compression.encode());
    output.write_all(&answer)?;
    output.flush()?;
    Ok(Terms { version, compression })
}

/// Reads up to the end of the agent's greeting and not a byte further; its versions.
fn find_greeting(input: &mut impl Read) -> Result<(u16, u16), GreetingError> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(AGENT_MAGIC) {
        if seen.len() >= CHATTER_BYTES_MAX || input.read(&mut byte)? == 0 {
            return Err(GreetingError::NoAgent(shown(&seen)));
        }
        seen.extend_from_slice(&byte);
    }
    let mut versions = [0; 4];
    input.read_exact(&mut versions)?;
    let [a, b, c, d] = versions;
    Ok((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

fn shown(chatter: &[u8]) -> String {
    let text = String::from_utf8_lossy(chatter);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.is_empty() {
        true => String::new(),
        false => format!("; what came instead: {}", line.chars().take(CHATTER_SHOWN).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(before: &[u8], oldest: u16, newest: u16) -> Vec<u8> {
        [before, AGENT_MAGIC, &oldest.to_le_bytes(), &newest.to_le_bytes()].concat()
    }

    #[test]
    fn a_greeting_is_found_behind_what_login_scripts_print() {
        let mut sent = Vec::new();
        let bytes = [greeting(b"Welcome to db1!\n\0barkeep\n", 1, 1), b"rest".to_vec()].concat();
        let mut input = &bytes[..];
        let compression = FrameCompression::Always(3);
        let terms = answer(&mut input, &mut sent, compression).unwrap();
        assert_eq!(terms, Terms { version: 1, compression });
        assert_eq!(input, b"rest");
        let mut out = Vec::new();
        assert_eq!(greet(&mut &sent[..], &mut out).unwrap(), terms);
        for other in [FrameCompression::Off, FrameCompression::Always(-3), FrameCompression::WhereItHelps(1)]
        {
            assert_eq!(FrameCompression::decode(other.encode()), other);
        }
    }

    #[test]
    fn newer_agents_speak_what_this_side_knows() {
        let bytes = greeting(b"", 1, 9);
        assert_eq!(
            answer(&mut &bytes[..], &mut Vec::new(), FrameCompression::Off).unwrap().version,
            NEWEST_VERSION
        );
    }

    #[test]
    fn sides_without_a_common_version_say_so_plainly() {
        for (oldest, newest) in [(7, 9), (0, 0)] {
            let bytes = greeting(b"", oldest, newest);
            let error =
                answer(&mut &bytes[..], &mut Vec::new(), FrameCompression::Off).unwrap_err().to_string();
            assert!(error.contains("update the older"), "{error}");
        }
    }

    #[test]
    fn what_came_instead_of_an_agent_is_shown() {
        let error =
            answer(&mut &b"bash: barkeep: command not found\n"[..], &mut Vec::new(), FrameCompression::Off)
                .unwrap_err();
        assert!(error.to_string().ends_with("instead: bash: barkeep: command not found"), "{error}");
        let endless = vec![b'x'; CHATTER_BYTES_MAX * 2];
        assert!(answer(&mut &endless[..], &mut Vec::new(), FrameCompression::Off).is_err());
    }
}
