/**
 * The demo page: what roomcast.js tells goes into the timeline of its room, `paint` shows the timeline of the open
 * room, and what is typed or pressed goes back. Whatever a person wrote goes in as text.
 */
import { Roomcast } from '/roomcast.js';
import { FIRST_PAGE, Timeline } from '/timeline.js';
import { Lines, button, el, quoteOf, words } from '/lines.js';
import { Tools } from '/tools.js';
import { Find } from '/find.js';

const ROOMS_MAX = 50;
const DEFAULT_ROOM = 'lobby';
const WIRES = { websocket: 'WebSocket', sse: 'SSE', poll: 'poll' };
const LIST_EVERY_MS = 20_000; // how often the list of rooms is asked for, while somebody may look
const CALM_MS = 1_000; // shorter cuts are not worth a word

const $ = (id) => document.getElementById(id);
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
const storedList = (key) => {
  try {
    return JSON.parse(stored(key) ?? '[]').filter((one) => typeof one === 'string');
  } catch {
    return []; // nothing of ours: begin without
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

const rooms = new Map(); // room name: its timeline
const left = new Set(storedList('roomcast.left')); // rooms that the server still lists
let here; // the timeline on the screen
let stick = true; // the reader is at the newest line
let planned = false;
let marksKnown = false; // how far this user has read in her rooms

let name = cleanName(stored('roomcast.name') ?? '') || `guest-${Math.random().toString(36).slice(2, 6)}`;
store('roomcast.name', name);
const chat = new Roomcast({ user: name });

// ---- rooms

function open(roomName) {
  const known = rooms.get(roomName);
  if (known) return known;
  const timeline = new Timeline(chat, chat.join(roomName, { last: FIRST_PAGE }), plan);
  rooms.set(roomName, timeline);
  rememberRooms();
  return timeline;
}

function show(roomName) {
  if (here) {
    if (!here.editing) here.draft = $('line').value;
    stopEditing();
    here.newAfter = null;
  }
  here = open(roomName);
  if (left.delete(roomName)) rememberRooms();
  if (here.unread > 0 && here.read !== null) here.newAfter = here.read;
  stick = true;
  const label = labelOf(roomName);
  $('line').value = here.draft;
  $('line').placeholder = label.length > 24 ? 'Message' : `Message ${label}`;
  $('title').textContent = label;
  $('st-room').textContent = roomName;
  $('say').hidden = roomName === chat.inbox;
  for (const box of document.querySelectorAll('.php')) box.textContent = phpLines(roomName);
  $('lines').replaceChildren();
  find.clear();
  panel(null);
  drawAbout();
  drawPeople();
  drawTyping();
  fit();
  paint();
}

/** The room, and perhaps the message, that the address names. */
function addressed() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const room = wanted.get('room')?.normalize('NFC');
  return { room: room || here?.room.name || stored('roomcast.room') || DEFAULT_ROOM, at: Number(wanted.get('at')) };
}

function go(roomName, s) {
  const hash = `#room=${encodeURIComponent(roomName)}${s ? `&at=${s}` : ''}`;
  store('roomcast.room', roomName);
  if (location.hash === hash) arrive();
  else location.hash = hash;
}

function arrive() {
  const { room, at } = addressed();
  if (room !== here?.room.name) show(room);
  if (at > 0) jump(at);
}

function leave(timeline) {
  if (timeline.waiting.size > 0) return timeline.note('Lines of yours wait here. Leave when they are sent.');
  const roomName = timeline.room.name;
  const names = [...rooms.keys()];
  left.add(roomName);
  forget(roomName);
  if (timeline === here) go(names[names.indexOf(roomName) - 1] ?? names[1]);
  return plan();
}

function forget(roomName) {
  rooms.delete(roomName);
  chat.leave(roomName);
  rememberRooms();
}

function rememberRooms() {
  store('roomcast.rooms', JSON.stringify([...rooms.keys()].filter((one) => one !== chat.inbox).slice(-ROOMS_MAX)));
  store('roomcast.left', JSON.stringify([...left].slice(-ROOMS_MAX)));
}

const isDirect = (roomName) => /^@.+\+/.test(roomName);

/** A direct room is called by the other one's name. */
function labelOf(roomName) {
  if (roomName === chat.inbox) return 'Mentions';
  const [one, other] = isDirect(roomName) ? roomName.slice(1).split('+') : [];
  if (one === chat.user) return other;
  return other === chat.user ? one : roomName;
}

/** Asks for this user's rooms and read marks: what she did elsewhere, and who wrote to her. */
async function learnRooms() {
  if (!chat.can.includes('rooms')) return;
  let list;
  try {
    list = await chat.list();
  } catch {
    return; // the next turn asks again
  }
  open(chat.inbox);
  for (const { r, read, unread } of list) {
    const wanted = !left.has(r) || (r.startsWith('@') && unread > 0);
    if (!rooms.has(r) && (!wanted || rooms.size >= ROOMS_MAX)) continue;
    const timeline = open(r);
    if (read > 0 || r.startsWith('@')) readUpTo(timeline, read); // else it was never read: then nothing is new
  }
  if (!marksKnown && here.unread > 0 && here.read !== null) here.newAfter = here.read;
  marksKnown = true;
  plan();
}

function readUpTo(timeline, s) {
  timeline.read = Math.max(timeline.read ?? 0, s);
  if (!isRead(timeline)) timeline.newAfter = timeline.unread > 0 ? timeline.read : null;
}

/** Rooms in the order of the list: the inbox, rooms, people. */
function inOrder() {
  const all = [...rooms.keys()];
  const box = (one) => (one === chat.inbox ? 0 : isDirect(one) ? 2 : 1);
  return all.sort((one, other) => box(one) - box(other));
}

let drawnRooms = '';

function drawRooms() {
  const all = inOrder().map((one) => [one, rooms.get(one).unread]);
  const look = JSON.stringify([all, here.room.name, chat.user]);
  if (look === drawnRooms) return;
  drawnRooms = look;
  const focused = document.activeElement?.closest('#side li')?.dataset.room;
  for (const [id, wanted] of [
    ['inbox', (one) => one === chat.inbox],
    ['rooms', (one) => one !== chat.inbox && !isDirect(one)],
    ['direct', isDirect],
  ]) {
    $(id).replaceChildren(...all.filter(([one]) => wanted(one)).map(([one, unread]) => roomRow(one, unread)));
  }
  $('direct-title').hidden = $('direct').children.length === 0;
  if (focused) document.querySelector(`#side li[data-room="${CSS.escape(focused)}"] a`)?.focus();
  const others = all.reduce((sum, [, unread]) => sum + unread, 0);
  $('side-button').classList.toggle('unread', others > 0);
  document.title = `${others ? `(${others}) ` : ''}${labelOf(here.room.name)} · Roomcast`;
}

function roomRow(roomName, unread) {
  const label = labelOf(roomName);
  const link = el('a', '', el('span', '', label));
  if (unread) link.append(el('b', 'badge', unread > 99 ? '99+' : String(unread)));
  link.href = `#room=${encodeURIComponent(roomName)}`;
  if (roomName === here.room.name) link.ariaCurrent = 'page';
  if (unread) link.ariaLabel = `${label}, ${unread} new`;
  const row = el('li', unread ? 'unread' : '', link);
  row.dataset.room = roomName;
  if (roomName !== chat.inbox && rooms.size > 1)
    row.prepend(button('×', `Leave ${label}`, () => leave(rooms.get(roomName))));
  return row;
}

function phpLines(roomName) {
  const quoted = roomName.replace(/[\\']/g, '\\$&');
  return `$redis = new Redis();
$redis->connect('127.0.0.1', 6380);
$line = ['type' => 'message', 'room' => '${quoted}', 'content' => 'Hello from PHP'];
$redis->lPush('message_queue', json_encode($line));`;
}

// ---- what is said

/** Whether this user reads the room at this moment: it is on the screen, down to its newest line. */
const isRead = (timeline) => timeline === here && stick && timeline.tail && !document.hidden;

function heard(timeline, message) {
  if (message.s === undefined) timeline.fleeting(message);
  if (message.u === chat.user || !timeline.begun) return;
  if (timeline === here) {
    $('news').textContent = `${message.u ?? message.via ?? ''}: ${words(message.d).slice(0, 300)}`;
    if (!stick) $('latest').hidden = false;
  }
  if (isRead(timeline)) return;
  timeline.news += 1;
  // The line "new" stands above the first message that nobody has looked at.
  if (timeline.unread <= 1) timeline.newAfter = timeline.read ?? message.s - 1;
  plan();
}

/** What is on the screen has been read: here, and in this user's other tabs. */
function settle() {
  if (!isRead(here) || here.room.state !== 'live') return;
  here.news = 0;
  if (!marksKnown || !chat.can.includes('read') || here.room.s === 0) return;
  here.read = Math.max(here.read ?? 0, here.room.s);
  chat.read(here.room.name, here.read);
}

/** Back to the newest line. */
function latest() {
  here.latest();
  stick = true;
  $('latest').hidden = true;
  plan();
}

async function jump(s) {
  const timeline = here;
  while (timeline.room.state !== 'live') await new Promise((live) => timeline.room.on('live', live));
  let why = 'it is no longer kept here';
  const there = await timeline.reach(s).catch((error) => void (why = error.message));
  if (timeline !== here) return;
  if (!there) return void timeline.note(`That message cannot be shown: ${why}.`);
  stick = false;
  paint();
  const row = [...$('lines').querySelectorAll(`.line[data-s="${s}"]`)].at(-1);
  row.scrollIntoView({ block: 'center' });
  row.focus({ preventScroll: true });
  row.classList.add('hit');
}

function scrolled() {
  const box = $('scroll');
  const below = box.scrollHeight - box.scrollTop - box.clientHeight;
  stick = below < 40 && here.tail;
  if (stick) $('latest').hidden = true;
  if (!stick && box.scrollTop < 300 && here.older) here.load('before');
  if (below < 300 && !here.tail) here.load('after');
  drawUnseen();
  if (stick) plan();
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

const painter = new Lines({
  jump: (s) => go(here.room.name, s),
  react,
  again,
  fill: (note) => here.fill(note),
  me: () => chat.user,
  mention,
});

/** Makes the list show the timeline. The line under the reader's eye stays where it is. */
function paint() {
  const { room } = here;
  const box = $('scroll');
  const list = $('lines');
  if (stick) here.trim();
  const lines = here.lines();
  const seen = stick ? [] : [...list.children].filter((row) => row.offsetTop + row.offsetHeight > box.scrollTop);
  const tops = seen.map((row) => row.offsetTop);
  const rows = lines.map((line, i) => painter.dress(line, lines[i - (lines[i - 1]?.fresh ? 2 : 1)], here));
  const wanted = new Set(rows);
  for (const row of [...list.children]) if (!wanted.has(row)) row.remove();
  let next = list.firstElementChild;
  for (const row of rows) {
    if (row === next) next = next.nextElementSibling;
    else list.insertBefore(row, next);
  }
  $('empty').hidden = lines.length > 0 || room.state !== 'live' || room.s > 0 || room.name === chat.inbox;
  $('start').textContent = room.s ? (here.why ?? start(here)) : '';
  $('st-offset').textContent = room.s ?? 0;
  $('st-epoch').textContent = room.epoch ?? 'none';
  const eye = seen.findIndex((row) => wanted.has(row));
  if (stick && lines.length > 0) box.scrollTop = box.scrollHeight;
  else if (eye >= 0) box.scrollTop += seen[eye].offsetTop - tops[eye];
  const hardlyScrolls = box.scrollHeight < box.clientHeight + 100;
  if (hardlyScrolls && here.older && (here.from ?? room.s + 1) > 1) here.load('before');
  if (hardlyScrolls && !here.tail) here.load('after');
  settle();
  drawRooms();
  drawUnseen();
}

function start(timeline) {
  if (timeline.from === 1) return `The beginning of ${labelOf(timeline.room.name)}`;
  return timeline.older ? 'Loading older lines' : 'Older lines are not kept here';
}

/** Says that unread messages stand further up, until they have been seen or the room is left. */
function drawUnseen() {
  const row = $('lines').querySelector('.fresh');
  const above = row ? row.offsetTop < $('scroll').scrollTop : here.newAfter !== null && here.newAfter < here.from - 1;
  const n = here.newAfter === null ? 0 : here.view.messages.filter((one) => here.isNew(one)).length;
  $('unseen').hidden = !above || n === 0;
  $('unseen').textContent = `${n}${row ? '' : ' or more'} new ↑`;
}

/** In the inbox an entry is the place of a message; its words are asked for where this user may read them. */
function mention(timeline, { d }) {
  if (timeline.room.name !== chat.inbox || typeof d?.r !== 'string') return null;
  const message = rooms.get(d.r)?.quote(d.s);
  return {
    where: `in ${labelOf(d.r)}`,
    text: message ? (message.gone ? quoteOf(message) : words(message.d)) : `Message ${d.s}`,
    open: () => go(d.r, d.s),
  };
}

function drawPeople() {
  const { room } = here;
  $('people-button').textContent = `${room.who} here`;
  $('count').textContent = room.who;
  const names = [...room.users.keys()].sort((a, b) => (b === chat.user) - (a === chat.user) || a.localeCompare(b));
  const rows = names.slice(0, 200).map(personRow);
  if (room.who > rows.length)
    rows.push(el('li', '', rows.length ? `and ${room.who - rows.length} more` : `${room.who} people`));
  $('here').replaceChildren(...rows);
}

function personRow(user) {
  if (user === chat.user) return el('li', '', user, el('small', '', 'you'));
  if (`${user}${chat.user}`.includes('+')) return el('li', '', user); // has no direct rooms, they would be ambiguous
  const write = el('button', '', user);
  Object.assign(write, { type: 'button', title: `Write to ${user}`, onclick: () => go(chat.direct(user)) });
  return el('li', '', write);
}

function drawTyping() {
  const names = [...here.room.typing].filter((user) => user !== chat.user);
  const some = names.length > 3 ? 'Several people' : names.join(' and ');
  $('typing').textContent = names.length === 0 ? '' : `${some} ${names.length > 1 ? 'are' : 'is'} typing…`;
}

// ---- writing

function say() {
  const text = $('line').value.trimEnd();
  if (here.editing) return saveEdit(text);
  if (text.trim() === '') return;
  const timeline = here;
  const id = chat.newId();
  const re = timeline.reply?.s;
  const line = { message: { id, u: chat.user, ts: Date.now(), d: text, re }, own: true, state: 'sending' };
  timeline.waiting.set(id, line);
  Object.assign(timeline, { reply: null, newAfter: null });
  setLine('');
  drawAbout();
  latest();
  chat
    .publish(timeline.room.name, text, { id, re })
    .then(
      (ack) => timeline.kept(line, ack),
      (error) => Object.assign(line, { state: 'failed', why: error.message }),
    )
    .finally(plan);
}

/** A refused line goes back into the composer. */
function again({ message }) {
  here.waiting.delete(message.id);
  setLine([message.d, $('line').value].filter(Boolean).join('\n'));
  plan();
}

function edit(message) {
  if (!here.editing) here.draft = $('line').value;
  Object.assign(here, { editing: message, reply: null });
  setLine(words(message.d));
  drawAbout();
}

/** Text in an object stays in it, and its other parts stay as they are. */
function saveEdit(text) {
  const { s, d } = here.editing;
  stopEditing();
  if (text.trim() === '' || text === words(d)) return;
  const key = typeof d?.text === 'string' ? 'text' : 'content';
  const data = typeof d?.[key] === 'string' ? { ...d, [key]: text } : text;
  here.change(s, data, chat.edit(here.room.name, s, data));
}

function stopEditing() {
  if (!here.editing) return;
  here.editing = null;
  setLine(here.draft);
  drawAbout();
}

function reply(message) {
  stopEditing();
  here.reply = message;
  drawAbout();
  $('line').focus();
}

function remove(message) {
  here.change(message.s, null, chat.remove(here.room.name, message.s));
}

/** Once more takes it back. While one is on its way, a press waits for nothing. */
const reacting = new Set();
async function react({ s, reactions }, k) {
  const key = JSON.stringify([here.room.name, s, k]);
  if (reacting.has(key) || !chat.can.includes('react')) return;
  const timeline = here;
  const mine = reactions.find((one) => one.k === k)?.users.includes(chat.user);
  reacting.add(key);
  await chat
    .react(timeline.room.name, s, k, !mine)
    .catch((error) => timeline.note(`Your reaction was not kept: ${error.message}`));
  reacting.delete(key);
}

function drawAbout() {
  const { editing, reply: to } = here;
  $('about').hidden = !editing && !to;
  $('about').firstElementChild.textContent = editing ? 'Changing your message' : `Replying to ${quoteOf(to)}`;
}

function setLine(text) {
  $('line').value = text;
  fit();
  $('line').focus();
}

function fit() {
  const box = $('line');
  box.style.height = 'auto';
  box.style.height = `${box.scrollHeight + 2}px`;
}

function keyed(event) {
  const { key, target } = event;
  if ((event.ctrlKey || event.altKey) && (key === 'ArrowUp' || key === 'ArrowDown')) {
    event.preventDefault();
    const names = inOrder();
    const step = key === 'ArrowUp' ? names.length - 1 : 1;
    go(names[(names.indexOf(here.room.name) + step) % names.length]);
  } else if (key === 'Escape') {
    if (here.editing) return stopEditing();
    here.reply = null;
    drawAbout();
    panel(null);
    latest();
    $('line').focus();
  } else if (key === 'Enter' && target === $('line') && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    say();
  } else if (key === 'ArrowUp' && target === $('line') && target.value === '') {
    const last = here.view.messages.findLast((message) => can('edit', message));
    if (!last) return;
    event.preventDefault();
    edit(last);
  } else if ($('scroll').contains(target) && tools.key(event)) {
    event.preventDefault();
  }
}

/** What this user may do with a message, as far as the page can know. */
function can(what, message) {
  if (message.gone || here.room.name === chat.inbox) return false;
  if (what === 'react') return chat.can.includes('react');
  return what === 'reply' || (message.u === chat.user && !message.via && chat.can.includes('edit'));
}

// ---- the frame around it

/** Opens one of the side panels, or none. */
function panel(which) {
  for (const id of ['side', 'people', 'find']) {
    const on = which === id && !document.body.classList.contains(`show-${id}`);
    document.body.classList.toggle(`show-${id}`, on);
    $(`${id}-button`).ariaExpanded = String(on);
    if (on) $(id).querySelector('a, input, button, summary')?.focus();
  }
}

let bannerTimer;
let downSince = Date.now();

function drawState(state) {
  $('state').textContent = $('state').dataset.state = state.state;
  $('st-wire').textContent = WIRES[chat.wire] ?? 'none';
  clearTimeout(bannerTimer);
  if (state.state === 'live') {
    $('banner').hidden = true;
    $('find-button').hidden = !chat.can.includes('find');
    downSince = 0;
    learnRooms();
    return;
  }
  downSince ||= Date.now();
  const until = Date.now() + (state.retryIn ?? 0);
  const calm = state.state === 'stopped' ? 0 : downSince + CALM_MS - Date.now();
  bannerTimer = setTimeout(() => banner(state, until), Math.max(0, calm));
}

function banner(state, until) {
  const remaining = Math.ceil((until - Date.now()) / 1000);
  const texts = {
    connecting: 'Connecting. Lines you write wait here.',
    waiting: `No connection. ${remaining > 0 ? `Trying again in ${remaining} s.` : 'Trying again.'} Lines you write wait here.`,
    stopped: `The server ended this visit: ${state.msg || state.why || state.code}. Reload the page to come back.`,
  };
  $('banner').firstElementChild.textContent = texts[state.state];
  $('banner').lastElementChild.hidden = state.state !== 'waiting';
  $('banner').hidden = false;
  if (remaining > 0) bannerTimer = setTimeout(() => banner(state, until), 500);
}

async function rename(event) {
  event.preventDefault();
  const wanted = cleanName($('name').value);
  $('name').value = wanted || name;
  $('line').focus();
  if (!wanted || wanted === name) return;
  $('name-note').textContent = 'Changes when your waiting lines are sent.';
  await chat.idle();
  for (const one of [...rooms.keys()].filter((room) => room.startsWith('@'))) forget(one); // another user's
  for (const timeline of rooms.values()) Object.assign(timeline, { read: null, news: 0, newAfter: null });
  marksKnown = false;
  if (!rooms.has(here.room.name)) go(rooms.keys().next().value ?? DEFAULT_ROOM);
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

const find = new Find({
  ask: (room, asked, before) => chat.find(room, asked, { before }),
  room: () => here.room.name,
  jump: (s) => {
    if (innerWidth < 1024) panel(null);
    go(here.room.name, s);
  },
});
const tools = new Tools($('tools'), $('lines'), {
  message: (s) => here.view.get(s),
  can,
  fate: (message) => (message.u === chat.user ? here.fate(message) : null),
  react,
  reply,
  edit,
  remove,
});

const ears = {
  joined: (timeline, frame) => timeline.joined(frame),
  entry: (timeline, entry) => timeline.told(entry, timeline === here && !stick),
  message: heard,
  gap: (timeline, gap) => timeline.missed(gap),
  rewind: (timeline) => timeline.takenBack(),
  live: (timeline) => timeline.live(),
  got: (timeline, frame) => timeline.delivered(frame),
  read: (timeline, { u, s }) => u === chat.user && readUpTo(timeline, s),
  presence: (timeline) => timeline === here && drawPeople(),
  refused: (timeline, error) => timeline.note(`You cannot join ${timeline.room.name}: ${error.message}`),
};
for (const [event, ear] of Object.entries(ears)) chat.on(event, (what, room) => ear(rooms.get(room.name), what));
for (const event of ['typing', 'message', 'joined']) chat.on(event, (_, room) => room === here.room && drawTyping());
for (const event of ['got', 'read']) chat.on(event, plan);
chat.on('problem', (error) => here.note(error.message));
chat.on('held', ({ room, id, wait }) => {
  const line = rooms.get(room)?.waiting.get(id);
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
  if (!here.editing) chat.typing(here.room.name, $('line').value.trim() !== '');
};
$('about').lastElementChild.onclick = () => {
  here.reply = null;
  stopEditing();
  drawAbout();
  $('line').focus();
};
$('me').onsubmit = rename;
$('join').onsubmit = joinAnother;
$('latest').onclick = latest;
$('unseen').onclick = () => {
  const row = $('lines').querySelector('.fresh');
  if (row) row.scrollIntoView({ block: 'start' });
  else jump(here.newAfter + 1);
};
$('banner').lastElementChild.onclick = () => chat.retry();
for (const id of ['side', 'people', 'find']) $(`${id}-button`).onclick = () => panel(id);
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
  plan();
  if (chat.state.state === 'live') learnRooms();
});
setInterval(() => !document.hidden && chat.state.state === 'live' && learnRooms(), LIST_EVERY_MS);
addEventListener('hashchange', arrive);
addEventListener('beforeunload', (event) => {
  const unsent = [...rooms.values()].some(
    ({ waiting, changing }) => changing.size > 0 || [...waiting.values()].some((line) => line.state === 'sending'),
  );
  if (unsent) event.preventDefault();
});

$('name').value = name;
const mine = (roomName) => !roomName.startsWith('@') || labelOf(roomName) !== roomName;
for (const one of storedList('roomcast.rooms').filter(mine).slice(0, ROOMS_MAX)) open(one);
const first = addressed();
history.replaceState(null, '', `#room=${encodeURIComponent(first.room)}`);
show(first.room);
if (first.at > 0) jump(first.at);
$('line').focus();
