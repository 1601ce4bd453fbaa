/**
 * The search panel: asks the server for messages of one room and lists them, newest first. What was found is text;
 * the words that were asked for are marked in it.
 */
import { day, el, marked, time, words } from '/lines.js';

const $ = (id) => document.getElementById(id);

export class Find {
  #room = null;
  #asked = '';
  #oldest = null;
  #turn = 0; // an answer to an older question is void

  /** @param {object} on `ask(room, words, before)`, a promise of a page; `room()`; `jump(s)` */
  constructor(on) {
    this.on = on;
    $('find').querySelector('form').onsubmit = (event) => {
      event.preventDefault();
      this.#begin($('words').value.trim());
    };
    $('find-more').onclick = () => this.#ask();
  }

  /** Another room is open: what was found belongs to the old one. */
  clear() {
    this.#turn += 1;
    $('found').textContent = '';
    $('results').replaceChildren();
    $('find-more').hidden = true;
  }

  #begin(asked) {
    this.clear();
    this.#room = this.on.room();
    this.#asked = asked;
    this.#oldest = undefined;
    if (asked) this.#ask();
  }

  async #ask() {
    const turn = this.#turn;
    $('found').textContent = 'Searching';
    try {
      const { list, more } = await this.on.ask(this.#room, this.#asked, this.#oldest);
      if (turn !== this.#turn) return;
      const found = list.filter((one) => one.t === 'msg').sort((a, b) => b.s - a.s);
      $('results').append(...found.map((message) => this.#result(message)));
      this.#oldest = found.at(-1)?.s;
      $('find-more').hidden = !more || found.length === 0;
      const n = $('results').children.length;
      $('found').textContent = n === 0 ? 'Nothing found' : `${n}${more ? ' or more' : ''} found`;
    } catch (error) {
      if (turn === this.#turn) $('found').textContent = error.message;
    }
  }

  #result({ s, u, ts, via, d }) {
    const parts = this.#asked.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
    const pattern = new RegExp(parts.map((part) => `(?<![\\p{L}\\p{N}])${part}`).join('|') || '$^', 'giu');
    const text = words(d);
    const first = Math.max(0, text.search(pattern) - 40); // the words asked for are in what is shown
    const shown = `${first > 0 ? '…' : ''}${text.slice(first, first + 160)}`;
    const open = el('button', '', el('b', '', u ?? via ?? 'nobody'), el('small', '', `${day(ts)} ${time(ts)}`));
    open.append(el('span', '', ...marked(shown, pattern, (word) => el('mark', '', word))));
    Object.assign(open, { type: 'button', onclick: () => this.on.jump(s) });
    open.dataset.s = s;
    return el('li', '', open);
  }
}
