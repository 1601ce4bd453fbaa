/** Who has read what: badges, the line above what is new, marks on own messages, people who write to each other. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

/** Lets a page believe that it is (not) looked at. */
const looksAway = (one, away) =>
  one.page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, away);

const goesTo = async (one, room) => {
  await one.page.goto(`${one.url}/#room=${encodeURIComponent(room)}`);
  await one.page.waitForFunction((name) => document.getElementById('st-room').textContent === name, room);
};

/** Waits until the server has heard how far a user has read a room. */
const hasRead = (one, room, s) =>
  one.page.waitForFunction(
    async ([name, wanted, user]) => {
      const { Roomcast } = await import('/roomcast.js');
      window.asking ??= new Roomcast({ user });
      return (await window.asking.list()).some((row) => row.r === name && row.read >= wanted);
    },
    [room, s, one.name],
  );

test('unread messages are counted, and reading them in one tab clears the other', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob', { room: 'tea' })];
  await goesTo(ann, 'tea');
  await ann.seesPeople('ann', 'bob');
  await goesTo(ann, 'lobby');
  const tab = await ann.secondTab();
  await tab.seesBadge('tea', 0);
  for (const text of ['the kettle is on', 'milk?', 'come!']) await bob.says(text);
  for (const one of [ann, tab]) {
    await one.seesBadge('tea', 3);
    await one.page.waitForSelector('#side li.unread a[aria-label="tea, 3 new"]');
    assert.equal(await one.page.title(), '(3) lobby · Roomcast');
  }
  await bob.page.press('#line', 'ArrowUp');
  await bob.says('come now!');
  await bob.hears('come now!');
  await tab.enters('tea');
  await tab.hears('come now!');
  await ann.seesBadge('tea', 0);
  assert.equal(await ann.page.textContent('#title'), 'lobby', 'she did nothing in this tab');
  assert.equal(await ann.page.title(), 'lobby · Roomcast');
  await bob.says('cold by now');
  await bob.isSent('cold by now');
  await tab.hears('cold by now');
  await ann.enters('tea');
  await ann.hears('cold by now');
});

test('a line stands above what is new, until the room is left', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann', { room: 'tea' }), await person('bob', { room: 'tea' })];
  await bob.says('old');
  await ann.hears('old');
  await hasRead(ann, 'tea', 1);
  await goesTo(ann, 'lobby');
  await bob.says('new 1');
  await bob.says('new 2');
  await ann.seesBadge('tea', 2);
  await ann.enters('tea');
  await ann.hears('new 2');
  const around = await ann.page.$eval('.fresh', (row) => [
    row.previousElementSibling.querySelector('.text').textContent,
    row.textContent,
    row.nextElementSibling.querySelector('.text').textContent,
  ]);
  assert.deepEqual(around, ['old', 'New messages', 'new 1']);
  await ann.seesBadge('tea', 0);
  await bob.says('new 3');
  await ann.hears('new 3');
  assert.equal(await ann.page.$$eval('.fresh', (all) => all.length), 1, 'what comes while she looks is not new');
  await ann.enters('lobby');
  await ann.enters('tea');
  await ann.hears('new 3');
  assert.equal(await ann.page.$$eval('.fresh', (all) => all.length), 0);
});

test('what comes while nobody looks is not read, and marked as new', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await bob.says('are you there?');
  await bob.seesMark('are you there?', 'read');
  await looksAway(ann, true);
  await bob.says('hello?');
  await ann.hears('hello?');
  await bob.seesMark('hello?', 'delivered');
  assert.equal(await ann.page.title(), '(1) lobby · Roomcast');
  await looksAway(ann, false);
  await bob.seesMark('hello?', 'read');
  await ann.seesBadge('lobby', 0);
  assert.equal(
    await ann.page.$eval('.fresh', (row) => row.nextElementSibling.querySelector('.text').textContent),
    'hello?',
  );
  // The same for one who reads further up.
  for (let i = 1; i <= 40; i += 1) await bob.says(`line ${i}`);
  await bob.seesMark('line 40', 'read');
  await ann.page.$eval('#scroll', (box) => (box.scrollTop = 0));
  await ann.page.waitForFunction(() => document.getElementById('scroll').scrollTop === 0);
  await bob.says('down here');
  await ann.page.waitForSelector('#latest:not([hidden])');
  await bob.seesMark('down here', 'delivered');
  await ann.seesBadge('lobby', 1);
  await ann.page.click('#latest');
  await bob.seesMark('down here', 'read');
  await ann.seesBadge('lobby', 0);
});

test('how far she has read is known in another browser, and after a restart', async (t) => {
  const { server, person } = await stage(t);
  const [ann, bob] = [await person('ann', { room: 'tea' }), await person('bob', { room: 'tea' })];
  await bob.says('one');
  await ann.hears('one');
  await hasRead(ann, 'tea', 1);
  await ann.page.close();
  const many = 70;
  await server.push(Array.from({ length: many }, (_, i) => ({ room: 'tea', user: 'shop', content: `order ${i + 1}` })));
  await server.end('SIGKILL');
  await server.run();
  const phone = await person('ann');
  await phone.seesBadge('tea', many);
  await phone.enters('tea');
  await phone.hears(`order ${many}`);
  await phone.seesBadge('tea', 0);
  // The first new one is further up than what has been loaded.
  await phone.page.click('#unseen');
  await phone.hears('order 1');
  await phone.page.waitForFunction(() => document.activeElement.dataset.s === '2');
  assert.equal(
    await phone.page.$eval('.fresh', (row) => row.nextElementSibling.querySelector('.text').textContent),
    'order 1',
  );
  phone.isWithoutFault();
});

test('a message of her own is on its way, kept, delivered and read', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const ann = await person('ann', { url: line.url });
  line.mute({ down: true });
  await ann.says('alone');
  await ann.hears('alone');
  assert.equal((await ann.lines())[0].state, 'sending');
  line.cut();
  await line.mend();
  await ann.seesMark('alone', 'kept');
  const bob = await person('bob');
  await bob.hears('alone');
  await ann.seesMark('alone', 'read');
  await looksAway(bob, true);
  await ann.says('not alone');
  await ann.seesMark('not alone', 'delivered');
  assert.match(await ann.row('not alone').locator('.mark').getAttribute('title'), /^delivered to 2 of 2 sessions/);
  await looksAway(bob, false);
  await ann.seesMark('not alone', 'read');
  assert.equal(await ann.row('not alone').locator('.mark').getAttribute('title'), 'read by bob');
  assert.equal(await bob.row('not alone').locator('.mark').textContent(), '', 'only on her own');
});

test('a press on a name opens the room of the two, and the other one is told', async (t) => {
  const { server, person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await bob.page.click('#here button:text-is("ann")');
  await bob.sees('#title', 'ann');
  await bob.sees('#st-room', '@ann+bob');
  await bob.says('between us');
  await bob.isSent('between us');
  await looksAway(ann, false); // as when she comes back to her page: the list of rooms is asked for again
  await ann.seesBadge('bob', 1);
  assert.equal(await ann.page.$eval('#direct li', (row) => row.textContent.includes('bob')), true);
  await ann.enters('bob');
  await ann.hears('between us');
  await ann.says('yes');
  await bob.hears('yes');
  await bob.seesMark('between us', 'read');
  await ann.enters('lobby');
  await bob.says('and now?');
  await ann.seesBadge('bob', 1); // from here on at once
  const zoe = await person('zoe', { room: '@ann+bob' });
  await zoe.page.waitForSelector('#lines .note:has-text("You cannot join @ann+bob")');
  assert.equal((await zoe.texts()).includes('between us'), false);
  await server.end('SIGTERM');
  await server.run();
  const phone = await person('ann');
  await phone.seesBadge('bob', 1);
  await phone.enters('bob');
  await phone.hears('and now?');
  assert.deepEqual(await phone.texts(), ['between us', 'yes', 'and now?']);
});

test('who is called by name is told, and led to the place', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann', { room: 'tea' }), await person('bob')];
  await goesTo(ann, 'lobby');
  await ann.seesPeople('ann', 'bob');
  await goesTo(ann, 'tea');
  await ann.seesBadge('Mentions', 0);
  await bob.says('mail me at x@ann.example');
  await bob.says('@ann, the kettle is on');
  await ann.seesBadge('Mentions', 1);
  await bob.isSent('@ann, the kettle is on');
  assert.deepEqual(
    await bob.page.$$eval('#lines .at', (all) => all.map((one) => [one.textContent, one.classList.contains('me')])),
    [['@ann', false]],
  );
  await ann.enters('Mentions');
  await ann.hears('@ann, the kettle is on');
  await ann.seesBadge('Mentions', 0);
  assert.equal(await ann.page.isVisible('#say'), false, 'nobody writes here');
  await ann.page.click('#lines .quote:text-is("in lobby")');
  await ann.sees('#title', 'lobby');
  await ann.page.waitForFunction(
    () => document.activeElement.querySelector('.text')?.textContent === '@ann, the kettle is on',
  );
  assert.equal(await ann.page.textContent('#lines .at.me'), '@ann');
  ann.isWithoutFault();
});

test('a room that was left stays away, and comes back when it is opened', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann', { room: 'tea' }), await person('bob', { room: 'tea' })];
  await bob.says('one');
  await ann.hears('one');
  await hasRead(ann, 'tea', 1);
  await goesTo(ann, 'lobby');
  await ann.page.hover('#rooms li:has-text("tea")');
  await ann.page.click('#rooms button[aria-label="Leave tea"]');
  await ann.page.waitForSelector('#rooms li:has-text("tea")', { state: 'detached' });
  await bob.seesPeople('bob');
  await ann.page.reload();
  await ann.isLive();
  await ann.seesBadge('Mentions', 0); // the list of rooms is known
  assert.equal(await ann.page.$$eval('#rooms li', (rows) => rows.length), 1);
  await goesTo(ann, 'tea');
  await ann.hears('one');
  await bob.seesPeople('ann', 'bob');
});

test('a server without a store offers no more than it has', async (t) => {
  const { person } = await stage(t, { 'store.url': 'none' });
  const [ann, bob] = [await person('ann'), await person('bob')];
  await bob.says('lunch?');
  await ann.hears('lunch?');
  assert.equal(await ann.page.isVisible('#find-button'), false);
  assert.equal(await ann.page.$$eval('#inbox li', (rows) => rows.length), 0);
  await ann.does('React with +1', 'lunch?');
  await bob.seesReactions('lunch?', [['+1', 1, false]]);
  await goesTo(ann, 'tea');
  await bob.says('then not');
  await ann.seesBadge('lobby', 1);
  await ann.enters('lobby');
  await ann.seesBadge('lobby', 0);
  for (const one of [ann, bob]) one.isWithoutFault();
});
