/**
 * roomcast.js against a scripted server: frames that a healthy one seldom sends, and a clock that the story turns.
 * The page's WebSocket is replaced; everything else is real.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

const NOON = 1_763_820_000_000;
const WELCOME = { t: 'welcome', v: 1, u: 'ann', session: 's1', ping: 25_000, max: 65_536, can: ['log', 'who'] };
const msg = (s, more) => ({ t: 'msg', r: 'lobby', s, id: `x-${s}`, u: 'bob', ts: NOON + s, d: `line ${s}`, ...more });

/** A page whose client talks to the story. */
class Wire {
  static async open(t, options = { user: 'ann' }) {
    const wire = new Wire();
    wire.page = await (await stage(t)).page();
    await wire.page.clock.install({ time: NOON });
    await wire.page.clock.pauseAt(NOON + 1_000);
    await wire.page.evaluate(async (given) => {
      class Scripted {
        static OPEN = 1;
        readyState = 0;
        sent = [];
        constructor(url) {
          this.url = url;
          window.sockets.push(this);
        }
        open() {
          this.readyState = 1;
          this.onopen();
        }
        send(line) {
          this.sent.push(JSON.parse(line));
        }
        close() {
          this.readyState = 3;
        }
      }
      Object.assign(window, { WebSocket: Scripted, sockets: [], told: [] });
      const { Roomcast } = await import('/roomcast.js');
      const { tokens, ...rest } = given;
      window.chat = new Roomcast({ ...rest, wires: ['websocket'], token: tokens && (() => tokens.shift()) });
      const names = ['message', 'joined', 'live', 'gap', 'rewind', 'presence', 'typing', 'refused', 'problem', 'held'];
      for (const name of names)
        window.chat.on(name, (event) => window.told.push([name, event.s ?? event.why ?? event.u ?? null, event]));
      window.chat.on('state', (state) => window.told.push(['state', state.state, state]));
    }, options);
    return wire;
  }

  /** Opens the newest socket and greets. */
  async greet(...frames) {
    await this.page.evaluate(() => window.sockets.at(-1).open());
    await this.hears(WELCOME, ...frames);
  }

  /** Lets the client hear these lines, all in one WebSocket frame. */
  hears(...frames) {
    const data = frames.map((frame) => JSON.stringify(frame)).join('\n');
    return this.page.evaluate((text) => window.sockets.at(-1).onmessage({ data: text }), data);
  }

  closes(code, reason = '') {
    return this.page.evaluate(([c, r]) => window.sockets.at(-1).onclose({ code: c, reason: r }), [code, reason]);
  }

  join(options) {
    return this.page.evaluate((given) => void window.chat.join('lobby', given), options);
  }

  /** Joins a room whose log stands at `s`, with an empty replay. */
  async joinAt(s) {
    await this.greet();
    await this.join({ last: 0 });
    await this.hears({ t: 'joined', r: 'lobby', s, e: 'k3f9', n: 0, who: 1 }, { t: 'live', r: 'lobby', s });
    await this.forget();
  }

  /** What the client sent over the newest socket, without its request numbers. */
  async sent() {
    const frames = await this.page.evaluate(() => window.sockets.at(-1).sent.splice(0));
    return frames.map(({ i, ...frame }) => frame);
  }

  /** What the listeners were told since the last time, as [event, what]. */
  async told() {
    return (await this.page.evaluate(() => window.told.splice(0))).map(([name, what]) => [name, what]);
  }

  async details() {
    return (await this.page.evaluate(() => window.told.splice(0))).map(([name, , event]) => [name, event]);
  }

  async forget() {
    await this.sent();
    await this.told();
  }

  sockets() {
    return this.page.evaluate(() => window.sockets.length);
  }

  state() {
    return this.page.evaluate(() => window.chat.state);
  }

  passes(ms) {
    return this.page.clock.runFor(ms);
  }
}

test('each entry is told once and in order, whatever is repeated', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.hears(msg(6), msg(6), msg(7), msg(5), { t: 'skip', r: 'lobby', s: 8, n: 2 }, msg(9), msg(10));
  assert.deepEqual(await wire.told(), [
    ['message', 6],
    ['message', 7],
    ['message', 10],
  ]);
  assert.deepEqual(await wire.sent(), [], 'nothing was missing, so nothing is asked');
});

test('a hole is asked for, and what comes before the answer waits for its turn', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.hears(msg(8), msg(9));
  assert.deepEqual(await wire.told(), []);
  assert.deepEqual(await wire.sent(), [{ t: 'join', r: 'lobby', since: 5, e: 'k3f9' }]);
  await wire.hears({ t: 'joined', r: 'lobby', s: 9, e: 'k3f9', n: 4, who: 1 }, msg(6), msg(7), msg(8), msg(9), {
    t: 'live',
    r: 'lobby',
    s: 9,
  });
  assert.deepEqual(
    (await wire.told()).filter(([name]) => name === 'message').map(([, s]) => s),
    [6, 7, 8, 9],
  );
});

test('a hole that stays is named, and the room goes on', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.hears(msg(8));
  await wire.forget();
  await wire.hears({ t: 'joined', r: 'lobby', s: 8, e: 'k3f9', n: 1, who: 1 }, msg(8), { t: 'live', r: 'lobby', s: 8 });
  const [, gap, message] = await wire.details();
  assert.deepEqual(gap, ['gap', { from: 6, to: 7, why: 'hole' }]);
  assert.deepEqual([message[0], message[1].s], ['message', 8]);
  assert.deepEqual(await wire.sent(), [], 'it does not ask for ever');
});

test('gaps, rewinds and new epochs move the place', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.hears(
    { t: 'gap', r: 'lobby', missing: [6, 20], why: 'slow' },
    msg(21),
    { t: 'rewind', r: 'lobby', s: 20, e: 'k3f9' },
    msg(21),
  );
  await wire.hears({ t: 'live', r: 'lobby', s: 21, e: 'm001' }, msg(22));
  assert.deepEqual(await wire.told(), [
    ['gap', 'slow'],
    ['message', 21],
    ['rewind', 20],
    ['message', 21],
    ['live', 21],
    ['message', 22],
  ]);
  await wire.closes(1006);
  await wire.passes(1_000);
  await wire.greet();
  assert.deepEqual(await wire.sent(), [{ t: 'join', r: 'lobby', since: 22, e: 'm001' }]);
  await wire.forget();
  await wire.hears({ t: 'joined', r: 'lobby', s: 900, e: 'm001', n: 1, missing: [23, 899], who: 1 }, msg(900), {
    t: 'live',
    r: 'lobby',
    s: 900,
  });
  assert.deepEqual(await wire.told(), [
    ['joined', 900],
    ['gap', 'too-old'],
    ['message', 900],
    ['live', 900],
  ]);
  await wire.closes(1006);
  await wire.passes(2_000);
  await wire.greet();
  await wire.forget();
  await wire.hears(
    { t: 'joined', r: 'lobby', s: 2, e: 'z81c', n: 2, missing: 'all', was: 'm001', who: 1 },
    msg(1),
    msg(2),
    { t: 'live', r: 'lobby', s: 2 },
  );
  assert.deepEqual(await wire.told(), [
    ['joined', 2],
    ['gap', 'epoch-changed'],
    ['message', 1],
    ['message', 2],
    ['live', 2],
  ]);
});

test('the close code says whether and when to come back', async (t) => {
  const wire = await Wire.open(t);
  await wire.greet();
  await wire.passes(6_000); // long enough to count as a connection that worked
  await wire.closes(4202, 'slow');
  assert.equal((await wire.state()).retryIn, 0, '42xx: at once');
  await wire.passes(1);
  assert.equal(await wire.sockets(), 2);
  await wire.greet();
  await wire.passes(6_000);
  await wire.hears({ t: 'bye', code: 4200, why: 'restart', wait: 1_800 });
  await wire.closes(4200, 'restart');
  assert.deepEqual(await wire.state(), { state: 'waiting', retryIn: 1_800, code: 4200, why: 'restart' });
  await wire.passes(1_799);
  assert.equal(await wire.sockets(), 2);
  await wire.passes(1);
  assert.equal(await wire.sockets(), 3);
  await wire.page.evaluate(() => (Math.random = () => 0.999));
  const delays = [];
  for (let n = 1; n <= 7; n += 1) {
    await wire.closes(4100, 'full');
    delays.push(Math.ceil((await wire.state()).retryIn / 1000));
    await wire.passes(delays.at(-1) * 1000);
  }
  assert.deepEqual(delays, [2, 4, 8, 16, 30, 30, 30], '41xx: growing, up to 30 s');
  await wire.closes(4003, 'banned');
  const { state, code, why } = await wire.state();
  assert.deepEqual([state, code, why], ['stopped', 4003, 'banned']);
  const sockets = await wire.sockets();
  await wire.passes(120_000);
  assert.equal(await wire.sockets(), sockets, '40xx: never again');
});

test('an expired token is renewed where a function gives the next one, else it is the end', async (t) => {
  const wire = await Wire.open(t, { tokens: ['first', 'second', 'third', 'fourth'] });
  const said = async () => (await wire.sent()).map(({ t: type, token }) => [type, token]);
  await wire.greet();
  assert.deepEqual(await said(), [['hello', 'first']]);
  await wire.hears({ t: 'expiring', in: 60 });
  assert.deepEqual(await said(), [['auth', 'second']]);
  await wire.closes(1006);
  await wire.passes(1_000);
  await wire.page.evaluate(() => window.sockets.at(-1).open());
  assert.deepEqual(await said(), [['hello', 'third']]);
  await wire.hears({ t: 'err', code: 401, why: 'expired', msg: 'ask for a new token' });
  await wire.closes(4001, 'expired');
  await wire.passes(2_000);
  await wire.greet();
  assert.deepEqual(await said(), [['hello', 'fourth']]);
  const fixed = await Wire.open(t, { token: 'the only one' });
  await fixed.greet();
  await fixed.closes(4001, 'expired');
  assert.equal((await fixed.state()).state, 'stopped');
});

test('silence is broken by a question, and ended by no answer', async (t) => {
  const wire = await Wire.open(t);
  await wire.greet();
  await wire.passes(24_000);
  await wire.hears({ t: 'typing', r: 'elsewhere', u: 'bob' });
  await wire.passes(24_000);
  assert.deepEqual(await wire.sent(), [], 'any word is a sign of life');
  await wire.passes(2_000);
  assert.deepEqual(await wire.sent(), [{ t: 'ping' }]);
  await wire.hears({ t: 'pong' });
  await wire.passes(25_000);
  assert.equal((await wire.state()).state, 'live');
  assert.deepEqual(await wire.sent(), [{ t: 'ping' }]);
  await wire.passes(25_000);
  assert.deepEqual([(await wire.state()).state, (await wire.state()).why], ['waiting', 'silence']);
});

test('a new connection without a word is given up', async (t) => {
  const wire = await Wire.open(t);
  await wire.page.evaluate(() => window.sockets.at(-1).open());
  await wire.passes(10_000);
  assert.deepEqual((await wire.state()).why, 'no welcome');
});

test('who is not let in is told why, and does not knock for ever', async (t) => {
  const wire = await Wire.open(t);
  await wire.page.evaluate(() => window.sockets.at(-1).open());
  await wire.hears({ t: 'err', code: 400, why: 'bad-json', msg: 'a name has 1 to 128 bytes; shorten it' });
  await wire.passes(1_000);
  assert.deepEqual(await wire.state(), {
    state: 'stopped',
    code: 400,
    why: 'bad-json',
    msg: 'a name has 1 to 128 bytes; shorten it',
  });
  await wire.passes(60_000);
  assert.equal(await wire.sockets(), 1);
});

test('when the network comes back, the page does not wait for the delay', async (t) => {
  const wire = await Wire.open(t);
  await wire.page.evaluate(() => (Math.random = () => 0.999));
  for (let n = 0; n < 4; n += 1) {
    await wire.closes(1006);
    await wire.passes(n < 3 ? 8_000 : 0);
  }
  const before = await wire.sockets();
  assert.equal((await wire.state()).state, 'waiting');
  await wire.page.evaluate(() => window.dispatchEvent(new Event('online')));
  assert.equal(await wire.sockets(), before + 1);
  await wire.greet();
  await wire.forget();
  await wire.page.evaluate(() => window.dispatchEvent(new Event('offline')));
  assert.deepEqual(await wire.sent(), [{ t: 'ping' }], 'a live connection is only asked');
  await wire.passes(5_000);
  assert.equal((await wire.state()).why, 'silence');
});

test('one publish a room is on its way, a refusal holds the next, a cut repeats the same id', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(0);
  await wire.page.evaluate(() => {
    window.acks = [];
    for (const word of ['one', 'two', 'three'])
      window.chat.publish('lobby', word, { id: word }).then((ack) => window.acks.push([ack.id, ack.s, ack.dup]));
  });
  const number = () => wire.page.evaluate(() => window.sockets.at(-1).sent.at(-1).i);
  const pub = (word) => ({ t: 'pub', r: 'lobby', d: word, id: word });
  const first = await number();
  assert.deepEqual(await wire.sent(), [pub('one')]);
  await wire.hears({ t: 'err', r: 'lobby', i: first, id: 'one', code: 429, why: 'rate', msg: 'too fast', wait: 700 });
  await wire.passes(699);
  assert.deepEqual(await wire.sent(), []);
  await wire.passes(1);
  assert.deepEqual(await wire.sent(), [pub('one')]);
  await wire.closes(1006);
  await wire.passes(1_000);
  await wire.greet();
  assert.deepEqual(
    await wire.sent(),
    [{ t: 'join', r: 'lobby', since: 0, e: 'k3f9' }],
    'lines wait until the room is joined',
  );
  await wire.hears({ t: 'joined', r: 'lobby', s: 1, e: 'k3f9', n: 1, who: 1 });
  const again = await number();
  assert.equal(again, first);
  assert.deepEqual(await wire.sent(), [pub('one')]);
  await wire.hears({ t: 'ack', r: 'lobby', s: 1, i: again, id: 'one', ts: 1, dup: true });
  assert.deepEqual(await wire.sent(), [pub('two')]);
  await wire.hears({ t: 'ack', r: 'lobby', s: 2, i: again + 1, id: 'two', ts: 2 });
  await wire.hears({ t: 'ack', r: 'lobby', s: 3, i: again + 2, id: 'three', ts: 3 });
  assert.deepEqual(await wire.page.evaluate(() => window.acks), [
    ['one', 1, true],
    ['two', 2, false],
    ['three', 3, false],
  ]);
});

test('who is here is forgotten at a join and told anew', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(0);
  const users = () =>
    wire.page.evaluate(() => [[...window.chat.rooms.get('lobby').users.keys()], window.chat.rooms.get('lobby').who]);
  await wire.hears(
    { t: 'pres', r: 'lobby', in: [{ u: 'ann' }, { u: 'bob' }], out: [], who: 2 },
    { t: 'pres', r: 'lobby', in: [{ u: 'zoe' }], out: ['bob'], who: 2 },
  );
  assert.deepEqual(await users(), [['ann', 'zoe'], 2]);
  await wire.closes(1006);
  await wire.passes(1_000);
  await wire.greet({ t: 'joined', r: 'lobby', s: 0, e: 'k3f9', n: 0, who: 1 }, { t: 'live', r: 'lobby', s: 0 });
  await wire.hears({ t: 'pres', r: 'lobby', in: [{ u: 'ann' }], out: [], who: 1 });
  assert.deepEqual(await users(), [['ann'], 1]);
  await wire.hears({ t: 'pres', r: 'lobby', who: 1_200 });
  assert.deepEqual(await users(), [[], 1_200], 'too many for a list');
});

test('a room that is full for now is tried again, one that is closed is not', async (t) => {
  const wire = await Wire.open(t);
  await wire.greet();
  await wire.join({ last: 0 });
  await wire.hears({ t: 'err', r: 'lobby', code: 503, why: 'busy', msg: 'later', wait: 300 });
  await wire.forget();
  await wire.passes(300);
  assert.deepEqual(await wire.sent(), [{ t: 'join', r: 'lobby', last: 0 }]);
  await wire.hears({ t: 'err', r: 'lobby', code: 403, why: 'not-allowed', msg: 'no' });
  assert.deepEqual(await wire.told(), [['refused', 'not-allowed']]);
  await wire.passes(60_000);
  assert.ok((await wire.sent()).every((frame) => frame.t === 'ping'));
});

test('what is no frame is reported and does not stop the rest', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(0);
  await wire.page.evaluate(
    (line) => window.sockets.at(-1).onmessage({ data: `not json\n\n${line}` }),
    JSON.stringify(msg(1)),
  );
  await wire.hears({ t: 'weather', r: 'lobby' }, { t: 'msg', r: 'left-long-ago', s: 9, d: 'x' }, msg(2));
  assert.deepEqual(await wire.told(), [
    ['problem', 'bad-json'],
    ['message', 1],
    ['message', 2],
  ]);
});

test('edits, removals and reactions wait their turn with what is said, and go again under their ids', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.page.evaluate(() => {
    window.acks = [];
    const { chat } = window;
    for (const answer of [
      chat.publish('lobby', 'hi', { id: 'a', re: 3 }),
      chat.edit('lobby', 4, 'new', { id: 'b' }),
      chat.react('lobby', 4, '+1', true, { id: 'c' }),
      chat.react('lobby', 4, '+1', false, { id: 'd' }),
      chat.remove('lobby', 4, { id: 'e' }),
    ])
      answer.then((ack) => window.acks.push([ack.id, ack.s]));
  });
  const frames = [
    { t: 'pub', r: 'lobby', d: 'hi', id: 'a', re: 3 },
    { t: 'edit', r: 'lobby', of: 4, d: 'new', id: 'b' },
    { t: 'react', r: 'lobby', of: 4, k: '+1', id: 'c' },
    { t: 'react', r: 'lobby', of: 4, k: '+1', off: true, id: 'd' },
    { t: 'del', r: 'lobby', of: 4, id: 'e' },
  ];
  const number = () => wire.page.evaluate(() => window.sockets.at(-1).sent.at(-1).i);
  for (const [n, frame] of frames.entries()) {
    const i = await number();
    assert.deepEqual(await wire.sent(), [frame], 'one at a time');
    if (n === 2) {
      await wire.closes(1006);
      await wire.passes(1_000);
      await wire.greet({ t: 'joined', r: 'lobby', s: 7, e: 'k3f9', n: 2, who: 1 });
      assert.deepEqual((await wire.sent()).at(-1), frame, 'the same again');
    }
    await wire.hears({ t: 'ack', r: 'lobby', s: 6 + n, i, id: frame.id, ts: 1 });
  }
  assert.deepEqual(await wire.page.evaluate(() => window.acks), [
    ['a', 6],
    ['b', 7],
    ['c', 8],
    ['d', 9],
    ['e', 10],
  ]);
});

test('how far entries were taken and read is said, thinned out, and said again after a cut', async (t) => {
  const can = ['read', 'got', 'rooms'];
  const wire = await Wire.open(t);
  const back = async (s, ...frames) => {
    await wire.page.evaluate(() => window.sockets.at(-1).open());
    await wire.hears({ ...WELCOME, can });
    const joined = { t: 'joined', r: 'lobby', s, e: 'k3f9', n: frames.length, who: 1 };
    await wire.hears(joined, ...frames, { t: 'live', r: 'lobby', s });
  };
  await wire.join({ last: 0 });
  await back(5);
  assert.deepEqual((await wire.sent()).slice(1), [{ t: 'got', r: 'lobby', s: 5 }], 'at the end of the replay');
  await wire.hears(msg(6), msg(7));
  await wire.page.evaluate(() => [6, 7, 6].forEach((s) => window.chat.read('lobby', s)));
  assert.deepEqual(await wire.sent(), [{ t: 'read', r: 'lobby', s: 6 }], 'the first at once');
  await wire.passes(500);
  assert.deepEqual(await wire.sent(), [
    { t: 'got', r: 'lobby', s: 7 },
    { t: 'read', r: 'lobby', s: 7 },
  ]);
  await wire.passes(5_000);
  assert.deepEqual(await wire.sent(), [], 'and no more');
  await wire.closes(1006);
  await wire.page.evaluate(() => window.chat.read('lobby', 8));
  await wire.passes(1_000);
  await back(8, msg(8));
  assert.deepEqual((await wire.sent()).slice(1), [
    { t: 'got', r: 'lobby', s: 7 },
    { t: 'read', r: 'lobby', s: 8 },
  ]);
  await wire.passes(500);
  assert.deepEqual(await wire.sent(), [{ t: 'got', r: 'lobby', s: 8 }]);
});

test('a server that offers neither is not told', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.hears(msg(6));
  await wire.page.evaluate(() => window.chat.read('lobby', 6));
  await wire.passes(2_000);
  assert.deepEqual(await wire.sent(), []);
});

test('entries are told to whoever folds them, read marks are kept by user', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.page.evaluate(() => {
    window.heard = [];
    for (const name of ['entry', 'edit', 'del', 'react', 'got', 'read'])
      window.chat.on(name, (event) => window.heard.push([name, event.s]));
  });
  await wire.hears(
    { t: 'edit', r: 'lobby', s: 6, u: 'bob', ts: NOON, d: 'new', of: 3 },
    { t: 'react', r: 'lobby', s: 7, u: 'bob', ts: NOON, of: 3, k: '+1' },
    { t: 'del', r: 'lobby', s: 8, u: 'bob', ts: NOON, of: 3 },
    { t: 'msg', r: 'lobby', u: 'bob', ts: NOON, d: 'not kept' },
    { t: 'read', r: 'lobby', s: 7, u: 'bob' },
    { t: 'read', r: 'lobby', s: 6, u: 'bob' },
    { t: 'got', r: 'lobby', s: 8, n: 2, of: 2 },
  );
  assert.deepEqual(await wire.page.evaluate(() => window.heard), [
    ['entry', 6],
    ['edit', 6],
    ['entry', 7],
    ['react', 7],
    ['entry', 8],
    ['del', 8],
    ['read', 7],
    ['read', 6],
    ['got', 8],
  ]);
  assert.deepEqual(await wire.page.evaluate(() => [...window.chat.rooms.get('lobby').reads]), [['bob', 7]]);
});

test('a place that means nothing to the server any more is told as a new log', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.closes(1006);
  await wire.passes(1_000);
  await wire.greet();
  const i = await wire.page.evaluate(() => window.sockets.at(-1).sent.at(-1).i);
  await wire.forget();
  await wire.hears({ t: 'err', r: 'lobby', i, code: 409, why: 'epoch-changed', msg: 'join anew' });
  await wire.passes(0);
  assert.deepEqual(await wire.sent(), [{ t: 'join', r: 'lobby', last: 0 }]);
  await wire.hears({ t: 'joined', r: 'lobby', s: 2, e: 'z81c', n: 0, who: 1 }, { t: 'live', r: 'lobby', s: 2 }, msg(3));
  assert.deepEqual(await wire.details().then((all) => all.map(([name, event]) => [name, event.was ?? event.s])), [
    ['joined', 2],
    ['gap', 'k3f9'],
    ['live', 2],
    ['message', 3],
  ]);
});

test('lists and searches are requests like any other', async (t) => {
  const wire = await Wire.open(t);
  await wire.joinAt(5);
  await wire.page.evaluate(() => {
    window.answers = Promise.all([
      window.chat.list(),
      window.chat.find('lobby', 'paid', { before: 9 }).then((page) => page.list.length),
      window.chat.find('lobby', '').catch(({ code }) => code),
    ]);
  });
  const [list, find, empty] = await wire.page.evaluate(() => window.sockets.at(-1).sent.map((one) => one.i));
  assert.deepEqual(await wire.sent(), [
    { t: 'rooms' },
    { t: 'find', r: 'lobby', q: 'paid', before: 9, n: 20 },
    { t: 'find', r: 'lobby', q: '', n: 20 },
  ]);
  await wire.hears(
    { t: 'page', r: 'lobby', e: 'k3f9', i: find, list: [msg(3)], more: false },
    { t: 'rooms', i: list, list: [{ r: 'lobby', s: 5, read: 4, unread: 1 }] },
    { t: 'err', r: 'lobby', i: empty, code: 400, why: 'bad-json', msg: 'say what to search for' },
  );
  assert.deepEqual(await wire.page.evaluate(() => window.answers), [
    [{ r: 'lobby', s: 5, read: 4, unread: 1 }],
    1,
    400,
  ]);
});
