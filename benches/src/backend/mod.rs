//! The applications behind a proxy that is measured: they answer as cheaply as they can, so that the proxy is what limits.
//!
//! Run in a thread of the bench (tests, small runs) or as a process of its own with a core of its own (`backend`, hidden).
//! A client that breaks its protocol loses its connection.

mod http1;
mod http2;
mod stream;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::load;

/// What a backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// HTTP/1.1: answers every request with a body of `size` bytes.
    Http1 { size: usize },
    /// HTTP/1.1 that answers nothing for that long after its start.
    #[cfg(test)]
    Stalled { stall: Duration },
    /// HTTP/2 with prior knowledge: a body of `size` bytes when the request is complete, and trailers.
    Http2 { size: usize, trailers: bool },
    /// gRPC: each message is answered by the same message, in unary calls and in streams of any method.
    Grpc,
    /// TCP: returns what it receives.
    TcpEcho,
    /// TCP: reads and drops what it receives.
    TcpSink,
    /// WebSocket: each message is answered by the same message.
    WebSocket,
}

/// Runs one backend until it is ended.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    #[arg(value_enum)]
    service: Name,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Size of a response's body in bytes, for HTTP.
    #[arg(long, default_value_t = 200)]
    size: usize,
    /// HTTP/2 responses have trailers.
    #[arg(long)]
    trailers: bool,
    /// The core to run on.
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    Http1,
    Http2,
    Grpc,
    TcpEcho,
    TcpSink,
    Websocket,
}

/// Serves until the process is ended. Prints the address first. Returns an error if it cannot listen.
pub(crate) fn run(args: &BackendArgs) -> Result<(), String> {
    let service = match args.service {
        Name::Http1 => Service::Http1 { size: args.size },
        Name::Http2 => Service::Http2 { size: args.size, trailers: args.trailers },
        Name::Grpc => Service::Grpc,
        Name::TcpEcho => Service::TcpEcho,
        Name::TcpSink => Service::TcpSink,
        Name::Websocket => Service::WebSocket,
    };
    let listener = listen(args.listen)?;
    println!("{}", listener.local_addr().map_err(|error| error.to_string())?);
    let core = args.core;
    // It has a runtime of its own.
    let thread = std::thread::spawn(move || serve(service, listener, core));
    thread.join().map_err(|_| "the backend panicked")?
}

/// Starts a backend in a thread, which runs until the process ends, on a free port of loopback. Returns its address.
pub(crate) fn start(service: Service) -> Result<SocketAddr, String> {
    start_on(Ipv4Addr::LOCALHOST, service)
}

/// The same on a free port of `host`. 0.0.0.0 includes all addresses of loopback.
pub(crate) fn start_on(host: Ipv4Addr, service: Service) -> Result<SocketAddr, String> {
    let listener = listen((host, 0).into())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let thread = std::thread::Builder::new().name("backend".into());
    thread.spawn(move || serve(service, listener, None)).map_err(|error| error.to_string())?;
    Ok(address)
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, String> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(listener)
}

fn serve(service: Service, listener: std::net::TcpListener, core: Option<usize>) -> Result<(), String> {
    core.map_or(Ok(()), load::pin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    LocalSet::new().block_on(&runtime, accept(service, listener))
}

async fn accept(service: Service, listener: std::net::TcpListener) -> Result<(), String> {
    let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
    let answer = match service {
        Service::Http1 { size } => http1::answer(size),
        #[cfg(test)]
        Service::Stalled { stall } => {
            tokio::time::sleep(stall).await;
            http1::answer(1)
        }
        Service::Http2 { size, .. } => vec![b'x'; size].into(),
        _ => bytes::Bytes::new(),
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of files: those that are open go on.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(connection(service, stream, answer.clone()));
    }
}

/// Serves a connection until it ends, for whatever reason.
async fn connection(service: Service, stream: TcpStream, answer: bytes::Bytes) {
    match service {
        Service::Http1 { .. } => drop(http1::serve(stream, answer).await),
        #[cfg(test)]
        Service::Stalled { .. } => drop(http1::serve(stream, answer).await),
        Service::Http2 { trailers, .. } => {
            drop(http2::serve(stream, http2::Answer::Fixed { body: answer, trailers }).await)
        }
        Service::Grpc => drop(http2::serve(stream, http2::Answer::Grpc).await),
        Service::TcpEcho => drop(stream::echo(stream).await),
        Service::TcpSink => drop(stream::sink(stream).await),
        Service::WebSocket => drop(stream::websocket(stream).await),
    }
}
