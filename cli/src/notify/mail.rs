//! By mail.

use lettre::message::header::ContentType;
use lettre::{Message, SmtpTransport, Transport};

use super::destination::Mail;
use super::{Notification, PATIENCE};
use crate::output::redact;

/// Sends one mail to all receivers. What went wrong, in words without secrets.
pub(super) fn send(mail: &Mail, notification: &Notification) -> Result<(), String> {
    let address = |text: &str| text.parse().map_err(|error| format!("\"{text}\" is no address: {error}"));
    // A subject is one line, whatever a server's name or an error says.
    let subject = redact(&notification.subject).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut message = Message::builder().from(address(&mail.from)?).subject(subject);
    for to in &mail.to {
        message = message.to(address(to)?);
    }
    let message = message
        .header(ContentType::TEXT_PLAIN)
        .body(redact(&notification.text))
        .map_err(|error| error.to_string())?;
    let transport = SmtpTransport::from_url(&mail.url).map_err(|error| error.to_string())?;
    let transport = transport.timeout(Some(PATIENCE)).build();
    transport.send(&message).map(drop).map_err(|error| crate::error::chain(&error))
}
