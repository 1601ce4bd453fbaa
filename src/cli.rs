//! The command line: what is asked, what is printed, and the exit codes. Knows the configuration and
//! wiring, nothing of what they do.
//!
//! Exit codes: 0 fine, 1 failed while running, 2 wrong use or configuration, 69 a needed service is not
//! there.

mod backup;
mod dead;

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::auth::api_key::Scope;
use crate::auth::token::{Grant, issue};
use crate::config::Config;
use crate::config::layers::{self, Flag, Given, Loaded};
use crate::config::report::differences;
use crate::http_client;
use crate::units::Span;

mod verify;

/// Nothing went wrong.
pub const FINE: i32 = 0;
/// Something failed while running.
pub const FAILED: i32 = 1;
/// Wrong use or wrong configuration.
pub const WRONG_USE: i32 = 2;
/// A needed service is not there (EX_UNAVAILABLE of sysexits.h).
pub const UNAVAILABLE: i32 = 69;

/// How long `send` waits for an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Rooms for browsers, pushes from backends, one order for everybody.
#[derive(Debug, Parser)]
#[command(name = "roomcast", version, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve(Places),
    /// Say whether the configuration is fine, and how it differs from the defaults
    CheckConfig,
    /// Say something in a room of a running server
    Send(Send),
    /// Print a token signed with auth.secret
    Token(Token),
    /// Items of queues that could never be said
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Copy the store of a server, running or not, to a new file
    Backup(backup::Backup),
    /// Read the store and say whether anything in it is lost, doubled or out of order
    Verify(verify::Verify),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file [default: ./config.toml where there is one]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set any key of the configuration; may be given often
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<String>,
    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
}

#[derive(Debug, Default, Args)]
struct Places {
    /// Address of HTTP and WebSocket, for example 0.0.0.0:8080
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Redis to take pushes from
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// What outlives a restart
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[derive(Debug, Args)]
struct Send {
    /// Which room
    room: String,
    /// What to say
    text: String,
    /// The server [default: the one that the configuration describes]
    #[arg(long)]
    url: Option<String>,
    /// Your own id: makes a repeat harmless
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct Token {
    /// Who the token is for
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The rooms it lists, with commas; * stands for any characters [default: all open rooms]
    #[arg(long, value_name = "ROOMS")]
    rooms: Option<String>,
    /// How long it is good: 30s, 1h, 7d or forever
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    expires: String,
}

/// What went wrong and the exit code for it.
#[derive(Debug)]
struct Failure {
    text: String,
    code: i32,
}

impl Failure {
    fn new(code: i32, text: impl std::fmt::Display) -> Failure {
        Failure { text: text.to_string(), code }
    }
}

/// Does what the command line asks; the exit code.
pub fn run() -> i32 {
    run_with(std::env::args_os(), std::env::vars_os().collect(), &mut std::io::stdout())
}

/// The same with everything handed in.
fn run_with(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(OsString, OsString)>,
    out: &mut dyn Write,
) -> i32 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // It goes to a terminal or nowhere; there is nobody else to tell.
            error.print().ok();
            return error.exit_code();
        }
    };
    // Variables that are no text can be no key of ours.
    let environment =
        environment.into_iter().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    match execute(cli, environment.collect(), out) {
        Ok(()) => FINE,
        Err(failure) => {
            eprintln!("roomcast: {}", failure.text);
            failure.code
        }
    }
}

fn execute(cli: Cli, environment: Vec<(String, String)>, out: &mut dyn Write) -> Result<(), Failure> {
    let command = cli.command.unwrap_or(Command::Serve(Places::default()));
    if let Command::Version = command {
        return print(out, &format!("roomcast {}\n", env!("CARGO_PKG_VERSION")));
    }
    let mut flags = flags_of(&cli.common, &cli.places)?;
    if let Command::Serve(places) = &command {
        flags.extend(flags_of_places(places));
    }
    if let Command::Verify(verify) = &command {
        flags.extend(flag(("--store", "store.url", &verify.store)));
    }
    if let Command::Backup(backup) = &command {
        flags.extend(flag(("--store", "store.url", &backup.store)));
    }
    let directives = environment.iter().find(|(name, _)| name == "RUST_LOG").map(|(_, value)| value.clone());
    let given = Given { file: cli.common.config, environment, flags };
    let loaded = layers::load(&given).map_err(|error| Failure::new(WRONG_USE, error))?;
    // A flag goes before the environment, RUST_LOG too.
    let directives = directives.filter(|_| cli.common.log_level.is_none());
    crate::log::init(&loaded.config.log, directives.as_deref());
    match command {
        Command::Serve(_) => serve(loaded),
        Command::CheckConfig => print(out, &report(&loaded)),
        Command::Send(send) => print(out, &say(&send, &loaded.config)?),
        Command::Token(token) => print(out, &sign(&token, &loaded.config)?),
        Command::Dead(asked) => dead::run(&asked, &loaded.config, out),
        Command::Backup(asked) => print(out, &backup::run(&asked, &loaded.config)?),
        Command::Verify(verify) => {
            let (text, is_fine) = verify::run(&verify, &loaded.config)?;
            print(out, &text)?;
            if is_fine {
                Ok(())
            } else {
                Err(Failure::new(FAILED, "the store has faults, each is named above"))
            }
        }
        Command::Version => unreachable!("answered above, before a configuration was read"),
    }
}

fn flags_of(common: &Common, places: &Places) -> Result<Vec<Flag>, Failure> {
    let mut flags = Vec::new();
    for text in &common.set {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Failure::new(
                WRONG_USE,
                format!("--set {text}: write --set key.path=value, for example --set limits.ping=30s"),
            )
        })?;
        flags.push(Flag { name: "--set".into(), key: key.trim().into(), value: value.into() });
    }
    let own =
        [("--log-format", "log.format", &common.log_format), ("--log-level", "log.level", &common.log_level)];
    flags.extend(own.into_iter().filter_map(flag));
    flags.extend(flags_of_places(places));
    Ok(flags)
}

fn flags_of_places(places: &Places) -> impl Iterator<Item = Flag> {
    let all = [
        ("--listen", "server.listen", &places.listen),
        ("--redis", "redis.url", &places.redis),
        ("--store", "store.url", &places.store),
    ];
    all.map(flag).into_iter().flatten()
}

fn flag((name, key, value): (&str, &str, &Option<String>)) -> Option<Flag> {
    Some(Flag { name: name.into(), key: key.into(), value: value.clone()? })
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(FAILED, format!("cannot write the answer: {error}")))
}

fn serve(loaded: Loaded) -> Result<(), Failure> {
    for warning in loaded.config.warnings() {
        log::warn!("{warning}");
    }
    crate::wiring::serve(loaded.config)
        .map_err(|error| Failure { code: error.exit_code(), text: error.to_string() })
}

/// What `check-config` prints.
fn report(loaded: &Loaded) -> String {
    let place = loaded
        .file
        .as_ref()
        .map_or_else(|| "no config.toml here".to_owned(), |path| path.display().to_string());
    let differences = differences(&loaded.config);
    let mut lines = match differences.len() {
        0 => format!("{place}: fine; every key has its default\n"),
        1 => format!("{place}: fine; 1 key differs from its default\n"),
        n => format!("{place}: fine; {n} keys differ from their defaults\n"),
    };
    for one in differences {
        let default = one.default.map_or_else(String::new, |value| format!("   (default {value})"));
        lines.push_str(&format!("{} = {}{default}\n", one.key, one.value));
    }
    for warning in loaded.config.warnings() {
        lines.push_str(&format!("warning: {warning}\n"));
    }
    lines
}

fn sign(token: &Token, config: &Config) -> Result<String, Failure> {
    let wrong = |text: String| Failure::new(WRONG_USE, text);
    let good_for = Span::parse(&token.expires).map_err(|error| wrong(format!("--expires: {error}")))?;
    let expires_at =
        (good_for != Span::FOREVER).then(|| now_unix().saturating_add(good_for.duration().as_secs()));
    let rooms = token.rooms.as_ref().map(|list| list.split(',').map(str::trim).collect());
    let grant = Grant { user: &token.user, rooms, expires_at };
    let signed = issue(&config.auth.secret, &grant).map_err(wrong)?;
    Ok(format!("{signed}\n"))
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Posts to the server API; what `send` prints.
fn say(send: &Send, config: &Config) -> Result<String, Failure> {
    let base = send.url.clone().map_or_else(|| own_url(config), Ok)?;
    let url = format!("{}/api/publish", base.trim_end_matches('/'));
    let is_http =
        url::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !is_http {
        return Err(Failure::new(WRONG_USE, format!("--url {base}: write http://host:port or https://host")));
    }
    let mut body = json!({"r": send.room, "d": send.text});
    if let Some(id) = &send.id {
        body["id"] = json!(id);
    }
    let key = config.auth.api_keys.iter().find(|key| key.may(Scope::Publish) && key.covers(&send.room));
    let key = key.map(|key| key.key.expose().to_owned());
    actix_rt::System::new().block_on(post(&url, key, &body))
}

/// Where the configured server is, seen from this machine.
fn own_url(config: &Config) -> Result<String, Failure> {
    let addresses = config.server.addresses().map_err(|error| Failure::new(WRONG_USE, error))?;
    let mut address =
        *addresses.first().ok_or_else(|| Failure::new(WRONG_USE, "server.listen names no address"))?;
    if address.ip().is_unspecified() {
        let loopback: [IpAddr; 2] =
            [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        address.set_ip(loopback[usize::from(address.is_ipv6())]);
    }
    Ok(format!("http://{address}"))
}

async fn post(url: &str, key: Option<String>, body: &serde_json::Value) -> Result<String, Failure> {
    let mut request = http_client::client(SEND_TIMEOUT).post(url);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let mut answer = request.send_json(body).await.map_err(|error| {
        Failure::new(UNAVAILABLE, format!("no server at {url} ({error}); start it, or name it with --url"))
    })?;
    let told = answer
        .body()
        .await
        .map_err(|error| Failure::new(FAILED, format!("the answer broke off: {error}")))?;
    let told = String::from_utf8_lossy(&told);
    if answer.status().is_success() {
        return Ok(format!("{}\n", told.trim_end()));
    }
    // The server's own words say what to do; another server's page would only confuse.
    let json: Option<serde_json::Value> = serde_json::from_str(&told).ok();
    let msg = json
        .as_ref()
        .and_then(|json| json["msg"].as_str())
        .unwrap_or("this does not look like a Roomcast server");
    Err(Failure::new(FAILED, format!("{url} answers {}: {msg}", answer.status())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::settings::{AuthSettings, Secret};
    use crate::auth::token::Verifier;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// The exit code and what was printed.
    fn roomcast(line: &str, environment: &[(&str, &str)]) -> (i32, String) {
        let arguments = std::iter::once("roomcast").chain(line.split_whitespace()).map(OsString::from);
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut out = Vec::new();
        let code = run_with(arguments, environment, &mut out);
        (code, String::from_utf8(out).unwrap())
    }

    /// A configuration file of its own, so that no `config.toml` of the folder is read.
    fn file(text: &str) -> (tempfile::NamedTempFile, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let name = file.path().display().to_string();
        (file, name)
    }

    #[test]
    fn the_words_of_the_contract_are_there() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
        assert_eq!(names, ["serve", "check-config", "send", "token", "dead", "backup", "verify", "version"]);
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 24 && help.lines().all(|line| line.len() <= 100), "{help}");
    }

    #[test]
    fn version_and_help_are_fine_and_wrong_words_are_not() {
        assert_eq!(roomcast("version", &[]), (FINE, format!("roomcast {}\n", env!("CARGO_PKG_VERSION"))));
        assert_eq!(roomcast("--version", &[]).0, FINE);
        for wrong in ["serv", "--bogus", "send lobby", "token", "--set", "check-config --set nothing"] {
            assert_eq!(roomcast(wrong, &[]).0, WRONG_USE, "{wrong}");
        }
    }

    #[test]
    fn check_config_tells_differences_and_refuses_mistakes() {
        let (_keep, name) = file("[server]\nworkers = 2\n[auth]\nsecret = \"hunter2\"\n");
        let (code, text) =
            roomcast(&format!("check-config --config {name} --log-level warn"), &[("PORT", "81")]);
        assert_eq!(code, FINE);
        assert!(text.contains("fine; 4 keys differ"), "{text}");
        assert!(
            text.contains("server.workers = 2   (default 0)") && text.contains("auth.secret = (set)"),
            "{text}"
        );
        assert!(
            text.contains("server.listen = \"0.0.0.0:81\"") && text.contains("log.level = \"warn\""),
            "{text}"
        );
        assert!(text.contains("warning: auth.secret is shorter") && !text.contains("hunter2"), "{text}");
        let (_keep, name) = file("[server]\nworker = 2\n");
        assert_eq!(roomcast(&format!("check-config --config {name}"), &[]), (WRONG_USE, String::new()));
        assert_eq!(roomcast("check-config --config no/such/file", &[]).0, WRONG_USE);
    }

    #[test]
    fn a_token_is_good_for_whom_and_where_it_says() {
        let (_keep, name) = file("");
        let own = [("ROOMCAST__AUTH__SECRET", SECRET)];
        let (code, text) =
            roomcast(&format!("token --config {name} --user ann --rooms lobby,team-* --expires 1h"), &own);
        assert_eq!(code, FINE);
        let settings = AuthSettings { secret: Secret::new(SECRET), ..AuthSettings::default() };
        let ann = Verifier::new(&settings).unwrap().verify(text.trim_end(), now_unix()).unwrap();
        assert_eq!((ann.user.as_str(), ann.rooms.unwrap().len()), ("ann", 2));
        let left = ann.expires_at.unwrap() - now_unix();
        assert!((3595..=3600).contains(&left), "{left}");
        assert_eq!(roomcast(&format!("token --config {name} --user ann"), &[]).0, WRONG_USE, "no secret");
        assert_eq!(roomcast(&format!("token --config {name} --user ann --expires soon"), &own).0, WRONG_USE);
    }

    /// A server on a thread of its own that answers every POST so; its address.
    fn server(status: u16, body: &'static str) -> String {
        use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
        let (tell, told) = std::sync::mpsc::channel();
        let answer = move |request: HttpRequest, said: String| async move {
            let key = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let status = actix_web::http::StatusCode::from_u16(status).unwrap();
            HttpResponse::build(status)
                .body(body.replace("$KEY", &key.unwrap_or_default()).replace("$SAID", &said))
        };
        std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server =
                    HttpServer::new(move || App::new().route("/api/publish", web::post().to(answer)));
                let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
                tell.send(server.addrs()[0]).unwrap();
                server.run().await.unwrap();
            });
        });
        format!("http://{}", told.recv().unwrap())
    }

    #[test]
    fn send_says_the_line_with_the_key_and_prints_the_answer() {
        let (_keep, name) = file("[auth]\napi_keys = [\"key-of-the-shop-1234\", \"other-key-12345678\"]\n");
        let line = |url: &str| format!("send --config {name} --url {url}/ --id id-1 lobby hi");
        let expected = r#"Bearer key-of-the-shop-1234 {"d":"hi","id":"id-1","r":"lobby"}"#;
        assert_eq!(roomcast(&line(&server(200, "$KEY $SAID")), &[]), (FINE, format!("{expected}\n")));
        let refused = server(401, r#"{"code":401,"why":"bad-key","msg":"no"}"#);
        assert_eq!(roomcast(&line(&refused), &[]), (FAILED, String::new()));
        assert_eq!(roomcast(&line(&server(404, "<html>")), &[]), (FAILED, String::new()));
    }

    #[test]
    fn send_says_when_nobody_is_there() {
        let (_keep, name) = file("");
        // A port that was free a moment ago and that nobody listens at.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let line = format!("send --config {name} --url http://127.0.0.1:{port} lobby hi");
        assert_eq!(roomcast(&line, &[]), (UNAVAILABLE, String::new()));
        assert_eq!(roomcast(&format!("send --config {name} --url nonsense lobby hi"), &[]).0, WRONG_USE);
    }

    #[test]
    fn the_own_server_is_asked_at_loopback_when_it_listens_everywhere() {
        let url = |listen: &str| {
            let mut config = Config::default();
            config.server.listen = listen.into();
            own_url(&config).unwrap()
        };
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:8080"), "http://[::1]:8080");
        assert_eq!(url("192.0.2.7:80"), "http://192.0.2.7:80");
    }
}
