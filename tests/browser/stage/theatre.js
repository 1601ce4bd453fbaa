/** One Chromium, one server for each story, and people in front of their pages. */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { chromium } from 'playwright-core';
import { Cable } from './cable.js';
import { until } from './ports.js';
import { Server } from './server.js';

const PATIENCE_MS = 15_000;
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
});
after(() => browser?.close());

/** Opens a stage for one test: a server, and everything is cleared away when the test ends. */
export async function stage(t, settings) {
  const server = await Server.start(settings);
  const contexts = [];
  const cables = [];
  t.after(async () => {
    for (const context of contexts) await context.close();
    for (const cable of cables) cable.cut();
    await server.close();
  });
  return {
    server,
    async cable() {
      const cable = await Cable.to(server.port);
      cables.push(cable);
      return cable;
    },
    /** A bare page of the server's own origin, for scripts that bring everything themselves. */
    async page(url = server.url) {
      const context = await browser.newContext();
      contexts.push(context);
      context.setDefaultTimeout(PATIENCE_MS);
      const page = await context.newPage();
      await page.goto(`${url}/style.css`);
      return page;
    },
    /**
     * A person with a browser of her own. `url`: where her page comes from; `before(page)`: what is done to the page
     * before it opens; the rest is Playwright's.
     */
    async person(name, { url = server.url, room = 'lobby', before: prepare, ...options } = {}) {
      const context = await browser.newContext(options);
      contexts.push(context);
      context.setDefaultTimeout(PATIENCE_MS);
      // Her name, as an earlier visit left it.
      await context.addInitScript(
        (it) => localStorage.getItem('roomcast.name') ?? localStorage.setItem('roomcast.name', it),
        name,
      );
      return new Person(context, name, url, room).open(prepare);
    },
  };
}

export class Person {
  constructor(context, name, url, room) {
    Object.assign(this, { context, name, url, room, requests: [], faults: [] });
  }

  async open(prepare) {
    this.page = await this.context.newPage();
    await prepare?.(this.page);
    this.page.on('request', (request) => this.requests.push(request.url()));
    this.page.on('websocket', (socket) => this.requests.push(socket.url()));
    this.page.on('pageerror', (error) => this.faults.push(String(error)));
    this.page.on('console', (line) => line.type() === 'error' && this.faults.push(line.text()));
    await this.page.goto(`${this.url}/#room=${encodeURIComponent(this.room)}`);
    await this.isLive();
    return this;
  }

  /** The same person in a second tab. */
  async secondTab() {
    return new Person(this.context, this.name, this.url, this.room).open();
  }

  isLive() {
    return this.page.waitForSelector('#state[data-state=live]');
  }

  isWithout() {
    return this.page.waitForSelector('#state:not([data-state=live])');
  }

  async says(text) {
    await this.page.fill('#line', text);
    await this.page.press('#line', 'Enter');
  }

  /** Waits until a line with exactly this text is on the page. */
  async hears(text) {
    await this.page.waitForFunction(
      (wanted) => [...document.querySelectorAll('#lines .text')].some((one) => one.textContent === wanted),
      text,
    );
  }

  /** Waits until a line of her own is marked as kept by the server. */
  async isSent(text) {
    await this.page.waitForFunction(
      (wanted) =>
        [...document.querySelectorAll('#lines .line[data-state=sent]')].some(
          (row) => row.querySelector('.text').textContent === wanted,
        ),
      text,
    );
  }

  /** The row of the newest message with exactly this text. */
  row(text) {
    const words = this.page.locator('.text', {
      hasText: new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`),
    });
    return this.page.locator('#lines > .line', { has: words }).last();
  }

  /** Presses a button of the toolbar over a message. */
  async does(what, text) {
    const row = this.row(text);
    await row.locator('time').hover();
    await row.locator('.tools').getByRole('button', { name: what, exact: true }).click();
  }

  /** Opens a room of the list. */
  async enters(label) {
    await this.page.click(`#side li a:has(span:text-is("${label}"))`);
    await this.sees('#title', label);
  }

  /** Waits until a room of the list has so many new messages; 0 for no badge. */
  async seesBadge(label, n) {
    await this.page.waitForFunction(
      ([name, wanted]) => {
        const rows = [...document.querySelectorAll('#side li')];
        const row = rows.find((one) => one.querySelector('span').textContent === name);
        return row && (row.querySelector('.badge')?.textContent ?? '0') === String(wanted);
      },
      [label, n],
    );
  }

  /** Waits until a message of her own is marked: kept, delivered or read. */
  async seesMark(text, mark) {
    await this.row(text).locator(`.mark[data-mark=${mark}]`).waitFor({ state: 'attached' });
  }

  /** The reactions under a message, as [sign, count, whether it is her own]. */
  reactions(text) {
    return this.row(text)
      .locator('.chip')
      .evaluateAll((chips) =>
        chips.map((chip) => [chip.dataset.k, Number(chip.querySelector('b').textContent), chip.ariaPressed === 'true']),
      );
  }

  /** Waits until the reactions under a message are these. */
  async seesReactions(text, wanted) {
    await until(`${this.name} sees ${JSON.stringify(wanted)} under ${text}`, async () => {
      return JSON.stringify(await this.reactions(text)) === JSON.stringify(wanted);
    });
  }

  async sees(selector, text) {
    await this.page.waitForFunction(
      ([where, wanted]) => document.querySelector(where)?.textContent === wanted,
      [selector, text],
    );
  }

  /** Everything on the page, from top to bottom. */
  lines() {
    return this.page.$$eval('#lines > li:not(.fresh)', (rows) =>
      rows.map((row) => ({
        s: Number(row.dataset.s ?? 0),
        text: (row.querySelector('.text') ?? row).textContent,
        who: row.querySelector('.head')?.textContent,
        state: row.dataset.state,
        edited: row.querySelector('.edited') !== null,
        gone: row.classList.contains('gone'),
        quote: row.querySelector('.quote')?.textContent,
        note: row.classList.contains('note'),
        pushed: row.classList.contains('pushed'),
      })),
    );
  }

  async texts() {
    return (await this.lines()).map((line) => line.text);
  }

  /** Who is here, as the page shows it. */
  people() {
    return this.page.$$eval('#here li', (rows) => rows.map((row) => row.firstChild.textContent).sort());
  }

  async seesPeople(...names) {
    await this.page.waitForFunction(
      (wanted) =>
        [...document.querySelectorAll('#here li')]
          .map((row) => row.firstChild.textContent)
          .sort()
          .join() === wanted,
      [...names].sort().join(),
    );
  }

  /** Scripts that failed, or that the content policy stopped. A refused connection is no fault of the page. */
  isWithoutFault() {
    const own = this.faults.filter((text) => !/WebSocket connection to|ERR_CONNECTION|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE/.test(text));
    assert.deepEqual(own, [], `${this.name}'s page reported faults`);
  }
}
