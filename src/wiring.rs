//! The only place that knows everybody: opens the doors, starts the actors, binds them together, and ends
//! them in order. Called by the command line, and by programs that bring handlers of their own.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_codec::Framed;
use actix_http::{HttpService, KeepAlive, Request, h1};
use actix_rt::net::TcpStream;
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::{App, Error, web};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::actors::admission::Admission;
use crate::actors::chat_server::{ChatServer, ChatSettings, Handlers, Opening, StoreHealth, Telling};
use crate::actors::events;
use crate::actors::hub::{Core, Hub, HubLimits};
use crate::actors::letters::{Depart, Drain, Finish, Hello};
use crate::actors::panics;
use crate::actors::session::SessionHouse;
use crate::auth::origin::Origins;
use crate::auth::token::Verifier;
use crate::auth::visitor::Proxies;
use crate::chat::names::RoomName;
use crate::config::backing::Backing;
use crate::config::report::startup_lines;
use crate::config::{Config, EngineKind};
use crate::engines::embedded;
use crate::engines::redis::filler::{Filler, FillerSettings};
use crate::engines::redis::{self, ArchiveSettings, RoomKeep};
use crate::forwards::memory::MemoryExit;
use crate::http::access;
use crate::http::house::House;
use crate::http::readiness::Readiness;
use crate::http::routes;
use crate::log::LogFormat;
use crate::metrics::Metrics;
use crate::store::archive::{Keep, OpenError, SharedArchive};
use crate::store::postgres::address::PostgresUrl;
use crate::store::postgres::{PostgresArchive, apart};
use crate::traces::Tracer;
use crate::transports::entrance::Entry;
use crate::transports::websocket::Door;

use alone::Claim;
use forwards::{Exit, Forwards};
use hooks::Hooks;
use queues::{Queues, Watchers};
use traces::Traces;

mod alone;
mod filling;
mod forwards;
mod hooks;
mod queues;
mod sources;
mod traces;

/// Entries of a partition that may wait in Redis for the archive: some 200 bytes each, and more with large messages.
const FEED_MAX: u64 = 1_000_000;
/// Read marks and sessions of a partition that may wait in Redis for the archive: some 150 bytes each.
const NOTES_MAX: u64 = 500_000;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long an idle HTTP connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long the wiring waits for its threads to come up.
const START_TIME: Duration = Duration::from_secs(10);
/// Signals within this time are one wish to stop.
const SAME_WISH: Duration = Duration::from_millis(100);
/// Pause between two looks at whether everybody has gone.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Least time to keep what is only in memory.
const FINISH_TIME_MIN: Duration = Duration::from_secs(2);

/// Why a server did not start, or stopped.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration cannot work.
    Config(String),
    /// An address cannot be listened on, or the system refuses something else.
    System(String),
    /// A service that is needed is not there.
    Unavailable(String),
}

impl ServeError {
    /// The exit code of the process: 2 for the configuration, 69 for a service that is not there
    /// (EX_UNAVAILABLE of sysexits.h), 1 for the rest.
    pub fn exit_code(&self) -> i32 {
        match self {
            ServeError::Config(_) => 2,
            ServeError::System(_) => 1,
            ServeError::Unavailable(_) => 69,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ServeError::Config(text) | ServeError::System(text) | ServeError::Unavailable(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ServeError {}

/// A server in the making: a configuration, and handlers of a program's own.
///
/// ```no_run
/// use roomcast::actors::events::{Effects, Handler, Incoming, Peer, Verdict};
/// use roomcast::config::Config;
/// use roomcast::wiring::Roomcast;
///
/// struct Quiet;
///
/// impl Handler for Quiet {
///     fn on_message(&mut self, _: &Peer, message: Incoming<'_>, _: &mut Effects) -> Verdict {
///         match message {
///             Incoming::Draft(draft) if draft.data.as_bytes().len() > 280 => {
///                 Verdict::Refuse("at most 280 characters".into())
///             }
///             _ => Verdict::Accept,
///         }
///     }
/// }
///
/// Roomcast::new(Config::default()).rooms(Quiet).run()?;
/// # Ok::<(), roomcast::wiring::ServeError>(())
/// ```
pub struct Roomcast {
    config: Config,
    handlers: Handlers,
    raw_paths: Vec<String>,
}

/// Runs a server without handlers until it is told to stop.
pub fn serve(config: Config) -> Result<(), ServeError> {
    Roomcast::new(config).run()
}

impl Roomcast {
    /// A server with this configuration.
    pub fn new(config: Config) -> Roomcast {
        Roomcast { config, handlers: Handlers::default(), raw_paths: Vec::new() }
    }

    /// Listens on this address (`127.0.0.1:8080`) instead of the configured one.
    pub fn listen(mut self, address: &str) -> Roomcast {
        self.config.server.listen = address.into();
        self
    }

    /// Puts a handler over all rooms.
    pub fn rooms(mut self, handler: impl events::Handler) -> Roomcast {
        self.handlers.rooms = Some(Box::new(handler));
        self
    }

    /// Gives a path of its own to a handler: text and binary as they come, no protocol on top.
    pub fn raw(mut self, path: &str, handler: impl events::Handler) -> Roomcast {
        self.raw_paths.push(path.into());
        self.handlers.raw.push(Box::new(handler));
        self
    }

    /// Runs the server until SIGTERM or SIGINT has been carried out.
    pub fn run(self) -> Result<(), ServeError> {
        self.config.check().map_err(|error| ServeError::Config(error.to_string()))?;
        panics::install_hook();
        raise_file_limit();
        let system = System::new();
        system.block_on(run(self))
    }
}

/// What every worker thread is made from.
struct Plan {
    config: Config,
    /// This node's name.
    node: String,
    metrics: Arc<Metrics>,
    ready: Arc<Readiness>,
    verifier: Arc<Verifier>,
    origins: Arc<Origins>,
    proxies: Arc<Proxies>,
    admission: Arc<Admission>,
    raw_paths: Vec<String>,
    handlers: Mutex<Option<Handlers>>,
    opened: Mutex<Option<Opening>>,
    hooks: Hooks,
    tracer: Tracer,
    telling: Mutex<Option<Telling>>,
    searchable: bool,
    /// Where copies of entries leave rooms that live in memory.
    memory_exit: Option<MemoryExit>,
    /// Whether anything outlives this process, and so the places of sessions.
    keeps_sessions: bool,
    store: Arc<StoreHealth>,
    chat: OnceLock<Addr<ChatServer>>,
    next_worker: AtomicU16,
    up: mpsc::UnboundedSender<Addr<ChatServer>>,
}

/// What a worker thread has: made once, also if the server builds its services anew.
struct Worker {
    house: Rc<SessionHouse>,
    door: Rc<Door>,
    /// For sessions over plain HTTP.
    entry: Rc<Entry>,
}

thread_local! {
    static WORKER: OnceCell<Rc<Worker>> = const { OnceCell::new() };
}

impl Plan {
    /// The worker of this thread. The first thread that comes runs the chat server too: with few members in
    /// many rooms, waking another thread would cost more than all the rest.
    fn worker(self: &Arc<Self>) -> Rc<Worker> {
        WORKER.with(|cell| cell.get_or_init(|| Rc::new(self.new_worker())).clone())
    }

    fn new_worker(self: &Arc<Self>) -> Worker {
        let chat = self.chat.get_or_init(|| self.start_chat()).clone();
        let index = self.next_worker.fetch_add(1, Relaxed);
        let limits = &self.config.limits;
        let hub_limits = HubLimits {
            outbox_bytes: limits.outbox_bytes,
            outbox_age_ms: limits.outbox_age.millis(),
            ping_ms: limits.ping.millis(),
        };
        let core = Rc::new(RefCell::new(Core::new(index, hub_limits, self.metrics.worker(index.into()))));
        let queued = Arc::new(AtomicUsize::new(0));
        let hub = Hub::new(core.clone(), queued.clone(), chat.clone().recipient()).start();
        chat.do_send(Hello { worker: index.into(), hub: hub.recipient(), queued });
        // The receiver is gone once all threads are up; a thread that comes again need not say so.
        if self.up.send(chat.clone()).is_err() {
            log::warn!("worker thread {index} was started again");
        }
        let house = Rc::new(SessionHouse {
            core,
            chat,
            verifier: self.verifier.clone(),
            rooms: self.config.rooms.clone(),
            limits: limits.clone(),
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            questions: self.hooks.questions().map(Rc::new),
        });
        let ready = self.ready.clone();
        let door = Rc::new(Door {
            house: house.clone(),
            origins: self.origins.clone(),
            proxies: self.proxies.clone(),
            demo: self.config.demo.clone(),
            admission: self.admission.clone(),
            draining: Arc::new(move || ready.is_draining()),
            raw_paths: self.raw_paths.clone(),
        });
        let entry = Rc::new(Entry::new(door.clone(), self.keeps_sessions));
        Worker { house, door, entry }
    }

    fn start_chat(&self) -> Addr<ChatServer> {
        let Config { rooms, limits, server, .. } = &self.config;
        let settings = ChatSettings {
            rooms: rooms.clone(),
            rooms_max: limits.rooms,
            rooms_per_session: limits.rooms_per_session,
            message_bytes: limits.message_bytes,
            ping_ms: limits.ping.millis(),
            drain_ms: server.drain.millis(),
            searchable: self.searchable,
            exit: self.memory_exit.clone(),
            node: self.node.clone(),
        };
        let handlers =
            self.handlers.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner).take();
        let chat = ChatServer::new(settings, handlers, self.metrics.clone(), opened, self.store.clone());
        chat.telling(telling).start()
    }

    fn http_house(&self, worker: &Worker) -> House {
        House {
            demo: self.config.demo.clone(),
            origins: Origins::clone(&self.origins),
            auth: self.config.auth.clone(),
            message_bytes: self.config.limits.message_bytes,
            handshake: self.config.limits.handshake.duration(),
            metrics: self.metrics.clone(),
            ready: self.ready.clone(),
            tracer: self.tracer.clone(),
            publish: worker.house.chat.clone().recipient(),
            orders: worker.house.chat.clone().recipient(),
            erase: worker.house.chat.clone().recipient(),
            looks: worker.house.chat.clone().recipient(),
            traces: worker.house.chat.clone().recipient(),
            rule: worker.house.chat.clone().recipient(),
            rules: worker.house.chat.clone().recipient(),
        }
    }
}

async fn run(roomcast: Roomcast) -> Result<(), ServeError> {
    let Roomcast { config, handlers, raw_paths } = roomcast;
    let config_error = |error: String| ServeError::Config(error);
    let listeners = listen(&config)?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let workers = config.server.worker_count();
    let (up, all_up) = mpsc::unbounded_channel();
    let port = addresses.first().map_or(0, SocketAddr::port);
    let node = config.server.node_name(port);
    let (tracer, traces) = Traces::open(&config, &node)?;
    let hooks = Hooks::open(&config, &node, &tracer)?;
    let telling = Mutex::new(hooks.telling()?);
    let Behind { opening, has_graves, searchable, filler, exit } = open_rooms(&config, &hooks, &node)?;
    let plan = Arc::new(Plan {
        node: node.clone(),
        metrics: Metrics::new(workers),
        ready: Arc::default(),
        verifier: Arc::new(Verifier::new(&config.auth).map_err(config_error)?),
        origins: Arc::new(Origins::new(&config.server.origins).map_err(config_error)?),
        proxies: Arc::new(Proxies::new(&config.server.trusted_proxies).map_err(config_error)?),
        admission: Admission::new(config.limits.connections, config.limits.connections_per_address),
        raw_paths,
        handlers: Mutex::new(Some(handlers)),
        keeps_sessions: opening.is_some(),
        opened: Mutex::new(opening),
        hooks,
        tracer,
        telling,
        searchable,
        memory_exit: exit.memory().cloned(),
        store: Arc::default(),
        chat: OnceLock::new(),
        next_worker: AtomicU16::new(0),
        up,
        config,
    });
    let store = plan.store.clone();
    plan.ready.add("store", Box::new(move || store.complaint().map_or(Ok(()), Err)));
    if let Some(keys) = plan.verifier.published() {
        let known = keys.clone();
        let complaint = "no keys have come from auth.jwks_url yet; see the log";
        let check = move || if known.has_keys() { Ok(()) } else { Err(complaint.to_owned()) };
        plan.ready.add("keys", Box::new(check));
        actix_rt::spawn(keys.keep_fresh(Default::default()));
    }
    if let Some(claim) = claim_to_be_alone(&plan.config, port)? {
        claim.hold(&plan.ready).await?;
    }
    let filler = filler.map(|filler| filling::watch(filler, &plan.metrics));
    let server = start(&plan, listeners, workers)?;
    let chat = wait_for_workers(all_up, workers).await?;
    crate::log::set_node(&node);
    let pushes = chat.clone().recipient();
    let graves = has_graves.then(|| chat.clone().recipient());
    let tracing = traces.start(&plan.metrics);
    let watchers = Watchers { metrics: &plan.metrics, ready: &plan.ready, tracer: &plan.tracer };
    let queues = queues::start(&plan.config, &pushes, graves.as_ref(), &node, &watchers)?;
    let forwards =
        forwards::start(&plan.config, &exit, graves.as_ref(), &plan.metrics, &plan.hooks, &plan.tracer)?;
    let posting = plan.hooks.start(&plan.metrics)?;
    greet(&startup_lines(&plan.config, &addresses, queues.door_address), plan.config.log.format);
    wait_for_signal().await?;
    stop(&plan, &chat, &queues, &forwards, server).await;
    if let Some(posting) = posting {
        posting.stop(plan.config.hooks.timeout.duration()).await;
    }
    tracing.stop(FINISH_TIME_MIN).await;
    if let Some(filler) = filler {
        let ended = tokio::task::spawn_blocking(move || Arc::into_inner(filler).map(Filler::stop));
        if timeout(FINISH_TIME_MIN, ended).await.is_err() {
            log::warn!("the archive did not answer in time; another node brings it what is left in Redis");
        }
    }
    Ok(())
}

/// What stands behind the rooms, open.
struct Behind {
    opening: Option<Opening>,
    /// Dead letters of the door are kept there as well.
    has_graves: bool,
    searchable: bool,
    /// Brings to the archive what rooms in Redis accept.
    filler: Option<Filler>,
    /// Where entries leave.
    exit: Exit,
}

impl Behind {
    /// Nothing.
    fn nothing() -> Behind {
        Behind { opening: None, has_graves: false, searchable: false, filler: None, exit: Exit::Closed }
    }
}

/// A node that has a Redis and a database file by default means to be alone there. One that was told to keep to itself
/// may have others beside it.
fn claim_to_be_alone(config: &Config, port: u16) -> Result<Option<Claim>, ServeError> {
    let is_auto = config.engine.kind == EngineKind::Auto;
    match (config.backing().map_err(ServeError::Config)?, config.redis.link().map_err(ServeError::Config)?) {
        (Backing::Store(_), Some(link)) if is_auto => {
            Ok(Some(Claim::new(link, &config.redis.prefix, &config.server.node_name(port))))
        }
        _ => Ok(None),
    }
}

/// Opens what stands behind the rooms; a store with what the last process left in it.
fn open_rooms(config: &Config, hooks: &Hooks, node: &str) -> Result<Behind, ServeError> {
    match config.backing().map_err(ServeError::Config)? {
        Backing::Memory => Ok(Behind { exit: forwards::exit_of_memory(config), ..Behind::nothing() }),
        Backing::Store(place) => {
            let (opened, departures) =
                embedded::open(&place, keep_of(config), forwards::leaving_of(config), hooks.spool())
                    .map_err(cannot_open)?;
            let (opening, exit) =
                (Some(Opening::Store(opened)), departures.map_or(Exit::Closed, Exit::Store));
            Ok(Behind { opening, has_graves: true, searchable: true, exit, ..Behind::nothing() })
        }
        Backing::Redis(archive) => open_service(config, archive.as_deref(), hooks, node),
    }
}

/// Rooms in Redis, and what brings them to the archive, if there is one.
fn open_service(
    config: &Config,
    archive: Option<&PostgresUrl>,
    hooks: &Hooks,
    node: &str,
) -> Result<Behind, ServeError> {
    let link = config.redis.link().map_err(ServeError::Config)?;
    let link = link.ok_or_else(|| ServeError::Config("engine.kind: \"redis\" needs redis.url".into()))?;
    let prefix = config.redis.prefix.clone();
    // It blocks, which a thread that runs actors must not.
    let open = |url: &PostgresUrl| apart(|| PostgresArchive::open_shared(url)).map_err(cannot_open);
    let shared = archive.map(open).transpose()?;
    let mut behind = Behind { searchable: shared.is_some(), ..Behind::nothing() };
    let mut reading = None;
    if let Some(archive) = shared {
        let reader = archive.reader().map_err(|error| ServeError::System(format!("store.url: {error}")))?;
        reading = Some(ArchiveSettings { reader, feed_max: FEED_MAX, notes_max: NOTES_MAX });
        let settings = FillerSettings {
            link: link.clone(),
            prefix: prefix.clone(),
            archive: Box::new(archive),
            keep: Box::new(keep_of(config)),
        };
        behind.filler = Some(Filler::start(settings).map_err(ServeError::System)?);
    }
    let rooms = config.rooms.clone();
    let keep = move |name: &RoomName| {
        let rule = rooms.of(name);
        RoomKeep { history: rule.history, keep_ms: rule.keep_ms, dedup_ms: rule.dedup_window_ms }
    };
    let (exit, leaving) = forwards::exit_of_redis(config, &link, hooks);
    behind.exit = exit;
    let settings = redis::Settings {
        link,
        prefix,
        node: node.to_owned(),
        keep: Box::new(keep),
        archive: reading,
        leaving,
    };
    let start = redis::open(settings).map_err(|bad| ServeError::Config(format!("redis.prefix: {bad}")))?;
    behind.opening = Some(Opening::Service(start));
    Ok(behind)
}

fn cannot_open(error: OpenError) -> ServeError {
    match error {
        OpenError::Away(error) => ServeError::Unavailable(format!("store.url: {error}")),
        OpenError::Failed(error) => ServeError::System(format!("store.url: {error}")),
    }
}

/// How much a room keeps in a store, by its name.
fn keep_of(config: &Config) -> impl Fn(&str) -> Keep + Send + 'static {
    let rooms = config.rooms.clone();
    move |name: &str| {
        let rule = RoomName::new(name).map(|name| rooms.of(&name));
        // A name that is none of ours any more follows the general rule.
        let rule = rule.unwrap_or_else(|_| rooms.of(&RoomName::new("lobby").expect("a room's name")));
        Keep { age_ms: rule.keep_ms, bytes: rule.keep_bytes, pin: rule.pin, ids_ms: rule.dedup_window_ms }
    }
}

/// The first five lines: for people on standard output, for log services as entries of the log.
fn greet(lines: &str, format: LogFormat) {
    match format {
        LogFormat::Text => {
            print!("{lines}");
            // Whoever reads them through a pipe wants them now; if nobody does, that is fine.
            io::stdout().flush().unwrap_or_default();
        }
        LogFormat::Json => lines.lines().for_each(|line| log::info!("{line}")),
    }
}

fn listen(config: &Config) -> Result<Vec<TcpListener>, ServeError> {
    let addresses = config.server.addresses().map_err(ServeError::Config)?;
    let bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // Where 127.0.0.1 and ::1 both stand for localhost, each gets a socket of its own.
            socket.set_only_v6(addresses.iter().any(SocketAddr::is_ipv4))?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let mut listeners = Vec::new();
    for address in &addresses {
        let listener = bind(*address).map_err(|error| {
            ServeError::System(format!("cannot listen on {address} ({error}); choose another with --listen"))
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn start(plan: &Arc<Plan>, listeners: Vec<TcpListener>, workers: usize) -> Result<ServerHandle, ServeError> {
    let mut builder = Server::build().workers(workers).disable_signals().shutdown_timeout(1);
    for (index, listener) in listeners.into_iter().enumerate() {
        let plan = plan.clone();
        let service = move || {
            let worker = plan.worker();
            let house = web::Data::new(plan.http_house(&worker));
            let entry = web::Data::new(worker.entry.clone());
            let app = App::new()
                .app_data(house)
                .app_data(entry)
                .app_data(web::Data::from(plan.proxies.clone()))
                .wrap(from_fn(access::note))
                .configure(routes::configure);
            let door = worker.door.clone();
            let upgrade = fn_service(move |(request, framed): (Request, Framed<TcpStream, h1::Codec>)| {
                let door = door.clone();
                async move {
                    door.upgrade(request, framed).await;
                    Ok::<(), actix_http::Error>(())
                }
            });
            let limits = &plan.config.limits;
            let dead_after = limits.ping.duration() * 2 + limits.outbox_age.duration();
            let app = app.into_factory().map_err(|error: Error| error.error_response());
            HttpService::build()
                .tcp_nodelay(true)
                .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
                .client_request_timeout(plan.config.limits.handshake.duration())
                .client_disconnect_timeout(Duration::from_secs(2))
                // Who hangs up in the middle of a stream or a poll is gone, and is not shown as present for another ping.
                .h1_allow_half_closed(false)
                .on_connect_ext(move |socket: &TcpStream, _| give_up_after(socket, dead_after))
                .upgrade(upgrade)
                .finish(map_config(app, |_| AppConfig::default()))
                .tcp()
        };
        builder = builder
            .listen(format!("http-{index}"), listener, service)
            .map_err(|error| ServeError::System(format!("cannot serve HTTP: {error}")))?;
    }
    let server = builder.run();
    let handle = server.handle();
    actix_rt::spawn(async move {
        if let Err(error) = server.await {
            log::error!("the HTTP server ended: {error}");
        }
    });
    Ok(handle)
}

/// Who hears over HTTP never answers a ping, but his system confirms what it has got. Where it has confirmed nothing for
/// so long, the link is dead; by itself the kernel would try for a quarter of an hour.
fn give_up_after(socket: &TcpStream, silence: Duration) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(silence)) {
        log::debug!("cannot set TCP_USER_TIMEOUT: {error}");
    }
}

async fn wait_for_workers(
    mut up: mpsc::UnboundedReceiver<Addr<ChatServer>>,
    workers: usize,
) -> Result<Addr<ChatServer>, ServeError> {
    let mut chat = None;
    for _ in 0..workers {
        match timeout(START_TIME, up.recv()).await {
            Ok(Some(address)) => chat = Some(address),
            Ok(None) | Err(_) => {
                return Err(ServeError::System("a worker thread did not start within 10 s".into()));
            }
        }
    }
    chat.ok_or_else(|| {
        ServeError::Config("server.workers: at least one is needed; 0 means one per core".into())
    })
}

async fn wait_for_signal() -> Result<(), ServeError> {
    let listen =
        |kind| signal(kind).map_err(|error| ServeError::System(format!("cannot wait for signals: {error}")));
    let (mut term, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Whoever asks a second time does not want to wait; but one wish often comes twice at once, from a
    // process manager and to the whole group.
    actix_rt::spawn(async move {
        tokio::time::sleep(SAME_WISH).await;
        while tokio::select! { biased; _ = term.recv() => true, _ = interrupt.recv() => true, () = std::future::ready(()) => false }
        {
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        log::warn!("told to stop twice; ending at once");
        std::process::exit(1);
    });
    Ok(())
}

/// The polite end: nothing new, what is under way goes out, sessions are closed in a paced spread.
async fn stop(
    plan: &Plan,
    chat: &Addr<ChatServer>,
    queues: &Queues,
    forwards: &Forwards,
    server: ServerHandle,
) {
    log::info!("stopping: sessions are closed within {}", plan.config.server.drain);
    let deadline = Instant::now() + plan.config.server.drain.duration();
    plan.ready.drain();
    queues.stop(plan.config.server.drain.duration() / 4).await;
    chat.do_send(Drain);
    let workers = plan.config.server.worker_count();
    let open_sessions = || (0..workers).map(|worker| plan.metrics.worker(worker).sessions.get()).sum::<u64>();
    while open_sessions() > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    // What is only in memory: how far users have read and where sessions stand.
    let rest = deadline.saturating_duration_since(Instant::now()).max(FINISH_TIME_MIN);
    if timeout(rest, chat.send(Finish)).await.is_err() {
        log::warn!("read marks and cursors of the last moment could not be kept");
    }
    forwards.stop(FINISH_TIME_MIN + FINISH_TIME_MIN).await;
    // The other nodes hear at once that nobody is here any more.
    if timeout(FINISH_TIME_MIN, chat.send(Depart)).await.is_err() {
        log::warn!("the other nodes could not be told that this one ends; they notice within seconds");
    }
    let left = open_sessions();
    if left > 0 {
        log::warn!("{left} sessions did not end in time and are cut");
    }
    server.stop(false).await;
}

/// Every connection is a descriptor, and the usual soft limit of 1,024 is for programs that use select().
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("cannot raise the limit of open files ({error}); connections may be refused");
    }
}
