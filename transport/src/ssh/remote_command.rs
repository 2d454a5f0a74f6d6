//! What is to be run at the far end.

use std::fmt;

/// A command line for the far end's shell, each word quoted so that it arrives as it is.
///
/// A word of harmless characters is not quoted, so that a forced command may compare lines.
///
/// ```
/// use barkeep_transport::ssh::RemoteCommand;
/// let command = RemoteCommand::new("barman").arg("put-wal").arg("it's; rm -rf /");
/// assert_eq!(command.as_str(), r"barman put-wal 'it'\''s; rm -rf /'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCommand(String);

impl RemoteCommand {
    /// A program without arguments.
    pub fn new(program: &str) -> Self {
        RemoteCommand(quote(program))
    }

    /// A line for the shell, as it stands: for words that a person has written for that purpose.
    pub fn shell(line: &str) -> Self {
        RemoteCommand(line.to_owned())
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.0.push(' ');
        self.0.push_str(&quote(argument));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<str>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, |command, argument| command.arg(argument.as_ref()))
    }

    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RemoteCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Single quotes keep everything in every common shell; a quote itself is written outside of them.
fn quote(word: &str) -> String {
    let is_harmless = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '=' | '@' | '+' | ',')
    };
    if !word.is_empty() && word.chars().all(is_harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_arrives_as_it_is(words in prop::collection::vec("[^\0]*", 1..6)) {
            let command = RemoteCommand::new(&words[0]).args(&words[1..]);
            prop_assert_eq!(shell_words::split(command.as_str()).unwrap(), words);
        }
    }

    #[test]
    fn a_real_shell_agrees() {
        let odd =
            ["", " ", "a b", "it's", "$HOME", "`id`", "\\", "\n", "*", "~", "#x", "-n", "\u{e4}\u{f6}", "!x"];
        let command = RemoteCommand::new("printf").arg("<%s>").args(odd);
        let output = std::process::Command::new("sh").arg("-c").arg(command.as_str()).output().unwrap();
        let expected: String = odd.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
