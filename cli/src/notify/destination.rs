//! Who is to be notified: `notify = smtp://mail.example.org/?from=a@b&to=c@d, https://hook.example.org/x, exec:/usr/bin/it`.

use std::fmt;

use url::Url;

/// The most destinations that one server may have.
const DESTINATIONS_MAX: usize = 16;
/// What a destination begins with.
const SCHEMES: [&str; 5] = ["smtp://", "smtps://", "http://", "https://", "exec:"];

/// Somebody who is to be notified.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// By mail.
    Mail(Mail),
    /// By a POST request with a JSON body.
    Web(Url),
    /// By a command for the shell, with the JSON on its standard input.
    Exec(String),
}

/// A mail server and addresses.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    /// The server, with user and password, for lettre.
    pub(crate) url: String,
    /// The server alone.
    pub(crate) host: String,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
}

/// A text that names no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DestinationError {
    #[error(
        "\"{text}\" is no destination: it begins with none of smtp://, smtps://, http://, https://, exec:"
    )]
    Scheme { text: String },
    #[error("a destination's URL is wrong: {reason}")]
    Url { reason: String },
    #[error("the destination smtp://{host} has no {key}: add ?from=SENDER&to=RECEIVER")]
    Address { host: String, key: &'static str },
    #[error("exec: is followed by no command")]
    Command,
    #[error("there are more than {DESTINATIONS_MAX} destinations")]
    Many,
}

/// Reads a list, separated by commas. A comma that no destination follows belongs to the one before it.
pub(crate) fn parse_all(text: &str) -> Result<Vec<Destination>, DestinationError> {
    let mut parts: Vec<String> = Vec::new();
    for part in text.split(',') {
        let begins = SCHEMES.iter().any(|scheme| part.trim_start().to_lowercase().starts_with(scheme));
        match parts.last_mut() {
            Some(last) if !begins => {
                last.push(',');
                last.push_str(part);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    if parts.len() > DESTINATIONS_MAX {
        return Err(DestinationError::Many);
    }
    parts.iter().map(|part| Destination::parse(part.trim())).collect()
}

impl Destination {
    fn parse(text: &str) -> Result<Self, DestinationError> {
        if let Some(command) = text.strip_prefix("exec:") {
            return match command.trim() {
                "" => Err(DestinationError::Command),
                command => Ok(Destination::Exec(command.to_owned())),
            };
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => {
                DestinationError::Scheme { text: text.chars().take(32).collect() }
            }
            error => DestinationError::Url { reason: error.to_string() },
        })?;
        match url.scheme() {
            "http" | "https" => Ok(Destination::Web(url)),
            "smtp" | "smtps" => Mail::of(url).map(Destination::Mail),
            scheme => Err(DestinationError::Scheme { text: scheme.chars().take(32).collect() }),
        }
    }
}

impl Mail {
    fn of(mut url: Url) -> Result<Self, DestinationError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let values = |key: &str| -> Vec<String> {
            let pairs = url.query_pairs().filter(|(name, _)| name == key);
            let values = pairs.flat_map(|(_, value)| {
                value.split(',').map(|address| address.trim().to_owned()).collect::<Vec<_>>()
            });
            values.filter(|address| !address.is_empty()).collect()
        };
        let missing = |key| DestinationError::Address { host: host.clone(), key };
        let from = values("from").into_iter().next().ok_or_else(|| missing("from"))?;
        let to = values("to");
        if to.is_empty() {
            return Err(missing("to"));
        }
        // What remains is for the transport: tls=required, for one.
        let rest: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(name, _)| name != "from" && name != "to")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        Ok(Mail { url: url.to_string(), host, from, to })
    }
}

/// Who it is, without secrets: tokens are found in paths and queries of webhooks too.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Mail(mail) => write!(f, "{} by mail through {}", mail.to.join(", "), mail.host),
            Destination::Web(url) => write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default()),
            Destination::Exec(command) => {
                write!(f, "exec:{}", command.split_whitespace().next().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        parse_all(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn destinations_are_told_apart_by_their_schemes() {
        assert_eq!(
            told(
                "smtp://u:secret@mail:587/?from=a@b&to=c@d,e@f, https://hook/T0KEN?x=1,2 ,exec:/bin/it --to a,b"
            ),
            ["c@d, e@f by mail through mail", "https://hook", "exec:/bin/it"]
        );
        let Destination::Mail(mail) =
            parse_all("smtp://u:p@m/?to=c@d&tls=required&from=a@b").unwrap().remove(0)
        else {
            panic!()
        };
        assert_eq!(mail.url, "smtp://u:p@m/?tls=required");
        assert_eq!((mail.from.as_str(), mail.to), ("a@b", vec!["c@d".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for (text, said) in [
            ("mail to me", "no destination"),
            ("ftp://x", "no destination"),
            ("exec: ", "no command"),
            ("smtp://u:secret@mail/?to=a@b", "no from"),
            ("smtp://u:secret@mail/?from=a@b", "no to"),
            ("https://u:secret@", "URL is wrong"),
        ] {
            let error = parse_all(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{text}: {error}");
        }
        assert_eq!(parse_all(&"exec:x,".repeat(20)), Err(DestinationError::Many));
    }
}
