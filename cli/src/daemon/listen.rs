//! What the daemon answers over HTTP: metrics, health, and the page. Read-only, and bounded in everything.
//!
//! A thread of its own with a runtime of its own: whoever asks slowly, or too much, holds up no backup.

mod facts;
mod metrics;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::error::CommandError;
use crate::output::Output;
use crate::page;
use facts::{Facts, Watched};

/// Most connections at a time; what is more is closed at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a request's head may take to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long what was found out is told again.
const FRESH: Duration = Duration::from_secs(10);
/// How long the daemon's loop may take for one turn, in seconds.
const TURN_SECONDS_MAX: u64 = 120;
/// The page may show pictures and styles that are in it, and do nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'";

/// Where the daemon listens.
#[derive(Debug)]
pub(super) struct Listener {
    state: Arc<State>,
}

/// What connections share.
#[derive(Debug)]
struct State {
    address: SocketAddr,
    watched: Mutex<Arc<Vec<Watched>>>,
    /// What was found out last, and when. Whoever finds it stale renews it; the others wait for that.
    known: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Facts>>)>>,
    /// The daemon's last turn, in seconds since 1970.
    last_turn: AtomicU64,
}

impl Listener {
    /// Listens. An address that other machines can reach has to be asked for.
    ///
    /// # Errors
    /// When the address is not this machine's own, or is taken.
    pub(super) fn start(
        address: SocketAddr,
        publicly: bool,
        context: &Context,
        output: &Output,
    ) -> Result<Self, CommandError> {
        if !address.ip().is_loopback() && !publicly {
            return Err(CommandError::new(format!("{address} can be reached by other machines")).hint(
                "listen on 127.0.0.1, behind something that asks for a password, or add --listen-publicly",
            ));
        }
        let cannot = |error: std::io::Error| {
            CommandError::because(format!("The daemon can't listen on {address}"), &error)
        };
        let socket = TcpListener::bind(address).map_err(cannot)?;
        socket.set_nonblocking(true).map_err(cannot)?;
        let address = socket.local_addr().map_err(cannot)?;
        let state = Arc::new(State {
            address,
            watched: Mutex::default(),
            known: tokio::sync::Mutex::default(),
            last_turn: AtomicU64::new(seconds_now()),
        });
        let listener = Listener { state: Arc::clone(&state) };
        listener.watch(context)?;
        let runtime = crate::context::new_runtime()?;
        std::thread::Builder::new()
            .name("listen".to_owned())
            .spawn(move || runtime.block_on(serve(socket, state)))
            .map_err(cannot)?;
        output.info(format!("The daemon answers on http://{address}/"));
        Ok(listener)
    }

    /// Tells of the servers of this configuration from now on.
    ///
    /// # Errors
    /// When they can't be listed.
    pub(super) fn watch(&self, context: &Context) -> Result<(), CommandError> {
        let watched = Arc::new(Watched::all(context)?);
        *self.state.watched.lock().unwrap_or_else(PoisonError::into_inner) = watched;
        Ok(())
    }

    /// Says that the daemon's loop still turns.
    pub(super) fn turned(&self) {
        self.state.last_turn.store(seconds_now(), Ordering::Relaxed);
    }
}

async fn serve(socket: TcpListener, state: Arc<State>) {
    let Ok(socket) = tokio::net::TcpListener::from_std(socket) else { return };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            // No file descriptors to spare: there may be some later.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // Whatever goes wrong with a connection is its client's business.
            let _ = tokio::time::timeout(CONNECTION_PATIENCE, connection).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only reading\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    if !is_for_us(state.address, request.headers().get(header::HOST)) {
        // A name that somebody else points at this machine would let their page read this one.
        return Ok(reply(StatusCode::FORBIDDEN, "text/plain", "unknown host\n".to_owned()));
    }
    Ok(match request.uri().path() {
        "/" => {
            let facts = known(&state).await;
            let entries: Vec<page::Entry> =
                facts.iter().map(|facts| (facts.server.clone(), facts.windows.clone())).collect();
            reply(StatusCode::OK, "text/html; charset=utf-8", page::render(&entries, Timestamp::now()))
        }
        "/metrics" => {
            let text = metrics::render(&known(&state).await, Timestamp::now());
            reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        "/health" => {
            let idle = seconds_now().saturating_sub(state.last_turn.load(Ordering::Relaxed));
            match idle <= TURN_SECONDS_MAX {
                true => reply(StatusCode::OK, "application/json", "{\"status\": \"ok\"}\n".to_owned()),
                false => {
                    let text = format!("{{\"status\": \"stuck\", \"seconds\": {idle}}}\n");
                    reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", text)
                }
            }
        }
        _ => {
            reply(StatusCode::NOT_FOUND, "text/plain", "nothing here; see /, /metrics, /health\n".to_owned())
        }
    })
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a request means this machine itself, where only that is listened to.
fn is_for_us(address: SocketAddr, host: Option<&HeaderValue>) -> bool {
    if !address.ip().is_loopback() {
        return true;
    }
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What is known of all servers, not older than [`FRESH`].
async fn known(state: &Arc<State>) -> Arc<Vec<Facts>> {
    let mut known = state.known.lock().await;
    if let Some((at, facts)) = known.as_ref()
        && at.elapsed() < FRESH
    {
        return Arc::clone(facts);
    }
    let watched = Arc::clone(&state.watched.lock().unwrap_or_else(PoisonError::into_inner));
    let facts = Arc::new(facts::gather(watched).await);
    *known = Some((Instant::now(), Arc::clone(&facts)));
    facts
}

fn seconds_now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_answered_on_loopback() {
        let check = |address: &str, host: &str, expected: bool| {
            let host = HeaderValue::from_str(host).unwrap();
            assert_eq!(is_for_us(address.parse().unwrap(), Some(&host)), expected, "{address} {host:?}");
        };
        for host in ["localhost:9187", "127.0.0.1:9187", "[::1]:9187", "LOCALHOST", "127.0.0.1", "[::1]"] {
            check("127.0.0.1:9187", host, true);
        }
        for host in ["evil.example:9187", "evil.example", "10.0.0.1:9187", "localhost.evil.example", ""] {
            check("127.0.0.1:9187", host, false);
        }
        check("10.0.0.1:9187", "backup.example:9187", true);
        assert!(!is_for_us("127.0.0.1:9187".parse().unwrap(), None));
    }
}
