/**
 * Draws the lines of a room: what was said, by whom and when, what it replies to, the reactions and what became of
 * it. Whatever a person wrote goes in as text. Knows no connection: it gets a timeline's lines and what to call.
 */
export const REACTIONS = { '+1': '👍', heart: '❤️', joy: '😂', wow: '😮', sad: '😢', done: '✅' };

const GROUP_MS = 5 * 60_000; // messages of one person this close together share one heading
const NAME = /(?<![\p{L}\p{N}@])@[\p{L}\p{N}_.-]+/gu; // who is called: as the server reads it
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });

export function el(tag, name, ...inside) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  return node;
}

/** A button that needs a name of its own, because its face is a sign. */
export function button(face, label, onclick, name = '') {
  const node = el('button', name, face);
  Object.assign(node, { type: 'button', onclick });
  if (label) node.title = node.ariaLabel = label;
  return node;
}

/** What a message says: a string, or the text in it, or the JSON itself. */
export function words(d) {
  const inner = typeof d === 'string' ? d : (d?.text ?? d?.content);
  return typeof inner === 'string' ? inner : JSON.stringify(d, null, 2);
}

export function quoteOf(message) {
  if (!message) return 'an earlier message';
  if (message.gone) return 'a message that was deleted';
  return `${message.u ?? message.via ?? 'nobody'}: ${words(message.d).slice(0, 140)}`;
}

export const time = (ts) => clock.format(ts);
export const day = (ts) => (new Date(ts).toDateString() === new Date().toDateString() ? 'Today' : calendar.format(ts));

/** Text with the parts that `pattern` finds in elements of their own. `mark` makes one, or says no. */
export function marked(text, pattern, mark) {
  const parts = [];
  let done = 0;
  for (const { 0: found, index } of text.matchAll(pattern)) {
    const node = mark(found);
    if (!node) continue;
    parts.push(text.slice(done, index), node);
    done = index + found.length;
  }
  return [...parts, text.slice(done)];
}

export class Lines {
  /**
   * @param {object} on what a line can ask for: `jump(s)`, `react(message, k)`, `again(line)`, `fill(note)`,
   *   `open(room, s)`; and what it wants to know: `me()`, `mention(timeline, message)`
   */
  constructor(on) {
    this.on = on;
  }

  /** Makes or refreshes the row of a line; `before` is the line above it. */
  dress(line, before, timeline) {
    if (line.fresh) return (line.row ??= separator());
    if (line.note) return (line.row ??= this.#note(line));
    const look = this.#look(line, before, timeline);
    if (line.row && line.drawn === line.message && same(line.look, look)) return line.row;
    line.row ??= Object.assign(el('li'), { tabIndex: -1 });
    Object.assign(line, { drawn: line.message, look });
    this.#fill(line, timeline);
    return line.row;
  }

  /** What a row depends on besides its message. */
  #look(line, before, timeline) {
    const { message: m, own, state, why, past } = line;
    const above = before?.message;
    const newDay = above ? !sameDay(above.ts, m.ts) : !before?.note;
    const close = above && m.ts - above.ts < GROUP_MS && !m.re;
    const more = close && !newDay && above.u === m.u && above.via === m.via && above.type === m.type;
    const changing = past ? undefined : timeline.changing.get(m.s);
    const fate = own && m.s && !past && !m.gone ? timeline.fate(m) : null;
    const quote = m.re && !past ? quoteOf(timeline.quote(m.re)) : null;
    const called = this.on.mention(timeline, m)?.text;
    return { newDay, more, state, why, changing, quote, called, n: fate?.n, of: fate?.of, by: fate?.by };
  }

  #fill(line, timeline) {
    const { row, message: m, look, own } = line;
    const mentioned = this.on.mention(timeline, m);
    const names = {
      past: line.past,
      more: look.more,
      own,
      pushed: m.via,
      gone: m.gone,
      changing: look.changing !== undefined,
    };
    row.className = ['line', ...Object.keys(names).filter((name) => names[name])].join(' ');
    for (const [key, value] of Object.entries({
      day: look.newDay && day(m.ts),
      s: m.s,
      state: line.state ?? (own ? 'sent' : undefined),
    })) {
      if (value) row.dataset[key] = value;
      else delete row.dataset[key];
    }
    row.style.setProperty('--hue', hue(m.u ?? ''));
    const stamp = el('time', '', time(m.ts));
    stamp.dateTime = new Date(m.ts).toISOString();
    stamp.title = new Date(m.ts).toLocaleString();
    const body = el('div', '', head(mentioned ? { u: m.u } : m)); // of the inbox all is a mention
    if (look.quote) body.append(button(look.quote, '', () => this.on.jump(m.re), 'quote'));
    body.append(...(mentioned ? this.#mention(mentioned) : this.#text(m, look.changing)));
    if (m.edited && !m.gone) body.append(el('small', 'edited', 'edited'));
    if (m.reactions?.length) body.append(this.#reactions(m));
    const focused = row.contains(document.activeElement) && document.activeElement;
    for (const old of [...row.children]) if (!old.matches('.tools')) old.remove(); // the toolbar may be in use
    row.prepend(stamp, body, this.#mark(line));
    if (m.gone) row.querySelector('.tools')?.remove();
    if (focused && focused !== row) refocus(row, focused);
  }

  #text(m, changing) {
    if (m.gone) return [el('div', 'text', 'This message was deleted')];
    const d = changing ?? m.d;
    const plain = typeof d === 'string' || typeof (d?.text ?? d?.content) === 'string';
    if (!plain) return [el('pre', 'text', words(d))];
    return [el('div', 'text', ...marked(words(d), NAME, (name) => this.#name(name)))];
  }

  #name(name) {
    const me = name.replace(/[.-]+$/, '') === `@${this.on.me()}`;
    return el('span', me ? 'at me' : 'at', name);
  }

  /** An entry of the inbox: where it was said, and the words if they can be read. */
  #mention({ where, text, open }) {
    return [el('div', 'text', text), button(where, '', open, 'quote')];
  }

  #reactions(m) {
    const me = this.on.me();
    const chips = m.reactions.map(({ k, users }) => {
      const face = REACTIONS[k] ?? k;
      const label = `${k}, ${users.length}: ${users
        .map((user) => user ?? 'the backend')
        .slice(0, 20)
        .join(', ')}`;
      const chip = button(face, label, () => this.on.react(m, k), 'chip');
      chip.append(el('b', '', String(users.length)));
      chip.ariaPressed = String(users.includes(me));
      chip.dataset.k = k;
      return chip;
    });
    return el('div', 'chips', ...chips);
  }

  /** What became of an own message, as a sign, and in words for who points at it or cannot see it. */
  #mark(line) {
    const { own, state, why, message: m, look } = line;
    const mark = el('span', 'mark');
    if (look.changing !== undefined) mark.append(look.changing === null ? 'deleting' : 'saving');
    else if (state === 'sending') mark.append(why ?? 'sending');
    else if (state === 'failed')
      mark.append(
        `not sent: ${why}`,
        button('Edit', '', () => this.on.again(line)),
      );
    else if (own && !m.gone && m.s) {
      const [sign, kind, text] = fateOf(look);
      Object.assign(mark.dataset, { mark: kind, sign });
      mark.title = text;
      mark.append(Object.assign(el('span', '', sign), { ariaHidden: 'true' }), el('span', 'unseen', text));
    }
    return mark;
  }

  #note(line) {
    const row = el('li', 'note', line.note);
    if (line.range?.to) {
      const more = button('Show', '', () => {
        more.disabled = true;
        this.on.fill(line).catch((error) => more.replaceWith(` It cannot be read: ${error.message}`));
      });
      row.append(' ', more);
    }
    return row;
  }
}

/** Kept, delivered to some or all, or read: sign, name and words. */
export function fateOf({ n, of, by }) {
  if (by) return ['✓✓', 'read', `read by ${by}`];
  // The session that said it is one of them.
  if (n > 1)
    return [n < of ? `✓ ${n}/${of}` : '✓✓', 'delivered', `delivered to ${n} of ${of} sessions, yours included`];
  return ['✓', 'kept', 'kept by the server'];
}

function separator() {
  const row = el('li', 'fresh', 'New messages');
  row.role = 'separator';
  return row;
}

function head(m) {
  const node = el('div', 'head');
  for (const tag of [m.via, m.type]) if (tag) node.append(el('span', 'tag', tag));
  node.append(m.u ?? (m.via ? 'from the backend' : 'nobody'));
  return node;
}

/** The reaction that was pressed is drawn anew: the keyboard stays with it, or at least with its message. */
function refocus(row, lost) {
  const again = row.contains(lost) ? lost : row.querySelector(`[data-k="${CSS.escape(lost.dataset.k ?? '')}"]`);
  (again ?? row).focus({ preventScroll: true });
}

function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

const sameDay = (one, other) => new Date(one).toDateString() === new Date(other).toDateString();
const same = (one, other) => Object.keys(other).every((key) => one[key] === other[key]);
