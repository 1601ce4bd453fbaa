//! An address whose server can be exchanged, as a DNS name or a load balancer would: the old connections are cut. It can
//! be made deaf too: what is published does not come through any more, everything else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Switch {
    pub port: u16,
    target: Arc<AtomicU16>,
    turned: watch::Sender<u64>,
    deaf: Arc<AtomicBool>,
    /// How many connections there are.
    open: watch::Sender<u64>,
}

/// Passes bytes on until either side ends. Those of a connection that has subscribed are kept back while it is deaf.
async fn pass(node: &mut TcpStream, server: &mut TcpStream, deaf: &AtomicBool) {
    let (mut from_node, mut to_node) = node.split();
    let (mut from_server, mut to_server) = server.split();
    let subscribed = AtomicBool::new(false);
    let out = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_node.read(&mut bytes).await {
            if bytes[..n].windows(9).any(|word| word == b"SUBSCRIBE") {
                subscribed.store(true, SeqCst);
            }
            if to_server.write_all(&bytes[..n]).await.is_err() {
                // The server is dead; what it had said before comes through all the same.
                std::future::pending::<()>().await;
            }
        }
    };
    let back = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
            let is_kept_back = subscribed.load(SeqCst) && deaf.load(SeqCst);
            if !is_kept_back && to_node.write_all(&bytes[..n]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! { () = out => {}, () = back => {} }
}

impl Switch {
    pub async fn start(target: u16) -> Switch {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, turned) = (Arc::new(AtomicU16::new(target)), watch::Sender::new(0));
        let deaf = Arc::new(AtomicBool::new(false));
        let open = watch::Sender::new(0);
        let (to, turns, deafness, count) = (target.clone(), turned.clone(), deaf.clone(), open.clone());
        actix_rt::spawn(async move {
            while let Ok((mut node, _)) = listener.accept().await {
                let (mut turns, port, deaf) = (turns.subscribe(), to.load(SeqCst), deafness.clone());
                turns.mark_unchanged();
                let count = count.clone();
                actix_rt::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    count.send_modify(|open| *open += 1);
                    tokio::select! {
                        // Either side may end it; then it is over.
                        () = pass(&mut node, &mut server, &deaf) => {}
                        _ = turns.changed() => {}
                    }
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Switch { port, target, turned, deaf, open }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Nothing that is published comes through, until it is turned.
    pub fn deafen(&self) {
        self.deaf.store(true, SeqCst);
    }

    /// Waits until all that a dead server had said has come through.
    pub async fn is_quiet(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.expect("it lives as long as this");
    }

    pub fn turn_to(&self, target: u16) {
        self.deaf.store(false, SeqCst);
        self.target.store(target, SeqCst);
        self.turned.send_modify(|turns| *turns += 1);
    }
}
