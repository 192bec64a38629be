//! Connections: how many there are, how long they may be silent, and how they end.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at a time; more wait until one ends.
    pub connections: usize,
    /// How long a client may take for the head of a request, or take nothing of an answer.
    pub patience: Duration,
}

/// How long clients may still read after the last request has been computed and the server is to stop.
const LINGER: Duration = Duration::from_secs(3);
/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_millis(50);
/// The pause after the system had no connection to give: of open files, for one, there may be too many.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stop`, then until every connection has ended, or until nothing is computed any more (`idle`) and who is still
/// connected has had some time to read it.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
    idle: impl Fn() -> bool,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(bounds.connections));
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! { next = next => next, () = &mut stop => break };
        let Ok((stream, _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        // Tokens are small, and each is to arrive when it is there.
        let _ = stream.set_nodelay(true);
        let stream = TokioIo::new(Patient { stream, patience: bounds.patience, waits: None });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(bounds.patience);
        let connection = http.serve_connection(stream, TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off ends its own connection only.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let computed = async {
        while !idle() {
            sleep(LOOK).await;
        }
        sleep(LINGER).await;
    };
    tokio::select! { () = graceful.shutdown() => (), () = computed => () }
}

/// A stream whose other end may take its time, but not for ever.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Since the other end takes nothing more.
    waits: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn bounded<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waits = None;
            return result;
        }
        let patience = self.patience;
        match self.waits.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.bounded(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
