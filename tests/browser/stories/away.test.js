/** What nobody wants and everybody has: cut cables, dead connections, restarts. Nothing is lost, nothing doubled. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

/** Waits until both have as many lines with a place in the room; then these very texts, each once, in one order. */
async function agree(people, texts) {
  for (const one of people) {
    await one.page.waitForFunction((n) => document.querySelectorAll('#lines [data-s]').length >= n, texts.length);
  }
  const [first, ...others] = await Promise.all(people.map((one) => one.lines()));
  assert.deepEqual(first.map((line) => line.text).sort(), [...texts].sort(), 'each line once, and nothing else');
  assert.deepEqual(
    first.map((line) => line.s),
    texts.map((_, i) => i + 1),
    'in the order of the room',
  );
  for (const other of others)
    assert.deepEqual(
      other.map((line) => line.text),
      first.map((line) => line.text),
    );
  return first.map((line) => line.text);
}

const inOrder = (all, some) =>
  assert.deepEqual(
    all.filter((text) => some.includes(text)),
    some,
  );

test('lines said on both sides of a cut are all there afterwards, once and in order', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url }), await person('bob')];
  await ann.says('before');
  await bob.hears('before');
  line.cut();
  await ann.isWithout();
  const annSays = ['a1', 'a2', 'a3', 'a4', 'a5'];
  const bobSays = ['b1', 'b2', 'b3'];
  for (const text of annSays) await ann.says(text);
  for (const text of bobSays) {
    await bob.says(text);
    await bob.isSent(text);
  }
  await ann.hears('a5');
  assert.deepEqual(
    (await ann.lines()).slice(1).map((one) => one.state),
    annSays.map(() => 'sending'),
  );
  await ann.page.waitForSelector('#banner:not([hidden])');
  assert.ok(await ann.page.isEnabled('#line'), 'the composer stays usable');
  await line.mend();
  await ann.isLive();
  for (const text of annSays) await ann.isSent(text);
  const all = await agree([ann, bob], ['before', ...annSays, ...bobSays]);
  inOrder(all, annSays);
  inOrder(all, bobSays);
  assert.equal(await ann.page.isVisible('#banner'), false);
  ann.isWithoutFault();
});

test('lines said in another room during a cut make a dot there', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url, room: 'tea' }), await person('bob', { room: 'tea' })];
  await ann.page.goto(`${line.url}/#room=lobby`);
  await ann.sees('#title', 'lobby');
  await ann.seesPeople('ann');
  line.cut();
  await ann.isWithout();
  await bob.says('the kettle is on');
  await bob.isSent('the kettle is on');
  await line.mend();
  await ann.page.waitForSelector('#rooms li.unread a[aria-label="tea, 1 new"]');
});

test('a line whose acknowledgement was lost is not doubled when it is sent again', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url }), await person('bob')];
  line.mute({ down: true });
  await ann.says('only once');
  await bob.hears('only once'); // so the server has it, and ann does not know
  await ann.hears('only once');
  assert.equal((await ann.lines())[0].state, 'sending');
  line.cut();
  await ann.isWithout();
  await bob.says('meanwhile');
  await bob.isSent('meanwhile');
  await line.mend();
  await ann.isSent('only once');
  await ann.says('and on');
  await agree([ann, bob], ['only once', 'meanwhile', 'and on']);
});

test('a cut in a room where nothing was said is not called a loss', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const ann = await person('ann', { url: line.url, room: 'quiet' });
  line.cut();
  await ann.isWithout();
  await line.mend();
  await ann.isLive();
  await ann.says('anybody?');
  await ann.isSent('anybody?');
  await agree([ann], ['anybody?']);
});

test('a short cut passes without a word', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const ann = await person('ann', { url: line.url });
  await ann.page.evaluate(() => {
    window.banners = 0;
    new MutationObserver(() => (window.banners += document.getElementById('banner').hidden ? 0 : 1)).observe(
      document.getElementById('banner'),
      { attributes: true },
    );
    Math.random = () => 0; // the shortest delay
  });
  const back = ann.page.waitForEvent('websocket');
  line.cut();
  await line.mend();
  await back;
  await ann.isLive();
  await ann.says('still calm');
  await ann.isSent('still calm');
  assert.equal(await ann.page.evaluate(() => window.banners), 0);
});

test('a connection that went dumb is noticed and replaced', async (t) => {
  const { person, cable } = await stage(t, { 'limits.ping': '1s' });
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url }), await person('bob')];
  line.mute({ up: true, down: true });
  await ann.says('into the void');
  await bob.says('can you hear me?');
  await ann.isWithout(); // two pings later
  line.cut(); // what was swallowed must not come out of a half-open connection
  await line.mend();
  await ann.isSent('into the void');
  await agree([ann, bob], ['can you hear me?', 'into the void']);
});

for (const signal of ['SIGTERM', 'SIGKILL']) {
  test(`a page comes back by itself after a restart (${signal}), and the log goes on`, async (t) => {
    const { server, person } = await stage(t);
    const [ann, bob] = [await person('ann'), await person('bob')];
    await ann.says('before');
    await bob.hears('before');
    await server.end(signal);
    await ann.isWithout();
    await ann.says('said to nobody');
    await server.run();
    await ann.isLive();
    await ann.isSent('said to nobody');
    await bob.hears('said to nobody');
    for (const one of [ann, bob]) {
      assert.deepEqual(
        (await one.lines()).map((line) => [line.s, line.text, line.note]),
        [
          [1, 'before', false],
          [2, 'said to nobody', false],
        ],
      );
      await one.seesPeople('ann', 'bob');
      one.isWithoutFault();
    }
  });
}

test('a line whose acknowledgement was lost with the server is not doubled', async (t) => {
  const { server, person, cable } = await stage(t);
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url }), await person('bob')];
  line.mute({ down: true });
  await ann.says('only once');
  await bob.hears('only once'); // so it is kept, and ann does not know
  await server.end('SIGKILL');
  await ann.isWithout();
  await line.mend();
  await server.run();
  await ann.isSent('only once');
  await bob.says('and on');
  await agree([ann, bob], ['only once', 'and on']);
});

test('where the server keeps nothing, the page says what is missing after a restart', async (t) => {
  const { server, person } = await stage(t, { 'store.url': 'none' });
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('before');
  await bob.hears('before');
  await server.end('SIGKILL');
  await ann.isWithout();
  await ann.says('said to nobody');
  await server.run();
  for (const one of [ann, bob]) {
    await one.hears('said to nobody');
    await one.page.waitForSelector('#lines .note:has-text("The server began a new log")');
  }
  await ann.isSent('said to nobody');
  const lines = await ann.lines();
  assert.deepEqual(
    lines.map((line) => line.note),
    [false, true, false],
  );
  assert.deepEqual([lines[0].text, lines[2].text, lines[2].s], ['before', 'said to nobody', 1]);
});

test('lines that the server no longer keeps are named', async (t) => {
  const { server, person, cable } = await stage(t, { 'rooms.history': '20', 'store.url': 'none' });
  const line = await cable();
  const ann = await person('ann', { url: line.url });
  await ann.says('line 0');
  await ann.isSent('line 0');
  line.cut();
  await ann.isWithout();
  await server.push(Array.from({ length: 50 }, (_, i) => ({ room: 'lobby', content: `line ${i + 1}` })));
  await line.mend();
  await ann.hears('line 50');
  const lines = await ann.lines();
  const note = lines.find((one) => one.note);
  const named = note?.text.match(/^(\d+) messages are gone: the server no longer keeps/);
  assert.ok(named, `a note says how many are missing: ${note?.text}`);
  assert.equal(lines.indexOf(note), 1, 'at their place');
  const after = lines.filter((one) => one.s > 1).map((one) => one.s);
  assert.equal(after[0], 2 + Number(named[1]), 'the first line after the note is the next one');
  assert.deepEqual(
    after,
    after.map((_, i) => after[0] + i),
  );
  assert.equal(after.at(-1), 51);
});
