/** Where no WebSocket gets through, and where no event stream does either: the same talk, nothing lost, and back up. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import { until } from '../stage/ports.js';
import { stage } from '../stage/theatre.js';

/** A network that lets some kinds of connections through and others not. The page's `let_through` opens it. */
const block = (...kinds) => (page) =>
  page.addInitScript((blocked) => {
    const real = { WebSocket: window.WebSocket, EventSource: window.EventSource };
    class Refused {
      readyState = 0;
      constructor() {
        setTimeout(() => {
          this.readyState = 2;
          this.onerror?.({});
          this.onclose?.({ code: 1006, reason: '' });
        });
      }
      close() {}
    }
    for (const kind of blocked) window[kind] = Refused;
    window.let_through = (kind) => (window[kind] = real[kind]);
  }, kinds);

async function usesWire(person, wire) {
  await person.isLive();
  await person.sees('#st-wire', wire);
}

for (const [wire, kinds] of [
  ['SSE', ['WebSocket']],
  ['poll', ['WebSocket', 'EventSource']],
]) {
  test(`people talk by ${wire} where nothing better gets through`, async (t) => {
    const { person, cable } = await stage(t);
    const line = await cable();
    const bob = await person('bob');
    const ann = await person('ann', { url: line.url, before: block(...kinds) });
    await usesWire(ann, wire);
    await usesWire(bob, 'WebSocket');
    await ann.seesPeople('ann', 'bob');
    await ann.says('hi bob');
    await ann.isSent('hi bob');
    await bob.hears('hi bob');
    await bob.says('hi ann');
    await ann.hears('hi ann');
    // What is said while she is away comes when she is back, each once and in order.
    line.cut();
    await ann.isWithout();
    for (let n = 0; n < 5; n += 1) await bob.says(`while away ${n}`);
    await bob.isSent('while away 4');
    await ann.says('from the train');
    await line.mend();
    await ann.page.evaluate(() => window.dispatchEvent(new Event('online'))); // she need not wait for the delay
    await usesWire(ann, wire);
    await ann.hears('while away 4');
    await bob.hears('from the train');
    await ann.isSent('from the train');
    const own = (await ann.lines()).filter(({ s, note }) => s > 0 && !note).map(({ s, text }) => [s, text]);
    const others = (await bob.lines()).filter(({ s, note }) => s > 0 && !note).map(({ s, text }) => [s, text]);
    assert.deepEqual(own, others);
    assert.equal(new Set(own.map(([s]) => s)).size, 8);
    // Edits, reactions and removals go the same way.
    await ann.does('Edit', 'from the train');
    await ann.says('from a tunnel');
    await bob.hears('from a tunnel');
    ann.isWithoutFault();
    bob.isWithoutFault();
  });
}

test('from polls it climbs to an event stream, and from there to a WebSocket', async (t) => {
  const { person } = await stage(t);
  const prepare = async (page) => {
    await block('WebSocket', 'EventSource')(page);
    await page.clock.install();
  };
  const ann = await person('ann', { before: prepare });
  await usesWire(ann, 'poll');
  await ann.says('one');
  await ann.isSent('one');
  for (const [kind, wire] of [
    ['EventSource', 'SSE'],
    ['WebSocket', 'WebSocket'],
  ]) {
    await ann.page.evaluate((name) => void window.let_through(name), kind);
    await until(`she uses ${wire}`, async () => {
      // It looks again after half a minute at first, and after ten at the latest.
      await ann.page.clock.fastForward(60_000);
      return (await ann.page.textContent('#st-wire')) === wire;
    });
    await ann.isLive();
    await ann.says(`by ${wire}`);
    await ann.isSent(`by ${wire}`);
  }
  assert.deepEqual(await ann.texts(), ['one', 'by SSE', 'by WebSocket']);
  ann.isWithoutFault();
});

test('many rooms, requests, marks and refusals work over each kind of connection', async (t) => {
  const { page } = await stage(t);
  for (const wire of ['sse', 'poll']) {
    const tab = await page();
    const told = await tab.evaluate(async (kind) => {
      const { Roomcast } = await import('/roomcast.js');
      const chat = new Roomcast({ user: `ann-${kind}`, wires: [kind] });
      const entries = [];
      const refused = [];
      chat.on('entry', ({ r, s, t, d }) => entries.push([r, s, t, d]));
      chat.on('refused', (error) => refused.push([error.room, error.code]));
      const rooms = Array.from({ length: 12 }, (_, n) => `${kind} room, ${n}`);
      for (const room of rooms) chat.join(room, { last: 0 });
      chat.join('@eve');
      const acks = await Promise.all(rooms.map((room, n) => chat.publish(room, n)));
      await chat.edit(rooms[3], 1, 'changed');
      const { list } = await chat.log(rooms[3], { n: 5 });
      const wrong = await chat.publish('@eve', 'x').catch((error) => [error.code, error.why]);
      await new Promise((done) => {
        const look = () => entries.length === 13 && refused.length === 1 && done();
        chat.on('entry', look);
        chat.on('refused', look);
        look();
      });
      const users = [...chat.rooms.get(rooms[0]).users.keys()];
      chat.leave(rooms[0]);
      const state = [chat.wire, chat.state.state];
      chat.close();
      return { acks: acks.map(({ s }) => s), list: list.map(({ t: type }) => type), wrong, entries, refused, users, state };
    }, wire);
    assert.deepEqual(told.acks, Array(12).fill(1));
    assert.deepEqual(told.list, ['msg', 'edit']);
    assert.deepEqual(told.wrong, [403, 'not-allowed']);
    assert.deepEqual(told.refused, [['@eve', 403]]);
    assert.deepEqual(told.users, [`ann-${wire}`]);
    assert.deepEqual(told.state, [wire, 'live']);
    // Who hears of the message after its edit hears the new words at once.
    const ofRoom3 = told.entries.filter(([room]) => room.endsWith(' 3')).map(([, s, type]) => [s, type]);
    assert.deepEqual(ofRoom3, [
      [1, 'msg'],
      [2, 'edit'],
    ]);
  }
});

test('who may not come in is told so over each kind, and does not knock for ever', async (t) => {
  const { page } = await stage(t, { 'demo.enabled': 'off', 'auth.secret': 'a secret of at least thirty-two bytes' });
  for (const wire of ['sse', 'poll']) {
    const tab = await page();
    const state = await tab.evaluate(async (kind) => {
      const { Roomcast } = await import('/roomcast.js');
      const chat = new Roomcast({ token: 'nonsense', wires: [kind] });
      return new Promise((done) => chat.on('state', (it) => it.state === 'stopped' && done(it)));
    }, wire);
    assert.deepEqual([state.code, state.why], [401, 'bad-token']);
  }
});

test('what docs/http.md gives to pages works as it stands there', async (t) => {
  const text = await readFile(new URL('../../../docs/http.md', import.meta.url), 'utf8');
  const blocks = [...text.matchAll(/```js\n([^]*?)```/g)].map(([, block]) => block);
  assert.equal(blocks.length, 3);
  const [stream, say, poll] = blocks.map((block) => `void (async () => { ${block} })()`);
  const { page } = await stage(t);
  const tab = await page();
  const printed = [];
  tab.on('console', (line) => line.type() === 'log' && printed.push(line.text()));
  await tab.evaluate(stream);
  await tab.evaluate(poll);
  await tab.evaluate(say);
  const times = (line) => printed.filter((one) => one === line).length;
  await until('the page is told', () => times('ack') === 1 && times('ann hello from a page') === 2);
});
