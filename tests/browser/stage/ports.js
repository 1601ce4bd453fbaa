/** Ports and waiting: what every story needs and no story is about. */
import { createServer } from 'node:net';

/** A port that nobody listens on at this moment. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
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
