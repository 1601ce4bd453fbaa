/** A room goes on after the server was stopped or killed: the same lines in old tabs and new ones, and older ones. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

const numbered = (n, from = 1) => Array.from({ length: n }, (_, i) => ({ room: 'lobby', content: `line ${from + i}` }));

/** All that a page shows of its room, without what only concerns its own user. */
const shown = async (one) =>
  (await one.lines()).map(({ s, text, who, edited, gone, quote }) => ({ s, text, who, edited, gone, quote }));

for (const signal of ['SIGTERM', 'SIGKILL']) {
  test(`after ${signal} a fresh tab shows what the old one shows`, async (t) => {
    const { server, person } = await stage(t);
    const [ann, bob] = [await person('ann'), await person('bob')];
    for (const text of ['one', 'two', 'thre', 'four']) {
      await ann.says(text);
      await bob.hears(text);
    }
    await ann.does('Edit', 'thre');
    await ann.says('three');
    await bob.does('React with +1', 'one');
    await bob.does('Reply', 'two');
    await bob.says('two indeed');
    await ann.does('Delete', 'four');
    await ann.page.click('.tools >> text=Delete it?');
    for (const one of [ann, bob]) {
      await one.hears('This message was deleted');
      await one.hears('two indeed');
      await one.hears('three');
      await one.seesReactions('one', [['+1', 1, one === bob]]);
    }
    const before = await shown(ann);
    const epoch = await ann.page.textContent('#st-epoch');
    await server.end(signal);
    await ann.isWithout();
    await ann.says('said to nobody');
    await server.run();
    await ann.isSent('said to nobody');
    await bob.hears('said to nobody');
    const zoe = await person('zoe');
    await zoe.hears('said to nobody');
    for (const one of [ann, bob, zoe]) {
      const after = await shown(one);
      assert.deepEqual(after.slice(0, -1), before, `${one.name} sees the same`);
      assert.deepEqual(
        [after.at(-1).text, after.at(-1).s],
        ['said to nobody', before.at(-1).s + 2],
        'behind the removal',
      );
      assert.equal(
        (await one.lines()).some((line) => line.note),
        false,
        'and nothing is called missing',
      );
      await one.seesReactions('one', [['+1', 1, one === bob]]);
      assert.equal(await one.page.textContent('#st-epoch').then((now) => now !== 'none'), true);
      one.isWithoutFault();
    }
    assert.ok(epoch !== 'none');
    // What was there before can still be changed, and everybody sees it.
    await ann.does('Edit', 'one');
    await ann.says('number one');
    for (const one of [ann, bob, zoe]) await one.hears('number one');
  });
}

test('older lines than the server has in memory come on scroll, also after a restart', async (t) => {
  const { server, person } = await stage(t, { 'rooms.history': '20' });
  await server.push(numbered(130));
  await server.end('SIGKILL');
  await server.run();
  await server.push(numbered(50, 131));
  const ann = await person('ann');
  await ann.hears('line 180');
  while ((await ann.lines())[0].text !== 'line 1') {
    const first = (await ann.lines())[0].s;
    await ann.page.$eval('#scroll', (box) => (box.scrollTop = 0));
    await ann.page.waitForFunction((s) => Number(document.querySelector('#lines [data-s]').dataset.s) < s, first);
  }
  assert.deepEqual(
    await ann.texts(),
    numbered(180).map((line) => line.content),
  );
  await ann.sees('#start', 'The beginning of lobby');
  ann.isWithoutFault();
});

test('who was cut off for longer than memory lasts misses nothing', async (t) => {
  const { server, person, cable } = await stage(t, { 'rooms.history': '20' });
  const line = await cable();
  const ann = await person('ann', { url: line.url });
  await ann.says('line 0');
  await ann.isSent('line 0');
  line.cut();
  await ann.isWithout();
  await server.push(numbered(300));
  await line.mend();
  await ann.hears('line 300');
  assert.deepEqual(await ann.texts(), ['line 0', ...numbered(300).map((one) => one.content)]);
});

test('whoever comes when, and pages how, has the same view, byte for byte, over two restarts', async (t) => {
  const hall = await stage(t, { 'limits.messages_per_second': '1000' });
  const { server } = hall;
  /** A page with a client and its view of the lobby. */
  const reader = async (user, last) => {
    const page = await hall.page();
    await page.evaluate(
      async ([name, n]) => {
        const { Roomcast, RoomView } = await import('/roomcast.js');
        const [chat, view] = [new Roomcast({ user: name }), new RoomView()];
        Object.assign(window, { chat, view });
        const room = chat.join('lobby', { last: n });
        window.room = room;
        room.on('entry', (entry) => view.add(entry));
        await new Promise((resolve) => room.on('live', resolve));
      },
      [user, last],
    );
    return page;
  };
  /** Everybody waits until all have the same last place. */
  const together = async (pages) => {
    const heads = await Promise.all(
      pages.map((page) => page.evaluate(() => window.chat.idle().then(() => window.room.s))),
    );
    for (const page of pages)
      await page.waitForFunction((s) => window.room.state === 'live' && window.room.s >= s, Math.max(...heads));
  };
  /** Says, changes, removes and reacts at random, the same for the same seed. */
  const acts = (page, seed) =>
    page.evaluate(async (start) => {
      let state = start;
      const roll = (n) => (state = (state * 48_271) % 2_147_483_647) % n;
      const { chat, view, room } = window;
      // An acknowledgement may come before the entry, and who acts on what he does not see yet is refused.
      const shown = ({ s }) =>
        new Promise((resolve) => {
          const end = room.on('entry', () => room.s >= s && (end(), resolve()));
          if (!(room.s < s)) resolve(end());
        });
      for (let n = 0; n < 40; n += 1) {
        const any = view.messages.filter((m) => !m.gone);
        const mine = any.filter((m) => m.u === chat.user);
        const what = mine.length === 0 ? 0 : roll(10);
        const [target, other] = [mine[roll(mine.length || 1)], any[roll(any.length || 1)]];
        const act = () => {
          if (what < 4) return chat.publish('lobby', `${chat.user} ${n}`, { re: roll(2) ? other?.s : undefined });
          if (what < 6) return chat.edit('lobby', target.s, { text: `${chat.user} edit ${n}` });
          if (what < 7) return chat.remove('lobby', target.s);
          // Two may reach for the same message: who comes second is told that it is gone.
          const k = ['+1', 'heart'][roll(2)];
          return chat.react('lobby', other.s, k, roll(3) > 0).catch(({ why }) => why === 'no-entry' && { s: 0 });
        };
        await shown(await act());
      }
    }, seed);
  const [ann, bob] = [await reader('ann', 0), await reader('bob', 0)];
  await Promise.all([acts(ann, 11), acts(bob, 23)]);
  await server.end('SIGKILL');
  await server.run();
  await together([ann, bob]);
  const late = await reader('late', 500);
  await Promise.all([acts(ann, 31), acts(bob, 47)]);
  await server.end('SIGTERM');
  await server.run();
  await together([ann, bob, late]);
  const paged = await reader('paged', 0);
  await Promise.all([acts(ann, 59), acts(bob, 61)]);
  await together([ann, bob, late, paged]);
  await paged.evaluate(async () => {
    let before = window.room.s + 1;
    for (let n = 3; before > 1; n += 4) {
      const { list } = await window.chat.log('lobby', { before, n });
      for (const entry of list) window.view.add(entry);
      before = list[0].s;
    }
  });
  const after = await reader('after', 500);
  await together([ann, bob, late, paged, after]);
  const views = await Promise.all(
    [ann, bob, late, paged, after].map((page) => page.evaluate(() => JSON.stringify(window.view))),
  );
  const { messages } = JSON.parse(views[0]);
  assert.ok(messages.some((m) => m.edited) && messages.some((m) => m.gone) && messages.some((m) => m.reactions.length));
  assert.ok(messages.length > 60, `${messages.length} messages`);
  for (const [i, who] of ['bob', 'late', 'paged', 'after'].entries()) assert.equal(views[i + 1], views[0], who);
});

test('a day stands above its first line', async (t) => {
  const { server, person } = await stage(t);
  const day = 86_400_000;
  await server.push(numbered(4));
  const ann = await person('ann', {
    before: async (page) => {
      // The server's clock cannot be turned, so the lines are on their way: two of them were said on other days.
      await page.routeWebSocket(/\/v1\/ws/, (socket) => {
        const far = socket.connectToServer();
        far.onMessage((text) => {
          const frames = text
            .split('\n')
            .filter(Boolean)
            .map((line) => JSON.parse(line));
          for (const one of frames) if (one.t === 'msg' && one.s < 3) one.ts -= (3 - one.s) * 2 * day;
          socket.send(frames.map((one) => JSON.stringify(one)).join('\n'));
        });
      });
    },
  });
  await ann.hears('line 4');
  const days = await ann.page.$$eval('#lines .line', (rows) => rows.map((row) => row.dataset.day ?? null));
  const name = (ago) =>
    new Intl.DateTimeFormat('en-US', { weekday: 'long', day: 'numeric', month: 'long' }).format(Date.now() - ago);
  assert.deepEqual(days, [name(4 * day), name(2 * day), 'Today', null]);
});

test('one who was too slow is told, and can have what he missed', async (t) => {
  const { server, person } = await stage(t);
  await server.push(numbered(3));
  const ann = await person('ann', {
    before: async (page) => {
      // What a server does to a reader who may fall behind (`slow_reader = "gap"`), at a place that is known.
      await page.routeWebSocket(/\/v1\/ws/, (socket) => {
        const far = socket.connectToServer();
        far.onMessage((text) => {
          for (const line of text.split('\n').filter(Boolean)) {
            const frame = JSON.parse(line);
            if (frame.t === 'msg' && frame.s === 8)
              socket.send(JSON.stringify({ t: 'gap', r: 'lobby', missing: [4, 7], why: 'slow' }));
            if (frame.t !== 'msg' || frame.s < 4 || frame.s > 7) socket.send(line);
          }
        });
      });
    },
  });
  await ann.hears('line 3');
  await server.push(numbered(7, 4));
  await ann.hears('line 10');
  const lines = await ann.lines();
  assert.deepEqual(
    lines.map((one) => (one.note ? 'note' : one.s)),
    [1, 2, 3, 'note', 8, 9, 10],
  );
  assert.match(lines[3].text, /^You were too slow for 4 messages\./);
  await ann.page.click('.note button');
  await ann.hears('line 7');
  assert.deepEqual(
    (await ann.lines()).map((one) => (one.note ? one.text : one.s)),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
});

test('what was taken back leaves the screen, and what comes instead is shown', async (t) => {
  const { server, person } = await stage(t);
  await server.push(numbered(5));
  let say;
  const ann = await person('ann', {
    before: async (page) => {
      // Only a crash in the wrong moment makes a server say this; here a page hears it of a place that it knows.
      await page.routeWebSocket(/\/v1\/ws/, (socket) => {
        const far = socket.connectToServer();
        say = (frame) => socket.send(JSON.stringify(frame));
        far.onMessage((text) => socket.send(text));
      });
    },
  });
  await ann.hears('line 5');
  const e = await ann.page.textContent('#st-epoch');
  say({ t: 'msg', r: 'lobby', s: 6, id: 'x', u: 'bob', ts: Date.now(), d: 'never kept' });
  await ann.hears('never kept');
  say({ t: 'edit', r: 'lobby', s: 7, u: 'bob', ts: Date.now(), of: 5, d: 'never changed' });
  await ann.hears('never changed');
  say({ t: 'rewind', r: 'lobby', s: 5, e });
  await ann.hears('line 5');
  await server.push(numbered(1, 6));
  await ann.hears('line 6');
  assert.deepEqual(
    (await ann.lines()).map((one) => [one.s, one.text, one.edited]),
    numbered(6).map((one, i) => [i + 1, one.content, false]),
  );
});
