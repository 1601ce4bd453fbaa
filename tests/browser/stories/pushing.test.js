/** What a backend does: four lines of PHP, and every page shows it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { freePort } from '../stage/ports.js';
import { stage } from '../stage/theatre.js';

const run = promisify(execFile);
const SCRIPT = join(import.meta.dirname, '../../../examples/php/push.php');
const php = (door, ...words) => run('php', [SCRIPT, ...words], { env: { ...process.env, REDIS_PORT: String(door) } });

test('a push from PHP is on every page, and looks different from what people say', async (t) => {
  const { server, person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('any news?');
  await bob.hears('any news?');
  const { stdout } = await php(server.door, 'lobby', 'Order 17 was paid. Schöne Grüße ✓');
  assert.match(stdout, /^pushed [0-9a-f]{16} into lobby\n$/);
  for (const one of [ann, bob]) {
    await one.hears('Order 17 was paid. Schöne Grüße ✓');
    const [said, pushed] = await one.lines();
    assert.deepEqual([said.pushed, pushed.pushed], [false, true]);
    assert.equal(pushed.s, 2);
    const colours = await one.page.$$eval('#lines > li', (rows) =>
      rows.map((row) => getComputedStyle(row).backgroundColor),
    );
    assert.notEqual(colours[0], colours[1]);
    assert.equal(await one.page.textContent('#lines .pushed .tag'), 'queue');
    one.isWithoutFault();
  }
});

test('a push that names no room is in the default room', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann');
  await php(server.door, 'for everybody');
  await ann.hears('for everybody');
});

test('any JSON is shown: text as text, the rest as it is', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann');
  await server.push([
    { room: 'lobby', content: 'plain' },
    { room: 'lobby', user: 'shop', content: { text: 'with a text', lang: 'en' } },
    { room: 'lobby', type: 'invoice', content: { total: 12.5, paid: true } },
    { room: 'lobby', content: { html: '<img src=x onerror="window.hit = 1">' } },
  ]);
  await ann.hears('{\n  "html": "<img src=x onerror=\\"window.hit = 1\\">"\n}');
  assert.deepEqual(await ann.texts(), [
    'plain',
    'with a text',
    '{\n  "total": 12.5,\n  "paid": true\n}',
    '{\n  "html": "<img src=x onerror=\\"window.hit = 1\\">"\n}',
  ]);
  const lines = await ann.lines();
  assert.equal(lines[1].who, 'queueshop');
  assert.equal(lines[2].who, 'queueinvoicefrom the backend');
  assert.equal(
    await ann.page.$eval('#lines pre', (box) => getComputedStyle(box).fontFamily.includes('monospace')),
    true,
  );
  assert.equal(await ann.page.evaluate(() => window.hit), undefined);
});

test('the example says what to do where nobody listens', async () => {
  const port = await freePort();
  await assert.rejects(php(port, 'lobby', 'hello'), (error) => {
    assert.equal(error.code, 69);
    assert.match(error.stderr, new RegExp(`^push: cannot reach 127\\.0\\.0\\.1:${port} `));
    return true;
  });
  await assert.rejects(
    php(port),
    (error) => error.code === 2 && /usage: php push\.php \[room\] text/.test(error.stderr),
  );
});

test('an empty room shows a newcomer the four lines, ready for this very room', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann', { room: "it's empty" });
  await ann.page.waitForSelector('#empty:not([hidden])');
  const shown = await ann.page.textContent('#empty .php');
  assert.equal(shown.split('\n').length, 4);
  await run('php', ['-r', shown.replace('6380', String(server.door))]);
  await ann.hears('Hello from PHP');
  assert.equal(await ann.page.isVisible('#empty'), false);
});
