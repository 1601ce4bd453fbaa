/**
 * Roomcast for the browser: one connection, any number of rooms, the native protocol version 1.
 *
 * Owns the connection, the place reached in each room and the publishes without an answer. Knows no page: what
 * happens comes out as events. One file, no dependency:
 *
 *     import { Roomcast } from '/roomcast.js';
 *     const chat = new Roomcast({ user: 'ann' });
 *     chat.on('message', (m) => console.log(m.r, m.s, m.u, m.d));
 *     chat.join('lobby', { last: 50 });
 *     const { s } = await chat.publish('lobby', 'hi all');
 *
 * The connection is a WebSocket. Where none gets through, it is an event stream with POST, or long polls at the worst,
 * and a WebSocket again as soon as one does; `chat.wire` tells. `roomcast-http.js` lies beside this file for that.
 *
 * The promise, whatever the network does: each entry of a room is told once and in order, or told as a `gap`;
 * each publish, edit, removal and reaction is kept once and in order, or rejects.
 *
 * Entries are what was said and done. `RoomView` makes of them what people look at, whatever order they come in:
 *
 *     const view = new RoomView();
 *     const room = chat.join('lobby', { last: 50 });
 *     room.on('entry', (entry) => view.add(entry));
 *     const { list } = await chat.log('lobby', { before: 1200 });
 *     for (const entry of list) view.add(entry);
 *     for (const { s, u, d, edited, gone, reactions } of view.messages) …
 *
 * What a server offers stands in `chat.can` after the first `state` that is `live`. One that keeps rooms lets
 * people `find` messages, `list` their rooms and say how far they have `read`; `edit`, `remove` and `react` need no
 * store. `direct` names the room of two people, `inbox` the one where mentions arrive. How far entries were taken
 * is told to the server by itself (`got`), so that a sender sees what was delivered.
 *
 * Events, on the client as `(event, room)` and on the `Room` that `join` returns:
 *   message, edit, del, react   an entry, the frame as it came: {r, s, id, u, ts, d, …}
 *   entry                       any of the four that has a place in the log, before the event of its own
 *   joined, live                the answer to a join; the end of its replay
 *   gap                         entries that will not come: {from, to, why}, or {all, was} where the log began anew
 *   rewind                      entries after {s} were taken back and come again: a view begins anew
 *   presence, typing            {in, out, who}, {u, off}; the lists are `room.users` (empty past 1,000) and `room.typing`
 *   read, got                   {u, s}: how far somebody has read; {s, n, of}: n of `of` sessions have all up to s
 *   refused                     a RoomcastError: this room may not be joined
 * and on the client alone:
 *   state      {state: 'connecting' | 'live' | 'waiting' | 'stopped', retryIn?, code?, why?, msg?}
 *   held       {room, id, wait, why}: the server wants a publish later; it goes again by itself
 *   problem    a RoomcastError that belongs to no promise
 */

const FIRST_WORD_MS = 10_000; // from opening the socket to `welcome`
const PROBE_MS = 5_000; // for an answer after the network or the page came back
const LAST_WORD_MS = 1_000; // for the close that follows a refusal
const STEADY_MS = 5_000; // a connection that lived so long begins the growing delay anew
const DELAY_MAX_MS = 30_000;
const TYPING_EVERY_MS = 3_000; // the server ends typing after 6 s
const MARK_EVERY_MS = 500; // how often `read` and `got` go out for a room, at most
const FAILURES_MAX = 2; // connections of one kind that never came to a welcome, while the server answers
const CLIMB_MS = 30_000; // from a poorer kind of connection to the first look for a better one
const CLIMB_MAX_MS = 600_000;
const READERS_MAX = 1_000; // read marks kept of a room
const DONE_MAX = 20_000; // messages of which a view knows what was done to them
const IN_TURN = new Set(['pub', 'edit', 'del', 'react']); // one after the other in each room
const utf8 = new TextEncoder();

/** `code` and `why` are the protocol's; `code` is 0 where the client itself says no. */
export class RoomcastError extends Error {
  constructor({ code = 0, why, msg, wait, r, id }) {
    super(msg ?? why);
    Object.assign(this, { name: 'RoomcastError', code, why, wait, room: r, id });
  }
}

class Emitter {
  #ears = new Map();

  /** Calls `ear` at each event of that name. Returns the function that ends it. */
  on(name, ear) {
    const ears = this.#ears.get(name) ?? this.#ears.set(name, new Set()).get(name);
    ears.add(ear);
    return () => ears.delete(ear);
  }

  /** @protected An ear that throws is reported and does not stop the stream. */
  emit(name, ...event) {
    for (const ear of [...(this.#ears.get(name) ?? [])]) {
      try {
        ear(...event);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** One joined room: to read and to listen to; only the client writes it. */
export class Room extends Emitter {
  /** @type {string|null} which life of the log `s` belongs to */ epoch = null;
  /** @type {number|null} the last offset told; null before the first */ s = null;
  /** @type {Map<string, object>} who is here: user to {u, d?} */ users = new Map();
  /** How many users are here. */ who = 0;
  /** @type {Set<string>} */ typing = new Set();
  /** @type {Map<string, number>} how far users have read, the newest marks last */ reads = new Map();
  /** @type {'joining'|'replaying'|'live'|'refused'} */ state = 'joining';

  constructor(name, { last = 50, quiet = false, since = null, e = null } = {}) {
    super();
    Object.assign(this, { name, last, quiet, s: since, epoch: e, tries: 0, marks: {} });
  }

  /** @protected Where to go on after a cut. */
  get place() {
    return this.epoch !== null && this.s !== null ? { since: this.s, e: this.epoch } : null;
  }
}

export class Roomcast extends Emitter {
  /** @type {string|undefined} who the server says we are */ user;
  /** @type {Map<string, Room>} */ rooms = new Map();
  /** From `welcome`: milliseconds of silence allowed, most bytes of a message, what the server offers. */
  ping = 25_000;
  max = Infinity;
  can = [];
  /** @type {string|undefined} the server's name for this stay */ session;
  /** @type {string|undefined} what the connection is: 'websocket', 'sse' or 'poll' */ wire;

  #options;
  #socket = null;
  #state = { state: 'connecting' };
  #turn = 0; // each opening has a number, so that a late answer to an older one is void
  #attempt = 0;
  #timers = {};
  #heard = 0;
  #answered = true;
  #liveSince = 0;
  #bye = null;
  #turnedAway = null;
  #out = new Map(); // request number: publish or request without an answer, in the order they were made
  #count = 0;
  #seed = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => (byte % 36).toString(36)).join('');
  #typed = new Map();
  #whenIdle = [];
  #unlisten = [];
  #kind = 0; // of `wires`
  #failures = 0;
  #climb = CLIMB_MS;

  /**
   * @param {object} [options]
   * @param {string} [options.url] default: `/v1/ws` of the page's own host
   * @param {string|function(): (string|Promise<string>)} [options.token] a function is asked before each connection
   * @param {string} [options.user] a name without proof, where the server runs in demo mode
   * @param {number} [options.queue] most publishes and requests without an answer, default 256; past it a new one
   *   rejects with `queue-full`, and nothing that was taken is dropped for it
   * @param {string[]} [options.wires] kinds of connections to use, the best first
   */
  constructor({
    url = location.origin.replace(/^http/, 'ws') + '/v1/ws',
    token,
    user,
    queue = 256,
    wires = ['websocket', 'sse', 'poll'],
  } = {}) {
    super();
    this.#options = { url, token, user, queue, wires };
    this.user = user;
    const wake = () => this.#wake();
    this.#listen(globalThis, 'online', wake);
    this.#listen(globalThis, 'offline', wake);
    this.#listen(globalThis.document, 'visibilitychange', () => document.hidden || wake());
    queueMicrotask(() => this.#turn || this.#open()); // so that the caller's listeners hear the first state
  }

  get state() {
    return this.#state;
  }

  /**
   * Joins a room and stays in it over every reconnect, until `leave`.
   * @param {string} name
   * @param {object} [options] `last`: how many old entries to begin with, default 50; `quiet`: read unseen;
   *   `since` and `e`: go on after a place kept from an earlier visit (`room.s`, `room.epoch`)
   * @returns {Room}
   */
  join(name, options) {
    const known = this.rooms.get(name);
    if (known && known.state !== 'refused') return known;
    const room = new Room(name, options);
    this.rooms.set(name, room);
    this.#enter(room);
    return room;
  }

  leave(name) {
    if (this.rooms.delete(name) && this.#state.state === 'live') this.#send({ t: 'leave', r: name });
  }

  /**
   * Says something. Waits for a connection if there is none, and repeats under the same `id` until answered. One
   * publish a room is on its way at a time, so that neither a cut nor a refusal changes the order.
   * @param {string} room
   * @param {*} data any JSON
   * @param {object} [options] `id`: your own, 1-64 bytes; `re`: the offset that this replies to; `keep`: false
   *   for something that only those who are here now shall see
   * @returns {Promise<{id: string, s: number, ts: number, dup: boolean}>} rejects with a RoomcastError
   */
  publish(room, data, { id = this.newId(), re, keep } = {}) {
    this.#typed.delete(room); // the message itself ends typing
    return this.#queue({ t: 'pub', r: room, d: data, id, re, keep: keep === false ? false : undefined });
  }

  /** Gives the message at offset `of` new data. Promises what `publish` promises. */
  edit(room, of, data, { id = this.newId() } = {}) {
    return this.#queue({ t: 'edit', r: room, of, d: data, id });
  }

  /** Takes the message at offset `of` back: its words are gone for everybody, also on the server. */
  remove(room, of, { id = this.newId() } = {}) {
    return this.#queue({ t: 'del', r: room, of, id });
  }

  /** Reacts to the entry at offset `of` with `k`, for example `+1`; with `on` false takes that back. */
  react(room, of, k, on = true, { id = this.newId() } = {}) {
    return this.#queue({ t: 'react', r: room, of, k, off: on ? undefined : true, id });
  }

  /** This user has read the room up to offset `s`. Say it often, it is thinned out; it never goes back. */
  read(room, s) {
    const known = this.rooms.get(room);
    if (known && this.can.includes('read')) this.#mark(known, 'read', s);
  }

  /** An id that no other publish has, for a caller that wants to know it beforehand. */
  newId() {
    return `${this.#seed}-${++this.#count}`;
  }

  /** The user is writing (say it at every key, it is thinned out), or stopped. */
  typing(room, on = true) {
    const last = this.#typed.get(room) ?? 0;
    if (this.#state.state !== 'live' || (on ? Date.now() - last < TYPING_EVERY_MS : !last)) return;
    this.#typed.set(room, on ? Date.now() : 0);
    this.#send({ t: 'typing', r: room, off: on ? undefined : true });
  }

  /** Who is here, asked anew; large rooms in pages `after` a name. @returns {Promise<{list: object[], more?: boolean}>} */
  who(room, { after } = {}) {
    return this.#queue({ t: 'who', r: room, after });
  }

  /** Older (`before`) or newer (`after`) entries, oldest first. @returns {Promise<{e: string, list: object[], more: boolean}>} */
  log(room, { before, after, n = 50 } = {}) {
    return this.#queue({ t: 'log', r: room, before, after, n });
  }

  /** Messages with all of these words, oldest first: the newest `n`, or those before an offset. @returns as `log` */
  find(room, words, { before, n = 20 } = {}) {
    return this.#queue({ t: 'find', r: room, q: words, before, n });
  }

  /** The rooms this user has read in, and her own. @returns {Promise<{r: string, s: number, read: number, unread: number}[]>} */
  async list() {
    return (await this.#queue({ t: 'rooms' })).list;
  }

  /** The room of this user and another one. */
  direct(user) {
    return Roomcast.direct(this.user, user);
  }

  /** The room of two users; the same whoever asks. */
  static direct(one, other) {
    return `@${[one, other].sort(byCodePoint).join('+')}`;
  }

  /** The room where mentions of this user arrive, as data {r, s}: the place of the message that has her name. */
  get inbox() {
    return `@${this.user}`;
  }

  /** Resolves when everything that changes a room has its answer. */
  idle() {
    return new Promise((resolve) => {
      this.#whenIdle.push(resolve);
      this.#checkIdle();
    });
  }

  /** Goes on as somebody else in the same rooms and places. Ids belong to a user, so it waits for `idle`. */
  async identify({ user, token }) {
    await this.idle();
    Object.assign(this.#options, { user, token });
    if (this.#state.state === 'stopped') return;
    this.#drop();
    this.#open();
  }

  /** Connects at once instead of after the delay. */
  retry() {
    if (this.#state.state === 'waiting') this.#open();
  }

  /** Ends it for good; what has no answer rejects. */
  close() {
    this.#stop(1000, 'closed');
  }

  // ---- the connection

  async #open() {
    const turn = ++this.#turn;
    clearTimeout(this.#timers.retry);
    this.#tell({ state: 'connecting' });
    const { url, token, user, wires } = this.#options;
    try {
      const word = typeof token === 'function' ? await token() : token;
      if (turn !== this.#turn) return;
      const byUrl = word === undefined && user !== undefined;
      const query = byUrl ? `${url.includes('?') ? '&' : '?'}user=${encodeURIComponent(user)}` : '';
      const kind = wires[this.#kind];
      const over = kind === 'websocket' ? null : (await this.#http()).wires[kind];
      if (turn !== this.#turn) return;
      const socket = (this.#socket = over ? new over(this.#base, byUrl ? { user } : {}) : new WebSocket(url + query));
      this.#timers.dead = setTimeout(() => this.#lost(0, 'no welcome'), FIRST_WORD_MS);
      socket.onopen = () => byUrl || this.#hello(word);
      socket.onmessage = ({ data }) => this.#hear(data);
      socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    } catch (error) {
      if (turn === this.#turn) this.#lost(0, error.message);
    }
  }

  /** Where the server is for plain HTTP. */
  get #base() {
    return this.#options.url.replace(/^ws/, 'http').replace(/\/v1\/ws.*$/, '');
  }

  #http() {
    return import(new URL('roomcast-http.js', import.meta.url));
  }

  /** A connection never came to a welcome. If the server is there all the same, another kind may get through. */
  async #suspect() {
    const { wires } = this.#options;
    if (wires.length < 2) return;
    try {
      const { ok, type } = await fetch(`${this.#base}/readyz`, { mode: 'no-cors', cache: 'no-store' });
      if ((!ok && type !== 'opaque') || this.#state.state === 'live' || ++this.#failures < FAILURES_MAX) return;
      this.#kind = (this.#kind + 1) % wires.length;
      this.#failures = 0;
    } catch {
      // Nobody is there, over whatever kind.
    }
  }

  /** Looks from time to time whether a better kind of connection gets through by now, and goes over to it. */
  #climbLater() {
    if (this.#kind === 0) return void (this.#climb = CLIMB_MS);
    this.#timers.climb = setTimeout(() => this.#climbUp(), this.#climb);
    this.#climb = Math.min(2 * this.#climb, CLIMB_MAX_MS);
  }

  async #climbUp() {
    const turn = this.#turn;
    const { url, token, user, wires } = this.#options;
    const better = await (await this.#http()).look(wires.slice(0, this.#kind), url, this.#base, { token, user });
    if (turn !== this.#turn) return;
    if (better < 0) return this.#climbLater();
    this.#kind = better;
    this.#drop();
    this.#open();
  }

  /** Who we are and where we were, in one line. A quiet room goes by itself, for in `hello` it would be seen. */
  #hello(token) {
    const rooms = {};
    for (const room of this.rooms.values()) {
      if (!room.place || room.quiet || room.state === 'refused') continue;
      rooms[room.name] = room.place;
      room.asked = true;
    }
    this.#send({ t: 'hello', v: 1, token, rooms });
  }

  #welcome({ u = this.user, ping = this.ping, max = this.max, can = [], session }) {
    Object.assign(this, { user: u, ping, max, can, session });
    clearTimeout(this.#timers.dead);
    this.#liveSince = Date.now();
    this.#failures = 0;
    this.wire = this.#options.wires[this.#kind];
    this.#watch();
    this.#climbLater();
    this.#tell({ state: 'live' });
    for (const room of this.rooms.values()) if (room.state !== 'refused' && !room.asked) this.#enter(room);
    this.#flush();
  }

  /** Forgets the socket. What was on its way goes again over the next one. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.wire = undefined;
    for (const name in this.#timers) clearTimeout(this.#timers[name]);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const item of this.#out.values()) item.sent = false;
    for (const room of this.rooms.values()) {
      if (room.state !== 'refused') Object.assign(room, { state: 'joining', asked: false });
      for (const mark of Object.values(room.marks)) clearTimeout(mark.timer);
    }
    this.#typed.clear();
  }

  /** The connection is gone; the close code says whether and when to come back. */
  #lost(closeCode, closeWhy) {
    const { code = closeCode, why = closeWhy, wait = 0 } = this.#bye ?? {};
    const no = this.#turnedAway;
    if (this.#state.state === 'connecting' && !this.#bye && !no) this.#suspect();
    this.#bye = this.#turnedAway = null;
    this.#drop();
    const final = code >= 4000 && code < 4100;
    const renewable = [why, no?.why].includes('expired') && typeof this.#options.token === 'function';
    if ((final || no) && !renewable) return this.#stop(final ? code : no.code, final ? why : no.why, no?.msg);
    if (this.#liveSince && Date.now() - this.#liveSince >= STEADY_MS) this.#attempt = 0;
    this.#liveSince = 0;
    // "At once" is for a connection that worked: a server that keeps sending us away gets the growing delay.
    const atOnce = code >= 4200 && code < 4300 && this.#attempt === 0;
    const delay = Math.max(wait, atOnce ? 0 : backoff(this.#attempt));
    this.#attempt += 1;
    this.#timers.retry = setTimeout(() => this.#open(), delay);
    this.#tell({ state: 'waiting', retryIn: Math.round(delay), code, why });
  }

  #stop(code, why, msg) {
    if (this.#state.state === 'stopped') return;
    this.#turn += 1;
    this.#drop();
    for (const unlisten of this.#unlisten) unlisten();
    this.#tell({ state: 'stopped', code, why, msg });
    for (const item of [...this.#out.values()]) this.#settle(item, { code, why: why || 'stopped', msg });
  }

  /**
   * A page does not see WebSocket pings, so it breaks a silence of `ping` ms with its own; as long again without
   * a word, and the connection is dead. The clock runs from the question: a page whose timers the browser slows
   * down must not take its own sleep for the server's.
   */
  #watch() {
    clearTimeout(this.#timers.quiet);
    this.#timers.quiet = setTimeout(
      () => {
        if (Date.now() - this.#heard < this.ping) this.#watch();
        else this.#probe(this.ping);
      },
      Math.max(0, this.#heard + this.ping - Date.now()),
    );
  }

  #probe(patience) {
    clearTimeout(this.#timers.quiet);
    this.#answered = false;
    this.#send({ t: 'ping' });
    this.#timers.quiet = setTimeout(() => {
      if (this.#answered) this.#watch();
      else this.#lost(0, 'silence');
    }, patience);
  }

  /** The network or the page came or went: try now, or find out whether the connection still lives. */
  #wake() {
    if (this.#state.state === 'live') this.#probe(Math.min(PROBE_MS, this.ping));
    else this.retry();
  }

  #tell(state) {
    this.#state = state;
    this.emit('state', state);
  }

  #listen(target, name, ear) {
    target?.addEventListener?.(name, ear);
    this.#unlisten.push(() => target?.removeEventListener?.(name, ear));
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  // ---- what goes out

  #queue(frame) {
    const item = { frame: { ...frame, i: ++this.#count }, sent: false, tries: 0 };
    const promise = new Promise((resolve, reject) => Object.assign(item, { resolve, reject }));
    if (this.#state.state === 'stopped') this.#settle(item, { why: 'stopped' });
    else if (this.#out.size >= this.#options.queue) this.#settle(item, { why: 'queue-full' });
    else this.#out.set(item.frame.i, item);
    this.#flush();
    return promise;
  }

  /** Sends what may go now: requests at once, what changes a room one after the other. */
  #flush() {
    if (this.#state.state !== 'live') return;
    const busy = new Set();
    for (const item of [...this.#out.values()]) {
      const { t, r } = item.frame;
      if (this.rooms.get(r)?.state === 'joining' || (IN_TURN.has(t) && busy.has(r))) continue;
      if (IN_TURN.has(t)) busy.add(r);
      if (item.sent || item.held) continue;
      // The server may close at a line over the limit instead of refusing it, so it does not get to see one.
      if (utf8.encode(JSON.stringify(item.frame)).length > this.max) {
        return this.#settle(item, { code: 413, why: 'too-big', msg: `a message has at most ${this.max} bytes` });
      }
      item.sent = true;
      this.#send(item.frame);
    }
  }

  /** Answers a promise; an error is given as the `err` frame says it. */
  #settle(item, error, answer) {
    const { i, r, id } = item.frame;
    this.#out.delete(i);
    clearTimeout(item.held);
    if (error) item.reject(new RoomcastError({ r, id, ...error }));
    else item.resolve(answer);
    this.#checkIdle();
    this.#flush();
  }

  #checkIdle() {
    for (const item of this.#out.values()) if (IN_TURN.has(item.frame.t)) return;
    for (const resolve of this.#whenIdle.splice(0)) resolve();
  }

  #refused(frame) {
    const item = this.#out.get(frame.i);
    if (item) return this.#putOff(item, frame);
    // Before `welcome` nothing else was asked but to be let in; unchanged, the answer stays the same.
    const atTheDoor = this.#state.state === 'connecting' && frame.r === undefined;
    if (atTheDoor && patience(frame, 0) === null) {
      this.#turnedAway = frame;
      clearTimeout(this.#timers.dead);
      this.#timers.dead = setTimeout(() => this.#lost(0, 'refused'), LAST_WORD_MS); // it mostly closes by itself
      return;
    }
    const rooms = [...this.rooms.values()];
    const room = rooms.find(
      ({ name, state, i }) => state === 'joining' && (frame.i ? i === frame.i : name === frame.r),
    );
    if (!room) return this.emit('problem', new RoomcastError(frame));
    // Our place means nothing there: begin like a newcomer.
    if (frame.code === 409) Object.assign(room, { lost: room.epoch, epoch: null, s: null });
    const wait = frame.code === 409 ? 0 : patience(frame, room.tries++);
    if (wait !== null) return void setTimeout(() => this.rooms.get(room.name) === room && this.#enter(room), wait);
    room.state = 'refused';
    this.#both(room, 'refused', new RoomcastError({ r: room.name, ...frame }));
    this.#flush();
  }

  /** Sends a refused line again after the wait, where that may help. */
  #putOff(item, frame) {
    const wait = patience(frame, item.tries++);
    if (wait === null) return this.#settle(item, frame);
    item.sent = false;
    item.held = setTimeout(() => {
      item.held = 0;
      this.#flush();
    }, wait);
    if (IN_TURN.has(item.frame.t)) this.emit('held', { room: item.frame.r, id: item.frame.id, wait, why: frame.why });
  }

  /** How far a room is read or taken: the newest counts, so one goes at once and the next ones together. */
  #mark(room, t, s = 0) {
    const mark = (room.marks[t] ??= { s: 0, sent: 0, at: 0 });
    mark.s = Math.max(mark.s, s);
    clearTimeout(mark.timer);
    if (mark.s <= mark.sent || room.state !== 'live') return;
    const wait = mark.at + MARK_EVERY_MS - Date.now();
    if (wait > 0) return void (mark.timer = setTimeout(() => this.#mark(room, t), wait));
    Object.assign(mark, { sent: mark.s, at: Date.now() });
    this.#send({ t, r: room.name, s: mark.s });
  }

  /** All marks of a room once more: nobody answers them, so they may have been lost with the last connection. */
  #markAgain(room) {
    for (const [t, mark] of Object.entries(room.marks)) {
      Object.assign(mark, { sent: 0, at: 0 });
      this.#mark(room, t);
    }
  }

  // ---- what comes in

  #enter(room) {
    if (this.#state.state !== 'live') return;
    Object.assign(room, { state: 'joining', asked: true, i: ++this.#count });
    this.#send({
      t: 'join',
      r: room.name,
      i: room.i,
      ...(room.place ?? { last: room.last }),
      quiet: room.quiet || undefined,
    });
  }

  #hear(data) {
    this.#heard = Date.now();
    this.#answered = true;
    const socket = this.#socket;
    for (const line of String(data).split('\n')) {
      if (this.#socket !== socket) return; // a listener ended it
      if (line.trim() === '') continue;
      let frame;
      try {
        frame = JSON.parse(line);
      } catch {
        this.emit('problem', new RoomcastError({ why: 'bad-json', msg: `not a frame: ${line.slice(0, 80)}` }));
        continue;
      }
      this.#take(frame);
    }
  }

  #take(frame) {
    const item = this.#out.get(frame.i);
    switch (frame.t) {
      case 'welcome':
        return this.#welcome(frame);
      case 'bye':
        return void (this.#bye = frame);
      case 'expiring':
        return this.#renew();
      case 'err':
        return this.#refused(frame);
      case 'page':
      case 'who':
      case 'rooms':
        return item && this.#settle(item, null, frame);
      case 'ack':
        return item && this.#settle(item, null, { id: frame.id, s: frame.s, ts: frame.ts, dup: frame.dup === true });
    }
    const room = this.rooms.get(frame.r);
    if (!room || room.state === 'refused') return; // left meanwhile
    if (frame.t === 'joined') this.#joined(room, frame);
    else if (room.state !== 'joining') this.#inRoom(room, frame); // else its replay will bring it again
  }

  #inRoom(room, frame) {
    switch (frame.t) {
      case 'msg':
      case 'edit':
      case 'del':
      case 'react':
        return this.#next(room, frame.s) && this.#entry(room, frame);
      case 'skip':
        return this.#next(room, frame.s, frame.s + (frame.n ?? 1) - 1);
      case 'gap': {
        const [from, to] = frame.missing;
        return this.#next(room, from, to) && this.#both(room, 'gap', { from, to, why: frame.why });
      }
      case 'live':
        return this.#live(room, frame);
      case 'rewind':
        Object.assign(room, { s: frame.s, epoch: frame.e ?? room.epoch });
        return this.#both(room, 'rewind', frame);
      case 'pres':
        return this.#presence(room, frame);
      case 'typing':
        room.typing[frame.off ? 'delete' : 'add'](frame.u);
        return this.#both(room, 'typing', frame);
      case 'read':
        return this.#read(room, frame);
      case 'got':
        return this.#both(room, 'got', frame);
    }
  }

  #entry(room, frame) {
    if (frame.s !== undefined) this.#both(room, 'entry', frame);
    this.#both(room, frame.t === 'msg' ? 'message' : frame.t, frame);
    if (room.state === 'live') this.#got(room);
  }

  #got(room) {
    if (this.can.includes('got')) this.#mark(room, 'got', room.s);
  }

  #read(room, frame) {
    const { u, s } = frame;
    const known = room.reads.get(u) ?? 0;
    room.reads.delete(u);
    room.reads.set(u, Math.max(known, s));
    if (room.reads.size > READERS_MAX) room.reads.delete(room.reads.keys().next().value);
    this.#both(room, 'read', frame);
  }

  #joined(room, frame) {
    const was = room.place;
    const { missing } = frame;
    const [from, to] = Array.isArray(missing) ? missing : [];
    const lost = room.lost ?? (missing === 'all' ? was?.e : null);
    Object.assign(room, { epoch: frame.e, who: frame.who ?? 0, state: 'replaying', tries: 0, lost: null });
    room.users.clear(); // the whole list comes after `live`
    room.typing.clear();
    if (lost) {
      room.reads.clear();
      room.marks = {};
    }
    if (!was || lost)
      room.s = null; // the first entry of the replay says where it begins
    else if (to) room.s = to;
    this.#both(room, 'joined', frame);
    if (lost) this.#both(room, 'gap', { all: true, was: lost, why: 'epoch-changed' });
    else if (was && to) this.#both(room, 'gap', { from, to, why: 'too-old' });
    this.#flush();
  }

  #live(room, frame) {
    room.s ??= frame.s;
    if (frame.s > room.s && !this.#bridge(room, frame.s + 1)) return;
    Object.assign(room, { state: 'live', epoch: frame.e ?? room.epoch });
    this.#both(room, 'live', frame);
    this.#markAgain(room);
    this.#got(room);
  }

  /** Whether an entry that covers `first` to `last` is the next one. An old one is dropped. */
  #next(room, first, last = first) {
    if (first === undefined) return true; // not logged, so it has no place
    if (room.s !== null && last <= room.s) return false;
    if (room.s !== null && first > room.s + 1 && !this.#bridge(room, first)) return false;
    room.s = last;
    return true;
  }

  /** A hole before `next`: asks for it once by joining again. If it is still there then, says so and goes on. */
  #bridge(room, next) {
    if (room.hole !== room.s) {
      room.hole = room.s;
      this.#enter(room);
      return false;
    }
    this.#both(room, 'gap', { from: room.s + 1, to: next - 1, why: 'hole' });
    room.s = next - 1;
    return true;
  }

  #presence(room, frame) {
    if (!frame.in && !frame.out) room.users.clear(); // too many here for a list
    for (const one of frame.in ?? []) room.users.set(one.u, one);
    for (const user of frame.out ?? []) room.users.delete(user);
    room.who = frame.who ?? room.users.size;
    this.#both(room, 'presence', frame);
  }

  /** The token is about to end: a function gives the next one without a reconnect. */
  async #renew() {
    if (typeof this.#options.token !== 'function') return;
    try {
      this.#send({ t: 'auth', token: await this.#options.token() });
    } catch (error) {
      this.emit('problem', new RoomcastError({ why: 'no-token', msg: error.message }));
    }
  }

  #both(room, name, event) {
    room.emit(name, event, room);
    this.emit(name, event, room);
  }
}

/**
 * A room as people see it: its entries folded into messages. Neither the order in which entries are added nor a
 * repeat makes a difference. Who was here all the time, who came late and who paged back through the log have the
 * same view, and `JSON.stringify(view)` gives the same bytes: a message is complete once all entries after it have
 * been added. It belongs to one life of a log (`epoch`); where that ends, `clear` it.
 */
export class RoomView {
  #lines = new Map(); // offset: the line of a message, with the newest words that were seen
  #done = new Map(); // offset of a message: {edit, del, marks}, what was done to it, also before its line is here
  #messages = new Map(); // offset: the message made of both
  #sorted = null;

  /**
   * All messages in order: {s, id, u, ts, d, re, type, via, edited, gone, reactions}. `edited` is the offset of the
   * newest edit; a message that is `gone` has null for `d` and no reactions; `reactions` are {k, users}, both in the
   * order in which they came. A message is never changed: after an edit another one stands in its place.
   */
  get messages() {
    this.#sorted ??= [...this.#messages.values()].sort((a, b) => a.s - b.s);
    return this.#sorted;
  }

  /** How many messages there are. */
  get size() {
    return this.#messages.size;
  }

  /** The message at an offset. */
  get(s) {
    return this.#messages.get(s);
  }

  /** Takes an entry of a room or of a page, in any order. Returns the message that is new or changed, if any. */
  add({ t, s, of, ...entry }) {
    if (s === undefined) return undefined;
    if (t === 'msg') return this.#line({ s, ...entry });
    if (t !== 'edit' && t !== 'del' && t !== 'react') return undefined;
    const done = this.#done.get(of) ?? { edit: null, del: null, marks: new Map() };
    this.#done.set(of, done);
    if (this.#done.size > DONE_MAX) this.#done.delete(this.#done.keys().next().value);
    if (t === 'edit' && s > (done.edit?.s ?? 0)) done.edit = { s, d: entry.d };
    if (t === 'del') done.del = { s };
    const key = JSON.stringify([entry.k, entry.u ?? null]);
    if (t === 'react' && s > (done.marks.get(key)?.s ?? 0)) {
      done.marks.set(key, { s, k: entry.k, u: entry.u ?? null, off: entry.off === true });
    }
    return this.#fold(of);
  }

  /**
   * Forgets the messages outside of `from` … `to`. What was done there to others stays known, so that messages
   * read back later are complete again.
   */
  trim(from, to = Infinity) {
    for (const s of this.#lines.keys()) if (s < from || s > to) this.#drop(s);
    for (const [of, done] of this.#done) {
      if (of >= from) continue;
      if (done.edit?.s < from) done.edit = null;
      if (done.del?.s < from) done.del = null;
      for (const [key, mark] of done.marks) if (mark.s < from) done.marks.delete(key);
      if (!done.edit && !done.del && done.marks.size === 0) this.#done.delete(of);
    }
  }

  clear() {
    for (const map of [this.#lines, this.#done, this.#messages]) map.clear();
    this.#sorted = null;
  }

  toJSON() {
    return { messages: this.messages };
  }

  #drop(s) {
    this.#lines.delete(s);
    this.#messages.delete(s);
    this.#sorted = null;
  }

  /** The server writes the newest words into the line itself, so one that was edited later is the better one. */
  #line(line) {
    const known = this.#lines.get(line.s);
    const age = ({ gone, edited = 0 }) => (gone ? Infinity : edited);
    if (known && age(known) >= age(line)) return undefined;
    this.#lines.set(line.s, line);
    return this.#fold(line.s);
  }

  #fold(at) {
    const line = this.#lines.get(at);
    if (!line) return undefined;
    const { edit, del, marks } = this.#done.get(at) ?? {};
    const { s, id, u, ts, re, type, via } = line;
    const gone = line.gone || del ? true : undefined;
    const { s: edited, d } = edit && edit.s > (line.edited ?? 0) ? edit : { s: line.edited, d: line.d };
    const reactions = gone ? [] : reactionsOf(marks);
    const message = gone
      ? { s, id, u, ts, d: null, re, type, via, gone, reactions }
      : { s, id, u, ts, d, re, type, via, edited, reactions };
    const known = this.#messages.get(s);
    if (known && JSON.stringify(known) === JSON.stringify(message)) return undefined;
    const place = this.#sorted?.length ?? 0;
    if (known || (place > 0 && this.#sorted[place - 1].s > s)) this.#sorted = null;
    else this.#sorted?.push(message);
    this.#messages.set(s, message);
    return message;
  }
}

/** Reactions by what they are made with, each with its users; what came first stands first. */
function reactionsOf(marks = new Map()) {
  const kinds = new Map();
  for (const { k, u, off } of [...marks.values()].sort((a, b) => a.s - b.s)) {
    if (!off) kinds.set(k, [...(kinds.get(k) ?? []), u]);
  }
  return [...kinds].map(([k, users]) => ({ k, users }));
}

/** As the server sorts names: JavaScript's own order differs beyond the first 65,536 characters. */
function byCodePoint(a, b) {
  const [one, other] = [[...a], [...b]];
  for (let i = 0; i < one.length && i < other.length; i += 1) {
    if (one[i] !== other[i]) return one[i].codePointAt(0) - other[i].codePointAt(0);
  }
  return one.length - other.length;
}

/** Random in 0 … min(30 s, 2^n s): many clients that lost one server do not come back in one moment. */
function backoff(n) {
  return Math.random() * Math.min(DELAY_MAX_MS, 2 ** n * 1000);
}

/** How long before the same line may go again, in ms; null if that is no use. */
function patience({ code, wait }, tries) {
  if (code === 429) return wait ?? null;
  return code === 500 || code === 503 ? (wait ?? 250 + backoff(tries)) : null;
}
