/**
 * Roomcast where no WebSocket gets through: the same lines over plain HTTP. `roomcast.js` loads this file when it needs
 * it, and treats what is in it as it treats a WebSocket: `send`, `close`, `onopen`, `onmessage`, `onclose`.
 *
 * What is said goes out by POST /v1/send, in order, one request at a time. What comes in comes by an EventSource
 * (`sse`) or by long polls (`poll`). Rooms stand in the URL of both, so a join or a leave begins anew, from the cursor.
 */

const WAIT_S = 25; // how long a poll waits for something
const POLL_MS = 40_000; // by then it is answered, or lost
const POST_MS = 30_000;
const LINES_MAX = 50; // of one POST
const BYTES_MAX = 500_000;
const PROBE_MS = 10_000;

/** A room's name as it stands in lists and cursors, before the URL's own coding. */
const coded = (room) => room.replace(/[%,]/g, (sign) => (sign === '%' ? '%25' : '%2C'));

/** What both ways have in common: rooms, the cursor, and the way out. */
class HttpWire {
  readyState = 0;
  rooms = new Map(); // name: {last, since, e, quiet}, the joins that have no answer yet
  asked = new Set(); // those of them that the reader of this moment asks for
  entered = new Map(); // name: whether quiet
  since = '';

  #out = [];
  #posting = false;
  #changed = null;

  /** @param base of the server; @param who {user} for a guest */
  constructor(base, who = {}) {
    Object.assign(this, { base, who });
    queueMicrotask(() => {
      if (this.readyState > 1) return;
      this.readyState = 1;
      this.onopen?.();
      if (this.who.user !== undefined) this.begin(); // nobody will say hello
    });
  }

  send(line) {
    const frame = JSON.parse(line);
    switch (frame.t) {
      case 'hello':
        this.who = { token: frame.token };
        for (const [r, place] of Object.entries(frame.rooms ?? {})) this.rooms.set(r, place);
        return this.begin();
      case 'auth':
        this.who = { token: frame.token };
        return; // for what comes next; the stream ends with the old token and begins with the new one
      case 'join':
        this.#forget(frame.r);
        this.asked.delete(frame.r);
        this.rooms.set(frame.r, frame);
        return this.change();
      case 'leave':
        if (this.rooms.has(frame.r) || this.entered.has(frame.r)) this.change();
        return this.#forget(frame.r);
      case 'bye':
        return this.end(1000, 'bye');
    }
    if (this.takes(frame)) return;
    this.#out.push(frame);
    this.#post();
  }

  /** @protected Whether a line need not go out. */
  takes() {
    return false;
  }

  close() {
    this.readyState = 3;
    this.stop();
  }

  /** @protected The link is over, by itself. */
  end(code, reason = '') {
    if (this.readyState === 3) return;
    this.close();
    this.onclose?.({ code, reason });
  }

  /** @protected Hands on what came. */
  hear(data) {
    if (this.readyState === 1) this.onmessage?.({ data });
  }

  /** @protected Hands on a line of the reader, which may answer a join. */
  read(data) {
    if (data.startsWith('{"t":"joined"')) {
      const { r } = JSON.parse(data);
      if (this.rooms.has(r)) this.entered.set(r, Boolean(this.rooms.get(r).quiet));
      this.rooms.delete(r);
    } else if (data.startsWith('{"t":"err"')) {
      const { r } = JSON.parse(data);
      if (r !== undefined) this.#forget(r); // refused, it is asked for no more
    }
    this.hear(data);
  }

  /** What was known of a room. */
  #forget(room) {
    this.rooms.delete(room);
    this.entered.delete(room);
    if (this.since.startsWith('~')) return;
    const isOther = (one) => decodeURIComponent(one.slice(0, one.lastIndexOf('@'))) !== room;
    this.since = this.since.split(',').filter(isOther).join();
  }

  /** @protected The rooms are others now: all that change in this moment change together. */
  change() {
    this.#changed ??= queueMicrotask(() => {
      this.#changed = null;
      if (this.readyState === 1) this.begin();
    }) ?? true;
  }

  /** @protected The address of a reader: rooms that it is in, and the next ones to enter. */
  reader(path, more = {}) {
    const all = [...this.rooms];
    const wish = (join) => (join.since === undefined ? `last ${join.last ?? 0}` : 'since');
    // One number of old entries holds for all newcomers, so those who want another number come next.
    const first = all.find(([, join]) => wish(join) !== 'since')?.[1];
    const now = all.filter(([, join]) => wish(join) === 'since' || wish(join) === wish(first));
    const places = now.filter(([, join]) => wish(join) === 'since').map(([r, j]) => `${place(r)}@${j.e}-${j.since}`);
    const names = [...this.entered.keys(), ...now.map(([r]) => r)];
    const quiet = [...this.entered, ...now.map(([r, join]) => [r, join.quiet])].filter(([, is]) => is).map(([r]) => r);
    // A cursor of a session takes no places beside it; the server has them.
    const since = this.since.startsWith('~') ? this.since : [this.since, ...places].filter(Boolean).join();
    const query = new URLSearchParams({ rooms: names.map(coded).join(), ...this.#name(), ...more });
    if (since) query.set('since', since);
    if (first?.last) query.set('last', first.last);
    if (quiet.length > 0) query.set('quiet', quiet.map(coded).join());
    this.asked = new Set(now.map(([r]) => r));
    return `${this.base}${path}?${query}`;
  }

  /** @protected Whether all who were asked for have an answer, and others are next. */
  get hasMore() {
    return this.rooms.size > 0 && ![...this.rooms.keys()].some((room) => this.asked.has(room));
  }

  #name() {
    const { token, user } = this.who;
    return token !== undefined ? { token } : user !== undefined ? { user } : {};
  }

  async #post() {
    if (this.#posting) return;
    this.#posting = true;
    while (this.#out.length > 0 && this.readyState === 1) {
      const lines = [];
      for (let bytes = 0; this.#out.length > 0 && lines.length < LINES_MAX && bytes < BYTES_MAX; ) {
        lines.push(this.#out.shift());
        bytes += JSON.stringify(lines.at(-1)).length;
      }
      await this.#postLines(lines);
    }
    this.#posting = false;
  }

  async #postLines(lines) {
    try {
      const { token, user } = this.who;
      const query = token === undefined && user !== undefined ? `?${new URLSearchParams({ user })}` : '';
      const answer = await fetch(`${this.base}/v1/send${query}`, {
        method: 'POST',
        body: lines.map((line) => JSON.stringify(line)).join('\n'),
        headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(POST_MS),
      });
      const text = await answer.text();
      if (answer.ok) return this.hear(text);
      const refusal = refusalIn(text, answer.status);
      const asked = lines.filter(({ i }) => i !== undefined);
      this.hear(asked.map(({ i, r, id }) => JSON.stringify({ ...refusal, i, r, id })).join('\n'));
    } catch {
      this.end(1006, 'post'); // the same lines go again over the next wire, under the same ids
    }
  }
}

/** Events by an EventSource, lines by POST. */
class StreamWire extends HttpWire {
  #source = null;
  #greeted = false;

  begin() {
    this.stop();
    const source = (this.#source = new EventSource(this.reader('/v1/stream')));
    source.onmessage = ({ data, lastEventId }) => {
      if (lastEventId) this.since = lastEventId;
      // The one who reads has one welcome; those of further streams are the server's names for the same stay.
      if (data.startsWith('{"t":"welcome"') && (this.#greeted || !(this.#greeted = true))) return;
      this.read(data);
      if (this.hasMore && source === this.#source) this.change();
    };
    // It would come back by itself; when, and whether, is for the client to say, as with a WebSocket.
    source.onerror = async () => {
      if (source !== this.#source) return;
      const isRefused = source.readyState === 2;
      this.stop();
      if (isRefused) await this.#explain();
      this.end(1006, 'stream');
    };
  }

  stop() {
    this.#source?.close();
    this.#source = null;
  }

  /** An EventSource does not say why it was refused; the same question by fetch does. */
  async #explain() {
    const { token, user } = this.who;
    const name = token !== undefined ? { token } : user !== undefined ? { user } : {};
    try {
      const answer = await fetch(`${this.base}/v1/poll?${new URLSearchParams({ rooms: '', ...name })}`);
      if (!answer.ok) this.hear(JSON.stringify(refusalIn(await answer.text(), answer.status)));
    } catch {
      // Nobody is there who could say.
    }
  }
}

/** One question after the other, each answered when there is something. */
class PollWire extends HttpWire {
  #turn = 0;
  #asked = null;
  #greeted = false;

  begin() {
    this.stop();
    this.#poll(++this.#turn);
  }

  stop() {
    this.#turn += 1;
    this.#asked?.abort();
  }

  /** How far this client has got says its cursor, and that it lives its next poll. */
  takes({ t, i }) {
    if (t === 'ping') queueMicrotask(() => this.hear(JSON.stringify({ t: 'pong', i })));
    return t === 'ping' || t === 'got';
  }

  async #poll(turn) {
    while (turn === this.#turn) {
      const asked = (this.#asked = new AbortController());
      const late = setTimeout(() => asked.abort(), POLL_MS);
      try {
        const url = this.reader('/v1/poll', this.rooms.size > 0 ? { enter: 1 } : { wait: this.#greeted ? WAIT_S : 0 });
        const answer = await fetch(url, { signal: asked.signal, cache: 'no-store' });
        const text = await answer.text();
        if (turn !== this.#turn) return;
        if (!answer.ok) {
          this.hear(JSON.stringify(refusalIn(text, answer.status)));
          return this.end(1006, 'poll');
        }
        const { frames, next } = JSON.parse(text);
        this.since = next;
        const told = frames.filter(({ t }) => t !== 'welcome' || !this.#greeted);
        this.#greeted = true;
        for (const frame of told) if (turn === this.#turn) this.read(JSON.stringify(frame));
        if (turn === this.#turn && told.some(({ t }) => t === 'bye')) return this.end(1006, 'bye');
        if (this.entered.size === 0 && this.rooms.size === 0) return; // until a room is entered
      } catch {
        if (turn === this.#turn) this.end(1006, 'poll');
        return;
      } finally {
        clearTimeout(late);
      }
    }
  }
}

/** A room's name in a cursor. */
function place(room) {
  return encodeURIComponent(room).replace(/[-!~*'()_.]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
}

function refusalIn(text, status) {
  try {
    const { code, why, msg, wait } = JSON.parse(text);
    return { t: 'err', code, why, msg, wait };
  } catch {
    return { t: 'err', code: status, why: 'http', msg: `the server or a proxy answered ${status}` };
  }
}

export const wires = { sse: StreamWire, poll: PollWire };

/** The first of these kinds that gets through, looked at without disturbing anybody; -1 for none. */
export async function look(kinds, url, base, { token, user }) {
  const word = typeof token === 'function' ? await token() : token;
  const query = word === undefined ? { user: user ?? '' } : { token: word };
  for (const [at, kind] of kinds.entries()) {
    if (kind === 'websocket' ? await connects(url) : kind === 'sse' && (await hears(base, query))) return at;
  }
  return -1;
}

function connects(url) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onclose = () => resolve(false);
    socket.onopen = () => {
      resolve(true);
      socket.close();
    };
  });
}

function hears(base, query) {
  return new Promise((resolve) => {
    const source = new EventSource(`${base}/v1/stream?${new URLSearchParams({ rooms: '', ...query })}`);
    const tell = (does) => {
      clearTimeout(late);
      source.close();
      resolve(does);
    };
    const late = setTimeout(() => tell(false), PROBE_MS);
    source.onmessage = () => tell(true);
    source.onerror = () => tell(false);
  });
}
