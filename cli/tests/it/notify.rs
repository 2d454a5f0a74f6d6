//! Notifications: real mail, real requests, real commands, to servers of the test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::Cluster;

use crate::support::Home;

/// Serves each connection with `talk`; what that returns can be received.
pub(crate) fn serve(talk: impl Fn(TcpStream) -> Option<String> + Send + 'static) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, answers) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Some(text) = talk(stream)
                && heard.send(text).is_err()
            {
                return;
            }
        }
    });
    (port, answers)
}

/// A mail server that takes everything: the envelope and the mail.
fn mail_server() -> (u16, Receiver<String>) {
    serve(|stream| take_mail(stream, true))
}

/// A web server that answers with this status: the request.
fn web_server(status: &'static str) -> (u16, Receiver<String>) {
    serve(move |stream| answer_request(stream, status))
}

/// Takes mail from a client until it says goodbye: all that it said.
pub(crate) fn take_mail<S: Read + Write>(stream: S, greet: bool) -> Option<String> {
    let mut stream = BufReader::new(stream);
    let say = |stream: &mut BufReader<S>, text: &str| {
        stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).ok()?;
        stream.get_mut().flush().ok()
    };
    if greet {
        say(&mut stream, "220 sink")?;
    }
    let (mut heard, mut in_data) = (String::new(), false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return (!heard.is_empty()).then_some(heard);
        }
        heard.push_str(&line);
        match line.trim_end() {
            "." if in_data => {
                in_data = false;
                say(&mut stream, "250 taken")?;
            }
            _ if in_data => {}
            "DATA" => {
                in_data = true;
                say(&mut stream, "354 go on")?;
            }
            "QUIT" => {
                say(&mut stream, "221 bye")?;
                return Some(heard);
            }
            _ => say(&mut stream, "250 fine")?,
        }
    }
}

/// Answers one request with this status: the request.
pub(crate) fn answer_request(stream: impl Read + Write, status: &str) -> Option<String> {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.get_mut().write_all(answer.as_bytes()).ok()?;
    stream.get_mut().flush().ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

pub(crate) fn next(answers: &Receiver<String>) -> String {
    answers.recv_timeout(Duration::from_secs(30)).expect("a notification")
}

pub(crate) fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn a_failed_backup_is_told_by_mail_webhook_and_command() {
    let (mail_port, mails) = mail_server();
    let (web_port, requests) = web_server("204 No Content");
    let home = Home::new().server("main", "host=/nonexistent password=s3cret");
    let told = home.join("told");
    let notify = format!(
        "smtp://127.0.0.1:{mail_port}/?from=barman@example.org&to=dba@example.org,ops@example.org, \
         http://127.0.0.1:{web_port}/hook/T0KEN, exec:cat > '{}'; echo \"$BARKEEP_EVENT $BARKEEP_OK\" >> '{}'",
        told.display(),
        told.display()
    );
    let home = home.with("main", "notify", &notify);
    home.run(["backup", "main"]).exits_with(1);
    let mail = next(&mails);
    for part in [
        "MAIL FROM:<barman@example.org>",
        "RCPT TO:<dba@example.org>",
        "RCPT TO:<ops@example.org>",
        "Subject: barkeep: main: backup FAILED",
        "The backup of server main has failed.",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    let request = next(&requests);
    assert!(request.starts_with("POST /hook/T0KEN HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("content-type: application/json"), "{request}");
    let object = body(&request);
    assert_eq!(
        (&object["event"], &object["ok"], &object["server"]),
        (&"backup".into(), &false.into(), &"main".into())
    );
    assert!(object["error"].as_str().unwrap().contains("/nonexistent"), "{object}");
    let told = std::fs::read_to_string(told).unwrap();
    assert!(told.ends_with("backup 0\n") && told.contains("\"event\":\"backup\""), "{told}");
    for text in [mail, request, told, home.log()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(!home.log().contains("T0KEN"), "a webhook's address is a secret: {}", home.log());
}

#[test]
fn a_backup_that_was_taken_is_told_too() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let (port, requests) = web_server("200 OK");
    let home = Home::new().server("main", &cluster.conninfo()).with(
        "main",
        "notify",
        &format!("http://127.0.0.1:{port}/"),
    );
    home.run(["backup", "main"]).success();
    let object = body(&next(&requests));
    assert_eq!((&object["ok"], &object["event"]), (&true.into(), &"backup".into()));
    let id = home.run(["list-backups", "main", "--minimal"]).success().stdout;
    assert_eq!(object["backup_id"].as_str().unwrap(), id.trim());
    assert!(object["size"].as_u64().unwrap() > 1 << 20, "{object}");
}

#[test]
fn a_check_is_told_when_it_turns_and_not_again() {
    let (port, requests) = web_server("200 OK");
    let home = Home::new().server("main", "host=/nonexistent").with(
        "main",
        "notify",
        &format!("http://127.0.0.1:{port}/"),
    );
    home.run(["check", "main"]).exits_with(1);
    let object = body(&next(&requests));
    assert_eq!((&object["event"], &object["status"]), (&"check".into(), &"FAILED".into()));
    let names: Vec<&str> =
        object["failed"].as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"PostgreSQL"), "{names:?}");
    home.run(["check", "main"]).exits_with(1);
    home.run(["check", "main", "--nagios"]).exits_with(2);
    assert!(requests.recv_timeout(Duration::from_millis(300)).is_err(), "told again");
    // What cron starts checks by itself.
    std::fs::remove_file(home.join("main/.barkeep/check-state.json")).unwrap();
    home.run(["cron"]);
    assert_eq!(body(&next(&requests))["event"], "check");
}

#[test]
fn a_check_that_turns_good_again_is_told() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let (port, requests) = web_server("200 OK");
    let home = Home::new().server("main", &cluster.conninfo()).with(
        "main",
        "notify",
        &format!("http://127.0.0.1:{port}/"),
    );
    home.run(["check", "main"]).exits_with(1);
    let bad = body(&next(&requests));
    assert_eq!((&bad["event"], &bad["status"]), (&"check".into(), &"FAILED".into()));
    home.run(["receive-wal", "--create-slot", "main"]).success();
    testkit::wait_for("everything to be well", 60, || {
        home.run(["cron"]);
        cluster.switch_wal();
        (home.run(["check", "main"]).code == Some(0)).then_some(())
    });
    let good = body(&next(&requests));
    assert_eq!(
        (&good["event"], &good["status"], &good["failed"]),
        (&"check".into(), &"OK".into(), &Value::Array(vec![]))
    );
    home.run(["check", "main"]).success();
    assert!(requests.recv_timeout(Duration::from_millis(300)).is_err(), "told again");
    home.run(["terminate-process", "main", "receive-wal"]).success();
}

#[test]
fn whoever_does_not_listen_is_named_and_holds_nothing_up_for_long() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let (refusing, _requests) = web_server("500 Internal Server Error");
    let home = Home::new().server("main", "host=/nonexistent").with(
        "main",
        "notify",
        &format!(
            "http://127.0.0.1:{port}/T0KEN, smtp://u:s3cret@127.0.0.1:{port}/?from=a@b.c&to=d@e.f, exec:exit 7, \
             http://127.0.0.1:{refusing}/T0KEN, exec:sleep 300"
        ),
    );
    let clock = Instant::now();
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(clock.elapsed() < Duration::from_secs(120), "{:?}", clock.elapsed());
    assert_eq!(run.stderr.matches("could not be notified").count(), 5, "{run:?}");
    assert!(run.stderr.contains("exec:exit could not be notified: it returned 7"), "{run:?}");
    assert!(run.stderr.contains("exec:sleep could not be notified: it was stopped after"), "{run:?}");
    assert!(!run.stderr.contains("T0KEN") && !run.stderr.contains("s3cret"), "{run:?}");
    let home = home.with("main", "notify", "tell everybody");
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("notify of server main: \"tell everybody\" is no destination"), "{run:?}");
}
