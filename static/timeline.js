/**
 * What the page knows of one room: a bounded window of its messages, own ones on their way, notes, and how far it
 * was read and delivered. Loads more of the log when asked. Knows no element of the page; `changed` is called when
 * there is something new to see.
 */
import { RoomView } from '/roomcast.js';

const KEEP = 500; // messages in the window; those beyond come back on scroll
const NEAR = 400; // entries: so far back the window grows to a message, else it moves there
const PAGE = 50;
const PAGE_MAX = 500;
const CATCH_UP_PAGES = 20; // read after a jump, so that reactions given much later are seen
const NOTES_MAX = 50;
const GOT_MAX = 200;

export const FIRST_PAGE = PAGE;

export class Timeline {
  view = new RoomView();
  quoted = new RoomView(); // messages outside the window that something in it refers to
  past = []; // lines of earlier lives of the log, to look at only
  notes = []; // {after: an offset, text, range?}
  waiting = new Map(); // id: own line without a place
  from = null; // the window: entries `from` … `to` have been read
  to = 0;
  tail = true; // it reaches to the newest entry
  older = true; // the server may have more before it
  begun = false; // the first replay is over
  loading = null; // the promise of a page
  read = null; // offset up to which this user has read, here or elsewhere
  news = 0; // messages since, where the server keeps no read marks
  newAfter = null; // where the line "new" stands
  draft = '';
  reply = null; // the message that the draft replies to
  editing = null; // the message that the draft replaces
  got = new Map(); // offset of an own message: {n, of}
  changing = new Map(); // offset: new data on its way, null for a removal
  #lines = new Map(); // offset: the line of a message
  #asked = new Set();
  #turn = 0; // each place the window was moved to has a number

  constructor(chat, room, changed) {
    Object.assign(this, { chat, room, changed });
  }

  /** Everything to show, from top to bottom: {message, own?, state?, why?}, {note, range?}, {fresh: true}. */
  lines() {
    const { messages } = this.view;
    const logged = messages.map((message) => this.#line(message));
    const known = new Set(messages.map(({ s }) => s));
    for (const s of this.#lines.keys()) if (!known.has(s)) this.#lines.delete(s);
    const reaches = this.newAfter !== null && this.newAfter >= this.from - 1;
    const firstNew = reaches ? messages.findIndex((one) => this.isNew(one)) : -1;
    if (firstNew >= 0) logged.splice(firstNew, 0, (this.divider ??= { fresh: true }));
    return [...this.past, ...this.#withNotes(logged), ...this.waiting.values()];
  }

  #line(message) {
    const line = this.#lines.get(message.s) ?? {};
    this.#lines.set(message.s, line);
    return Object.assign(line, { message, own: message.u === this.chat.user, state: undefined });
  }

  #withNotes(lines) {
    if (this.notes.length === 0) return lines;
    const all = [];
    const notes = [...this.notes];
    for (const line of lines) {
      while (line.message && notes[0]?.after < line.message.s) all.push(notes.shift());
      all.push(line);
    }
    return [...all, ...notes];
  }

  /** Whether somebody else said it after what this user had read. */
  isNew({ s, u, gone }, after = this.newAfter) {
    return s > after && u !== this.chat.user && !gone;
  }

  /** How many messages of others are unread, as far as can be told from here. */
  get unread() {
    if (this.read === null) return this.news;
    if (!this.tail || this.from === null || this.from > this.read + 1)
      return Math.max(0, (this.room.s ?? 0) - this.read);
    return this.view.messages.filter((one) => this.isNew(one, this.read)).length;
  }

  note(text, range) {
    this.notes.push({ note: text, range, after: range ? range.from - 1 : (this.room.s ?? 0) });
    this.notes.splice(0, this.notes.length - NOTES_MAX);
    this.notes.sort((a, b) => a.after - b.after);
    this.changed();
  }

  // ---- what the room tells

  joined(frame) {
    const { s, n = 0 } = frame;
    this.frame = frame;
    if (this.from === null) Object.assign(this, { from: s - n + 1, to: s - n });
  }

  live() {
    this.begun = true; // from here on a message is news, even one told late
    this.changed();
  }

  /** @param {boolean} reading whether somebody looks at an older part, which then stays as it is */
  told(entry, reading) {
    if (this.quoted.get(entry.of)) this.quoted.add(entry);
    if (entry.t === 'msg') this.#placed(entry);
    else if (entry.t !== 'react' && entry.u === this.chat.user) this.changing.delete(entry.of);
    if (this.tail && reading && entry.t === 'msg' && this.view.size >= KEEP) this.tail = false;
    if (this.tail || entry.t !== 'msg') this.view.add(entry);
    if (this.tail) this.to = entry.s;
    if (this.view.size >= 2 * KEEP) this.trim();
    this.changed();
  }

  /** Said to those who are here now, and kept nowhere. */
  fleeting(message) {
    this.notes.push({ message, past: true, after: this.room.s ?? 0 });
    this.changed();
  }

  /** An own line that waited has its place now. */
  #placed({ s, id, u }) {
    const line = u === this.chat.user && this.waiting.get(id);
    if (!line) return;
    this.waiting.delete(id);
    this.#lines.set(s, line);
  }

  /** Acknowledged. The line itself comes with the room, unless that place has gone by already (inside a gap). */
  kept(line, { s, ts }) {
    Object.assign(line, { state: 'sent', why: undefined });
    Object.assign(line.message, { ts });
    if (this.waiting.has(line.message.id) && s <= this.room.s) {
      const { message } = line;
      this.#placed({ ...message, s });
      this.view.add({ t: 'msg', ...message, s });
    }
    this.changed();
  }

  /** Entries that will not come by themselves. */
  missed({ all, was, from, to, why }) {
    if (all) return this.#beganAnew(was);
    if (this.tail) this.to = Math.max(this.to, to);
    const [n, verb] = to === from ? ['1 message', 'is'] : [`${to - from + 1} messages`, 'are'];
    if (why === 'too-old') this.note(`${n} ${verb} gone: the server no longer keeps what was said here.`, { from });
    else if (why === 'slow') this.note(`You were too slow for ${n}.`, { from, to });
    else this.note(`${n} did not come.`, { from, to });
    return undefined;
  }

  #beganAnew(was) {
    const sawNothing = this.to === 0; // an empty room that nobody is in may end and begin anew
    const old = this.tail ? this.lines().filter((line) => !this.waiting.has(line.message?.id) && !line.fresh) : [];
    this.past = old.slice(-KEEP).map((line) => Object.assign(line, { past: true, after: 0 }));
    if (!sawNothing) {
      this.past.push({
        note: `The server began a new log (epoch ${was} became ${this.room.epoch}): lines said while you were away are not kept.`,
      });
    }
    this.#moveTo([], { from: null, to: 0, tail: true, older: false });
    Object.assign(this, { notes: [], read: null, newAfter: null, news: 0 });
    for (const known of [this.got, this.changing, this.quoted, this.#asked]) known.clear();
    if (this.frame) this.joined(this.frame);
    this.changed();
  }

  /** Entries after `s` were taken back. What was folded from them cannot be undone, so the window is read again. */
  takenBack() {
    const to = this.room.s;
    this.#moveTo([], { from: to + 1, to, tail: true, older: true });
    this.notes = this.notes.filter((one) => one.after <= to);
    this.load('before');
  }

  delivered({ s, n, of }) {
    this.got.set(s, { n, of });
    if (this.got.size > GOT_MAX) this.got.delete(this.got.keys().next().value);
  }

  /** What has become of an own message: kept, delivered {n, of}, read {by}. */
  fate({ s }) {
    const by = [...this.room.reads]
      .filter(([user, upTo]) => user !== this.chat.user && upTo >= s)
      .map(([user]) => user);
    // Who has a later entry, has this one.
    const later = [...this.got].filter(([upTo]) => upTo >= s).map(([, count]) => count);
    return { by: by.join(', '), ...later.sort((a, b) => b.n - a.n)[0] };
  }

  /** Shows new data, or none, until the server has kept it; `answer` is its promise. */
  async change(s, data, answer) {
    this.changing.set(s, data);
    this.changed();
    try {
      const ack = await answer;
      if (ack.s <= this.room.s) this.changing.delete(s); // else its entry does it
    } catch (error) {
      this.changing.delete(s);
      this.note(`Your change was not kept: ${error.message}`);
    }
    this.changed();
  }

  // ---- history

  /** Loads a page before or after the window, one at a time. A window moved meanwhile has no use for it. */
  load(side, n = PAGE) {
    if (this.room.state !== 'live') return undefined;
    this.loading ??= this.#load(side, n);
    return this.loading;
  }

  async #load(side, n) {
    const turn = this.#turn;
    try {
      const span = side === 'before' ? { before: this.from ?? this.room.s + 1 } : { after: this.to };
      const page = await this.#page({ ...span, n });
      if (turn === this.#turn) this.#grow(side, page);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (side === 'before') this.older = false;
      this.why = `Older messages cannot be shown: ${error.message}`;
    } finally {
      if (turn === this.#turn) this.loading = null;
      this.changed();
    }
  }

  /** A page of this life of the log; another one has nothing for us. */
  async #page(span) {
    const { e, list, more } = await this.chat.log(this.room.name, span);
    return e === this.room.epoch ? { list, more: more === true } : { list: [], more: false };
  }

  #grow(side, { list, more }) {
    const [first, last] = [list[0], list.at(-1)];
    for (const entry of list) this.view.add(entry);
    if (side === 'before') {
      this.older = more && list.length > 0;
      this.from = first?.s ?? this.from;
      this.trim(true);
    } else {
      if (first?.s > this.to + 1) this.missed({ from: this.to + 1, to: first.s - 1, why: 'too-old' });
      this.to = Math.max(this.to, lastOf(last));
      this.tail = !more && this.to >= this.room.s; // else more was said while the page was on its way
      this.trim();
    }
  }

  /** Keeps the window bounded: the part that the reader went away from is forgotten. */
  trim(fromBelow = false) {
    const { messages } = this.view;
    if (messages.length <= KEEP) return;
    if (fromBelow) {
      Object.assign(this, { to: messages[KEEP - 1].s, tail: false });
    } else {
      Object.assign(this, { from: messages.at(-KEEP).s, older: true, past: [] });
      this.notes = this.notes.filter((one) => one.after >= this.from);
    }
    this.view.trim(this.from, this.tail ? Infinity : this.to);
  }

  #moveTo(list, window) {
    this.#turn += 1;
    this.#lines.clear();
    this.view.clear();
    for (const entry of list) this.view.add(entry);
    Object.assign(this, { loading: null, why: undefined, ...window });
  }

  /** Back to the newest entries: a fresh window there, if this one does not reach so far. */
  latest() {
    if (this.tail) return;
    const to = Math.max(0, this.room.s - PAGE);
    this.#moveTo([], { from: to + 1, to, older: to > 0 });
    this.load('after');
  }

  /** Brings the message at `s` into the window. Returns whether it is there. */
  async reach(s) {
    if (this.view.get(s)) return true;
    if (this.from - s > NEAR || s > this.to) await this.#jump(s);
    for (let from = Infinity; s < this.from && this.from < from;) {
      from = this.from;
      await this.loading; // perhaps that was it
      if (s < this.from) await this.load('before', PAGE_MAX);
    }
    if (!this.view.get(s)) for (const entry of (await this.#page({ after: s - 1, n: 1 })).list) this.view.add(entry);
    return this.view.get(s) !== undefined;
  }

  async #jump(s) {
    const half = Math.floor(PAGE / 2);
    const [before, after] = await Promise.all([
      this.#page({ before: s + 1, n: half }),
      this.#page({ after: s, n: half }),
    ]);
    const list = [...before.list, ...after.list];
    if (!before.list.some((one) => one.s === s)) return;
    const to = lastOf(list.at(-1));
    this.#moveTo(list, { from: list[0].s, to, tail: !after.more && to >= this.room.s, older: before.more });
    this.changed();
    this.#catchUp(to).catch(() => {}); // the messages are there; a reaction given much later may not be
  }

  /** Reads on after a jump, for what was done later to the messages shown: the messages themselves are left out. */
  async #catchUp(at) {
    const turn = this.#turn;
    for (let n = 0; n < CATCH_UP_PAGES && !this.tail; n += 1) {
      const { list, more } = await this.#page({ after: at, n: PAGE_MAX });
      if (turn !== this.#turn) return;
      for (const entry of list) if (entry.t !== 'msg') this.view.add(entry);
      if (!more || list.length === 0) break;
      at = lastOf(list.at(-1));
    }
    this.changed();
  }

  /** Reads what a note says is missing; the note goes when nothing is. */
  async fill(note) {
    const { from, to } = note.range;
    for (let at = from - 1; at < to;) {
      const { list } = await this.#page({ after: at, n: Math.min(PAGE_MAX, to - at) });
      if (list.length === 0) break;
      for (const entry of list) this.view.add(entry);
      at = lastOf(list.at(-1));
    }
    this.notes = this.notes.filter((one) => one !== note);
    this.changed();
  }

  /** The message that a reply or a mention is about: from the window, else asked for once. */
  quote(s) {
    const known = this.view.get(s) ?? this.quoted.get(s);
    if (known || this.#asked.has(s) || this.room.state !== 'live') return known;
    this.#asked.add(s);
    this.#page({ after: s - 1, n: 1 }).then(
      ({ list }) => {
        if (list[0]?.s === s && this.quoted.add(list[0])) this.changed();
      },
      () => this.#asked.delete(s), // asked again when it is drawn again
    );
    return undefined;
  }
}

/** The last place that an entry covers: a skip covers several. */
function lastOf(entry) {
  return entry ? entry.s + (entry.t === 'skip' ? (entry.n ?? 1) - 1 : 0) : 0;
}
