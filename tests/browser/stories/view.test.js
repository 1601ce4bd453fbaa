/**
 * RoomView alone, without a browser: whoever was there, came late, or paged back through the log sees the same.
 * A small model of the log stands in for the server; its rules are those of docs/protocol.md.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';

const source = await readFile(join(import.meta.dirname, '../../../static/roomcast.js'), 'utf8');
const { RoomView, Roomcast } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

/** Numbers that are random and the same for the same seed (mulberry32). */
function dice(seed) {
  let state = seed;
  return (sides) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides;
  };
}

/** A room's log: what its readers hear at once, and what is kept for those who come later. */
class Log {
  heard = [];
  kept = [];

  constructor(roll) {
    this.roll = roll;
  }

  append(entry) {
    const s = this.heard.length + 1;
    const whole = {
      t: entry.t,
      r: 'lobby',
      s,
      u: ['ann', 'bob', 'zoe'][this.roll(3)],
      ts: 1_763_820_000_000 + s,
      ...entry,
    };
    this.heard.push(structuredClone(whole));
    this.kept.push(whole);
    if (entry.t === 'edit') this.#amend(entry.of, { d: entry.d, edited: s }, s);
    if (entry.t === 'del') this.#amend(entry.of, { d: null, gone: true }, s);
    return whole;
  }

  /** The message's own line changes, and edits before this one lose theirs. */
  #amend(of, change, s) {
    const { edited, gone, ...line } = this.kept[of - 1];
    this.kept[of - 1] = { ...line, ...change };
    for (const [i, one] of this.kept.entries()) {
      if (one.t === 'edit' && one.of === of && one.s < s) this.kept[i] = { t: 'skip', r: 'lobby', s: i + 1, n: 1 };
    }
  }

  act() {
    const messages = this.kept.filter((one) => one.t === 'msg' && !one.gone);
    const target = messages[this.roll(messages.length)];
    const what = this.roll(10);
    if (!target || what < 4) {
      const re = target && this.roll(3) === 0 ? target.s : undefined;
      return this.append({ t: 'msg', id: `m-${this.heard.length}`, d: `line ${this.heard.length}`, re });
    }
    if (what < 6) return this.append({ t: 'edit', u: target.u, of: target.s, d: { text: `edit ${this.roll(99)}` } });
    if (what < 7) return this.append({ t: 'del', u: target.u, of: target.s });
    return this.append({
      t: 'react',
      of: target.s,
      k: ['+1', 'heart', '"'][this.roll(3)],
      ...(this.roll(3) ? {} : { off: true }),
    });
  }

  page({ before = Infinity, after = 0, n }) {
    const all = this.kept.filter((one) => one.s < before && one.s > after);
    return (after > 0 ? all.slice(0, n) : all.slice(-n)).map(({ r, ...entry }) => structuredClone(entry));
  }
}

const of = (...runs) => {
  const view = new RoomView();
  for (const entry of runs.flat()) view.add(entry);
  return view;
};

const seeds = Array.from({ length: 150 }, (_, i) => 9252 + i);

test('early, late and paged back are the same, byte for byte', () => {
  let seen = { edited: 0, gone: 0, reactions: 0 };
  for (const seed of seeds) {
    const roll = dice(seed);
    const log = new Log(roll);
    const late = new RoomView();
    const paged = new RoomView();
    const come = 1 + roll(120);
    let from = Infinity;
    for (let n = 1; n <= 160; n += 1) {
      const entry = log.act();
      if (n === come) for (const one of structuredClone(log.kept)) late.add(one);
      if (n > come) late.add(entry);
      if (n < come) continue;
      // One who came at the same time, saw nothing old, and reads back page by page while the room goes on.
      if (n > come) paged.add(entry);
      if (from === Infinity) from = n + 1;
      if (from > 1 && roll(4) === 0) {
        const page = log.page({ before: from, n: 1 + roll(30) });
        for (const one of page) paged.add(one);
        from = page[0].s;
      }
    }
    for (const one of log.page({ before: from, n: 200 })) paged.add(one);
    const early = JSON.stringify(of(log.heard));
    assert.equal(JSON.stringify(late), early, `late, seed ${seed}`);
    assert.equal(JSON.stringify(of(log.kept)), early, `after all, seed ${seed}`);
    assert.equal(JSON.stringify(paged), early, `paged back, seed ${seed}`);
    for (const { edited, gone, reactions } of JSON.parse(early).messages) {
      seen = {
        edited: seen.edited + (edited ? 1 : 0),
        gone: seen.gone + (gone ? 1 : 0),
        reactions: seen.reactions + reactions.length,
      };
    }
  }
  for (const [what, n] of Object.entries(seen)) assert.ok(n > 300, `${n} × ${what} were part of it`);
});

test('neither order nor repeats make a difference', () => {
  for (const seed of seeds) {
    const roll = dice(seed);
    const log = new Log(roll);
    for (let n = 0; n < 120; n += 1) log.act();
    const any = [...log.heard, ...log.kept, ...log.kept];
    for (let i = any.length - 1; i > 0; i -= 1) {
      const j = roll(i + 1);
      [any[i], any[j]] = [any[j], any[i]];
    }
    assert.equal(JSON.stringify(of(any)), JSON.stringify(of(log.heard)), `seed ${seed}`);
  }
});

test('what was forgotten and read back is complete again', () => {
  for (const seed of seeds) {
    const roll = dice(seed);
    const log = new Log(roll);
    const view = new RoomView();
    for (let n = 0; n < 200; n += 1) {
      view.add(log.act());
      if (roll(20) === 0) view.trim(Math.max(1, n - 45 - roll(60)));
    }
    // The window of a reader: the newest messages. The others are read back from there.
    const from = log.heard.length - 40;
    view.trim(from);
    assert.ok(view.messages.every(({ s }) => s >= from));
    assert.deepEqual(
      JSON.parse(JSON.stringify(view.messages)),
      JSON.parse(JSON.stringify(of(log.heard).messages)).filter(({ s }) => s >= from),
    );
    for (let at = from; at > 1;) {
      const page = log.page({ before: at, n: 1 + roll(25) });
      for (const one of page) view.add(one);
      at = page[0].s;
    }
    assert.equal(JSON.stringify(view), JSON.stringify(of(log.heard)), `seed ${seed}`);
    // And a window that lost its end, because the reader went far up.
    view.trim(1, from);
    assert.ok(view.messages.every(({ s }) => s <= from));
    for (const one of log.page({ after: from, n: 999 })) view.add(one);
    assert.equal(JSON.stringify(view), JSON.stringify(of(log.heard)), `seed ${seed}`);
  }
});

test('a message is told when it changes, and is a new one then', () => {
  const view = new RoomView();
  const said = view.add({ t: 'msg', r: 'lobby', s: 1, id: 'a', u: 'ann', ts: 5, d: 'hi', i: 7 });
  assert.deepEqual(JSON.parse(JSON.stringify(said)), { s: 1, id: 'a', u: 'ann', ts: 5, d: 'hi', reactions: [] });
  assert.equal(view.add({ t: 'msg', s: 1, id: 'a', u: 'ann', ts: 5, d: 'hi' }), undefined, 'a repeat changes nothing');
  assert.equal(view.add({ t: 'react', s: 3, u: 'bob', of: 2, k: '+1' }), undefined, 'about a message not seen yet');
  const edited = view.add({ t: 'edit', s: 4, u: 'ann', of: 1, d: 'hello' });
  assert.notEqual(edited, said);
  assert.deepEqual([said.d, edited.d, edited.edited, view.get(1)], ['hi', 'hello', 4, edited]);
  assert.equal(view.add({ t: 'edit', s: 2, u: 'ann', of: 1, d: 'older' }), undefined, 'an older edit comes too late');
  const liked = view.add({ t: 'react', s: 5, u: 'bob', of: 1, k: '+1' });
  view.add({ t: 'react', s: 6, u: 'ann', of: 1, k: '+1' });
  assert.deepEqual(liked.reactions, [{ k: '+1', users: ['bob'] }]);
  assert.deepEqual(view.get(1).reactions, [{ k: '+1', users: ['bob', 'ann'] }]);
  view.add({ t: 'react', s: 7, u: 'bob', of: 1, k: '+1', off: true });
  assert.deepEqual(view.get(1).reactions, [{ k: '+1', users: ['ann'] }]);
  const gone = view.add({ t: 'del', s: 8, u: 'ann', of: 1 });
  assert.deepEqual([gone.d, gone.gone, gone.edited, gone.reactions], [null, true, undefined, []]);
  assert.equal(view.add({ t: 'msg', u: 'ann', d: 'not kept' }), undefined, 'what has no place is no part of it');
  assert.equal(view.add({ t: 'skip', s: 9, n: 2 }), undefined);
  view.clear();
  assert.equal(JSON.stringify(view), '{"messages":[]}');
});

test('a line that was read later has the newest words, though its edit is not here yet', () => {
  const view = new RoomView();
  view.add({ t: 'msg', s: 1, u: 'ann', ts: 5, d: 'one' });
  view.add({ t: 'edit', s: 2, u: 'ann', of: 1, d: 'two' });
  view.add({ t: 'msg', s: 1, u: 'ann', ts: 5, d: 'three', edited: 9 });
  assert.deepEqual([view.get(1).d, view.get(1).edited], ['three', 9]);
  view.add({ t: 'msg', s: 1, u: 'ann', ts: 5, d: 'two', edited: 2 });
  assert.deepEqual([view.get(1).d, view.get(1).edited], ['three', 9], 'an older page comes too late');
  view.add({ t: 'msg', s: 1, u: 'ann', ts: 5, d: null, gone: true });
  view.add({ t: 'msg', s: 1, u: 'ann', ts: 5, d: 'three', edited: 9 });
  assert.deepEqual([view.get(1).d, view.get(1).gone], [null, true]);
});

test('the room of two has one name, sorted as the server sorts', () => {
  for (const [one, other, name] of [
    ['ann', 'bob', '@ann+bob'],
    ['z', 'é', '@z+é'],
    ['\u{1f600}', '\u{ffff}', '@\u{ffff}+\u{1f600}'],
    ['ann', 'anna', '@ann+anna'],
  ]) {
    assert.equal(Roomcast.direct(one, other), name);
    assert.equal(Roomcast.direct(other, one), name);
    const bytes = name
      .slice(1)
      .split('+')
      .map((text) => Buffer.from(text));
    assert.ok(Buffer.compare(...bytes) < 0, 'by bytes');
  }
});
