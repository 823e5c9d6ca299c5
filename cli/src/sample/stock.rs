//! `stock`: a line of text in, how many there are in a line out. Speaks plain TCP, to show that opaque bytes travel too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(super) async fn serve(listen: SocketAddr) -> Result<(), String> {
    let listener =
        TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { tokio::spawn(converse(stream)); }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            () = crate::runtime::terminated() => return Ok(()),
        }
    }
}

async fn converse(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut item = String::new();
    while stream.read_line(&mut item).await? > 0 {
        // The stock of an item is the length of its name.
        stream.write_all(format!("{}\n", item.trim().len()).as_bytes()).await?;
        item.clear();
    }
    Ok(())
}
