//! What the load balancers do for the nodes: the files of `deploy/` as they are, in front of nodes that keep
//! their rooms themselves.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use roomcast_rig::client::{Client, Guest};
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, Setup, free_port, get};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::balancer::{Balancer, Kind};
use crate::story::folder;

/// Nodes and what is in front of them.
struct House {
    folder: PathBuf,
    nodes: Vec<Server>,
    front: SocketAddr,
    _balancer: Balancer,
}

impl House {
    async fn open(name: &str, kind: Kind, nodes: usize, settings: &[&str]) -> House {
        let folder = folder(&format!("{name}-{kind:?}"), 0);
        let node = async |number: usize| {
            let home = folder.join(format!("node-{number}"));
            std::fs::create_dir_all(&home).expect("the folder can be made");
            let setup = Setup::new(env!("CARGO_BIN_EXE_roomcast"), &home);
            let setup = setup.with(r#"server.trusted_proxies=["127.0.0.1"]"#).with("server.drain=3s");
            let mut server = Server::new(settings.iter().fold(setup, |setup, setting| setup.with(setting)));
            server.spawn();
            server.says("/healthz", 200).await;
            server
        };
        let mut all = Vec::new();
        for number in 0..nodes {
            all.push(node(number).await);
        }
        let addresses: Vec<SocketAddr> = all.iter().map(Server::address).collect();
        let balancer = Balancer::start(kind, &addresses, &folder).await;
        House { folder, nodes: all, front: balancer.address, _balancer: balancer }
    }

    async fn closes(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
        std::fs::remove_dir_all(&self.folder).expect("the folder was made by this story");
    }
}

/// A WebSocket from this address, which says of itself that it is another; none when it is refused.
async fn visitor(
    front: SocketAddr,
    from: Ipv4Addr,
    claims: Option<&str>,
) -> Option<WebSocketStream<TcpStream>> {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind((from, 0).into()).expect("every address of 127.0.0.0/8 is this machine");
    let stream = socket.connect(front).await.expect("the load balancer listens");
    let mut request = format!("ws://{front}/v1/ws").into_client_request().expect("it is an address");
    if let Some(claim) = claims {
        request.headers_mut().insert("x-forwarded-for", claim.parse().expect("it is a header"));
        let forwarded = format!("for={claim}");
        request.headers_mut().insert("forwarded", forwarded.parse().expect("it is a header"));
    }
    tokio_tungstenite::client_async(request, stream).await.ok().map(|(socket, _)| socket)
}

async fn visitors_are_told_apart(kind: Kind) {
    let house = House::open("addresses", kind, 1, &["limits.connections_per_address=2"]).await;
    let (ann, bob) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let first = visitor(house.front, ann, None).await.expect("the first of this address");
    let second = visitor(house.front, ann, None).await.expect("the second of this address");
    assert!(visitor(house.front, ann, None).await.is_none(), "the third of one address is one too many");
    let lies = visitor(house.front, ann, Some("192.0.2.7")).await;
    assert!(lies.is_none(), "nobody becomes another by saying so");
    let other = visitor(house.front, bob, None).await.expect("another address");
    drop((first, second, other));
    house.closes().await;
}

#[tokio::test]
async fn haproxy_tells_the_nodes_who_comes() {
    visitors_are_told_apart(Kind::HaProxy).await;
}

#[tokio::test]
async fn nginx_tells_the_nodes_who_comes() {
    visitors_are_told_apart(Kind::Nginx).await;
}

/// New visitors, one after the other, as many as fit into the time until `done`; each has to be let in.
async fn visitors_come(front: SocketAddr, mut done: tokio::sync::oneshot::Receiver<()>) -> u32 {
    let mut came = 0;
    while done.try_recv().is_err() {
        let mut client = Client::connect(front, None).await.expect("a new visitor is let in");
        client.say(r#"{"t":"hello","v":1,"u":"visitor"}"#).await;
        let welcome = client.hear().await.expect("and welcome");
        assert!(welcome.contains(r#""t":"welcome""#), "{welcome}");
        came += 1;
    }
    came
}

async fn a_node_that_stops_gets_no_visitors(kind: Kind) {
    let mut house = House::open("drain", kind, 2, &[]).await;
    let diaries = house.folder.join("diaries");
    let mut guest = Guest::enter(house.nodes[0].address(), &diaries, "ann", json!({})).await;
    let (done, is_done) = tokio::sync::oneshot::channel();
    let visitors = tokio::spawn(visitors_come(house.front, is_done));
    let stopping = house.nodes[0].stop();
    let told = guest.hears("bye", |frame| frame["t"] == "bye");
    let (bye, ()) = tokio::join!(told, stopping);
    assert_eq!(bye["code"], 4200);
    assert!(bye["wait"].is_u64(), "it says when to come back: {bye}");
    done.send(()).expect("they come until now");
    let came = visitors.await.expect("all were let in");
    assert!(came > 0, "somebody came meanwhile");
    house.nodes[0].spawn();
    house.nodes[0].is_ready().await;
    house.closes().await;
}

#[tokio::test]
async fn haproxy_sends_nobody_to_a_node_that_stops() {
    a_node_that_stops_gets_no_visitors(Kind::HaProxy).await;
}

#[tokio::test]
async fn nginx_sends_nobody_to_a_node_that_stops() {
    a_node_that_stops_gets_no_visitors(Kind::Nginx).await;
}

#[tokio::test]
async fn strangers_do_not_see_the_figures() {
    for kind in [Kind::HaProxy, Kind::Nginx] {
        let house = House::open("figures", kind, 1, &[]).await;
        let (status, _) = get(house.front, "/metrics").await.expect("an answer");
        assert_eq!(status, 404, "{kind:?}");
        assert_eq!(get(house.nodes[0].address(), "/metrics").await.expect("an answer").0, 200);
        house.closes().await;
    }
}

/// A list in a Redis that is not there: the nodes can be read from, and say that they are not ready.
#[tokio::test]
async fn haproxy_lets_people_in_while_no_node_is_ready() {
    let redis = format!("redis.url=redis://127.0.0.1:{}", free_port());
    let mut house = House::open("not ready", Kind::HaProxy, 2, &[]).await;
    for node in &mut house.nodes {
        node.stop().await;
        node.setup = node.setup.clone().with(&redis).with("engine.kind=memory");
        node.spawn();
        node.says("/readyz", 503).await;
    }
    let came = async || {
        let mut client = Client::connect(house.front, None).await?;
        client.say(r#"{"t":"hello","v":1,"u":"ann"}"#).await;
        client.hear().await.filter(|line| line.contains(r#""t":"welcome""#))
    };
    eventually("a node that is not ready to be used all the same", came).await;
    house.closes().await;
}
