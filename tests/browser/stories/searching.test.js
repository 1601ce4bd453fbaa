/** Searching a room: what is found, what is not, and the way to it. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

const searches = async (one, text) => {
  if (!(await one.page.isVisible('#words'))) await one.page.click('#find-button');
  await one.page.fill('#words', text);
  await one.page.press('#words', 'Enter');
};

const found = (one) => one.page.$$eval('#results span', (all) => all.map((row) => row.textContent));

test('messages are found by their words, newest first, and a press leads to them', async (t) => {
  const { server, person } = await stage(t);
  await server.push([
    { room: 'lobby', user: 'shop', content: 'Invoice 17 was paid' },
    { room: 'lobby', user: 'shop', content: { text: 'invoice 18 is open', total: 5 } },
    { room: 'tea', user: 'shop', content: 'an invoice for tea' },
    ...Array.from({ length: 600 }, (_, i) => ({ room: 'lobby', content: `line ${i}` })),
  ]);
  const ann = await person('ann');
  await ann.hears('line 599');
  await searches(ann, 'invoice');
  await ann.sees('#found', '2 found');
  assert.deepEqual(await found(ann), ['invoice 18 is open', 'Invoice 17 was paid']);
  assert.deepEqual(await ann.page.$$eval('#results mark', (all) => all.map((one) => one.textContent)), [
    'invoice',
    'Invoice',
  ]);
  await searches(ann, 'paid invoice');
  await ann.sees('#found', '1 found');
  await ann.page.click('#results button');
  await ann.hears('Invoice 17 was paid');
  await ann.page.waitForFunction(() => document.activeElement.dataset.s === '1');
  // From there the lines go on to the newest one.
  for (let last = 0; last < 602;) {
    last = (await ann.lines()).at(-1).s;
    if (last === 602) break;
    await ann.page.$eval('#scroll', (box) => (box.scrollTop = box.scrollHeight));
    await ann.page.waitForFunction(
      (s) => Number([...document.querySelectorAll('#lines [data-s]')].at(-1).dataset.s) > s,
      last,
    );
  }
  const places = (await ann.lines()).map((one) => one.s);
  assert.deepEqual(
    places,
    places.map((_, i) => places[0] + i),
    'without a hole',
  );
  await searches(ann, 'nowhere');
  await ann.sees('#found', 'Nothing found');
  await ann.page.keyboard.press('Escape');
  assert.equal(await ann.page.isVisible('#find'), false);
  assert.equal(await ann.page.evaluate(() => document.activeElement.id), 'line');
  ann.isWithoutFault();
});

test('many results come in pages', async (t) => {
  const { server, person } = await stage(t);
  await server.push(Array.from({ length: 55 }, (_, i) => ({ room: 'lobby', content: `order ${i + 1} shipped` })));
  const ann = await person('ann');
  await searches(ann, 'shipped');
  await ann.sees('#found', '20 or more found');
  await ann.page.click('#find-more');
  await ann.sees('#found', '40 or more found');
  await ann.page.click('#find-more');
  await ann.sees('#found', '55 found');
  assert.deepEqual(
    await found(ann),
    Array.from({ length: 55 }, (_, i) => `order ${55 - i} shipped`),
  );
  assert.equal(await ann.page.isVisible('#find-more'), false);
});

test('a changed message is found by its new words, a deleted one by none', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  for (const text of ['walnut', 'hazelnut']) {
    await ann.says(text);
    await bob.hears(text);
  }
  await ann.does('Edit', 'walnut');
  await ann.says('almond');
  await ann.does('Delete', 'hazelnut');
  await ann.page.click('.tools >> text=Delete it?');
  await bob.hears('This message was deleted');
  await bob.hears('almond');
  for (const [words, said] of [
    ['almond', '1 found'],
    ['walnut', 'Nothing found'],
    ['hazelnut', 'Nothing found'],
  ]) {
    await searches(bob, words);
    await bob.sees('#found', said);
  }
});

test('what is searched for and what is found are text', async (t) => {
  const { person } = await stage(t);
  const ann = await person('ann');
  const attack = 'needle <img src=x onerror="window.hit = 1"> (needle)';
  await ann.says(attack);
  await ann.isSent(attack);
  await searches(ann, 'needle');
  await ann.sees('#found', '1 found');
  assert.deepEqual(await found(ann), [attack]);
  for (const words of ['"', '(', '[a-', '\\', 'NEAR(', '*', '<b>'])
    await searches(ann, words).then(() =>
      ann.page.waitForFunction(() => document.getElementById('found').textContent !== 'Searching'),
    );
  assert.equal(await ann.page.evaluate(() => window.hit), undefined);
  assert.equal(await ann.page.$$eval('#results img, #results b b', (all) => all.length), 0);
  ann.isWithoutFault();
});

test('the panel fits a phone and closes when it has led somewhere', async (t) => {
  const { server, person } = await stage(t);
  await server.push([{ room: 'lobby', content: 'the only needle' }]);
  const zoe = await person('zoe', { viewport: { width: 320, height: 600 }, isMobile: true, hasTouch: true });
  await searches(zoe, 'needle');
  await zoe.sees('#found', '1 found');
  assert.equal(await zoe.page.evaluate(() => document.documentElement.scrollWidth), 320);
  await zoe.page.tap('#results button');
  await zoe.page.waitForSelector('#find', { state: 'hidden' });
  await zoe.page.waitForFunction(() => document.activeElement.dataset.s === '1');
});
