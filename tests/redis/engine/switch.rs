//! An address whose server can be exchanged, as a DNS name or a load balancer would: the old connections are cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Switch {
    pub port: u16,
    target: Arc<AtomicU16>,
    turned: watch::Sender<u64>,
}

impl Switch {
    pub async fn start(target: u16) -> Switch {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, turned) = (Arc::new(AtomicU16::new(target)), watch::Sender::new(0));
        let (to, turns) = (target.clone(), turned.clone());
        actix_rt::spawn(async move {
            while let Ok((mut node, _)) = listener.accept().await {
                let (mut turns, port) = (turns.subscribe(), to.load(SeqCst));
                turns.mark_unchanged();
                actix_rt::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        // Either side may end it; then it is over.
                        _ = tokio::io::copy_bidirectional(&mut node, &mut server) => {}
                        _ = turns.changed() => {}
                    }
                });
            }
        });
        Switch { port, target, turned }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn turn_to(&self, target: u16) {
        self.target.store(target, SeqCst);
        self.turned.send_modify(|turns| *turns += 1);
    }
}
