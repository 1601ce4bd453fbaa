//! `roomcast dead`: the items that could never be said, those of the lists in Redis and those of the store, and the
//! events that a backend never took. Works beside a running server. Knows where they lie and how each kind goes back to its queue.

use std::io::Write;
use std::net::SocketAddr;

use actix_rt::System;
use clap::{Args, Subcommand};

use super::{FAILED, Failure, UNAVAILABLE, WRONG_USE, print};
use crate::config::Config;
use crate::redis_link::{RedisConnection, RedisLink};
use crate::sources::dead_letters::{DeadLetter, RedisDeadLetters, preview};
use crate::sources::list_keys::ListKeys;
use crate::sources::settings::DoorSettings;
use crate::store::archive::OpenError;
use crate::store::letters::Letters as StoredLetters;
use crate::store::place::StorePlace;
use crate::store::postgres::letters::PostgresLetters;
use crate::store::record::Letter;
use crate::store::spool::letters::{SOURCE as HOOKS, SpoolLetters};
use crate::store::sqlite::letters::SqliteLetters;

mod door;

use door::Taken;

/// Dead letters read from a list in Redis at a time.
const PAGE: isize = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Print the newest, newest first: id, time, queue, reason, start of the item
    List {
        /// Most lines
        #[arg(short, value_name = "N", default_value_t = 100)]
        n: usize,
    },
    /// Print the item of one, byte for byte; the rest goes to standard error
    Show {
        /// Its id, as `list` prints it
        id: String,
    },
    /// Push one to its queue again, or all
    Requeue(Which),
    /// Forget one, or all
    Drop(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Its id, as `list` prints it
    id: Option<String>,
    /// All of them, oldest first
    #[arg(long)]
    all: bool,
}

/// Does what is asked; prints to `out`.
pub(super) fn run(asked: &Dead, config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    System::new().block_on(async {
        let mut letters = Letters::open(config).await?;
        match asked {
            Dead::List { n } => {
                let lines: String = letters.newest(*n).await?.iter().map(line).collect();
                print(out, &lines)
            }
            Dead::Show { id } => letters.show(id, out).await,
            Dead::Requeue(which) => {
                let n = letters.each(which, Act::Requeue).await?;
                print(out, &format!("requeued {n}\n"))
            }
            Dead::Drop(which) => {
                let n = letters.each(which, Act::Drop).await?;
                print(out, &format!("dropped {n}\n"))
            }
        }
    })
}

/// One line that neither breaks nor colours a terminal, whatever backends have sent.
fn line(letter: &DeadLetter) -> String {
    let id = if letter.id.is_empty() { "-" } else { &letter.id };
    let item = letter.bytes().unwrap_or_else(|_| letter.item.clone().into_bytes());
    let quiet = |text: &str| text.escape_debug().to_string();
    let time = if letter.time.is_empty() { "-" } else { &letter.time };
    format!(
        "{}  {}  {}  {}  {}\n",
        quiet(id),
        quiet(time),
        quiet(&letter.source),
        quiet(&letter.reason),
        preview(&item)
    )
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Requeue,
    Drop,
}

/// Where a letter lies.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Beside the list with this number.
    List(usize),
    Store,
    /// Beside the store, with the events that wait for a backend.
    Spool,
}

/// All dead letters that the configuration knows of.
struct Letters<'a> {
    redis: Option<RedisLetters>,
    store: Option<Box<dyn StoredLetters>>,
    spool: Option<SpoolLetters>,
    door: &'a DoorSettings,
    lists: Vec<&'a str>,
}

/// Those beside lists in Redis.
struct RedisLetters {
    link: RedisLink,
    connection: RedisConnection,
    lists: Vec<RedisDeadLetters>,
}

impl<'a> Letters<'a> {
    async fn open(config: &'a Config) -> Result<Letters<'a>, Failure> {
        let wrong = |error: String| Failure::new(WRONG_USE, error);
        let store = match config.store.place().map_err(wrong)? {
            Some(place) => letters_in(&place)?,
            None => None,
        };
        let port = config.server.addresses().map_err(wrong)?.first().map_or(0, SocketAddr::port);
        let spool = match config.hooks_file(&config.server.node_name(port)).map_err(wrong)? {
            Some(file) => SpoolLetters::open(&file).map_err(failed)?,
            None => None,
        };
        let redis = match config.redis.link().map_err(wrong)? {
            Some(link) => Some(RedisLetters::open(link, config).await?),
            None => None,
        };
        let lists = config.queue.lists.iter().map(|list| list.name.as_str()).collect();
        Ok(Letters { redis, store, spool, door: &config.queue.door, lists })
    }

    /// The newest of both kinds, newest first.
    async fn newest(&mut self, n: usize) -> Result<Vec<DeadLetter>, Failure> {
        let mut all: Vec<DeadLetter> = match &mut self.store {
            Some(store) => store.list(n).map_err(failed)?.iter().map(dead_letter).collect(),
            None => Vec::new(),
        };
        if let Some(spool) = &mut self.spool {
            all.extend(spool.list(n).map_err(failed)?.iter().map(dead_letter));
        }
        if let Some(redis) = &mut self.redis {
            for place in 0..redis.lists.len() {
                all.extend(redis.newest(place, n).await?);
            }
        }
        // RFC 3339 in UTC and of one length: the order of the texts is that of time.
        all.sort_by(|a, b| b.time.cmp(&a.time));
        all.truncate(n);
        Ok(all)
    }

    async fn find(&mut self, id: &str) -> Result<(Place, DeadLetter), Failure> {
        if let Some(store) = &mut self.store
            && let Some(letter) = store.show(id).map_err(failed)?
        {
            return Ok((Place::Store, dead_letter(&letter)));
        }
        if let Some(spool) = &mut self.spool
            && let Some(letter) = spool.show(id).map_err(failed)?
        {
            return Ok((Place::Spool, dead_letter(&letter)));
        }
        if let Some(redis) = &mut self.redis {
            for place in 0..redis.lists.len() {
                let found = redis.lists[place].show(&mut redis.connection, id).await;
                if let Some(letter) = found.map_err(|error| redis.lost(&error))? {
                    return Ok((Place::List(place), letter));
                }
            }
        }
        let id = id.escape_debug();
        Err(Failure::new(
            FAILED,
            format!("there is no dead letter {id} (any more); see `roomcast dead list`"),
        ))
    }

    async fn show(&mut self, id: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let (_, letter) = self.find(id).await?;
        let item = letter.bytes().map_err(|error| {
            Failure::new(
                FAILED,
                format!("dead letter {}: its item is not base64: {error}", id.escape_debug()),
            )
        })?;
        eprint!("{}", line(&letter));
        let written = out.write_all(&item).and_then(|()| out.flush());
        written.map_err(|error| Failure::new(FAILED, format!("cannot write the item: {error}")))
    }

    /// One letter, or all from the oldest on. How many it was done with.
    async fn each(&mut self, which: &Which, act: Act) -> Result<usize, Failure> {
        if let Some(id) = &which.id {
            let (place, letter) = self.find(id).await?;
            if !self.act(place, &letter.id, act).await? {
                return Err(Failure::new(FAILED, "somebody else was faster: the dead letter is gone"));
            }
            return Ok(1);
        }
        let (mut done, mut refused) = (0, 0);
        for (place, id) in self.all().await? {
            match self.act(place, &id, act).await {
                Ok(acted) => done += usize::from(acted),
                // About this letter alone; the others may fare better.
                Err(failure) if failure.code == FAILED => {
                    refused += 1;
                    eprintln!("roomcast: {}", failure.text);
                }
                Err(failure) => {
                    let text = format!("{}; {done} were done before", failure.text);
                    return Err(Failure { text, ..failure });
                }
            }
        }
        if refused > 0 {
            let text = format!("{refused} dead letters stay where they are, {done} were done");
            return Err(Failure::new(FAILED, text));
        }
        Ok(done)
    }

    /// Every letter with its id, oldest first in each place.
    async fn all(&mut self) -> Result<Vec<(Place, String)>, Failure> {
        let mut all = Vec::new();
        if let Some(redis) = &mut self.redis {
            for place in 0..redis.lists.len() {
                all.extend(redis.ids(place).await?.into_iter().map(|id| (Place::List(place), id)));
            }
        }
        if let Some(store) = &mut self.store {
            all.extend(store.ids().map_err(failed)?.into_iter().map(|id| (Place::Store, id)));
        }
        if let Some(spool) = &mut self.spool {
            all.extend(spool.ids().map_err(failed)?.into_iter().map(|id| (Place::Spool, id)));
        }
        Ok(all)
    }

    /// `false`: the letter is gone already.
    async fn act(&mut self, place: Place, id: &str, act: Act) -> Result<bool, Failure> {
        if let (Place::Spool, Some(spool)) = (place, &mut self.spool) {
            return match act {
                Act::Requeue => post_again(spool, id),
                Act::Drop => spool.remove(id).map_err(failed),
            };
        }
        match (place, &mut self.redis, &mut self.store) {
            (Place::List(place), Some(redis), _) => {
                let list = &redis.lists[place];
                let done = match act {
                    Act::Requeue => {
                        let letter = list.show(&mut redis.connection, id).await;
                        let Some(letter) = letter.map_err(|error| redis.lost(&error))? else {
                            return Ok(false);
                        };
                        came_through(&[list.list_name()], &letter.source, id)?;
                        list.requeue(&mut redis.connection, id).await
                    }
                    Act::Drop => list.remove(&mut redis.connection, id).await,
                };
                done.map_err(|error| redis.lost(&error))
            }
            (Place::Store, _, Some(store)) => {
                if let Act::Requeue = act {
                    let Some(letter) = store.show(id).map_err(failed)? else { return Ok(false) };
                    push_again(self.door, &self.lists, &letter)?;
                }
                store.remove(id).map_err(failed)
            }
            _ => Ok(false),
        }
    }
}

/// The list that an item was pushed to; an item of a channel would land in another room by way of a list.
fn came_through<'a>(lists: &[&str], source: &'a str, id: &str) -> Result<&'a str, Failure> {
    let list = source.strip_prefix("door:").unwrap_or(source);
    if lists.contains(&list) {
        return Ok(list);
    }
    let text = format!(
        "dead letter {} did not come through a list of queue.list but through {}; send its item \
         yourself (`roomcast dead show`), then drop it",
        id.escape_debug(),
        source.escape_debug()
    );
    Err(Failure::new(FAILED, text))
}

/// Behind all events that wait; the running server finds it there.
fn post_again(spool: &mut SpoolLetters, id: &str) -> Result<bool, Failure> {
    if spool.post_again(id).map_err(failed)? {
        return Ok(true);
    }
    match spool.show(id).map_err(failed)? {
        None => Ok(false),
        Some(_) => Err(Failure::new(
            FAILED,
            format!(
                "{} of {HOOKS} stands for events that were dropped and cannot be posted; forget it with `roomcast dead drop`",
                id.escape_debug()
            ),
        )),
    }
}

/// Through the door of the running server, which is the only one that takes items without Redis.
fn push_again(settings: &DoorSettings, lists: &[&str], letter: &Letter) -> Result<(), Failure> {
    let list = came_through(lists, &letter.source, &letter.id)?;
    if let Taken::DeadAgain(answer) = door::push(settings, list, &letter.item)? {
        eprintln!("roomcast: {} is a dead letter again: {answer}", letter.id.escape_debug());
    }
    Ok(())
}

/// Those of a store; `None` where there is none yet.
fn letters_in(place: &StorePlace) -> Result<Option<Box<dyn StoredLetters>>, Failure> {
    let boxed = |letters| -> Box<dyn StoredLetters> { letters };
    Ok(match place {
        StorePlace::Sqlite(file) => {
            SqliteLetters::open(file).map_err(failed)?.map(|letters| boxed(Box::new(letters)))
        }
        StorePlace::Postgres(url) => {
            let letters = PostgresLetters::open(url).map_err(|error| match error {
                OpenError::Away(error) => Failure::new(UNAVAILABLE, error),
                OpenError::Failed(error) => failed(error),
            })?;
            letters.map(|letters| boxed(Box::new(letters)))
        }
    })
}

impl RedisLetters {
    async fn open(link: RedisLink, config: &Config) -> Result<RedisLetters, Failure> {
        let lists =
            config.queue.lists.iter().map(|list| ListKeys::new(&list.name).map(RedisDeadLetters::new));
        let lists = lists.collect::<Result<Vec<_>, _>>().map_err(|error| Failure::new(WRONG_USE, error))?;
        let connection = link.connect().await.map_err(|error| unreachable(&link, &error))?;
        Ok(RedisLetters { link, connection, lists })
    }

    fn lost(&self, error: &redis::RedisError) -> Failure {
        // An answer of Redis itself is no sign that it is away.
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            return unreachable(&self.link, error);
        }
        Failure::new(FAILED, format!("redis at {}: {error}", self.link))
    }

    async fn newest(&mut self, place: usize, n: usize) -> Result<Vec<DeadLetter>, Failure> {
        let mut all = Vec::new();
        while all.len() < n {
            let page = self.page(place, all.len()).await?;
            let is_last = page.len() < PAGE as usize;
            all.extend(page);
            if is_last {
                break;
            }
        }
        all.truncate(n);
        Ok(all)
    }

    /// Oldest first. What somebody else has put there has no id and is left alone.
    async fn ids(&mut self, place: usize) -> Result<Vec<String>, Failure> {
        let (mut ids, mut seen) = (Vec::new(), 0);
        loop {
            let page = self.page(place, seen).await?;
            seen += page.len();
            let is_last = page.len() < PAGE as usize;
            ids.extend(page.into_iter().map(|letter| letter.id).filter(|id| !id.is_empty()));
            if is_last {
                break;
            }
        }
        ids.reverse();
        Ok(ids)
    }

    async fn page(&mut self, place: usize, skip: usize) -> Result<Vec<DeadLetter>, Failure> {
        let page = self.lists[place].list(&mut self.connection, skip as isize, PAGE).await;
        page.map_err(|error| self.lost(&error))
    }
}

fn unreachable(link: &RedisLink, error: &redis::RedisError) -> Failure {
    let text = format!("no redis at {link} ({error}); start it, or leave it out with --redis \"\"");
    Failure::new(UNAVAILABLE, text)
}

fn failed(error: crate::store::archive::ArchiveError) -> Failure {
    Failure::new(FAILED, error)
}

/// A letter of the store in the form of those in Redis.
fn dead_letter(letter: &Letter) -> DeadLetter {
    DeadLetter::of(letter.ts, &letter.source, &letter.id, &letter.reason, &letter.item)
}

#[cfg(test)]
mod tests;
