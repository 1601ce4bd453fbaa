/**
 * The demo page: draws what roomcast.js tells and passes on what is typed. Each room has a bounded window of
 * lines; `paint` makes the list show the window of the open room. Whatever a person wrote goes in as text.
 */
import { Roomcast } from '/roomcast.js';

const KEEP = 500; // lines in the window of a room; older ones come back on scroll
const PAGE = 50;
const ROOMS_MAX = 50;
const DEFAULT_ROOM = 'lobby';
const GROUP_MS = 5 * 60_000; // lines of one person this close together share one heading
const CALM_MS = 1_000; // shorter cuts are not worth a word

const $ = (id) => document.getElementById(id);
const el = (tag, name, ...inside) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  return node;
};
const stored = (key) => {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  } // storage can be forbidden
};
const store = (key, value) => {
  try {
    localStorage.setItem(key, value);
  } catch {
    /* then the next visit begins anew */
  }
};
// At most 32 characters, so at most the 128 bytes that the server takes; no control or half characters.
const cleanName = (text) =>
  [
    ...text
      .normalize('NFC')
      .replace(/[\p{C}\s]+/gu, ' ')
      .trim(),
  ]
    .slice(0, 32)
    .join('');
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });

const views = new Map(); // room name: its window, its unsent lines, its draft
let here; // the view on the screen
let stick = true; // the reader is at the newest line
let planned = false;

let name = cleanName(stored('roomcast.name') ?? '') || `guest-${Math.random().toString(36).slice(2, 6)}`;
store('roomcast.name', name);
const chat = new Roomcast({ user: name });

// ---- rooms

function open(roomName) {
  let view = views.get(roomName);
  if (!view) {
    const room = chat.join(roomName, { last: PAGE });
    view = { room, lines: [], waiting: new Map(), from: null, to: 0, tail: true, older: true, unread: 0, draft: '' };
    views.set(roomName, view);
    rememberRooms();
  }
  return view;
}

function show(roomName) {
  if (here) here.draft = $('line').value;
  here = open(roomName);
  here.unread = 0;
  stick = true;
  $('line').value = here.draft;
  $('line').placeholder = roomName.length > 24 ? 'Say something' : `Say something in ${roomName}`;
  $('title').textContent = $('st-room').textContent = roomName;
  for (const box of document.querySelectorAll('.php')) box.textContent = phpLines(roomName);
  $('lines').replaceChildren();
  panel(null);
  drawRooms();
  drawPeople();
  drawTyping();
  fit();
  paint();
}

function roomInHash() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get('room')?.normalize('NFC');
  return wanted || here?.room.name || stored('roomcast.room') || DEFAULT_ROOM;
}

function go(roomName) {
  location.hash = `room=${encodeURIComponent(roomName)}`;
  store('roomcast.room', roomName);
}

function leave(view) {
  if (view.waiting.size > 0) return note(view, 'Lines of yours wait here. Leave when they are sent.');
  const names = [...views.keys()];
  views.delete(view.room.name);
  chat.leave(view.room.name);
  rememberRooms();
  if (view === here) go(names[names.indexOf(view.room.name) - 1] ?? names[1]);
  else drawRooms();
}

function rememberRooms() {
  store('roomcast.rooms', JSON.stringify([...views.keys()].slice(-ROOMS_MAX)));
}

function drawRooms() {
  const rows = [...views.values()].map((view) => {
    const label = view.room.name;
    const link = el('a', '', el('span', '', label), el('i', 'dot'));
    link.href = `#room=${encodeURIComponent(label)}`;
    if (view === here) link.ariaCurrent = 'page';
    const row = el('li', view.unread ? 'unread' : '', link);
    if (view.unread) link.ariaLabel = `${label}, ${view.unread} new`;
    if (views.size > 1) {
      const out = el('button', '', '×');
      out.title = out.ariaLabel = `Leave ${label}`;
      out.onclick = () => leave(view);
      row.append(out);
    }
    return row;
  });
  $('rooms').replaceChildren(...rows);
  const others = [...views.values()].reduce((sum, view) => sum + view.unread, 0);
  $('side-button').classList.toggle('unread', others > 0);
  document.title = `${others ? `(${others}) ` : ''}${here.room.name} · Roomcast`;
}

function phpLines(roomName) {
  const quoted = roomName.replace(/[\\']/g, '\\$&');
  return `$redis = new Redis();
$redis->connect('127.0.0.1', 6380);
$line = ['type' => 'message', 'room' => '${quoted}', 'content' => 'Hello from PHP'];
$redis->lPush('message_queue', json_encode($line));`;
}

// ---- lines

function asLine(message, room) {
  const own = message.u === chat.user;
  return { ...message, own, state: own ? 'sent' : undefined, why: undefined, e: room.epoch };
}

function heard(message, room) {
  const view = views.get(room.name);
  const mine = message.u === chat.user;
  const line = (mine && view.waiting.get(message.id)) || {};
  if (mine) view.waiting.delete(message.id);
  Object.assign(line, asLine(message, room));
  add(view, line);
  if (mine || !view.begun) return;
  if (view === here) $('news').textContent = `${message.u ?? message.via ?? ''}: ${words(message.d).slice(0, 300)}`;
  if (view === here && !document.hidden) return;
  view.unread += 1;
  drawRooms();
}

/** Puts a line at the end of the window. A reader far up keeps what he reads: then the end is loaded on scroll. */
function add(view, line) {
  const reading = view === here && !stick;
  if (view.tail && reading && view.lines.length >= KEEP) view.tail = false;
  if (view.tail) {
    view.lines.push(line);
    if (line.s) view.from ??= line.s;
    if (line.s) view.to = line.s;
    if (view.lines.length > KEEP) trimTop(view);
  }
  if (reading) $('latest').hidden = false;
  plan();
}

function trimTop(view) {
  view.lines.splice(0, view.lines.length - KEEP);
  const first = view.lines.find((line) => line.s);
  view.older = first?.e === view.room.epoch;
  view.from = first?.s ?? view.from;
}

function note(view, text) {
  add(view, { note: text });
}

function missed({ all, was, from, to }, room) {
  const view = views.get(room.name);
  if (!all) return note(view, hole(from, to));
  const sawNothing = view.to === 0; // an empty room that nobody is in may end and begin anew
  if (!view.tail) Object.assign(view, { lines: [], tail: true });
  Object.assign(view, { older: false, to: 0 });
  if (!sawNothing)
    note(
      view,
      `The server began a new log (epoch ${was} became ${room.epoch}): lines said while you were away are not kept.`,
    );
}

function hole(from, to) {
  return `${from === to ? `Line ${from} is` : `Lines ${from} to ${to} are`} missing: the server no longer keeps what was said there.`;
}

function takenBack({ s }, room) {
  const view = views.get(room.name);
  view.lines = view.lines.filter((line) => !(line.s > s && line.e === room.epoch));
  view.to = Math.min(view.to, s);
  plan();
}

// ---- history

/** Loads a page before or after the window, one at a time. A window replaced meanwhile has no use for it. */
async function load(view, side) {
  if (view.loading || view.room.state !== 'live') return;
  view.loading = true;
  const { room, lines } = view;
  try {
    const span = side === 'before' ? { before: view.from ?? room.s + 1 } : { after: view.to };
    const page = await chat.log(room.name, { ...span, n: PAGE });
    if (view.lines !== lines) return;
    const known = page.e === room.epoch;
    place(view, side, known ? page.list.sort((a, b) => a.s - b.s) : [], known && page.more === true);
  } catch (error) {
    if (side === 'before') view.older = false;
    view.why = `Older lines cannot be shown: ${error.message}`;
  } finally {
    view.loading = false;
    plan();
  }
}

function place(view, side, list, more) {
  const { room } = view;
  const lines = list.filter((entry) => entry.t === 'msg').map((entry) => asLine(entry, room));
  if (side === 'before') {
    view.lines.unshift(...lines);
    view.older = more && list.length > 0;
    view.from = list[0]?.s ?? view.from;
    if (view.lines.length > KEEP) {
      view.lines.length = KEEP;
      view.tail = false;
      view.to = view.lines.findLast((line) => line.s).s;
    }
  } else {
    if (list[0]?.s > view.to + 1) view.lines.push({ note: hole(view.to + 1, list[0].s - 1) });
    view.lines.push(...lines.filter((line) => line.s > view.to));
    view.to = Math.max(view.to, list.at(-1)?.s ?? 0);
    view.tail = !more && view.to >= room.s; // else more was said while the page was on its way
    if (view.lines.length > KEEP) trimTop(view);
  }
}

/** Back to the newest line: from the window if it reaches so far, else a fresh one. */
function latest() {
  if (!here.tail) {
    const to = Math.max(0, here.room.s - PAGE);
    Object.assign(here, { lines: [], from: to + 1, to, older: true, loading: false });
    load(here, 'after');
  }
  stick = true;
  $('latest').hidden = true;
  plan();
}

function scrolled() {
  const box = $('scroll');
  const below = box.scrollHeight - box.scrollTop - box.clientHeight;
  stick = below < 40 && here.tail;
  if (stick) $('latest').hidden = true;
  if (!stick && box.scrollTop < 300 && here.older) load(here, 'before');
  if (below < 300 && !here.tail) load(here, 'after');
}

// ---- drawing

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    paint();
  });
}

/** Makes the list show the window and the unsent lines. The line under the reader's eye stays where it is. */
function paint() {
  const { room } = here;
  const box = $('scroll');
  const list = $('lines');
  const lines = [...here.lines, ...here.waiting.values()];
  const rows = new Set(lines.map((line) => (line.row ??= draw(line))));
  const eye = stick
    ? null
    : [...list.children].find((row) => rows.has(row) && row.offsetTop + row.offsetHeight > box.scrollTop);
  const eyeTop = eye?.offsetTop;
  for (const row of [...list.children]) if (!rows.has(row)) row.remove();
  let next = list.firstElementChild;
  lines.forEach((line, i) => {
    dress(line, lines[i - 1]);
    if (line.row === next) next = next.nextElementSibling;
    else list.insertBefore(line.row, next);
  });
  $('empty').hidden = lines.length > 0 || room.state !== 'live' || room.s > 0;
  $('start').textContent = room.s ? (here.why ?? start(here)) : '';
  $('st-offset').textContent = room.s ?? 0;
  $('st-epoch').textContent = room.epoch ?? 'none';
  if (stick && lines.length > 0) box.scrollTop = box.scrollHeight;
  else if (eye) box.scrollTop += eye.offsetTop - eyeTop;
  const hardlyScrolls = box.scrollHeight < box.clientHeight + 100;
  if (hardlyScrolls && here.older && (here.from ?? room.s + 1) > 1) load(here, 'before');
}

function start(view) {
  if (view.from === 1) return `The beginning of ${view.room.name}`;
  return view.older ? 'Loading older lines' : 'Older lines are not kept here';
}

/** What a message says: a string, or the text in it, or the JSON itself. */
function words(d) {
  if (typeof d === 'string') return d;
  const inner = d?.text ?? d?.content;
  return typeof inner === 'string' ? inner : JSON.stringify(d, null, 2);
}

function draw(line) {
  if (line.note) return el('li', 'note', line.note);
  const head = el('div', 'head');
  if (line.via) head.append(el('span', 'tag', line.via));
  if (line.type) head.append(el('span', 'tag', line.type));
  head.append(line.u ?? (line.via ? 'from the backend' : 'nobody'));
  const plain = typeof line.d === 'string' || typeof (line.d?.text ?? line.d?.content) === 'string';
  const text = el(plain ? 'div' : 'pre', 'text', words(line.d));
  const row = el('li', '', el('time'), el('div', '', head, text), el('span', 'mark'));
  let hue = 0;
  for (const letter of line.u ?? '') hue = (hue * 31 + letter.codePointAt(0)) % 360;
  row.style.setProperty('--hue', hue);
  return row;
}

/** What may change after a line is drawn: its place in a group, its day, its mark. */
function dress(line, before) {
  if (line.note) return;
  const day = new Date(line.ts).toDateString();
  const newDay = before?.ts === undefined ? !before?.note : new Date(before.ts).toDateString() !== day;
  const more =
    !newDay &&
    before?.u === line.u &&
    before.via === line.via &&
    before.type === line.type &&
    line.ts - before.ts < GROUP_MS;
  const look = [newDay, more, line.state, line.why, line.ts, line.s].join();
  if (line.look === look && line.dressed === line.row) return;
  Object.assign(line, { look, dressed: line.row });
  const { row } = line;
  row.className = ['line', more && 'more', line.own && 'own', line.via && 'pushed'].filter(Boolean).join(' ');
  if (newDay) row.dataset.day = day === new Date().toDateString() ? 'Today' : calendar.format(line.ts);
  else delete row.dataset.day;
  if (line.s) row.dataset.s = line.s;
  const time = row.querySelector('time');
  time.dateTime = new Date(line.ts).toISOString();
  time.textContent = clock.format(line.ts);
  time.title = new Date(line.ts).toLocaleString();
  if (!line.state) return;
  row.dataset.state = line.state;
  const mark = row.querySelector('.mark');
  mark.replaceChildren({ sending: line.why ?? 'sending', sent: '✓', failed: `not sent: ${line.why}` }[line.state]);
  mark.title = line.state;
  if (line.state === 'failed') mark.append(again(line));
}

/** A refused line goes back into the composer. */
function again(line) {
  const button = el('button', '', 'Edit');
  button.onclick = () => {
    here.waiting.delete(line.id);
    $('line').value = [line.d, $('line').value].filter(Boolean).join('\n');
    fit();
    $('line').focus();
    plan();
  };
  return button;
}

function drawPeople() {
  const { room } = here;
  $('people-button').textContent = `${room.who} here`;
  $('count').textContent = room.who;
  const names = [...room.users.keys()].sort((a, b) => (b === chat.user) - (a === chat.user) || a.localeCompare(b));
  const rows = names.slice(0, 200).map((user) => el('li', '', user, user === chat.user ? el('small', '', 'you') : ''));
  if (room.who > rows.length)
    rows.push(el('li', '', rows.length ? `and ${room.who - rows.length} more` : `${room.who} people`));
  $('here').replaceChildren(...rows);
}

function drawTyping() {
  const names = [...here.room.typing].filter((user) => user !== chat.user);
  const some = names.length > 3 ? 'Several people' : names.join(' and ');
  $('typing').textContent = names.length === 0 ? '' : `${some} ${names.length > 1 ? 'are' : 'is'} typing…`;
}

// ---- writing

function say() {
  const text = $('line').value.trimEnd();
  if (text.trim() === '') return;
  const view = here;
  const id = chat.newId();
  const line = { id, u: chat.user, own: true, ts: Date.now(), d: text, state: 'sending' };
  view.waiting.set(id, line);
  $('line').value = '';
  fit();
  latest();
  chat
    .publish(view.room.name, text, { id })
    .then(
      (ack) => kept(view, line, ack),
      (error) => Object.assign(line, { state: 'failed', why: error.message }),
    )
    .finally(plan);
}

/** Acknowledged. The line itself comes with the room, unless that place has gone by already (inside a gap). */
function kept(view, line, { s, ts }) {
  Object.assign(line, { state: 'sent', ts, why: undefined });
  if (!view.waiting.has(line.id) || !(s <= view.room.s)) return;
  view.waiting.delete(line.id);
  view.lines.push(Object.assign(line, { s, e: view.room.epoch }));
}

function fit() {
  const box = $('line');
  box.style.height = 'auto';
  box.style.height = `${box.scrollHeight + 2}px`;
}

function keyed(event) {
  const { key } = event;
  if ((event.ctrlKey || event.altKey) && (key === 'ArrowUp' || key === 'ArrowDown')) {
    event.preventDefault();
    const names = [...views.keys()];
    const step = key === 'ArrowUp' ? names.length - 1 : 1;
    go(names[(names.indexOf(here.room.name) + step) % names.length]);
  } else if (key === 'Escape') {
    panel(null);
    latest();
    $('line').focus();
  } else if (key === 'Enter' && event.target === $('line') && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    say();
  }
}

// ---- the frame around it

/** Opens one of the side panels on a small screen, or none. */
function panel(which) {
  for (const id of ['side', 'people']) {
    const on = which === id && !document.body.classList.contains(`show-${id}`);
    document.body.classList.toggle(`show-${id}`, on);
    $(`${id}-button`).ariaExpanded = String(on);
    if (on) $(id).querySelector('a, input, summary')?.focus();
  }
}

let bannerTimer;
let downSince = Date.now();

function drawState(state) {
  $('state').textContent = $('state').dataset.state = state.state;
  $('st-wire').textContent = state.state === 'live' ? 'WebSocket' : 'none';
  clearTimeout(bannerTimer);
  if (state.state === 'live') {
    $('banner').hidden = true;
    downSince = 0;
    return;
  }
  downSince ||= Date.now();
  const until = Date.now() + (state.retryIn ?? 0);
  const calm = state.state === 'stopped' ? 0 : downSince + CALM_MS - Date.now();
  bannerTimer = setTimeout(() => banner(state, until), Math.max(0, calm));
}

function banner(state, until) {
  const left = Math.ceil((until - Date.now()) / 1000);
  const texts = {
    connecting: 'Connecting. Lines you write wait here.',
    waiting: `No connection. ${left > 0 ? `Trying again in ${left} s.` : 'Trying again.'} Lines you write wait here.`,
    stopped: `The server ended this visit: ${state.msg || state.why || state.code}. Reload the page to come back.`,
  };
  $('banner').firstElementChild.textContent = texts[state.state];
  $('banner').lastElementChild.hidden = state.state !== 'waiting';
  $('banner').hidden = false;
  if (left > 0) bannerTimer = setTimeout(() => banner(state, until), 500);
}

async function rename(event) {
  event.preventDefault();
  const wanted = cleanName($('name').value);
  $('name').value = wanted || name;
  $('line').focus();
  if (!wanted || wanted === name) return;
  $('name-note').textContent = 'Changes when your waiting lines are sent.';
  await chat.identify({ user: wanted });
  name = wanted;
  store('roomcast.name', name);
  $('name-note').textContent = '';
}

function joinAnother(event) {
  event.preventDefault();
  const wanted = $('join-name').value.normalize('NFC').replace(/\p{C}/gu, '').trim();
  $('join-name').value = '';
  if (wanted) go(wanted);
  $('line').focus();
}

// ---- beginning

chat.on('message', heard);
chat.on('gap', missed);
chat.on('rewind', takenBack);
chat.on('live', (_, room) => {
  views.get(room.name).begun = true; // from here on a line is news, even one told late
  plan();
});
chat.on('presence', (_, room) => room === here.room && drawPeople());
for (const event of ['typing', 'message', 'joined']) chat.on(event, (_, room) => room === here.room && drawTyping());
chat.on('refused', (error, room) => note(views.get(room.name), `You cannot join ${room.name}: ${error.message}`));
chat.on('problem', (error) => note(here, error.message));
chat.on('held', ({ room, id, wait }) => {
  const line = views.get(room)?.waiting.get(id);
  if (line) line.why = `sending in ${Math.ceil(wait / 1000)} s`;
  plan();
});
chat.on('state', drawState);

$('say').onsubmit = (event) => {
  event.preventDefault();
  say();
  $('line').focus();
};
$('line').oninput = () => {
  fit();
  chat.typing(here.room.name, $('line').value.trim() !== '');
};
$('me').onsubmit = rename;
$('join').onsubmit = joinAnother;
$('latest').onclick = latest;
$('banner').lastElementChild.onclick = () => chat.retry();
$('side-button').onclick = () => panel('side');
$('people-button').onclick = () => panel('people');
$('share').onclick = async () => {
  const copied = await navigator.clipboard?.writeText(location.href).then(
    () => true,
    () => false,
  );
  $('share').textContent = copied ? 'Copied' : 'It is the address above';
  setTimeout(() => ($('share').textContent = 'Copy link'), 1500);
};
$('scroll').addEventListener('scroll', scrolled, { passive: true });
new ResizeObserver(() => stick && here.room.s > 0 && ($('scroll').scrollTop = $('scroll').scrollHeight)).observe(
  $('scroll'),
);
document.addEventListener('keydown', keyed);
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  here.unread = 0;
  drawRooms();
});
addEventListener('hashchange', () => show(roomInHash()));
addEventListener('beforeunload', (event) => {
  const unsent = [...views.values()].some((view) =>
    [...view.waiting.values()].some((line) => line.state === 'sending'),
  );
  if (unsent) event.preventDefault();
});

$('name').value = name;
let known = [];
try {
  known = JSON.parse(stored('roomcast.rooms') ?? '[]').filter((one) => typeof one === 'string');
} catch {
  /* nothing of ours: begin without */
}
for (const one of known.slice(0, ROOMS_MAX)) open(one);
const first = roomInHash();
history.replaceState(null, '', `#room=${encodeURIComponent(first)}`);
show(first);
$('line').focus();
