/** Ports and waiting: what every story needs and no story is about. */
import { createServer } from 'node:net';

const given = new Set();

/** Whether nobody listens on this port. */
function isFree(port) {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.on('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

/** A port that nobody listens on, and that the system does not give to whoever connects somewhere meanwhile. */
export async function freePort() {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 20_000);
    if (!given.has(port) && (await isFree(port))) {
      given.add(port);
      return port;
    }
  }
}

/**
 * Asks again until the answer is true. For conditions outside of a page; inside, the browser itself waits.
 * @param {string} what said when the time is over
 */
export async function until(what, answer, limitMs = 15_000) {
  const end = Date.now() + limitMs;
  while (!(await answer())) {
    if (Date.now() > end) throw new Error(`waited ${limitMs} ms in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20)); // the pause between two questions
  }
}
