/** The page itself: history, floods, keyboard, small screens, and nothing from elsewhere. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

const numbered = (n, room = 'lobby') => Array.from({ length: n }, (_, i) => ({ room, content: `line ${i + 1}` }));

test('older lines come on scroll, in order, and the line under the eye stays', async (t) => {
  const { server, person } = await stage(t);
  await server.push(numbered(200));
  const ann = await person('ann');
  await ann.hears('line 200');
  assert.equal((await ann.lines())[0].text, 'line 151');
  const top = await ann.page.$eval('#scroll', (box) => box.scrollHeight - box.clientHeight - box.scrollTop);
  assert.ok(top <= 1, 'a room opens at its newest line');
  const moved = await ann.page.evaluate(async () => {
    const box = document.getElementById('scroll');
    const list = document.getElementById('lines');
    const row = list.querySelector('[data-s="151"]');
    const grown = new Promise((resolve) =>
      new MutationObserver(() => requestAnimationFrame(resolve)).observe(list, { childList: true }),
    );
    box.scrollTop = 100;
    const before = row.getBoundingClientRect().top;
    await grown;
    return row.getBoundingClientRect().top - before;
  });
  // The row loses its heading and its day, now that lines stand before it; it must not jump by the new page.
  assert.ok(Math.abs(moved) < 80, `the line moved by ${moved} px`);
  while ((await ann.lines())[0].text !== 'line 1') {
    const first = (await ann.lines())[0].s;
    await ann.page.$eval('#scroll', (box) => (box.scrollTop = 0));
    await ann.page.waitForFunction((s) => Number(document.querySelector('#lines [data-s]').dataset.s) < s, first);
  }
  assert.deepEqual(
    await ann.texts(),
    numbered(200).map((line) => line.content),
  );
  await ann.sees('#start', 'The beginning of lobby');
});

test('a flood does not freeze the page, and it keeps a bounded number of rows', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann');
  const pushed = server.push(numbered(10_000));
  await ann.page.fill('#line', 'typed in the flood'); // the page answers meanwhile
  await pushed;
  await ann.page.waitForFunction(() => document.getElementById('st-offset').textContent === '10000', null, {
    timeout: 60_000,
  });
  const lines = await ann.lines();
  assert.equal(lines.length, 500);
  assert.deepEqual(
    lines.map((line) => line.s),
    lines.map((_, i) => 9501 + i),
  );
  await ann.page.press('#line', 'Enter');
  await ann.isSent('typed in the flood');
});

test('a reader far up is left in peace, and finds the newest line with one key', async (t) => {
  const { server, person } = await stage(t);
  await server.push(numbered(100));
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.hears('line 100');
  await ann.page.$eval('#scroll', (box) => {
    box.scrollTop = 400;
    return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  });
  const place = await ann.page.$eval('#scroll', (box) => box.scrollHeight - box.scrollTop);
  await bob.says('new');
  await ann.page.waitForSelector('#latest:not([hidden])');
  await ann.hears('new');
  const now = await ann.page.$eval('#scroll', (box) => [
    box.scrollHeight - box.scrollTop,
    box.scrollHeight - box.clientHeight - box.scrollTop,
  ]);
  assert.ok(now[0] >= place && now[1] > 40, 'the page did not jump to the end');
  await ann.page.keyboard.press('Escape');
  await ann.page.waitForFunction(() => {
    const box = document.getElementById('scroll');
    return box.scrollHeight - box.clientHeight - box.scrollTop < 2;
  });
  assert.equal(await ann.page.isVisible('#latest'), false);
});

test('everything can be done with the keyboard alone', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  const keys = ann.page.keyboard;
  assert.equal(
    await ann.page.evaluate(() => document.activeElement.id),
    'line',
    'the page opens with the composer in focus',
  );
  await keys.type('first');
  await keys.press('Shift+Enter');
  await keys.type('second');
  await keys.press('Enter');
  await bob.hears('first\nsecond');
  await bob.sees('#news', 'ann: first\nsecond'); // what a screen reader is told
  assert.equal(await bob.page.getAttribute('#news', 'aria-live'), 'polite');

  const reached = new Map();
  for (let i = 0; i < 30; i += 1) {
    await keys.press('Tab');
    const [what, ring, label] = await ann.page.evaluate(() => {
      const one = document.activeElement;
      const name = one.labels?.[0]?.textContent || one.ariaLabel || one.textContent.trim();
      return [one.id || `${one.closest('[id]')?.id} ${one.tagName}`, getComputedStyle(one).outlineStyle, name];
    });
    if (what !== 'undefined BODY') reached.set(what, [ring, label]);
  }
  for (const what of [
    'rooms A',
    'join-name',
    'join BUTTON',
    'name',
    'me BUTTON',
    'share',
    'scroll',
    'line',
    'say BUTTON',
    'people SUMMARY',
  ]) {
    assert.ok(reached.has(what), `${what} can be reached with Tab; reached: ${[...reached.keys()].join(', ')}`);
  }
  for (const [what, [ring, label]] of reached) {
    assert.notEqual(ring, 'none', `${what} shows its focus`);
    assert.ok(label, `${what} has a name`);
  }

  await ann.page.focus('#join-name');
  await keys.type('tea');
  await keys.press('Enter');
  await ann.sees('#title', 'tea');
  assert.equal(await ann.page.evaluate(() => document.activeElement.id), 'line');
  await keys.press('Alt+ArrowUp');
  await ann.sees('#title', 'lobby');
  await keys.press('Control+ArrowDown');
  await ann.sees('#title', 'tea');
  await ann.page.focus('#share');
  await keys.press('Escape');
  assert.equal(await ann.page.evaluate(() => document.activeElement.id), 'line');
});

test('a draft stays with its room', async (t) => {
  const { person } = await stage(t);
  const ann = await person('ann');
  await ann.page.fill('#line', 'half a thought');
  await ann.page.goto(`${ann.url}/#room=tea`);
  await ann.sees('#title', 'tea');
  assert.equal(await ann.page.inputValue('#line'), '');
  await ann.page.keyboard.press('Alt+ArrowUp');
  await ann.sees('#title', 'lobby');
  assert.equal(await ann.page.inputValue('#line'), 'half a thought');
});

for (const width of [360, 320])
  test(`it fits a phone of ${width} px: no sideways scroll, panels open and close`, async (t) => {
    const { person } = await stage(t);
    const zoe = await person('zoe', { viewport: { width, height: 640 }, isMobile: true, hasTouch: true });
    const fits = async (when) => {
      const [wide, room] = await zoe.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= room && room === width, `${when}: ${wide} px in ${room}`);
      const inner = await zoe.page.$eval('#scroll', (box) => box.scrollWidth - box.clientWidth);
      assert.equal(inner, 0, `${when}: the lines scroll sideways by ${inner} px`);
    };
    await fits('an empty room');
    const long = `https://example.test/${'x'.repeat(400)}`;
    await zoe.says(long);
    await zoe.isSent(long);
    await fits('a very long word');
    await zoe.page.tap('#side-button');
    await zoe.page.waitForSelector('#name:visible');
    await fits('the rooms are open');
    await zoe.page.fill('#join-name', 'a-rather-long-room-name-that-does-not-fit-in-one-line-of-a-phone');
    await zoe.page.tap('#join button');
    await zoe.page.waitForSelector('#name', { state: 'hidden' });
    await fits('a long room name');
    await zoe.page.tap('#people-button');
    await zoe.page.waitForSelector('#here:visible');
    await zoe.page.keyboard.press('Escape');
    await zoe.page.waitForSelector('#here', { state: 'hidden' });
    zoe.isWithoutFault();
  });

test('light and dark follow the system, with text that can be read in both', async (t) => {
  const { person } = await stage(t);
  const back = async (one) => {
    const shades = await one.page.evaluate(() => {
      const { backgroundColor, color } = getComputedStyle(document.body);
      return [backgroundColor, color].map((text) =>
        text
          .match(/[\d.]+/g)
          .slice(0, 3)
          .map(Number),
      );
    });
    const bright = ([r, g, b]) => {
      const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
      return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const [paper, ink] = shades.map(bright);
    return { paper, contrast: (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05) };
  };
  const light = await back(await person('ann', { colorScheme: 'light' }));
  const dark = await back(await person('bob', { colorScheme: 'dark' }));
  assert.ok(light.paper > 0.8 && dark.paper < 0.05);
  for (const { contrast } of [light, dark]) assert.ok(contrast > 7, `contrast ${contrast.toFixed(1)}`);
});

test('nothing comes from another host, and the page is small', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann');
  await ann.says('hello');
  await ann.isSent('hello');
  const paths = ann.requests.map((text) => new URL(text)).filter((url) => url.protocol !== 'data:');
  for (const url of paths) assert.equal(url.host, `127.0.0.1:${server.port}`, String(url));
  const files = [...new Set(paths.filter((url) => url.protocol === 'http:').map((url) => url.pathname))];
  const parts = ['/', '/chat.js', '/find.js', '/lines.js', '/roomcast.js', '/style.css', '/timeline.js', '/tools.js'];
  assert.deepEqual(files.sort(), parts);
  const sizes = await Promise.all(
    parts.map(async (path) => (await (await fetch(server.url + path)).arrayBuffer()).byteLength),
  );
  const whole = sizes.reduce((sum, size) => sum + size);
  assert.ok(whole < 110_000, `page and library are ${sizes.join(' + ')} = ${whole} bytes`);
  const answer = await fetch(server.url);
  assert.match(answer.headers.get('content-security-policy') ?? '', /default-src 'self'/);
  ann.isWithoutFault();
});
