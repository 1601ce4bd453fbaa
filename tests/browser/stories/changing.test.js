/** What is said can be changed, taken back, reacted to and answered; everybody sees the same, also who comes later. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { stage } from '../stage/theatre.js';

const looks = async (one) =>
  (await one.lines()).map(({ text, edited, gone, quote }) => ({ text, edited, gone, quote: quote ?? null }));

test('an edited message is new for everybody at once, marked, and the same for who comes later', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('wrods of mine');
  await bob.hears('wrods of mine');
  await bob.says('words of bob');
  await ann.hears('words of bob');

  await ann.page.press('#line', 'ArrowUp');
  assert.equal(await ann.page.inputValue('#line'), 'wrods of mine', 'the newest one of her own');
  await ann.sees('#about span', 'Changing your message');
  await ann.page.press('#line', 'Escape');
  assert.equal(await ann.page.inputValue('#line'), '');
  assert.equal(await ann.page.isVisible('#about'), false);

  await ann.page.press('#line', 'ArrowUp');
  await ann.says('words of mine');
  await bob.hears('words of mine');
  await ann.does('Edit', 'words of mine');
  await ann.says('my words');
  for (const one of [ann, bob]) await one.hears('my words');
  const zoe = await person('zoe');
  await zoe.hears('my words');
  const wanted = [
    { text: 'my words', edited: true, gone: false, quote: null },
    { text: 'words of bob', edited: false, gone: false, quote: null },
  ];
  for (const one of [ann, bob, zoe]) {
    assert.deepEqual(await looks(one), wanted);
    one.isWithoutFault();
  }
});

test('a draft waits while an older message is changed', async (t) => {
  const { person } = await stage(t);
  const ann = await person('ann');
  await ann.says('one');
  await ann.isSent('one');
  await ann.page.fill('#line', 'half a thought');
  await ann.does('Edit', 'one');
  assert.equal(await ann.page.inputValue('#line'), 'one');
  await ann.page.fill('#line', 'two');
  await ann.page.press('#line', 'Enter');
  await ann.hears('two');
  assert.equal(await ann.page.inputValue('#line'), 'half a thought');
});

test('a deleted message leaves a tombstone, and its words are nowhere', async (t) => {
  const { server, person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('my pin is 4711');
  await bob.hears('my pin is 4711');
  await ann.page.press('#line', 'ArrowUp');
  await ann.says('my pin is 0815');
  await bob.hears('my pin is 0815');
  await ann.does('Delete', 'my pin is 0815');
  assert.equal((await looks(bob))[0].gone, false, 'one press only asks');
  await ann.page.click('.tools >> text=Delete it?');
  for (const one of [ann, bob]) await one.hears('This message was deleted');
  const zoe = await person('zoe');
  await zoe.hears('This message was deleted');
  for (const one of [ann, bob, zoe]) {
    assert.deepEqual(await looks(one), [{ text: 'This message was deleted', edited: false, gone: true, quote: null }]);
    assert.equal((await one.lines())[0].who, 'ann');
    await one.row('This message was deleted').hover();
    assert.equal(await one.row('This message was deleted').locator('.tools').count(), 0, 'nothing can be done with it');
  }
  const kept = await zoe.page.evaluate(async () => {
    const { Roomcast } = await import('/roomcast.js');
    const chat = new Roomcast({ user: 'zoe' });
    chat.join('lobby', { last: 0 });
    return JSON.stringify((await chat.log('lobby', { after: 0 })).list);
  });
  assert.match(kept, /"gone":true/);
  assert.doesNotMatch(kept, /4711|0815/);
  await server.end('SIGTERM');
});

test('only who said it may change it', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('mine');
  await bob.hears('mine');
  await bob.row('mine').locator('time').hover();
  const offered = await bob
    .row('mine')
    .locator('.tools button')
    .evaluateAll((all) => all.filter((one) => one.offsetParent).map((one) => one.textContent));
  assert.ok(offered.includes('Reply') && offered.includes('👍'), offered.join());
  assert.ok(!offered.includes('Edit') && !offered.includes('Delete'), offered.join());
  await bob.page.press('#line', 'ArrowUp');
  assert.equal(await bob.page.inputValue('#line'), '', 'there is nothing of his to change');
  const { s } = (await bob.lines())[0];
  const refusal = await bob.page.evaluate(async (of) => {
    const { Roomcast } = await import('/roomcast.js');
    const chat = new Roomcast({ user: 'bob' });
    chat.join('lobby');
    return chat.edit('lobby', of, 'his').catch(({ code, why }) => [code, why]);
  }, s);
  assert.deepEqual(refusal, [403, 'not-allowed']);
  assert.deepEqual(await bob.texts(), ['mine']);
});

test('reactions are counted, the own ones marked, and a second press takes them back', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  await ann.says('lunch?');
  await bob.hears('lunch?');
  await bob.does('React with +1', 'lunch?');
  await ann.seesReactions('lunch?', [['+1', 1, false]]);
  await bob.seesReactions('lunch?', [['+1', 1, true]]);
  await ann.row('lunch?').locator('.chip').click();
  await bob.seesReactions('lunch?', [['+1', 2, true]]);
  await ann.does('React with heart', 'lunch?');
  const zoe = await person('zoe');
  for (const [one, wanted] of [
    [
      ann,
      [
        ['+1', 2, true],
        ['heart', 1, true],
      ],
    ],
    [
      bob,
      [
        ['+1', 2, true],
        ['heart', 1, false],
      ],
    ],
    [
      zoe,
      [
        ['+1', 2, false],
        ['heart', 1, false],
      ],
    ],
  ])
    await one.seesReactions('lunch?', wanted);
  assert.equal(await zoe.page.getAttribute('.chip[data-k="+1"]', 'aria-label'), '+1, 2: bob, ann');
  await bob.row('lunch?').locator('.chip[data-k="+1"]').click();
  await bob.seesReactions('lunch?', [
    ['+1', 1, false],
    ['heart', 1, false],
  ]);
  await ann.row('lunch?').locator('.chip[data-k="heart"]').click();
  for (const one of [ann, zoe]) await one.seesReactions('lunch?', [['+1', 1, one === ann]]);
  for (const one of [ann, bob, zoe]) one.isWithoutFault();
});

test('reactions, answers and changes need no mouse', async (t) => {
  const { person } = await stage(t);
  const [ann, bob] = [await person('ann'), await person('bob')];
  for (const text of ['one', 'two', 'three']) await ann.says(text);
  await bob.hears('three');
  const focused = () =>
    bob.page.evaluate(
      () => document.activeElement.querySelector?.('.text')?.textContent ?? document.activeElement.title,
    );
  const keys = bob.page.keyboard;
  await bob.page.focus('#scroll');
  await keys.press('ArrowUp');
  assert.equal(await focused(), 'three');
  await keys.press('ArrowUp');
  assert.equal(await focused(), 'two');
  await keys.press('Enter');
  assert.equal(await focused(), 'React with +1');
  await keys.press('ArrowRight');
  assert.equal(await focused(), 'React with heart');
  await keys.press('Enter');
  await ann.seesReactions('two', [['heart', 1, false]]);
  await bob.seesReactions('two', [['heart', 1, true]]);
  assert.equal(await focused(), 'React with heart', 'the focus stays where it was');
  await bob.row('two').locator('.chip').focus();
  await keys.press('Enter');
  await bob.seesReactions('two', []);
  assert.equal(await focused(), 'two', 'the reaction is gone, its message is not');
  await keys.press('r');
  await bob.sees('#about span', 'Replying to ann: two');
  await keys.type('and three quarters');
  await keys.press('Enter');
  await ann.hears('and three quarters');
  assert.equal((await ann.lines()).at(-1).quote, 'ann: two');
  await bob.isSent('and three quarters');
  await bob.page.focus('#scroll');
  await keys.press('ArrowUp');
  await keys.press('e');
  assert.equal(await bob.page.inputValue('#line'), 'and three quarters');
  await keys.press('Escape');
  await bob.page.focus('#scroll');
  await keys.press('ArrowUp');
  await keys.press('Delete');
  await keys.press('Enter');
  await ann.hears('This message was deleted');
});

test('an answer shows what it answers, and leads there, however far it is', async (t) => {
  const { server, person } = await stage(t);
  const ann = await person('ann');
  await ann.says('who has the key?');
  await ann.isSent('who has the key?');
  await ann.does('Reply', 'who has the key?');
  await ann.sees('#about span', 'Replying to ann: who has the key?');
  await server.push(Array.from({ length: 700 }, (_, i) => ({ room: 'lobby', content: `line ${i + 2}` })));
  await ann.hears('line 701');
  await ann.says('found it');
  await ann.isSent('found it');
  assert.equal(await ann.page.isVisible('#about'), false);

  const zoe = await person('zoe');
  await zoe.page.waitForSelector('.quote:text-is("ann: who has the key?")');
  assert.equal((await zoe.lines())[0].s, 653, 'the question is not among the lines');
  await zoe.page.click('.quote');
  await zoe.hears('who has the key?');
  await zoe.page.waitForFunction(() => document.activeElement.dataset.s === '1');
  const seen = await zoe.row('who has the key?').evaluate((row) => {
    const { top, bottom } = row.getBoundingClientRect();
    const box = document.getElementById('scroll').getBoundingClientRect();
    return top >= box.top && bottom <= box.bottom;
  });
  assert.ok(seen, 'it is on the screen');
  // What is changed meanwhile is seen there too, and so is a reaction given long after.
  await ann.page.press('#line', 'ArrowUp');
  await ann.page.press('#line', 'Escape');
  await ann.page.click('.quote');
  await ann.hears('who has the key?');
  await ann.does('React with done', 'who has the key?');
  await zoe.seesReactions('who has the key?', [['done', 1, false]]);
  await ann.does('Edit', 'who has the key?');
  await ann.says('who had the key?');
  await zoe.hears('who had the key?');
  await zoe.page.click('#latest:visible, #line');
  await zoe.page.keyboard.press('Escape');
  await zoe.hears('found it');
  assert.equal((await zoe.lines()).at(-1).quote, 'ann: who had the key?');
  // Who jumps there later finds the reaction as well, though it stands far below.
  const bob = await person('bob');
  await bob.page.click('.quote');
  await bob.hears('who had the key?');
  await bob.seesReactions('who had the key?', [['done', 1, false]]);
  for (const one of [ann, zoe, bob]) one.isWithoutFault();
});

test('what was changed without a connection is kept once when it is back', async (t) => {
  const { person, cable } = await stage(t);
  const line = await cable();
  const [ann, bob] = [await person('ann', { url: line.url }), await person('bob')];
  for (const text of ['one', 'two']) {
    await ann.says(text);
    await bob.hears(text);
  }
  line.cut();
  await ann.isWithout();
  await ann.page.press('#line', 'ArrowUp');
  await ann.says('two and a half');
  await ann.does('React with +1', 'one');
  await ann.page.waitForSelector('.changing .mark:text-is("saving")');
  await bob.says('meanwhile');
  await bob.isSent('meanwhile');
  await line.mend();
  await ann.page.waitForSelector('.changing', { state: 'detached' });
  for (const one of [ann, bob]) {
    await one.hears('two and a half');
    await one.hears('meanwhile');
    await one.seesReactions('one', [['+1', 1, one === ann]]);
    assert.deepEqual(await one.texts(), ['one', 'two and a half', 'meanwhile']);
    await one.sees('#st-offset', '5');
  }
});

test('a change that is refused says so and changes nothing', async (t) => {
  const { person } = await stage(t);
  const [ann, again] = [await person('ann'), await person('ann')];
  await ann.says('short lived');
  await again.hears('short lived');
  await ann.page.press('#line', 'ArrowUp');
  await again.does('Delete', 'short lived');
  await again.page.click('.tools >> text=Delete it?');
  await ann.hears('This message was deleted');
  await ann.says('too late');
  await ann.page.waitForSelector('#lines .note:has-text("Your change was not kept")');
  assert.deepEqual(
    (await ann.lines()).filter((one) => !one.note).map((one) => one.text),
    ['This message was deleted'],
  );
});
