/** What people do all day: talk, see each other, notice who is writing. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

test('two people talk, and both see the same lines in the same order', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('hello');
  await bob.hears('hello');
  await bob.says('hello ann');
  await ann.hears('hello ann');
  await ann.says('two lines\nin one');
  await bob.hears('two lines\nin one');
  await ann.isSent('two lines\nin one');
  const wanted = [
    [1, 'hello'],
    [2, 'hello ann'],
    [3, 'two lines\nin one'],
  ];
  for (const one of [ann, bob]) {
    assert.deepEqual(
      (await one.lines()).map(({ s, text }) => [s, text]),
      wanted,
    );
    assert.equal(await one.page.textContent('#st-offset'), '3');
    one.isWithoutFault();
  }
});

test('a line of her own is on the page at once, and marked when the server has kept it', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const ann = await person('ann', { url: line.url });
  line.mute({ down: true });
  await ann.says('on its way');
  await ann.hears('on its way');
  assert.equal((await ann.lines())[0].state, 'sending');
  assert.equal(await ann.page.inputValue('#line'), '', 'the composer is free for the next line');
  line.cut();
  await line.mend();
  await ann.isSent('on its way');
});

test('a user is here once, however many tabs she has', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.seesPeople('ann', 'bob');
  const tab = await bob.secondTab();
  await tab.seesPeople('ann', 'bob');
  assert.deepEqual(await ann.people(), ['ann', 'bob']);
  await bob.page.close();
  const zoe = await person('zoe');
  await ann.seesPeople('ann', 'bob', 'zoe'); // bob's other tab keeps him here
  await tab.page.close();
  await ann.seesPeople('ann', 'zoe');
  await zoe.seesPeople('ann', 'zoe');
  await ann.sees('#count', '2');
});

test('typing is shown to the others, and ends with the message', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await bob.page.locator('#line').pressSequentially('well');
  await ann.sees('#typing', 'bob is typing…');
  assert.equal(await bob.page.textContent('#typing'), '', 'nobody is told of himself');
  await bob.page.press('#line', 'Enter');
  await ann.hears('well');
  await ann.sees('#typing', '');
});

test('typing ends when the line is emptied, and when the writer goes', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await bob.page.locator('#line').pressSequentially('x');
  await ann.sees('#typing', 'bob is typing…');
  await bob.page.press('#line', 'Backspace');
  await ann.sees('#typing', '');
  const zoe = await person('zoe');
  await zoe.page.locator('#line').pressSequentially('so');
  await ann.sees('#typing', 'zoe is typing…');
  await zoe.page.close({ runBeforeUnload: false });
  await ann.sees('#typing', '');
});

test('a line in another room makes a dot there, and the room shows it', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob', { room: 'tea' })];
  await ann.page.fill('#join-name', 'tea');
  await ann.page.press('#join-name', 'Enter');
  await ann.sees('#title', 'tea');
  await ann.seesPeople('ann', 'bob');
  await ann.page.click('#rooms a:has-text("lobby")');
  await ann.sees('#title', 'lobby');
  await bob.says('the kettle is on');
  await ann.page.waitForSelector('#rooms li.unread a:has-text("tea")');
  assert.match(await ann.page.title(), /^\(1\) lobby/);
  await ann.page.click('#rooms a:has-text("tea")');
  await ann.hears('the kettle is on');
  await ann.page.waitForSelector('#rooms li:not(.unread) a:has-text("tea")');
  assert.match(ann.page.url(), /#room=tea$/);
});

test('a new name is shown to everybody, and lines go on under it', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('before');
  await bob.hears('before');
  await ann.page.fill('#name', '  Anna   B ');
  await ann.page.press('#name', 'Enter');
  await bob.seesPeople('Anna B', 'bob');
  await ann.isLive();
  await ann.says('after');
  await bob.hears('after');
  assert.deepEqual(
    (await bob.lines()).map(({ who, text }) => [who, text]),
    [
      ['ann', 'before'],
      ['Anna B', 'after'],
    ],
  );
  await ann.page.reload();
  assert.equal(await ann.page.inputValue('#name'), 'Anna B', 'the name is kept for the next visit');
});

test('what a person typed is text and never runs', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('<b>ann</b>'), await person('bob')];
  const attacks = [
    '<img src=x onerror="window.hit = 1">',
    '</script><script>window.hit = 1</script>',
    '<svg/onload=window.hit=1>',
    '{{constructor.constructor("window.hit = 1")()}}',
    'javascript:window.hit=1',
    '\u202egnihton\u202c',
  ];
  for (const attack of attacks) {
    await ann.says(attack);
    await bob.hears(attack);
  }
  assert.deepEqual(await bob.texts(), attacks);
  await bob.seesPeople('<b>ann</b>', 'bob');
  assert.equal((await bob.lines())[0].who, '<b>ann</b>');
  for (const one of [ann, bob]) {
    assert.equal(await one.page.evaluate(() => window.hit), undefined);
    assert.equal(
      await one.page.$$eval('#lines img, #lines script, #lines svg, #lines b, #here b', (all) => all.length),
      0,
    );
    one.isWithoutFault();
  }
  const room = '"><img src=x onerror=window.hit=1>';
  await bob.page.fill('#join-name', room);
  await bob.page.press('#join-name', 'Enter');
  await bob.sees('#title', room);
  assert.equal(await bob.page.$$eval('#rooms img', (all) => all.length), 0);
});

test('a room that may not be joined says why', async (t) => {
  const { person } = await stage(t);
  const ann = await person('ann');
  await ann.page.fill('#join-name', '@bob+zoe');
  await ann.page.press('#join-name', 'Enter');
  await ann.page.waitForSelector('#lines .note:has-text("You cannot join @bob+zoe")');
  await ann.page.click('#rooms a:has-text("lobby")');
  await ann.says('still here');
  await ann.isSent('still here');
});
