/**
 * What can be done with a message: one toolbar, put into the row under the mouse or the focus, and the keys that
 * move among the rows. Knows what is possible, not how it is done.
 */
import { REACTIONS, button, el, fateOf } from '/lines.js';

export class Tools {
  /**
   * @param {Element} bar the toolbar
   * @param {Element} list the rows
   * @param {object} on `message(s)`, `can(what, message)`, `fate(message)`; `react(message, k)`, `reply(message)`,
   *   `edit(message)`, `remove(message)`
   */
  constructor(bar, list, on) {
    Object.assign(this, { bar, list, on });
    const marks = Object.entries(REACTIONS).map(([k, face]) =>
      button(face, `React with ${k}`, () => this.#do('react', k)),
    );
    this.reply = button('Reply', '', () => this.#do('reply'));
    this.edit = button('Edit', '', () => this.#do('edit'));
    this.remove = button('Delete', '', () => this.#remove());
    this.fate = el('small', '');
    this.marks = el('span', 'faces', ...marks);
    bar.replaceChildren(this.marks, this.reply, this.edit, this.remove, this.fate);
    bar.onkeydown = (event) => this.#walk(event);
    list.addEventListener('mouseover', ({ target }) => this.#attach(target.closest('.line')));
    list.addEventListener('focusin', ({ target }) => {
      this.#attach(target.closest('.line'));
      // Held by the keyboard, or by a finger: neither hovers.
      bar.classList.toggle('held', target.matches(':focus-visible') || matchMedia('(hover: none)').matches);
    });
    list.addEventListener('focusout', ({ target, relatedTarget: next }) => {
      if (!target.closest('.line')?.contains(next)) bar.classList.remove('held');
    });
    list.addEventListener('mouseleave', () => this.#attach(document.activeElement?.closest('#lines .line')));
  }

  #attach(row) {
    const message = row && !row.matches('.past') && this.on.message(Number(row.dataset.s));
    if (!message || message.gone) return;
    this.message = message;
    const can = (what) => this.on.can(what, message);
    this.marks.hidden = !can('react');
    for (const what of ['reply', 'edit', 'remove']) this[what].hidden = !can(what);
    const fate = this.on.fate(message);
    this.fate.textContent = fate ? fateOf(fate)[2] : '';
    if (this.bar.parentNode === row) return;
    this.#unsure();
    row.append(this.bar);
  }

  #do(what, ...more) {
    this.on[what](this.on.message(this.message.s) ?? this.message, ...more);
  }

  /** The first press asks, the second one does it. */
  #remove() {
    if (this.remove.dataset.sure) {
      this.#unsure();
      this.bar.closest('.line')?.focus();
      this.#do('remove');
    } else {
      this.remove.dataset.sure = 'asked';
      this.remove.textContent = 'Delete it?';
      this.remove.onblur = () => this.#unsure();
    }
  }

  #unsure() {
    delete this.remove.dataset.sure;
    this.remove.textContent = 'Delete';
    this.remove.onblur = null;
  }

  /** Arrows move within the toolbar. */
  #walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const all = [...this.bar.querySelectorAll('button')].filter((one) => one.offsetParent);
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length]?.focus();
    event.preventDefault();
  }

  /** A key pressed among the messages. Returns whether it meant something. */
  key({ key, target, ctrlKey, metaKey, altKey }) {
    if (ctrlKey || metaKey || altKey || target.matches('button, a, input, textarea')) return false;
    const rows = [...this.list.querySelectorAll('.line')];
    const at = rows.indexOf(target);
    if (key === 'ArrowUp' || key === 'ArrowDown') {
      const next = at < 0 ? rows.at(-1) : rows[at + (key === 'ArrowUp' ? -1 : 1)];
      next?.focus();
      return next !== undefined;
    }
    if (at < 0 || this.bar.parentNode !== target) return false;
    const does = { Enter: this.bar.querySelector('button'), r: this.reply, e: this.edit, Delete: this.remove }[key];
    if (!does?.offsetParent) return false;
    does.focus();
    if (key !== 'Enter') does.click();
    return true;
  }
}
