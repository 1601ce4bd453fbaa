/** roomcast.js as others use it: imported into a page of their own, without the demo around it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { BINARY } from '../stage/server.js';
import { stage } from '../stage/theatre.js';

const SECRET = 'a secret of at least thirty-two bytes';

/** A page with a client in it, as `window.chat`, and what it told in `window.told`. */
async function client(hall, options, url) {
  const page = await hall.page(url);
  await page.evaluate(async (given) => {
    const { Roomcast } = await import('/roomcast.js');
    const chat = new Roomcast(given);
    Object.assign(window, { chat, told: [], states: [] });
    chat.on('state', (state) => window.states.push(state));
    for (const name of ['message', 'gap', 'refused', 'problem', 'held', 'presence']) {
      chat.on(name, (event) => window.told.push({ name, ...event, why: event.why }));
    }
  }, options);
  return page;
}

const live = (page) => page.waitForFunction(() => window.chat.state.state === 'live');
const inRoom = (page, room, join) =>
  page.evaluate(
    ([name, options]) =>
      new Promise((resolve) => {
        window.chat.join(name, options).on('live', () => resolve());
      }),
    [room, join],
  );
const publish = (page, room, data, options) =>
  page.evaluate(
    ([r, d, more]) =>
      window.chat
        .publish(r, d, more)
        .catch(({ name, code, why, room: where, id }) => ({ name, code, why, room: where, id })),
    [room, data, options],
  );

test('sixty publishes at once are kept in order, though the server allows fewer a second', async (t) => {
  const hall = await stage(t, { 'limits.messages_per_second': '20' });
  const page = await client(hall, { user: 'ann' });
  await inRoom(page, 'lobby');
  const offsets = await page.evaluate(async () => {
    const acks = await Promise.all(Array.from({ length: 60 }, (_, i) => window.chat.publish('lobby', i + 1)));
    return acks.map((ack) => ack.s);
  });
  assert.deepEqual(
    offsets,
    offsets.map((_, i) => i + 1),
  );
  await page.waitForFunction(() => window.told.filter((one) => one.name === 'message').length === 60);
  const said = await page.evaluate(() =>
    window.told.filter((one) => one.name === 'message').map((one) => [one.s, one.d]),
  );
  assert.deepEqual(
    said,
    said.map((_, i) => [i + 1, i + 1]),
  );
  assert.ok(
    await page.evaluate(() => window.told.some((one) => one.name === 'held' && one.why === 'rate')),
    'the server did slow us down',
  );
});

test('the same id again is the same line', async (t) => {
  const page = await client(await stage(t), { user: 'ann' });
  await inRoom(page, 'lobby');
  const first = await publish(page, 'lobby', 'paid', { id: 'order-17' });
  const again = await publish(page, 'lobby', 'paid', { id: 'order-17' });
  assert.deepEqual([first.s, first.dup, first.id], [1, false, 'order-17']);
  assert.deepEqual([again.s, again.dup, again.ts], [1, true, first.ts]);
});

test('a refusal is an error with the words of the server, and the next line goes on', async (t) => {
  const page = await client(await stage(t), { user: 'ann' });
  await inRoom(page, 'lobby');
  const elsewhere = await publish(page, 'elsewhere', 'hello?');
  assert.deepEqual(
    [elsewhere.name, elsewhere.code, elsewhere.why, elsewhere.room],
    ['RoomcastError', 403, 'not-joined', 'elsewhere'],
  );
  const badId = await publish(page, 'lobby', 'x', { id: 'i'.repeat(65) });
  assert.deepEqual([badId.name, badId.code], ['RoomcastError', 400]);
  const big = await publish(page, 'lobby', 'x'.repeat(70_000));
  assert.deepEqual([big.code, big.why], [413, 'too-big']);
  const huge = await publish(page, 'lobby', 'x'.repeat(400_000));
  assert.deepEqual([huge.code, huge.why], [413, 'too-big'], 'and the connection was not lost over it');
  assert.equal((await publish(page, 'lobby', 'fine')).s, 1);
  assert.deepEqual(await page.evaluate(() => window.states.map((one) => one.state)), ['connecting', 'live']);
});

test('what waits for a connection is bounded, and says so', async (t) => {
  const hall = await stage(t);
  const line = await hall.cable();
  const page = await client(hall, { user: 'ann', queue: 3 }, line.url);
  await inRoom(page, 'lobby');
  line.cut();
  await page.waitForFunction(() => window.chat.state.state === 'waiting');
  await page.evaluate(() => (window.sent = [1, 2, 3].map((n) => window.chat.publish('lobby', n))));
  const fourth = await publish(page, 'lobby', 4);
  assert.equal(fourth.why, 'queue-full');
  await line.mend();
  assert.deepEqual(await page.evaluate(async () => (await Promise.all(window.sent)).map((ack) => ack.s)), [1, 2, 3]);
});

test('one who reads quietly is not seen', async (t) => {
  const hall = await stage(t);
  const quiet = await client(hall, { user: 'owl' });
  await inRoom(quiet, 'lobby', { quiet: true });
  const ann = await client(hall, { user: 'ann' });
  await inRoom(ann, 'lobby');
  const here = await ann.evaluate(() => window.chat.who('lobby'));
  assert.deepEqual(
    here.list.map((one) => one.u),
    ['ann'],
  );
  await publish(ann, 'lobby', 'am I alone?');
  await quiet.waitForFunction(() => window.told.some((one) => one.d === 'am I alone?'));
});

test('history is read in pages, both ways', async (t) => {
  const hall = await stage(t);
  await hall.server.push(Array.from({ length: 30 }, (_, i) => ({ room: 'lobby', content: i + 1 })));
  const page = await client(hall, { user: 'ann' });
  await inRoom(page, 'lobby', { last: 0 });
  const log = (span) =>
    page.evaluate(async (given) => {
      const { list, more } = await window.chat.log('lobby', given);
      return [list.map((one) => one.s), more];
    }, span);
  assert.deepEqual(await log({ before: 31, n: 3 }), [[28, 29, 30], true]);
  assert.deepEqual(await log({ before: 3, n: 3 }), [[1, 2], false]);
  assert.deepEqual(await log({ after: 27, n: 2 }), [[28, 29], true]);
  assert.deepEqual(await log({ after: 28, n: 9 }), [[29, 30], false]);
});

test('with a token it says hello, and comes back to all its rooms in one line', async (t) => {
  const hall = await stage(t, { 'auth.secret': SECRET });
  const token = execFileSync(BINARY, ['token', '--user', 'ann', '--rooms', 'lobby,tea'], {
    cwd: hall.server.folder,
    env: { ...process.env, ROOMCAST__AUTH__SECRET: SECRET },
  })
    .toString()
    .trim();
  const line = await hall.cable();
  const page = await client(hall, { token }, line.url);
  for (const room of ['lobby', 'tea']) await inRoom(page, room);
  const { s } = await publish(page, 'lobby', 'before');
  line.cut();
  await page.waitForFunction(() => window.chat.state.state === 'waiting');
  let sent;
  page.on('websocket', (socket) => {
    sent = []; // what goes over the newest connection
    socket.on('framesent', ({ payload }) => sent.push(JSON.parse(payload)));
  });
  await hall.server.push([
    { room: 'lobby', content: 'meanwhile' },
    { room: 'tea', content: 'tea is ready' },
  ]);
  await line.mend();
  await page.waitForFunction(() => window.told.some((one) => one.d === 'tea is ready'));
  await page.waitForFunction(() => window.told.some((one) => one.d === 'meanwhile'));
  assert.equal(await page.evaluate(() => window.chat.user), 'ann');
  const [hello, ...others] = sent;
  assert.deepEqual(
    [hello.t, hello.token, Object.keys(hello.rooms), hello.rooms.lobby.since],
    ['hello', token, ['lobby', 'tea'], s],
  );
  assert.ok(
    others.every((frame) => frame.t !== 'join'),
    'no room is joined a second time',
  );
  const told = await page.evaluate(() => window.told.filter((one) => one.name === 'message').map((one) => one.d));
  assert.deepEqual([...told].sort(), ['before', 'meanwhile', 'tea is ready']);
});

test('a bad token ends it for good, and what waits is refused', async (t) => {
  const hall = await stage(t, { 'auth.secret': SECRET });
  const page = await hall.page();
  const told = await page.evaluate(async () => {
    const { Roomcast } = await import('/roomcast.js');
    const chat = new Roomcast({ token: 'no.such.token' });
    const waiting = chat.publish('lobby', 'hello?').catch((error) => error);
    await new Promise((resolve) => chat.on('state', ({ state }) => state === 'stopped' && resolve()));
    const late = await chat.publish('lobby', 'still?').catch((error) => error);
    return [chat.state.code, chat.state.why, (await waiting).code, late.why];
  });
  assert.deepEqual(told, [4001, 'bad-token', 4001, 'stopped']);
});
